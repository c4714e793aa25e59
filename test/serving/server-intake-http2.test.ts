/** The graceful end of a server of HTTP/2: streams are finished, and a request that crosses the GOAWAY is answered. */
import { once } from 'node:events'
import * as http2 from 'node:http2'
import type * as net from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import * as tls from 'node:tls'
import { Descriptor } from '../../src/index.ts'
import { ServerIntake } from '../../src/serving/server-intake.ts'
import { Client } from '../helpers/http-client.ts'
import { movableTime } from '../helpers/movable-time.ts'
import { test, until } from '../helpers/test.ts'
import { clientKey, serverKey } from '../helpers/tls.ts'

async function serve(server: net.Server): Promise<ServerIntake> {
  const served = new ServerIntake(server)
  await served.add(await Descriptor.bind({ port: 0, host: '127.0.0.1' }))
  return served
}

/** An idle time that no test waits for, and in which a draining server looks for idle connections more than once, ms. */
const LONG = 20_000
const SOME_LOOKS = 250

const portOf = (server: net.Server): number => (server.address() as net.AddressInfo).port

const KINDS = {
  'in the clear': {
    create: (): net.Server => http2.createServer(),
    open: (port: number) => http2.connect(`http://127.0.0.1:${port}`)
  },
  'with TLS': {
    create: (): net.Server => http2.createSecureServer(serverKey),
    open: (port: number) => http2.connect(`https://127.0.0.1:${port}`, clientKey as http2.SecureClientSessionOptions)
  }
}

for (const [how, { create, open }] of Object.entries(KINDS)) {
  test(`http2 ${how}: streams in flight are finished, idle sessions end`, async t => {
    const server = create()
    const streams: http2.ServerHttp2Stream[] = []
    server.on('stream', (stream, headers) => {
      stream.respond()
      if (headers[':path'] === '/held') streams.push(stream)
      else stream.end('at once')
    })
    const served = await serve(server)
    const busy = open(portOf(server))
    const idle = open(portOf(server))
    t.is(await text(idle.request()), 'at once')
    const stream = busy.request({ ':path': '/held' })
    await until(() => streams.length === 1, 'the stream')
    t.is(served.connections, 2)
    const warned = once(busy, 'goaway')
    const ended = Promise.all([once(idle, 'goaway'), once(idle, 'close')])
    await served.stopAccepting({ last: false })
    const pass = movableTime(t)
    const began = performance.now()
    let over = false
    const done = served.drain({ idleGrace: LONG }).then(() => {
      over = true
    })
    t.is((await warned)[0], http2.constants.NGHTTP2_NO_ERROR)
    t.true(performance.now() - began < LONG / 2, 'at once')
    await delay(SOME_LOOKS)
    t.is(served.connections, 2)
    pass(LONG)
    t.is((await ended)[0][0], http2.constants.NGHTTP2_NO_ERROR)
    await until(() => served.connections === 1, 'the idle one is gone')
    t.false(over)
    streams[0]!.end('at last')
    t.is(await text(stream), 'at last')
    await once(busy, 'close')
    await done
    t.is(served.requests, 2)
  })

  test(`http2 ${how}: what was sent before the client knew is answered; so is a new connection's first request`, async t => {
    const server = create()
    server.on('stream', stream => {
      stream.respond()
      stream.end('answered')
    })
    const served = await serve(server)
    const session = open(portOf(server))
    await text(session.request())
    const fresh = open(portOf(server))
    await until(() => served.connections === 2, 'it is accepted')
    const answers = [session.request(), fresh.request()].map(text)
    await new Promise(setImmediate) // they have been sent, not read
    await served.stopAccepting({ last: false })
    const pass = movableTime(t)
    const done = served.drain({ idleGrace: LONG })
    for (const answer of answers) t.is(await answer, 'answered')
    pass(LONG)
    await done
    t.is(served.requests, 3)
    for (const each of [session, fresh]) if (!each.closed || !each.destroyed) await once(each, 'close')
  })
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
const SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])
const get = (stream: number): Buffer => Buffer.from([0, 0, 6, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x84, 0x41, 1, 0x68])
const GOAWAY = 7

/** All of the frames that have come that have this type. */
function framesOf(type: number, client: Client): Buffer[] {
  const bytes = Buffer.from(client.text, 'latin1')
  const found: Buffer[] = []
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3))
    if (bytes[at + 3] === type) found.push(bytes.subarray(at, at + 9 + bytes.readUIntBE(at, 3)))
  return found
}

test('http2: the client learns which streams are answered; it need not close its half', async t => {
  const held: http2.Http2ServerResponse[] = []
  const server = http2.createServer((_, response) => void held.push(response))
  const served = await serve(server)
  const client = await Client.of(server)
  ;(client.socket as net.Socket).setNoDelay(true)
  client.socket.write(Buffer.concat([PREFACE, SETTINGS]))
  await until(() => served.connections === 1, 'the session')
  client.socket.write(Buffer.concat([get(1), get(3)]))
  await served.stopAccepting({ last: false })
  const done = served.drain({ idleGrace: 100 })
  await until(() => held.length === 2, 'the requests, which had not been read')
  await until(() => framesOf(GOAWAY, client).length === 2, 'the two GOAWAY')
  client.socket.write(get(5))
  await delay(20)
  t.is(held.length, 2)
  t.deepEqual(
    framesOf(GOAWAY, client).map(frame => [frame.readUInt32BE(9), frame.readUInt32BE(13)]),
    [
      [2 ** 31 - 1, 0],
      [3, 0]
    ]
  )
  for (const response of held) response.end()
  await client.ended
  await done
  await client.close()
})

test('http2 with HTTP/1 allowed: its connections end as those of an https server', async t => {
  const server = http2.createSecureServer({ ...serverKey, allowHTTP1: true }, (request, response) => {
    request.resume().once('end', () => void response.end(`${request.httpVersion}`))
  })
  const served = await serve(server)
  const secure = async (): Promise<Client> => {
    const { socket } = await Client.of(server)
    socket.removeAllListeners('data')
    const stream = tls.connect({ ...clientKey, socket, ALPNProtocols: ['http/1.1'] } as tls.ConnectionOptions)
    await once(stream, 'secureConnect')
    return new Client(stream)
  }
  const idle = await secure()
  const active = await secure()
  t.is((await idle.get().answer()).body, '1.1')
  t.is((await active.get().answer()).body, '1.1')
  await served.stopAccepting({ last: false })
  const pass = movableTime(t)
  const done = served.drain({ idleGrace: LONG })
  const { head, body } = await active.get().answer()
  t.is(body, '1.1')
  t.regex(head, /^Connection: close$/m)
  pass(LONG)
  t.is(await idle.ended, undefined)
  await idle.close()
  await active.close()
  await done
  t.is(served.requests, 3)
})

test("http2: a protocol of the application's own is left to it", async t => {
  for (const own of [true, false]) {
    const server = http2.createSecureServer(serverKey)
    if (own) server.on('unknownProtocol', (socket: tls.TLSSocket) => socket.on('data', part => socket.write(part)))
    const served = await serve(server)
    const { socket } = await Client.of(server)
    socket.removeAllListeners('data')
    const stream = tls.connect({ ...clientKey, socket }) // it says nothing of h2
    stream.on('error', () => {})
    await once(server, own ? 'unknownProtocol' : 'secureConnection')
    await served.stopAccepting({ last: false })
    const done = served.drain({ idleGrace: 20 })
    if (own) {
      await delay(60)
      stream.write('mine')
      t.is(String((await once(stream, 'data'))[0]), 'mine')
    } else await new Client(stream).ended
    stream.destroy()
    await new Client(socket).close()
    await done
    t.pass()
  }
})
