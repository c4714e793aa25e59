import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { own } from '../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { type Packet, PacketSocket } from '../../src/stream/index.ts'
import { file, patched } from '../helpers/channels.ts'
import { identity } from '../helpers/facts.ts'
import { close, packetAndNumber, packetPair, read } from '../helpers/streams.ts'
import { test, until } from '../helpers/test.ts'

const ETOOMANYREFS = -109
const ENOBUFS = -105

function sendPacket(to: number, text: string, ...fds: number[]): number {
  const bytes = Buffer.from(text)
  return native.sendMessage(to, bytes, 0, bytes.length, Int32Array.from(fds), 0, fds.length, null)
}

/** All packets until the end, as text and number of descriptors, which are closed. */
async function all(socket: PacketSocket): Promise<[string, number][]> {
  const packets: [string, number][] = []
  for await (const packet of socket) packets.push(summary(packet))
  return packets
}

function summary({ bytes, descriptors }: Packet): [string, number] {
  for (const descriptor of descriptors) descriptor.close()
  return [String(bytes), descriptors.length]
}

test('packets keep their boundaries and their descriptors', async t => {
  const [left, right] = packetPair()
  const mine = Descriptor.openSync('/etc/hostname')
  const before = identity(mine.borrow())
  left.send('abc')
  await left.send(Buffer.from('def'), [mine, file()])
  await left.send('')
  t.true(mine.closed)
  const iterator = right[Symbol.asyncIterator]()
  t.is(String((await iterator.next()).value.bytes), 'abc')
  const { descriptors } = (await iterator.next()).value as Packet
  t.is(identity(descriptors[0]!.borrow()), before)
  for (const descriptor of descriptors) descriptor.close()
  t.deepEqual(summary((await iterator.next()).value), ['', 0])
  left.end()
  t.deepEqual(await iterator.next(), { done: true, value: undefined })
  t.is(await right.closed, undefined)
  left.on('message', () => t.fail())
  t.is(await left.closed, undefined)
})

test('trap 11: an empty packet with descriptors is no end of file; neither is one without', async t => {
  const [socket, peer] = packetAndNumber()
  sendPacket(peer, '', 0)
  sendPacket(peer, '')
  sendPacket(peer, 'x')
  native.shutdown(peer, 1)
  t.deepEqual(await all(socket), [
    ['', 1],
    ['', 0],
    ['x', 0]
  ])
  close(peer)
  await socket.closed
})

test('trap 11: empty packets that were sent before the socket was adopted', async t => {
  const ends = new Int32Array(2)
  native.socketpair(5, ends)
  sendPacket(ends[0]!, '')
  sendPacket(ends[0]!, '', 0)
  native.shutdown(ends[0]!, 1)
  native.release(ends[1]!)
  const socket = PacketSocket.from(Descriptor.adopt(ends[1]!))
  t.deepEqual(await all(socket), [
    ['', 0],
    ['', 1]
  ])
  close(ends[0]!)
  await socket.closed
})

test('trap 12: a reset comes before the queued packets; they are read on, and then it is told', async t => {
  const [socket, peer] = packetAndNumber()
  await socket.send('nobody reads this')
  sendPacket(peer, 'first', 0)
  sendPacket(peer, 'second')
  close(peer)
  t.deepEqual(await all(socket), [
    ['first', 1],
    ['second', 0]
  ])
  t.is(((await socket.closed) as NodeJS.ErrnoException).code, 'ECONNRESET')
})

test('trap 37: the peer is gone: what it sent is read before the failure is told', async t => {
  const [socket, peer] = packetAndNumber()
  const seen: [string, number][] = []
  socket.on('message', packet => seen.push(summary(packet)))
  await turn()
  sendPacket(peer, 'last words', 0)
  close(peer)
  const mine = file()
  const error = await socket.send('x', [mine]).catch(caught => caught)
  t.true(['EPIPE', 'ECONNRESET'].includes(error.code))
  t.true(mine.closed)
  t.is(await socket.closed, error)
  t.deepEqual(seen, [['last words', 1]])
  await t.throwsAsync(socket.send('y'), { code: error.code })
})

test('nothing is read without a reader: packets wait in the kernel', async t => {
  const [socket, peer] = packetAndNumber()
  sendPacket(peer, 'a', 0)
  for (let i = 0; i < 5; i++) await turn()
  t.is(native.pending(peer), 0)
  const onMessage = (packet: Packet): void => void seen.push(summary(packet))
  const seen: [string, number][] = []
  socket.on('message', onMessage)
  await until(() => seen.length === 1, 'the packet')
  socket.off('message', onMessage)
  await turn()
  sendPacket(peer, 'b')
  for (let i = 0; i < 5; i++) await turn()
  t.deepEqual(seen, [['a', 1]])
  for await (const packet of socket) {
    t.deepEqual(summary(packet), ['b', 0])
    break
  }
  socket.destroy()
  await socket.closed
  close(peer)
})

test('more packets than the socket takes: in order, with their descriptors', async t => {
  const [left, right] = packetPair()
  const sent = Array.from({ length: 300 }, (_, index) => left.send(Buffer.alloc(3000, index), [file()]))
  left.end()
  let count = 0
  for await (const { bytes, descriptors } of right) {
    t.is(bytes[2999], count % 256)
    t.is(descriptors.length, 1)
    descriptors[0]!.close()
    count++
  }
  t.is(count, 300)
  await Promise.all(sent)
  left.destroy()
})

test('what waits to leave is not what the caller writes into its buffer afterwards', async t => {
  const [left, right] = packetPair()
  const own = Buffer.alloc(3000)
  const sent = Array.from({ length: 300 }, (_, index) => left.send(own.fill(index)))
  left.end()
  let count = 0
  for await (const { bytes } of right) t.is(bytes[0], count++ % 256)
  t.is(count, 300)
  await Promise.all(sent)
  left.destroy()
})

test('trap 19: descriptors in flight are back pressure', async t => {
  const [left, peer] = packetAndNumber()
  let refusals = 0
  await patched(
    'sendMessage',
    original =>
      (...args) =>
        args[6] > 0 && ++refusals <= 3 ? ETOOMANYREFS : original(...args),
    () => left.send('x', [file()])
  )
  t.is(refusals, 4)
  const { text, fds } = read(peer) as { text: string; fds: number[] }
  t.is(text, 'x')
  close(...fds, peer)
  left.destroy()
})

test('misuse throws and moves nothing; bounds', async t => {
  const ends = new Int32Array(2)
  native.socketpair(5, ends)
  const [number, peer] = ends as unknown as [number, number]
  const socket = PacketSocket.from(own(number), { maxQueued: 2, maxDescriptors: 3 })
  const mine = file()
  const many = Array.from({ length: 254 }, file)
  t.throws(() => socket.send('x', many), { code: 'ERR_PASSFD_TOO_MANY_RIGHTS' })
  t.throws(() => socket.send('x', many.slice(0, 4)), { code: 'ERR_PASSFD_QUEUE_FULL' })
  t.throws(() => socket.send('x', [mine, mine]), { code: 'ERR_PASSFD_DESCRIPTOR_REPEATED' })
  t.throws(() => socket.send(null as never, [mine]), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.true(many.every(({ closed }) => !closed))
  for (const descriptor of many) descriptor.close()
  while (native.sendMessage(number, Buffer.alloc(1000), 0, 1000, new Int32Array(0), 0, 0, null) > 0);
  const waiting = [socket.send('1', [file()]), socket.send('2')]
  t.throws(() => socket.send('3', [mine]), { code: 'ERR_PASSFD_QUEUE_FULL' })
  socket.end()
  t.throws(() => socket.send('3', [mine]), { code: 'ERR_PASSFD_STREAM_ENDED' })
  t.false(mine.closed)
  mine.close()
  socket.destroy()
  for (const promise of waiting) await t.throwsAsync(promise, { code: 'ERR_PASSFD_CLOSED' })
  close(peer)
})

test('a packet that is too large: for the sender EMSGSIZE, for the receiver an error', async t => {
  const [left, right] = packetPair({}, { maxPacket: 100 })
  const mine = file()
  await t.throwsAsync(left.send(Buffer.alloc(10_000_000), [mine]), { code: 'EMSGSIZE' })
  t.false(mine.closed)
  mine.close()
  await left.send(Buffer.alloc(100), [])
  await left.send(Buffer.alloc(101), [file()])
  const sizes: number[] = []
  for await (const { bytes } of right) sizes.push(bytes.length)
  t.deepEqual(sizes, [100])
  t.is(((await right.closed) as { code?: string }).code, 'ERR_PASSFD_PACKET_TOO_LARGE')
  left.destroy()
})

test('the flag of lost descriptors ends it, and what came is closed', async t => {
  const [socket, peer] = packetAndNumber()
  sendPacket(peer, 'x', 0, 1)
  await patched(
    'receiveMessage',
    original =>
      (fd, bytes, start, end, results, ...rest) => {
        const got = original(fd, bytes, start, end, results, ...rest)
        if (got > 0) results[2]! |= 1
        return got
      },
    async () => {
      t.deepEqual(await all(socket), [])
    }
  )
  t.is(((await socket.closed) as { code?: string }).code, 'ERR_PASSFD_DESCRIPTORS_TRUNCATED')
  close(peer)
})

test('a listener that destroys the socket gets no packet more, and nothing reads its number any more', async t => {
  const [socket, peer] = packetAndNumber()
  const got: [string, number][] = []
  let reads = 0
  socket.on('message', packet => {
    got.push(summary(packet))
    socket.destroy()
    reads = 0
  })
  const { readable, writable } = Descriptor.pipe()
  sendPacket(peer, 'a', writable.borrow())
  sendPacket(peer, 'b', writable.borrow(), writable.borrow())
  writable.close()
  await patched(
    'receiveMessage',
    original =>
      (...args) => {
        reads++
        return original(...args)
      },
    async () => void (await once(socket, 'close'))
  )
  // Nobody holds the pipe's end any more
  for await (const chunk of readable.toReadable()) t.fail(`${chunk}`)
  t.deepEqual(got, [['a', 1]])
  t.is(reads, 0)
  native.close(peer)
})

test('half-close', async t => {
  const [left, right] = packetPair({ allowHalfOpen: true }, { allowHalfOpen: true })
  left.send('question')
  await left.end()
  t.deepEqual(await all(right), [['question', 0]])
  await right.send('answer')
  right.end()
  t.deepEqual(await all(left), [['answer', 0]])
  await Promise.all([left.closed, right.closed])
})

test('a listener that throws loses nothing of what follows', async t => {
  const [socket, peer] = packetAndNumber()
  const listeners = process.listeners('uncaughtException')
  for (const listener of listeners) process.off('uncaughtException', listener)
  const thrown = once(process, 'uncaughtException' as never)
  const seen: string[] = []
  socket.on('message', ({ bytes }) => {
    seen.push(String(bytes))
    if (seen.length === 1) throw new Error('on purpose')
  })
  sendPacket(peer, 'a')
  sendPacket(peer, 'b')
  await thrown
  for (const listener of listeners) process.on('uncaughtException', listener)
  await until(() => seen.length === 2, 'the second packet')
  t.deepEqual(seen, ['a', 'b'])
  close(peer)
  await socket.closed
})

test('only a connected packet socket is adopted', t => {
  const [left, right] = Descriptor.socketpair()
  t.throws(() => PacketSocket.from(left), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  for (const none of [undefined, null, {}, 3] as any[])
    t.throws(() => PacketSocket.from(none), { code: 'ERR_PASSFD_INVALID_ARGUMENT', message: /must be a Descriptor/ })
  t.throws(() => PacketSocket.from(left, { maxPacket: 0 }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  left.close()
  right.close()
})

test('if the kernel does not send the end, the socket closes with the error', async t => {
  const [left, right] = packetPair()
  await patched(
    'shutdown',
    () => () => ENOBUFS,
    () => left.end()
  )
  left.on('message', () => t.fail())
  t.like(await left.closed, { code: 'ENOBUFS', syscall: 'shutdown' })
  right.destroy()
})
