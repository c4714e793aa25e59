import { spawn } from 'node:child_process'
import * as dgram from 'node:dgram'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as http from 'node:http'
import * as net from 'node:net'
import { tmpdir } from 'node:os'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { own } from '../../src/descriptor/descriptor.ts'
import { KINDS } from '../../src/descriptor/kind.ts'
import { Descriptor, type Kind, type Message, PassfdError, type Seal } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, file, patched } from '../helpers/channels.ts'
import { closedNumber, identity, isCloseOnExec, isNonBlocking, isOpen } from '../helpers/facts.ts'
import { fromPython } from '../helpers/from-python.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

/** All seals that fcntl(2) lists; a kernel may add F_SEAL_EXEC on its own. */
const SEALED = 31
const O_PATH = 0x200000
const INVALID = { code: 'ERR_PASSFD_INVALID_ARGUMENT' }

// --- making and ending

test('adopt takes a number over: close-on-exec from then on, closed by close()', t => {
  for (const make of [(fd: number) => Descriptor.adopt(fd), (fd: number) => new Descriptor(fd)]) {
    const fd = fs.openSync('/dev/null', 'r')
    const held = native.held()
    const descriptor = make(fd)
    t.is(descriptor.borrow(), fd, 'the number is the same')
    t.is(native.held(), held + 1)
    t.true(isCloseOnExec(fd))
    t.false(descriptor.closed)
    descriptor.close()
    t.true(descriptor.closed)
    t.false(isOpen(fd))
  }
})

test('adopt makes a number close-on-exec that is not', async t => {
  // Node makes what it inherits close-on-exec, but stops looking at the first gap after 15
  const stdio: ('pipe' | 'ignore' | 'inherit')[] = ['pipe', 'pipe', 'inherit', ...Array(27).fill('ignore'), 'pipe']
  const { line, exit } = startFixture('adopter', ['30'], { stdio })
  t.is(await line(), 'false true')
  await exit
})

test('adopt refuses what is no number of an open descriptor, and a number that passfd has already', t => {
  for (const wrong of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, '3', null, undefined, {}, 3n]) {
    t.throws(() => Descriptor.adopt(wrong as number), INVALID, String(wrong))
    t.throws(() => new Descriptor(wrong as number), INVALID, String(wrong))
  }
  t.throws(() => new (Descriptor as unknown as new () => Descriptor)(), INVALID)
  const fd = closedNumber()
  const error = t.throws<NodeJS.ErrnoException>(() => Descriptor.adopt(fd), { code: 'EBADF' })
  t.is(error!.syscall, 'fcntl')
  t.false(error instanceof PassfdError)
  t.throws(() => Descriptor.adopt(0x7fffffff), { code: 'EBADF' })
  const descriptor = file()
  const number = descriptor.borrow()
  t.throws(() => Descriptor.adopt(number), {
    code: 'ERR_PASSFD_DESCRIPTOR_OWNED',
    message: `Descriptor number ${number} already belongs to a Descriptor or a channel of passfd. Adopt a number once; use dup() for a second owner.`
  })
  t.is(descriptor.borrow(), number, 'the first owner keeps it')
  descriptor.close()
})

test('open and openSync open as Node does, and fail as Node does', async t => {
  const path = temporaryPath()
  const written = await Descriptor.open(path, 'w', 0o640)
  fs.writeSync(written.borrow(), 'text')
  t.is(fs.statSync(path).mode & 0o777, 0o640)
  written.close()
  for (const descriptor of [await Descriptor.open(path), Descriptor.openSync(path)]) {
    t.is(fs.readFileSync(descriptor.borrow(), 'utf8'), 'text', "the default is to read, 'r'")
    t.throws(() => fs.writeSync(descriptor.borrow(), 'x'), { code: 'EBADF' })
    t.true(isCloseOnExec(descriptor.borrow()))
    descriptor.close()
  }
  const appending = Descriptor.openSync(path, fs.constants.O_WRONLY | fs.constants.O_APPEND)
  fs.writeSync(appending.borrow(), '!')
  appending.close()
  t.is(fs.readFileSync(path, 'utf8'), 'text!')
  const missing = temporaryPath('missing')
  let expected: NodeJS.ErrnoException | undefined
  try {
    fs.openSync(missing, 'r')
  } catch (error) {
    expected = error as NodeJS.ErrnoException
  }
  for (const error of [
    await t.throwsAsync<NodeJS.ErrnoException>(Descriptor.open(missing)),
    t.throws<NodeJS.ErrnoException>(() => Descriptor.openSync(missing))
  ]) {
    t.deepEqual({ ...error }, { ...expected })
    t.is(error!.message, expected!.message)
  }
  await t.throwsAsync(Descriptor.open(5 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(Descriptor.open(path, 'nonsense'), { code: 'ERR_INVALID_ARG_VALUE' })
})

test('pipe and socketpair give two ends that are connected', async t => {
  const { readable, writable } = Descriptor.pipe()
  fs.writeSync(writable.borrow(), 'through the pipe')
  const buffer = Buffer.alloc(100)
  t.is(buffer.toString('utf8', 0, fs.readSync(readable.borrow(), buffer)), 'through the pipe')
  const [left, right] = Descriptor.socketpair()
  for (const [from, to] of [
    [left, right],
    [right, left]
  ] as const) {
    fs.writeSync(from.borrow(), 'through the pair')
    t.is(buffer.toString('utf8', 0, fs.readSync(to.borrow(), buffer)), 'through the pair')
  }
  for (const descriptor of [readable, writable, left, right]) {
    t.true(isCloseOnExec(descriptor.borrow()))
    t.false(isNonBlocking(descriptor.borrow()))
    descriptor.close()
  }
})

test('socketpair makes sockets of each type', t => {
  for (const [type, kind] of [
    ['stream', 'unix-stream'],
    ['dgram', 'unix-dgram'],
    ['seqpacket', 'unix-seqpacket']
  ] as const) {
    const [left, right] = Descriptor.socketpair({ type })
    fs.writeSync(left.borrow(), 'one')
    fs.writeSync(left.borrow(), 'two')
    const buffer = Buffer.alloc(100)
    const length = fs.readSync(right.borrow(), buffer)
    t.is(buffer.toString('utf8', 0, length), type === 'stream' ? 'onetwo' : 'one')
    for (const descriptor of [left, right]) {
      t.is(descriptor.kind, kind)
      t.true(isCloseOnExec(descriptor.borrow()))
      descriptor.close()
    }
  }
  for (const type of ['raw', '', null, 1, 'toString'])
    t.throws(() => Descriptor.socketpair({ type: type as 'stream' }), {
      ...INVALID,
      message: /^type must be 'stream' or 'dgram' or 'seqpacket'; it is /
    })
})

test('memfd is memory with a size, a name, and what was sealed', async t => {
  const plain = Descriptor.memfd()
  t.is(plain.kind, 'memfd')
  t.is(fs.fstatSync(plain.borrow()).size, 0)
  t.is(native.seals(plain.borrow()) & SEALED, 0)
  t.is(fs.readlinkSync(`/proc/self/fd/${plain.borrow()}`), '/memfd:passfd (deleted)')
  const sealed = Descriptor.memfd('mine', { size: 5000, seals: ['shrink', 'grow'] })
  t.is(fs.fstatSync(sealed.borrow()).size, 5000)
  t.is(fs.readlinkSync(`/proc/self/fd/${sealed.borrow()}`), '/memfd:mine (deleted)')
  t.true(isCloseOnExec(sealed.borrow()))
  for (const size of [0, 4999, 5001]) t.throws(() => fs.ftruncateSync(sealed.borrow(), size), { code: 'EPERM' })
  fs.writeSync(sealed.borrow(), 'still writable', 0)
  for (const [seal, bit] of Object.entries({ seal: 1, shrink: 2, grow: 4, write: 8, 'future-write': 16 }) as [
    Seal,
    number
  ][]) {
    const one = Descriptor.memfd('', { seals: [seal] })
    t.is(native.seals(one.borrow()) & SEALED, bit, seal)
    one.close()
  }
  for (const descriptor of [plain, sealed]) descriptor.close()
  Descriptor.memfd('n'.repeat(249)).close()
  for (const name of ['n'.repeat(250), 'ü'.repeat(125), 'a\0b', 5, null])
    t.throws(() => Descriptor.memfd(name as string), {
      ...INVALID,
      message: /^name must be a text of at most 249 bytes/
    })
  for (const size of [-1, 1.5, 2 ** 53, '1', null])
    t.throws(() => Descriptor.memfd('x', { size: size as number }), { ...INVALID, message: /^size must be/ })
  for (const seal of ['exec', 2, undefined])
    t.throws(() => Descriptor.memfd('x', { seals: [seal as Seal] }), {
      ...INVALID,
      message: /^seals must be 'seal' or/
    })
  await patched(
    'seal',
    () => () => -1,
    () => {
      t.throws(() => Descriptor.memfd('x', { seals: ['seal'] }), { code: 'EPERM' }, 'and nothing is left open')
    }
  )
})

test('pidfd is a process, which it tells of when it ends', async t => {
  const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] })
  const descriptor = Descriptor.pidfd(child.pid!)
  t.is(descriptor.kind, 'pidfd')
  t.true(isCloseOnExec(descriptor.borrow()))
  const pid = /^Pid:\s*(\d+)/m.exec(fs.readFileSync(`/proc/self/fdinfo/${descriptor.borrow()}`, 'utf8'))![1]
  t.is(Number(pid), child.pid!)
  child.stdin!.end()
  await once(child, 'exit')
  t.throws(() => Descriptor.pidfd(child.pid!), { code: 'ESRCH' })
  descriptor.close()
  for (const wrong of [0, -1, 1.5, '1', undefined]) t.throws(() => Descriptor.pidfd(wrong as number), INVALID)
})

test('whoever calls the constructor hands a number over, whatever else is passed', t => {
  const make = Descriptor as unknown as new (...args: unknown[]) => Descriptor
  for (const rest of [
    [undefined],
    [{}, undefined],
    [Symbol('held'), undefined],
    [undefined, { kept() {}, discard() {} }]
  ]) {
    const fd = fs.openSync('/dev/null', 'r')
    const held = native.held()
    const descriptor = new make(fd, ...rest)
    t.is(native.held(), held + 1)
    t.throws(() => Descriptor.adopt(fd), { code: 'ERR_PASSFD_DESCRIPTOR_OWNED' })
    descriptor.close()
    t.false(isOpen(fd), 'its own, not lent')
    t.throws(() => new make(fd, ...rest), { code: 'EBADF' })
  }
})

test('inspect() shows the kind and the number, or what took it', async t => {
  const descriptor = file()
  const number = descriptor.borrow()
  t.is(inspect(descriptor), `Descriptor(device, ${number})`)
  t.is(inspect({ deep: [descriptor] }), `{ deep: [ Descriptor(device, ${number}) ] }`)
  const shown: string[] = []
  const look = (ended: Descriptor): void => void shown.push(inspect(ended))
  descriptor.close()
  look(descriptor)
  const unasked = file()
  fs.closeSync(unasked.detach())
  look(unasked)
  const converted = file()
  await converted.toFile().close()
  look(converted)
  const [left, right] = await connected()
  right.on('message', ({ descriptors }) => {
    t.regex(inspect(descriptors[0]), /^Descriptor\(device, lent, \d+\)$/)
    setImmediate(() => look(descriptors[0]!))
  })
  const sent = file()
  await left.send(sent)
  look(sent)
  while (shown.length < 5) await new Promise(resolve => setImmediate(resolve))
  t.deepEqual(shown.sort(), [
    'Descriptor(detached)',
    'Descriptor(device, closed unclaimed)',
    'Descriptor(device, closed)',
    'Descriptor(device, used up by toFile())',
    'Descriptor(moved by send())'
  ])
  await closeAll(left, right)
})

test('dup is a second owner of the same description, which outlives the first', t => {
  const path = temporaryPath()
  fs.writeFileSync(path, '0123456789')
  const first = Descriptor.openSync(path)
  const second = first.dup()
  t.not(second.borrow(), first.borrow())
  t.is(identity(second.borrow()), identity(first.borrow()))
  t.true(isCloseOnExec(second.borrow()))
  const buffer = Buffer.alloc(4)
  fs.readSync(first.borrow(), buffer)
  first.close()
  t.false(second.closed)
  fs.readSync(second.borrow(), buffer)
  t.is(buffer.toString(), '4567', 'the offset is shared')
  second.close()
})

test('detach gives the number, open and close-on-exec, and the duty to close it', t => {
  const descriptor = file()
  const held = native.held()
  const number = descriptor.borrow()
  const fd = descriptor.detach()
  t.is(fd, number)
  t.is(native.held(), held - 1)
  t.true(descriptor.closed)
  t.true(isCloseOnExec(fd))
  const again = Descriptor.adopt(fd)
  t.is(again.borrow(), fd, 'it can be adopted again')
  again.close()
})

test('dispose closes what is open, and is no error on what is not; close() twice is', t => {
  const descriptor = file()
  const fd = descriptor.borrow()
  descriptor[Symbol.dispose]()
  t.false(isOpen(fd))
  descriptor[Symbol.dispose]()
  t.throws(() => descriptor.close(), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  const detached = file()
  const number = detached.detach()
  detached[Symbol.dispose]()
  t.true(isOpen(number), 'what was given up is not closed')
  fs.closeSync(number)
})

test('claim on a descriptor of one\u2019s own changes nothing', t => {
  const descriptor = file()
  t.is(descriptor.claim(), descriptor)
  t.is(descriptor.claim().claim().closed, false)
  descriptor.close()
})

test('a Descriptor is never part of a JSON text', t => {
  const descriptor = file()
  for (const value of [descriptor, [descriptor], { deep: { er: descriptor } }]) {
    t.throws(() => JSON.stringify(value), { code: 'ERR_PASSFD_ENCODE', message: /not as JSON/ })
  }
  descriptor.close()
  t.throws(() => JSON.stringify(descriptor), { code: 'ERR_PASSFD_ENCODE' }, 'nor when it is closed')
})

// --- afterwards: every verb in every state in which the number is gone

interface Gone {
  state: string
  code: string
  sentence: string | RegExp
  descriptor: Descriptor
}

/** Descriptors that went each way, and the error that every use of them is. */
async function goneDescriptors(kind: 'tty' | 'tcp-listener'): Promise<{ gone: Gone[]; end(): Promise<void> }> {
  const make = async (): Promise<Descriptor> => {
    const descriptor =
      kind === 'tty'
        ? Descriptor.openSync('/dev/ptmx', fs.constants.O_RDWR | fs.constants.O_NOCTTY)
        : await Descriptor.bind({ port: 0, host: '127.0.0.1' })
    if (descriptor.kind !== kind) throw new Error(`made a ${descriptor.kind}`) // also: the kind is remembered
    return descriptor
  }
  const gone: Gone[] = []
  const add = (state: string, code: string, sentence: string | RegExp, descriptor: Descriptor): void => {
    gone.push({ state, code: `ERR_PASSFD_DESCRIPTOR_${code}`, sentence, descriptor })
  }
  const closed = await make()
  closed.close()
  add('closed', 'CLOSED', `This ${kind} was closed by close(). Use it before closing it, or keep a dup().`, closed)
  const disposed = await make()
  disposed[Symbol.dispose]()
  add('disposed', 'CLOSED', /closed by close\(\)/, disposed)
  const detached = await make()
  fs.closeSync(detached.detach())
  add(
    'detached',
    'DETACHED',
    `This ${kind} was given up by detach(): the caller of detach() owns the number now.`,
    detached
  )
  const converted = await make()
  const stream = kind === 'tty' ? converted.toDuplex() : await converted.toServer()
  const by = kind === 'tty' ? 'toDuplex()' : 'toServer()'
  add(
    'converted',
    'CONVERTED',
    `This ${kind} was used up by ${by}: the object that call returned owns it. Convert a dup() to keep one.`,
    converted
  )
  const [left, right] = await connected()
  const moved = await make()
  const lent = await make()
  const messages: Message<any>[] = []
  right.on('message', message => {
    void message.value.kind
    messages.push(message)
  })
  void left.send(moved)
  await left.send({ lent })
  add(
    'moved',
    'MOVED',
    `This ${kind} was moved away by send(): it belongs to the channel, then to the peer. Send a dup() to keep one.`,
    moved
  )
  while (messages.length < 2) await once(right, 'message')
  add(
    'unclaimed',
    'UNCLAIMED',
    `This descriptor came in a message from pid ${process.pid} and was closed when the 'message' listeners returned, because nothing had claimed it: call claim() on it before that.`,
    messages[1]!.descriptors[0]!
  )
  return {
    gone,
    async end() {
      if (stream instanceof Duplex) {
        stream.destroy()
        await once(stream, 'close')
      } else await new Promise(resolve => (stream as net.Server).close(resolve))
      await closeAll(left, right)
    }
  }
}

const VERBS: Record<string, (descriptor: Descriptor) => unknown> = {
  borrow: descriptor => descriptor.borrow(),
  dup: descriptor => descriptor.dup(),
  claim: descriptor => descriptor.claim(),
  detach: descriptor => descriptor.detach(),
  close: descriptor => descriptor.close(),
  toSocket: descriptor => descriptor.toSocket(),
  toServer: descriptor => descriptor.toServer(),
  toListenHandle: descriptor => descriptor.toListenHandle(),
  toDatagram: descriptor => descriptor.toDatagram(),
  toReadable: descriptor => descriptor.toReadable(),
  toWritable: descriptor => descriptor.toWritable(),
  toDuplex: descriptor => descriptor.toDuplex(),
  toFile: descriptor => descriptor.toFile(),
  resize: descriptor => descriptor.resize({ columns: 80, rows: 24 })
}

for (const kind of ['tty', 'tcp-listener'] as const) {
  test(`every use of a ${kind} that is gone says what took it`, async t => {
    const { gone, end } = await goneDescriptors(kind)
    t.deepEqual(
      gone.map(({ state }) => state),
      ['closed', 'disposed', 'detached', 'converted', 'moved', 'unclaimed']
    )
    const [left, right] = await connected()
    for (const { state, code, sentence, descriptor } of gone) {
      t.true(descriptor.closed, state)
      for (const [verb, use] of Object.entries(VERBS)) {
        const what = `${verb}() of one that is ${state}`
        const error = await t.throwsAsync(async () => use(descriptor), { code }, what)
        if (typeof sentence === 'string') t.is(error!.message, sentence, what)
        else t.regex(error!.message, sentence, what)
      }
      for (const value of [descriptor, [1, { descriptor }]])
        t.throws(() => left.send(value), { code }, `send() of one that is ${state}`)
      descriptor[Symbol.dispose]()
    }
    await closeAll(left, right)
    await end()
  })
}

test('the kind is remembered; one that was never asked for is unknown afterwards', t => {
  const asked = file()
  t.is(asked.kind, 'device')
  asked.close()
  t.is(asked.kind, 'device')
  const unasked = file()
  unasked.close()
  t.throws(() => unasked.kind, {
    code: 'ERR_PASSFD_DESCRIPTOR_CLOSED',
    message: 'This descriptor was closed by close(). Use it before closing it, or keep a dup().'
  })
})

test('a wrong kind is refused, and the descriptor is still there', async t => {
  const descriptor = file()
  for (const [verb, operation, expected] of [
    ['toSocket', 'toSocket()', 'tcp or unix-stream'],
    ['toDuplex', 'toDuplex()', 'tcp or unix-stream or pipe or tty'],
    ['toServer', 'toServer()', 'tcp-listener or unix-stream-listener'],
    ['toListenHandle', 'toListenHandle()', 'tcp-listener or unix-stream-listener'],
    ['toDatagram', 'toDatagram()', 'udp'],
    ['resize', 'resize()', 'tty']
  ] as const) {
    await t.throwsAsync(async () => VERBS[verb]!(descriptor), {
      code: 'ERR_PASSFD_DESCRIPTOR_KIND',
      message: `${operation} needs a descriptor of kind ${expected}; this one is a device.`
    })
    t.false(descriptor.closed)
  }
  const directory = Descriptor.openSync('/')
  for (const verb of ['toReadable', 'toWritable']) {
    t.throws(() => VERBS[verb]!(directory), {
      code: 'ERR_PASSFD_DESCRIPTOR_KIND',
      message:
        /needs a descriptor of kind file or memfd or device or tcp or unix-stream or pipe or tty; this one is a directory/
    })
  }
  directory.close()
  descriptor.close()
})

// --- from

test('from() duplicates the descriptor in every source, which is untouched', async t => {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const unixServer = net.createServer().listen(temporaryPath('socket'))
  await once(unixServer, 'listening')
  const httpServer = http.createServer().listen(0, '127.0.0.1')
  await once(httpServer, 'listening')
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[net.Socket], any]
  const unixClient = net.connect((unixServer as any).address())
  const [[unixAccepted]] = (await Promise.all([once(unixServer, 'connection'), once(unixClient, 'connect')])) as [
    [net.Socket],
    any
  ]
  const datagram = dgram.createSocket('udp4').bind(0, '127.0.0.1')
  await once(datagram, 'listening')
  const path = temporaryPath()
  fs.writeFileSync(path, 'text')
  const handle = await fs.promises.open(path)
  const reading = fs.createReadStream(path)
  await once(reading, 'open')
  const writing = fs.createWriteStream(path, { flags: 'a' })
  await once(writing, 'open')
  const child = spawn('cat', { stdio: ['pipe', 'pipe', 'ignore'] })
  const exit = once(child, 'close')
  const number = fs.openSync(path, 'r')
  const sources: [what: string, source: Parameters<typeof Descriptor.from>[0], kind: Kind | undefined, fd?: number][] =
    [
      ['net.Server', server, 'tcp-listener'],
      ['net.Server on a path', unixServer, 'unix-stream-listener'],
      ['http.Server', httpServer, 'tcp-listener'],
      ['net.Socket', client, 'tcp'],
      ['an accepted net.Socket', accepted, 'tcp'],
      ['net.Socket on a path', unixClient, 'unix-stream'],
      ['dgram.Socket', datagram, 'udp'],
      ['FileHandle', handle, 'file', handle.fd],
      ['fs.ReadStream', reading, 'file', (reading as unknown as { fd: number }).fd],
      ['fs.WriteStream', writing, 'file', (writing as unknown as { fd: number }).fd],
      ["a child's stdin", child.stdin!, 'unix-stream'],
      ["a child's stdout", child.stdout!, 'unix-stream'],
      ['{ fd }', { fd: number }, 'file', number],
      ['a number', number, 'file', number],
      ['process.stderr', process.stderr, undefined, 2]
    ]
  for (const [what, source, kind, fd] of sources) {
    const descriptor = Descriptor.from(source)
    if (kind !== undefined) t.is(descriptor.kind, kind, what)
    t.true(isCloseOnExec(descriptor.borrow()), what)
    if (fd !== undefined) {
      t.not(descriptor.borrow(), fd, what)
      t.is(identity(descriptor.borrow()), identity(fd), what)
    }
    descriptor.close()
  }
  // They all work as before
  const data = once(accepted, 'data')
  client.write('untouched')
  t.is(String((await data)[0]), 'untouched')
  const echo = once(child.stdout!, 'data')
  child.stdin!.end('untouched')
  t.is(String((await echo)[0]), 'untouched')
  t.is(await handle.readFile('utf8'), 'text')
  t.is(fs.readFileSync(number, 'utf8'), 'text')
  await handle.close()
  fs.closeSync(number)
  for (const stream of [client, accepted, unixClient, unixAccepted, reading, writing]) {
    stream.destroy()
    if (!stream.closed) await once(stream, 'close')
  }
  for (const each of [server, unixServer, httpServer]) await new Promise(resolve => each.close(resolve))
  await new Promise<void>(resolve => datagram.close(resolve))
  await exit
})

test('from() finds nothing in what is not open (yet, or any more)', async t => {
  const handle = await fs.promises.open('/dev/null')
  await handle.close()
  const unopened = fs.createReadStream('/dev/null')
  const destroyed = net.connect(1)
  destroyed.on('error', () => {})
  destroyed.destroy()
  const descriptor = file()
  const unbound = dgram.createSocket('udp4')
  const nothing: [unknown, RegExp][] = [
    [-1, /in -1\./],
    [1.5, /in 1\.5\./],
    [Number.NaN, /in NaN\./],
    ['/dev/null', /in '\/dev\/null'\./],
    [undefined, /in undefined\./],
    [null, /in null\./],
    [{}, /in an object \(Object\)\./],
    [{ fd: -1 }, /in an object/],
    [{ fd: '1' }, /in an object/],
    [net.createServer(), /in an object \(Server\)/],
    [unbound, /in an object \(Socket\)/],
    [new net.Socket(), /in an object \(Socket\)/],
    [destroyed, /in an object \(Socket\)/],
    [handle, /in an object \(FileHandle\)/],
    [unopened, /in an object \(ReadStream\)/],
    [descriptor, /in an object \(Descriptor\)/]
  ]
  for (const [source, sentence] of nothing) {
    const error = t.throws(() => Descriptor.from(source as never), { code: 'ERR_PASSFD_DESCRIPTOR_SOURCE' })
    t.regex(error!.message, sentence)
  }
  const number = closedNumber()
  const error = t.throws<NodeJS.ErrnoException>(() => Descriptor.from(number), { code: 'EBADF' })
  t.is(error!.syscall, 'dup')
  descriptor.close()
  unbound.close()
  unopened.destroy()
  await once(unopened, 'close')
})

// --- kinds

test('every kind is told', async t => {
  const names = [
    'memfd',
    'eventfd',
    'epoll',
    'pidfd',
    'unix-seqpacket-listener',
    'raw-socket',
    'symbolic-link',
    'netlink'
  ]
  const python = await fromPython(names)
  const numbers = new Int32Array(2)
  const pair = (type: number): Descriptor[] => {
    native.socketpair(type, numbers)
    return Array.from(numbers, own)
  }
  const server = net.createServer().listen(0)
  await once(server, 'listening')
  const client = net.connect((server.address() as net.AddressInfo).port)
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[net.Socket], any]
  const { readable, writable } = Descriptor.pipe()
  const made: [Kind, ...Descriptor[]][] = [
    ['file', Descriptor.openSync(fileURLToPath(import.meta.url))],
    ['directory', Descriptor.openSync(tmpdir()), Descriptor.openSync('/', O_PATH)],
    ['pipe', readable, writable],
    ['tty', Descriptor.openSync('/dev/ptmx', fs.constants.O_RDWR | fs.constants.O_NOCTTY)],
    ['tcp', Descriptor.from(client), Descriptor.from(accepted)],
    ['tcp-listener', await Descriptor.bind({ port: 0 }), await Descriptor.bind({ port: 0, host: '127.0.0.1' })],
    [
      'udp',
      await Descriptor.bind({ type: 'udp4', port: 0 }),
      await Descriptor.bind({ type: 'udp6', port: 0, address: '::1' })
    ],
    ['unix-stream', ...Descriptor.socketpair(), own(native.socket(1))],
    ['unix-stream-listener', await Descriptor.bind({ path: temporaryPath('socket') })],
    ['unix-dgram', ...pair(2), own(native.socket(2))],
    ['unix-seqpacket', ...pair(5), own(native.socket(5))],
    ['unix-seqpacket-listener', python.descriptors[4]!],
    ['memfd', python.descriptors[0]!],
    ['eventfd', python.descriptors[1]!],
    ['epoll', python.descriptors[2]!],
    ['pidfd', python.descriptors[3]!],
    ['device', file(), Descriptor.openSync('/dev/zero')],
    [
      'other',
      python.descriptors[5]!,
      python.descriptors[6]!,
      python.descriptors[7]!,
      Descriptor.openSync(fileURLToPath(import.meta.url), O_PATH),
      Descriptor.openSync('/dev/null', O_PATH)
    ]
  ]
  t.deepEqual(
    made.map(([kind]) => kind),
    [...KINDS]
  )
  for (const [kind, ...descriptors] of made) {
    for (const descriptor of descriptors) {
      t.is(descriptor.kind, kind)
      const copy = descriptor.dup()
      t.is(copy.kind, kind, 'a dup')
      copy.close()
      descriptor.close()
    }
  }
  client.destroy()
  accepted.destroy()
  await Promise.all([once(client, 'close'), once(accepted, 'close')])
  await new Promise(resolve => server.close(resolve))
  await python.end()
})

test('a file that is only named like a memfd is a file', t => {
  const path = '/memfd:passfd-test'
  fs.writeFileSync(path, '')
  try {
    const descriptor = Descriptor.openSync(path)
    fs.unlinkSync(path)
    t.is(fs.readlinkSync(`/proc/self/fd/${descriptor.borrow()}`), `${path} (deleted)`)
    t.is(descriptor.kind, 'file')
    descriptor.close()
  } finally {
    fs.rmSync(path, { force: true })
  }
})

// --- traps

test("trap 21: a number closed by another owner is an error, and somebody else's file is left alone", t => {
  const descriptor = file()
  const fd = descriptor.borrow()
  fs.closeSync(fd) // the other owner
  for (const use of [() => descriptor.dup(), () => Descriptor.from(descriptor.borrow())])
    t.throws(use, { code: 'EBADF' })
  descriptor.close()
  t.true(descriptor.closed)
})

test('trap 39: a Descriptor has no fd property, in itself or inherited, now or later', t => {
  const descriptor = file()
  const look = (): void => {
    t.false('fd' in descriptor)
    t.false('_handle' in descriptor)
    t.false('handle' in descriptor)
    t.deepEqual(Reflect.ownKeys(descriptor), [])
    t.is(Object.values(descriptor).includes(descriptor.closed ? -1 : descriptor.borrow()), false)
  }
  look()
  void descriptor.kind
  look()
  descriptor.close()
  look()
})

test('trap 39: net, http, dgram and fs take no number from a Descriptor', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const object = listener as never
  for (const make of [() => net.createServer(), () => http.createServer()]) {
    const server = make()
    t.throws(() => server.listen(object), { code: 'ERR_INVALID_ARG_VALUE' })
    t.false(server.listening)
  }
  const before = openDescriptors().size
  const socket = new net.Socket(object)
  t.is((socket as unknown as { _handle: unknown })._handle, null)
  socket.destroy()
  const path = temporaryPath()
  fs.writeFileSync(path, 'of the path')
  const [text] = await once(fs.createReadStream(path, object), 'data')
  t.is(String(text), 'of the path')
  t.throws(() => fs.readSync(object, Buffer.alloc(1)), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => fs.closeSync(object), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => spawn('true', { stdio: [object, 'ignore', 'ignore'] }), { code: 'ERR_INVALID_ARG_VALUE' })
  t.is(listener.kind, 'tcp-listener', 'it is where it was')
  t.true(openDescriptors().size <= before + 1)
  listener.close()
})

test('trap 39: toListenHandle uses the Descriptor up, and the server owns the number', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const number = listener.borrow()
  const handle = listener.toListenHandle()
  t.true(listener.closed)
  t.is(handle.fd, number)
  t.throws(() => listener.borrow(), {
    code: 'ERR_PASSFD_DESCRIPTOR_CONVERTED',
    message: /used up by toListenHandle\(\)/
  })
  const server = http.createServer((_, response) => response.end('served'))
  server.listen(handle)
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })
  t.is(await response.text(), 'served')
  await new Promise(resolve => server.close(resolve))
  t.false(isOpen(number), 'closed by the server')
})

test("trap 24: O_NONBLOCK of a terminal or pipe of the user's is not flipped by borrow, from, dup or send", async t => {
  const pty = start(systemPython, [fileURLToPath(new URL('../fixtures/terminal.py', import.meta.url))])
  const name = await pty.line()
  const terminal = fs.openSync(name, fs.constants.O_RDWR | fs.constants.O_NOCTTY)
  const { readable, writable } = Descriptor.pipe()
  const pipe = writable.detach()
  const [left, right] = await connected()
  for (const [what, fd] of [
    ['a terminal', terminal],
    ['a pipe', pipe]
  ] as const) {
    const check = (after: string): void => void t.false(isNonBlocking(fd), `${what}, after ${after}`)
    check('nothing')
    const source = Descriptor.from(fd)
    check('from()')
    void source.kind
    source.borrow()
    check('kind and borrow()')
    const copy = source.dup()
    check('dup()')
    const arrived = once(right, 'message')
    const taken = left.send(copy)
    right.once('message', message => void message.claim())
    const [message] = await arrived
    await taken
    check('send()')
    message.descriptors[0].borrow()
    check('receiving')
    message.descriptors[0].close()
    source.close()
    check('close()')
  }
  await closeAll(left, right)
  fs.closeSync(terminal)
  fs.closeSync(pipe)
  readable.close()
  pty.child.stdin!.end()
  t.is((await pty.exit).code, 0)
})

// --- dups that share a number

test('a dup takes no number of its own until somebody looks at it', t => {
  const first = Descriptor.openSync('/etc/hostname')
  const before = openDescriptors().size
  const copies = Array.from({ length: 100 }, () => first.dup())
  t.is(openDescriptors().size, before)
  const numbers = copies.slice(0, 3).map(copy => copy.borrow())
  t.is(new Set([first.borrow(), ...numbers]).size, 4)
  t.is(openDescriptors().size, before + 4, 'the others share one')
  first.close()
  for (const [index, number] of numbers.entries()) t.is(copies[index]!.borrow(), number, 'it stays')
  t.is(identity(copies[99]!.borrow()), identity(numbers[0]!))
  for (const copy of copies) copy.close()
})

test('a number that was seen stays with its Descriptor', t => {
  const adopted = fs.openSync('/etc/hostname', 'r')
  for (const [first, number] of [
    [Descriptor.adopt(adopted), adopted],
    ...[Descriptor.openSync('/etc/hostname')].map(file => [file, file.borrow()] as const)
  ] as const) {
    const second = first.dup()
    t.not(second.borrow(), number)
    t.is(first.borrow(), number)
    const third = first.dup()
    t.is(first.detach(), number)
    fs.closeSync(number)
    t.is(second.kind, 'file')
    t.is(third.kind, 'file')
    second.close()
    third.close()
  }
})

test('dups that share a number are given away one by one', async t => {
  const [left, right] = await connected()
  const file = Descriptor.openSync('/etc/hostname')
  const before = openDescriptors().size
  const detached = file.dup().detach()
  const readable = file.dup().toReadable()
  const received: Descriptor[] = []
  right.on('message', ({ value }) => received.push((value as { file: Descriptor }).file.claim()))
  for (let i = 0; i < 3; i++) void left.send({ file: file.dup() })
  await until(() => received.length === 3, 'three files')
  t.is(file.kind, 'file')
  for (const each of received) t.is(identity(each.borrow()), identity(detached))
  for (const each of received) each.close()
  fs.closeSync(detached)
  readable.destroy()
  await once(readable, 'close')
  await until(() => openDescriptors().size === before, 'what was sent is closed, the file is not')
  file.close()
  await closeAll(left, right)
})
