import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as net from 'node:net'
import * as tls from 'node:tls'
import { Connection, Descriptor } from '../../src/index.ts'
import { isFull } from '../helpers/full.ts'
import { test, until } from '../helpers/test.ts'
import { serverKey } from '../helpers/tls.ts'

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
const SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])
const GET = Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n')

const heads: Record<string, Buffer> = {
  'a whole preface': Buffer.concat([PREFACE, SETTINGS]),
  'a part of a preface': PREFACE.subarray(0, 11),
  garbage: Buffer.from('\u0000\u0001nothing that anybody speaks'),
  'a request of HTTP/1': GET
}

/** What a program may do in the event, and when. */
const whens: Record<string, (work: () => void) => void> = {
  'at once': work => work(),
  'in a microtask': work => queueMicrotask(work),
  'in the next tick': work => process.nextTick(work),
  'in a new turn': work => void setImmediate(work)
}

const SHORT = ['connection']
const SHORT_HTTP2 = ['connection', 'session']

/** A connection with a head; the peer's end is the test's. */
async function withHead(head: Buffer): Promise<[Connection, net.Socket]> {
  const [ours, theirs] = Descriptor.socketpair()
  const peer = theirs.toSocket()
  peer.on('error', () => {}).resume()
  return [new Connection(ours, head), peer]
}

/** Its exceptions in later turns, too, as the process would end with them. */
async function quietly(work: () => Promise<void>): Promise<unknown[]> {
  const thrown: unknown[] = []
  const listeners = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', error => thrown.push(error))
  try {
    await work()
  } finally {
    process.removeAllListeners('uncaughtException')
    for (const listener of listeners) process.on('uncaughtException', listener)
  }
  return thrown
}

const servers: Record<string, () => net.Server> = {
  net: () => net.createServer(socket => socket.resume().on('error', () => {})),
  http: () => http.createServer((_, response) => response.end('ok')),
  tls: () => tls.createServer(serverKey),
  http2: () => http2.createServer() as unknown as net.Server,
  'http2 with TLS': () => http2.createSecureServer({ ...serverKey, allowHTTP1: true }) as unknown as net.Server
}
const actions: Record<string, (subject: any, server: net.Server) => void> = {
  'the subject is destroyed': subject => subject.destroy?.(),
  'the subject is destroyed with an error': subject => subject.destroy?.(new Error('on purpose')),
  'the server is closed': (_, server) => server.close(),
  'the subject is closed': subject => subject.close?.() ?? subject.end?.()
}

for (const [kind, make] of Object.entries(servers))
  test(`injectInto() with a head: whatever is destroyed in the events of a server ends no process: ${kind}`, async t => {
    for (const [headName, head] of Object.entries(heads))
      for (const event of ['connection', 'session', 'stream', 'request', 'sessionError'])
        for (const [what, act] of Object.entries(actions))
          for (const [when, soon] of Object.entries(whens)) {
            if (event === 'session' && !kind.startsWith('http2')) continue
            // The rest is for a full run
            if (!isFull && !(kind === 'http2' ? SHORT_HTTP2 : SHORT).includes(event)) continue
            if (!isFull && kind !== 'http2' && (when !== 'at once' || headName === 'garbage')) continue
            const thrown = await quietly(async () => {
              const server = make()
              for (const name of ['error', 'clientError', 'tlsClientError', 'sessionError']) server.on(name, () => {})
              server.on(event, (subject: any) => {
                subject?.on?.('error', () => {})
                soon(() => act(subject, server))
              })
              const [connection, peer] = await withHead(head)
              const closed = once(peer, 'close')
              const socket = connection.injectInto(server)
              socket.on('error', () => {})
              for (let i = 0; i < 4; i++) await new Promise(setImmediate)
              socket.destroy()
              peer.destroy()
              await closed
              if (server.listening) await new Promise(resolve => server.close(resolve))
            })
            t.deepEqual(thrown, [], `${headName}, ${event}, ${what} ${when}`)
          }
  })

test('a session on toSocket() that is destroyed at once ends no process, at either end', async t => {
  for (const [headName, head] of Object.entries(heads))
    for (const [when, soon] of Object.entries(whens)) {
      const thrown = await quietly(async () => {
        const server = http2.createServer()
        server.on('sessionError', () => {})
        server.on('session', session => {
          session.on('error', () => {})
          soon(() => session.destroy())
        })
        const [one, peer] = await withHead(head)
        const socket = one.toSocket()
        socket.on('error', () => {})
        server.emit('connection', socket)
        const [two, other] = await withHead(head)
        const second = two.toSocket()
        const client = http2.connect('http://localhost', { createConnection: () => second })
        client.on('error', () => {})
        soon(() => client.destroy())
        for (let i = 0; i < 4; i++) await new Promise(setImmediate)
        const ends = [peer, other, socket, second].map(each => (each.closed ? undefined : once(each, 'close')))
        for (const each of [peer, other, socket, second]) each.destroy()
        await Promise.all(ends)
      })
      t.deepEqual(thrown, [], `${headName}, ${when}`)
    }
})

test('a session of a connection with a head that is left alone serves', async t => {
  const server = http2.createServer((_, response) => response.end('hello'))
  const [left, right] = Descriptor.socketpair()
  const socket = left.toSocket()
  const client = http2.connect('http://localhost', { createConnection: () => socket })
  const request = client.request({ ':path': '/' })
  const peer = right.toSocket()
  peer.read(0)
  await until(() => peer.readableLength > 0, 'bytes')
  const connection = await Connection.take(peer)
  t.true(connection.head.length > 0)
  connection.injectInto(server as unknown as net.Server)
  request.setEncoding('utf8')
  let text = ''
  for await (const chunk of request) text += chunk
  t.is(text, 'hello')
  const closed = once(client, 'close')
  client.close()
  await closed
  await new Promise(resolve => server.close(resolve))
})

test('bytesRead counts the head once, at every moment', async t => {
  for (const [how, make] of [
    ['toSocket', (connection: Connection) => connection.toSocket()],
    ['toDuplex', (connection: Connection) => connection.toDuplex() as net.Socket],
    ['injectInto', undefined]
  ] as const)
    for (const length of [0, 1, 1000]) {
      const [connection, peer] = await withHead(Buffer.alloc(length))
      const server = net.createServer()
      const socket = make === undefined ? connection.injectInto(server) : make(connection)
      t.is(socket.bytesRead, length, `${how}: before it is read`)
      let received = 0
      socket.on('data', (chunk: Buffer) => {
        received += chunk.length
      })
      await until(() => received === length, 'the head')
      t.is(socket.bytesRead, length, `${how}: the head is read`)
      peer.write('more')
      await until(() => received === length + 4, 'more')
      t.is(socket.bytesRead, length + 4, `${how}: more is read`)
      const closed = once(socket, 'close')
      socket.unshift(Buffer.from('back'))
      t.is(socket.bytesRead, length + 4)
      peer.end()
      socket.end()
      await closed
      t.is(socket.bytesRead, length + 4, `${how}: it is closed`)
      peer.destroy()
      if (server.listening) await new Promise(resolve => server.close(resolve))
    }
})
