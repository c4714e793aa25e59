/** Traps 16 to 20, 22, 23 and 37: what a write can do to descriptors, and who has them when it fails. */
import { execFileSync } from 'node:child_process'
import { closeSync, fstatSync, openSync, statSync, writeFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { type Channel, Descriptor, type Returned } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { temporaryPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import {
  CANCEL,
  CREDIT,
  deafPair,
  documented,
  frame,
  GOODBYE,
  goodbye,
  hello,
  MESSAGE,
  message,
  Place,
  RawPeer,
  REPLY,
  rawPair,
  reply,
  request,
  socketpair,
  taken
} from '../helpers/raw-peer.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const EPIPE = -32
const EINVAL = -22
const ETOOMANYREFS = -109

/** A file of the test's own and how often this process has it open. */
function newFile(): { path: string; inode: number; open(): Descriptor; count(): number } {
  const path = temporaryPath()
  writeFileSync(path, '')
  return {
    path,
    inode: statSync(path).ino,
    open: () => Descriptor.openSync(path),
    count: () => [...openDescriptors().values()].filter(target => target === path).length
  }
}

/** How many descriptors have come to the peer. */
function arrivals(peer: RawPeer): number {
  return peer.reads.reduce((sum, { descriptors }) => sum + descriptors, 0)
}

test('trap 16: a write that is cut short sends the descriptors once', async t => {
  const { channel, peer } = await deafPair()
  const file = newFile()
  const files = [file.open(), file.open(), file.open()]
  void channel.send({ files, fill: Buffer.alloc(1_000_000) })
  void channel.send({ files: [file.open()] })
  await turn()
  peer.start()
  const first = await peer.next(MESSAGE)
  t.is(first.value.fill.length, 1_000_000)
  t.is(first.fds.length, 3)
  t.is((await peer.next(MESSAGE)).fds.length, 1)
  t.true(peer.reads.length > 2, 'the first message came in many pieces')
  t.is(arrivals(peer), 4)
  for (const fd of first.fds) t.is(fstatSync(fd).ino, file.inode)
  peer.close()
  await channel.closed
})

test('trap 16: a full socket keeps the descriptors back, and sends them once', async t => {
  const { channel, peer } = await deafPair()
  const file = newFile()
  void channel.send(Buffer.alloc(1_000_000))
  await turn()
  for (let number = 0; number < 400; number++)
    void channel.send({ number, files: [file.open(), file.open()], fill: 'x'.repeat(2000) })
  await turn()
  t.is(file.count(), 800, 'all are ours until the peer has confirmed them')
  peer.start()
  for (let number = 0; number < 400; number++) {
    let next = await peer.next(MESSAGE)
    if (Buffer.isBuffer(next.value)) next = await peer.next(MESSAGE)
    t.is(next.value.number, number)
    t.deepEqual(
      next.fds.map(fd => fstatSync(fd).ino),
      [file.inode, file.inode]
    )
    peer.drop(next)
    peer.send(taken(2))
  }
  t.is(arrivals(peer), 800)
  await until(() => file.count() === 0, 'our copies closed')
  peer.close()
  await channel.closed
})

test('trap 17: a write without bytes is refused, since the kernel would drop its descriptors', async t => {
  const [left, right] = socketpair()
  const file = Descriptor.openSync('/dev/null')
  const fds = Int32Array.of(file.borrow())
  const script = fileURLToPath(new URL('../fixtures/control.py', import.meta.url))
  const python = (...args: string[]): string =>
    execFileSync('/usr/bin/python3', [script, ...args], { stdio: ['ignore', 'pipe', 'inherit', left] })
      .toString()
      .trim()
  t.is(python('empty', '/dev/null'), '0', 'the kernel calls it a success')
  const none = Buffer.alloc(0)
  t.is(native.send(left, none, 0, 0, fds, 0, 1), EINVAL)
  t.is(native.sendVector(left, [none, none], 0, fds, 0, 1), EINVAL)
  t.is(native.sendVector(left, [none, Buffer.from('x')], 0, fds, 0, 1), 1)
  const peer = new RawPeer(right).start()
  native.close(left)
  await peer.ended
  t.deepEqual(peer.reads, [{ at: 0, bytes: 1, descriptors: 1 }], 'nothing of the others came')
  file.close()
  peer.close()
})

test('trap 17: a value without bytes of its own brings its descriptor', async t => {
  const { channel, peer } = await rawPair()
  const file = newFile()
  void channel.send(file.open())
  void channel.send([Buffer.alloc(0), file.open()])
  for (let i = 0; i < 2; i++) t.is(fstatSync((await peer.next(MESSAGE)).fds[0]!).ino, file.inode)
  peer.close()
  await channel.closed
})

test('trap 18: 253 go in one message, one more is refused by name and nothing moves', async t => {
  const { channel, peer } = await rawPair()
  const file = newFile()
  const open = (count: number): Descriptor[] => Array.from({ length: count }, () => file.open())
  await channel.send(open(252))
  await channel.send(open(253))
  t.is((await peer.next(MESSAGE)).fds.length, 252)
  t.is((await peer.next(MESSAGE)).fds.length, 253)
  const many = open(254)
  t.throws(() => channel.send(many), { code: documented('TOO_MANY_DESCRIPTORS') })
  t.true(many.every(descriptor => !descriptor.closed))
  for (const descriptor of many) descriptor.close()
  peer.close()
  await channel.closed
})

test('trap 18: what the kernel does not take in one write is split', async t => {
  const [left, right] = socketpair()
  const file = newFile()
  const mine = file.open()
  t.is(native.send(left, Buffer.from('x'), 0, 1, new Int32Array(254).fill(mine.borrow()), 0, 254), EINVAL)
  for (const fd of [left, right]) native.close(fd)
  const { channel, peer } = await rawPair()
  for (let number = 0; number < 10; number++)
    void channel.send({ number, files: Array.from({ length: 100 }, () => file.open()) })
  for (let number = 0; number < 10; number++) {
    const next = await peer.next(MESSAGE)
    t.is(next.value.number, number)
    t.is(next.fds.length, 100)
  }
  for (const { descriptors } of peer.reads) t.true(descriptors <= 253)
  mine.close()
  peer.close()
  await channel.closed
})

test('trap 19: too many references in flight are back pressure: all arrive, none is lost, the queue is bounded', async t => {
  const count = 1000
  const [ours, theirs] = socketpair()
  const sender = startFixture('limited-sender', [`${count}`, '61919'], { stdio: ['pipe', 'pipe', 'pipe', theirs] })
  native.close(theirs)
  const peer = new RawPeer(ours)
  peer.send(hello())
  t.deepEqual(JSON.parse(await sender.line()), ['full', ETOOMANYREFS, documented('QUEUE_FULL'), false])
  peer.start()
  for (let number = 0; number < count; number++) {
    const next = await peer.next(MESSAGE)
    t.is(next.value.number, number)
    t.is(next.fds.length, 1)
    peer.drop(next)
    await peer.sendAll(taken(1))
  }
  await peer.next(GOODBYE)
  peer.send(goodbye())
  t.is(await sender.line(), '["closed",null]', 'and nothing was returned')
  t.deepEqual(await sender.exit, { code: 0, signal: null, stderr: '' })
  peer.close()
})

test('trap 20: a send to a peer that is gone raises no SIGPIPE', async t => {
  const { channel, peer } = await rawPair()
  let signals = 0
  const onSignal = (): void => {
    signals++
  }
  process.on('SIGPIPE', onSignal) // so that it is not ignored, as Node does otherwise
  const [left, right] = socketpair()
  native.close(right)
  const x = Buffer.from('x')
  t.is(native.send(left, x, 0, 1, new Int32Array(0), 0, 0), EPIPE)
  t.is(native.sendVector(left, [x, x], 0, new Int32Array(0), 0, 0), EPIPE)
  native.close(left)
  peer.close()
  void channel.send('too late')
  await channel.closed
  // A signal that had come would be told in one of these
  for (let i = 0; i < 5; i++) await turn()
  process.off('SIGPIPE', onSignal)
  t.is(signals, 0)
})

/** What comes back, claimed. */
function collectReturned(channel: Channel): Returned[] {
  const all: Returned[] = []
  channel.on('returned', returned => all.push(returned.claim()))
  return all
}

function checkReturned(t: ExecutionContext, all: Returned[], states: string[], inode: number): void {
  t.deepEqual(
    all.map(({ state }) => state),
    states
  )
  for (const { descriptors } of all)
    for (const descriptor of descriptors) {
      t.is(fstatSync(descriptor.borrow()).ino, inode)
      descriptor.close()
    }
}

for (const [how, end] of [
  ['destroyed', (channel: Channel) => channel.destroy()],
  ['left by its peer', (_: Channel, peer: RawPeer) => peer.close()],
  ['broken by its peer', (_: Channel, peer: RawPeer) => peer.send(frame(9))]
] as const) {
  test(`trap 22: a channel that is ${how} hands back what was not confirmed`, async t => {
    const file = newFile()
    const mine = file.open()
    const cost = 12 + 1 + 3 + 1 // of the first message: header, array, place, descriptor
    const { channel, peer } = await rawPair({}, { window: 2 * cost })
    const returned = collectReturned(channel)
    for (let i = 0; i < 4; i++) void channel.send([file.open()])
    peer.send(taken(0))
    await peer.next(MESSAGE)
    peer.send(taken(1))
    await peer.next(MESSAGE)
    await until(() => file.count() === 1 + 4 - 1 + 2, 'the first to be taken')
    end(channel, peer)
    await channel.closed
    checkReturned(t, returned, ['unconfirmed', 'unsent', 'unsent'], file.inode)
    peer.close()
    mine.close()
  })

  test(`trap 22: a channel that is ${how} closes what nobody wants back`, async t => {
    const { channel, peer } = await rawPair({}, { window: 1 })
    for (let i = 0; i < 4; i++) void channel.send([newFile().open()])
    await peer.next(MESSAGE)
    end(channel, peer)
    await channel.closed
    peer.close()
    // That they are closed is what every test checks
    t.pass()
  })
}

test('trap 22: an answer to a request that was given up comes back as refused', async t => {
  const { channel, peer } = await rawPair()
  const returned = collectReturned(channel)
  const file = newFile()
  channel.serve(() => [file.open()])
  peer.send(request(7, 'give me one'))
  t.is((await peer.next(REPLY)).id, 7)
  peer.send(Buffer.concat([frame(CANCEL, undefined, { id: 7 }), taken(1)]))
  await until(() => returned.length === 1, "'returned'")
  checkReturned(t, returned, ['refused'], file.inode)
  peer.close()
  await channel.closed
})

test('trap 22: close() gives up on a peer that confirms nothing, and hands back', async t => {
  const { channel, peer } = await rawPair({ closeTimeout: 50 })
  const returned = collectReturned(channel)
  const file = newFile()
  void channel.send([file.open()])
  await channel.close()
  t.is(((await channel.closed) as NodeJS.ErrnoException).code, documented('CLOSE_TIMEOUT'))
  checkReturned(t, returned, ['unconfirmed'], file.inode)
  peer.close()
})

test('trap 23: our copy stays open until the peer has confirmed it, not merely received it', async t => {
  const { channel, peer } = await rawPair()
  const file = newFile()
  await channel.send([file.open(), file.open()])
  await channel.send([file.open()])
  for (let i = 0; i < 2; i++) peer.drop(await peer.next(MESSAGE))
  for (let i = 0; i < 10; i++) await turn()
  t.is(file.count(), 3, 'the peer has received and closed them; ours are open')
  peer.send(taken(1))
  for (let i = 0; i < 10; i++) await turn()
  t.is(file.count(), 3, 'half a message is not a message')
  peer.send(taken(1))
  await until(() => file.count() === 1, 'the first two closed')
  peer.send(taken(1))
  await until(() => file.count() === 0, 'the third closed')
  peer.close()
  await channel.closed
})

for (const [how, unread] of [
  ['went', false],
  ['was reset', true]
] as const) {
  // A peer that closes its socket with something unread resets the connection
  const pairOf = unread ? deafPair : rawPair

  /** The peer says its last and goes; then something is sent, before it is read. What that send said. */
  const lastWords = async (channel: Channel, peer: RawPeer, bytes: Buffer, fds: number[] = []): Promise<number> => {
    let first: number | undefined
    const record = (original: typeof native.send): typeof native.send => {
      return (...args) => {
        const result = original(...args)
        first ??= result
        return result
      }
    }
    peer.send(bytes, fds)
    if (unread) native.close(peer.fd)
    else peer.close()
    await patched('send', record, async () => {
      void channel.send('too late')
      await channel.closed
    })
    return first!
  }

  test(`trap 37: the last words of a peer that ${how} are heard though a send failed first`, async t => {
    const { channel, peer } = await pairOf()
    const file = newFile()
    const mine = openSync(file.path, 'r')
    const inodes: number[] = []
    channel.on('message', ({ descriptors }) => inodes.push(fstatSync(descriptors[0]!.borrow()).ino))
    const bytes = Buffer.concat([message([new Place(0)], 1), goodbye('ERR_PASSFD_HANDLER', 'the reason')])
    t.is(await lastWords(channel, peer, bytes, [mine]), EPIPE)
    t.deepEqual(inodes, [file.inode])
    const error = (await channel.closed) as NodeJS.ErrnoException & { remote: object }
    t.is(error.code, documented('PEER'))
    t.deepEqual(error.remote, { code: 'ERR_PASSFD_HANDLER', message: 'the reason' })
    closeSync(mine)
  })

  test(`trap 37: the answer of a peer that ${how} is heard though a send failed first`, async t => {
    const { channel, peer } = await pairOf()
    const answer = channel.request('?')
    await turn()
    t.is(await lastWords(channel, peer, reply(1, 'the answer')), EPIPE)
    t.is(await answer, 'the answer')
  })

  test(`trap 37: a peer that ${how} without a goodbye is an error though a send failed first`, async t => {
    const { channel, peer } = await pairOf()
    t.is(await lastWords(channel, peer, frame(CREDIT, undefined, { id: 1 })), EPIPE)
    t.is(((await channel.closed) as NodeJS.ErrnoException).code, documented('DISCONNECTED'))
  })
}
