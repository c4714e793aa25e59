/** The shim's part in accepting connections and passing them on: acceptMany, peek, edge sets, inetName. */
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import { networkInterfaces } from 'node:os'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Watcher } from '../../src/os/loop.ts'
import { ADDRESS, MESSAGE_FIRST, native, RESULT_DESCRIPTORS } from '../../src/os/native.ts'
import { closedNumber, identity, isCloseOnExec, isNonBlocking } from '../helpers/facts.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { destroyed } from '../helpers/sockets.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const EPERM = -1
const ENOENT = -2
const EBADF = -9
const EAGAIN = -11
const EEXIST = -17
const EINVAL = -22
const ERANGE = -34
const EMFILE = -24
const ENOTSOCK = -88
const EAFNOSUPPORT = -97
const ENOTCONN = -107

const fds = new Int32Array(100)
const addresses = new Uint8Array(100 * ADDRESS)
const room = Buffer.alloc(1000)

function close(...numbers: number[]): void {
  for (const fd of numbers) if (native.close(fd) !== 0) throw new Error(`${fd} was not held`)
}

function portOf(listener: number): number {
  const place = new Int32Array(2)
  native.inetName(listener, false, place, new Uint8Array(ADDRESS))
  return place[1]!
}

/** As many clients, who come one after the other, as wait in the listener's queue afterwards. */
async function clients(count: number, host: string, port: number): Promise<net.Socket[]> {
  const sockets: net.Socket[] = []
  for (let i = 0; i < count; i++) {
    const socket = net.connect({ host, port })
    await once(socket, 'connect')
    sockets.push(socket)
  }
  return sockets
}

/** What `addresses` tells of the i-th connection. */
function addressAt(index: number): string {
  const at = index * ADDRESS
  return Buffer.from(addresses.subarray(at + 1, at + 1 + addresses[at]!)).toString('latin1')
}

function pair(): [number, number] {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  return [ends[0]!, ends[1]!]
}

function write(fd: number, text: string, ...numbers: number[]): void {
  const bytes = Buffer.from(text)
  const sent = native.send(fd, bytes, 0, bytes.length, Int32Array.from(numbers), 0, numbers.length)
  if (sent !== bytes.length) throw new Error(`sent ${sent}`)
}

/** The bytes, or the error. */
function peek(fd: number, most = room.length): string | number {
  const count = native.peek(fd, room, 0, most)
  return count <= 0 ? count : room.toString('latin1', 0, count)
}

/** Builds test/fixtures/NAME.c for LD_PRELOAD. */
async function library(name: string): Promise<string> {
  const path = temporaryPath(`${name}.so`)
  const source = fileURLToPath(new URL(`../fixtures/${name}.c`, import.meta.url))
  const { code, stderr } = await start('gcc', ['-shared', '-fPIC', '-o', path, source]).exit
  if (code !== 0) throw new Error(stderr)
  return path
}

test('acceptMany takes what waits, up to what is asked for: held, close-on-exec, non-blocking, with addresses', async t => {
  const listener = native.bindInet(false, '127.0.0.1', 0, 100, 0)
  t.is(native.acceptMany(listener, fds, 100, addresses), 0)
  const sockets = await clients(5, '127.0.0.1', portOf(listener))
  const held = native.held()
  fds.fill(-1)
  t.is(native.acceptMany(listener, fds, 2, addresses), 2)
  t.is(native.held(), held + 2)
  t.is(fds[2], -1)
  t.is(native.acceptMany(listener, fds.subarray(2), 98, addresses.subarray(2 * ADDRESS)), 3)
  t.is(native.acceptMany(listener, fds, 100, null), 0)
  const numbers = [...fds.subarray(0, 5)]
  t.is(new Set(numbers.map(identity)).size, 5)
  for (const [index, fd] of numbers.entries()) {
    t.true(isCloseOnExec(fd))
    t.true(isNonBlocking(fd))
    t.is(addressAt(index), '127.0.0.1')
  }
  const text = Buffer.alloc(ADDRESS)
  const ports = numbers.map(fd => {
    native.inetName(fd, true, fds, text)
    return fds[1]
  })
  t.deepEqual(
    ports,
    sockets.map(socket => socket.localPort),
    'in the order in which they came'
  )
  close(...numbers, listener)
  await destroyed(...sockets)
})

test('acceptMany tells IPv6 as IPv6, IPv4 on a listener for both as IPv4, and nothing of a path', async t => {
  const both = native.bindInet(false, '::', 0, 100, 0)
  const sockets = [...(await clients(1, '127.0.0.1', portOf(both))), ...(await clients(1, '::1', portOf(both)))]
  t.is(native.acceptMany(both, fds, 100, addresses), 2)
  t.deepEqual([addressAt(0), addressAt(1)], ['127.0.0.1', '::1'])
  close(...fds.subarray(0, 2), both)
  await destroyed(...sockets)

  const listener = native.socket(1)
  const path = Buffer.from(socketPath())
  native.bind(listener, path, 0o600)
  native.listen(listener, 10)
  const client = native.socket(1)
  t.is(native.connect(client, path), 0)
  addresses.fill(7)
  t.is(native.acceptMany(listener, fds, 100, addresses), 1)
  t.is(addresses[0], 0)
  t.is(addresses[ADDRESS], 7)
  close(fds[0]!, client, listener)
})

test('acceptMany never waits, whoever has cleared O_NONBLOCK', t => {
  const listener = native.bindInet(false, '127.0.0.1', 0, 100, 0)
  native.nonblocking(listener, false)
  t.is(native.acceptMany(listener, fds, 100, null), 0)
  close(listener)
})

test('acceptMany refuses what has no room, and what is no listener; nothing is accepted', async t => {
  const listener = native.bindInet(false, '127.0.0.1', 0, 100, 0)
  const sockets = await clients(1, '127.0.0.1', portOf(listener))
  for (const most of [-1, 0, 101]) t.is(native.acceptMany(listener, fds, most, null), EINVAL)
  t.is(native.acceptMany(listener, fds, 2, addresses.subarray(0, 2 * ADDRESS - 1)), EINVAL)
  const file = fs.openSync('/dev/null', 'r')
  t.is(native.acceptMany(file, fds, 1, null), ENOTSOCK)
  fs.closeSync(file)
  t.is(native.acceptMany(closedNumber(), fds, 1, null), EBADF)
  const [left, right] = pair()
  t.is(native.acceptMany(left, fds, 1, null), EINVAL)
  t.is(native.acceptMany(listener, fds, 2, addresses.subarray(0, 2 * ADDRESS)), 1)
  close(fds[0]!, left, right, listener)
  await destroyed(...sockets)
})

test('acceptMany gives what there is room for; the error comes with the next call', async t => {
  const fixture = fileURLToPath(new URL('../fixtures/accept-limited.mjs', import.meta.url))
  const { line, exit } = start(process.execPath, [fixture, socketPath()])
  t.deepEqual(JSON.parse(await line()), [2, EMFILE, 1, EMFILE, 2, 0])
  t.like(await exit, { code: 0, stderr: '' })
})

test('acceptMany passes over connections that ended while they waited, and calls that a signal ended', async t => {
  const preload = [process.env.LD_PRELOAD, await library('accept-aborted')].filter(Boolean).join(':')
  const fixture = fileURLToPath(new URL('../fixtures/accept-aborted.mjs', import.meta.url))
  const { line, exit } = start(process.execPath, [fixture, socketPath()], {
    env: { ...process.env, LD_PRELOAD: preload }
  })
  // The library's accept4 fails before each: EINTR, ECONNABORTED and EPROTO by turns
  t.deepEqual(JSON.parse(await line()), { fails: true, accepted: 3, afterwards: 0 })
  t.like(await exit, { code: 0, stderr: '' })
})

test('peek leaves what it shows; 0 is the end', t => {
  const [left, right] = pair()
  t.is(peek(left), EAGAIN)
  t.false(isNonBlocking(left), 'it did not wait all the same')
  write(right, 'GET / HTTP/1.1')
  t.is(peek(left), 'GET / HTTP/1.1')
  t.is(peek(left, 3), 'GET')
  t.is(native.peek(left, room, 100, 105), 5)
  t.is(room.toString('latin1', 100, 106), 'GET /\0')
  t.is(native.peek(left, room, 5, 5), EINVAL)
  t.is(native.peek(left, room, 0, room.length + 1), EINVAL)
  t.is(native.pending(left), 14)
  close(right)
  t.is(peek(left, 3), 'GET')
  const results = new Int32Array(MESSAGE_FIRST + 2 * 253)
  t.is(native.receivePlaced(left, room, 0, room.length, results), 14)
  t.is(peek(left), 0)
  close(left)
  t.is(peek(closedNumber()), EBADF)
  room.fill(0)
})

test('trap 10: peek installs no descriptor, however often, and who reads gets them', t => {
  const [left, right] = pair()
  const file = fs.openSync('/dev/null', 'r')
  write(right, 'abc', file, file)
  const before = openDescriptors()
  for (let i = 0; i < 10; i++) {
    t.is(peek(left), 'abc')
    t.is(peek(left, 1), 'a')
  }
  t.deepEqual(openDescriptors(), before)
  const results = new Int32Array(MESSAGE_FIRST + 2 * 253)
  t.is(native.receiveMessage(left, room, 0, room.length, results, Buffer.alloc(108), false), 3)
  t.is(results[RESULT_DESCRIPTORS], 2)
  const received = [...results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + 2)]
  for (const fd of received) t.is(identity(fd), identity(file))
  close(...received, left, right)
  fs.closeSync(file)
})

/** An edge set that the loop watches, and each time that it told something what that was. */
function watchedSet() {
  const set = native.edgeSet()
  const told: number[][] = []
  const watcher = new Watcher(set, () => {
    const count = native.edgeReady(set, fds)
    told.push([...fds.subarray(0, count)])
  })
  return {
    set,
    told,
    /** What it tells next. */
    async next(): Promise<number[]> {
      await until(() => told.length > 0, 'the set tells something')
      return told.shift()!
    },
    /** Nothing is told in many turns of the loop. */
    async quiet(): Promise<boolean> {
      for (let i = 0; i < 50; i++) await turn()
      return told.length === 0
    },
    end(): void {
      watcher.end()
      close(set)
    }
  }
}

test('an edge set tells of more bytes and of the end, each once, however much is there unread', async t => {
  const { set, next, quiet, end } = watchedSet()
  t.true(isCloseOnExec(set))
  const [left, right] = pair()
  t.is(native.edgeAdd(set, left), 0)
  t.is(native.edgeAdd(set, left), EEXIST)
  t.true(await quiet())
  write(right, 'a')
  t.deepEqual(await next(), [left])
  t.is(peek(left), 'a')
  t.true(await quiet(), 'that it is still there is no news')
  t.is(native.edgeReady(set, fds), 0)
  write(right, 'b')
  t.deepEqual(await next(), [left])
  t.is(peek(left), 'ab')
  t.true(await quiet())
  native.shutdown(right, 1)
  t.deepEqual(await next(), [~left], 'the end is told as the complement')
  t.is(peek(left), 'ab')
  t.true(await quiet())
  close(right)
  t.deepEqual(await next(), [~left])
  t.is(native.edgeRemove(set, left), 0)
  t.is(native.edgeRemove(set, left), ENOENT)
  close(left)
  end()
})

test('an edge set does so for TCP, also of what was there before and of a reset', async t => {
  const { set, next, quiet, end } = watchedSet()
  const listener = native.bindInet(false, '127.0.0.1', 0, 100, 0)
  const sockets = await clients(2, '127.0.0.1', portOf(listener))
  const [first, second] = sockets as [net.Socket, net.Socket]
  first.write('one')
  t.is(native.acceptMany(listener, fds, 100, null), 2)
  const [one, two] = fds as unknown as [number, number]
  await until(() => native.pending(one) === 3, 'it has arrived')
  native.edgeAdd(set, one)
  native.edgeAdd(set, two)
  t.deepEqual(await next(), [one])
  t.true(await quiet())
  first.write('two')
  t.deepEqual(await next(), [one])
  t.is(peek(one), 'onetwo')
  second.end()
  t.deepEqual(await next(), [~two])
  t.is(peek(two), 0)
  first.resetAndDestroy()
  t.deepEqual(await next(), [~one])
  t.true(await quiet())
  for (const fd of [one, two]) native.edgeRemove(set, fd)
  close(one, two, listener)
  end()
  await destroyed(...sockets)
})

test('an edge set of ends reports that the other end has hung up, and neither bytes nor a half-closed connection', async t => {
  const { set, next, quiet, end } = watchedSet()
  const [left, right] = pair()
  const out = new Int32Array(2)
  t.is(native.pipe(out), 0)
  const [readable, writable] = out as unknown as [number, number]
  for (const fd of [left, readable]) t.is(native.edgeAddEnd(set, fd), 0)
  t.is(native.edgeAddEnd(set, left), EEXIST)
  write(right, 'a')
  t.true(await quiet(), 'bytes')
  native.shutdown(right, 1)
  t.true(await quiet(), 'half-closed')
  close(right)
  t.deepEqual(await next(), [~left])
  close(writable)
  t.deepEqual(await next(), [~readable])
  t.true(await quiet())
  for (const fd of [left, readable]) native.edgeRemove(set, fd)
  t.is(native.edgeAddEnd(set, left), 0)
  t.deepEqual(await next(), [~left], 'an end that was there before')
  native.edgeRemove(set, left)
  close(left, readable)
  const [one, other] = pair()
  native.edgeAddEnd(set, one)
  const peer = fs.openSync('/dev/null', 'r')
  t.is(native.edgeAddEnd(set, peer), EPERM)
  fs.closeSync(peer)
  native.edgeRemove(set, one)
  close(one, other)
  end()
})

test('trap 25: what was removed from an edge set before it went elsewhere is not heard of again', async t => {
  const { set, next, quiet, end } = watchedSet()
  const [left, right] = pair()
  const [other, far] = pair()
  const elsewhere = [native.dup(left), native.dup(other)]
  for (const fd of [left, other]) native.edgeAdd(set, fd)
  native.edgeRemove(set, left)
  close(left, other)
  write(right, 'a')
  t.true(await quiet())
  write(far, 'a')
  t.deepEqual(await next(), [other], 'one that was not removed is still in it, under a number that is free now')
  close(...elsewhere, right, far)
  end()
})

test('an edge set tells no more than there is room for at a time, and the rest then', async t => {
  const set = native.edgeSet()
  const pairs = Array.from({ length: 300 }, pair)
  for (const [left, right] of pairs) {
    native.edgeAdd(set, left)
    write(right, 'a')
  }
  const seen: number[] = []
  const few = new Int32Array(7)
  t.is(native.edgeReady(set, few), 7)
  seen.push(...few)
  const many = new Int32Array(1000)
  for (let count = 1; count > 0; ) {
    count = native.edgeReady(set, many)
    seen.push(...many.subarray(0, count))
  }
  t.deepEqual(
    seen.toSorted((a, b) => a - b),
    pairs.map(([left]) => left).sort((a, b) => a - b)
  )
  for (const ends of pairs) close(...ends)
  close(set)
})

test('edge sets refuse what can not be in them', t => {
  const set = native.edgeSet()
  const file = fs.openSync('/dev/null', 'r')
  const regular = fs.openSync(fileURLToPath(import.meta.url), 'r')
  const closed = closedNumber()
  t.is(native.edgeAdd(set, closed), EBADF)
  t.is(native.edgeAdd(set, regular), EPERM)
  t.is(native.edgeAdd(file, set), EINVAL)
  t.is(native.edgeRemove(set, file), EPERM)
  t.is(native.edgeRemove(set, closed), EBADF)
  t.is(native.edgeReady(file, fds), EINVAL)
  t.is(native.edgeReady(set, new Int32Array(0)), EINVAL)
  fs.closeSync(file)
  fs.closeSync(regular)
  close(set)
})

test('inetName tells where a socket is bound and who is at the other end', async t => {
  const ofOneLink = Object.entries(networkInterfaces()).flatMap(([name, all = []]) =>
    all.filter(({ address }) => address.startsWith('fe80:')).map(({ address }) => `${address}%${name}`)
  )
  for (const host of ['127.0.0.1', '::1', ...ofOneLink]) {
    const family = net.isIP(host)
    const listener = native.bindInet(false, host, 0, 100, 0)
    const place = new Int32Array(2)
    const text = Buffer.alloc(ADDRESS)
    t.is(native.inetName(listener, false, place, text), host.length)
    t.is(text.toString('latin1', 0, host.length), host)
    t.is(place[0], family)
    const sockets = await clients(1, host, place[1]!)
    t.is(native.acceptMany(listener, fds, 1, addresses), 1)
    const connection = fds[0]!
    t.is(native.inetName(connection, true, place, text), host.length)
    t.is(text.toString('latin1', 0, host.length), host)
    t.is(addressAt(0), host)
    t.deepEqual([...place], [family, sockets[0]!.localPort!])
    t.is(native.inetName(connection, false, place, text), host.length)
    t.deepEqual([...place], [family, sockets[0]!.remotePort!])
    close(connection, listener)
    await destroyed(...sockets)
  }
})

test('inetName gives IPv4 in IPv6 form as IPv4, and UDP as well', async t => {
  const listener = native.bindInet(false, '::', 0, 100, 0)
  const sockets = await clients(1, '127.0.0.1', portOf(listener))
  native.acceptMany(listener, fds, 1, null)
  const place = new Int32Array(2)
  const text = Buffer.alloc(ADDRESS)
  t.is(native.inetName(fds[0]!, true, place, text), 9)
  t.is(text.toString('latin1', 0, 9), '127.0.0.1')
  t.deepEqual([...place], [4, sockets[0]!.localPort!])
  t.is(native.inetName(listener, false, place, text), 2)
  t.is(text.toString('latin1', 0, 2), '::')
  t.is(place[0], 6)
  close(fds[0]!, listener)
  await destroyed(...sockets)
  for (const host of ['0.0.0.0', '127.0.0.1', '127.9.10.99', '127.100.109.110', '127.199.200.255']) {
    const udp = native.bindInet(true, host, 0, 0, 0)
    t.is(native.inetName(udp, false, place, text), host.length)
    t.is(text.toString('latin1', 0, host.length), host)
    t.is(place[0], 4)
    t.true(place[1]! > 0)
    close(udp)
  }
})

test('inetName refuses other sockets, those without a peer, and too little room', t => {
  const place = new Int32Array(2)
  const text = Buffer.alloc(ADDRESS)
  const [left, right] = pair()
  t.is(native.inetName(left, false, place, text), EAFNOSUPPORT)
  close(left, right)
  const listener = native.bindInet(false, '127.0.0.1', 0, 100, 0)
  t.is(native.inetName(listener, true, place, text), ENOTCONN)
  t.is(native.inetName(listener, false, place, text.subarray(0, 8)), ERANGE)
  t.is(native.inetName(listener, false, place.subarray(1), text), ERANGE)
  t.is(native.inetName(listener, false, place, text.subarray(0, 9)), 9)
  close(listener)
  t.is(native.inetName(closedNumber(), false, place, text), EBADF)
  const file = fs.openSync('/dev/null', 'r')
  t.is(native.inetName(file, false, place, text), ENOTSOCK)
  fs.closeSync(file)
})
