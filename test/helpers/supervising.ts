/** Supervisors with workers that are fixtures, and what tests do with them again and again. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import * as http from 'node:http'
import type { ExecutionContext } from 'ava'
import { Supervisor, type SupervisorOptions } from '../../src/prefork/index.ts'
import { isFull } from './full.ts'
import { inC } from './in-c.ts'
import { temporaryPath } from './path.ts'
import { until } from './test.ts'

export interface Log {
  /** `slot/id state`, in order. */
  readonly states: string[]
  /** `slot/id code or signal`. */
  readonly exits: string[]
  /** Of the other events: their names and messages. */
  readonly told: string[]
  /** The same of one worker, from 'starting' on. */
  of(id: number): string[]
}

export function fixture(name: string): URL {
  return new URL(`../fixtures/prefork-${name}.mjs`, import.meta.url)
}

/** A program that is only written when the test runs: for what changes, or is none. It loads passfd only if it joins a supervisor. */
export function program(
  source: string,
  path: string = temporaryPath('program.mjs').replace(/-(\d+)$/, '-$1.mjs')
): string {
  const join = new URL('../../build/dist/prefork/index.js', import.meta.url).href
  const imports = source.includes('joinSupervisor') ? `import { joinSupervisor } from ${JSON.stringify(join)}\n` : ''
  writeFileSync(`${path}.new`, `${imports}${source}\n`)
  renameSync(`${path}.new`, path) // whoever reads it meanwhile has the old one
  return path
}

/** A worker that gets ready and waits. */
export const WAITS = 'const worker = await joinSupervisor(); await worker.ready()'

/**
 * Kinds of workers, for what a supervisor does alike with all of them: a start in C costs a fiftieth of one in Node, so only a full run tries
 * both. The worker gets ready and waits; USR2: it exits with `code`.
 */
export interface Kind {
  readonly name: string
  /** The option of a supervisor whose workers run the program in this file. */
  options(path: string): Pick<SupervisorOptions, 'entry' | 'command'>
  readonly waits: (code?: number) => string
  /** Exits with this code, and was never ready. */
  readonly fails: (code: number) => string
  /** Never gets ready. */
  readonly hesitates: string
  /** Gets ready, and does not stop. */
  readonly isDeaf: string
}

const IN_NODE: Kind = {
  name: 'Node',
  options: path => ({ entry: path }),
  waits: (code = 7) => `process.on('SIGUSR2', () => process.exit(${code})); ${WAITS}`,
  fails: code => `process.exit(${code})`,
  hesitates: 'await joinSupervisor()',
  isDeaf: `const worker = await joinSupervisor({ signals: false })
    process.on('SIGTERM', () => {})
    worker.onStop(() => new Promise(() => {}))
    await worker.ready()`
}

const IN_C: Kind = {
  name: 'C',
  // The shell reads the program, which may be replaced at any time
  options: path => ({ command: ['/bin/sh', path] }),
  waits: (code = 7) => `exec ${light()} ${code}`,
  fails: code => `exit ${code}`,
  hesitates: 'exec sleep 60',
  get isDeaf() {
    return `exec ${light()} 7 deaf`
  }
}

export const ALL_KINDS: readonly Kind[] = [IN_C, IN_NODE]
export const KINDS: readonly Kind[] = isFull ? ALL_KINDS : [IN_C]

/** The program test/fixtures/prefork-light.c. */
export function light(): string {
  return inC('prefork-light')
}

/**
 * A Supervisor whose workers are started without this process' own options of Node. After `body` it is stopped with KILL; then no process
 * of it may be left.
 */
export async function supervising(
  t: ExecutionContext,
  options: Partial<SupervisorOptions>,
  body: (supervisor: Supervisor, log: Log) => Promise<void>
): Promise<void> {
  const { spawn, ...rest } = options
  const isOther = rest.command !== undefined || rest.program !== undefined
  const supervisor = new Supervisor({
    ...(isOther ? {} : { entry: fixture('obeys') }),
    listeners: { http: { port: 0, host: '127.0.0.1' } },
    workers: 1,
    heartbeat: 50,
    idleGrace: 50,
    ...rest,
    spawn: { ...(isOther ? {} : { execArgv: [] }), ...spawn }
  })
  supervisor.on('unserved', () => {})
  const pids = new Set<number | undefined>()
  supervisor.on('state', ({ pid }) => pids.add(pid))
  try {
    await body(supervisor, logOf(supervisor))
  } finally {
    await supervisor.kill()
  }
  t.deepEqual(supervisor.workers, [])
  const left = [...pids].filter(pid => pid !== undefined && isChild(pid))
  t.deepEqual(left, [], 'processes are left')
}

export function logOf(supervisor: Supervisor): Log {
  const states: string[] = []
  const exits: string[] = []
  const told: string[] = []
  supervisor.on('state', ({ slot, id, state }) => states.push(`${slot}/${id} ${state}`))
  supervisor.on('exit', ({ slot, id }, code, signal) => exits.push(`${slot}/${id} ${signal ?? code}`))
  for (const event of ['gaveUp', 'reloadFailed'] as const)
    supervisor.on(event, (error: Error) => told.push(`${event} ${error.message}`))
  const of = (id: number): string[] =>
    states.filter(line => line.split(/[/ ]/)[1] === `${id}`).map(line => line.split(' ')[1]!)
  return { states, exits, told, of }
}

/** A child of this process, even one that has ended, if nobody has asked for its status. */
function isChild(pid: number): boolean {
  try {
    // The name of the program is in parentheses and may have any in it (proc_pid_stat(5))
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]) === process.pid
  } catch {
    return false
  }
}

/** The body of an answer to a request on a connection of its own. */
export function get(supervisor: Supervisor, name = 'http', path = '/'): Promise<string> {
  const address = supervisor.address(name)
  const where = 'path' in address ? { socketPath: address.path } : { host: '127.0.0.1', port: address.port }
  return new Promise((resolve, reject) => {
    http
      .get({ ...where, path, agent: false }, response => {
        let text = ''
        response.setEncoding('utf8').on('data', part => {
          text += part
        })
        response.on('end', () => resolve(text)).on('error', reject)
      })
      .on('error', reject)
  })
}

/** Has a worker (the fixture `obeys`) do something. */
export function command(supervisor: Supervisor, order: object, slot = 0): void {
  const worker = supervisor.workers.filter(one => one.slot === slot && one.state === 'ready').at(-1)
  if (worker === undefined) throw new Error(`no worker is ready in slot ${slot}`)
  worker.channel.send(order)
}

/** Until exactly the workers with these ids are ready, and there are no others. */
export async function only(supervisor: Supervisor, ...ids: number[]): Promise<void> {
  const now = () => supervisor.workers.map(({ id, state }) => `${id} ${state}`).join()
  await until(() => now() === ids.map(id => `${id} ready`).join(), `workers ${ids}`)
}

/** All have ended, one way or the other, before the first failure is told: none is left in the way of the next test. */
export async function allOf(promises: Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(promises)
  await Promise.all(promises)
}
