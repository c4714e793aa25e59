/** Traps 25 and 26 for connections, and connections that live on in another process. */
import { createHash, type Hash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import * as http from 'node:http'
import * as net from 'node:net'
import { text } from 'node:stream/consumers'
import { WebSocket, WebSocketServer } from 'ws'
import { type Channel, Connection, Descriptor, pair } from '../../src/index.ts'
import { times } from '../helpers/full.ts'
import { type Running, startFixture } from '../helpers/process.ts'
import { accepted, buffered, bytes, connectTo, destroyed } from '../helpers/sockets.ts'
import { test, testInCi, until } from '../helpers/test.ts'

/** A fixture with a channel to it, and more descriptors from 4 on. */
function startWorker(name: string, ...more: Descriptor[]): { worker: Running; channel: Channel<any, any> } {
  const [channel, end] = pair<any, any>()
  const descriptors = [end, ...more]
  const worker = startFixture(name, [], {
    stdio: ['pipe', 'pipe', 'pipe', ...descriptors.map(each => each.borrow())]
  })
  for (const each of descriptors) each.close()
  return { worker, channel }
}

async function ended(...workers: { worker: Running; channel: Channel }[]): Promise<string> {
  await Promise.all(workers.map(({ channel }) => channel.close()))
  const exits = await Promise.all(workers.map(({ worker }) => worker.exit))
  return exits.map(({ stderr }) => stderr).join('')
}

/** Inodes of what the event loops of this process watch (proc_pid_fdinfo(5)). */
function watchedInodes(): number[] {
  return readdirSync('/proc/self/fdinfo').flatMap(fd => {
    try {
      const lines = readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1').matchAll(/^tfd:.* ino:([0-9a-f]+)/gm)
      return [...lines].map(([, inode]) => Number.parseInt(inode!, 16))
    } catch {
      return [] // the descriptor that readdir itself used
    }
  })
}

test('trap 25: what was taken is no longer watched, though it stays open', async t => {
  const { here, there } = await accepted()
  const { ino } = statSync(`/proc/self/fd/${(here as unknown as { _handle: { fd: number } })._handle.fd}`)
  here.resume()
  there.write('x')
  await until(() => here.bytesRead === 1, 'a byte')
  t.true(watchedInodes().includes(ino))
  const connection = await Connection.take(here)
  await once(here, 'close')
  t.false(watchedInodes().includes(ino))
  there.write('y')
  const socket = connection.toSocket()
  t.is((await bytes(socket, 1)).toString(), 'y')
  await destroyed(socket, there)
})

test('trap 26: an HTTP request whose first half was read here is answered there', async t => {
  const { worker, channel } = startWorker('http-worker')
  const acceptor = net.createServer(socket => {
    socket.once('data', head => {
      void Connection.take(socket, { head }).then(connection => {
        void channel.send({ connection })
        acceptor.emit('sent')
      })
    })
  })
  await once(acceptor.listen(0, '127.0.0.1'), 'listening')
  for (const split of [3, 10, 30]) {
    const request = `GET /${split} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n`
    const client = connectTo(acceptor)
    client.write(request.slice(0, split))
    await once(acceptor, 'sent')
    client.write(request.slice(split))
    t.true((await text(client)).endsWith(`/${split} from ${worker.child.pid}`))
    await destroyed(client)
  }
  acceptor.close()
  t.is(await ended({ worker, channel }), '')
})

test('trap 26: bytes that libuv has read already travel with the connection', async t => {
  const { worker, channel } = startWorker('http-worker')
  const { here, there } = await accepted()
  there.write('GET /whole HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n')
  await buffered(here, 54)
  channel.send({ connection: await Connection.take(here) })
  t.true((await text(there)).endsWith(`/whole from ${worker.child.pid}`))
  await destroyed(there)
  t.is(await ended({ worker, channel }), '')
})

test('a WebSocket upgraded here lives on there', async t => {
  const { worker, channel } = startWorker('ws-worker')
  const sockets = new WebSocketServer({ noServer: true })
  const server = http.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = new WebSocket(`ws://127.0.0.1:${(server.address() as net.AddressInfo).port}`)
  const [request, socket, head] = (await once(server, 'upgrade')) as [http.IncomingMessage, net.Socket, Buffer]
  sockets.handleUpgrade(request, socket, head, here => here.on('message', data => here.send(`here heard ${data}`)))
  await once(client, 'open')
  client.send('one')
  t.is(String((await once(client, 'message'))[0]), 'here heard one')
  channel.send({ connection: await Connection.take(socket) })
  for (const word of ['two', 'three']) {
    client.send(word)
    t.is(String((await once(client, 'message'))[0]), `${worker.child.pid} heard ${word}`)
  }
  client.close()
  await once(client, 'close')
  server.close()
  t.is(await ended({ worker, channel }), '')
})

test('a WebSocket asked for here is opened there, its first message read here with the request', async t => {
  const { worker, channel } = startWorker('ws-worker')
  const server = http.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  server.on('upgrade', ({ method, headers }, socket, head) => {
    void Connection.take(socket, { head }).then(connection =>
      channel.send({ request: { method, headers }, connection })
    )
  })
  const client = connectTo(server)
  // A masked text frame right behind the request
  const frame = Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69])
  const headers = 'Host: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
  client.write(
    Buffer.concat([
      Buffer.from(`GET / HTTP/1.1\r\n${headers}Sec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}\r\n\r\n`),
      frame
    ])
  )
  const expected = `${worker.child.pid} heard hi`
  let got = ''
  client.on('data', data => {
    got += data.toString('latin1')
  })
  await until(() => got.endsWith(expected), 'the answer')
  t.regex(got, /^HTTP\/1\.1 101 /)
  await destroyed(client)
  server.close()
  t.is(await ended({ worker, channel }), '')
})

const CONNECTIONS = times(40, 100)
const MOVES = times(8, 100)
const PIECE = 2000

/** Writes numbered bytes as long as it is told to, and compares the echo. */
class Client {
  readonly socket: net.Socket
  readonly #sent: Hash = createHash('md5')
  readonly #received: Hash = createHash('md5')
  #pieces = 0
  sentBytes = 0
  receivedBytes = 0
  #stopped = false

  constructor(socket: net.Socket) {
    this.socket = socket
    socket.on('data', data => {
      this.#received.update(data)
      this.receivedBytes += data.length
      // A few pieces are always under way
      while (!this.#stopped && this.sentBytes - this.receivedBytes < 3 * PIECE) this.write()
    })
  }

  write(): void {
    const piece = Buffer.alloc(PIECE, `${this.socket.localPort} ${this.#pieces++} `)
    this.#sent.update(piece)
    this.sentBytes += piece.length
    this.socket.write(piece)
  }

  async stop(): Promise<boolean> {
    this.#stopped = true
    this.socket.end()
    await once(this.socket, 'end')
    return this.sentBytes === this.receivedBytes && this.#sent.digest('hex') === this.#received.digest('hex')
  }
}

testInCi(`${CONNECTIONS * MOVES} connections moved under load, every byte accounted for`, async t => {
  const [left, right] = Descriptor.socketpair()
  const first = startWorker('ferry', left)
  const second = startWorker('ferry', right)
  const acceptor = net.createServer(socket => {
    const id = socket.remotePort
    void Connection.take(socket).then(connection => first.channel.send({ id, moves: MOVES, connection }))
  })
  await once(acceptor.listen(0, '127.0.0.1'), 'listening')
  const clients = new Map<number, Client>()
  const results: Promise<boolean>[] = []
  const moved = new Promise<void>(resolve => {
    for (const { channel } of [first, second])
      channel.on('message', ({ value }) => {
        results.push(clients.get(value.id)!.stop())
        if (results.length === CONNECTIONS) resolve()
      })
  })
  for (let i = 0; i < CONNECTIONS; i++) {
    const client = new Client(connectTo(acceptor))
    await once(client.socket, 'connect')
    clients.set(client.socket.localPort!, client)
    client.write()
  }
  await moved
  t.true((await Promise.all(results)).every(Boolean))
  const total = [...clients.values()].reduce((sum, { sentBytes }) => sum + sentBytes, 0)
  t.true(total > CONNECTIONS * MOVES * PIECE, `${total} bytes`)
  acceptor.close()
  t.is(await ended(first, second), '')
  await destroyed(...[...clients.values()].map(({ socket }) => socket))
})
