/** Traps 1 to 8, 10, 11, 13 to 15: what a read can bring, and how it can go wrong. Trap 8 is in exec.test.ts. */
import { execFileSync } from 'node:child_process'
import { closeSync, fstatSync, openSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createChannel, startChannel } from '../../src/channel/channel.ts'
import { channelLimits } from '../../src/channel/options.ts'
import { SocketWire } from '../../src/channel/wire.ts'
import { own } from '../../src/descriptor/descriptor.ts'
import { peerOf } from '../../src/descriptor/peer.ts'
import { type Channel, type ChannelOptions, connect, Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { type Running, start } from '../helpers/process.ts'
import {
  body,
  CREDIT,
  documented,
  frame,
  GOODBYE,
  HELLO,
  hello,
  MESSAGE,
  message,
  Place,
  places,
  RawPeer,
  REPLY,
  REQUEST,
  rawPair,
  socketpair,
  TAKEN
} from '../helpers/raw-peer.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

/** Files of the test's own, told apart by their inodes. */
function openFiles(count: number): { paths: string[]; fds: number[]; inodes: number[]; close(): void } {
  const paths = Array.from({ length: count }, () => temporaryPath())
  for (const path of paths) writeFileSync(path, '')
  const fds = paths.map(path => openSync(path, 'r'))
  return {
    paths,
    fds,
    inodes: paths.map(path => statSync(path).ino),
    close: () => {
      for (const fd of fds) closeSync(fd)
    }
  }
}

interface Seen {
  name: string
  inodes: number[]
}

/** The name in each message and the inodes of its descriptors. */
function collect(channel: Channel): Seen[] {
  const seen: Seen[] = []
  channel.on('message', ({ value, descriptors }) => {
    const { name } = value as { name: string }
    seen.push({ name, inodes: descriptors.map(descriptor => fstatSync(descriptor.borrow()).ino) })
  })
  return seen
}

/** Runs control.py with this socket. */
function python(fd: number, args: string[], input: Buffer | string = ''): string {
  return execFileSync('/usr/bin/python3', [fixture('control.py'), ...args], {
    input,
    stdio: ['pipe', 'pipe', 'inherit', fd],
    encoding: 'utf8'
  }).trim()
}

/** One premise about the kernel, seen from a socket without passfd: what one read brings of these writes. */
async function firstRead(writes: (sender: RawPeer) => void): Promise<{ bytes: number; descriptors: number }> {
  const [left, right] = socketpair()
  const sender = new RawPeer(left)
  const witness = new RawPeer(right)
  writes(sender)
  sender.close()
  await witness.start().ended
  const { bytes, descriptors } = witness.reads[0]!
  witness.close()
  return { bytes, descriptors }
}

test('trap 01: plain bytes that merge in front of a descriptor do not get it', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(1)
  const without = message({ name: 'without' })
  const withOne = message({ name: 'with', file: new Place(0) }, 1)
  const write = (sender: RawPeer): void => {
    sender.send(without)
    sender.send(withOne, files.fds)
  }
  t.deepEqual(await firstRead(write), { bytes: without.length + withOne.length, descriptors: 1 })
  write(peer)
  await until(() => seen.length === 2, 'both messages')
  t.deepEqual(seen, [
    { name: 'without', inodes: [] },
    { name: 'with', inodes: files.inodes }
  ])
  files.close()
  peer.close()
  await channel.closed
})

test('trap 02: a first part brings the descriptors, the rest merges with the next message', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(3)
  const [a, b, c] = files.fds as [number, number, number]
  const first = message({ name: 'first', files: places(2) }, 2)
  const second = message({ name: 'second', file: new Place(0) }, 1)
  const both = Buffer.concat([first, second])
  for (let cut = 1; cut < both.length; cut++) {
    const early = cut > first.length // the second one's first byte is in the first write
    peer.send(both.subarray(0, cut), early ? [a, b, c] : [a, b])
    await turn()
    peer.send(both.subarray(cut), early ? [] : [c])
    await until(() => seen.length === 2, `both messages, cut after ${cut} bytes`)
    t.deepEqual(seen.splice(0), [
      { name: 'first', inodes: files.inodes.slice(0, 2) },
      { name: 'second', inodes: files.inodes.slice(2) }
    ])
  }
  files.close()
  peer.close()
  await channel.closed
})

test('trap 02: a body larger than one read keeps its descriptors', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(3)
  const [a, b, c] = files.fds as [number, number, number]
  const large = message({ name: 'large', files: places(2), fill: Buffer.alloc(100_000) }, 2)
  peer.send(large, [a, b])
  peer.send(message({ name: 'small', file: new Place(0) }, 1), [c])
  await until(() => seen.length === 2, 'both messages')
  t.deepEqual(seen, [
    { name: 'large', inodes: files.inodes.slice(0, 2) },
    { name: 'small', inodes: files.inodes.slice(2) }
  ])
  files.close()
  peer.close()
  await channel.closed
})

/** A server that may have 64 open files, and how many it has. */
async function limitedServer(): Promise<{ path: string; running: Running; open(): number }> {
  const path = socketPath()
  const running = start(process.execPath, [fixture('counting-server.mjs'), path])
  await running.line()
  return { path, running, open: () => readdirSync(`/proc/${running.child.pid}/fd`).length }
}

/** A message of 2 descriptors, then one of 100, all in one write: more than the limit lets in. */
async function exceed(path: string, fds: number[]): Promise<RawPeer> {
  const peer = RawPeer.connect(path).start()
  await peer.next(HELLO)
  peer.send(hello())
  const small = message({ name: 'small', files: places(2) }, 2)
  const big = message({ name: 'big', files: places(100) }, 100)
  peer.send(Buffer.concat([small, big]), [...fds, ...fds])
  return peer
}

test('trap 03: what the limit of open files cuts off is an error with a name, and only for that channel', async t => {
  const { path, running } = await limitedServer()
  const files = openFiles(51)
  const peer = await exceed(path, files.fds)
  t.is((await peer.next(TAKEN)).id, 2, 'the frame that was complete is confirmed')
  t.is((await peer.next(GOODBYE)).value.code, documented('DESCRIPTORS_TRUNCATED'))
  await peer.ended
  t.is(await running.line(), '["message","small",2]')
  t.is(await running.line(), '["close","ERR_PASSFD_DESCRIPTORS_TRUNCATED"]')
  const channel = await connect(path)
  await channel.send({ name: 'other', file: Descriptor.openSync('/dev/null') })
  t.is(await running.line(), '["message","other",1]')
  await channel.close()
  t.is(await channel.closed, undefined)
  running.child.stdin!.end()
  t.is((await running.exit).code, 0)
  files.close()
})

test('trap 04: the descriptors that the limit of open files did let in are closed', async t => {
  const { path, running, open } = await limitedServer()
  const files = openFiles(51)
  const before = open()
  for (let i = 0; i < 5; i++) {
    const peer = await exceed(path, files.fds)
    t.is((await peer.next(GOODBYE)).value.code, documented('DESCRIPTORS_TRUNCATED'))
    await peer.ended
    await until(() => open() === before, `${before} open files again`)
  }
  running.child.stdin!.end()
  await running.exit
  files.close()
})

test('trap 05: every number of descriptors arrives whole, whatever the padding of the control buffer', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(253)
  for (const count of [1, 2, 3, 4, 5, 126, 127, 128, 251, 252, 253]) {
    peer.send(message({ name: `${count}`, files: places(count) }, count), files.fds.slice(0, count))
    await until(() => seen.length === 1, `the message with ${count}`)
    t.deepEqual(seen.splice(0), [{ name: `${count}`, inodes: files.inodes.slice(0, count) }])
  }
  files.close()
  peer.close()
  await channel.closed
})

test('trap 05: a message for one that brings two leaves the second to the next frame, or it is closed', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(2)
  const one = message({ name: 'one', file: new Place(0) }, 1)
  const before = openDescriptors().size
  peer.send(one, files.fds)
  await until(() => seen.length === 1 && native.pendingCloses() === 0, 'the first message')
  t.is(openDescriptors().size, before + 1, 'the second descriptor waits for its frame')
  peer.send(one)
  peer.send(one, files.fds)
  await until(() => seen.length === 3, 'all messages')
  const [first, second] = files.inodes as [number, number]
  t.deepEqual(
    seen.map(({ inodes }) => inodes),
    [[first], [second], [first]]
  )
  files.close()
  peer.close()
  await channel.closed
  // That the last one was closed is what every test checks
})

test('trap 06: credentials, security labels and pidfds do not crowd the descriptors out', async t => {
  const [ours, theirs] = socketpair()
  python(ours, ['options'])
  const peer = new RawPeer(theirs).start()
  peer.send(hello())
  const channel = await connect(own(ours))
  const seen = collect(channel)
  const files = openFiles(253)
  const before = openDescriptors().size
  for (const count of [1, 252, 253]) {
    peer.send(message({ name: `${count}`, files: places(count) }, count), files.fds.slice(0, count))
    await until(() => seen.length === 1, `the message with ${count}`)
    t.deepEqual(seen.splice(0), [{ name: `${count}`, inodes: files.inodes.slice(0, count) }])
    await until(() => native.pendingCloses() === 0, 'the closing')
    t.is(openDescriptors().size, before, 'a pidfd of the peer is left open')
  }
  files.close()
  peer.close()
  await channel.closed
})

test('trap 07: a read without descriptors, or one that fails, spoils nothing for the next', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(253)
  for (let i = 0; i < 5; i++) {
    peer.send(message({ name: 'plain' }))
    await until(() => seen.length === 1, 'the plain message')
    peer.send(message({ name: 'full', files: places(253) }, 253), files.fds)
    await until(() => seen.length === 2, 'the full message')
    t.deepEqual(seen.splice(0), [
      { name: 'plain', inodes: [] },
      { name: 'full', inodes: files.inodes }
    ])
  }
  files.close()
  peer.close()
  await channel.closed
})

test('trap 07: a read that fails reports none of the descriptors of the one before', async t => {
  const [left, right] = socketpair()
  const [other, unused] = socketpair()
  const file = Descriptor.openSync('/dev/null')
  const read = await new Promise<{ results: Int32Array; received: number[] }>(resolve => {
    const wire = new SocketWire(right)
    wire.start({
      onReadable: (_, results, first, count) => {
        wire.end()
        resolve({ results, received: [...results.slice(first, first + count)] })
      },
      onWritable: () => {}
    })
    native.send(left, Buffer.from('x'), 0, 1, Int32Array.of(file.borrow(), file.borrow()), 0, 2)
  })
  t.is(read.received.length, 2)
  read.results[1] = 2
  const id = native.watch(other, true)
  t.is(native.receive(id), -11, 'EAGAIN')
  t.is(read.results[1], 0)
  native.unwatch(id)
  file.close()
  for (const fd of [left, other, unused, ...read.received]) native.close(fd)
})

test('trap 10: a message that comes in pieces installs each of its descriptors once', async t => {
  const { channel, peer } = await rawPair()
  const seen = collect(channel)
  const files = openFiles(3)
  const bytes = message({ name: 'pieces', files: places(3) }, 3)
  const before = openDescriptors().size
  peer.send(bytes.subarray(0, 4), files.fds)
  await until(() => openDescriptors().size > before, 'the first piece')
  for (let at = 4; at < bytes.length - 1; at++) {
    peer.send(bytes.subarray(at, at + 1))
    await turn()
    t.is(openDescriptors().size, before + 3)
  }
  peer.send(bytes.subarray(-1))
  await until(() => seen.length === 1, 'the message')
  t.deepEqual(seen, [{ name: 'pieces', inodes: files.inodes }])
  files.close()
  peer.close()
  await channel.closed
})

test('trap 11: a message without a byte can bring descriptors: they are not overlooked', async t => {
  const [ours, theirs] = socketpair(5)
  const path = temporaryPath()
  writeFileSync(path, '')
  const held = native.held()
  t.is(python(theirs, ['empty', path, path]), '0')
  const [length, received] = await new Promise<[number, number[]]>(resolve => {
    const wire = new SocketWire(ours)
    wire.start({
      onReadable: (length, fds, first, count) => {
        wire.end()
        resolve([length, [...fds.slice(first, first + count)]])
      },
      onWritable: () => {}
    })
  })
  t.is(length, 0)
  t.deepEqual(
    received.map(fd => fstatSync(fd).ino),
    [statSync(path).ino, statSync(path).ino]
  )
  t.is(native.held(), held + 2 - 1, 'held by the shim, and the socket no more')
  for (const fd of [theirs, ...received]) native.close(fd)
})

test('trap 11: a channel closes what comes with its end of file', async t => {
  const [ours, theirs] = socketpair(5)
  const peer = new RawPeer(theirs)
  const channel = createChannel({
    wire: new SocketWire(ours),
    peer: peerOf(ours),
    limits: channelLimits({}),
    options: {}
  })
  startChannel(channel, 0)
  t.is(python(theirs, ['empty', '/dev/null', '/dev/null']), '0')
  t.is(((await channel.closed) as NodeJS.ErrnoException).code, documented('DISCONNECTED'))
  peer.close()
})

test('trap 11: SEQPACKET, where it looks like the end, is no channel', async t => {
  const [ours, theirs] = socketpair(5)
  const descriptor = own(ours)
  await t.throwsAsync(connect(descriptor), { code: documented('DESCRIPTOR_KIND') })
  descriptor.close()
  native.close(theirs)
})

const miscounts: [what: string, kind: number, value: unknown, count: number, sent: number, code: string][] = [
  ['fewer than declared', MESSAGE, places(2), 2, 1, 'DESCRIPTORS_MISSING'],
  ['none of those declared', MESSAGE, places(2), 2, 0, 'DESCRIPTORS_MISSING'],
  ['an index out of range', MESSAGE, [new Place(0), new Place(2)], 2, 2, 'DESCRIPTOR_COUNT'],
  ['an index without any', MESSAGE, [new Place(0)], 0, 0, 'DESCRIPTOR_COUNT'],
  ['an index used twice', MESSAGE, [new Place(0), new Place(0)], 2, 2, 'DESCRIPTOR_COUNT'],
  ['the only index used twice', MESSAGE, [new Place(0), new Place(0)], 1, 1, 'DESCRIPTOR_COUNT'],
  ['an index never used', MESSAGE, [new Place(1)], 2, 2, 'DESCRIPTOR_COUNT'],
  ['no index at all', MESSAGE, 'nothing', 2, 2, 'DESCRIPTOR_COUNT'],
  ['a request with an index never used', REQUEST, [new Place(1)], 2, 2, 'DESCRIPTOR_COUNT'],
  ['a reply with an index never used', REPLY, [new Place(0)], 2, 2, 'DESCRIPTOR_COUNT'],
  ['a reply with fewer than declared', REPLY, places(2), 2, 1, 'DESCRIPTORS_MISSING'],
  ['a reply with an index used twice', REPLY, [new Place(1), new Place(1)], 2, 2, 'DESCRIPTOR_COUNT']
]

for (const [what, kind, value, count, sent, code] of miscounts)
  test(`trap 13: ${what} ends the channel and leaves none open`, async t => {
    const { channel, peer } = await rawPair()
    const file = Descriptor.openSync('/dev/null')
    let id = 0
    if (kind === REPLY) {
      void channel.request('?', { descriptors: 2 })
      ;({ id } = await peer.next(REQUEST))
    }
    channel.on('message', () => t.fail('it was delivered'))
    peer.send(frame(kind, body(value), { count, id }), Array(sent).fill(file.borrow()))
    t.is((await peer.next(GOODBYE)).value.code, documented(code))
    t.is(((await channel.closed) as NodeJS.ErrnoException).code, documented(code))
    t.deepEqual(peer.rest(), [], 'nothing follows, and nothing was confirmed')
    file.close()
    peer.close()
  })

test('trap 14: bytes whose descriptors do not come end the channel at once, not by a time limit', async t => {
  const { channel, peer } = await rawPair({ frameTimeout: 0 })
  peer.send(message({ file: new Place(0) }, 1))
  t.is((await peer.next(GOODBYE)).value.code, documented('DESCRIPTORS_MISSING'))
  await channel.closed
  peer.close()
})

test('trap 14: descriptors whose bytes do not come end the channel by a time limit', async t => {
  const { channel, peer } = await rawPair({ frameTimeout: 50 })
  const file = Descriptor.openSync('/dev/null')
  peer.send(frame(CREDIT, undefined, { id: 1 }), [file.borrow(), file.borrow()])
  t.is((await peer.next(GOODBYE)).value.code, documented('FRAME_STALLED'))
  await channel.closed
  file.close()
  peer.close()
})

test('trap 14: more descriptors ahead of their frames than the protocol allows end the channel', async t => {
  const file = Descriptor.openSync('/dev/null')
  for (const ahead of [252, 253, 254]) {
    const { channel, peer } = await rawPair({ frameTimeout: 0 })
    collect(channel)
    const nothing = frame(CREDIT, undefined, { id: 1 })
    peer.send(nothing, Array(200).fill(file.borrow()))
    await turn()
    peer.send(nothing, Array(ahead - 200).fill(file.borrow()))
    if (ahead > 253) t.is((await peer.next(GOODBYE)).value.code, documented('DESCRIPTORS_AHEAD'))
    else {
      peer.send(message({ files: places(ahead) }, ahead))
      t.is((await peer.next(TAKEN)).id, ahead)
    }
    peer.close()
    await channel.closed
  }
  file.close()
})

for (const [what, bytes] of [
  ['header', message('x').subarray(0, 5)],
  ['body', message('never whole').subarray(0, -1)],
  ['large body', message(Buffer.alloc(100_000)).subarray(0, 70_000)]
] as const)
  test(`trap 14: a frame whose ${what} never ends does so by a time limit`, async t => {
    const { channel, peer } = await rawPair({ frameTimeout: 50 })
    const file = Descriptor.openSync('/dev/null')
    peer.send(bytes, [file.borrow()])
    t.is((await peer.next(GOODBYE)).value.code, documented('FRAME_STALLED'))
    t.is(((await channel.closed) as NodeJS.ErrnoException).code, documented('FRAME_STALLED'))
    file.close()
    peer.close()
  })

test('trap 14: a hello that never ends does so by a time limit, however it trickles', async t => {
  const [ours, theirs] = socketpair()
  const peer = new RawPeer(theirs).start()
  const failure = t.throwsAsync(connect(own(ours), { handshakeTimeout: 50 }), { code: documented('HANDSHAKE_TIMEOUT') })
  let over = false
  const end = peer.next(GOODBYE).then(({ value }) => {
    over = true
    t.is(value.code, documented('HANDSHAKE_TIMEOUT'))
  })
  for (const byte of hello({ agent: 'x'.repeat(3000) })) {
    for (let i = 0; i < 50; i++) await turn()
    if (over) break
    peer.send(Buffer.of(byte))
  }
  await Promise.all([failure, end])
  peer.close()
})

test('trap 15: several control messages in one send, and other kinds of them, are put together in order', async t => {
  const [ours, theirs] = socketpair()
  python(ours, ['options'])
  const peer = new RawPeer(theirs).start()
  peer.send(hello())
  const channel = await connect(own(ours))
  const seen = collect(channel)
  const files = openFiles(5)
  const bytes = message({ name: 'apart', files: places(5) }, 5)
  t.is(python(theirs, ['apart', ...files.paths], bytes), `${bytes.length}`)
  await until(() => seen.length === 1, 'the message')
  t.deepEqual(seen, [{ name: 'apart', inodes: files.inodes }])
  files.close()
  peer.close()
  await channel.closed
})

/** A channel whose peer has sent `bytes` with its own end of the connection, and is gone: only this process holds that end. */
async function withOwnEnd(bytes: Buffer, options: ChannelOptions<any> = {}): Promise<Channel<any, any>> {
  const [ours, theirs] = socketpair()
  const first = hello()
  native.send(theirs, first, 0, first.length, new Int32Array(0), 0, 0)
  native.send(theirs, bytes, 0, bytes.length, Int32Array.of(theirs), 0, 1)
  native.close(theirs) // without shutdown(2)
  return connect<any, any>(own(ours), options)
}

test("a peer's own end of the connection in an incomplete frame keeps the connection until frameTimeout", async t => {
  const channel = await withOwnEnd(message([new Place(0)], 1).subarray(0, 14), { frameTimeout: 50 })
  t.is(((await channel.closed) as NodeJS.ErrnoException).code, documented('FRAME_STALLED'))
})

test("a peer's own end of the connection in a message keeps the connection until its scope ends, or its owner closes it", async t => {
  const whole = message([new Place(0)], 1)
  const left = await withOwnEnd(whole)
  left.on('message', () => {})
  t.is(((await left.closed) as NodeJS.ErrnoException).code, documented('DISCONNECTED'))
  const kept = await withOwnEnd(whole)
  const [end] = await new Promise<Descriptor[]>(resolve => {
    kept.on('message', message => resolve([...message.claim().descriptors]))
  })
  let isOver = false
  void kept.closed.then(() => {
    isOver = true
  })
  for (let turns = 0; turns < 10; turns++) await turn()
  t.false(isOver)
  end!.close()
  t.is(((await kept.closed) as NodeJS.ErrnoException).code, documented('DISCONNECTED'))
})
