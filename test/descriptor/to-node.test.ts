import { execFileSync } from 'node:child_process'
import type * as dgram from 'node:dgram'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as http from 'node:http'
import * as net from 'node:net'
import type { Duplex, Readable, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { checkInteger, describe } from '../../src/base/check.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { addressOf, isOpen } from '../helpers/facts.ts'
import { isFull } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { test } from '../helpers/test.ts'

const CONVERSIONS = ['toSocket', 'toDuplex', 'toReadable', 'toWritable'] as const
const O_TERMINAL = fs.constants.O_RDWR | fs.constants.O_NOCTTY
type Conversion = (typeof CONVERSIONS)[number]

async function destroyed(...streams: (Readable | Writable)[]): Promise<void> {
  for (const stream of streams) {
    stream.destroy()
    if (!stream.closed) await once(stream, 'close')
  }
}

function closed(server: { close(done: () => void): unknown }): Promise<void> {
  return new Promise(resolve => void server.close(resolve))
}

/** Both ends of a connection: one as a Descriptor, the other as a socket. */
async function connection(kind: 'tcp' | 'unix-stream'): Promise<{ descriptor: Descriptor; other: net.Socket }> {
  if (kind === 'unix-stream') {
    const [descriptor, other] = Descriptor.socketpair()
    return { descriptor, other: other.toSocket() }
  }
  const server = net.createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  const [[other]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [
    [net.Socket],
    unknown
  ]
  const descriptor = Descriptor.from(client)
  await destroyed(client)
  server.close() // when the connection has ended, too
  return { descriptor, other }
}

for (const kind of ['tcp', 'unix-stream'] as const) {
  for (const conversion of CONVERSIONS) {
    test(`a ${kind} becomes a stream that works, and owns the number: ${conversion}()`, async t => {
      const { descriptor, other } = await connection(kind)
      t.is(descriptor.kind, kind)
      const number = descriptor.borrow()
      const held = native.held()
      const stream = descriptor[conversion]() as Duplex
      t.true(stream instanceof net.Socket)
      t.is(native.held(), held - 1)
      t.true(isOpen(number))
      t.throws(() => descriptor.borrow(), {
        code: 'ERR_PASSFD_DESCRIPTOR_CONVERTED',
        message: new RegExp(`used up by ${conversion}\\(\\)`)
      })
      if (conversion !== 'toWritable') {
        other.write('to the stream')
        t.is(String((await once(stream, 'data'))[0]), 'to the stream')
      }
      if (conversion !== 'toReadable') {
        stream.write('from the stream')
        t.is(String((await once(other, 'data'))[0]), 'from the stream')
        const end = once(other.resume(), 'end')
        stream.end()
        await end
      }
      await destroyed(stream, other)
      t.false(isOpen(number), 'the stream has closed it')
    })
  }
}

test('what came before the conversion is read after it', async t => {
  const { descriptor, other } = await connection('unix-stream')
  other.write('was there before')
  const socket = descriptor.toSocket()
  t.false(socket.readableFlowing === true)
  t.is(String((await once(socket, 'data'))[0]), 'was there before')
  await destroyed(socket, other)
})

for (const [conversion, end] of [
  ['toDuplex', 'both'],
  ['toReadable', 'readable'],
  ['toWritable', 'writable']
] as const) {
  test(`the ends of a pipe become streams that go their one way: ${conversion}()`, async t => {
    const pipe = Descriptor.pipe()
    if (end !== 'writable') {
      const number = pipe.readable.borrow()
      const readable = pipe.readable[conversion]()
      fs.writeSync(pipe.writable.borrow(), 'through')
      pipe.writable.close()
      t.is(await text(readable as Readable), 'through')
      await destroyed(readable)
      t.false(isOpen(number))
    } else {
      const number = pipe.writable.borrow()
      const writable = pipe.writable[conversion]() as Writable
      const closing = once(writable, 'close')
      writable.end('through')
      await closing
      t.false(isOpen(number), 'closed when it has ended')
      t.is(fs.readFileSync(pipe.readable.borrow(), 'utf8'), 'through')
      pipe.readable.close()
    }
  })
}

test('the writable end of a pipe works as a duplex too', async t => {
  const pipe = Descriptor.pipe()
  const writable = pipe.writable.toDuplex()
  t.false(writable.readable)
  const closing = once(writable, 'close')
  writable.end('through')
  await closing
  t.is(fs.readFileSync(pipe.readable.borrow(), 'utf8'), 'through')
  pipe.readable.close()
})

test('the wrong end of a pipe, or a file for the other direction, is refused at once', t => {
  const pipe = Descriptor.pipe()
  const path = temporaryPath()
  for (const [descriptor, conversion, message] of [
    [pipe.writable, 'toReadable', /toReadable\(\) needs .* open for reading; this pipe is open for writing only/],
    [pipe.readable, 'toWritable', /toWritable\(\) needs .* open for writing; this pipe is open for reading only/],
    [Descriptor.openSync(path, 'w'), 'toReadable', /this file is open for writing only/],
    [Descriptor.openSync(path, 'r'), 'toWritable', /this file is open for reading only/]
  ] as const) {
    t.throws(() => descriptor[conversion](), { code: 'ERR_PASSFD_DESCRIPTOR_DIRECTION', message })
    descriptor.close() // it is still there
  }
})

test('a terminal becomes a stream for both directions', async t => {
  const terminal = start(systemPython, [fileURLToPath(new URL('../fixtures/terminal.py', import.meta.url))])
  const name = await terminal.line()
  for (const conversion of ['toDuplex', 'toReadable', 'toWritable'] as const) {
    const descriptor = Descriptor.openSync(name, O_TERMINAL)
    t.is(descriptor.kind, 'tty')
    const number = descriptor.borrow()
    const stream = descriptor[conversion]() as Duplex
    if (conversion !== 'toWritable') {
      const other = conversion === 'toReadable' ? Descriptor.openSync(name, O_TERMINAL) : undefined
      const answer = once(stream, 'data')
      if (other === undefined) stream.write('hello')
      else fs.writeSync(other.borrow(), 'hello')
      t.is(String((await answer)[0]), 'HELLO', conversion)
      other?.close()
    } else {
      const reader = Descriptor.openSync(name, O_TERMINAL).toReadable()
      stream.end('hello')
      t.is(String((await once(reader, 'data'))[0]), 'HELLO', conversion)
      await destroyed(reader)
    }
    await destroyed(stream)
    t.false(isOpen(number), conversion)
  }
  terminal.child.stdin!.end()
  t.is((await terminal.exit).code, 0)
})

test('a file becomes a stream that reads on from where it is, and closes it', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, '0123456789')
  const descriptor = Descriptor.openSync(path)
  const number = descriptor.borrow()
  fs.readSync(number, Buffer.alloc(3))
  const readable = descriptor.toReadable()
  t.true(readable instanceof fs.ReadStream)
  const closing = once(readable, 'close')
  t.is(await text(readable), '3456789')
  await closing
  t.false(isOpen(number))
})

test('a file becomes a stream that writes from where it is, and closes it', async t => {
  const path = temporaryPath()
  for (const [flags, expected] of [
    ['w', '0new'],
    ['a', '0new0new']
  ] as const) {
    const descriptor = Descriptor.openSync(path, flags)
    const number = descriptor.borrow()
    fs.writeSync(number, '0')
    const writable = descriptor.toWritable()
    t.true(writable instanceof fs.WriteStream)
    const closing = once(writable, 'close')
    writable.end('new')
    await closing
    t.is(fs.readFileSync(path, 'utf8'), expected)
    t.false(isOpen(number))
  }
})

test('a device becomes a stream', async t => {
  const readable = Descriptor.openSync('/dev/zero').toReadable()
  const [zeros] = await once(readable, 'data')
  t.true((zeros as Buffer).every(byte => byte === 0))
  const writable = Descriptor.openSync('/dev/null', 'w').toWritable()
  const finished = once(writable, 'finish')
  writable.end('into the void')
  await finished
  await destroyed(readable, writable)
})

test('a listener becomes a server, and accepts what was waiting', async t => {
  const path = temporaryPath('socket')
  for (const spec of [{ port: 0, host: '127.0.0.1' }, { path }]) {
    const listener = await Descriptor.bind(spec)
    const number = listener.borrow()
    const port = 'port' in spec ? (await addressOf(listener)).port : 0
    // Before anybody accepts
    const client = 'path' in spec ? net.connect(path) : net.connect(port, '127.0.0.1')
    client.write('early')
    await once(client, 'connect')
    const server = await listener.toServer()
    t.true(listener.closed)
    t.true(server.listening)
    const [socket] = (await once(server, 'connection')) as [net.Socket]
    t.is(String((await once(socket, 'data'))[0]), 'early')
    await destroyed(client, socket)
    await closed(server)
    t.false(isOpen(number))
    if ('path' in spec) t.true(fs.existsSync(path), 'a file that others may have taken over is left alone')
  }
})

test('a listen handle goes to any server', async t => {
  for (const spec of [{ port: 0, host: '127.0.0.1' }, { path: temporaryPath('socket') }]) {
    const listener = await Descriptor.bind(spec)
    const server = http.createServer((_, response) => response.end('served'))
    server.listen(listener.toListenHandle())
    await once(server, 'listening')
    const address = server.address() as net.AddressInfo | string | null
    const request =
      'path' in spec
        ? http.get({ socketPath: spec.path, agent: false })
        : http.get({ port: (address as net.AddressInfo).port, host: '127.0.0.1', agent: false })
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    t.is(await text(response), 'served')
    await closed(server)
  }
})

test('a datagram socket sends and receives, of either family', async t => {
  for (const [type, address] of [
    ['udp4', '127.0.0.1'],
    ['udp6', '::1']
  ] as const) {
    const [left, right] = [await bound(type, address), await bound(type, address)] as [dgram.Socket, dgram.Socket]
    for (const [from, to] of [
      [left, right],
      [right, left]
    ] as const) {
      const arrival = once(to, 'message')
      from.send('datagram', to.address().port, address)
      const [message, sender] = (await arrival) as [Buffer, dgram.RemoteInfo]
      t.is(String(message), 'datagram')
      t.is(sender.port, from.address().port)
    }
    await Promise.all([closed(left), closed(right)])
  }
})

const UDP = [
  ['udp4', '127.0.0.1'],
  ['udp6', '::1']
] as const

test('a datagram socket that is standard input, as inetd gives it', async t => {
  for (const [type, address] of isFull ? UDP : UDP.slice(0, 1)) {
    const here = await Descriptor.bind({ type, port: 0, address })
    const { child, line, exit } = startFixture('datagram-on-0', [], { stdio: [here.borrow(), 'pipe', 'pipe'] })
    const server = here.toDatagram()
    t.is(await line(), `${server.address().port}`)
    t.is((await exit).stderr, '')
    t.is(child.exitCode, 0)
    await closed(server)
  }
})

async function bound(type: 'udp4' | 'udp6', address: string): Promise<dgram.Socket> {
  const descriptor = await Descriptor.bind({ type, port: 0, address })
  const made = descriptor.toDatagram()
  if (!descriptor.closed) throw new Error('it was not used up')
  return made
}

test('a conversion that fails leaves the descriptor where it was', t => {
  const { readable, writable } = Descriptor.pipe()
  t.is(readable.kind, 'pipe')
  const number = readable.borrow()
  fs.closeSync(number) // somebody else's mistake
  for (const conversion of ['toSocket', 'toDuplex', 'toReadable', 'toWritable'] as Conversion[]) {
    t.throws(() => readable[conversion]())
    t.false(readable.closed, conversion)
  }
  readable.close()
  writable.close()
})

test("a terminal's size is set", async t => {
  const terminal = start(systemPython, [fileURLToPath(new URL('../fixtures/terminal.py', import.meta.url))])
  const descriptor = Descriptor.openSync(await terminal.line(), fs.constants.O_RDWR | fs.constants.O_NOCTTY)
  const size = (): string =>
    execFileSync('stty', ['size'], { stdio: [descriptor.borrow(), 'pipe', 'inherit'] }).toString()
  for (const [columns, rows] of [
    [80, 24],
    [0, 0],
    [65535, 65535],
    [132, 1]
  ] as const) {
    descriptor.resize({ columns, rows })
    t.is(size(), `${rows} ${columns}\n`)
  }
  for (const wrong of [-1, 65536, 1.5, Number.NaN, '80', undefined]) {
    for (const given of [
      { columns: wrong, rows: 24 },
      { columns: 80, rows: wrong }
    ]) {
      t.throws(() => descriptor.resize(given as { columns: number; rows: number }), {
        code: 'ERR_PASSFD_INVALID_ARGUMENT'
      })
    }
  }
  t.is(size(), '1 132\n', 'nothing of that has arrived')
  descriptor.close()
  terminal.child.stdin!.end()
  t.is((await terminal.exit).code, 0)
})

test('checkInteger takes integers within its bounds', t => {
  for (const value of [1, 2, 3]) t.notThrows(() => checkInteger(value, 'x', 1, 3))
  for (const value of [0, 4, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '2', 2n, null, undefined, [2], new Number(2)]) {
    t.throws(() => checkInteger(value, 'x', 1, 3), {
      code: 'ERR_PASSFD_INVALID_ARGUMENT',
      message: `x must be an integer from 1 to 3; it is ${describe(value)}.`
    })
  }
})

test('describe says a few words about any value, and never fails', t => {
  for (const [value, words] of [
    ['text', "'text'"],
    ['x'.repeat(60), `'${'x'.repeat(60)}'`],
    ['x'.repeat(61), `'${'x'.repeat(60)}…'`],
    [1.5, '1.5'],
    [3n, '3'],
    [null, 'null'],
    [undefined, 'undefined'],
    [Symbol('s'), 'Symbol(s)'],
    [() => {}, 'a function'],
    [class Named {}, 'a function'],
    [{}, 'an object (Object)'],
    [[], 'an object (Array)'],
    [new Map(), 'an object (Map)'],
    [Object.create(null), 'an object (no class)'],
    [{ constructor: undefined }, 'an object (no class)']
  ] as const)
    t.is(describe(value), words)
})
