/** The graceful end of a server of HTTP/1: what is under way is finished, what is idle is closed, and nothing in between is cut off. */
import { once } from 'node:events'
import * as http from 'node:http'
import * as https from 'node:https'
import * as net from 'node:net'
import { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import * as tls from 'node:tls'
import type { ExecutionContext } from 'ava'
import { WebSocket, WebSocketServer } from 'ws'
import { Descriptor } from '../../src/index.ts'
import { ServerIntake } from '../../src/serving/server-intake.ts'
import { Client } from '../helpers/http-client.ts'
import { movableTime } from '../helpers/movable-time.ts'
import { socketPath } from '../helpers/path.ts'
import { test, until } from '../helpers/test.ts'
import { clientKey, serverKey } from '../helpers/tls.ts'

const CLOSE = /^Connection: close$/im
const KEEP_ALIVE = /^Connection: keep-alive$/im
/** An idle time that no test waits for, and in which a draining server looks for idle connections more than once, ms. */
const LONG = 20_000
const SOME_LOOKS = 250
/** A new connection is idle after so many idle times. */
const NEW = 5

const echo: http.RequestListener = (request, response) => {
  request.resume().once('end', () => response.end(`${request.method} ${request.url}`))
}

const atOnce: http.RequestListener = (request, response) => response.end(`${request.method} ${request.url}`)

async function serve(server: net.Server, path?: string): Promise<ServerIntake> {
  const served = new ServerIntake(server)
  await served.add(await Descriptor.bind(path === undefined ? { port: 0, host: '127.0.0.1' } : { path }))
  return served
}

/** Stops accepting and drains; `over()` tells whether that is through. */
function drain(served: ServerIntake, idleGrace = 0, signal?: AbortSignal): { done: Promise<void>; over(): boolean } {
  let over = false
  void served.stopAccepting({ last: false })
  const done = served.drain(signal === undefined ? { idleGrace } : { idleGrace, signal }).then(() => {
    over = true
  })
  return { done, over: () => over }
}

/** What a listener of requests was given, and its answering. */
function held(): { listener: http.RequestListener; next(): Promise<[http.IncomingMessage, http.ServerResponse]> } {
  const come: [http.IncomingMessage, http.ServerResponse][] = []
  return {
    listener: (request, response) => void come.push([request, response]),
    next: async () => {
      await until(() => come.length > 0, 'a request')
      return come.shift()!
    }
  }
}

async function whole(t: ExecutionContext, client: Client, path = '/'): Promise<string> {
  const { head, body } = await client.get(path).answer()
  t.is(body, `GET ${path}`)
  return head
}

test('an idle connection is closed once nothing has happened on it for idleGrace', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const client = await Client.of(server)
  const since = performance.now()
  t.regex(await whole(t, client), KEEP_ALIVE)
  const { done, over } = drain(served, 150)
  t.is(await client.ended, undefined)
  t.true(performance.now() - since >= 145, 'not before')
  await client.close()
  await done
  t.true(over())
  t.is(served.connections, 0)
  t.is(served.requests, 1)
})

test('a new connection is waited for longer: its client may be slow to send its request', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const pass = movableTime(t)
  const slow = await Client.of(server)
  const never = await Client.of(server)
  const used = await Client.of(server)
  await whole(t, used)
  await until(() => served.connections === 3, 'all are accepted')
  const { done } = drain(served, LONG)
  pass((NEW - 1) * LONG)
  await used.ended
  t.regex(await whole(t, slow), CLOSE)
  t.false(never.over)
  pass(LONG)
  await never.ended
  await done
  await Promise.all([slow.close(), never.close(), used.close()])
})

test('the idle time counts from the last activity, not from the start of the draining', async t => {
  const server = http.createServer(echo)
  const served = await serve(server, socketPath())
  const pass = movableTime(t)
  const idle = await Client.of(server)
  const silent = await Client.of(server)
  const active = await Client.of(server)
  await whole(t, idle)
  await until(() => served.connections === 3, 'all are accepted')
  pass(NEW * LONG)
  await whole(t, active)
  const { done } = drain(served, LONG)
  const began = performance.now()
  await Promise.all([idle.ended, silent.ended])
  t.true(performance.now() - began < LONG / 2, 'they were idle before')
  t.false(active.over)
  t.regex(await whole(t, active), CLOSE)
  await done
  await Promise.all([idle.close(), silent.close(), active.close()])
})

for (const keepAliveTimeout of [0, 1_000_000])
  test(`keepAliveTimeout ${keepAliveTimeout} keeps no idle connection open`, async t => {
    const server = http.createServer({ keepAliveTimeout }, echo)
    const served = await serve(server)
    const client = await Client.of(server)
    await whole(t, client)
    await drain(served, 20).done
    t.is(await client.ended, undefined)
    await client.close()
  })

test('bytes that wait unread in the kernel keep a connection open', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const fresh = await Client.of(server)
  const idle = await Client.of(server)
  await whole(t, idle)
  await until(() => served.connections === 2, 'both are accepted')
  fresh.get('/fresh')
  idle.get('/idle')
  const { done } = drain(served) // nothing can have been read since
  for (const [client, body] of [
    [fresh, 'GET /fresh'],
    [idle, 'GET /idle']
  ] as const) {
    const answer = await client.answer()
    t.is(answer.body, body)
    t.regex(answer.head, CLOSE)
    await client.close()
  }
  await done
})

test('a head that has begun to arrive is waited for: on a new connection, a used one, and behind a request', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const clients = [await Client.of(server), await Client.of(server), await Client.of(server)] as const
  const [fresh, used, behind] = clients
  await whole(t, used)
  fresh.say('GET /last HT')
  used.say('G')
  behind.say('GET / HTTP/1.1\r\nHost: here\r\n\r\nGET /last HT')
  t.is((await behind.answer()).body, 'GET /')
  await delay(20) // for the other beginnings
  const { done, over } = drain(served)
  await delay(60) // several looks at what is idle
  t.deepEqual(
    clients.map(({ over }) => over),
    [false, false, false]
  )
  t.false(over())
  fresh.say('TP/1.1\r\nHost: here\r\n\r\n')
  used.say('ET /last HTTP/1.1\r\nHost: here\r\n\r\n')
  behind.say('TP/1.1\r\nHost: here\r\n\r\n')
  for (const client of clients) {
    const { head, body } = await client.answer()
    t.is(body, 'GET /last')
    t.regex(head, CLOSE)
    await client.close()
  }
  await done
})

// Node has parsed only the first one when it is answered
for (const secure of [false, true])
  test(`pipelined requests that are answered at once are all answered${secure ? ', with TLS' : ''}`, async t => {
    const server = secure ? https.createServer(serverKey, atOnce) : http.createServer(atOnce)
    const served = await serve(server)
    const { port } = server.address() as net.AddressInfo
    const client = secure ? new Client(tls.connect({ ...clientKey, port, host: '127.0.0.1' })) : await Client.of(server)
    t.is((await client.get('/before').answer()).body, 'GET /before')
    const { done } = drain(served, LONG)
    client.say(
      'GET /1 HTTP/1.1\r\nHost: here\r\n\r\nPOST /2 HTTP/1.1\r\nHost: here\r\nContent-Length: 8\r\n\r\n\r\n\r\n\r\n\r\nGET /3 HTTP/1.1\r\nHost: here\r\n\r\n'
    )
    for (const body of ['GET /1', 'POST /2']) {
      const answer = await client.answer()
      t.is(answer.body, body)
      t.notRegex(answer.head, CLOSE)
    }
    t.is((await client.answer()).body, 'GET /3')
    await client.close()
    await done
  })

for (const request of [
  'GET / HTTP/1.1\r\nHost: here\r\n\r\n',
  'POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 8\r\n\r\nabcd\r\n\r\n',
  'POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 8\r\n\r\nabc',
  'POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n'
])
  test(`a request that is answered at once gets Connection: close: ${JSON.stringify(request)}`, async t => {
    const server = http.createServer(atOnce)
    const served = await serve(server)
    const client = await Client.of(server)
    await client.get('/').answer()
    const { done } = drain(served, LONG)
    t.regex((await client.say(request).answer()).head, CLOSE)
    await client.close()
    await done
  })

test('headersTimeout is still enforced', async t => {
  const server = http.createServer({ headersTimeout: 40, requestTimeout: 40, connectionsCheckingInterval: 10 }, echo)
  const served = await serve(server)
  const client = (await Client.of(server)).say('GET / HT')
  await until(() => served.connections === 1, 'it is accepted')
  const { done } = drain(served, LONG)
  t.regex((await client.answer()).head, /^HTTP\/1\.1 408/)
  await client.close()
  await done
})

test('a request whose body is still on its way, and its slow answer', async t => {
  const server = http.createServer(async (request, response) => {
    let size = 0
    for await (const part of request) size += part.length
    response.write(`${size} `)
    await once(server, 'go')
    response.end('bytes')
  })
  const served = await serve(server)
  const client = await Client.of(server)
  client.say('POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\nabc')
  await once(server, 'request')
  const { done, over } = drain(served)
  await delay(40)
  client.say('def')
  await until(() => client.text.includes('6 '), 'the first part')
  t.regex(client.text, CLOSE)
  await delay(40)
  t.false(over())
  server.emit('go')
  t.regex((await client.answer()).body, /6 .*bytes/s)
  t.is(await client.ended, undefined)
  await client.close()
  await done
})

test('an answer whose headers have left is finished; then the connection is idle', async t => {
  const { listener, next } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const client = (await Client.of(server)).get()
  const [, response] = await next()
  response.write('one ')
  await until(() => client.text.includes('one'), 'the first part')
  const { done } = drain(served, 100)
  await delay(150)
  const finished = performance.now()
  response.end('two')
  const { head, body } = await client.answer()
  t.regex(head, KEEP_ALIVE)
  t.regex(body, /one .*two/s)
  await client.ended
  t.true(performance.now() - finished >= 95, 'idle only since then')
  await client.close()
  await done
})

test('an answer before the request has come whole: the rest is waited for', async t => {
  const server = http.createServer((_, response) => response.end('early'))
  const served = await serve(server)
  const client = await Client.of(server)
  client.say('POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\nabc')
  t.is((await client.answer()).body, 'early')
  const pass = movableTime(t)
  const { done, over } = drain(served, LONG)
  pass(LONG)
  await delay(SOME_LOOKS)
  t.false(over())
  client.say('def')
  await delay(SOME_LOOKS)
  t.false(client.over, 'idle only since it came')
  client.get()
  t.regex((await client.answer()).head, CLOSE)
  await client.close()
  await done
})

test('requests that were sent ahead are all answered, and only the last one says close', async t => {
  const { listener, next } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const client = (await Client.of(server)).get('/1').get('/2')
  const first = await next()
  const second = await next()
  const { done } = drain(served)
  client.get('/3')
  const third = await next()
  for (const [request, response] of [third, second, first]) response.end(request.url)
  for (const number of [1, 2, 3]) {
    const { head, body } = await client.answer()
    t.is(body, `/${number}`)
    t.regex(head, number === 3 ? CLOSE : KEEP_ALIVE)
  }
  t.is(await client.ended, undefined)
  await client.close()
  await done
})

test('Expect: 100-continue', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const client = await Client.of(server)
  client.say('POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n')
  t.regex((await client.answer()).head, /^HTTP\/1\.1 100 /)
  const { done } = drain(served)
  await delay(40)
  const { head, body } = await client.say('ab').answer()
  t.is(body, 'POST /')
  t.regex(head, CLOSE)
  await client.close()
  await done
})

test('HEAD, 204, HTTP/1.0, and a request without Host, which Node answers itself', async t => {
  const server = http.createServer((request, response) => {
    response.statusCode = request.url === '/204' ? 204 : 200
    response.end()
  })
  const served = await serve(server)
  const requests = [
    'HEAD / HTTP/1.1\r\nHost: here\r\n\r\n',
    'GET /204 HTTP/1.1\r\nHost: here\r\n\r\n',
    'GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n'
  ]
  const clients = await Promise.all(requests.map(() => Client.of(server)))
  await until(() => served.connections === 4, 'all are accepted')
  const { done } = drain(served, LONG)
  for (const [index, client] of clients.entries()) {
    t.regex((await client.say(requests[index]!).answer({ bodiless: true })).head, CLOSE)
    t.is(await client.ended, undefined)
    await client.close()
  }
  await done
  t.is(served.requests, 4)
})

/** Ways in which an application says something else, and what becomes of that. */
const INSISTING: Record<string, [(response: http.ServerResponse) => void, RegExp]> = {
  'an object': [response => response.writeHead(200, { 'X-A': 'b', connection: 'keep-alive' }), /^connection: close$/im],
  'an array': [response => response.writeHead(200, 'OK', ['connection', 'Keep-Alive', 'X-A', 'b']), CLOSE],
  'setHeader()': [response => response.setHeader('Connection', 'keep-alive').setHeader('X-A', 'b'), CLOSE],
  'setHeader() and writeHead()': [
    response => response.setHeader('Connection', 'keep-alive').writeHead(200, { 'X-A': 'b' }),
    CLOSE
  ],
  'removeHeader()': [response => response.setHeader('X-A', 'b').removeHeader('connection'), CLOSE],
  'another word': [
    response => response.writeHead(426, { 'X-A': 'b', Upgrade: 'it', Connection: 'Upgrade' }),
    /^Connection: Upgrade, close$/m
  ],
  close: [response => response.writeHead(200, { 'X-A': 'b', Connection: 'close' }), CLOSE]
}
for (const [name, [head, expected]] of Object.entries(INSISTING))
  test(`the application sets Connection itself: ${name}`, async t => {
    const { listener, next } = held()
    const server = http.createServer(listener)
    const served = await serve(server)
    const client = (await Client.of(server)).get()
    const [, response] = await next()
    const { done } = drain(served, LONG)
    head(response)
    response.end('body')
    const answer = await client.answer()
    t.regex(answer.head, expected)
    t.is(answer.head.match(/^connection:/gim)?.length, 1)
    t.regex(answer.head, /^X-A: b$/m)
    t.regex(answer.body, /body/)
    t.is(await client.ended, undefined)
    await client.close()
    await done
  })

test('a request that is never answered: until the signal; destroyAll() ends it', async t => {
  const { listener, next } = held()
  const server = http.createServer(listener)
  const served = await serve(server)
  const client = (await Client.of(server)).get()
  await next()
  const controller = new AbortController()
  const { done, over } = drain(served, 0, controller.signal)
  await delay(40)
  t.false(over())
  controller.abort()
  await done
  t.is(served.connections, 1)
  t.false(client.over)
  await served.drain({ idleGrace: 0, signal: controller.signal })
  served.destroyAll()
  await client.ended
  await until(() => served.connections === 0, 'all are gone')
  await served.drain({ idleGrace: 0 })
  await client.close()
})

test('an upgraded connection is left to the application', async t => {
  const server = http.createServer(echo)
  const served = await serve(server)
  const sockets = new WebSocketServer({ server })
  const { port } = server.address() as net.AddressInfo
  const client = new WebSocket(`ws://127.0.0.1:${port}`)
  const [there] = (await Promise.all([once(sockets, 'connection'), once(client, 'open')]))[0] as [WebSocket]
  const { done, over } = drain(served)
  await delay(40)
  t.false(over())
  there.on('message', words => there.send(`${words}!`))
  client.send('still here')
  t.is(String((await once(client, 'message'))[0]), 'still here!')
  there.close()
  await once(client, 'close')
  await done
  t.is(served.requests, 1)
})

test('a client that has closed its half', async t => {
  for (const half of [false, true]) {
    const { listener, next } = held()
    const server = http.createServer(listener)
    Object.assign(server, { httpAllowHalfOpen: half })
    const served = await serve(server)
    const client = (await Client.of(server)).get()
    const [request, response] = await next()
    const { done } = drain(served, LONG)
    client.socket.end()
    await once(request.socket, 'end')
    response.end('late')
    if (half) t.is((await client.answer()).body, 'late')
    await client.ended // otherwise as Node has it: the answer is lost
    await client.close()
    await done
  }
})

test('a unix socket', async t => {
  const server = http.createServer(echo)
  const path = socketPath()
  const served = await serve(server, path)
  t.is(server.address(), path)
  const idle = await Client.of(server)
  const active = await Client.of(server)
  await whole(t, idle)
  await whole(t, active)
  active.get('/more')
  const { done } = drain(served)
  t.regex((await active.answer()).head, CLOSE)
  t.is(await idle.ended, undefined)
  await Promise.all([idle.close(), active.close()])
  await done
})

test("connections of a net or tls server are the application's to end", async t => {
  for (const make of [(): net.Server => tls.createServer(serverKey), (): net.Server => net.createServer()]) {
    const server = make()
    const served = await serve(server)
    const raw = await Client.of(server)
    await until(() => served.connections === 1, 'it is accepted')
    const { done, over } = drain(served)
    await delay(40)
    t.false(over())
    await raw.close()
    await done
    t.is(served.requests, 1)
  }
})

// --- https

async function secureClient(server: net.Server): Promise<Client> {
  const { socket } = await Client.of(server)
  socket.removeAllListeners('data')
  const secure = tls.connect({ ...clientKey, socket, allowHalfOpen: true } as tls.ConnectionOptions)
  await once(secure, 'secureConnect')
  return new Client(secure)
}

test('https: idle, under way, silent, and in the middle of the handshake', async t => {
  const { listener, next } = held()
  const server = https.createServer(serverKey, (request, response) => {
    if (request.url === '/held') listener(request, response as never)
    else echo(request, response as never)
  })
  const served = await serve(server)
  const idle = await secureClient(server)
  const busy = await secureClient(server)
  const silent = await secureClient(server)
  const shaking = await Client.of(server)
  await whole(t, idle)
  await whole(t, busy)
  await until(() => served.connections === 4, 'all are accepted')
  busy.get('/held')
  const [, response] = await next()
  const pass = movableTime(t)
  const { done, over } = drain(served, LONG)
  await delay(SOME_LOOKS)
  t.is(served.connections, 4)
  pass(NEW * LONG)
  for (const client of [idle, silent, shaking]) {
    t.is(await client.ended, undefined)
    await client.close()
  }
  t.false(over())
  response.end('at last')
  const { head, body } = await busy.answer()
  t.is(body, 'at last')
  t.regex(head, CLOSE)
  t.is(await busy.ended, undefined)
  await busy.close()
  await done
  t.is(served.requests, 3)
})

test('https: a record that has arrived in part, or waits unread, keeps the connection open', async t => {
  const pass = movableTime(t)
  for (const idleGrace of [0, LONG]) {
    const server = https.createServer(serverKey, echo)
    const served = await serve(server)
    const { socket } = await Client.of(server)
    let holding = false
    let sealed = Buffer.alloc(0)
    const between = new Duplex({
      read() {},
      write(part: Buffer, _, done) {
        if (holding) sealed = Buffer.concat([sealed, part])
        else socket.write(part)
        done()
      }
    })
    socket.removeAllListeners('data').on('data', part => between.push(part))
    socket.on('close', () => between.push(null))
    const secure = tls.connect({ ...clientKey, socket: between as never })
    await once(secure, 'secureConnect')
    const client = new Client(secure)
    await whole(t, client)
    pass(idleGrace)
    holding = true
    client.get('/held')
    await until(() => sealed.length > 30, 'the sealed request')
    if (idleGrace === 0)
      socket.write(sealed) // nothing can have been read of it
    else {
      socket.write(sealed.subarray(0, 20))
      await delay(10) // for that to be read
      setTimeout(() => socket.write(sealed.subarray(20)), 40)
    }
    const { done } = drain(served, idleGrace)
    const { head, body } = await client.answer()
    t.is(body, 'GET /held')
    t.regex(head, CLOSE)
    await client.close()
    await new Client(socket).close()
    await done
  }
})
