/** A server looked after in a worker: where its connections come from, and that it ends without losing a request. */
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as net from 'node:net'
import { WebSocketServer } from 'ws'
import { Descriptor } from '../../src/index.ts'
import { ServerIntake } from '../../src/serving/server-intake.ts'
import { addressOf, isOpen } from '../helpers/facts.ts'
import { times } from '../helpers/full.ts'
import { Client } from '../helpers/http-client.ts'
import { socketPath } from '../helpers/path.ts'
import { type Running, startFixture } from '../helpers/process.ts'
import { accepted, destroyed } from '../helpers/sockets.ts'
import { test, testInCi, until } from '../helpers/test.ts'

const bind = (): Promise<Descriptor> => Descriptor.bind({ port: 0, host: '127.0.0.1' })
const here: http.RequestListener = (request, response) => void response.end(`${request.socket.localPort}`)

/** Ends what a test has left open, from the server's side. */
async function end(served: ServerIntake, ...clients: Client[]): Promise<void> {
  for (const client of clients) await client.close()
  await served.stopAccepting({ last: false })
  served.destroyAll()
  await served.drain({ idleGrace: 0 })
}

async function connect(port: number): Promise<Client> {
  return Client.to({ port, host: '127.0.0.1' })
}

testInCi('under load from keep-alive clients workers are drained and replaced, and no request fails', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = await addressOf(listener)
  const startWorker = (...when: 'later'[]): Running =>
    startFixture('prefork-served', when, { stdio: ['pipe', 'pipe', 'pipe', listener.borrow()] })
  let workers = [startWorker(), startWorker()]
  // They are there before the load begins: a start under load would be most of what this test costs
  const replacements = Array.from({ length: times(2, 6) }, () => startWorker('later'))
  for (const worker of workers) await worker.line()
  const clients = startFixture('prefork-load', [String(port), '16'])
  t.is(await clients.line(), 'all')
  let served = 0
  for (const replacement of replacements) {
    const [old, other] = workers as [Running, Running]
    replacement.child.stdin?.write('begin\n')
    await replacement.line()
    old.child.stdin?.write('stop\n')
    served += Number(await old.line())
    t.is((await old.exit).code, 0)
    workers = [other, replacement]
  }
  clients.child.stdin?.write('end\n')
  const { answered, connections, failures } = JSON.parse(await clients.line())
  await clients.exit
  for (const worker of workers) {
    worker.child.stdin?.write('stop\n')
    served += Number(await worker.line())
    await worker.exit
  }
  t.deepEqual(failures, [])
  t.is(served, answered)
  t.true(connections >= 32, 'each had to change once at least')
  listener.close()
})

// --- listeners

test("the first listener is the server's own; others are accepted from as well", async t => {
  const server = http.createServer(here)
  const served = new ServerIntake(server)
  const listeners = [await bind(), await bind(), await bind()] as const
  const ports = await Promise.all(listeners.map(async listener => (await addressOf(listener)).port))
  const numbers = listeners.map(listener => listener.borrow())
  await Promise.all(listeners.map(listener => served.add(listener)))
  t.true(listeners.every(({ closed }) => closed))
  t.true(server.listening)
  t.is((server.address() as net.AddressInfo).port, ports[0]!)
  const clients: Client[] = []
  for (const port of ports) {
    const client = await connect(port)
    t.is((await client.get().answer()).body, `${port}`)
    clients.push(client)
  }
  t.is(served.connections, 3)
  t.is(served.requests, 3)
  t.is(await new Promise(resolve => void server.getConnections((_, count) => resolve(count))), 3)
  await end(served, ...clients)
  t.false(server.listening)
  t.false(numbers.some(isOpen))
})

test('a lane that is removed: others who have the listener go on, and so do its connections', async t => {
  const server = http.createServer(here)
  let closes = 0
  server.on('close', () => closes++)
  const served = new ServerIntake(server)
  const listeners = [await bind(), await bind()] as const
  const ports = await Promise.all(listeners.map(async listener => (await addressOf(listener)).port))
  const copies = listeners.map(listener => listener.dup())
  const lanes = await Promise.all(listeners.map(listener => served.add(listener)))
  const clients = await Promise.all(ports.map(port => connect(port)))
  for (const client of clients) await client.get().answer()
  for (const index of [0, 1]) {
    await lanes[index]!.remove()
    await lanes[index]!.remove()
    // The queue is there as before, for others
    const waiting = await connect(ports[index]!)
    const other = await copies[index]!.toServer()
    const [socket] = (await once(other, 'connection')) as [net.Socket]
    other.close()
    await destroyed(socket)
    await waiting.ended
    await waiting.close()
    t.is((await clients[index]!.get().answer()).body, `${ports[index]}`)
    t.true(server.listening, 'it was not closed')
    const port = (server.address() as net.AddressInfo | null)?.port
    t.is(port, index === 0 ? ports[1] : undefined)
  }
  t.is(closes, 0)
  const third = await bind()
  const { port } = await addressOf(third)
  await served.add(third)
  const client = await connect(port)
  t.is((await client.get().answer()).body, `${port}`)
  const closed = once(server, 'close')
  await end(served, client, ...clients)
  await closed
  t.is(closes, 1)
})

test('further listeners give connections as the server itself would accept them', async t => {
  const options = { allowHalfOpen: true, pauseOnConnect: true, noDelay: true, keepAlive: true, highWaterMark: 1000 }
  const server = net.createServer(options)
  server.maxConnections = 2
  const served = new ServerIntake(server)
  const listeners = [await bind(), await Descriptor.bind({ path: socketPath() })] as const
  const { port } = await addressOf(listeners[0])
  await served.add(await bind())
  for (const listener of listeners) await served.add(listener)
  const dropped = once(server, 'drop')
  const come: net.Socket[] = []
  server.on('connection', socket => come.push(socket))
  const clients = [await connect(port), await connect(port)]
  await until(() => come.length === 2, 'the connections')
  for (const socket of come) {
    t.true(socket.allowHalfOpen)
    t.true(socket.isPaused())
    t.is(socket.readableHighWaterMark, 1000)
    t.is((socket as unknown as { server: unknown }).server, server)
  }
  const third = await connect(port)
  await dropped
  await third.ended
  t.is(served.connections, 2)
  t.is(served.requests, 2)
  t.is(await new Promise(resolve => void server.getConnections((_, count) => resolve(count))), 2)
  for (const client of clients) await client.close()
  for (const socket of come) socket.resume().end()
  await until(() => served.connections === 0, 'all are gone')
  t.is(await new Promise(resolve => void server.getConnections((_, count) => resolve(count))), 0)
  await end(served, third)
})

test("an error of accepting on a further listener is the server's", async t => {
  const server = net.createServer()
  const served = new ServerIntake(server)
  await served.add(await bind())
  const { _getActiveHandles: handles } = process as unknown as { _getActiveHandles(): unknown[] }
  const before = handles()
  await served.add(await bind())
  const acceptor = handles().find(each => each instanceof net.Server && !before.includes(each)) as net.Server
  const failed = once(server, 'error')
  acceptor.emit('error', new Error('accept EMFILE'))
  t.is(((await failed)[0] as Error).message, 'accept EMFILE')
  await end(served)
})

// --- connections that were accepted elsewhere

test('a connection that is given: served like an accepted one, also by a server that never listens, and after the end of accepting', async t => {
  for (const kind of ['tcp', 'unix-stream'] as const) {
    const server = http.createServer({ connectionsCheckingInterval: 10 }, here)
    const served = new ServerIntake(server)
    const give = async (): Promise<Client> => {
      const { here: socket, there } = await accepted(kind, { pauseOnConnect: true })
      const descriptor = Descriptor.from(socket)
      socket.destroy()
      served.give(descriptor)
      t.true(descriptor.closed)
      return new Client(there)
    }
    const first = await give()
    t.is(served.connections, 1)
    t.true(server.listening)
    t.is(server.address(), null)
    await first.get().answer()
    await served.stopAccepting({ last: true })
    t.false(server.listening)
    const second = await give()
    await second.get().answer()
    Object.assign(server, { headersTimeout: 40, requestTimeout: 40 })
    const third = await give()
    t.regex((await third.say('GET / HT').answer()).head, / 408 /, 'headersTimeout works')
    t.is(served.requests, 2)
    await end(served, first, second, third)
  }
})

test('prepare(): a server that is only given connections listens before the first', async t => {
  const server = http.createServer(here)
  const served = new ServerIntake(server)
  served.prepare()
  served.prepare()
  t.true(server.listening)
  const listener = await bind()
  const { port } = await addressOf(listener)
  await served.add(listener)
  const client = await connect(port)
  t.is((await client.get().answer()).body, `${port}`)
  await end(served, client)
})

// --- the end of accepting

/** On each of two listeners: more than are accepted at once. */
const COUNT = times(100, 300)

test('at the end whoever waits in the queue is accepted if nobody else can, and else left to others', async t => {
  for (const last of [true, false]) {
    const served = new ServerIntake(http.createServer(here))
    const other = new ServerIntake(http.createServer(here))
    const listeners = [await bind(), await bind()] as const
    const ports = await Promise.all(listeners.map(async listener => (await addressOf(listener)).port))
    const copies = listeners.map(listener => listener.dup())
    for (const listener of listeners) await served.add(listener)
    if (last) for (const copy of copies) copy.close()
    const sockets = ports.flatMap(port => Array.from({ length: COUNT }, () => net.connect(port, '127.0.0.1')))
    const clients = sockets.map(socket => new Client(socket))
    await new Promise<void>(resolve => process.nextTick(resolve)) // then the kernel has them; nobody accepts before the turn ends
    await served.stopAccepting({ last })
    await served.stopAccepting({ last })
    if (!last) for (const copy of copies) await other.add(copy)
    for (const client of clients) client.get()
    await Promise.all(clients.map(client => client.answer()))
    t.is(served.requests, last ? 2 * COUNT : 0)
    t.is(other.requests, last ? 0 : 2 * COUNT)
    await end(other, ...clients)
    await end(served)
  }
})

test('a connection that was accepted in the turn in which accepting ends is served', async t => {
  for (const first of [true, false]) {
    const server = http.createServer(here)
    const served = new ServerIntake(server)
    const listeners = [await bind(), await bind()] as const
    const { port } = await addressOf(listeners[first ? 0 : 1])
    for (const listener of listeners) await served.add(listener)
    const drained = once(server, 'connection').then(async () => {
      await served.stopAccepting({ last: false })
      await served.drain({ idleGrace: 10_000 })
    })
    const client = (await connect(port)).get()
    const { head, body } = await client.answer()
    t.is(body, `${port}`)
    t.regex(head, /^Connection: close$/m)
    await client.close()
    await drained
    t.is(served.requests, 1)
  }
})

// --- what the user sees of his server

test('requests are counted whatever event they become, and no event gets a first listener by that', async t => {
  const server = http.createServer()
  const served = new ServerIntake(server)
  const names = ['request', 'checkContinue', 'checkExpectation', 'upgrade', 'connect', 'clientError', 'dropRequest']
  const counts = (): number[] => names.map(name => server.listenerCount(name))
  t.deepEqual(counts(), [0, 0, 0, 0, 0, 0, 0])
  await served.add(await bind())
  const clients: Client[] = []
  const ask = async (words: string): Promise<Client> => {
    const client = (await Client.of(server)).say(words)
    clients.push(client)
    return client
  }
  const upgrade = 'GET /up HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: it\r\n\r\n'
  await ask('GET / HTTP/1.1\r\nHost: here\r\n\r\n')
  await until(() => served.requests === 1, 'one that nobody answers')
  await (await ask('GET / HTTP/1.1\r\n\r\n')).answer()
  await (await ask('GET / HTTP/1.1\r\nHost: here\r\nExpect: nothing\r\n\r\n')).answer()
  t.is(served.requests, 3)
  server.on('request', here)
  await (await ask(upgrade)).answer()
  t.is(served.requests, 4, 'an upgrade that nobody wants is a request')
  const seen: string[] = []
  const upgraded = (request: http.IncomingMessage, socket: net.Socket): void => {
    seen.push(request.url!)
    socket.end('HTTP/1.1 101 Yes\r\n\r\n')
  }
  server.on('upgrade', upgraded)
  server.once('connect', upgraded as never)
  t.deepEqual(counts(), [1, 0, 0, 2, 2, 0, 0])
  await (await ask(upgrade)).answer()
  await (await ask('CONNECT /on HTTP/1.1\r\nHost: here\r\n\r\n')).answer()
  t.deepEqual(seen, ['/up', '/on'])
  t.is(served.requests, 6)
  t.deepEqual(counts(), [1, 0, 0, 2, 0, 0, 0])
  server.off('upgrade', upgraded)
  t.deepEqual(counts(), [1, 0, 0, 0, 0, 0, 0])
  await (await ask(upgrade)).answer()
  t.is(served.requests, 7)
  server.on('upgrade', upgraded)
  server.removeAllListeners('upgrade')
  t.deepEqual(counts(), [1, 0, 0, 0, 0, 0, 0])
  server.on('upgrade', upgraded)
  await (await ask(upgrade)).answer()
  t.is(served.requests, 8)
  await end(served, ...clients)
})

test('listeners for upgrades that are there before, as those of ws', async t => {
  const server = http.createServer(here)
  const sockets = new WebSocketServer({ server })
  const served = new ServerIntake(server)
  await served.add(await bind())
  const client = await Client.of(server)
  client.get(
    '/',
    'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
  )
  t.regex((await client.answer({ bodiless: true })).head, /^HTTP\/1\.1 101 /)
  t.is(served.requests, 1)
  t.is(served.connections, 1)
  sockets.close()
  await end(served, client)
})

test('an http2 server that listens for streams only stays one', async t => {
  const server = http2.createServer()
  const before = server.listenerCount('stream')
  const served = new ServerIntake(server)
  t.is(server.listenerCount('request'), 0)
  t.is(server.listenerCount('stream'), before + 1)
  await end(served)
})

// --- misuse

test('what is no server, no listener, no connection; a server that was closed', async t => {
  t.throws(() => new ServerIntake({} as net.Server), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  const { readable, writable } = Descriptor.pipe()
  const served = new ServerIntake(net.createServer())
  await t.throwsAsync(served.add(readable), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  for (const idleGrace of [-1, Number.NaN, '1'])
    t.throws(() => served.drain({ idleGrace: idleGrace as number }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  readable.close()
  writable.close()
  const closed = net.createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  closed.close()
  await once(closed, 'close')
  const late = new ServerIntake(closed)
  const listener = await bind()
  await t.throwsAsync(late.add(listener), { code: 'ERR_PASSFD_SERVER_CLOSED' })
  t.throws(() => late.prepare(), { code: 'ERR_PASSFD_SERVER_CLOSED' })
  await served.stopAccepting({ last: true })
  await t.throwsAsync(served.add(listener), { code: 'ERR_PASSFD_SERVER_CLOSED' })
  const [left, right] = Descriptor.socketpair()
  t.throws(() => late.give(left), { code: 'ERR_PASSFD_SERVER_CLOSED' })
  for (const each of [listener, left, right]) each.close()
})
