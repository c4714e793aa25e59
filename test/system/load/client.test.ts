/** The tool itself: it recognises each way in which a request can end, for every kind of request. */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'
import { times } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { test, testFull, testInCi } from '../../helpers/test.ts'
import { serverOf } from './answers.mjs'
import { type Counts, type Kind, load, type Mix, startLoad, type Target } from './clients.ts'

const HTTP1: Kind[] = ['close', 'keepAlive', 'parts', 'upload', 'events', 'webSocket']
const ALL: Kind[] = [...HTTP1, 'http2', 'raw']
const EACH = times(3, 20)
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

testInCi('answered: every kind over TCP, Unix sockets and TLS', async t => {
  const servers: Server[] = []
  const mix: Mix[] = []
  for (const [transport, tls] of [['TCP'], ['Unix'], ['TLS', 'psk']] as const)
    for (const [make, kinds] of Object.entries({ http: HTTP1, http2: ['http2'], raw: ['raw'] } as const)) {
      if (tls !== undefined && make === 'raw') continue
      const server = serverOf((tls === undefined ? make : `${make}s`) as 'http')
      servers.push(server)
      const target = await listen(server, transport === 'Unix' ? socketPath() : undefined)
      for (const kind of kinds)
        mix.push({
          ...target,
          kind,
          name: `${kind}, ${transport}`,
          clients: 2,
          pause: 2,
          requests: EACH,
          ...(tls && { tls })
        })
    }
  const { total, kinds } = await load(t, { mix })
  t.deepEqual(total, { ...NONE, answered: 2 * EACH * mix.length })
  for (const { name } of mix) t.is(kinds[name!]!.answered, 2 * EACH, name)
  await Promise.all(servers.map(close))
})

const answers = (text: string) => (socket: Socket) => void socket.once('data', () => socket.end(text))

/** What a server does with every connection. */
const endings: [outcome: keyof Counts, title: string, (socket: Socket) => void][] = [
  ['reset', 'after a request', socket => void socket.once('data', () => socket.resetAndDestroy())],
  ['empty', 'after a request', socket => void socket.once('data', () => socket.end())],
  ['timedOut', 'no answer', socket => void socket.resume()],
  ['wrong', 'status', answers('HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n')],
  ['wrong', 'cut off', answers('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel')],
  ['wrong', 'other body', answers('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother')],
  ['wrong', 'chunk cut off', answers('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc')],
  ['wrong', 'no HTTP', answers('something else')]
]

/** Servers, what their clients ask, and how that is to end. */
class Endings {
  readonly #servers: ReturnType<typeof doing>[] = []
  readonly #mix: Mix[] = []
  readonly #expected = new Map<string, keyof Counts>()

  async serve(action: (socket: Socket) => void): Promise<Target> {
    const server = doing(action)
    this.#servers.push(server)
    return listen(server)
  }

  /** Each of the kinds is to ask once. */
  ask(kinds: Kind[], target: Target, outcome: keyof Counts, of: string, tls?: true | 'psk'): void {
    for (const kind of kinds) {
      const name = `${outcome}, ${of}, ${kind}`
      const patience = outcome === 'timedOut' ? { timeout: 1000 } : {}
      this.#mix.push({ ...target, kind, name, pause: 5, requests: 1, ...patience, ...(tls && { tls }) })
      this.#expected.set(name, outcome)
    }
  }

  async check(t: ExecutionContext): Promise<void> {
    const { kinds, failures } = await load(t, { mix: this.#mix })
    for (const server of this.#servers) {
      for (const socket of server.sockets) socket.destroy()
      await close(server)
    }
    for (const [name, outcome] of this.#expected) {
      const of = failures.filter(({ kind }) => kind === name)
      t.deepEqual(kinds[name], { ...NONE, [outcome]: 1 }, JSON.stringify({ name, of }))
    }
  }
}

test('each other end is recognised, for every kind', async t => {
  const all = new Endings()
  for (const [outcome, of, action] of endings) all.ask(ALL, await all.serve(action), outcome, of)
  for (const outcome of ['reset', 'empty', 'timedOut'] as const) {
    const target = await all.serve(socket =>
      socket.once('data', () => {
        if (outcome === 'reset') socket.resetAndDestroy()
        else if (outcome === 'empty') socket.end()
      })
    )
    all.ask(['close', 'http2'], target, outcome, 'in the middle of a TLS handshake', true)
  }
  const nobody = createServer()
  const target = await listen(nobody)
  await close(nobody)
  all.ask(ALL, target, 'refused', 'TCP')
  all.ask(ALL, { path: socketPath() }, 'refused', 'Unix')
  all.ask(ALL, target, 'refused', 'TCP and TLS', 'psk')
  all.ask(ALL, { path: socketPath() }, 'refused', 'Unix and TLS', 'psk')
  await all.check(t)
})

// The test above has the reset of a request
testFull('a reset before a request is recognised, for every kind', async t => {
  const all = new Endings()
  all.ask(ALL, await all.serve(socket => void socket.resetAndDestroy()), 'reset', 'at once')
  await all.check(t)
})

test('a connection that is closed between two requests is no failure; it ends at a command, and says when', async t => {
  const server = serverOf('http')
  server.on('request', ({ socket }, response) => void response.once('finish', () => socket.end()))
  const target = await listen(server)
  const clients = startLoad(t, { ...target, mix: [{ kind: 'keepAlive', clients: 2, think: 300 }] })
  await clients.more(10)
  const { total } = await clients.end()
  t.true(total.answered >= 10)
  t.deepEqual({ ...total, answered: 0 }, NONE)
  await close(server)
})
