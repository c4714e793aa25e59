import { spawn } from 'node:child_process'
import { on, once } from 'node:events'
import type net from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { own } from '../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../src/index.ts'
import { MESSAGE_FIRST, native } from '../../src/os/native.ts'
import { DescriptorStream } from '../../src/stream/index.ts'
import { file, patched } from '../helpers/channels.ts'
import { closedNumber, identity, isCloseOnExec, isNonBlocking, isOpen } from '../helpers/facts.ts'
import { start, startFixture } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { close, destroyed, EAGAIN, read, recorded, streamAndNumber, streamPair, write } from '../helpers/streams.ts'
import { test, until } from '../helpers/test.ts'

const ETOOMANYREFS = -109
const ENOBUFS = -105

// --- receiving

test('trap 01: plain bytes before a write with descriptors do not merge with it', async t => {
  const [stream, peer] = streamAndNumber()
  const { events, closeAll } = recorded(stream)
  write(peer, 'abc')
  write(peer, 'def', 0)
  await until(() => stream.bytesRead === 6, 'all bytes')
  t.deepEqual(events, ['abc', '1 at 3', 'd', 'ef'])
  closeAll()
  close(peer)
  await destroyed(stream)
})

test('trap 01: nor do those that come between two system calls of ours', async t => {
  const [ours, theirs] = Descriptor.socketpair()
  const fixture = fileURLToPath(new URL('../fixtures/places.py', import.meta.url))
  const child = spawn(systemPython, [fixture], { stdio: ['ignore', 'inherit', 'inherit', theirs.borrow()] })
  const exit = once(child, 'exit')
  theirs.close()
  let count = 0
  let wrong = 0
  for await (const { bytes, descriptors } of DescriptorStream.from(ours).withDescriptors()) {
    count += descriptors.length
    if (descriptors.length > 0 && bytes[0] !== 'X'.charCodeAt(0)) wrong++
    for (const descriptor of descriptors) descriptor.close()
  }
  t.true(count > 0)
  t.is(wrong, 0)
  t.deepEqual(await exit, [0, null])
})

test('trap 02: a write with descriptors that is read in parts does not merge with the next one', async t => {
  const [stream, peer] = streamAndNumber()
  const { events, closeAll } = recorded(stream)
  write(peer, 'a'.repeat(1000), 0)
  write(peer, 'b', 1, 2)
  write(peer, 'c')
  await until(() => stream.bytesRead === 1002, 'all bytes')
  t.deepEqual(
    events.filter(event => / at /.test(event)),
    ['1 at 0', '2 at 1000']
  )
  t.is(events.indexOf('2 at 1000'), events.findIndex(event => event.startsWith('b')) - 1, 'right before its byte')
  closeAll()
  close(peer)
  await destroyed(stream)
})

test('behind 1,024 plain bytes or more the position is a lower bound; the order holds', async t => {
  const [stream, peer] = streamAndNumber()
  const { descriptors, closeAll } = recorded(stream)
  const positions: number[] = []
  stream.on('descriptors', (_, position) => positions.push(position))
  write(peer, 'a'.repeat(70_000), 0)
  write(peer, 'b', 1, 2)
  await until(() => stream.bytesRead === 70_001, 'all bytes')
  t.is(descriptors.length, 3)
  t.is(positions[0], 0)
  t.true(positions[1]! >= 1024 && positions[1]! <= 70_000, `${positions}`)
  closeAll()
  close(peer)
  await destroyed(stream)
})

test('what comes is the same file, close-on-exec, and the listener’s own', async t => {
  const [left, right] = streamPair()
  const sent = Descriptor.openSync('/etc/hostname')
  const before = identity(sent.borrow())
  left.writeWithDescriptors('x', [sent])
  t.true(sent.closed)
  t.throws(() => sent.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_MOVED' })
  right.resume()
  const [descriptors, position] = await once(right, 'descriptors')
  t.is(position, 0)
  t.is(descriptors.length, 1)
  t.is(identity(descriptors[0].borrow()), before)
  t.true(isCloseOnExec(descriptors[0].borrow()))
  await destroyed(left, right)
  t.is(descriptors[0].kind, 'file', 'it outlives the stream')
  descriptors[0].close()
})

test('without a listener they are closed at once, and the bytes come', async t => {
  const [stream, peer] = streamAndNumber()
  const { readable, writable } = Descriptor.pipe()
  write(peer, 'hello', writable.borrow())
  writable.close()
  const socket = readable.toReadable().resume()
  const seen: string[] = []
  stream.on('data', bytes => seen.push(String(bytes)))
  await until(() => stream.bytesRead === 5, 'the bytes')
  t.is(seen.join(''), 'hello')
  await once(socket, 'end') // nobody holds the other end any more
  close(peer)
  await destroyed(stream)
})

test('fds: bare numbers, the listener’s to close; a listener for descriptors comes first', async t => {
  const [stream, peer] = streamAndNumber()
  stream.resume()
  write(peer, 'x', 0, 1)
  const [fds] = await new Promise<number[][]>(resolve => stream.once('fds', numbers => resolve([numbers])))
  t.is(fds!.length, 2)
  for (const fd of fds!) {
    t.true(isOpen(fd) && isCloseOnExec(fd))
    Descriptor.adopt(fd).close() // passfd doesn't hold it any more
  }
  stream.on('fds', () => t.fail())
  const { descriptors, closeAll } = recorded(stream)
  write(peer, 'y', 0)
  await until(() => descriptors.length === 1, 'the descriptor')
  closeAll()
  close(peer)
  await destroyed(stream)
})

test('trap 09: what a net.Socket loses, this delivers', async t => {
  const lost = Descriptor.socketpair()
  const socket = lost[1].toSocket()
  write(lost[0].borrow(), 'x', 0)
  const open = native.held()
  const [bytes] = await once(socket, 'data')
  t.is(String(bytes), 'x')
  t.is(native.held(), open, 'the byte came, its descriptor did not')
  socket.destroy()
  lost[0].close()

  const [stream, peer] = streamAndNumber()
  stream.resume()
  write(peer, 'x', 0)
  const [descriptors] = await once(stream, 'descriptors')
  t.is(descriptors.length, 1)
  descriptors[0].close()
  close(peer)
  await destroyed(stream)
})

test('trap 03 and 04: at the limit of open files what came is closed, and the stream fails', async t => {
  const [stream, peer] = streamAndNumber()
  const { events } = recorded(stream)
  // The kernel's answer at the limit: some, and the flag. (A real limit: test/fixtures/emfile-stream.mjs.)
  const closed: number[] = []
  await patched(
    'receivePlaced',
    original => (fd, bytes, start, end, results) => {
      const got = original(fd, bytes, start, end, results)
      if (got > 0 && results[1]! > 0) {
        results[2] = 1
        closed.push(...results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + results[1]!))
      }
      return got
    },
    async () => {
      write(peer, 'abc')
      write(peer, 'def', 0, 1)
      const [error] = await once(stream, 'error')
      t.is(error.code, 'ERR_PASSFD_DESCRIPTORS_TRUNCATED')
    }
  )
  t.deepEqual(events, ['abc'])
  t.is(closed.length, 2)
  await until(() => closed.every(fd => !isOpen(fd)), 'the prefix to be closed')
  close(peer)
})

test('trap 03: a real limit of open files', async t => {
  const fixture = fileURLToPath(new URL('../fixtures/emfile-stream.mjs', import.meta.url))
  const running = start(process.execPath, [fixture])
  t.is(await running.line(), 'ERR_PASSFD_DESCRIPTORS_TRUNCATED')
  t.is(await running.line(), 'left open: 0')
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
})

test('reading begins with the first reader: no descriptor comes before listeners can be there', async t => {
  const [stream, peer] = streamAndNumber()
  write(peer, 'x', 0)
  for (let i = 0; i < 5; i++) await turn()
  t.is(stream.bytesRead, 0)
  const { events, closeAll } = recorded(stream)
  await until(() => events.length === 2, 'both')
  t.deepEqual(events, ['1 at 0', 'x'])
  closeAll()
  close(peer)
  await destroyed(stream)
})

test('pull reading: takeDescriptors gives those of the bytes that were read', async t => {
  const [stream, peer] = streamAndNumber({ keepDescriptors: true })
  write(peer, 'abc')
  write(peer, 'def', 0)
  write(peer, 'ghi', 1, 2)
  stream.on('readable', () => {})
  await until(() => stream.readableLength === 9, 'all bytes')
  t.is(String(stream.read(3)), 'abc')
  t.deepEqual(stream.takeDescriptors(), [])
  t.is(String(stream.read(1)), 'd')
  const first = stream.takeDescriptors()
  t.is(first.length, 1)
  t.deepEqual(stream.takeDescriptors(6), [])
  const second = stream.takeDescriptors(7)
  t.is(second.length, 2)
  t.deepEqual(stream.takeDescriptors(100), [])
  for (const descriptor of [...first, ...second]) descriptor.close()
  close(peer)
  await destroyed(stream)
})

test('a parser that waits for more bytes gets them, however many descriptors are kept', async t => {
  const [left, right] = streamPair({}, { maxDescriptors: 20, keepDescriptors: true })
  for (let i = 0; i < 18; i++) left.writeWithDescriptors('x', [file()])
  for await (const _ of on(right, 'readable')) if (right.read(18) !== null) break
  const descriptors = right.takeDescriptors()
  t.is(descriptors.length, 18)
  for (const descriptor of descriptors) descriptor.close()
  await destroyed(left, right)
})

test('what is kept is bounded, and closed with the stream', async t => {
  const [stream, peer] = streamAndNumber({ keepDescriptors: true, maxDescriptors: 5 })
  stream.resume()
  write(peer, 'a', 0, 1, 2)
  write(peer, 'b', 0, 1)
  await until(() => stream.bytesRead === 2, 'both')
  t.false(stream.destroyed, 'five are allowed')
  write(peer, 'c', 0)
  const [error] = await once(stream, 'error')
  t.is(error.code, 'ERR_PASSFD_DESCRIPTORS_UNTAKEN')
  close(peer)
})

test('a slow reader: nothing is read beyond highWaterMark, then it goes on', async t => {
  const [stream, peer] = streamAndNumber({ highWaterMark: 1000 })
  stream.once('readable', () => {})
  for (let i = 0; i < 20; i++) write(peer, 'x'.repeat(500), 0)
  await until(() => stream.readableLength >= 1000, 'the mark')
  for (let i = 0; i < 10; i++) await turn()
  t.true(stream.bytesRead < 2000, 'most of the twenty writes wait in the kernel')
  stream.resume()
  await until(() => stream.bytesRead === 10_000, 'the rest')
  close(peer)
  await destroyed(stream)
})

test('a listener that throws loses neither bytes nor descriptors', async t => {
  const [stream, peer] = streamAndNumber()
  const thrown = once(process, 'uncaughtException' as never)
  const avas = process.listeners('uncaughtException').slice(0, -1)
  for (const listener of avas) process.off('uncaughtException', listener)
  stream.once('descriptors', descriptors => {
    for (const descriptor of descriptors) descriptor.close()
    throw new Error('on purpose')
  })
  const seen: string[] = []
  stream.on('data', bytes => seen.push(String(bytes)))
  write(peer, 'abc')
  write(peer, 'def', 0)
  const [error] = await thrown
  for (const listener of avas) process.on('uncaughtException', listener)
  t.is((error as unknown as Error).message, 'on purpose')
  await until(() => stream.bytesRead === 6, 'the rest')
  t.is(seen.join(''), 'abcdef')
  close(peer)
  await destroyed(stream)
})

test('destroyed by a listener in the middle: what is still to be told is closed', async t => {
  const [stream, peer] = streamAndNumber()
  stream.on('descriptors', () => t.fail())
  stream.once('data', () => stream.destroy())
  write(peer, 'abc')
  write(peer, 'def', 0)
  await once(stream, 'close')
  await until(() => typeof read(peer) === 'object', 'the end') // it is closed off the loop
  close(peer)
})

// --- sending

test('trap 16: after a partial write the descriptors are not sent again', async t => {
  const [stream, peer] = streamAndNumber()
  const size = 1_000_000 // more than the socket takes
  const { writable, readable } = Descriptor.pipe()
  const left = new Promise(resolve => stream.writeWithDescriptors(Buffer.alloc(size, 'x'), [writable], resolve))
  let bytes = 0
  const fds: number[] = []
  while (bytes < size) {
    const got = read(peer)
    if (got === EAGAIN) {
      await turn()
      continue
    }
    bytes += (got as { text: string }).text.length
    fds.push(...(got as { fds: number[] }).fds)
  }
  t.falsy(await left)
  t.is(fds.length, 1)
  close(...fds, peer)
  readable.close()
  await destroyed(stream)
})

test('large writes get a larger send buffer, and small ones do not', async t => {
  const room: number[] = []
  for (const size of [32_768, 65_536]) {
    const [stream, peer] = streamAndNumber()
    for (let i = 0; i < 40; i++) stream.write(Buffer.alloc(size))
    await turn()
    room.push(stream.bytesWritten)
    stream.on('error', () => {})
    await destroyed(stream)
    close(peer)
  }
  t.true(room[1]! > 1.3 * room[0]!, `${room}`)
})

test('what a program keeps of large reads is its own', async t => {
  const [writer, reader] = streamPair()
  const kept: Buffer[] = []
  reader.on('data', bytes => kept.push(bytes))
  const count = 30
  for (let i = 0; i < count; i++) writer.write(Buffer.alloc(65_536, i))
  writer.end()
  await once(reader, 'end')
  const all = Buffer.concat(kept)
  t.is(all.length, count * 65_536)
  for (let i = 0; i < count; i++) t.true(all.subarray(i * 65_536, (i + 1) * 65_536).every(byte => byte === i))
  await destroyed(writer, reader)
})

test('trap 16: EAGAIN has sent none; they leave with their first byte when there is room', async t => {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  const [mine, peer] = ends as unknown as [number, number]
  let filled = 0
  for (let sent = 0; sent >= 0; sent = native.send(mine, Buffer.alloc(4096), 0, 4096, ends, 0, 0)) filled += sent
  const stream = DescriptorStream.from(own(mine))
  const left = new Promise(resolve => stream.writeWithDescriptors('the end', [file(), file()], resolve))
  await turn()
  t.is(stream.bytesWritten, 0)
  let bytes = 0
  while (bytes < filled) bytes += (read(peer) as { text: string }).text.length
  t.falsy(await left)
  const last = read(peer) as { text: string; fds: number[] }
  t.is(last.text, 'the end')
  t.is(last.fds.length, 2)
  close(...last.fds, peer)
  await destroyed(stream)
})

test('trap 17: descriptors without bytes are refused, and stay', t => {
  const [stream, peer] = streamAndNumber()
  const mine = file()
  for (const empty of ['', Buffer.alloc(0)])
    t.throws(() => stream.writeWithDescriptors(empty, [mine]), { code: 'ERR_PASSFD_EMPTY_WRITE' })
  t.throws(() => stream.writeWithFds('', [0]), { code: 'ERR_PASSFD_EMPTY_WRITE' })
  t.false(mine.closed)
  mine.close()
  close(peer)
  stream.destroy()
})

test('trap 18: 253 in one write, 254 are refused by name', async t => {
  const [stream, peer] = streamAndNumber()
  const many = Array.from({ length: 254 }, file)
  t.throws(() => stream.writeWithDescriptors('x', many), { code: 'ERR_PASSFD_TOO_MANY_RIGHTS' })
  t.true(many.every(({ closed }) => !closed))
  many.pop()!.close()
  await new Promise(resolve => stream.writeWithDescriptors('x', many, resolve))
  const { fds } = read(peer) as { fds: number[] }
  t.is(fds.length, 253)
  close(...fds, peer)
  await destroyed(stream)
})

test('trap 19: too many descriptors in flight is back pressure: tried again, in order', async t => {
  const [stream, peer] = streamAndNumber()
  let refusals = 0
  await patched(
    'sendVector',
    original =>
      (...args) =>
        args[5] > 0 && ++refusals <= 3 ? ETOOMANYREFS : original(...args),
    async () => {
      stream.write('a')
      const left = new Promise(resolve => stream.writeWithDescriptors('b', [file()], resolve))
      stream.write('c')
      t.falsy(await left)
    }
  )
  t.is(refusals, 4, 'the fourth was none')
  await until(() => stream.writableLength === 0, 'all of it')
  const [first, second] = [read(peer), read(peer)] as { text: string; fds: number[] }[]
  t.is(first!.text + (second?.text ?? ''), 'abc')
  close(...first!.fds, ...(second?.fds ?? []), peer)
  await destroyed(stream)
})

test('misuse throws and moves nothing', async t => {
  const [stream, peer] = streamAndNumber({ maxDescriptors: 3 })
  const [one, gone] = [file(), file()]
  gone.close()
  t.throws(() => stream.writeWithDescriptors('x', [one, gone]), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  t.throws(() => stream.writeWithDescriptors('x', [one, one]), { code: 'ERR_PASSFD_DESCRIPTOR_REPEATED' })
  t.throws(() => stream.writeWithDescriptors('x', [one, 3 as never]), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.throws(() => stream.writeWithDescriptors(5 as never, [one]), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.throws(() => stream.writeWithFds('x', [closedNumber(), 0]), { code: 'EBADF' })
  const [left, right] = Descriptor.socketpair()
  const copy = left.dup()
  const itself = DescriptorStream.from(left)
  t.throws(() => itself.writeWithDescriptors('x', [copy]), { code: 'ERR_PASSFD_OWN_SOCKET' })
  t.false(copy.closed)
  stream.cork()
  stream.writeWithDescriptors('x', [file(), file()])
  const two = [one, file()]
  t.throws(() => stream.writeWithDescriptors('x', two), { code: 'ERR_PASSFD_QUEUE_FULL' })
  t.true(two.every(({ closed }) => !closed))
  stream.uncork()
  stream.end()
  t.throws(() => stream.writeWithDescriptors('x', two), { code: 'ERR_PASSFD_STREAM_ENDED' })
  t.true(two.every(({ closed }) => !closed))
  for (const descriptor of [...two, copy, right]) descriptor.close()
  close(peer)
  await destroyed(stream, itself)
})

test('corked and plain writes keep their order, and each group its first byte', async t => {
  const [stream, peer] = streamAndNumber()
  stream.cork()
  stream.write('a')
  stream.writeWithDescriptors('bb', [file()])
  stream.writeWithFds('cc', [0, 1])
  stream.write('')
  stream.write('d')
  stream.writeWithDescriptors('e', [])
  stream.uncork()
  await until(() => stream.writableLength === 0, 'all of it')
  const receiver = DescriptorStream.from(own(peer))
  const { events, closeAll } = recorded(receiver)
  await until(() => receiver.bytesRead === 7, 'all of it')
  t.deepEqual(
    events.filter(event => / at /.test(event)),
    ['1 at 1', '2 at 3']
  )
  t.is(events.filter(event => !/ at /.test(event)).join(''), 'abbccde')
  t.is(stream.bytesWritten, 7)
  closeAll()
  await destroyed(stream, receiver)
})

test('writeWithFds sends duplicates: the numbers stay the caller’s', async t => {
  const [left, right] = streamPair()
  const mine = file()
  left.writeWithFds('x', [mine.borrow()])
  right.resume()
  const [descriptors] = await once(right, 'descriptors')
  t.is(identity(descriptors[0].borrow()), identity(mine.borrow()))
  t.false(mine.closed)
  mine.close()
  descriptors[0].close()
  await destroyed(left, right)
})

test('many descriptors on few bytes: false, and drain when they have left', async t => {
  const [stream, peer] = streamAndNumber({ maxDescriptors: 10 })
  stream.cork()
  const results = Array.from({ length: 8 }, () => stream.writeWithFds('x', [0]))
  t.deepEqual(results, [true, true, true, true, true, false, false, false])
  const drained = once(stream, 'drain')
  stream.uncork()
  await drained
  for (let got = read(peer); typeof got === 'object'; got = read(peer)) close(...got.fds)
  close(peer)
  await destroyed(stream)
})

test('destroyed before it could leave: closed, and every callback hears it', async t => {
  const [stream, peer] = streamAndNumber()
  while (stream.write(Buffer.alloc(100_000)));
  const { readable, writable } = Descriptor.pipe()
  const outcomes: (string | undefined)[] = []
  const note = (error?: Error | null): void => void outcomes.push((error as NodeJS.ErrnoException | undefined)?.code)
  stream.write('a', note)
  stream.writeWithDescriptors('b', [writable], note)
  stream.destroy()
  await once(stream, 'close')
  const socket = readable.toReadable().resume()
  await once(socket, 'end') // nobody holds the other end
  t.deepEqual(outcomes, ['ERR_STREAM_DESTROYED', 'ERR_STREAM_DESTROYED'])
  const late = file()
  const told = new Promise<any>(resolve => stream.writeWithDescriptors('c', [late], resolve))
  t.true(late.closed)
  t.is((await told).code, 'ERR_STREAM_DESTROYED')
  close(peer)
})

test('trap 37: the peer is gone: what it said before is read, then comes the error', async t => {
  const [stream, peer] = streamAndNumber()
  write(peer, 'last ')
  write(peer, 'words', 0)
  const { events, descriptors, closeAll } = recorded(stream)
  stream.pause()
  await turn()
  close(peer)
  const mine = file()
  const told = new Promise<any>(resolve => stream.writeWithDescriptors('x', [mine], resolve))
  const failed = once(stream, 'error')
  stream.resume()
  const [error] = await failed
  t.is(error.code, 'EPIPE')
  t.is((await told).code, 'EPIPE')
  t.is(events.filter(event => !/ at /.test(event)).join(''), 'last words')
  t.is(descriptors.length, 1)
  t.true(mine.closed)
  closeAll()
})

test('trap 20: a peer that is gone, when nobody reads: EPIPE, and no signal', async t => {
  const [stream, peer] = streamAndNumber()
  close(peer)
  stream.write('x')
  const [error] = await once(stream, 'error')
  t.is(error.code, 'EPIPE')
  t.is(error.syscall, 'write')
})

test('a peer that only stops to read is an error, too, though no event tells of it', async t => {
  const [stream, peer] = streamAndNumber()
  stream.resume()
  await turn()
  native.shutdown(peer, 0)
  stream.write('x')
  const [error] = await once(stream, 'error')
  t.is(error.code, 'EPIPE')
  close(peer)
})

test('a reset with what came before it still to be read', async t => {
  const [stream, peer] = streamAndNumber()
  stream.write('never read')
  await until(() => stream.writableLength === 0, 'it left')
  write(peer, 'bye')
  close(peer)
  const seen: string[] = []
  const error: any = await (async () => {
    for await (const bytes of stream) seen.push(String(bytes))
  })().catch(caught => caught)
  t.deepEqual(seen, ['bye'])
  t.is(error.code, 'ECONNRESET')
})

test('a reset comes after what a slow reader has not read yet', async t => {
  const [stream, peer] = streamAndNumber()
  stream.write('never read')
  await until(() => stream.writableLength === 0, 'it left')
  write(peer, 'bye')
  close(peer)
  stream.on('readable', () => {})
  await until(() => stream.readableLength === 3, 'the bytes')
  for (let i = 0; i < 5; i++) await turn()
  const failed = once(stream, 'error')
  t.is(String(stream.read()), 'bye')
  const [error] = await failed
  t.is(error.code, 'ECONNRESET')
})

// --- a Node stream

test('end and half-close', async t => {
  const [left, right] = streamPair({ allowHalfOpen: true }, { allowHalfOpen: true })
  const closed = Promise.all([once(left, 'close'), once(right, 'close')])
  left.end('question')
  let asked = ''
  for await (const bytes of right.iterator({ destroyOnReturn: false })) asked += bytes
  t.is(asked, 'question')
  right.end('answer')
  const [bytes] = await once(left, 'data')
  t.is(String(bytes), 'answer')
  await closed
})

test('without allowHalfOpen the end of one is the end of both', async t => {
  const [left, right] = streamPair()
  right.resume()
  left.resume()
  left.end()
  await Promise.all([once(left, 'close'), once(right, 'close')])
  t.true(right.writableFinished)
})

test('bytes in bulk, by pipeline, in both directions at once', async t => {
  const [left, right] = streamPair()
  const bytes = Buffer.from(Array.from({ length: 1_500_000 }, (_, index) => index * 7))
  const echo = pipeline(right, right)
  const back: Buffer[] = []
  left.on('data', chunk => back.push(chunk))
  const ended = once(left, 'end')
  for (let at = 0; at < bytes.length; at += 10_000)
    if (!left.write(bytes.subarray(at, at + 10_000))) await once(left, 'drain')
  left.end()
  await ended
  await echo
  t.true(Buffer.concat(back).equals(bytes))
  t.is(left.bytesRead, bytes.length)
})

test('a plain net.Socket at the other end', async t => {
  const [left, right] = Descriptor.socketpair()
  const stream = DescriptorStream.from(left)
  const socket: net.Socket = right.toSocket()
  socket.end('from net')
  const [bytes] = await once(stream, 'data')
  t.is(String(bytes), 'from net')
  await once(stream, 'close')
  socket.resume()
  await once(socket, 'close')
})

test('an adopted socket keeps its flags: O_NONBLOCK is shared with its other holders', async t => {
  const [left, right] = Descriptor.socketpair()
  const copy = left.dup()
  t.false(isNonBlocking(copy.borrow()))
  const stream = DescriptorStream.from(left)
  stream.write('x')
  stream.resume()
  await turn()
  t.false(isNonBlocking(copy.borrow()))
  await destroyed(stream)
  t.is(write(copy.borrow(), 'still open'), 10, 'destroy() shuts nothing down for them')
  copy.close()
  right.close()
})

test('peer: who is at the other end', async t => {
  const [left, right] = streamPair()
  t.is(left.peer.pid, process.pid)
  t.is(left.peer.uid, process.getuid!())
  await destroyed(left, right)
})

test('only a connected Unix stream socket is adopted', async t => {
  const other = file()
  t.throws(() => DescriptorStream.from(other), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  for (const none of [undefined, null, {}, 3] as any[])
    t.throws(() => DescriptorStream.from(none), {
      code: 'ERR_PASSFD_INVALID_ARGUMENT',
      message: /must be a Descriptor/
    })
  t.false(other.closed)
  other.close()
  const [left, right] = Descriptor.socketpair()
  for (const options of [{ maxDescriptors: 0 }, { highWaterMark: 'much' }, { keepDescriptors: 1 }, null])
    t.throws(() => DescriptorStream.from(left, options as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.false(left.closed)
  left.close()
  right.close()
})

test('unref lets the process end, ref keeps it', async t => {
  const unref = startFixture('unref-stream', ['unref'])
  t.is(await unref.line(), 'the loop is empty')
  t.is((await unref.exit).code, 0)
  const ref = startFixture('unref-stream', ['ref'])
  t.is(await ref.line(), 'closed first')
  t.is((await ref.exit).code, 0)
})

test('in a worker thread', async t => {
  const worker = new Worker(new URL('../fixtures/stream-worker.mjs', import.meta.url), { execArgv: [] })
  const [message] = await once(worker, 'message')
  t.deepEqual(message, ['1 at 3', 'abcdef'])
  await once(worker, 'exit')
})

test('a worker that ends with streams open leaves nothing open', async t => {
  const worker = new Worker(new URL('../fixtures/stream-worker.mjs', import.meta.url), {
    execArgv: [],
    workerData: 'stay'
  })
  const [message] = await once(worker, 'message')
  t.is(message.length, 2)
  await worker.terminate()
})

test('if the kernel does not send the end, the stream closes with the error', async t => {
  const [left, right] = streamPair()
  left.resume()
  const failed = once(left, 'error')
  await patched(
    'shutdown',
    () => () => ENOBUFS,
    () => new Promise<void>(resolve => left.end(resolve))
  )
  const [error] = await failed
  t.like(error, { code: 'ENOBUFS', syscall: 'shutdown' })
  right.destroy()
})

test('if the kernel does not send the end, pipeline() rejects with the error, and nothing is uncaught', async t => {
  const [left, right] = streamPair()
  left.resume()
  await patched(
    'shutdown',
    () => () => ENOBUFS,
    () => t.throwsAsync(pipeline([Buffer.from('all')], left), { code: 'ENOBUFS' }).then(() => {})
  )
  right.destroy()
})

test("after the peer's end a stream closes without an error, although the kernel does not send its end: the close shows it", async t => {
  const [left, right] = streamPair({ allowHalfOpen: true })
  left.on('error', error => t.fail(error.message)).resume()
  right.resume().end('all')
  await once(left, 'end')
  await patched(
    'shutdown',
    () => () => ENOBUFS,
    async () => {
      left.end()
      await once(left, 'close')
    }
  )
  right.destroy()
})
