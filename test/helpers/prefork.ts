/** A supervisor in a process of its own, and those who put it under load. */
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
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

/** See the fixture prefork-told. */
export interface Told {
  readonly running: Running
  readonly pid: number
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

export function fixture(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
}

/** With one listener, `http`, on a port of loopback; resolves when its workers are ready. It goes with the test. */
export async function startSupervisor(t: ExecutionContext, options: Record<string, unknown>): Promise<Told> {
  const listeners = { http: { host: '127.0.0.1', port: 0 } }
  const whole = { listeners, ...('command' in options ? {} : { entry: fixture('prefork-answers.mjs') }), ...options }
  const running = endWith(t, startFixture('prefork-told', [JSON.stringify(whole)]))
  const answers = new Map<number, { resolve(value: any): void; reject(error: Error): void }>()
  const events: Told['events'] = new EventEmitter()
  const serving: WorkerFacts[] = []
  const ended: Ended[] = []
  events.setMaxListeners(0)
  events.on('worker', worker => void serving.push(worker))
  events.on('exit', worker => {
    const index = serving.findIndex(({ id }) => id === worker.id)
    if (index >= 0) serving.splice(index, 1)
    ended.push(worker)
  })
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
    exit: async pid => {
      for (;;) {
        const found = ended.find(one => one.pid === pid)
        if (found !== undefined) return found
        await once(events, 'exit')
      }
    },
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

export interface ClientOptions {
  connections: number
  think?: number
  close?: boolean
  most?: number
}

export interface Client {
  /** Resolves when so many more requests were answered. */
  more(count: number): Promise<unknown>
  end(): Promise<Outcome>
}

/** See the fixture prefork-client. */
export function startClient(t: ExecutionContext, port: number, options: ClientOptions): Client {
  const args = [fixture('prefork-client.mjs'), JSON.stringify({ port, ...options })]
  const client = endWith(t, startNice(process.execPath, args))
  return {
    more: count => {
      client.child.stdin?.write(`${count}\n`)
      return client.line()
    },
    end: async () => {
      client.child.stdin?.write('end\n')
      const outcome = JSON.parse(await client.line())
      await client.exit
      return outcome
    }
  }
}

export interface WrkOutcome {
  requests: number
  errors: Record<'connect' | 'read' | 'write' | 'status' | 'timeout', number>
}

export const WRK = '/usr/bin/wrk'

/** A foreign client, with so many keep-alive connections. Returns what ends it. */
export function startWrk(t: ExecutionContext, port: number, connections: number): () => Promise<WrkOutcome> {
  const script = fixture('prefork-wrk.lua')
  const limits = ['-t1', `-c${connections}`, '-d100s', '--timeout', '20s']
  const wrk = endWith(t, startNice(WRK, [...limits, '-s', script, `http://127.0.0.1:${port}/`]))
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

/** See the fixture prefork-killer: a connection that a worker had accepted when it was killed. */
export interface Accepted {
  port: number
  read: boolean
}

/** Kills a process and says what it had accepted; to be ended. */
export function startKiller(t: ExecutionContext): { kill(pid: number): Promise<Accepted[]>; end(): Promise<unknown> } {
  const killer = endWith(t, start(systemPython, [fixture('prefork-killer.py')]))
  return {
    kill: async pid => {
      killer.child.stdin?.write(`${pid}\n`)
      return JSON.parse(await killer.line())
    },
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
function endWith(t: ExecutionContext, running: Running): Running {
  t.teardown(() => void running.child.kill('SIGKILL'))
  return running
}
