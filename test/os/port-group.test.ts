import { once } from 'node:events'
import * as net from 'node:net'
import { type PortSpec, readSpec } from '../../src/os/bind-spec.ts'
import { native } from '../../src/os/native.ts'
import { PortGroup } from '../../src/os/port-group.ts'
import { isCloseOnExec, isNonBlocking } from '../helpers/facts.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { destroyed } from '../helpers/sockets.ts'
import { test } from '../helpers/test.ts'

const fds = new Int32Array(100)

/** Listens on a port of 127.0.0.1 (argv[2], 0: any) with or without SO_REUSEPORT (argv[1]), as long as stdin is open; prints it. */
const LISTENER = `
import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(sys.argv[1]))
try:
    listener.bind(('127.0.0.1', int(sys.argv[2])))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
except OSError as error:
    print(error.errno, flush=True)
`

function close(...numbers: number[]): void {
  for (const fd of numbers) if (native.close(fd) !== 0) throw new Error(`${fd} was not held`)
}

/** How many of `count` connections each listener was dealt. */
async function dealt(listeners: number[], count: number, host: string, port: number): Promise<number[]> {
  const sockets = Array.from({ length: count }, () => net.connect({ host, port }))
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  const counts = listeners.map(listener => {
    const accepted = native.acceptMany(listener, fds, fds.length, null)
    close(...fds.subarray(0, accepted))
    return accepted
  })
  await destroyed(...sockets)
  return counts
}

async function connects(host: string, port: number): Promise<boolean> {
  const socket = net.connect({ host, port })
  const result = await Promise.race([
    once(socket, 'connect').then(() => true),
    once(socket, 'close').then(() => false)
  ]).catch(() => false)
  await destroyed(socket)
  return result
}

test('the listeners of a group share what comes; more can be opened and closed at any time', async t => {
  const group = await PortGroup.open({ port: 0, host: '127.0.0.1' })
  t.is(group.host, '127.0.0.1')
  t.true(group.port > 0)
  const first = group.open()
  t.true(isCloseOnExec(first) && isNonBlocking(first))
  t.deepEqual(await dealt([first], 20, '127.0.0.1', group.port), [20])
  const listeners = [first, group.open(), group.open()]
  t.true(isCloseOnExec(listeners[1]!) && isNonBlocking(listeners[1]!))
  const counts = await dealt(listeners, 90, '127.0.0.1', group.port)
  t.is(counts[0]! + counts[1]! + counts[2]!, 90)
  t.true(Math.min(...counts) > 0, counts.join()) // 3 × (2/3)^90 that one gets none
  close(listeners.shift()!)
  listeners.push(group.open())
  t.true(Math.min(...(await dealt(listeners, 90, '127.0.0.1', group.port))) > 0)
  close(...listeners)
  group.close()
  t.false(await connects('127.0.0.1', group.port))
})

test('the port is taken and connections wait from the beginning; what nobody asked for is closed with the group', async t => {
  const group = await PortGroup.open({ port: 0, host: '127.0.0.1' })
  t.true(await connects('127.0.0.1', group.port))
  group.close()
  group.close()
  t.false(await connects('127.0.0.1', group.port))
})

test('without a host it is every address of both families; ipv6Only leaves IPv4 to others', async t => {
  const both = await PortGroup.open({ port: 0 })
  t.is(both.host, '::')
  const listeners = [both.open(), both.open()]
  for (const host of ['127.0.0.1', '::1']) t.true(Math.min(...(await dealt(listeners, 60, host, both.port))) > 0, host)
  await t.throwsAsync(PortGroup.open({ port: both.port, host: '127.0.0.1' }), { code: 'EADDRINUSE' })
  close(...listeners)

  let only = await PortGroup.open({ port: 0, ipv6Only: true })
  let lanes = [only.open(), only.open()]
  // Another process may have the port's IPv4
  for (let others = 0; others < 5 && (await connects('127.0.0.1', only.port)); others++) {
    close(...lanes)
    only = await PortGroup.open({ port: 0, ipv6Only: true })
    lanes = [only.open(), only.open()]
  }
  t.true(Math.min(...(await dealt(lanes, 60, '::1', only.port))) > 0)
  t.false(await connects('127.0.0.1', only.port))
  const other = await PortGroup.open({ port: only.port, host: '127.0.0.1' })
  t.true(await connects('127.0.0.1', only.port))
  other.close()
  close(...lanes)
})

test('a host is looked up once: all are where the first is', async t => {
  const group = await PortGroup.open({ port: 0, host: 'localhost' })
  t.true(['127.0.0.1', '::1'].includes(group.host))
  const listeners = [group.open(), group.open()]
  t.true(Math.min(...(await dealt(listeners, 60, group.host, group.port))) > 0)
  close(...listeners)
  const error = await t.throwsAsync<NodeJS.ErrnoException>(PortGroup.open({ port: 0, host: 'nothing.invalid' }))
  t.is(error!.syscall, 'getaddrinfo')
})

test('a group is refused where anybody listens, who shares the port or not', async t => {
  for (const shares of ['0', '1']) {
    const other = start(systemPython, ['-c', LISTENER, shares, '0'])
    const port = Number(await other.line())
    for (const host of ['127.0.0.1', '0.0.0.0', undefined]) {
      const spec = host === undefined ? { port } : { port, host }
      const error = await t.throwsAsync<NodeJS.ErrnoException>(PortGroup.open(spec), { code: 'EADDRINUSE' }, shares)
      t.is(error!.syscall, 'bind')
    }
    other.child.stdin!.end()
    await other.exit
    const group = await PortGroup.open({ port, host: '127.0.0.1' })
    t.is(group.port, port)
    group.close()
  }
})

test('where a group is, another one and who does not share the port are refused', async t => {
  const group = await PortGroup.open({ port: 0, host: '127.0.0.1' })
  const listeners = [group.open(), group.open()]
  await t.throwsAsync(PortGroup.open({ port: group.port, host: '127.0.0.1' }), { code: 'EADDRINUSE' })
  const other = start(systemPython, ['-c', LISTENER, '0', String(group.port)])
  t.is(await other.line(), '98')
  await other.exit
  close(...listeners)
})

test('of two groups that are opened at once on a port one gets it', async t => {
  const free = await PortGroup.open({ port: 0, host: '127.0.0.1' })
  const spec = { port: free.port, host: '127.0.0.1' }
  free.close()
  const results = await Promise.allSettled([PortGroup.open(spec), PortGroup.open(spec)])
  t.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  for (const result of results) {
    if (result.status === 'fulfilled') result.value.close()
    else t.is(result.reason.code, 'EADDRINUSE')
  }
})

test('two groups have ports of their own', async t => {
  const groups = await Promise.all([PortGroup.open({ port: 0 }), PortGroup.open({ port: 0 })])
  t.not(groups[0].port, groups[1].port)
  for (const group of groups) {
    const listeners = [group.open(), group.open()]
    const counts = await dealt(listeners, 60, '127.0.0.1', group.port)
    t.is(counts[0]! + counts[1]!, 60)
    close(...listeners)
  }
})

test('a port is free again at once, although connections of it are still being wound up', async t => {
  const group = await PortGroup.open({ port: 0, host: '127.0.0.1' })
  const listener = group.open()
  const socket = net.connect({ host: '127.0.0.1', port: group.port })
  await once(socket, 'connect')
  t.is(native.acceptMany(listener, fds, 1, null), 1)
  close(fds[0]!, listener) // this side ends first: its end is what stays in TIME_WAIT
  await once(socket.resume(), 'close')
  const again = await PortGroup.open({ port: group.port, host: '127.0.0.1' })
  const listeners = [again.open(), again.open()]
  t.true(Math.min(...(await dealt(listeners, 60, '127.0.0.1', again.port))) > 0)
  close(...listeners)
})

test('a spec that is none is refused, and nothing is opened', async t => {
  for (const spec of [{ port: -1 }, { port: 65536 }, { port: '80' }, {}, { port: 0, backlog: -1 }])
    await t.throwsAsync(async () => PortGroup.open(readSpec(spec, 'spec') as PortSpec), {
      code: 'ERR_PASSFD_INVALID_ARGUMENT'
    })
  await t.throwsAsync(PortGroup.open({ port: 0, host: '192.0.2.1' }), { code: 'EADDRNOTAVAIL' })
})
