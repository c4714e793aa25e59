/** Descriptors of this process, as /proc and the kernel describe them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, readlinkSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { describeHeld, type Held } from '../../../src/cli/shell/held.ts'
import { commandOf, Holders, linksOf, processOf } from '../../../src/cli/shell/holders.ts'
import { addressOf } from '../../../src/cli/shell/network.ts'
import { Survey } from '../../../src/cli/shell/survey.ts'
import { Descriptor } from '../../../src/index.ts'
import { native } from '../../../src/os/native.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { test, until } from '../../helpers/test.ts'

function describe(fd: number): Held {
  return describeHeld('self', fd, readlinkSync(`/proc/self/fd/${fd}`), new Survey('self'))
}

const NONE = new Int32Array(0)

/** The fds of the other ends, which are in this process. */
function peersOf(held: Held): number[] {
  return (held.peers ?? []).filter(({ pid }) => pid === process.pid).map(({ fd }) => fd)
}

test('the kinds are those of a Descriptor', async t => {
  const path = temporaryPath('file')
  writeFileSync(path, 'hello')
  const folder = temporaryPath('folder')
  mkdirSync(folder)
  const pipe = Descriptor.pipe()
  const pairs = (['stream', 'dgram', 'seqpacket'] as const).map(type => Descriptor.socketpair({ type }))
  const all = [
    Descriptor.openSync(path),
    Descriptor.openSync(folder),
    Descriptor.openSync('/dev/null'),
    Descriptor.openSync('/dev/ptmx', 'r+'),
    Descriptor.memfd('mine', { size: 5 }),
    Descriptor.pidfd(process.pid),
    await Descriptor.bind({ port: 0, host: '127.0.0.1' }),
    await Descriptor.bind({ type: 'udp4', port: 0 }),
    await Descriptor.bind({ path: socketPath() }),
    pipe.readable,
    pipe.writable,
    ...pairs.flat()
  ]
  for (const each of all) {
    const held = describe(each.borrow())
    t.is(held.kind, each.kind)
    t.is(held.access, each.access)
    t.is(held.flags!.includes('nonblocking'), each.flags.nonblocking)
    t.true(held.flags!.includes('close-on-exec'))
  }
  const [file, , , , memfd, pidfd, tcp, , unix] = all.map(each => describe(each.borrow()))
  t.like(file, { path, size: 5, position: 0 })
  t.like(memfd, { name: 'mine', size: 5 })
  t.is(pidfd!.pid, process.pid)
  t.regex(tcp!.local!, /^127\.0\.0\.1:\d+$/)
  t.like(unix, { waiting: 0, backlog: 511 })
  for (const each of all) each.close()
})

test('deleted files, offsets, and what else a process holds', t => {
  const path = temporaryPath('file')
  const appending = openSync(path, 'a+')
  writeFileSync(appending, 'hello')
  rmSync(path)
  t.like(describe(appending), { kind: 'file', path, deleted: true, size: 5, access: 'read-write' })
  t.true(describe(appending).flags!.includes('append'))
  closeSync(appending)
  const named = temporaryPath('not (deleted)')
  const open = openSync(`${named} (deleted)`, 'w')
  t.is(describe(open).path, `${named} (deleted)`)
  t.is(describe(open).deleted, undefined)
  closeSync(open)
  const kinds = new Set(
    [...linksOf('self')!].map(([fd, link]) => describeHeld('self', fd, link, new Survey('self')).kind)
  )
  for (const kind of ['epoll', 'eventfd']) t.true(kinds.has(kind), kind) // Node's own
  const namespace = openSync('/proc/self/ns/net', 'r')
  t.like(describe(namespace), { kind: 'namespace' })
  closeSync(namespace)
  const netlink = native.diagnosis()
  t.is(describe(netlink).kind, 'socket') // the kernel lists it when it is bound, which the first question does
  writeSync(netlink, Buffer.alloc(16))
  t.is(describe(netlink).kind, 'netlink')
  native.close(netlink)
})

test('the other end: of a pipe, a pair, a TCP connection, a connection to a path', async t => {
  const { readable, writable } = Descriptor.pipe()
  t.deepEqual(peersOf(describe(readable.borrow())), [writable.borrow()])
  t.deepEqual(peersOf(describe(writable.borrow())), [readable.borrow()])
  readable.close()
  t.deepEqual(peersOf(describe(writable.borrow())), [])
  writable.close()

  const [left, right] = Descriptor.socketpair()
  t.deepEqual(peersOf(describe(left.borrow())), [right.borrow()])
  for (const each of [left, right]) each.close()

  for (const spec of [{ port: 0, host: '127.0.0.1' }, { path: socketPath() }]) {
    const listener = await Descriptor.bind(spec)
    const { port } = /:(?<port>\d+)$/.exec(describe(listener.borrow()).local ?? '')?.groups ?? {}
    const client = connect('path' in spec ? { path: spec.path } : { port: Number(port), host: '127.0.0.1' })
    await once(client, 'connect')
    const number = numberOf(client)
    t.is(describe(listener.borrow()).waiting, 1)
    if ('path' in spec) t.deepEqual(peersOf(describe(listener.borrow())), [number])
    else t.is(describe(number).state, 'not accepted yet')
    const accepted = native.accept(listener.borrow())
    t.is(describe(listener.borrow()).waiting, 0)
    t.deepEqual(peersOf(describe(accepted)), [number])
    t.deepEqual(peersOf(describe(number)), [accepted])
    if (port !== undefined) t.is(describe(accepted).remote, describe(number).local)
    else t.is((describe(accepted) as Held).name, 'path' in spec ? spec.path : '')
    native.send(accepted, Buffer.from('12345'), 0, 5, NONE, 0, 0)
    t.is(describe(number).received, 5)
    native.close(accepted)
    listener.close()
    client.destroy()
    await once(client, 'close')
  }

  const [one, other] = [createSocket('udp4'), createSocket('udp4')]
  for (const each of [one, other]) await new Promise<void>(resolve => each.bind(0, '127.0.0.1', resolve))
  for (const [each, to] of [
    [one, other],
    [other, one]
  ] as const)
    await new Promise<void>(resolve => each.connect(to.address().port, '127.0.0.1', resolve))
  t.deepEqual(peersOf(describe(numberOf(one))), [numberOf(other)])
  for (const each of [one, other]) await new Promise<void>(resolve => each.close(resolve))
})

function numberOf(socket: object): number {
  const descriptor = Descriptor.from(socket as Socket)
  const link = readlinkSync(`/proc/self/fd/${descriptor.borrow()}`)
  descriptor.close()
  return [...linksOf('self')!].find(([, target]) => target === link)![0]
}

test('descriptors in flight are counted, also in connections that nobody has accepted', async t => {
  const [left, right] = Descriptor.socketpair()
  const file = Descriptor.memfd()
  const two = new Int32Array([file.borrow(), file.borrow()])
  native.send(left.borrow(), Buffer.from('x'), 0, 1, two, 0, 2)
  t.is(describe(right.borrow()).inFlight, 2)
  t.is(describe(left.borrow()).inFlight, 0)
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const client = native.socket(1)
  native.connect(client, Buffer.from(path))
  native.send(client, Buffer.from('x'), 0, 1, two, 0, 1)
  t.is(describe(listener.borrow()).inFlight, 1)
  native.close(client)
  for (const each of [left, right, file, listener]) each.close()
})

test('processes: their commands and users; one that has ended holds nothing', async t => {
  const child: ChildProcess = spawn('/bin/sleep', ['100'])
  await once(child, 'spawn')
  const pid = child.pid!
  // exec(2) lets Node go on a moment before /proc has the arguments
  await until(() => readFileSync(`/proc/${pid}/cmdline`).length > 0, 'the arguments')
  t.deepEqual(processOf(pid), { pid, command: '/bin/sleep 100', uid: process.getuid!() })
  const input = linksOf(pid)!.get(0)!
  t.deepEqual(
    new Holders().of(input).filter(one => one.pid === pid),
    [{ pid, fd: 0, command: '/bin/sleep 100' }]
  )
  child.kill()
  await once(child, 'close')
  t.deepEqual(linksOf(pid), new Map())
  t.is(commandOf(pid), '')
  t.is(processOf(pid).uid, undefined)
})

test('addresses of /proc/net', t => {
  t.pass()
  if (process.arch === 's390x') return // the other byte order
  t.is(addressOf('0100007F:0BB8'), '127.0.0.1:3000')
  t.is(addressOf('00000000000000000000000001000000:0050'), '[::1]:80')
  t.is(addressOf('0000000000000000FFFF00000100007F:0050'), '127.0.0.1:80')
  t.is(addressOf('B80D0120000000000000000001000000:0016'), '[2001:db8::1]:22')
})
