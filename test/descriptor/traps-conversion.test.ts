/** Traps 24, 25, 27 and 39: what a conversion does to a description that others have, and what a peer's descriptor may be. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import type { Duplex } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import { own } from '../../src/descriptor/descriptor.ts'
import type { PollStream } from '../../src/descriptor/poll-stream.ts'
import { Descriptor, PassfdError } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, nextMessage } from '../helpers/channels.ts'
import { isNonBlocking, watchedInode } from '../helpers/facts.ts'
import { fromPython } from '../helpers/from-python.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { openTerminal } from '../helpers/terminal.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const O_PATH = 0x200000

async function destroyed(...streams: Duplex[]): Promise<void> {
  for (const stream of streams) {
    stream.destroy()
    if (!stream.closed) await new Promise(resolve => stream.once('close', resolve)) // whatever error comes first
  }
}

// --- 24

/** Something that a shell and we have both: what it reads, and where to write so that it does. */
const shared: Record<string, () => { mine: Descriptor; write: Descriptor }> = {
  'a pipe': () => {
    const { readable, writable } = Descriptor.pipe()
    return { mine: readable, write: writable }
  },
  'a named pipe': () => {
    const path = temporaryPath('fifo')
    execFileSync('mkfifo', [path])
    const write = Descriptor.openSync(path, fs.constants.O_RDWR)
    return { mine: Descriptor.openSync(path), write }
  },
  'a terminal': () => {
    const { master, slave } = openTerminal()
    return { mine: slave, write: master }
  }
}

/** Reads its input blocking, as a shell does; a read that finds it non-blocking fails. */
const SHELL = "import os\nwhile b'end' not in (line := os.read(0, 100)): os.write(1, line)"

for (const [what, open] of Object.entries(shared))
  test(`trap 24: ${what} of somebody else's shell goes on blocking while we have it as a stream, and afterwards`, async t => {
    const { mine, write } = open()
    const shell = start(systemPython, ['-c', SHELL], { stdio: [mine.borrow(), 'pipe', 'pipe'] })
    const say = (words: string): void => void fs.writeSync(write.borrow(), `${words}\n`)
    const hears = async (words: string): Promise<void> => {
      say(words)
      t.is(await shell.line(), words)
      t.false(isNonBlocking(mine.borrow()))
    }
    await hears('before')
    const stream = mine.dup().toDuplex()
    if (stream.writable) stream.write('')
    await hears('while it is there')
    stream.destroy()
    await once(stream, 'close')
    const reader = mine.dup().toReadable()
    await hears('while it is a reader')
    const { fd } = (reader as PollStream).release()
    own(fd).close()
    await hears('afterwards')
    say('end')
    t.deepEqual(await shell.exit, { code: 0, signal: null, stderr: '' })
    for (const descriptor of [mine, write]) descriptor.close()
  })

test('trap 24: the other ends stay blocking, too: what we write to', async t => {
  const { readable, writable } = Descriptor.pipe()
  const { master, slave } = openTerminal()
  for (const [target, source] of [
    [writable, readable],
    [slave, master]
  ] as const) {
    const stream = target.dup().toWritable()
    stream.write(Buffer.alloc(200_000, 'x')) // more than there is room for
    t.true(stream.writableLength > 0)
    t.false(isNonBlocking(target.borrow()), 'while it waits')
    t.false(isNonBlocking(source.borrow()))
    stream.destroy()
    await once(stream, 'close')
    t.false(isNonBlocking(target.borrow()), 'afterwards')
  }
  for (const descriptor of [readable, writable, master, slave]) descriptor.close()
})

test('trap 24: readers that wait take no thread of the pool', async t => {
  const ends: Descriptor[] = []
  const streams: Duplex[] = []
  for (let i = 0; i < 4; i++) {
    const { readable, writable } = Descriptor.pipe()
    const { master, slave } = openTerminal()
    ends.push(writable, master)
    for (const source of [readable, slave]) streams.push(source.toReadable().resume() as Duplex)
  }
  await turn() // they all wait now
  let contents = ''
  fs.readFile('/proc/self/stat', 'utf8', (_, data) => {
    contents = data
  })
  await until(() => contents !== '', 'a file to be read', 5)
  t.true(contents.startsWith(`${process.pid} `))
  await destroyed(...streams)
  for (const end of ends) end.close()
})

test('trap 24: the offset of a file goes on where a stream of ours has stopped', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, 'x'.repeat(100))
  const mine = Descriptor.openSync(path)
  const stream = mine.dup().toReadable()
  await once(stream.resume(), 'close')
  t.is(fs.readSync(mine.borrow(), Buffer.alloc(1)), 0, 'it is shared: the guide says so')
  mine.close()
})

// --- 25

test('trap 25: a stream that was released, sent on and closed here is not in the loop any more', async t => {
  const { readable, writable } = Descriptor.pipe()
  const { ino } = fs.fstatSync(readable.borrow())
  const stream = readable.toReadable().resume() as PollStream
  await until(() => watchedInode(ino), 'the loop to know it')
  const { fd } = stream.release()
  t.false(watchedInode(ino), 'at once')
  const [left, right] = await connected()
  const arrived = nextMessage(right)
  void left.send(own(fd))
  const { value } = await arrived
  fs.writeSync(writable.borrow(), 'would wake us for ever')
  await turn()
  t.false(watchedInode(ino))
  value.close()
  writable.close()
  await closeAll(left, right)
})

for (const what of Object.keys(shared))
  test(`trap 25: a stream on ${what} that is destroyed leaves the loop though copies live on`, async t => {
    const { mine, write } = shared[what]!()
    const stream = mine.dup().toReadable().resume() as PollStream
    const working = fs.fstatSync(mine.borrow()).ino
    await until(() => watchedInode(working), 'the loop to know it')
    await destroyed(stream)
    t.false(watchedInode(working))
    for (const descriptor of [mine, write]) descriptor.close()
  })

// --- 27

const CONVERSIONS = [
  'toSocket',
  'toServer',
  'toListenHandle',
  'toDatagram',
  'toReadable',
  'toWritable',
  'toDuplex',
  'toFile'
] as const
type Conversion = (typeof CONVERSIONS)[number]

/** What a peer may send, and the conversions that it can be meant for; all others must be refused. */
const oddities: Record<string, { make(): Descriptor | Promise<Descriptor>; fits: readonly Conversion[] }> = {
  'a directory': { make: () => Descriptor.openSync('/'), fits: [] },
  'a directory by O_PATH': { make: () => Descriptor.openSync('/', O_PATH), fits: [] },
  'a file by O_PATH': { make: () => Descriptor.openSync('/etc/hostname', O_PATH), fits: [] },
  'a device by O_PATH': { make: () => Descriptor.openSync('/dev/null', O_PATH), fits: [] },
  'a terminal by O_PATH': { make: () => Descriptor.openSync('/dev/ptmx', O_PATH), fits: [] },
  'a named pipe by O_PATH': { make: pipeByPath, fits: [] },
  'a file for writing': {
    make: () => Descriptor.openSync(temporaryPath(), 'w'),
    fits: ['toWritable', 'toFile']
  },
  'a device': { make: () => Descriptor.openSync('/dev/null', 'r+'), fits: ['toReadable', 'toWritable', 'toFile'] },
  'a device that never ends': { make: () => Descriptor.openSync('/dev/zero'), fits: ['toReadable', 'toFile'] },
  'a master without a slave': {
    make: () => Descriptor.openSync('/dev/ptmx', fs.constants.O_RDWR | fs.constants.O_NOCTTY),
    fits: ['toReadable', 'toWritable', 'toDuplex']
  },
  'a terminal that was hung up': { make: hungUp, fits: ['toReadable', 'toWritable', 'toFile'] },
  'a truncated memfd': { make: truncated, fits: ['toReadable', 'toWritable', 'toFile'] },
  'a memfd sealed against writing': {
    make: () => Descriptor.memfd('sealed', { size: 10, seals: ['write', 'shrink', 'grow'] }),
    fits: ['toReadable', 'toWritable', 'toFile']
  },
  'a pipe whose other end is closed': { make: () => halfPipe('readable'), fits: ['toReadable', 'toDuplex'] },
  'a pipe that nobody reads': { make: () => halfPipe('writable'), fits: ['toWritable', 'toDuplex'] },
  'a Unix socket without a peer': {
    make: () => own(native.socket(1)),
    fits: ['toSocket', 'toReadable', 'toWritable', 'toDuplex']
  },
  'a TCP socket without a peer': {
    make: () => fromPythonOne('tcp-idle'),
    fits: ['toSocket', 'toReadable', 'toWritable', 'toDuplex']
  },
  'a UDP socket without an address': { make: () => fromPythonOne('udp-idle'), fits: ['toDatagram'] },
  'a netlink socket': { make: () => fromPythonOne('netlink'), fits: [] },
  'an eventfd': { make: () => fromPythonOne('eventfd'), fits: [] },
  'an epoll': { make: () => fromPythonOne('epoll'), fits: [] },
  'a pidfd': { make: () => Descriptor.pidfd(process.pid), fits: [] },
  datagrams: { make: () => socketOf('dgram'), fits: [] },
  packets: { make: () => socketOf('seqpacket'), fits: [] }
}

for (const [what, { make, fits }] of Object.entries(oddities))
  test(`trap 27: ${what}: each conversion works or is refused, and leaks nothing`, async t => {
    const [left, right] = await connected()
    const original = await make()
    for (const conversion of CONVERSIONS) {
      const arrived = nextMessage(right)
      void left.send(original.dup())
      const descriptor: Descriptor = (await arrived).value
      let made: unknown
      try {
        made = await descriptor[conversion]()
      } catch (error) {
        t.false(fits.includes(conversion), `${conversion}: ${error}`)
        t.true(error instanceof PassfdError && /_(KIND|DIRECTION)$/.test(error.code), `${conversion}: ${error}`)
        t.false(descriptor.closed, conversion)
        descriptor.close()
        continue
      }
      t.true(fits.includes(conversion), conversion)
      t.true(descriptor.closed)
      await use(conversion, made)
    }
    original.close()
    await closeAll(left, right)
  })

/** Does what it is for, until something comes of it: data, the end or an error. */
async function use(conversion: Conversion, made: any): Promise<void> {
  if (conversion === 'toFile') {
    await made.read(Buffer.alloc(10), { position: 0 }).catch(() => {})
    await made.write(Buffer.alloc(10), { position: 0 }).catch(() => {})
    await made.close()
  } else if (conversion === 'toDatagram') {
    await new Promise<void>(resolve => made.close(resolve))
  } else {
    let happened = false
    for (const event of ['data', 'end', 'error', 'finish', 'close']) made.on(event, () => void (happened = true))
    if (conversion !== 'toReadable' && made.writable) made.write('x')
    for (let i = 0; i < 50 && !happened; i++) await turn()
    await destroyed(made)
  }
}

function truncated(): Descriptor {
  const memory = Descriptor.memfd('truncated', { size: 10_000 })
  fs.ftruncateSync(memory.borrow(), 0)
  return memory
}

function hungUp(): Descriptor {
  const { master, slave } = openTerminal()
  master.close()
  return slave
}

function halfPipe(end: 'readable' | 'writable'): Descriptor {
  const pipe = Descriptor.pipe()
  pipe[end === 'readable' ? 'writable' : 'readable'].close()
  return pipe[end]
}

function pipeByPath(): Descriptor {
  const path = temporaryPath('fifo')
  execFileSync('mkfifo', [path])
  return Descriptor.openSync(path, O_PATH)
}

function socketOf(type: 'dgram' | 'seqpacket'): Descriptor {
  const [left, right] = Descriptor.socketpair({ type })
  right.close()
  return left
}

async function fromPythonOne(name: string): Promise<Descriptor> {
  const python = await fromPython([name])
  await python.end()
  return python.descriptors[0]!
}

// --- 39

test('trap 39: of all that a Descriptor becomes only a listen handle has an fd that Node would take', async t => {
  const [socket] = socketpairOf()
  const { readable, writable } = Descriptor.pipe()
  const file = Descriptor.openSync('/dev/null', 'r+').toFile()
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const handle = listener.toListenHandle()
  const server = await (await Descriptor.bind({ port: 0, host: '127.0.0.1' })).toServer()
  const streams = [socket.toSocket(), readable.toReadable(), writable.toDuplex()]
  for (const object of [file, server, ...streams]) t.false('fd' in object, object.constructor.name)
  t.true('fd' in handle)
  t.true(openDescriptors().has(handle.fd))
  fs.closeSync(handle.fd)
  await destroyed(...(streams as Duplex[]))
  await file.close()
  await new Promise(resolve => server.close(resolve))
})

function socketpairOf(): [Descriptor] {
  const [left, right] = Descriptor.socketpair()
  right.close()
  return [left]
}
