/** Trap 38 among others: a server that did not accept a connection itself looks after it all the same. */
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { readFileSync, readlinkSync } from 'node:fs'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import * as net from 'node:net'
import { text } from 'node:stream/consumers'
import * as tls from 'node:tls'
import { Connection, Descriptor } from '../../src/index.ts'
import { connect } from '../../src/stream/index.ts'
import { patched } from '../helpers/channels.ts'
import { accepted, buffered, bytes, contents, destroyed } from '../helpers/sockets.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'
import { clientKey, serverKey } from '../helpers/tls.ts'

const REQUEST = 'GET /path HTTP/1.1\r\nHost: here\r\n\r\n'

/** A connection that is taken, `ahead` already read from it. */
async function taken(
  ahead = '',
  kind: 'tcp' | 'unix-stream' = 'tcp'
): Promise<{ connection: Connection; there: net.Socket }> {
  const { here, there } = await accepted(kind)
  if (ahead !== '') {
    there.write(ahead)
    await buffered(here, ahead.length)
  }
  return { connection: await Connection.take(here), there }
}

function closed(server: net.Server): Promise<Error | undefined> {
  return new Promise(resolve => void server.close(resolve))
}

function connections(server: net.Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)))
  })
}

const echo: http.RequestListener = (request, response) => {
  request.resume().once('end', () => {
    response.end(`${request.method} ${request.url} ${request.socket.remoteAddress ?? ''}`)
  })
}

for (const listening of [false, true]) {
  const how = listening ? 'that listens' : 'that never listened'
  test(`an http server ${how} answers, with any part of the request read ahead`, async t => {
    const server = http.createServer(echo)
    if (listening) await once(server.listen(0, '127.0.0.1'), 'listening')
    for (const split of [0, 1, 16, REQUEST.length]) {
      const { connection, there } = await taken(REQUEST.slice(0, split))
      const socket = connection.injectInto(server)
      t.true(connection.closed)
      t.is(socket.remotePort, there.localPort)
      there.write(REQUEST.slice(split))
      const [answer] = (await once(there, 'data')) as [Buffer]
      t.regex(String(answer), /^HTTP\/1\.1 200 OK[\s\S]*GET \/path 127\.0\.0\.1/)
      t.is(await connections(server), 1)
      await destroyed(there)
      await once(socket, 'close')
      t.is(await connections(server), 0)
    }
    t.is(await closed(server), undefined)
  })
}

test('requests one behind the other, read ahead and not', async t => {
  const server = http.createServer(echo)
  const { connection, there } = await taken(`${REQUEST}${REQUEST.replace('path', 'second')}GET /thi`)
  connection.injectInto(server)
  there.end('rd HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n')
  t.deepEqual((await text(there)).match(/\/(path|second|third)/g), ['/path', '/second', '/third'])
  await destroyed(there)
  await closed(server)
})

test('a request with a large body, most of it not yet read', async t => {
  const server = http.createServer(async (request, response) => {
    let size = 0
    for await (const part of request) size += part.length
    response.setHeader('Connection', 'close').end(String(size))
  })
  const { connection, there } = await taken('POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3000000\r\n\r\nxx')
  connection.injectInto(server)
  there.write(Buffer.alloc(2_999_998))
  t.regex(await text(there), /\r\n\r\n3000000$/)
  await destroyed(there)
  await closed(server)
})

// --- trap 38

/** The time limit that a test waits for. */
const impatient = { headersTimeout: 40, requestTimeout: 40, connectionsCheckingInterval: 10 }

for (const secure of [false, true]) {
  const name = secure ? 'https' : 'http'
  const create = (limits = {}): https.Server =>
    secure
      ? https.createServer({ ...serverKey, ...limits }, echo)
      : (http.createServer(limits, echo) as unknown as https.Server)

  /** The client's end, which has sent the beginning of a request. */
  const client = async (there: net.Socket, words: string): Promise<net.Socket> => {
    if (!secure) {
      there.write(words)
      return there
    }
    const client = tls.connect({ ...clientKey, socket: there })
    await once(client, 'secureConnect')
    client.write(words)
    return client
  }

  test(`trap 38: headersTimeout is enforced on a connection that was handed over: ${name}`, async t => {
    const server = create(impatient)
    const { connection, there } = await taken()
    connection.injectInto(server)
    const socket = await client(there, 'GET / HTTP/1.1\r\n')
    t.regex(await contents(socket), /^HTTP\/1\.1 408 /)
    await destroyed(socket, there)
    await closed(server)
  })

  test(`trap 38: closeIdleConnections() closes a connection that was handed over: ${name}`, async t => {
    const server = create()
    const { connection, there } = await taken()
    connection.injectInto(server)
    const socket = await client(there, REQUEST)
    await until(() => socket.readableLength > 0, 'the answer')
    t.is(await connections(server), 1)
    server.closeIdleConnections()
    t.regex(await contents(socket), /GET \/path/)
    await destroyed(socket, there)
    await closed(server)
  })

  test(`trap 38: close() knows that the server runs, and waits for what was handed over: ${name}`, async t => {
    const server = create()
    const { connection, there } = await taken()
    connection.injectInto(server)
    const begun = once(server, 'request')
    const socket = await client(there, 'POST /path HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n1')
    await begun
    const seen: (Error | undefined)[] = []
    const closing = closed(server).then(error => {
      seen.push(error)
    })
    await connections(server)
    t.deepEqual(seen, [])
    t.false(server.listening)
    socket.write('2')
    t.regex(await contents(socket), /POST \/path/)
    await destroyed(socket, there)
    await closing
    t.deepEqual(seen, [undefined])
  })
}

test('trap 38: what it cures: emit() alone on a server that never listened', async t => {
  const server = http.createServer(impatient, echo)
  const { connection, there } = await taken('GET / HTTP/1.1\r\n')
  const socket = connection.toSocket()
  server.emit('connection', socket)
  server.closeIdleConnections()
  t.is(((await closed(server)) as NodeJS.ErrnoException).code, 'ERR_SERVER_NOT_RUNNING')
  t.false(socket.destroyed)
  await destroyed(socket, there)
})

// --- other servers

test('an https server, the beginning of the handshake read ahead', async t => {
  const server = https.createServer(serverKey, echo)
  const { here, there } = await accepted()
  const client = tls.connect({ ...clientKey, socket: there })
  await until(() => here.readableLength > 0, 'the first words')
  const connection = await Connection.take(here)
  t.true(connection.head.length > 0)
  connection.injectInto(server)
  client.write(REQUEST)
  const [answer] = (await once(client, 'data')) as [Buffer]
  t.regex(String(answer), /GET \/path 127\.0\.0\.1/)
  await destroyed(client, there)
  await closed(server)
})

test('an http2 server, its preface read ahead', async t => {
  const server = http2.createServer((request, response) => void response.end(`2 ${request.url}`))
  const { here, there } = await accepted()
  const session = http2.connect('http://here', { createConnection: () => there })
  const stream = session.request({ ':path': '/path' })
  await until(() => here.readableLength > 20, 'the preface')
  const connection = await Connection.take(here)
  connection.injectInto(server)
  t.is(await text(stream.setEncoding('utf8')), '2 /path')
  t.is(await connections(server), 1)
  session.close()
  await once(session, 'close')
  await closed(server)
})

test("a net server: its own settings, and its listeners' data", async t => {
  const options = { allowHalfOpen: true, pauseOnConnect: true, noDelay: true, keepAlive: true, highWaterMark: 1000 }
  const server = net.createServer(options)
  const published: unknown[] = []
  const subscriber = (message: unknown): void => void published.push((message as { socket: net.Socket }).socket)
  diagnostics.subscribe('net.server.socket', subscriber)
  for (const kind of ['tcp', 'unix-stream'] as const) {
    const { connection, there } = await taken('ahead', kind)
    published.length = 0
    const injected = connection.injectInto(server)
    const [socket] = (await once(server, 'connection')) as [net.Socket]
    t.is(socket, injected)
    t.deepEqual(published, [socket])
    t.true(socket.allowHalfOpen)
    t.true(socket.isPaused())
    t.is(socket.readableHighWaterMark, 1000)
    there.end(' and behind')
    socket.resume()
    t.is(await contents(socket), 'ahead and behind')
    socket.end('an answer')
    t.is(await contents(there), 'an answer')
    await destroyed(socket, there)
  }
  diagnostics.unsubscribe('net.server.socket', subscriber)
  await closed(server)
})

test('maxConnections: more are dropped, as the server drops what it accepts', async t => {
  const server = net.createServer()
  server.maxConnections = 1
  const dropped: (net.DropArgument | undefined)[] = []
  server.on('drop', data => dropped.push(data))
  const first = await taken()
  const second = await taken()
  const kept = first.connection.injectInto(server)
  const { localPort } = second.there
  const refused = second.connection.injectInto(server)
  t.true(refused.destroyed)
  t.is(dropped.length, 1)
  t.is(dropped[0]?.remotePort, localPort)
  t.is(await contents(second.there), '')
  t.is(await connections(server), 1)
  await destroyed(kept, first.there, second.there)
  t.is(await connections(server), 0)
  await closed(server)
})

test('an address that the server blocks', async t => {
  const server = net.createServer()
  Object.assign(server, { blockList: new net.BlockList() })
  ;(server as unknown as { blockList: net.BlockList }).blockList.addAddress('127.0.0.1')
  const { connection, there } = await taken()
  t.true(connection.injectInto(server).destroyed)
  t.is(await contents(there), '')
  await destroyed(there)
  await closed(server)
})

// --- side effects and misuse

test('the unreachable socket: nothing in the file system, nothing kept running, told by listening and address()', async t => {
  const server = http.createServer(echo)
  let events = 0
  server.on('listening', () => events++)
  const before = openDescriptors().size
  const { connection, there } = await taken(REQUEST)
  connection.injectInto(server)
  t.true(server.listening)
  t.is(server.address(), null)
  t.is(events, 0, 'in the next tick')
  await bytes(there, 10)
  t.is(events, 1)
  t.is(openDescriptors().size, before + 3, 'both ends and the listener')
  t.throws(() => server.listen(0), { code: 'ERR_SERVER_ALREADY_LISTEN' })
  const again = await taken(REQUEST)
  again.connection.injectInto(server)
  await bytes(again.there, 10)
  t.is(events, 1)
  await destroyed(there, again.there)
  await closed(server)
})

test('without a folder for temporary files: whoever finds the socket is closed, and the program sees nothing of it', async t => {
  const server = http.createServer(echo)
  const accepted: net.Socket[] = []
  server.on('connection', socket => accepted.push(socket))
  const { connection, there } = await taken(REQUEST)
  const { TMPDIR } = process.env
  process.env.TMPDIR = '/does/not/exist'
  try {
    connection.injectInto(server)
  } finally {
    if (TMPDIR === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = TMPDIR
  }
  await bytes(there, 10)
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  const [, inode] = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))!
  const [, name] = new RegExp(` ${inode} @(\\S+)$`, 'm').exec(readFileSync('/proc/self/net/unix', 'latin1'))!
  const stranger = await connect({ abstract: name! })
  let answer = ''
  stranger.on('data', part => {
    answer += part
  })
  stranger.on('error', () => {}) // EPIPE or ECONNRESET, if it comes before the end
  stranger.write(REQUEST)
  await new Promise(resolve => stranger.once('close', resolve))
  t.is(answer, '')
  t.is(accepted.length, 1)
  await destroyed(there)
  await closed(server)
})

test('a server that was closed, or is about to listen, is refused; the connection stays', async t => {
  const { connection, there } = await taken('ahead')
  const wrong = { code: 'ERR_PASSFD_SERVER_CLOSED' }
  const ended = http.createServer()
  await once(ended.listen(0, '127.0.0.1'), 'listening')
  await closed(ended)
  t.throws(() => connection.injectInto(ended), wrong)
  const used = http.createServer()
  const other = await taken()
  await destroyed(other.connection.injectInto(used), other.there)
  await closed(used)
  t.throws(() => connection.injectInto(used), wrong)
  const early = net.createServer().listen(0, 'localhost') // the name is being looked up
  t.throws(() => connection.injectInto(early), wrong)
  await once(early, 'listening')
  t.false(connection.closed)
  const socket = connection.injectInto(early)
  t.is((await bytes(socket, 5)).toString(), 'ahead')
  await destroyed(socket, there)
  await closed(early)
})

test('no room for the unreachable socket: nothing has moved', async t => {
  const { connection, there } = await taken()
  const server = http.createServer()
  for (const name of ['socket', 'bind', 'listen'] as const)
    await patched(
      name,
      () => () => -24,
      () => {
        t.throws(() => connection.injectInto(server), { code: 'EMFILE' })
      }
    )
  t.false(server.listening)
  connection.close()
  await destroyed(there)
})

test('what is no server, and what is no connection of a server', t => {
  const [left, right] = Descriptor.socketpair()
  const connection = new Connection(left)
  const code = 'ERR_PASSFD_INVALID_ARGUMENT'
  t.throws(() => connection.injectInto({} as net.Server), { code, message: /^server must be a net, tls, http/ })
  t.throws(() => connection.injectInto((() => {}) as never), {
    code,
    message: /it is a function.*http\.createServer\(\)/
  })
  const { readable, writable } = Descriptor.pipe()
  const pipe = new Connection(readable)
  t.throws(() => pipe.injectInto(net.createServer()), { code: 'ERR_PASSFD_DESCRIPTOR_KIND', message: /injectInto/ })
  for (const each of [connection, pipe, right, writable]) each.close()
})
