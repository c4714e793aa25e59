import { once } from 'node:events'
import * as fs from 'node:fs'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as net from 'node:net'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { setImmediate as turn } from 'node:timers/promises'
import * as tls from 'node:tls'
import * as tty from 'node:tty'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { Connection, Descriptor } from '../../src/index.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { accepted, buffered, bytes, connectTo, contents, destroyed } from '../helpers/sockets.ts'
import { test, until } from '../helpers/test.ts'
import { clientKey, serverKey } from '../helpers/tls.ts'

/** More than the kernel keeps for a connection. */
const MUCH = Buffer.alloc(8 << 20, 'much')

function refused(t: ExecutionContext, stream: unknown, message: RegExp): void {
  const error = t.throws(() => void Connection.take(stream as net.Socket), { code: 'ERR_PASSFD_CONNECTION_SOURCE' })
  t.regex(error?.message ?? '', message)
}

/** A socket whose last bytes can't leave, as its peer does not read. */
async function clogged(options: net.ServerOpts = {}): Promise<{ here: net.Socket; there: net.Socket }> {
  const pair = await accepted('tcp', options)
  pair.here.write(MUCH)
  return pair
}

for (const kind of ['tcp', 'unix-stream'] as const) {
  test(`a ${kind} goes on elsewhere: what was read ahead stands in front, and nobody sees an end`, async t => {
    const { here, there } = await accepted(kind)
    const events: string[] = []
    here.on('end', () => events.push('end')).on('close', error => events.push(`close ${error}`))
    there.on('end', () => events.push('end of the peer'))
    there.write('read ahead ')
    await buffered(here, 11)
    const connection = await Connection.take(here)
    t.is(connection.kind, kind)
    t.is(connection.head.toString(), 'read ahead ')
    t.true(here.destroyed)
    there.write('and behind')
    await once(here, 'close')
    const socket = connection.toSocket()
    t.is(socket.readableFlowing, null, 'paused until it is read')
    t.is((await bytes(socket, 21)).toString(), 'read ahead and behind')
    socket.end('an answer')
    t.is(await text(there), 'an answer')
    t.deepEqual(events, ['close false', 'end of the peer'])
    there.end()
    await once(socket, 'close')
  })
}

test('head comes before what the socket holds, and what the kernel holds after it; it is copied', async t => {
  const { here, there } = await accepted()
  here.pause()
  there.write('2')
  await buffered(here, 1)
  const head = Buffer.from('1')
  const taken = Connection.take(here, { head })
  head[0] = 0
  there.end('3')
  const connection = await taken
  t.is(connection.head.toString(), '12')
  const socket = connection.toSocket()
  t.is(await text(socket), '123')
  await destroyed(socket, there)
})

test('a socket in flow: its listeners get nothing more from the call on, wherever that stands', async t => {
  const { here, there } = await accepted()
  const got: string[] = []
  const taken = new Promise<Connection>(resolve => {
    here.on('data', data => {
      got.push(String(data))
      resolve(Connection.take(here))
    })
  })
  there.write('first')
  const connection = await taken
  there.write('second')
  const socket = connection.toSocket()
  t.is((await bytes(socket, 6)).toString(), 'second')
  t.deepEqual(got, ['first'])
  await destroyed(socket, there)
})

test('what was written leaves before; its callbacks hear that it did, those of later writes that it is over', async t => {
  const { here, there } = await accepted('tcp', { highWaterMark: 1 })
  here.cork()
  let done = 0
  const wrote = (error?: Error | null) => void (error === undefined || error === null ? done++ : t.fail(error.message))
  here.write(MUCH, wrote)
  here.write('the end', wrote)
  const taken = Connection.take(here)
  here.write(', and more', wrote)
  const received = bytes(there, MUCH.length + 17)
  const connection = await taken
  await until(() => done === 3, 'all callbacks')
  const [failure] = await new Promise<unknown[]>(resolve => here.write('late', (...given) => resolve(given)))
  t.is((failure as NodeJS.ErrnoException).code, 'ERR_STREAM_DESTROYED')
  const socket = connection.toSocket()
  socket.end('!')
  const all = await received
  t.true(all.subarray(0, MUCH.length).equals(MUCH))
  t.is(all.subarray(MUCH.length).toString(), 'the end, and more')
  t.is(await text(there), '!')
  await destroyed(there, socket)
})

test('a socket still connecting is waited for, with what was written to it', async t => {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connectTo(server)
  client.write('early')
  const [connection, [peer]] = await Promise.all([Connection.take(client), once(server, 'connection')])
  const socket = connection.toSocket()
  socket.end(' and late')
  t.is(await text(peer), 'early and late')
  await destroyed(peer, socket)
  server.close()
})

test('a socket that can not connect: the error is told by the promise', async t => {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  await t.throwsAsync(Connection.take(net.connect(port, '127.0.0.1')), { code: 'ECONNREFUSED' })
})

test('the peer resets it meanwhile: the error is told by the promise', async t => {
  const { here, there } = await clogged()
  const taken = Connection.take(here)
  there.resetAndDestroy()
  const error = await t.throwsAsync<NodeJS.ErrnoException>(taken)
  t.true(['ECONNRESET', 'EPIPE'].includes(error?.code ?? ''), error?.code)
  t.true(here.destroyed)
})

test('the program destroys it meanwhile', async t => {
  const { here, there } = await clogged()
  const taken = Connection.take(here)
  here.destroy()
  await t.throwsAsync(taken, { code: 'ERR_PASSFD_CONNECTION_SOURCE', message: /closed before all that was written/ })
  await destroyed(there)
})

// --- ends

test('the peer has ended: read ahead with the last bytes, or not; the taker sees it, and can still answer', async t => {
  for (const ahead of [true, false]) {
    const { here, there } = await accepted('tcp', { allowHalfOpen: true, pauseOnConnect: !ahead })
    const ends: string[] = []
    here.on('end', () => ends.push('end'))
    there.end('a question')
    // Node knows of the end, and has not told it
    const { _readableState: state } = here as unknown as { _readableState: { ended: boolean } }
    if (ahead) await until(() => state.ended, 'the end')
    const connection = await Connection.take(here)
    const socket = connection.toSocket({ allowHalfOpen: true })
    t.is(await contents(socket), 'a question')
    socket.end('an answer')
    t.is(await contents(there), 'an answer')
    t.deepEqual(ends, [])
    await destroyed(there, socket)
  }
})

test('the peer ends while the rest is written: Node does not answer with an end of ours', async t => {
  const { here, there } = await clogged()
  const taken = Connection.take(here)
  there.end('a question')
  await bytes(there, MUCH.length)
  const connection = await taken
  const socket = connection.toSocket({ allowHalfOpen: true })
  t.is(await contents(socket), 'a question')
  socket.end('an answer')
  t.is(await contents(there), 'an answer')
  await destroyed(there, socket)
})

test('we have ended: all is written, shut down, and read on elsewhere', async t => {
  const { here, there } = await clogged({ allowHalfOpen: true })
  here.end('the end')
  const taken = Connection.take(here)
  const all = await contents(there)
  t.is(all.length, MUCH.length + 7)
  const connection = await taken
  there.end('an answer')
  const socket = connection.toSocket()
  t.is(await contents(socket), 'an answer')
  await destroyed(there, socket)
})

test('both have ended: there is nothing left to take', async t => {
  const { here, there } = await accepted()
  here.resume().end()
  const taken = Connection.take(here)
  there.end()
  const socket = (await taken).toSocket()
  t.is(await contents(socket), '')
  await destroyed(there, socket)
})

// --- a signal

test('an aborted signal changes nothing', async t => {
  const { here, there } = await accepted()
  await t.throwsAsync(Connection.take(here, { signal: AbortSignal.abort() }), { name: 'AbortError' })
  here.end('as before')
  t.is(await contents(there), 'as before')
  await destroyed(here, there)
})

/** Ways of reading a socket, each with what it has got. */
const readers: Record<string, (socket: net.Socket) => Promise<string>> = {
  "'data'": socket =>
    new Promise(resolve => {
      let got = ''
      socket.on('data', data => void (got += String(data))).on('end', () => resolve(got))
    }),
  "'readable'": socket =>
    new Promise(resolve => {
      let got = ''
      socket
        .on('readable', () => {
          for (let data = socket.read(); data !== null; data = socket.read()) got += String(data)
        })
        .on('end', () => resolve(got))
    }),
  'for await': async socket => {
    let got = ''
    for await (const data of socket) got += String(data)
    return got
  },
  'pipe()': socket => text(socket.pipe(new PassThrough()))
}

for (const [name, read] of Object.entries(readers)) {
  test(`aborted while the rest is written, the socket goes on as before: read by ${name}`, async t => {
    const { here, there } = await clogged()
    const got = read(here)
    there.write('before ')
    await until(() => here.bytesRead === 7, 'the first bytes')
    const controller = new AbortController()
    const taken = Connection.take(here, { signal: controller.signal })
    there.write('meanwhile ')
    await until(() => here.bytesRead === 17, 'bytes meanwhile')
    controller.abort()
    const error = await t.throwsAsync(taken, { name: 'AbortError' })
    t.is((error as NodeJS.ErrnoException).code, 'ABORT_ERR')
    t.false(here.destroyed)
    there.end('after')
    const answer = contents(there)
    t.is(await got, 'before meanwhile after')
    // An iterator destroys what it has read to the end
    if (name !== 'for await') t.is((await answer).length, MUCH.length, 'and it answers the end with one of ours')
    await destroyed(here, there)
  })
}

for (const [name, read] of Object.entries(readers)) {
  for (const paused of [false, true])
    test(`aborted, a ${paused ? 'paused' : 'fresh'} socket that somebody has begun to read meanwhile is read: by ${name}`, async t => {
      const { here, there } = await clogged()
      if (paused) here.pause()
      there.write('before ')
      await buffered(here, 7)
      const controller = new AbortController()
      const taken = Connection.take(here, { signal: controller.signal })
      const got = read(here)
      if (paused) here.resume()
      await turn()
      there.write('meanwhile ')
      await until(() => here.bytesRead === 17, 'bytes meanwhile')
      controller.abort()
      await t.throwsAsync(taken, { name: 'AbortError' })
      there.end('after')
      there.resume()
      t.is(await got, 'before meanwhile after')
      await destroyed(here, there)
    })
}

test('aborted after the peer has ended: the end is told then, and answered', async t => {
  const { here, there } = await clogged()
  const got = contents(here)
  const controller = new AbortController()
  const taken = Connection.take(here, { signal: controller.signal })
  there.end('the last')
  await until(() => here.bytesRead === 8, 'the last')
  controller.abort()
  await t.throwsAsync(taken, { name: 'AbortError' })
  t.is(await got, 'the last')
  t.is((await contents(there)).length, MUCH.length)
  await destroyed(here, there)
})

test('aborted, it can be taken again; corked, paused or never read it stays that', async t => {
  for (const how of ['corked', 'paused', 'untouched'] as const) {
    const { here, there } = await clogged()
    if (how === 'corked') here.cork()
    if (how === 'paused') here.pause()
    there.write('1')
    await buffered(here, 1)
    const flowing = here.readableFlowing
    const controller = new AbortController()
    const taken = Connection.take(here, { signal: controller.signal })
    there.write('2')
    await until(() => here.bytesRead === 2, 'another byte')
    controller.abort()
    await t.throwsAsync(taken, { name: 'AbortError' })
    t.is(here.readableFlowing, flowing)
    t.is(here.writableCorked, how === 'corked' ? 1 : 0)
    t.is(here.readableLength, 2)
    const again = Connection.take(here)
    await bytes(there, MUCH.length)
    const connection = await again
    t.is(connection.head.toString(), '12')
    connection.close()
    await destroyed(there)
  }
})

test('a socket that reads into a buffer of its own', async t => {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const got: string[] = []
  const onread = {
    buffer: Buffer.alloc(4096),
    callback: (count: number, into: Uint8Array) => {
      got.push(Buffer.from(into.subarray(0, count)).toString())
      return true
    }
  }
  const here = net.connect({ port: (server.address() as net.AddressInfo).port, host: '127.0.0.1', onread })
  const [[there]] = (await Promise.all([once(server, 'connection'), once(here, 'connect')])) as [[net.Socket], unknown]
  there.write('before')
  await until(() => got.length === 1, 'the first')
  here.write(MUCH)
  const controller = new AbortController()
  const taken = Connection.take(here, { signal: controller.signal })
  there.write('meanwhile')
  controller.abort()
  await t.throwsAsync(taken)
  await until(() => got.length === 2, 'the second')
  const again = Connection.take(here)
  there.write('after')
  await bytes(there, MUCH.length)
  const socket = (await again).toSocket()
  t.is((await bytes(socket, 5)).toString(), 'after')
  t.deepEqual(got, ['before', 'meanwhile'])
  await destroyed(socket, there)
  server.close()
})

// --- what stands in the stream when it is taken

const attach: Record<string, (stream: net.Socket, got: string[]) => void> = {
  "a paused 'data' listener": (stream, got) => void stream.on('data', data => got.push(String(data))).pause(),
  "a 'data' listener": (stream, got) => void stream.on('data', data => got.push(String(data))),
  "a 'readable' listener": (stream, got) =>
    void stream.on('readable', () => {
      const data = stream.read()
      if (data !== null) got.push(String(data))
    })
}

for (const [name, listen] of Object.entries(attach)) {
  test(`bytes that wait for ${name} are not given to it while the rest is written, only if that is aborted`, async t => {
    for (const abort of [true, false]) {
      const { here, there } = await clogged()
      there.write('waits')
      await buffered(here, 5)
      const got: string[] = []
      listen(here, got)
      const controller = new AbortController()
      const taken = Connection.take(here, { signal: controller.signal })
      await turn()
      await turn()
      t.deepEqual(got, [])
      if (abort) {
        controller.abort()
        await t.throwsAsync(taken, { name: 'AbortError' })
        if (here.isPaused() && name.includes('paused')) here.resume()
        await until(() => got.length > 0, 'what waited')
        t.deepEqual(got, ['waits'])
        await destroyed(here, there)
      } else {
        await bytes(there, MUCH.length)
        const connection = await taken
        t.is(connection.head.toString(), 'waits')
        t.deepEqual(got, [])
        connection.close()
        await destroyed(there)
      }
    }
  })
}

test('aborted after the peer has ended without a word: one that nobody reads is told, too', async t => {
  const { here, there } = await clogged()
  const controller = new AbortController()
  const taken = Connection.take(here, { signal: controller.signal })
  let ends = 0
  here.on('end', () => ends++)
  there.end()
  await once(there, 'finish')
  await turn()
  await turn()
  controller.abort()
  await t.throwsAsync(taken, { name: 'AbortError' })
  await until(() => ends === 1, 'the end')
  t.is((await contents(there)).length, MUCH.length, 'and answers')
  await destroyed(here, there)
})

test('the end is about to be told when it is taken: Node does not answer with one of ours', async t => {
  for (const abort of [true, false]) {
    const { here, there } = await clogged()
    const controller = new AbortController()
    const taken = new Promise<Connection>((resolve, reject) => {
      const { push } = here
      here.push = chunk => {
        // In front of what tells the end
        if (chunk === null)
          process.nextTick(() => Connection.take(here, { signal: controller.signal }).then(resolve, reject))
        return push.call(here, chunk)
      }
    })
    there.end()
    await once(here, 'end')
    if (abort) {
      controller.abort()
      await t.throwsAsync(taken, { name: 'AbortError' })
      t.is((await contents(there)).length, MUCH.length, 'but does so then')
      await destroyed(here, there)
    } else {
      await turn()
      const all = contents(there)
      const socket = (await taken).toSocket({ allowHalfOpen: true })
      socket.end('an answer')
      t.is((await all).slice(MUCH.length), 'an answer')
      await destroyed(socket, there)
    }
  }
})

// --- pipes and terminals

test("the ends of a pipe, as Node's sockets", async t => {
  const { readable, writable } = Descriptor.pipe()
  const reader = new net.Socket({ fd: readable.detach(), writable: false })
  const writer = new net.Socket({ fd: writable.detach(), readable: false })
  writer.write('1')
  await buffered(reader, 1)
  writer.write('2')
  const from = await Connection.take(reader)
  const to = await Connection.take(writer)
  t.is(from.kind, 'pipe')
  t.is(to.kind, 'pipe')
  const source = from.toDuplex()
  const sink = to.toDuplex()
  sink.end('3')
  t.is(await text(source), '123')
  await destroyed(source, sink)
})

test('the ends of a pipe, as what toDuplex() gives', async t => {
  const { readable, writable } = Descriptor.pipe()
  const reader = readable.toDuplex()
  const writer = writable.toDuplex()
  const events: string[] = []
  reader.on('end', () => events.push('end'))
  writer.write(MUCH)
  const taken = Connection.take(writer)
  const from = await Connection.take(reader)
  t.is(from.kind, 'pipe')
  const source = from.toDuplex()
  t.true(await bytes(source, MUCH.length).then(all => all.equals(MUCH)))
  const sink = (await taken).toDuplex()
  sink.end('3')
  t.is(await text(source), '3')
  t.deepEqual(events, [])
  await destroyed(source, sink)
})

test('aborted, a pipe goes on as before', async t => {
  const { readable, writable } = Descriptor.pipe()
  const reader = readable.toDuplex()
  const writer = writable.toDuplex()
  writer.write(MUCH)
  const controller = new AbortController()
  const taken = Connection.take(writer, { signal: controller.signal })
  controller.abort()
  await t.throwsAsync(taken, { name: 'AbortError' })
  writer.end('the end')
  t.is((await contents(reader)).length, MUCH.length + 7)
  await destroyed(reader, writer)
})

for (const ours of [true, false]) {
  test(`a terminal: ${ours ? 'what toDuplex() gives' : "Node's tty.ReadStream"}`, async t => {
    const terminal = start(systemPython, [fileURLToPath(new URL('../fixtures/terminal.py', import.meta.url))])
    const fd = fs.openSync(await terminal.line(), fs.constants.O_RDWR | fs.constants.O_NOCTTY)
    const stream = ours ? Descriptor.adopt(fd).toDuplex() : new tty.ReadStream(fd)
    if (!ours) stream.resume().pause() // it reads only when asked to
    stream.write('ahead')
    if (ours) stream.read(0)
    await Promise.race([until(() => stream.readableLength === 5, 'the echo'), once(stream, 'readable')])
    const connection = await Connection.take(stream)
    t.is(connection.kind, 'tty')
    t.is(connection.head.toString(), 'AHEAD')
    const duplex = connection.toDuplex()
    duplex.write(' and behind')
    t.is((await bytes(duplex, 16)).toString(), 'AHEAD AND BEHIND')
    await destroyed(duplex)
    if (!ours) fs.closeSync(fd) // libuv has opened the terminal anew and left the number to us
    terminal.child.stdin?.end()
    await terminal.exit
  })
}

// --- refusals

test('what can not be taken is refused, with the reason, and is left as it was', async t => {
  const { here, there } = await accepted()
  refused(t, undefined, /can't take undefined: .*net\.Socket/)
  refused(t, new PassThrough(), /\(PassThrough\): .*Descriptor\.from/)
  const file = fs.createReadStream('/dev/null')
  refused(t, file, /Descriptor\.from/)
  await destroyed(file)
  refused(t, new net.Socket(), /not connected/)
  const taken = Connection.take(here)
  refused(t, here, /another take\(\)|closed/)
  ;(await taken).close()
  refused(t, here, /closed; take it before/)
  await destroyed(there)
})

test('twice at the same time', async t => {
  const { here, there } = await clogged()
  const taken = Connection.take(here)
  refused(t, here, /another take\(\)/)
  await bytes(there, MUCH.length)
  ;(await taken).close()
  await destroyed(there)
})

test('text instead of bytes', async t => {
  const { here, there } = await accepted()
  here.setEncoding('utf8')
  refused(t, here, /setEncoding\(\).*TextDecoder/)
  await destroyed(here, there)
})

test('TLS: its socket, and the one below', async t => {
  const server = tls.createServer(serverKey).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const below: net.Socket[] = []
  server.on('connection', socket => below.push(socket))
  const client = tls.connect({ ...clientKey, port: (server.address() as net.AddressInfo).port, host: '127.0.0.1' })
  const [[secure]] = (await Promise.all([once(server, 'secureConnection'), once(client, 'secureConnect')])) as [
    [tls.TLSSocket],
    unknown
  ]
  refused(t, secure, /keys of TLS/)
  refused(t, client, /keys of TLS/)
  refused(t, below[0], /TLS is reading/)
  await destroyed(client, secure)
  server.close()
})

test("in the middle of http's and http2's parsers", async t => {
  const server = http.createServer((request, response) => {
    refused(t, request.socket, /http is reading .*'connection'.*'upgrade'/)
    response.end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  server.once('connection', socket => refused(t, socket, /http is reading/))
  const { port } = server.address() as net.AddressInfo
  const request = http.get({ port, host: '127.0.0.1', agent: false })
  request.once('socket', socket => refused(t, socket, /http is reading/))
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  t.is(await text(response), '')
  server.close()
  const second = http2.createServer().listen(0, '127.0.0.1')
  await once(second, 'listening')
  const session = http2.connect(`http://127.0.0.1:${(second.address() as net.AddressInfo).port}`)
  const [socket] = (await once(second, 'connection')) as [net.Socket]
  refused(t, socket, /http2 is reading/)
  refused(t, session.socket, /http2 is reading/)
  session.close()
  second.close()
  await once(second, 'close')
})

test('options are checked', async t => {
  const { here, there } = await accepted()
  const wrong = { code: 'ERR_PASSFD_INVALID_ARGUMENT' }
  t.throws(() => void Connection.take(here, { head: 'text' as never }), { ...wrong, message: /options\.head/ })
  t.throws(() => void Connection.take(here, { signal: {} as never }), { ...wrong, message: /options\.signal/ })
  await destroyed(here, there)
})
