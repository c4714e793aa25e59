/** Options of a Supervisor: their defaults and their checks. */

import type { SpawnOptions } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { asUrl } from '../base/brand.ts'
import { checkInteger, checkPathText, invalid } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { CHANNEL_OPTIONS, type ChannelOptions, channelLimits } from '../channel/options.ts'
import type { BindSpec } from '../descriptor/descriptor.ts'
import { type Balance, balanceOf } from './balance.ts'
import { type RestartPolicy, restartPolicy } from './launch/restart.ts'
import { type ListenerSpec, readListeners } from './specs.ts'

export interface WorkerLimits {
  /** Resident memory in bytes. */
  rss?: number
  /** Time since its start, in ms. */
  age?: number
  /** Requests (of servers given to `worker.listen()`; connections of those that don't speak HTTP). */
  requests?: number
  /** Each worker's limits are lowered by a random part of up to this, so that not all are replaced at once. 0 to 1, default 0.1. */
  jitter?: number
}

export interface SpawnSettings extends Pick<SpawnOptions, 'cwd' | 'env' | 'uid' | 'gid'> {
  /** Arguments of `entry`; a `command` has its own. */
  args?: string[]
  /** Arguments of Node itself. Default: those of this process. */
  execArgv?: string[]
  /**
   * True: what is left of a worker's session (setsid(2)) when its own process has ended goes on. Default: it gets TERM, and KILL after
   * `killTimeout`; after a stop that was asked for it has what is left of `stopTimeout` first.
   */
  leaveGroup?: boolean
}

/** A socket file, and whose it is. `mode`: default 0o600. `owner`, `group`: numbers, or names in /etc/passwd and /etc/group. */
export interface AdminSpec {
  path: string
  mode?: number
  owner?: number | string
  group?: number | string
}

const ADMIN_OPTIONS = { path: true, mode: true, owner: true, group: true } as const satisfies KnownOptions<AdminSpec>

export interface SupervisorOptions {
  /** The worker's program, run by Node: a URL, or a path (from `spawn.cwd`, not from this file). It calls `joinSupervisor()`. Or `command`. */
  entry?: URL | string
  /** Any program and its arguments. It gets the listeners by LISTEN_FDS, and says that it is ready by NOTIFY_SOCKET (sd_listen_fds(3), sd_notify(3)). */
  command?: readonly [string, ...string[]]
  /** What is listened on, by name. A name has 1 to 255 printable ASCII characters without a colon. A Descriptor is moved in. */
  listeners: Record<string, BindSpec>
  /** How many. Default: one for each processor (`os.availableParallelism()`). */
  workers?: number
  /** How connections come to workers. Default `'per-worker'`; with `command` `'shared'`, and no dispatch. */
  balance?: Balance
  /** How workers are started. */
  spawn?: SpawnSettings
  /** How long a worker may take to say that it is ready, in ms. Then it is killed. Default 30,000; 0: no limit. */
  readyTimeout?: number
  /**
   * How long everything goes on as before once the supervisor was told to stop, in ms; `stopTimeout` starts after it. For load balancers that
   * need a moment to notice. Default 0.
   */
  lameDuck?: number
  /** How long a stopping worker may take to finish its requests, in ms. Then it gets TERM. Default 30,000. */
  stopTimeout?: number
  /** How long after TERM it gets KILL, in ms. Default 5,000. */
  killTimeout?: number
  /** How long a stopping worker leaves a keep-alive connection open that has no request, since its last one, in ms. Default 1,000. */
  idleGrace?: number
  /** How often a worker tells how it is, in ms; at least twice in `hangTimeout`. Default 1,000. */
  heartbeat?: number
  /** A worker that has not told anything for this long is killed and replaced, in ms. Default 10,000; 0: never. */
  hangTimeout?: number
  /** When a worker that died is replaced: see `restartPolicy()`, the default. */
  restart?: RestartPolicy
  /** A worker beyond one of these is replaced: its successor gets ready first. Default: none. */
  limits?: WorkerLimits
  /** Options of `worker.channel` on the supervisor's side. */
  channel?: ChannelOptions
  /**
   * Where the admin channel listens: a path, or one with `mode`, `owner` and `group` of the socket file. Processes of the same user and root are let
   * in, those of `owner`, and those that are in `group`. Default: there is none.
   */
  admin?: string | AdminSpec
}

const SUPERVISOR_OPTIONS = {
  entry: true,
  command: true,
  listeners: true,
  workers: true,
  balance: true,
  spawn: true,
  readyTimeout: true,
  lameDuck: true,
  stopTimeout: true,
  killTimeout: true,
  idleGrace: true,
  heartbeat: true,
  hangTimeout: true,
  restart: true,
  limits: true,
  channel: true,
  admin: true
} as const satisfies KnownOptions<SupervisorOptions>
const SPAWN_OPTIONS = {
  cwd: true,
  env: true,
  uid: true,
  gid: true,
  args: true,
  execArgv: true,
  leaveGroup: true
} as const satisfies KnownOptions<SpawnSettings>
const LIMIT_OPTIONS = {
  rss: true,
  age: true,
  requests: true,
  jitter: true
} as const satisfies KnownOptions<WorkerLimits>

/** Options, checked and complete. */
export interface Settings {
  readonly entry: URL | string | undefined
  readonly command: readonly [string, ...string[]] | undefined
  readonly listeners: ReadonlyMap<string, ListenerSpec>
  readonly workers: number
  readonly balance: Balance
  readonly spawn: SpawnSettings
  readonly readyTimeout: number
  readonly lameDuck: number
  readonly stopTimeout: number
  readonly killTimeout: number
  readonly idleGrace: number
  readonly heartbeat: number
  readonly hangTimeout: number
  readonly restart: RestartPolicy
  readonly limits: WorkerLimits
  readonly channel: ChannelOptions
  readonly admin: AdminSpec | undefined
}

export const MAX_WORKERS = 1024
/** The highest user (credentials(7)); the one above means none. */
const MAX_ID = 0xfffffffe

/** Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function settingsOf(given: SupervisorOptions): Settings {
  const options = readOptions(given, SUPERVISOR_OPTIONS)
  const { command, listeners, admin, restart = restartPolicy() } = options
  const entry = asUrl(options.entry) ?? options.entry
  const spawn = readOptions(options.spawn === undefined ? {} : options.spawn, SPAWN_OPTIONS, 'options.spawn')
  if (spawn.cwd !== undefined) spawn.cwd = asUrl(spawn.cwd) ?? spawn.cwd
  const channel = readOptions(options.channel === undefined ? {} : options.channel, CHANNEL_OPTIONS, 'options.channel')
  const limits = readOptions(options.limits === undefined ? {} : options.limits, LIMIT_OPTIONS, 'options.limits')
  if ((entry === undefined) === (command === undefined))
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'options',
      expected: 'an object with either entry or command',
      actual: `one with ${entry === undefined ? 'neither' : 'both'}`
    })
  if (entry !== undefined && typeof entry !== 'string' && !(entry instanceof URL))
    throw invalid('options.entry', 'a path or a URL', entry)
  if (command !== undefined && !isCommand(command))
    throw invalid('options.command', 'an array of strings, the program first', command)
  if (typeof entry === 'string') checkPathText(entry, 'options.entry')
  for (const [index, part] of (command ?? []).entries()) checkNoNul(part, `options.command[${index}]`)
  if (typeof restart !== 'function') throw invalid('options.restart', 'a function', restart)
  checkSpawn(spawn, command !== undefined)
  channelLimits(channel)
  const { workers = availableParallelism() } = options
  checkWorkers(workers)
  const heartbeat = time(options.heartbeat, 'heartbeat', 1000, 10)
  const hangTimeout = time(options.hangTimeout, 'hangTimeout', 10_000, 0)
  return {
    entry,
    command,
    listeners: readListeners(listeners, 'options.listeners'),
    workers,
    balance: balanceOf(options.balance, command !== undefined),
    spawn,
    readyTimeout: time(options.readyTimeout, 'readyTimeout', 30_000, 0),
    lameDuck: time(options.lameDuck, 'lameDuck', 0, 0),
    stopTimeout: time(options.stopTimeout, 'stopTimeout', 30_000, 1),
    killTimeout: time(options.killTimeout, 'killTimeout', 5000, 1),
    idleGrace: time(options.idleGrace, 'idleGrace', 1000, 0),
    // One that comes late is no hung worker
    heartbeat: hangTimeout === 0 ? heartbeat : Math.min(heartbeat, Math.max(10, Math.floor(hangTimeout / 2))),
    hangTimeout,
    restart,
    limits: limitsOf(limits),
    channel,
    admin: adminOf(admin)
  }
}

/** Node would say so for every worker, and each time anew. */
function checkSpawn(spawn: SpawnSettings, foreign: boolean): void {
  const { cwd, env, uid, gid, args, execArgv, leaveGroup } = spawn
  if (cwd !== undefined && typeof cwd !== 'string' && !(cwd instanceof URL))
    throw invalid('options.spawn.cwd', 'a path or a URL', cwd)
  if (typeof cwd === 'string') checkPathText(cwd, 'options.spawn.cwd')
  if (env !== undefined && (typeof env !== 'object' || env === null))
    throw invalid('options.spawn.env', 'an object', env)
  if (leaveGroup !== undefined && typeof leaveGroup !== 'boolean')
    throw invalid('options.spawn.leaveGroup', 'true or false', leaveGroup)
  for (const [name, value] of Object.entries(env ?? {})) {
    checkNoNul(name, 'the name of a variable in options.spawn.env')
    checkNoNul(String(value), `options.spawn.env.${name}`)
  }
  if (uid !== undefined) checkInteger(uid, 'options.spawn.uid', 0, MAX_ID)
  if (gid !== undefined) checkInteger(gid, 'options.spawn.gid', 0, MAX_ID)
  for (const [name, list] of Object.entries({ args, execArgv })) {
    if (list === undefined) continue
    if (foreign) throw invalid(`options.spawn.${name}`, 'undefined: a command has its arguments in itself', list)
    if (!Array.isArray(list) || list.some(part => typeof part !== 'string'))
      throw invalid(`options.spawn.${name}`, 'an array of strings', list)
    for (const [index, part] of list.entries()) checkNoNul(part, `options.spawn.${name}[${index}]`)
  }
}

function adminOf(given: unknown): AdminSpec | undefined {
  if (given === undefined) return undefined
  if (typeof given !== 'string' && (typeof given !== 'object' || given === null))
    throw invalid('options.admin', 'a path or an object with one', given)
  const admin =
    typeof given === 'string' ? { path: given } : readOptions(given as AdminSpec, ADMIN_OPTIONS, 'options.admin')
  if (typeof admin.path !== 'string' || admin.path === '') throw invalid('options.admin', 'a path', admin.path)
  checkPathText(admin.path, 'options.admin')
  if (admin.mode !== undefined) checkInteger(admin.mode, 'options.admin.mode', 0, 0o777)
  return admin
}

export function checkWorkers(workers: unknown): asserts workers is number {
  checkInteger(workers, 'workers', 1, MAX_WORKERS)
}

function limitsOf(limits: WorkerLimits): WorkerLimits {
  for (const name of ['rss', 'age', 'requests'] as const)
    if (limits[name] !== undefined) checkInteger(limits[name], `options.limits.${name}`, 1, Number.MAX_SAFE_INTEGER)
  const { jitter = 0.1 } = limits
  if (typeof jitter !== 'number' || !(jitter >= 0 && jitter <= 1))
    throw invalid('options.limits.jitter', 'a number from 0 to 1', jitter)
  return { ...limits, jitter }
}

function time(value: number | undefined, name: string, preset: number, least: number): number {
  if (value === undefined) return preset
  checkInteger(value, `options.${name}`, least, MAX_TIMEOUT)
  return value
}

/** What a program is started with ends at a NUL (execve(2)). */
function checkNoNul(text: string, what: string): void {
  if (text.includes('\0')) throw invalid(what, 'a text without NUL bytes', text)
}

function isCommand(command: unknown): boolean {
  return Array.isArray(command) && command.length > 0 && command.every(part => typeof part === 'string' && part !== '')
}
