/** Connections that passfd leaves to Node's list until the end begins: none of them is forgotten then, whatever state it is in. */
import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import * as http from 'node:http'
import * as net from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { Connection, Descriptor } from '../../src/index.ts'
import { areListed, isNodesListener, nodeConnections, socketsOf } from '../../src/serving/node-connections.ts'
import { ServerIntake } from '../../src/serving/server-intake.ts'
import { Client } from '../helpers/http-client.ts'
import { socketPath } from '../helpers/path.ts'
import { accepted } from '../helpers/sockets.ts'
import { test, until } from '../helpers/test.ts'

const CLOSE = /^Connection: close$/im
const KEEP_ALIVE = /^Connection: keep-alive$/im
/** An idle time that no test waits for, ms. */
const LONG = 20_000
/** A draining server looks for idle connections more than once in it, ms. */
const SOME_LOOKS = 250
const UPGRADE = 'Connection: Upgrade\r\nUpgrade: it\r\n'

const echo: http.RequestListener = (request, response) => {
  request.resume().once('end', () => response.end(`${request.method} ${request.url}`))
}

async function serve(server: net.Server, path?: string): Promise<ServerIntake> {
  const served = new ServerIntake(server)
  await served.add(await Descriptor.bind(path === undefined ? { port: 0, host: '127.0.0.1' } : { path }))
  return served
}

function drain(served: ServerIntake, idleGrace = LONG): { done: Promise<void>; over(): boolean } {
  let over = false
  void served.stopAccepting({ last: false })
  const done = served.drain({ idleGrace }).then(() => {
    over = true
  })
  return { done, over: () => over }
}

/** Requests that wait for an answer, in the order in which they came. */
function held(): { listener: http.RequestListener; come: [http.IncomingMessage, http.ServerResponse][] } {
  const come: [http.IncomingMessage, http.ServerResponse][] = []
  return { listener: (request, response) => void come.push([request, response]), come }
}

async function whole(t: ExecutionContext, client: Client, path = '/'): Promise<string> {
  const { head, body } = await client.get(path).answer()
  t.is(body, `GET ${path}`)
  return head
}

/** Whether it resolves while other code runs for a moment. */
async function isOver(promise: Promise<unknown>): Promise<boolean> {
  let over = false
  void promise.then(() => {
    over = true
  })
  await delay(20)
  return over
}

test("a connection over TCP is left to Node's list: it has no listener of passfd's, and is counted all the same", async t => {
  const facts = async (server: http.Server): Promise<unknown[]> => {
    const [[socket], client] = await Promise.all([
      once(server, 'connection') as Promise<[net.Socket]>,
      Client.of(server)
    ])
    await whole(t, client)
    const events = socket.eventNames().map(event => [event, socket.listenerCount(event)])
    await client.close()
    return events
  }
  const alone = http.createServer(echo).listen(0, '127.0.0.1')
  await once(alone, 'listening')
  const expected = await facts(alone)
  alone.close()
  const server = http.createServer(echo)
  const served = await serve(server)
  t.deepEqual(await facts(server), expected)
  await until(() => served.connections === 0, 'it has ended')
  const client = await Client.of(server)
  await until(() => served.connections === 1, 'it is accepted')
  t.is(served.requests, 1)
  const { done } = drain(served, 0)
  await done
  await client.close()
})

test('all states at once: silent, in the head, in the body, unanswered, half answered, idle', async t => {
  const { listener, come } = held()
  const server = http.createServer((request, response) =>
    (request.url === '/held' ? listener : echo)(request, response as never)
  )
  const served = await serve(server)
  const names = ['silent', 'head', 'body', 'waiting', 'half', 'idle'] as const
  const clients = Object.fromEntries(
    await Promise.all(names.map(async name => [name, await Client.of(server)] as const))
  ) as Record<(typeof names)[number], Client>
  const { silent, head, body, waiting, half, idle } = clients
  await whole(t, idle)
  head.say('GET /head HTTP/1.1\r\nHo')
  body.say('POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nab')
  waiting.get('/held')
  await until(() => come.length === 1, 'the first')
  half.get('/held')
  await until(() => come.length === 2, 'the second')
  come[1]![1].write('one ')
  await until(() => served.connections === names.length && half.text.includes('one'), 'all are there')
  const { done, over } = drain(served)
  t.is(served.connections, names.length)
  await delay(SOME_LOOKS)
  t.deepEqual(
    names.filter(name => clients[name].over),
    []
  )
  come[0]![1].end('at last')
  come[1]![1].end('two')
  for (const [client, words, answer] of [
    [silent, 'GET /silent HTTP/1.1\r\nHost: here\r\n\r\n', 'GET /silent'],
    [head, 'st: here\r\n\r\n', 'GET /head'],
    [body, 'cd', 'POST /body'],
    [waiting, '', 'at last'],
    [idle, 'GET /idle HTTP/1.1\r\nHost: here\r\n\r\n', 'GET /idle']
  ] as const) {
    const answered = await client.say(words).answer()
    t.is(answered.body, answer)
    t.regex(answered.head, CLOSE)
    t.is(await client.ended, undefined)
    await client.close()
  }
  t.false(over())
  const first = await half.answer()
  t.regex(first.body, /one .*two/s)
  t.regex((await half.get('/more').answer()).head, CLOSE)
  await half.close()
  await done
  t.is(served.requests, 8)
})

test('requests that were sent ahead, all before the end: the last answer says close', async t => {
  const { listener, come } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const client = (await Client.of(server)).get('/1').get('/2').get('/3')
  await until(() => come.length === 3, 'all of them')
  const { done } = drain(served)
  for (const number of [1, 2, 3]) {
    const [request, response] = come[number - 1]!
    response.end(request.url)
    const { head, body } = await client.answer()
    t.is(body, `/${number}`)
    t.regex(head, number === 3 ? CLOSE : KEEP_ALIVE)
  }
  t.is(await client.ended, undefined)
  await client.close()
  await done
})

test('the same, answered in the opposite order: all are answered, and the connection is idle then', async t => {
  const { listener, come } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const client = (await Client.of(server)).get('/1').get('/2').get('/3')
  await until(() => come.length === 3, 'all of them')
  const { done } = drain(served, 100)
  for (const [request, response] of come.toReversed()) response.end(request.url)
  for (const number of [1, 2, 3]) t.is((await client.answer()).body, `/${number}`)
  t.is(await client.ended, undefined)
  await client.close()
  await done
})

test('a further request behind those of before the end', async t => {
  const { listener, come } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const client = (await Client.of(server)).get('/1').get('/2')
  await until(() => come.length === 2, 'both')
  const { done } = drain(served)
  come[0]![1].end('/1')
  t.is((await client.answer()).body, '/1')
  client.get('/3')
  await until(() => come.length === 3, 'the third')
  come[2]![1].end('/3')
  come[1]![1].end('/2')
  t.regex((await client.answer()).head, KEEP_ALIVE)
  const { head, body } = await client.answer()
  t.is(body, '/3')
  t.regex(head, CLOSE)
  await client.close()
  await done
})

test('a request with Connection: close on its way when the end begins', async t => {
  const { listener, come } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const early = (await Client.of(server)).get('/early', 'Connection: close\r\n')
  await until(() => come.length === 1, 'the request')
  const late = await Client.of(server)
  await until(() => served.connections === 2, 'both are accepted')
  late.get('/late', 'Connection: close\r\n')
  const { done } = drain(served, 0)
  await until(() => come.length === 2, 'the late one')
  for (const [request, response] of come) response.end(request.url)
  for (const [client, body] of [
    [early, '/early'],
    [late, '/late']
  ] as const) {
    t.is((await client.answer()).body, body)
    t.is(await client.ended, undefined)
    await client.close()
  }
  await done
})

test('the end begins within the handler of a request', async t => {
  let ending: { done: Promise<void> } | undefined
  const server = http.createServer((request, response) => {
    ending ??= drain(served, 100)
    response.end(request.url)
  })
  const served = await serve(server)
  const client = (await Client.of(server)).get('/here')
  t.is((await client.answer()).body, '/here')
  t.is(await client.ended, undefined)
  await client.close()
  await ending!.done
})

test("the end begins within a listener for 'connection', before Node's own", async t => {
  let ending: { done: Promise<void> } | undefined
  const server = http.createServer(echo)
  const served = await serve(server)
  server.prependOnceListener('connection', () => {
    ending = drain(served, 100)
  })
  const client = await Client.of(server)
  await until(() => ending !== undefined, 'it is accepted')
  const { head, body } = await client.get('/late').answer()
  t.is(body, 'GET /late')
  t.regex(head, CLOSE)
  await client.close()
  await ending!.done
})

test('an upgrade whose head is on its way when the end begins; and connections that were upgraded before', async t => {
  const server = http.createServer(echo)
  const upgraded: net.Socket[] = []
  const take = (_: http.IncomingMessage, socket: net.Socket): void => {
    upgraded.push(socket)
    socket.write('HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: it\r\n\r\n')
    socket.on('data', words => socket.write(`${words}!`))
    socket.on('end', () => socket.end())
  }
  const served = await serve(server)
  server.on('upgrade', take as never)
  server.once('connect', take as never)
  const before = (await Client.of(server)).get('/', UPGRADE)
  const tunnel = (await Client.of(server)).say('CONNECT here:80 HTTP/1.1\r\nHost: here\r\n\r\n')
  await until(() => upgraded.length === 2, 'both')
  for (const client of [before, tunnel]) await client.answer({ bodiless: true })
  const middle = (await Client.of(server)).say('GET / HTTP/1.1\r\nHost: here\r\nConnection: Upg')
  await until(() => served.connections === 3, 'all are there')
  const { done, over } = drain(served, 0)
  await delay(40)
  t.false(await isOver(served.requestsDone))
  middle.say('rade\r\nUpgrade: it\r\n\r\n')
  await middle.answer({ bodiless: true })
  await served.requestsDone
  t.is(served.connections, 3)
  for (const client of [before, tunnel, middle]) {
    client.say('still here')
    await until(() => client.text === 'still here!', 'the echo')
  }
  t.false(over())
  t.is(served.requests, 3)
  await before.close()
  served.destroyAll()
  for (const client of [tunnel, middle]) {
    await client.ended
    await client.close()
  }
  await done
})

test("connections whose 'connection' the program emits: before and after the server listens, during the end, and of a stream", async t => {
  const server = http.createServer(echo)
  const served = new ServerIntake(server)
  const outer = net.createServer(socket => void server.emit('connection', socket)).listen(0, '127.0.0.1')
  await once(outer, 'listening')
  const early = await Client.of(outer)
  await whole(t, early)
  t.is(served.connections, 1)
  await served.add(await Descriptor.bind({ port: 0, host: '127.0.0.1' }))
  const later = await Client.of(outer)
  await whole(t, later)
  t.is(served.connections, 2)
  const { here, there } = await accepted('unix-stream')
  server.emit('connection', here)
  const other = new Client(there)
  await whole(t, other)
  t.is(served.connections, 3)
  t.is(served.requests, 3)
  let idle = false
  served.whenIdle(() => {
    idle = true
  })
  const { done, over } = drain(served)
  const last = await Client.of(outer)
  for (const client of [early, later, other, last]) {
    t.false(over())
    t.false(idle)
    t.regex(await whole(t, client), CLOSE)
    await client.close()
  }
  await done
  t.true(idle)
  outer.close()
})

test('connections by injectInto() and give(): at rest, and in the turn in which the end begins', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const give = async (how: 'inject' | 'give'): Promise<Client> => {
    const { here, there } = await accepted('tcp', { pauseOnConnect: true })
    if (how === 'inject') (await Connection.take(here)).injectInto(server)
    else {
      const descriptor = Descriptor.from(here)
      here.destroy()
      served.give(descriptor)
    }
    return new Client(there)
  }
  const clients = [await give('inject'), await give('give')]
  for (const client of clients) await whole(t, client)
  t.is(served.connections, 2)
  const late = await give('give') // its 'connection' comes in a later tick
  t.is(served.connections, 3)
  const { done, over } = drain(served)
  t.false(await isOver(served.requestsDone))
  for (const client of [...clients, late, await give('give')]) {
    t.false(over())
    t.regex(await whole(t, client), CLOSE)
    await client.close()
  }
  await done
})

test("a program that takes Node's listener away, and gives it the sockets later", async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const before = await Client.of(server)
  await whole(t, before)
  const [nodes] = server.listeners('connection').filter(isNodesListener) as [(socket: net.Socket) => void]
  server.off('connection', nodes)
  const waiting: net.Socket[] = []
  server.on('connection', socket => void waiting.push(socket))
  const client = await Client.of(server)
  await until(() => waiting.length === 1, 'it is accepted')
  t.is(served.connections, 2)
  const { done, over } = drain(served, 0)
  await before.ended
  await before.close()
  await delay(SOME_LOOKS)
  t.false(over())
  t.false(client.over)
  nodes.call(server, waiting[0]!)
  t.regex(await whole(t, client), CLOSE)
  await client.close()
  await done
  t.true(areListed(http.createServer()))
  t.false(areListed(server))
  t.false(areListed(net.createServer()))
})

test('a connection that has left the list, as the program has taken its parser: the end waits for it', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const client = await Client.of(server)
  await whole(t, client)
  const [socket] = socketsOf(nodeConnections(server)!.all())
  ;(socket!.parser as unknown as { remove(): void }).remove()
  t.is(served.connections, 1)
  const { done, over } = drain(served, 0)
  await delay(SOME_LOOKS)
  t.false(over())
  t.true(await isOver(served.requestsDone))
  socket!.destroy()
  await done
  await client.close()
})

test('sockets that are destroyed: by a listener before passfd sees them, and during the end', async t => {
  for (const path of [undefined, socketPath()]) {
    const { listener, come } = held()
    const server = http.createServer(listener)
    const served = await serve(server, path)
    let refuses = true
    server.prependListener('connection', socket => refuses && socket.destroy())
    const refused = await Client.of(server)
    await refused.ended
    refuses = false
    const clients = [await Client.of(server), await Client.of(server)]
    for (const client of clients) client.get()
    await until(() => come.length === 2, 'the requests')
    come[0]![0].socket.destroy()
    const { done, over } = drain(served, 0)
    await delay(40)
    t.false(over())
    come[1]![0].socket.destroy()
    await done
    t.is(served.connections, 0)
    t.true(await isOver(served.requestsDone), 'nothing is left behind')
    for (const client of [refused, ...clients]) await client.close()
  }
})

test('destroyAll() without an end before it', async t => {
  const { listener, come } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const clients = [await Client.of(server), (await Client.of(server)).get()]
  await until(() => come.length === 1 && served.connections === 2, 'both')
  served.destroyAll()
  await until(() => served.connections === 0, 'none is left')
  t.is(served.requests, 1)
  await served.stopAccepting({ last: false })
  for (const client of clients) await client.close()
})

test('the idle time counts from the last byte in the kernel', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const [idle, silent, active] = [await Client.of(server), await Client.of(server), await Client.of(server)]
  await whole(t, idle)
  await until(() => served.connections === 3, 'all are accepted')
  await delay(500)
  await whole(t, active)
  await served.stopAccepting({ last: false })
  const began = performance.now()
  const done = served.drain({ idleGrace: 400, newGrace: 450 })
  await Promise.all([idle.ended, silent.ended])
  t.true(performance.now() - began < 350, 'they were idle before')
  t.false(active.over)
  t.regex(await whole(t, active), CLOSE)
  await done
  for (const client of [idle, silent, active]) await client.close()
})

/** Own properties, as far as they are the same in each socket: not objects, numbers of async_hooks, or how many listeners there are. */
function shape(socket: net.Socket): Record<string, unknown> {
  const own = socket as unknown as Record<string | symbol, unknown>
  const keys = Reflect.ownKeys(own).filter(key => !String(key).startsWith('_events'))
  return Object.fromEntries(
    keys.map(key => {
      const value = own[key]
      const plain = typeof value === 'object' || typeof value === 'function' ? typeof value : value
      return [String(key), String(key).includes('async_id') ? typeof value : plain]
    })
  )
}

for (const [what, options] of Object.entries<net.ServerOpts>({
  defaults: {},
  'all options': {
    allowHalfOpen: true,
    pauseOnConnect: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 3000,
    highWaterMark: 1000
  }
}))
  test(`a socket that passfd's listener accepts is as one of Node's: ${what}`, async t => {
    const published: unknown[] = []
    const note = (message: unknown): void => void published.push((message as { socket: net.Socket }).socket)
    diagnostics.subscribe('net.server.socket', note)
    const store = new AsyncLocalStorage<string>()
    const accept = async (server: net.Server): Promise<[net.Socket, string | undefined]> => {
      const seen = new Promise<[net.Socket, string | undefined]>(resolve =>
        server.once('connection', (socket: net.Socket) => resolve([socket, store.getStore()]))
      )
      const client = await Client.of(server)
      const [socket, context] = await seen
      t.true(published.includes(socket))
      t.is((socket as unknown as { server: net.Server }).server, server)
      t.is(await new Promise(resolve => void server.getConnections((_, count) => resolve(count))), 1)
      await client.close()
      socket.destroy()
      return [socket, context]
    }
    const alone = net.createServer(options)
    store.run('ours', () => alone.listen(0, '127.0.0.1'))
    await once(alone, 'listening')
    const [expected, context] = await accept(alone)
    const server = net.createServer(options)
    const served = await store.run('ours', () => serve(server))
    const [socket, same] = await accept(server)
    t.is(same, context)
    t.deepEqual(shape(socket), shape(expected))
    t.is(socket.readableHighWaterMark, expected.readableHighWaterMark)
    t.is(socket.allowHalfOpen, expected.allowHalfOpen)
    t.is(socket.isPaused(), expected.isPaused())
    alone.close()
    await served.stopAccepting({ last: false })
    await served.drain({ idleGrace: 0 })
    diagnostics.unsubscribe('net.server.socket', note)
  })

test('maxConnections of the first listener: what is too much is dropped, as Node does it', async t => {
  const server = http.createServer(echo)
  server.maxConnections = 1
  const served = await serve(server)
  const client = await Client.of(server)
  await whole(t, client)
  const dropped = once(server, 'drop')
  const second = await Client.of(server)
  const [{ remotePort }] = (await dropped) as [net.DropArgument]
  t.is(remotePort, (second.socket as net.Socket).localPort)
  await second.ended
  t.is(served.connections, 1)
  for (const one of [client, second]) await one.close()
  await served.stopAccepting({ last: false })
  await served.drain({ idleGrace: 0 })
})
