import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { Readable, type Writable } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { own } from '../../src/descriptor/descriptor.ts'
import { PollStream } from '../../src/descriptor/poll-stream.ts'
import { Descriptor } from '../../src/index.ts'
import { MESSAGE_FIRST, native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { isNonBlocking, isOpen, watchedInode } from '../helpers/facts.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { openTerminal } from '../helpers/terminal.ts'
import { test, until } from '../helpers/test.ts'

const CAPACITY = 65536

/** A pipe as two streams. */
function streams(): { reader: PollStream; writer: PollStream } {
  const { readable, writable } = Descriptor.pipe()
  return { reader: readable.toReadable() as PollStream, writer: writable.toWritable() as PollStream }
}

async function destroyed(...all: (Readable | Writable)[]): Promise<void> {
  for (const stream of all) {
    stream.destroy()
    if (!stream.closed) await once(stream, 'close')
  }
}

test('what is written arrives, in any sizes', async t => {
  const { reader, writer } = streams()
  t.true(reader instanceof PollStream)
  const parts = [0, 1, 4095, 4096, 4097, CAPACITY, 1, 3 << 20, 7].map(size => randomBytes(size))
  const sum = createHash('sha256')
  for (const part of parts) sum.update(part)
  const [all] = await Promise.all([buffer(reader), pipeline(Readable.from(parts), writer)])
  t.is(createHash('sha256').update(all).digest('hex'), sum.digest('hex'))
})

test('many small writes share the way, and each callback is called once in order', async t => {
  const { reader, writer } = streams()
  const called: number[] = []
  writer.cork()
  for (let i = 0; i < 1000; i++) writer.write(`${i},`, () => called.push(i))
  writer.uncork()
  writer.end()
  t.is(await text(reader), `${Array.from({ length: 1000 }, (_, i) => i).join()},`)
  t.deepEqual(
    called,
    Array.from({ length: 1000 }, (_, i) => i)
  )
})

test('a reader that does not read stops: the pipe fills, and the writer is told', async t => {
  const { reader, writer } = streams()
  const chunk = Buffer.alloc(16384, 'x')
  let written = 0
  while (writer.write(chunk)) written++
  t.true(writer.writableNeedDrain)
  await turn()
  reader.read(0) // it begins to read, and nobody consumes
  await until(() => reader.readableLength >= CAPACITY, 'the buffer of the stream')
  for (let i = 0; i < 20; i++) {
    writer.write(chunk)
    written++
    await turn()
  }
  t.true(reader.readableLength <= 2 * CAPACITY, `${reader.readableLength} bytes`)
  t.is(native.pending(reader.number), CAPACITY, 'the pipe is full')
  t.true(writer.writableLength > 0)
  const drained = once(writer, 'drain')
  const all = buffer(reader)
  await drained
  writer.end()
  t.is((await all).length, (written + 1) * chunk.length)
})

test('the other end closes: end of file for a reader, EPIPE for a writer', async t => {
  const first = Descriptor.pipe()
  const reader = first.readable.toReadable()
  first.writable.close()
  t.is(await text(reader), '')
  const second = Descriptor.pipe()
  const writer = second.writable.toWritable()
  second.readable.close()
  const failed = once(writer, 'close').catch(error => error)
  writer.write('nobody')
  const error = await failed
  t.is(error.code, 'EPIPE')
  t.is(error.syscall, 'write')
  t.true(writer.destroyed)
})

test('the other end closes while a write waits: EPIPE', async t => {
  const { readable, writable } = Descriptor.pipe()
  const writer = writable.toWritable()
  let called: Error | null | undefined
  writer.write(Buffer.alloc(3 * CAPACITY), error => {
    called = error
  })
  t.true(writer.writableLength > 0)
  await turn()
  const failed = once(writer, 'error')
  readable.close()
  const [error] = await failed
  t.is(error.code, 'EPIPE')
  t.is(called, error)
  await destroyed(writer)
})

test('destroy() in the middle of it closes everything, and the write that waits is told', async t => {
  const { reader, writer } = streams()
  const numbers = [reader.number, writer.number]
  const inode = fs.fstatSync(writer.number).ino
  const copy = Descriptor.from(writer.number)
  let called: NodeJS.ErrnoException | null | undefined
  writer.write(Buffer.alloc(3 * CAPACITY), error => {
    called = error
  })
  await until(() => watchedInode(inode), 'the loop to know it')
  await destroyed(writer)
  reader.on('data', () => reader.destroy())
  await once(reader, 'close')
  t.is(called?.code, 'ECANCELED')
  for (const number of numbers) t.false(isOpen(number))
  t.false(watchedInode(inode), 'trap 25: a copy is still open')
  t.is(writer.number, -1)
  copy.close()
})

test('destroy(error) emits it, and gives it to the write that waits', async t => {
  const { reader, writer } = streams()
  const mine = new Error('mine')
  const written = new Promise(resolve => writer.write(Buffer.alloc(3 * CAPACITY), resolve))
  const failed = once(writer, 'error')
  writer.destroy(mine)
  t.deepEqual(await failed, [mine])
  t.is(await written, mine)
  await destroyed(reader)
})

test('await using ends it', async t => {
  const { reader, writer } = streams()
  await reader[Symbol.asyncDispose]()
  t.true(reader.closed)
  await destroyed(writer)
})

test('a failing read is an error of the stream', async t => {
  const { reader, writer } = streams()
  await patched(
    'readNow',
    () => () => -5,
    async () => {
      writer.write('x')
      reader.resume()
      const [error] = await once(reader, 'error')
      t.is(error.code, 'EIO')
      t.is(error.syscall, 'read')
    }
  )
  await destroyed(reader, writer)
})

test('somebody else reads it first: it waits on', async t => {
  const { readable, writable } = Descriptor.pipe()
  const other = readable.dup()
  const reader = readable.toReadable()
  const reads: number[] = []
  await patched(
    'readNow',
    original => (fd, bytes, from, to) => {
      if (reads.length === 0) fs.readSync(other.borrow(), Buffer.alloc(5)) // between the wake-up and the read
      const length = original(fd, bytes, from, to)
      reads.push(length)
      return length
    },
    async () => {
      const data = once(reader, 'data')
      fs.writeSync(writable.borrow(), 'first')
      await until(() => reads.length > 0, 'the wake-up')
      fs.writeSync(writable.borrow(), 'second')
      t.is(String((await data)[0]), 'second')
      t.is(reads[0], -11)
    }
  )
  await destroyed(reader)
  for (const descriptor of [other, writable]) descriptor.close()
})

test('a wake-up that tells of an error that nothing explains ends the stream', async t => {
  const { reader, writer } = streams()
  await patched(
    'writeNow',
    () => () => -11,
    async () => {
      const failed = once(writer, 'error')
      writer.write('x')
      reader.destroy()
      t.is((await failed)[0].code, 'EIO')
    }
  )
  await destroyed(reader, writer)
})

test('release() gives the descriptor and the bytes that nobody consumed, and leaves the loop', async t => {
  const { readable, writable } = Descriptor.pipe()
  const inode = fs.fstatSync(readable.borrow()).ino
  const reader = readable.toReadable() as PollStream
  let seen = ''
  reader.on('data', data => {
    seen += data
    reader.pause()
  })
  fs.writeSync(writable.borrow(), 'consumed')
  await until(() => seen !== '', 'the first bytes')
  fs.writeSync(writable.borrow(), 'read ')
  reader.read(0)
  await until(() => reader.readableLength > 0, 'the next')
  fs.writeSync(writable.borrow(), 'not read')
  const number = reader.number
  const { fd, unread } = reader.release()
  const descriptor = own(fd)
  t.is(fd, number)
  t.is(seen, 'consumed', 'a listener gets no more')
  t.is(native.pending(fd), 'read not read'.length - unread.length)
  t.is(unread.toString(), 'read ')
  t.false(watchedInode(inode))
  t.is(reader.number, -1)
  await once(reader, 'close')
  t.true(isOpen(fd))
  const again = descriptor.toReadable()
  writable.close()
  t.is(await text(again), 'not read')
})

test('release() refuses while it would lose something, and nothing has changed', async t => {
  const { reader, writer } = streams()
  const written = new Promise(resolve => writer.write(Buffer.alloc(2 * CAPACITY, 'x'), resolve))
  t.throws(() => writer.release(), { code: 'ERR_PASSFD_STREAM_BUSY', message: /131072 bytes are still to be written/ })
  reader.setEncoding('utf8').read(0)
  await until(() => reader.readableLength > 0, 'something')
  t.throws(() => reader.release(), { code: 'ERR_PASSFD_STREAM_BUSY', message: /decoded/ })
  reader.resume()
  await written
  own(writer.release().fd).close()
  reader.destroy()
  t.throws(() => reader.release(), { code: 'ERR_PASSFD_STREAM_BUSY', message: /destroyed/ })
  t.throws(() => writer.release(), { code: 'ERR_PASSFD_STREAM_BUSY' })
  await destroyed(reader, writer)
})

test('a stream that reads keeps the process, one that is unref-ed does not', async t => {
  const unrefed = startFixture('waits-for-pipe', ['unref'])
  t.is(await unrefed.line(), 'reading')
  t.is(await unrefed.line(), 'nothing waits any more')
  t.is((await unrefed.exit).code, 0)
  const refed = startFixture('waits-for-pipe', ['ref'])
  t.is(await refed.line(), 'reading')
  await delay(50) // it could end in the meantime, and must not
  refed.child.stdin!.end('now')
  t.is(await refed.line(), 'nothing waits any more')
  t.is((await refed.exit).code, 0)
})

test('a named pipe is opened anew, so that neither reading nor writing can wait', async t => {
  const { path, end } = namedPipe()
  const both = Descriptor.openSync(path, fs.constants.O_RDWR)
  const reader = both.dup().toReadable() as PollStream
  const writer = both.dup().toWritable() as PollStream
  const duplex = both.dup().toDuplex()
  t.false(isNonBlocking(reader.number))
  writer.write('there')
  t.is(String((await once(reader, 'data'))[0]), 'there')
  await destroyed(reader)
  duplex.write('and back')
  t.is(String((await once(duplex, 'data'))[0]), 'and back')
  t.false(isNonBlocking(both.borrow()))
  await destroyed(writer, duplex)
  both.close()
  end()
})

test('the writing end of a named pipe that nobody reads is EPIPE all the same', async t => {
  const { path, end } = namedPipe()
  const reading = Descriptor.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  const writing = Descriptor.openSync(path, 'w')
  reading.close()
  const writer = writing.toWritable()
  const failed = once(writer, 'error')
  writer.write('nobody')
  t.is((await failed)[0].code, 'EPIPE')
  await destroyed(writer)
  end()
})

function namedPipe(): { path: string; end(): void } {
  const path = temporaryPath('fifo')
  execFileSync('mkfifo', [path])
  return { path, end: () => fs.rmSync(path) }
}

// --- terminals

test('a terminal is read and written through a description of our own; the shared one stays blocking', async t => {
  const { master, slave } = openTerminal()
  const duplex = slave.dup().toDuplex() as PollStream
  t.false(isNonBlocking(slave.borrow()))
  fs.writeSync(master.borrow(), 'a line\n')
  t.is(String((await once(duplex, 'data'))[0]), 'a line\n')
  const bytes = Buffer.alloc(100)
  duplex.write('answer')
  await until(() => native.pending(master.borrow()) >= 14, 'echo and answer')
  t.is(bytes.toString('utf8', 0, fs.readSync(master.borrow(), bytes)), 'a line\r\nanswer')
  t.false(isNonBlocking(slave.borrow()), 'while it is in use')
  await destroyed(duplex)
  t.false(isNonBlocking(slave.borrow()), 'and afterwards')
  for (const descriptor of [master, slave]) descriptor.close()
})

test('a master is made non-blocking, and ends when its slaves are closed: that is no error', async t => {
  const { master, slave } = openTerminal()
  const stream = master.toDuplex() as PollStream
  t.true(isNonBlocking(stream.number))
  fs.writeSync(slave.borrow(), 'last words')
  stream.setEncoding('utf8')
  const all = text(stream)
  slave.close()
  t.is(await all, 'last words')
  if (!stream.closed) await once(stream, 'close')
})

test('a terminal hangs up: the end for who reads, EIO for who writes', async t => {
  const { master, slave } = openTerminal()
  const reader = slave.dup().toReadable()
  const writer = slave.toWritable()
  const end = once(reader.resume(), 'end')
  master.close()
  await end
  const failed = once(writer, 'error')
  writer.write('nobody')
  t.is((await failed)[0].code, 'EIO')
  await destroyed(reader, writer)
})

test('a terminal whose other side does not read: writing waits, without turning in circles', async t => {
  const { master, slave } = openTerminal()
  const writer = slave.toWritable()
  let calls = 0
  await patched(
    'writeNow',
    original =>
      (...args) => {
        calls++
        return original(...args)
      },
    async () => {
      const feeds = Buffer.alloc(200_000, '\n')
      writer.write(feeds)
      await turn()
      const before = calls
      await delay(100)
      t.true(calls - before < 50, `${calls - before} attempts`)
      const reader = master.toReadable()
      const ended = once(writer, 'finish')
      writer.end()
      const all = buffer(reader)
      await ended
      t.is((await all).length, 2 * feeds.length)
    }
  )
  await destroyed(writer)
})

test('/dev/tty of another session is that terminal, not ours', async t => {
  const [ours, theirs] = Descriptor.socketpair()
  const python = start(systemPython, [fileURLToPath(new URL('../fixtures/pseudoterminal.py', import.meta.url))], {
    stdio: [theirs.borrow(), 'pipe', 'inherit']
  })
  theirs.close()
  const results = new Int32Array(1024)
  let received = -11
  await until(() => {
    received = native.receivePlaced(ours.borrow(), Buffer.alloc(1), 0, 1, results)
    return received !== -11
  }, 'the terminal')
  const terminal = own(results[MESSAGE_FIRST]!)
  t.is(terminal.kind, 'tty')
  t.is(fs.readlinkSync(`/proc/self/fd/${terminal.borrow()}`), '/dev/tty')
  const duplex = terminal.toDuplex()
  t.is(String((await once(duplex, 'data'))[0]), 'from the terminal')
  duplex.write('to the terminal!')
  t.is(await python.line(), 'to the terminal!')
  await destroyed(duplex)
  ours.close()
  t.is((await python.exit).code, 0)
})

test('a terminal that may not be opened anew is refused, unless it is non-blocking already', async t => {
  const { master, slave } = openTerminal()
  const nonblocking = Descriptor.openSync(
    `/proc/self/fd/${slave.borrow()}`,
    fs.constants.O_RDWR | fs.constants.O_NOCTTY | fs.constants.O_NONBLOCK
  )
  const stdio = ['pipe', 'pipe', 'pipe', slave.borrow(), nonblocking.borrow()] as const
  const { line, exit } = startFixture('shared-terminal', [], { stdio: [...stdio] })
  for (let i = 0; i < 3; i++) t.is(await line(), 'ERR_PASSFD_DESCRIPTOR_SHARED EACCES false')
  t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
  const bytes = Buffer.alloc(100)
  t.is(bytes.toString('utf8', 0, fs.readSync(master.borrow(), bytes)), 'works')
  t.false(isNonBlocking(slave.borrow()))
  for (const descriptor of [master, slave, nonblocking]) descriptor.close()
})
