/** Servers of all makes under a supervisor, however connections come to them: a request works, none is lost by a reload or a stop. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import { text } from 'node:stream/consumers'
import { setTimeout as nap } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { WebSocket } from 'ws'
import type { Balance, Supervisor } from '../../../src/prefork/index.ts'
import { isFull, times } from '../../helpers/full.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { fixture, supervising } from '../../helpers/supervising.ts'
import { testInCi } from '../../helpers/test.ts'

const BALANCES: Record<string, Balance> = {
  'per-worker': 'per-worker',
  shared: 'shared',
  'round robin': { dispatch: 'round-robin' }
}

const key = temporaryPath('key')
const certificate = temporaryPath('certificate')
execFileSync(
  'openssl',
  [
    ...[
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-subj',
      '/CN=localhost'
    ],
    ...['-keyout', key, '-out', certificate]
  ],
  { stdio: 'ignore' }
)

function portOf(supervisor: Supervisor, name: string): number {
  return (supervisor.address(name) as { port: number }).port
}

/** Clients of HTTP that keep their connections and try nothing twice. */
function agentOf(secure: boolean): { get(port: number, path: string): Promise<string>; close(): void } {
  const module = secure ? https : http
  const agent = new module.Agent({ keepAlive: true, maxSockets: 4 })
  return {
    async get(port, path) {
      const request = module.get({ host: '127.0.0.1', port, path, agent, rejectUnauthorized: false } as object)
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      return text(response)
    },
    close: () => agent.destroy()
  }
}

/** A client of HTTP/2 as they are: it goes on with a new session when it was told to. */
function sessions(): ReturnType<typeof agentOf> {
  let session: http2.ClientHttp2Session | undefined
  return {
    get(port, path) {
      if (session === undefined || session.closed || session.destroyed) {
        session = http2.connect(`http://127.0.0.1:${port}`)
        const opened = session
        opened.once('goaway', () => {
          if (session === opened) session = undefined
        })
      }
      return text(session.request({ ':path': path }))
    },
    close: () => session?.close()
  }
}

/** Opens a WebSocket and hears from one of the processes; resolves to its end to come. */
async function webSocket(t: ExecutionContext, port: number, pids: string[]): Promise<{ event: Promise<unknown[]> }> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}`)
  await once(socket, 'open')
  socket.send('hello')
  t.true(pids.includes(String((await once(socket, 'message'))[0]).replace('hello ', '')))
  return { event: once(socket, 'close') }
}

/** Between two requests of a client, in ms: a normal run does not keep the processors busy. */
const PAUSE = times(60, 0)
/** One is replaced as one of several is; load.test.ts reloads two. */
const WORKERS = times(1, 2)
const PLAIN = ['http', 'http2', 'https']
const ALL = [...PLAIN, 'express', 'fastify', 'ws']

// A listener that all share is told apart from one of each worker's by no server
for (const [name, balance] of Object.entries(BALANCES).filter(([one]) => isFull || one !== 'shared'))
  testInCi(`${name}: a request, a reload under load, a stop with requests under way`, async t => {
    // Packages take long to load, and make http servers: in a normal run they are where Node's own way to accept is not used
    const kinds = isFull || typeof balance === 'object' ? ALL : PLAIN
    const listeners = Object.fromEntries(kinds.map(kind => [kind, { port: 0, host: '127.0.0.1' }]))
    const spawn = { args: [key, certificate, ...kinds] }
    const options = { entry: fixture('framework'), spawn, listeners, balance, workers: WORKERS, idleGrace: 5000 }
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      const pids = (): string[] => supervisor.workers.map(({ pid }) => `${pid}`)
      const clients = kinds.map(kind => {
        const client = kind === 'http2' ? sessions() : agentOf(kind === 'https')
        const port = portOf(supervisor, kind)
        return { kind, get: (path: string) => client.get(port, path), close: client.close }
      })
      const before = pids()
      for (const { kind, get } of clients) t.true(before.includes(await get('/')), kind)

      let loading = true
      const load = clients.map(async ({ get, kind }) => {
        let requests = 0
        const one = async (): Promise<void> => {
          for (; loading; requests++) {
            await get('/')
            await nap(PAUSE)
          }
        }
        await Promise.all(kind === 'http2' ? [one()] : [one(), one()])
        return requests
      })
      await supervisor.reload()
      loading = false
      for (const requests of await Promise.all(load)) t.true(requests > 0)
      const now = pids()
      t.false(now.some(pid => before.includes(pid)))
      for (const { kind, get } of clients) t.true(now.includes(await get('/')), kind)

      const closed = kinds.includes('ws') ? await webSocket(t, portOf(supervisor, 'ws'), now) : undefined
      const slow = clients.flatMap(({ get }) => [get('/slow'), get('/slow')])
      for (const { get } of clients) await get('/') // by then the first of them have come
      await supervisor.stop()
      for (const answer of await Promise.all(slow)) t.true(now.includes(answer))
      if (closed !== undefined) t.is((await closed.event)[0], 1001)
      for (const { close } of clients) close()
    })
  })
