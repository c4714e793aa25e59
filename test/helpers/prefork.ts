/** A supervisor in a process of its own, and those who put it under load. */
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { Supervisor, type SupervisorOptions, type WorkerInfo } from '../../src/prefork/index.ts'
import { type Running, start, startFixture } from './process.ts'
import { systemPython } from './programs.ts'

export type Balance = 'per-worker' | 'shared' | { dispatch: string }
export const BALANCES: readonly Balance[] = ['per-worker', 'shared', { dispatch: 'round-robin' }]

export function nameOf(balance: Balance): string {
  return typeof balance === 'string' ? balance : `dispatch ${balance.dispatch}`
}

export interface WorkerFacts {
  slot: number
  id: number
  pid: number
  state: string
}

export interface Ended extends WorkerFacts {
  code: number | null
  signal: string | null
}

/** What tests see of a supervisor, wherever it runs. */
export interface Supervised {
  readonly port: number
  /** Has it do something; rejects if that does. */
  ask<Value = null>(command: string, ...values: unknown[]): Promise<Value>
  workers(): Promise<WorkerFacts[]>
  /** Its events 'worker', 'exit' and 'gaveUp', as plain objects. */
  readonly events: EventEmitter<{ worker: [WorkerFacts]; exit: [Ended]; gaveUp: [{ code: string; message: string }] }>
  /** Those that are ready and have not ended, as far as it has told. */
  readonly serving: readonly WorkerFacts[]
  /** All that have ended. */
  readonly ended: readonly Ended[]
  /** Resolves when a worker's end was told. */
  exit(pid: number): Promise<Ended>
  /** Stops it gracefully; it must have nothing to complain of. Returns its stderr. */
  end(): Promise<string>
}

/** See the fixture prefork-told. */
export interface Told extends Supervised {
  readonly running: Running
  readonly pid: number
}

export function fixture(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
}

/** Of the fixture prefork-told: a Supervisor's, and `restartDelay`, in ms, after which each worker that ends is replaced. */
type Options = Record<string, unknown>

/** One listener, `http`, on a port of loopback, and workers that are the fixture prefork-answers. */
function withDefaults(options: Options): Options {
  const listeners = { http: { host: '127.0.0.1', port: 0 } }
  return { listeners, ...('command' in options ? {} : { entry: fixture('prefork-answers.mjs') }), ...options }
}

/** Keeps `serving` and `ended` as the events report them. */
function follow(events: Told['events'], serving: WorkerFacts[], ended: Ended[]): void {
  events.setMaxListeners(0)
  events.on('worker', worker => void serving.push(worker))
  events.on('exit', worker => {
    const index = serving.findIndex(({ id }) => id === worker.id)
    if (index >= 0) serving.splice(index, 1)
    ended.push(worker)
  })
}

async function exitOf(pid: number, { ended, events }: Pick<Told, 'ended' | 'events'>): Promise<Ended> {
  for (;;) {
    const found = ended.find(one => one.pid === pid)
    if (found !== undefined) return found
    await once(events, 'exit')
  }
}

/** A supervisor in this process, for tests that do not kill it; resolves when its workers are ready. It goes with the test. */
export async function supervise(t: ExecutionContext, options: Options): Promise<Supervised> {
  const { restartDelay, spawn, ...rest } = withDefaults(options)
  const supervisor = new Supervisor({
    ...rest,
    // Workers get none of the options of ava's process
    spawn: { ...('command' in options ? {} : { execArgv: [] }), ...(spawn as object) },
    ...(restartDelay === undefined ? {} : { restart: () => ({ restart: true, delay: restartDelay }) })
  } as unknown as SupervisorOptions)
  t.teardown(() => supervisor.kill())
  const events: Told['events'] = new EventEmitter()
  const [serving, ended]: [WorkerFacts[], Ended[]] = [[], []]
  follow(events, serving, ended)
  const plain = ({ slot, id, pid, state }: WorkerInfo): WorkerFacts => ({ slot, id, pid: pid!, state })
  supervisor.on('exit', (worker, code, signal) => events.emit('exit', { ...plain(worker), code, signal }))
  supervisor.on('worker', worker => events.emit('worker', plain(worker)))
  supervisor.on('gaveUp', error => events.emit('gaveUp', error as Error & { code: string }))
  const commands: Record<string, (...values: any[]) => unknown> = {
    reload: () => supervisor.reload(),
    scale: workers => supervisor.scale(workers),
    stop: () => supervisor.stop(),
    workers: () => supervisor.workers.map(plain),
    address: name => supervisor.address(name)
  }
  await supervisor.start()
  const { port } = supervisor.address('http') as { port: number }
  return {
    port,
    ask: async (command, ...values) => {
      try {
        return (await commands[command]!(...values)) as any
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException
        throw new Error(`${code}: ${message}`)
      }
    },
    workers: async () => supervisor.workers.map(plain),
    events,
    serving,
    ended,
    exit: pid => exitOf(pid, { ended, events }),
    end: async () => {
      await supervisor.stop()
      return '' // a warning of this process fails the whole file
    }
  }
}

/** The same in a process of its own. */
export async function startSupervisor(t: ExecutionContext, options: Options): Promise<Told> {
  const whole = withDefaults(options)
  const running = endWith(t, startFixture('prefork-told', [JSON.stringify(whole)]))
  const answers = new Map<number, { resolve(value: any): void; reject(error: Error): void }>()
  const events: Told['events'] = new EventEmitter()
  const serving: WorkerFacts[] = []
  const ended: Ended[] = []
  follow(events, serving, ended)
  // If the test fails, some may be suspended
  t.teardown(() => {
    for (const { pid } of serving) endFixture(pid)
  })
  let count = 0
  const listen = async (): Promise<void> => {
    for (;;) {
      const { id, value, error, event, of } = JSON.parse(await running.line())
      if (event !== undefined) events.emit(event, of)
      else if (error !== undefined) answers.get(id)?.reject(new Error(error))
      else answers.get(id)?.resolve(value)
      answers.delete(id)
    }
  }
  listen().catch(error => {
    for (const { reject } of answers.values()) reject(error)
  })
  const ask: Told['ask'] = (command, ...values) =>
    new Promise((resolve, reject) => {
      const id = ++count
      answers.set(id, { resolve, reject })
      running.child.stdin?.write(`${JSON.stringify([id, command, ...values])}\n`)
    })
  await ask('start')
  const { port } = await ask<{ port: number }>('address', 'http')
  return {
    running,
    pid: running.child.pid!,
    port,
    ask,
    workers: () => ask<WorkerFacts[]>('workers'),
    events,
    serving,
    ended,
    exit: pid => exitOf(pid, { ended, events }),
    end: async () => {
      await ask('stop')
      running.child.stdin?.end()
      const { code, signal, stderr } = await running.exit
      if (code !== 0) throw new Error(`the supervisor ended with ${code ?? signal}: ${stderr}`)
      return stderr
    }
  }
}

function endFixture(pid: number): void {
  try {
    if (readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('/fixtures/')) process.kill(pid, 'SIGKILL')
  } catch {
    // it has ended
  }
}

export interface Failure {
  kind: string
  /** The client's own. */
  port?: number
  at: number
  text: string
}

export interface Outcome {
  answered: number
  connections: number
  failures: Failure[]
}

/** Some of the clients of a process. */
export interface ClientOptions {
  connections: number
  think?: number
  close?: boolean
  most?: number
  path?: string
}

export interface Client {
  /** Resolves when so many more requests were answered. */
  more(count: number): Promise<unknown>
  /** Of each of the mix. */
  end(): Promise<Outcome[]>
}

/** See the fixture prefork-client. */
export function startClient(t: ExecutionContext, port: number, ...mix: ClientOptions[]): Client {
  const args = [fixture('prefork-client.mjs'), JSON.stringify({ port, mix })]
  const client = endWith(t, startNice(process.execPath, args))
  return {
    more: count => {
      client.child.stdin?.write(`${count}\n`)
      return client.line()
    },
    end: async () => {
      client.child.stdin?.write('end\n')
      const outcomes = JSON.parse(await client.line())
      await client.exit
      return outcomes
    }
  }
}

export interface WrkOutcome {
  requests: number
  errors: Record<'connect' | 'read' | 'write' | 'status' | 'timeout', number>
}

export const WRK = '/usr/bin/wrk'

/**
 * A foreign client, with so many keep-alive connections, each of which waits `think` ms between an answer and the next request. `close`: a new connection
 * for each request. Returns what ends it.
 */
export function startWrk(
  t: ExecutionContext,
  port: number,
  connections: number,
  think = 0,
  { close = false, seconds = 100 }: { close?: boolean; seconds?: number } = {}
): () => Promise<WrkOutcome> {
  const script = fixture('prefork-wrk.lua')
  const limits = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '20s']
  if (close) limits.push('-H', 'Connection: close')
  const url = `http://127.0.0.1:${port}/`
  const wrk = endWith(t, startNice(WRK, [...limits, '-s', script, url, '--', `${think}`]))
  return async () => {
    wrk.child.kill('SIGINT')
    for (;;) {
      const line = await wrk.line()
      if (!line.startsWith('{')) continue
      await wrk.exit
      return JSON.parse(line)
    }
  }
}

/** Of the clients of a server that was killed so often, only those were lost that it had accepted: so many. */
export function lostOnlyAccepted(
  t: ExecutionContext,
  { requests, errors }: WrkOutcome,
  { kills, accepted }: { kills: number; accepted: number }
): void {
  t.log(`${kills} kills: ${requests} answered, ${JSON.stringify(errors)}; ${accepted} accepted when it was killed`)
  t.true(requests > kills)
  const refused = { ...errors, read: 0, write: 0 }
  t.deepEqual(refused, { connect: 0, read: 0, write: 0, status: 0, timeout: 0 }, 'nobody is refused')
  t.true(errors.read + errors.write <= accepted, `${errors.read} + ${errors.write} of ${accepted}`)
  t.true(accepted > 0, 'it was never killed at its work')
}

/** See the fixture prefork-killer: a connection that a worker had accepted when it was killed. */
export interface Accepted {
  port: number
  address: string
  read: boolean
  /** Of a Unix socket, instead of the others. */
  path?: string
}

export interface Killer {
  /** Kills a process and says what it had accepted. */
  kill(pid: number): Promise<Accepted[]>
  /** The same, with those that were sent to it and that it had not received. */
  killWithQueued(pid: number): Promise<Accepted[]>
  /** The same as `kill()` for one that the caller kills: it is stopped. */
  stop(pid: number): Promise<Accepted[]>
  end(): Promise<unknown>
}

/** To be ended. `more`: 'unix', connections of Unix sockets, too. */
export function startKiller(t: Pick<ExecutionContext, 'teardown'>, ...more: 'unix'[]): Killer {
  const killer = endWith(t, start(systemPython, [fixture('prefork-killer.py'), ...more]))
  const ask = async (words: string): Promise<Accepted[]> => {
    killer.child.stdin?.write(`${words}\n`)
    return JSON.parse(await killer.line())
  }
  return {
    kill: pid => ask(`${pid}`),
    killWithQueued: pid => ask(`queued ${pid}`),
    stop: pid => ask(`stop ${pid}`),
    end: () => {
      killer.child.stdin?.end()
      return killer.exit
    }
  }
}

/** Clients take what the workers leave of the processors, so that new ones get ready soon. */
function startNice(command: string, args: readonly string[]): Running {
  return start('nice', ['-n', '10', command, ...args])
}

/** A test that fails leaves nothing running. */
function endWith(t: Pick<ExecutionContext, 'teardown'>, running: Running): Running {
  t.teardown(() => void running.child.kill('SIGKILL'))
  return running
}
