/** The clients of client.mjs in a process of their own, and what they count. */
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { start } from '../../helpers/process.ts'

export type Kind =
  | 'close'
  | 'keepAlive'
  | 'parts'
  | 'upload'
  | 'halfClosed'
  | 'slow'
  | 'events'
  | 'webSocket'
  | 'http2'
  | 'raw'
  | 'udp'

export interface Mix extends Partial<Place> {
  kind: Kind
  /** What it is counted as: its kind, unless it has a name. */
  name?: string
  clients?: number
  /** ms between an answer and the next request; 'wake': until `wake()`. */
  think?: number | 'wake'
  /** ms between the parts of a request, or of an event stream. */
  pause?: number
  size?: number
  events?: number
  /** Requests on one connection. */
  most?: number
  expect?: 'echo' | 'any'
  /** Requests of each client. */
  requests?: number
  /** Behind the path of a `close` or `keepAlive` request. */
  query?: string
}

export type Target = { port: number; host?: string } | { path: string }

interface Place {
  port: number
  host: string
  path: string
  tls: true | 'psk'
  /** ms. */
  timeout: number
}

export interface LoadOptions extends Partial<Place> {
  mix: Mix[]
  /** It ends by itself after so many seconds. */
  seconds?: number
  /** How many failures it lists; default 100. */
  most?: number
  /** Among them are requests that were refused. */
  refusals?: boolean
  /** Each client has an address of its own, of 127.0.1.0/24. */
  from?: 'several'
}

export type Counts = Record<'answered' | 'refused' | 'reset' | 'empty' | 'timedOut' | 'wrong', number>

export interface Counted {
  total: Counts
  kinds: Record<string, Counts>
  /** The first that are neither answered nor refused. */
  failures: Failure[]
  /** Connections of clients that were woken: those that were there then, and those that had ended. */
  idle: { kept: number; ended: number }
}

export interface Failure {
  kind: string
  outcome: keyof Counts
  code: string
  /** A Date.now(). */
  at: number
  ms: number
  used: number
  /** The client's own. */
  port?: number
  address?: string
  /** When it began to connect: a Date.now(). */
  opened?: number
}

export interface Load {
  /** Resolves when so many more requests were answered, or refused. */
  more(count: number, outcome?: 'answered' | 'refused'): Promise<void>
  /** What they have counted, and the failures since the last time. Not while `more()` waits. */
  count(): Promise<Pick<Counted, 'total' | 'failures'>>
  /** Those that think until they are woken. */
  wake(): void
  /** Ends them. */
  end(): Promise<Counted>
  /** Waits until they have ended by themselves. */
  ended(): Promise<Counted>
}

/** Clients that ask all the time. They go with the test. */
export function startLoad(t: Pick<ExecutionContext, 'teardown'>, options: LoadOptions): Load {
  const program = fileURLToPath(new URL('client.mjs', import.meta.url))
  const running = start(process.execPath, [program, JSON.stringify(options)])
  t.teardown(() => void running.child.kill('SIGKILL'))
  const ended = async (): Promise<Counted> => {
    const counted = JSON.parse(await running.line())
    await running.exit
    return counted
  }
  return {
    more: async (count, outcome = 'answered') => {
      running.child.stdin?.write(`${outcome} ${count}\n`)
      await running.line()
    },
    count: async () => {
      running.child.stdin?.write('count\n')
      return JSON.parse(await running.line())
    },
    wake: () => void running.child.stdin?.write('wake\n'),
    end: () => {
      running.child.stdin?.write('end\n')
      return ended()
    },
    ended
  }
}

/** Runs them until they end by themselves. */
export function load(t: ExecutionContext, options: LoadOptions): Promise<Counted> {
  return startLoad(t, options).ended()
}
