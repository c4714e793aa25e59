// A process of its own: it tests the shim before and while it is set up
import { once } from 'node:events'
import * as fs from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import {
  CLOSED,
  type Native,
  native,
  READABLE,
  RESULT_BYTES,
  RESULT_DESCRIPTORS,
  RESULT_FIRST,
  RESULT_FLAGS,
  WRITABLE
} from '../../src/os/native.ts'
import { closedNumber, identity, isCloseOnExec, isNonBlocking, isOpen } from '../helpers/facts.ts'
import { times } from '../helpers/full.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { leaked, openDescriptors, test, testInCi, until } from '../helpers/test.ts'

// errno(3), negative
const ENOENT = -2
const EBADF = -9
const EAGAIN = -11
const EBUSY = -16
const EEXIST = -17
const EINVAL = -22
const ENOTTY = -25
const EPIPE = -32
const ERANGE = -34
const ENAMETOOLONG = -36
const ENOTSOCK = -88
const EADDRINUSE = -98
const ENOTCONN = -107
const ECONNREFUSED = -111
const EPERM = -1

const STREAM = 1
const DATAGRAM = 2
const SEQPACKET = 5

const HEADROOM = 100
const AREA = 4096
const area = Buffer.alloc(HEADROOM + AREA)
const results = new Int32Array(RESULT_FIRST + 2 * 253)
const NONE = new Int32Array(0)
const pairOut = new Int32Array(2)

interface Dispatched {
  id: number
  events: number
  bytes: number
  fds: number[]
  flags: number
}

const dispatched: Dispatched[] = []

/** The next call of `dispatch`, with what `results` held at that moment. */
async function next(): Promise<Dispatched> {
  await until(() => dispatched.length > 0, 'a dispatch')
  return dispatched.shift()!
}

function open(path = '/dev/null'): number {
  const fd = fs.openSync(path, 'r')
  native.hold(fd)
  return fd
}

function socketpair(type = STREAM): [number, number] {
  if (native.socketpair(type, pairOut) < 0) throw new Error('socketpair')
  return [...pairOut] as [number, number]
}

function close(...fds: number[]): void {
  for (const fd of fds) native.close(fd)
}

function sendText(fd: number, text: string, fds: number[] = []): number {
  const bytes = Buffer.from(text)
  return native.send(fd, bytes, 0, bytes.length, Int32Array.from(fds), 0, fds.length)
}

const textIn = (bytes: number): string => area.toString('utf8', HEADROOM, HEADROOM + bytes)

// --- before setup

test('watching before setup is refused', t => {
  const [left, right] = socketpair()
  t.is(native.watch(left, true), EINVAL)
  t.is(native.watch(left, false), EINVAL)
  close(left, right)
})

test('setup takes an area with room behind its headroom, results for 2 × 253, and a function; once', t => {
  const dispatch = (): void => {}
  const wrong: Parameters<Native['setup']>[] = [
    [new Int32Array(10) as never, HEADROOM, results, dispatch],
    [area, -1, results, dispatch],
    [area, area.length, results, dispatch],
    [area, HEADROOM, new Int32Array(RESULT_FIRST + 2 * 253 - 1), dispatch],
    [area, HEADROOM, Buffer.alloc(5000) as never, dispatch],
    [area, HEADROOM, results, {} as never],
    [] as never
  ]
  for (const args of wrong) t.throws(() => native.setup(...args), { instanceOf: TypeError })
  native.setup(area, HEADROOM, results, (id, events) => {
    const fds =
      events === CLOSED ? [] : [...results.subarray(RESULT_FIRST, RESULT_FIRST + results[RESULT_DESCRIPTORS]!)]
    dispatched.push({ id, events, bytes: results[RESULT_BYTES]!, fds, flags: results[RESULT_FLAGS]! })
  })
  t.throws(() => native.setup(area, HEADROOM, results, dispatch), { instanceOf: TypeError, message: /called before/ })
})

// --- ownership

test('hold takes a number into the table, and only once', t => {
  const before = native.held()
  const fd = fs.openSync('/dev/null', 'r')
  t.is(native.hold(fd), 0)
  t.is(native.held(), before + 1)
  t.is(native.hold(fd), EEXIST)
  t.is(native.held(), before + 1)
  t.true(isCloseOnExec(fd))
  t.is(native.close(fd), 0)
  t.is(native.held(), before)
  t.false(isOpen(fd))
  for (const wrong of [closedNumber(), -1, 0x7fffffff]) t.is(native.hold(wrong), EBADF)
})

test('release takes it out, and leaves it open', t => {
  const fd = open()
  const before = native.held()
  t.is(native.release(fd), 0)
  t.is(native.held(), before - 1)
  t.true(isOpen(fd))
  t.is(native.release(fd), EBADF)
  t.is(native.close(fd), EBADF)
  t.true(isOpen(fd), 'what is not held is not closed')
  fs.closeSync(fd)
  for (const wrong of [-1, 0x7fffffff, fd]) {
    t.is(native.release(wrong), EBADF)
    t.is(native.close(wrong), EBADF)
  }
})

for (const count of [0, 1, 253, 254, 1000]) {
  test(`closeMany and closeLater close ${count}, and nothing that is not held`, async t => {
    for (const later of [false, true]) {
      const fds = Int32Array.from({ length: count }, () => open())
      const foreign = fs.openSync('/dev/null', 'r')
      const all = Int32Array.from([foreign, ...fds, foreign, -1, 0x7fffffff, ...fds.subarray(0, 1)])
      const held = native.held()
      if (later) {
        t.is(native.closeLater(all, 0, all.length, 77), count)
        t.is(native.held(), held - count, 'they are ours no more at once')
        const { id, events, bytes } = await next()
        t.deepEqual({ id, events, bytes }, { id: 77, events: CLOSED, bytes: count })
      } else t.is(native.closeMany(all, 0, all.length), count)
      t.is(native.held(), held - count)
      t.true(isOpen(foreign))
      const still = openDescriptors()
      t.false(fds.some(fd => still.has(fd)))
      fs.closeSync(foreign)
    }
  })
}

test('a few that close at once are closed before closeLater returns, whatever is among them', async t => {
  const pair = new Int32Array(2)
  native.socketpair(1, pair)
  const devices = ['/dev/null', '/dev/zero', '/dev/full'].map(path => open(path))
  const fds = Int32Array.of(...pair, ...devices)
  t.is(native.closeLater(fds, 0, fds.length, 0), 5)
  t.deepEqual(devices.filter(isOpen), [])
  await until(() => native.pendingCloses() === 0, 'the helper threads')
  t.deepEqual([...pair].filter(isOpen), [])
})

test('closeLater tells of each batch that has a tag, and of none that has not', async t => {
  native.closeLater(Int32Array.of(open()), 0, 1, 0)
  native.closeLater(Int32Array.of(open(), open()), 0, 2, 5)
  native.closeLater(NONE, 0, 0, 6)
  native.closeLater(Int32Array.of(open(), open(), open()), 1, 1, 7)
  const told = [await next(), await next(), await next()].map(({ id, events, bytes }) => ({ id, events, bytes }))
  t.deepEqual(
    told.sort((left, right) => left.id - right.id),
    [
      { id: 5, events: CLOSED, bytes: 2 },
      { id: 6, events: CLOSED, bytes: 0 },
      { id: 7, events: CLOSED, bytes: 1 }
    ]
  )
  await until(() => native.pendingCloses() === 0, 'the helper threads')
  for (let i = 0; i < 10; i++) await turn()
  t.is(dispatched.length, 0)
  // The first and last of that batch of three were outside its range
  for (const fd of openDescriptors().keys()) if (native.release(fd) === 0) fs.closeSync(fd)
})

test('a range that an array does not have is refused', t => {
  const fd = open()
  const fds = Int32Array.of(fd)
  for (const [start, count] of [
    [0, 2],
    [1, 1],
    [2, 1],
    [-1, 1],
    [0, -1],
    [0x7fffffff, 0x7fffffff]
  ] as const) {
    t.is(native.closeMany(fds, start, count), EINVAL, `${start}, ${count}`)
    t.is(native.closeLater(fds, start, count, 0), EINVAL)
    t.is(native.send(fd, Buffer.alloc(1), 0, 1, fds, start, count), EINVAL)
  }
  t.true(isOpen(fd))
  close(fd)
})

test('arguments of the wrong type throw, whatever the function, and do nothing', t => {
  const before = openDescriptors()
  const functions = Object.entries(native) as [keyof Native, (...args: unknown[]) => unknown][]
  t.true(functions.length > 60)
  const harmless = ['held', 'pendingCloses', 'limit', 'edgeSet', 'diagnosis', 'isReaper', 'endedChild']
  harmless.push('longestTurn', 'releaseHeap')
  for (const [name, call] of functions) {
    if (harmless.includes(name)) continue
    for (const wrong of [undefined, null, '3', {}, [], 3n, Symbol('3'), () => {}]) {
      t.throws(() => call(wrong, wrong, wrong, wrong, wrong, wrong, wrong), { instanceOf: TypeError }, name)
    }
    t.throws(() => call(), { instanceOf: TypeError }, name)
  }
  t.deepEqual(openDescriptors(), before)
})

test('dup copies what need not be held: close-on-exec, never 0 to 2, and held', t => {
  const fd = fs.openSync('/dev/null', 'r')
  const copy = native.dup(fd)
  t.true(copy > 2)
  t.is(identity(copy), identity(fd))
  t.true(isCloseOnExec(copy))
  t.is(native.hold(copy), EEXIST)
  close(copy)
  fs.closeSync(fd)
  t.is(native.dup(fd), EBADF)
  t.is(native.dup(-1), EBADF)
})

// --- creation

test('socketpair and pipe give two held ends, close-on-exec', t => {
  for (const make of [
    (out: Int32Array) => native.socketpair(STREAM, out),
    (out: Int32Array) => native.socketpair(DATAGRAM, out),
    (out: Int32Array) => native.socketpair(SEQPACKET, out),
    (out: Int32Array) => native.pipe(out)
  ]) {
    const held = native.held()
    t.is(make(pairOut), 0)
    t.is(native.held(), held + 2)
    for (const fd of pairOut) {
      t.true(isCloseOnExec(fd))
      t.is(native.hold(fd), EEXIST)
    }
    close(...pairOut)
    t.is(make(new Int32Array(1)), EINVAL, 'no room for the numbers')
    t.is(native.held(), held)
  }
  t.true(native.socketpair(99, pairOut) < 0)
})

test('a socket is made, bound, listened on, connected to and accepted from', t => {
  for (const type of [STREAM, SEQPACKET]) {
    const path = Buffer.from(socketPath())
    const listener = native.socket(type)
    t.is(native.bind(listener, path, 0o600), 0)
    t.is(fs.statSync(path).mode & 0o777, 0o600)
    const early = native.socket(type)
    t.is(native.connect(early, path), ECONNREFUSED)
    t.is(native.listen(listener, 5), 0)
    t.is(native.accept(listener), EAGAIN)
    const client = native.socket(type)
    t.is(native.connect(client, path), 0)
    const accepted = native.accept(listener)
    t.true(accepted > 0)
    for (const fd of [listener, client, accepted]) {
      t.true(isCloseOnExec(fd))
      t.true(isNonBlocking(fd))
      t.is(native.hold(fd), EEXIST)
    }
    t.is(sendText(client, 'hello'), 5)
    const other = native.socket(type)
    t.is(native.bind(other, path, 0o600), EADDRINUSE)
    t.is(native.accept(client), EINVAL)
    close(listener, early, client, accepted, other)
    fs.unlinkSync(path)
    const late = native.socket(type)
    t.is(native.connect(late, path), ENOENT)
    close(late)
  }
  t.true(native.socket(99) < 0)
  for (const call of [
    () => native.bind(closedNumber(), Buffer.from('x'), 0),
    () => native.listen(closedNumber(), 1),
    () => native.accept(closedNumber()),
    () => native.connect(closedNumber(), Buffer.from('x'))
  ])
    t.is(call(), EBADF)
})

test('names have 1 to 107 bytes, abstract ones 107 behind their NUL; paths have no NUL', t => {
  const name = (length: number): Buffer => Buffer.from(`/tmp/${'x'.repeat(length - 5)}`)
  const abstract = (length: number): Buffer => Buffer.from(`\0passfd-${process.pid}`.padEnd(length + 1, 'x'))
  const cases: [Buffer, number][] = [
    [Buffer.alloc(0), EINVAL],
    [name(107), ENOENT],
    [name(108), ENAMETOOLONG],
    [Buffer.from('/tmp/a\0b'), EINVAL],
    [abstract(107), ECONNREFUSED],
    [abstract(108), ENAMETOOLONG]
  ]
  for (const [bytes, expected] of cases) {
    const fd = native.socket(STREAM)
    t.is(native.connect(fd, bytes), expected, `${bytes.length} bytes`)
    close(fd)
  }
  const fd = native.socket(STREAM)
  t.is(native.bind(fd, name(108), 0o600), ENAMETOOLONG)
  t.is(native.bind(fd, Buffer.alloc(0), 0o600), EINVAL)
  t.is(native.bind(fd, abstract(107), -1), 0)
  close(fd)
})

test('a mode below 0 leaves it to the umask', t => {
  const umask = process.umask(0o027)
  const path = socketPath()
  const fd = native.socket(STREAM)
  t.is(native.bind(fd, Buffer.from(path), -1), 0)
  t.is(fs.statSync(path).mode & 0o777, 0o750)
  process.umask(umask)
  close(fd)
})

test('bindInet binds numeric hosts of both families, and refuses what is none', t => {
  for (const host of ['127.0.0.1', '::1', '0.0.0.0', '::']) {
    for (const udp of [false, true]) {
      const fd = native.bindInet(udp, host, 0, 5, 0)
      t.true(fd > 0, `${host}, ${udp}`)
      t.true(isCloseOnExec(fd))
      t.true(isNonBlocking(fd))
      t.is(native.hold(fd), EEXIST)
      close(fd)
    }
  }
  const held = native.held()
  for (const host of [
    '',
    'localhost',
    '1.2.3',
    '127.0.0.1\0',
    '::1\0x',
    'x'.repeat(127),
    'x'.repeat(1000),
    ':'.repeat(60)
  ])
    t.is(native.bindInet(false, host, 0, 5, 0), EINVAL, JSON.stringify(host.slice(0, 20)))
  for (const port of [-1, 65536]) t.is(native.bindInet(false, '127.0.0.1', port, 5, 0), EINVAL)
  t.true(native.bindInet(false, 'fe80::1%nothing', 0, 5, 0) < 0)
  t.true(native.bindInet(false, '192.0.2.1', 0, 5, 0) < 0)
  t.is(native.held(), held)
})

// --- facts and settings

test('kind tells of a closed number that it is none', t => {
  t.is(native.kind(closedNumber()), EBADF)
  t.is(native.kind(-1), EBADF)
  const fd = open()
  t.is(native.kind(fd), 16)
  close(fd)
})

test('peer tells who made the socket at the other end', t => {
  const [left, right] = socketpair()
  const out = new Int32Array(4 + 65536)
  const count = native.peer(left, out)
  t.true(count >= 0)
  t.deepEqual([...out.subarray(0, 4)], [process.pid, process.geteuid!(), process.getegid!(), count])
  t.deepEqual(
    [...out.subarray(4, 4 + count)].toSorted(),
    process.getgroups!()
      .filter(group => count > 0 || group !== process.getegid!())
      .toSorted()
  )
  t.is(native.peer(left, new Int32Array(3)), ERANGE)
  t.is(native.peer(left, new Int32Array(4 + count)), count)
  if (count > 0) t.is(native.peer(left, new Int32Array(3 + count)), ERANGE)
  close(left, right)
  const alone = native.socket(STREAM)
  t.is(native.peer(alone, out), ENOTCONN)
  const inet = native.bindInet(false, '127.0.0.1', 0, 5, 0)
  t.true(native.peer(inet, out) < 0)
  const file = open()
  t.is(native.peer(file, out), ENOTSOCK)
  close(alone, inet, file)
  t.is(native.peer(closedNumber(), out), EBADF)
})

test('passRights is switched where the kernel can', t => {
  const [left, right] = socketpair()
  const result = native.passRights(left, false)
  t.true([0, -92].includes(result), String(result)) // ENOPROTOOPT
  t.is(native.passRights(left, true), result)
  t.is(native.passRights(closedNumber(), true), EBADF)
  close(left, right)
})

test('sendBuffer makes more room for what the peer has not read', t => {
  const room = (bytes?: number): number => {
    const [left, right] = socketpair()
    if (bytes !== undefined) t.is(native.sendBuffer(left, bytes), 0)
    const block = Buffer.alloc(65536)
    let sent = 0
    for (let result = 1; result > 0; sent += Math.max(0, result))
      result = native.send(left, block, 0, block.length, new Int32Array(0), 0, 0)
    close(left, right)
    return sent
  }
  t.true(room(212_992) > 1.5 * room())
  t.true(room(1) > 0.9 * room(), 'it is never lowered')
  t.is(native.sendBuffer(closedNumber(), 212_992), EBADF)
})

test('shutdown ends one direction or both', t => {
  const [left, right] = socketpair()
  t.is(native.shutdown(left, 1), 0)
  t.is(sendText(left, 'x'), EPIPE)
  t.is(sendText(right, 'x'), 1)
  t.is(native.shutdown(left, 2), 0)
  t.is(native.shutdown(left, 3), EINVAL)
  close(left, right)
  const file = open()
  t.is(native.shutdown(file, 1), ENOTSOCK)
  close(file)
})

test('resize is for terminals, within 16 bits', t => {
  const master = fs.openSync('/dev/ptmx', fs.constants.O_RDWR | fs.constants.O_NOCTTY)
  t.is(native.resize(master, 80, 24), 0)
  t.is(native.resize(master, 65535, 65535), 0)
  for (const [columns, rows] of [
    [-1, 24],
    [80, -1],
    [65536, 24],
    [80, 65536]
  ] as const)
    t.is(native.resize(master, columns, rows), EINVAL)
  fs.closeSync(master)
  const file = open()
  t.is(native.resize(file, 80, 24), ENOTTY)
  close(file)
})

test('lock never waits', t => {
  const path = temporaryPath()
  fs.writeFileSync(path, '')
  const [first, second] = [fs.openSync(path, 'r'), fs.openSync(path, 'r')] as const
  t.is(native.lock(first, true), 0)
  t.is(native.lock(second, true), EAGAIN)
  t.is(native.lock(first, true), 0, 'once more by the same')
  t.is(native.lock(first, false), 0)
  t.is(native.lock(second, true), 0)
  fs.closeSync(first)
  fs.closeSync(second)
  t.is(native.lock(second, true), EBADF)
})

test('limit is that of open files', t => {
  const [, soft] = /^Max open files\s+(\S+)/m.exec(fs.readFileSync('/proc/self/limits', 'latin1'))!
  t.is(native.limit(), soft === 'unlimited' ? 0x7fffffff : Math.min(Number(soft), 0x7fffffff))
})

// --- traffic

for (const count of [0, 1, 253]) {
  test(`bytes go with ${count} descriptors, and ours stay open`, async t => {
    const [left, right] = socketpair()
    const id = native.watch(right, true)
    const file = open()
    const fds = Array<number>(count).fill(file)
    t.is(sendText(left, 'bytes', fds), 5)
    t.true(isOpen(file))
    const { id: from, events, bytes, fds: received, flags } = await next()
    t.deepEqual({ from, events, bytes, flags }, { from: id, events: READABLE, bytes: 5, flags: 0 })
    t.is(textIn(5), 'bytes')
    t.is(received.length, count)
    for (const fd of received) {
      if (!isCloseOnExec(fd) || native.hold(fd) !== EEXIST || identity(fd) !== identity(file)) t.fail(String(fd))
    }
    t.is(native.closeMany(Int32Array.from(received), 0, count), count)
    native.unwatch(id)
    close(left, right, file)
  })
}

test('what sendmsg would lose or refuse is refused, and nothing leaves', async t => {
  const [left, right] = socketpair()
  const id = native.watch(right, true)
  const file = open()
  const bytes = Buffer.from('0123456789')
  const one = Int32Array.of(file)
  t.is(native.send(left, bytes, 0, 10, new Int32Array(254).fill(file), 0, 254), EINVAL, 'more than 253')
  t.is(native.send(left, bytes, 5, 5, one, 0, 1), EINVAL, 'descriptors without a byte')
  t.is(native.sendVector(left, [bytes.subarray(5, 5), Buffer.alloc(0)], 0, one, 0, 1), EINVAL)
  t.is(native.send(left, bytes, 0, 1, Int32Array.of(closedNumber()), 0, 1), EBADF)
  for (const [start, end] of [
    [0, 11],
    [-1, 5],
    [6, 5],
    [11, 11]
  ] as const)
    t.is(native.send(left, bytes, start, end, NONE, 0, 0), EINVAL)
  t.is(native.sendVector(left, [], 0, NONE, 0, 0), EINVAL, 'no chunks')
  t.is(native.sendVector(left, [bytes], 11, NONE, 0, 0), EINVAL, 'more skipped than there is')
  t.is(native.sendVector(left, [bytes], -1, NONE, 0, 0), EINVAL)
  t.is(native.send(closedNumber(), bytes, 0, 1, NONE, 0, 0), EBADF)
  t.is(native.send(file, bytes, 0, 1, NONE, 0, 0), ENOTSOCK)
  t.is(native.send(left, bytes, 3, 7, NONE, 0, 0), 4)
  t.is((await next()).bytes, 4)
  t.is(textIn(4), '3456', 'nothing else has come')
  native.unwatch(id)
  close(left, right, file)
})

test('sendVector gathers up to 64 buffers, the first one less what is skipped', async t => {
  const [left, right] = socketpair()
  const id = native.watch(right, true)
  const chunks = Array.from({ length: 70 }, (_, i) => Buffer.from(`${i},`))
  const expected = chunks.slice(0, 64).join('').slice(1)
  t.is(native.sendVector(left, chunks, 1, NONE, 0, 0), expected.length)
  t.is((await next()).bytes, expected.length)
  t.is(textIn(expected.length), expected)
  t.is(native.sendVector(left, [Buffer.from('abc'), Buffer.from('def')], 3, NONE, 0, 0), 3)
  await next()
  t.is(textIn(3), 'def')
  native.unwatch(id)
  close(left, right)
})

test('a full socket takes a part, then nothing, and tells when there is room again', async t => {
  const [left, right] = socketpair()
  const id = native.watch(left, true)
  const bytes = Buffer.alloc(1 << 20)
  const file = open()
  const first = native.send(left, bytes, 0, bytes.length, Int32Array.of(file), 0, 1)
  t.true(first > 0 && first < bytes.length)
  while (native.send(left, bytes, 0, bytes.length, NONE, 0, 0) > 0);
  t.is(native.send(left, bytes, 0, 1, Int32Array.of(file), 0, 1), EAGAIN)
  t.is(native.interest(id, READABLE | WRITABLE), 0)
  const reader = native.watch(right, true)
  let descriptors = 0
  for (;;) {
    const { id: from, events, fds } = await next()
    descriptors += fds.length
    native.closeMany(Int32Array.from(fds), 0, fds.length)
    if (from === id && events & WRITABLE) break
  }
  t.is(descriptors, 1, 'those of the refused write have not come')
  native.interest(id, READABLE)
  native.unwatch(id)
  native.unwatch(reader)
  close(left, right, file)
})

test('the end of the other side is a read of 0; a reset is an error', async t => {
  const [left, right] = socketpair()
  const id = native.watch(left, true)
  sendText(left, 'unread')
  sendText(right, 'last')
  close(right) // with bytes that it has not read
  const first = await next()
  t.is(first.bytes, 4, 'what was sent before comes first')
  const { bytes } = await next()
  t.is(bytes, -104) // ECONNRESET
  native.unwatch(id)
  close(left)
  const [clean, other] = socketpair()
  const watcher = native.watch(clean, true)
  close(other)
  t.is((await next()).bytes, 0)
  native.unwatch(watcher)
  close(clean)
})

// --- readiness

test('watch takes what can be watched, once', t => {
  const [left, right] = socketpair()
  const id = native.watch(left, true)
  t.true(id >= 1)
  t.is(native.watch(left, true), EEXIST)
  t.is(native.watch(left, false), EEXIST)
  const other = native.watch(right, false)
  t.not(other, id)
  t.is(native.watch(closedNumber(), true), EBADF)
  t.is(native.watch(-1, true), EBADF)
  const path = temporaryPath()
  fs.writeFileSync(path, '')
  const file = fs.openSync(path, 'r')
  t.is(native.watch(file, true), EPERM)
  fs.closeSync(file)
  t.is(native.unwatch(id), 0)
  t.is(native.unwatch(id), EBADF)
  const again = native.watch(left, true)
  t.is(again, id, 'a free id is used again')
  native.unwatch(again)
  native.unwatch(other)
  t.true(isOpen(left) && isOpen(right), 'unwatch closes nothing')
  close(left, right)
})

test('an id that there is not is refused by every function that takes one', t => {
  for (const id of [0, -1, 5000, 0x7fffffff]) {
    for (const [name, result] of Object.entries({
      receive: native.receive(id),
      interest: native.interest(id, READABLE),
      target: native.target(id, null, 0, 0),
      'target with a buffer': native.target(id, Buffer.alloc(1), 0, 1),
      unwatch: native.unwatch(id),
      ref: native.ref(id) as unknown as number,
      unref: native.unref(id) as unknown as number
    }))
      t.is(result, EBADF, `${name}(${id})`)
  }
})

test('a watcher that does not read only tells', async t => {
  const path = Buffer.from(socketPath())
  const listener = native.socket(STREAM)
  native.bind(listener, path, 0o600)
  native.listen(listener, 5)
  const id = native.watch(listener, false)
  const client = native.socket(STREAM)
  native.connect(client, path)
  const { id: from, events } = await next()
  t.deepEqual({ from, events }, { from: id, events: READABLE })
  t.is(native.interest(id, 0), 0)
  for (let i = 0; i < 5; i++) await turn()
  dispatched.length = 0
  for (let i = 0; i < 5; i++) await turn()
  t.is(dispatched.length, 0, 'nothing while there is no interest')
  native.interest(id, READABLE)
  t.is((await next()).id, id)
  native.unwatch(id)
  dispatched.length = 0
  for (let i = 0; i < 5; i++) await turn()
  t.is(dispatched.length, 0, 'nothing after unwatch')
  close(listener, client)
})

test('receive reads now, without dispatch', async t => {
  const [left, right] = socketpair()
  const id = native.watch(right, true)
  native.interest(id, 0)
  t.is(native.receive(id), EAGAIN)
  const file = open()
  sendText(left, 'now', [file])
  t.is(native.receive(id), 3)
  t.is(results[RESULT_BYTES], 3)
  t.is(results[RESULT_DESCRIPTORS], 1)
  t.is(textIn(3), 'now')
  const received = results[RESULT_FIRST]!
  t.is(identity(received), identity(file))
  for (let i = 0; i < 5; i++) await turn()
  t.is(dispatched.length, 0)
  native.unwatch(id)
  close(left, right, file, received)
})

test('bytes go to the target first, and what is left over to the area', async t => {
  const [left, right] = socketpair()
  const id = native.watch(right, true)
  const target = Buffer.alloc(20, '.')
  t.is(native.target(id, target, 5, 15), 0)
  sendText(left, 'abcd')
  t.is((await next()).bytes, 4)
  t.is(target.toString(), '.....abcd...........')
  sendText(left, 'efghijKLM')
  t.is((await next()).bytes, 9)
  t.is(target.toString(), '.....abcdefghij.....')
  t.is(textIn(3), 'KLM')
  sendText(left, 'next')
  await next()
  t.is(textIn(4), 'next', 'a full target is over')
  native.target(id, target, 0, 5)
  t.is(native.target(id, null, 0, 0), 0)
  sendText(left, 'after')
  await next()
  t.is(textIn(5), 'after', 'null ends it')
  t.is(target.toString(), '.....abcdefghij.....')
  for (const [start, end] of [
    [0, 21],
    [-1, 5],
    [6, 5]
  ] as const)
    t.is(native.target(id, target, start, end), EINVAL)
  native.unwatch(id)
  close(left, right)
})

test('more than the area holds comes in several reads', async t => {
  const [left, right] = socketpair()
  const id = native.watch(right, true)
  const bytes = Buffer.from(Array.from({ length: AREA * 2 + 10 }, (_, i) => i))
  t.is(native.send(left, bytes, 0, bytes.length, NONE, 0, 0), bytes.length)
  let read = 0
  while (read < bytes.length) {
    const got = native.receive(id)
    if (!area.subarray(HEADROOM, HEADROOM + got).equals(bytes.subarray(read, read + got))) t.fail(`at ${read}`)
    t.true(got <= AREA)
    read += got
  }
  t.true(
    area.subarray(0, HEADROOM).every(byte => byte === 0),
    'the headroom is untouched'
  )
  native.unwatch(id)
  close(left, right)
})

test('closing what is watched ends the watching; its number, used again, is not mistaken for it', async t => {
  const [left, right] = socketpair()
  const id = native.watch(left, true)
  t.is(native.close(left), 0)
  const [again, other] = socketpair()
  t.true([again, other].includes(left), 'the number is in use again')
  sendText(again === left ? other : again, 'for somebody else')
  for (let i = 0; i < 5; i++) await turn()
  t.is(dispatched.length, 0)
  t.is(native.interest(id, READABLE), EBADF)
  const watcher = native.watch(left, true)
  t.not(watcher, id, 'an id is not free before unwatch')
  t.is((await next()).id, watcher)
  t.is(native.unwatch(id), 0)
  native.unwatch(watcher)
  close(right, again, other)
})

test('a descriptor sent away and closed wakes nobody here', async t => {
  // trap 25: epoll goes on for as long as any copy of the description is open
  const [left, right] = socketpair()
  const [carrier, end] = socketpair()
  const id = native.watch(left, true)
  sendText(carrier, 'x', [left])
  native.unwatch(id)
  close(left)
  sendText(right, 'for the new owner')
  for (let i = 0; i < 10; i++) await turn()
  t.is(dispatched.length, 0)
  close(right, carrier, end)
})

// --- worker threads

const fixture = (name: string): URL => new URL(`../fixtures/${name}.mjs`, import.meta.url)

testInCi('a worker that is terminated in the middle of its traffic leaves nothing open', async t => {
  const before = openDescriptors()
  for (let round = 0; round < times(3, 25); round++) {
    const worker = new Worker(fixture('busy-worker'), { execArgv: [] })
    const [message] = await once(worker, 'message')
    t.is(message, 'busy')
    if (round % 3 === 1) await turn()
    await worker.terminate()
    const open = await leaked(before)
    if (open.length > 0) t.fail(`round ${round}: ${open}`)
  }
})

testInCi('several workers at once, terminated one by one', async t => {
  const before = openDescriptors()
  for (let round = 0; round < times(1, 3); round++) {
    const workers = Array.from({ length: 4 }, () => new Worker(fixture('busy-worker'), { execArgv: [] }))
    await Promise.all(workers.map(worker => once(worker, 'message')))
    for (const worker of workers) await worker.terminate()
  }
  t.deepEqual(await leaked(before), [])
})

for (const way of ['end', 'exit', 'throw']) {
  test(`a worker that holds descriptors has them closed when it ends: ${way}`, async t => {
    const before = openDescriptors()
    const held = native.held()
    const worker = new Worker(fixture('ending-worker'), { execArgv: [], workerData: way })
    const errors: Error[] = []
    worker.on('error', error => errors.push(error))
    const code = await new Promise(resolve => worker.once('exit', resolve))
    t.deepEqual(
      errors.map(({ message }) => message),
      way === 'throw' ? ['thrown on purpose'] : []
    )
    t.is(code, way === 'throw' ? 1 : 0)
    t.is(native.held(), held, 'the tables are apart')
    t.deepEqual(await leaked(before), [])
  })
}

test("a worker's end closes no number that it has given up, whoever has it then", async t => {
  const worker = new Worker(fixture('opening-worker'), { execArgv: [] })
  const [numbers] = (await once(worker, 'message')) as [number[]]
  t.true(Array.isArray(numbers), String(numbers))
  // We take them all: those that it had are among the lowest that are free
  const ours: number[] = []
  while (ours.length < 20 || Math.max(...ours) < Math.max(...numbers)) ours.push(fs.openSync('/dev/null', 'r'))
  worker.postMessage('end')
  await once(worker, 'exit')
  t.true(numbers.some(fd => ours.includes(fd)))
  for (const fd of ours) t.true(isOpen(fd), `${fd} was closed`)
  for (const fd of ours) fs.closeSync(fd)
})

test('share and separate: the last owner closes', t => {
  const fd = native.dup(0)
  const held = native.held()
  t.is(native.share(fd), fd)
  t.is(native.share(fd), fd)
  t.is(native.held(), held + 2)
  t.is(native.release(fd), EBUSY)
  t.is(native.close(fd), 0)
  const other = native.separate(fd)
  t.not(other, fd)
  t.is(identity(other), identity(fd))
  t.true(isCloseOnExec(other))
  t.is(native.separate(fd), fd, 'there is no other owner')
  t.is(native.held(), held + 1)
  t.is(native.closeMany(Int32Array.of(other, fd, fd), 0, 3), 2)
  for (const number of [fd, other]) {
    t.false(isOpen(number))
    t.is(native.share(number), EBADF)
    t.is(native.separate(number), EBADF)
  }
})

test('closeLater tells of shared descriptors, too', async t => {
  const fd = native.dup(0)
  native.share(fd)
  t.is(native.closeLater(Int32Array.of(fd, fd, fd), 0, 3, 7), 2)
  t.like(await next(), { id: 7, events: CLOSED, bytes: 2 })
  t.false(isOpen(fd))
})
