/** What `Descriptor.from` finds a descriptor in stays what it was. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import { text } from 'node:stream/consumers'
import * as tls from 'node:tls'
import type { ExecutionContext } from 'ava'
import * as pty from 'node-pty'
import { Descriptor, type DescriptorSource } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { identity, isOpen } from '../helpers/facts.ts'
import { temporaryPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { openTerminal } from '../helpers/terminal.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

/** The status flags of all that is open here, by number. */
function allFlags(): Map<number, number> {
  return new Map([...openDescriptors().keys()].map(fd => [fd, native.statusFlags(fd)]))
}

/** A duplicate of the source; fails if any flag of anything that was open has changed, or something is not open any more. */
function duplicate(t: ExecutionContext, source: DescriptorSource): Descriptor {
  const before = allFlags()
  const descriptor = Descriptor.from(source)
  const after = allFlags()
  for (const [fd, flags] of before) if (flags >= 0) t.is(after.get(fd), flags, `flags of ${fd}`)
  return descriptor
}

async function ended(...streams: (net.Socket | fs.ReadStream)[]): Promise<void> {
  for (const stream of streams) {
    stream.destroy()
    if (!stream.closed) await once(stream, 'close')
  }
}

async function connection(): Promise<{ client: net.Socket; accepted: net.Socket; server: net.Server }> {
  const server = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [[net.Socket], any]
  server.close()
  return { client, accepted, server }
}

test('a connection goes on through its socket, and through the duplicate', async t => {
  const { client, accepted } = await connection()
  const copy = duplicate(t, client)
  const theirs = once(accepted.resume(), 'data')
  client.write('through the socket')
  t.is(String((await theirs)[0]), 'through the socket')
  client.destroy()
  const socket = copy.toSocket()
  accepted.write('through the duplicate')
  t.is(String((await once(socket, 'data'))[0]), 'through the duplicate')
  await ended(client, accepted, socket)
})

test('a socket that holds bytes which nobody consumed is refused; a paused one without any is fine', async t => {
  const { client, accepted } = await connection()
  duplicate(t, accepted).close() // never read: pauseOnConnect
  client.write('unread')
  accepted.read(0)
  await until(() => accepted.readableLength > 0, 'the bytes')
  t.throws(() => Descriptor.from(accepted), {
    code: 'ERR_PASSFD_UNREAD',
    message: /^This stream holds 6 bytes that Node has read .* Connection\.take\(stream\)/
  })
  t.is(String(accepted.read()), 'unread', 'they are still there')
  duplicate(t, accepted).close()
  await ended(client, accepted)
})

test('a stream of ours that holds bytes which nobody consumed is refused, too', async t => {
  const { readable, writable } = Descriptor.pipe()
  const stream = readable.toReadable()
  duplicate(t, stream).close()
  fs.writeSync(writable.borrow(), 'unread')
  stream.read(0)
  await until(() => stream.readableLength > 0, 'the bytes')
  t.throws(() => Descriptor.from(stream), { code: 'ERR_PASSFD_UNREAD' })
  stream.read()
  const copy = duplicate(t, stream)
  t.is(copy.kind, 'pipe')
  fs.writeSync(writable.borrow(), 'next')
  t.is(String((await once(stream, 'data'))[0]), 'next', 'the source goes on')
  stream.destroy()
  await once(stream, 'close')
  t.throws(() => Descriptor.from(stream), { code: 'ERR_PASSFD_DESCRIPTOR_SOURCE' })
  copy.close()
  writable.close()
})

test('a file that is read ahead has lost nothing: its bytes can be read again', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, 'contents')
  const stream = fs.createReadStream(path)
  await once(stream, 'readable')
  t.is(stream.readableLength, 8)
  duplicate(t, stream).close()
  t.is(await text(stream), 'contents')
  await ended(stream)
})

test('a named pipe that is read ahead as if it were a file is refused: its bytes can not be read again', async t => {
  const path = temporaryPath()
  execFileSync('mkfifo', [path])
  const writer = Descriptor.openSync(path, 'r+')
  fs.writeSync(writer.borrow(), 'unread')
  const stream = fs.createReadStream(path)
  await once(stream, 'readable')
  t.throws(() => Descriptor.from(stream), { code: 'ERR_PASSFD_UNREAD' })
  t.is(String(stream.read()), 'unread')
  writer.close()
  await ended(stream)
})

test('a TLSSocket is refused: its keys would be missing', async t => {
  const { client, accepted } = await connection()
  const psk = { psk: Buffer.alloc(16, 1), identity: 'test' }
  const context = { ciphers: 'PSK', minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const
  const ours = new tls.TLSSocket(accepted, { isServer: true, ...context, pskCallback: () => psk.psk } as never)
  const theirs = tls.connect({
    socket: client,
    ...context,
    checkServerIdentity: () => undefined,
    pskCallback: () => psk
  })
  await once(theirs, 'secureConnect')
  for (const socket of [ours, theirs])
    t.throws(() => Descriptor.from(socket), { code: 'ERR_PASSFD_DESCRIPTOR_SOURCE', message: /\(TLSSocket\)/ })
  const data = once(ours, 'data')
  theirs.write('still works')
  t.is(String((await data)[0]), 'still works')
  await ended(theirs, ours, client, accepted)
})

test('a terminal of node-pty goes on', async t => {
  const terminal = pty.spawn('cat', [], {})
  const exit = new Promise(resolve => terminal.onExit(resolve))
  const copy = duplicate(t, terminal)
  t.is(copy.kind, 'tty')
  t.is(native.terminalSide(copy.borrow()), 1)
  t.is(identity(copy.borrow()), identity((terminal as unknown as { fd: number }).fd))
  const data = new Promise(resolve => terminal.onData(resolve))
  terminal.write('still works\n')
  t.regex(String(await data), /still works/)
  copy.close()
  terminal.kill()
  await exit
})

test('FileHandle, { fd } and a number stay open and where they are', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, '0123456789')
  const handle = await fs.promises.open(path)
  for (const source of [handle, { fd: handle.fd }, handle.fd]) {
    const copy = duplicate(t, source)
    const number = copy.borrow()
    copy.close()
    t.false(isOpen(number))
  }
  t.is((await handle.read(Buffer.alloc(2), 0, 2)).buffer.toString(), '01')
  await handle.close()
})

for (const [what, kind, open] of [
  ['files', 'file', openFiles],
  ['pipes', 'pipe', openPipes],
  ['a terminal', 'tty', openTerminals],
  ['sockets', 'unix-stream', openSockets]
] as const)
  test(`process.stdin and process.stdout go on when they are ${what}`, async t => {
    const { stdin, stdout, say, heard } = open()
    const { child, exit } = startFixture('standard-streams', [], { stdio: [stdin.borrow(), stdout.borrow(), 'pipe'] })
    say('said\n')
    const { code, stderr } = await exit
    t.is(stderr, `${kind} true true\n`.repeat(2))
    t.is(code, 0)
    t.regex(heard(), /said\r?\n/)
    t.is(child.stdin, null)
    for (const descriptor of new Set([stdin, stdout])) descriptor.close()
    heard.end?.()
  })

interface Streams {
  stdin: Descriptor
  stdout: Descriptor
  say(words: string): void
  heard: { (): string; end?(): void }
}

function openFiles(): Streams {
  const [input, output] = [temporaryPath(), temporaryPath()]
  fs.writeFileSync(input, 'said\n')
  return {
    stdin: Descriptor.openSync(input),
    stdout: Descriptor.openSync(output, 'w'),
    say() {},
    heard: () => fs.readFileSync(output, 'utf8')
  }
}

function openPipes(): Streams {
  return between(Descriptor.pipe(), Descriptor.pipe())
}

function openSockets(): Streams {
  const [writable, readable] = Descriptor.socketpair()
  const [theirs, ours] = Descriptor.socketpair()
  return between({ readable, writable }, { readable: ours, writable: theirs })
}

function openTerminals(): Streams {
  const { master, slave } = openTerminal()
  return { ...between({ readable: slave, writable: master }, { readable: master, writable: slave }) }
}

function between(
  input: { readable: Descriptor; writable: Descriptor },
  output: { readable: Descriptor; writable: Descriptor }
): Streams {
  const heard = (): string => {
    const bytes = Buffer.alloc(1000)
    return bytes.toString('utf8', 0, fs.readSync(output.readable.borrow(), bytes))
  }
  const end = (): void => {
    for (const descriptor of new Set([input.writable, output.readable])) descriptor.close()
  }
  return {
    stdin: input.readable,
    stdout: output.writable,
    say: words => void fs.writeSync(input.writable.borrow(), words),
    heard: Object.assign(heard, { end })
  }
}
