/** The tool itself: it recognises each way in which a request can end, for every kind of request. */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { isFull } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'
import { serverOf } from './answers.mjs'
import { type Counted, type Counts, type Kind, type LoadOptions, load, startLoad, type Target } from './clients.ts'

const HTTP1: Kind[] = ['close', 'keepAlive', 'parts', 'upload', 'events', 'webSocket']
const ALL: Kind[] = [...HTTP1, 'http2', 'raw']
const NONE: Counts = { answered: 0, refused: 0, reset: 0, empty: 0, timedOut: 0, wrong: 0 }

async function listen(server: Server, path?: string): Promise<Target> {
  server.listen(path === undefined ? { port: 0, host: '127.0.0.1' } : { path })
  await once(server, 'listening')
  return path === undefined ? { port: (server.address() as { port: number }).port } : { path }
}

async function close(server: Server): Promise<void> {
  server.close()
  await once(server, 'close')
}

/** Does something with each connection. */
function doing(action: (socket: Socket) => void): Server & { sockets: Set<Socket> } {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)))
    action(socket)
  })
  return Object.assign(server, { sockets })
}

/** Of each kind some requests, and how they have ended. */
async function ends(kinds: Kind[], target: Target, run: (target: Target, options: LoadOptions) => Promise<Counted>) {
  const counted = await run(target, {
    mix: kinds.map(kind => ({ kind, clients: 1, pause: 5 })),
    requests: kinds.length,
    timeout: 1000
  })
  return counted
}

for (const [name, of, tls] of [
  ['TCP', undefined, undefined],
  ['Unix', true, undefined],
  ['TLS', undefined, 'psk']
] as const)
  test(`answered: every kind over ${name}`, async t => {
    const secure = tls === undefined ? '' : 's'
    const servers = { http: HTTP1, http2: ['http2'], raw: ['raw'] } as Record<string, Kind[]>
    if (tls !== undefined) delete servers.raw
    for (const [kind, kinds] of Object.entries(servers)) {
      const server = serverOf((kind === 'raw' ? kind : kind + secure) as 'http')
      const target = await listen(server, of && socketPath())
      const { total, kinds: counts } = await load(t, target, {
        mix: kinds.map(one => ({ kind: one, clients: 3, pause: 2 })),
        requests: 20 * kinds.length,
        ...(tls && { tls })
      })
      t.true(total.answered >= 20 * kinds.length)
      t.deepEqual({ ...total, answered: 0 }, NONE)
      for (const one of kinds) t.true(counts[one]!.answered > 0, one)
      await close(server)
    }
  })

const endings: [keyof Counts, (socket: Socket) => void][] = [
  ['reset', socket => void socket.once('data', () => socket.resetAndDestroy())],
  ['reset', socket => void socket.resetAndDestroy()],
  ['empty', socket => void socket.once('data', () => socket.end())],
  ['timedOut', socket => void socket.resume()],
  ['wrong', socket => void socket.once('data', () => socket.end('HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n'))],
  ['wrong', socket => void socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel'))],
  ['wrong', socket => void socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother'))],
  [
    'wrong',
    socket =>
      void socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc'))
  ],
  ['wrong', socket => void socket.once('data', () => socket.end('something else'))]
]
for (const [index, [outcome, action]] of endings.entries()) {
  // A normal run takes each outcome once
  if (!isFull && endings.findIndex(([one]) => one === outcome) !== index) continue
  test(`${outcome} (${index}): by a server that does that to every kind`, async t => {
    const server = doing(action)
    const { total, kinds, failures } = await ends(ALL, await listen(server), (target, options) =>
      load(t, target, options)
    )
    t.is(total.answered, 0)
    for (const kind of ALL) t.true(kinds[kind]![outcome] > 0, `${kind} ${JSON.stringify({ kinds, failures })}`)
    t.is(
      total[outcome],
      Object.values(total).reduce((sum, one) => sum + one, 0),
      JSON.stringify(failures)
    )
    for (const socket of server.sockets) socket.destroy()
    await close(server)
  })
}

for (const tls of isFull ? ([undefined, 'psk'] as const) : [undefined])
  test(`refused: nobody listens${tls === undefined ? '' : ', TLS'}`, async t => {
    const server = createServer()
    const target = await listen(server)
    await close(server)
    for (const where of [target, { path: socketPath() }]) {
      const { total } = await ends(ALL, where, (at, options) => load(t, at, { ...options, ...(tls && { tls }) }))
      t.true(total.refused >= ALL.length)
      t.deepEqual({ ...total, refused: 0 }, NONE)
    }
  })

for (const outcome of ['reset', 'empty', 'timedOut'] as const)
  test(`${outcome}: in the middle of a TLS handshake`, async t => {
    const server = doing(socket =>
      socket.once('data', () => {
        if (outcome === 'reset') socket.resetAndDestroy()
        else if (outcome === 'empty') socket.end()
      })
    )
    const target = await listen(server)
    const { total, failures } = await ends(['close', 'http2'], target, (at, options) =>
      load(t, at, { ...options, tls: true })
    )
    t.true(total[outcome] >= 2)
    t.deepEqual({ ...total, [outcome]: 0 }, NONE, JSON.stringify(failures))
    for (const socket of server.sockets) socket.destroy()
    await close(server)
  })

test('a connection that is closed between two requests is no failure; it ends at a command, and says when', async t => {
  const server = serverOf('http')
  server.on('request', ({ socket }, response) => void response.once('finish', () => socket.end()))
  const target = await listen(server)
  const clients = startLoad(t, target, { mix: [{ kind: 'keepAlive', clients: 2, think: 60 }] })
  await clients.more(10)
  const { total } = await clients.end()
  t.true(total.answered >= 10)
  t.deepEqual({ ...total, answered: 0 }, NONE)
  await close(server)
})
