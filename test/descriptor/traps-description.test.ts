/** Traps 24, 25 and 28: the open description is shared with others, and the last close of it may hang. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { fstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { z } from 'zod'
import { moveOut } from '../../src/descriptor/descriptor.ts'
import { type Channel, connect, Descriptor, listen } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { connected } from '../helpers/channels.ts'
import { watchedInode } from '../helpers/facts.ts'
import { fromPython } from '../helpers/from-python.ts'
import { socketPath } from '../helpers/path.ts'
import { type Running, start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import {
  CREDIT,
  documented,
  frame,
  GOODBYE,
  MESSAGE,
  message,
  Place,
  RawPeer,
  REQUEST,
  rawPair,
  reply,
  socketpair,
  taken
} from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const O_NONBLOCK = 0o4000

/** The file status flags of an open description, as the kernel tells (proc(5)). */
function statusFlags(fd: number): number {
  const [, flags] = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))!
  return Number.parseInt(flags!, 8)
}

/** Fails unless somebody can connect to a listener and be accepted from it. */
async function assertListens(t: ExecutionContext, listener: Descriptor, port: number): Promise<void> {
  const client = createConnection(port, '127.0.0.1')
  await once(client, 'connect')
  let accepted = -11
  await until(() => (accepted = native.accept(listener.borrow())) !== -11, 'a connection')
  t.true(accepted >= 0)
  native.close(accepted)
  client.destroy()
  await once(client, 'close')
}

async function tcpListener(): Promise<{ listener: Descriptor; port: number }> {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const server = await listener.dup().toServer()
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return { listener, port }
}

test('trap 24: a listener goes on after each of our ways to give its other copies up', async t => {
  const { listener, port } = await tcpListener()
  await assertListens(t, listener, port)
  listener.dup().close()
  const [left, right] = await connected()
  const given: Descriptor[] = []
  right.on('message', message => {
    if (message.value.keep) given.push(...message.claim().descriptors)
  })
  await left.send({ keep: false, listener: listener.dup() })
  await left.send({ keep: true, listener: listener.dup() })
  await until(() => given.length === 1, 'the listener')
  const server = await given[0]!.toServer()
  await new Promise(resolve => server.close(resolve))
  void left.send({ keep: true, listener: listener.dup() })
  left.destroy()
  await right.closed
  await until(() => native.pendingCloses() === 0, 'the closing')
  await assertListens(t, listener, port)
  for (const descriptor of given) descriptor[Symbol.dispose]()
  listener.close()
})

test('trap 24: a channel server that closes leaves a listener that was handed on', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const server = await listen(listener.dup())
  const before = await connect(path)
  await server.close()
  await before.closed
  const peer = RawPeer.connect(path) // to the copy that nobody has accepted from yet
  let accepted = -11
  await until(() => (accepted = native.accept(listener.borrow())) !== -11, 'a connection')
  t.true(accepted >= 0)
  native.close(accepted)
  peer.close()
  listener.close()
})

const O_RDWR = 2
const flagged: [what: string, nonBlocking: boolean, open: () => Descriptor[]][] = [
  ['a pipe', false, () => Object.values(Descriptor.pipe())],
  ['a terminal', false, () => [Descriptor.openSync('/dev/ptmx', 'r+')]],
  ['a terminal that does not block', true, () => [Descriptor.openSync('/dev/ptmx', O_RDWR | O_NONBLOCK)]],
  ['a Unix socket', false, () => Descriptor.socketpair()],
  ['a device', false, () => [Descriptor.openSync('/dev/null')]]
]

for (const [what, nonBlocking, open] of flagged)
  test(`trap 24: O_NONBLOCK of ${what} stays as it was, whatever is done with it`, async t => {
    const mine = open()
    const check = (): void => {
      for (const descriptor of mine)
        t.is((statusFlags(descriptor.borrow()) & O_NONBLOCK) !== 0, nonBlocking, `${descriptor.kind}`)
    }
    check()
    const [left, right] = await connected()
    const copies = mine.map(descriptor => Descriptor.from(descriptor.borrow()))
    for (const copy of copies) copy.dup().close()
    right.serve(({ value, descriptors }) => {
      check()
      for (const descriptor of descriptors) t.truthy(descriptor.kind)
      return value.back ? { back: value.files } : undefined
    })
    const { back } = await left.request<{ back: Descriptor[] }>(
      { back: true, files: copies },
      { descriptors: copies.length }
    )
    check()
    for (const descriptor of back) descriptor.close()
    await left.request({ back: false, files: mine.map(descriptor => descriptor.dup()) })
    left.on('returned', () => check())
    void left.send({ files: mine.map(descriptor => descriptor.dup()) })
    left.destroy()
    await right.closed
    await until(() => native.pendingCloses() === 0, 'the closing')
    check()
    for (const descriptor of mine) descriptor.close()
  })

test('trap 25: a channel that ends leaves the loop though a copy of its socket lives on', async t => {
  const [ours, theirs] = Descriptor.socketpair()
  const copy = ours.dup()
  const { ino } = fstatSync(copy.borrow())
  const [channel, other] = await Promise.all([connect(ours), connect(theirs)])
  t.true(watchedInode(ino))
  channel.destroy()
  await other.closed
  await until(() => native.pendingCloses() === 0, 'the closing')
  t.false(watchedInode(ino))
  copy.close()
})

test('trap 25: a listener that closes leaves the loop though a copy of it lives on', async t => {
  const listener = await Descriptor.bind({ path: socketPath() })
  const { ino } = fstatSync(listener.borrow())
  const server = await listen(listener.dup())
  await turn() // epoll hears of it in the next turn
  t.true(watchedInode(ino))
  await server.close()
  t.false(watchedInode(ino))
  listener.close()
})

/** Has hostile.py make a connection, and sends its only copy over a socket, with these bytes. */
async function sendHostile(fd: number, bytes: Buffer): Promise<Running> {
  const script = fileURLToPath(new URL('../fixtures/hostile.py', import.meta.url))
  const [ours, theirs] = socketpair()
  const python = start('/usr/bin/python3', [script], { stdio: ['pipe', 'pipe', 'pipe', theirs] })
  native.close(theirs)
  const side = new RawPeer(ours).start()
  await python.line()
  const { fds } = await side.next()
  native.send(fd, bytes, 0, bytes.length, Int32Array.from(fds), 0, 1)
  side.close() // while the copy on its way has not been received: this close can't be the last
  return python
}

/** Nothing holds a close for more than five seconds. */
const NOT_LATER_THAN = 4000

/** Fails unless a close hangs and the loop turns all the same. Then the connection is reset, so that the close ends. */
async function assertLoopTurns(t: ExecutionContext, python: Running): Promise<void> {
  await until(() => native.pendingCloses() > 0, 'the closing')
  let longest = 0
  const began = performance.now()
  for (let before = began; before < began + 100; ) {
    await turn()
    const now = performance.now()
    longest = Math.max(longest, now - before)
    before = now
  }
  t.true(native.pendingCloses() > 0, 'the close hangs')
  t.true(longest < NOT_LATER_THAN, `a turn of the loop took ${longest} ms`)
  python.child.stdin!.end()
  t.is((await python.exit).code, 0)
  await until(() => native.pendingCloses() === 0, 'the end of the close')
}

const one = message([new Place(0)], 1)

interface Hanging {
  what: string
  bytes: Buffer
  /** Runs before the descriptor comes. */
  before?(channel: Channel, peer: RawPeer): void | Promise<void>
  /** Runs once it has. */
  after?(channel: Channel, peer: RawPeer): void | Promise<void>
}

const hanging: Hanging[] = [
  {
    what: "the end of a 'message' listener's scope",
    bytes: one,
    before: channel => void channel.on('message', () => {})
  },
  {
    what: "the end of a handler's scope",
    bytes: one,
    before: channel => channel.serve(async () => {})
  },
  {
    what: 'close() of a lent descriptor',
    bytes: one,
    before: channel => channel.serve(({ descriptors }) => descriptors[0]!.close())
  },
  {
    what: 'destroy() with a message that nobody has read',
    bytes: one,
    after: channel => channel.destroy()
  },
  {
    what: 'destroy() with a descriptor ahead of its frame',
    bytes: frame(CREDIT, undefined, { id: 1 }),
    after: channel => channel.destroy()
  },
  {
    what: 'a message that comes with one too many',
    bytes: message([], 1)
  },
  {
    what: 'a frame that may not carry any',
    bytes: frame(CREDIT, undefined, { id: 1, count: 1 })
  },
  {
    what: 'a message after our goodbye',
    bytes: one,
    before: async (channel, peer) => {
      void channel.close()
      await peer.next(GOODBYE)
    }
  },
  {
    what: 'the reply to a request that was cancelled',
    bytes: reply(1, new Place(0), 1),
    before: async (channel, peer) => {
      const controller = new AbortController()
      void channel.request('?', { signal: controller.signal })
      await peer.next(REQUEST)
      controller.abort()
    }
  },
  {
    what: 'a reply that fails its schema',
    bytes: reply(1, new Place(0), 1),
    before: async (channel, peer) => {
      void channel.request('?', { schema: z.string() })
      await peer.next(REQUEST)
    }
  }
]

for (const { what, bytes, before, after } of hanging)
  test(`trap 28: a close that hangs after ${what} does not hold up the loop`, async t => {
    const { channel, peer } = await rawPair()
    await before?.(channel, peer)
    const held = native.held()
    const python = await sendHostile(peer.fd, bytes)
    if (after !== undefined) {
      await until(() => native.held() > held, 'the descriptor')
      await after(channel, peer)
    }
    await assertLoopTurns(t, python)
    peer.close()
    channel.destroy()
    await channel.closed
  })

test('trap 28: the close of a pipe or device whose lock somebody holds does not hold up the loop', async t => {
  const python = await fromPython([], 'stuck.py')
  try {
    const fds = Int32Array.from(python.descriptors, descriptor => moveOut(descriptor, 'the test'))
    if (fds.length === 0) t.log('no userfaultfd(2) here')
    // The last copy is the one whose close waits: not Python's own
    await until(() => !linksOf(python.child.pid!).includes('/dev/random'), 'the closing of its copies')
    const before = performance.now()
    for (const at of fds.keys()) native.closeLater(fds, at, 1, 0)
    t.true(performance.now() - before < NOT_LATER_THAN)
    t.is(native.pendingCloses(), fds.length)
    await python.end()
  } finally {
    python.child.kill('SIGKILL')
  }
  await until(() => native.pendingCloses() === 0, 'the helper threads')
})

/** What a process has open. */
function linksOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).map(fd => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`)
    } catch {
      return '' // closed meanwhile
    }
  })
}

test('trap 28: a close that hangs after a peer was not let in does not hold up the loop', async t => {
  const [ours, theirs] = Descriptor.socketpair()
  const python = await sendHostile(theirs.borrow(), one)
  await t.throwsAsync(connect(ours, { authorize: () => false }), { code: documented('UNAUTHORIZED') })
  await assertLoopTurns(t, python)
  theirs.close()
})

test('trap 28: a close that hangs after a descriptor was passed on does not hold up the loop', async t => {
  const from = await rawPair()
  const to = await rawPair()
  from.channel.serve(({ value }) => void to.channel.send(value))
  const python = await sendHostile(from.peer.fd, one)
  // The receiver closes its copy first, and confirms then
  to.peer.drop(await to.peer.next(MESSAGE))
  to.peer.send(taken(1))
  await assertLoopTurns(t, python)
  for (const { channel, peer } of [from, to]) {
    peer.close()
    await channel.closed
  }
})

test('trap 28: a socket of our own that lingers once the peer has taken it does not hold up the loop', async t => {
  const listener = createServer({ pauseOnConnect: true }).listen(0)
  await once(listener, 'listening')
  const client = createConnection((listener.address() as AddressInfo).port)
  const [[accepted]] = (await Promise.all([once(listener, 'connection'), once(client, 'connect')])) as [
    [Socket],
    unknown
  ]
  const { channel, peer } = await rawPair()
  void channel.send(Descriptor.from(client))
  client.destroy()
  const got = await peer.next(MESSAGE)
  // What is written and never read is what close(2) waits for
  const script = `
import socket, struct
s = socket.socket(fileno=0)
s.setblocking(False)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 5))
try:
    while True: s.send(bytes(65536))
except BlockingIOError: pass`
  spawnSync(systemPython, ['-c', script], { stdio: [got.fds[0]!, 'ignore', 'inherit'] })
  peer.drop(got)
  await until(() => native.pendingCloses() === 0, 'the copy of the peer')
  peer.send(taken(1))
  const before = performance.now()
  await until(() => native.pendingCloses() === 1, 'the close of our copy')
  t.true(performance.now() - before < NOT_LATER_THAN)
  accepted.destroy()
  await until(() => native.pendingCloses() === 0, 'the helper thread')
  listener.close()
  peer.close()
  channel.destroy()
  await channel.closed
})
