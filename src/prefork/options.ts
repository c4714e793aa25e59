/** Options of a Supervisor: their defaults and their checks. */

import type { SpawnOptions } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { asUrl } from '../base/brand.ts'
import { checkInteger, checkPathText, invalid } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { time } from '../base/timers.ts'
import { CHANNEL_OPTIONS, type ChannelOptions, channelLimits } from '../channel/options.ts'
import type { BindSpec } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { type ListenerSpec, readListeners } from '../serving/specs.ts'
import { type TakeOverSettings, type TakeoverPath, settingsOf as takeOverSettings } from '../takeover/options.ts'
import { type Balance, balanceOf } from './balance.ts'
import { type RestartPolicy, restartPolicy } from './launch/restart.ts'

export interface WorkerLimits {
  /** Limits the resident memory, in bytes. */
  rss?: number
  /** Limits the time since its start, in ms. */
  age?: number
  /** Limits the requests of servers that were given to `worker.listen()`; for servers other than HTTP the connections. */
  requests?: number
  /** Lowers each worker's limits by a random part up to this, so that not all are replaced at once. 0 to 1, default 0.1. */
  jitter?: number
}

export interface SpawnSettings extends Pick<SpawnOptions, 'cwd' | 'env' | 'uid' | 'gid'> {
  /** Arguments of `entry`. A `command` has its own arguments. */
  args?: string[]
  /** Arguments of Node itself. Default: those of this process. */
  execArgv?: string[]
  /**
   * True: when a worker's own process has ended, the supervisor does not signal the other processes of its session (setsid(2)). Default: it
   * sends them TERM, and KILL after `killTimeout`. After a requested stop they first have the rest of `stopTimeout`.
   */
  leaveGroup?: boolean
  /**
   * Where the workers' stdout and stderr go. `'inherit'` (the default): where those of this process go. `'ignore'`: to /dev/null. `'lines'`: to the
   * supervisor by pipes. It emits them as the event 'line', and drops them if that has no listener.
   */
  stdio?: 'inherit' | 'ignore' | 'lines'
}

/** A socket file with its mode and owner. `mode`: default 0o600. `owner`, `group`: numbers, or names in /etc/passwd and /etc/group. */
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
  /**
   * A Node program that knows nothing of passfd, with its command: `['node', 'server.js']`, `['npm', 'start']`. When it calls `listen()` it
   * gets a listener of the supervisor, which opens one at the first such call. passfd is loaded into the program by NODE_OPTIONS. The worker is
   * the first process of the command that listens: see docs/serve.md.
   */
  program?: readonly [string, ...string[]]
  /**
   * With `program`: the worker is ready when it listens and has called `process.send('ready')`, or has sent READY=1 to NOTIFY_SOCKET (sd_notify(3)).
   * Default: when it listens for the first time.
   */
  waitReady?: boolean
  /**
   * Names the listeners. A name has 1 to 255 printable ASCII characters without a colon. The Supervisor takes over a Descriptor. With `program`
   * there may be none.
   */
  listeners: Record<string, BindSpec>
  /** The number of workers. Default: one for each processor (`os.availableParallelism()`). */
  workers?: number
  /** Chooses how connections are distributed to workers. Default `'per-worker'`; with `command` `'shared'`, and no dispatch. */
  balance?: Balance
  /** Settings for starting workers. */
  spawn?: SpawnSettings
  /** Limits the time until a worker is ready, in ms. Then the supervisor kills it. Default 30,000; 0: no limit. */
  readyTimeout?: number
  /**
   * Sets how long the workers serve as before after the supervisor was told to stop, in ms. `stopTimeout` starts after it. Load balancers need
   * that time to notice the stop. Default 0.
   */
  lameDuck?: number
  /** Limits the time in which a stopping worker finishes its requests, in ms. Then the supervisor sends TERM. Default 30,000. */
  stopTimeout?: number
  /** Sets the time from TERM to KILL, in ms. Default 5,000. */
  killTimeout?: number
  /** Sets how long a stopping worker keeps an idle keep-alive connection open after its last request, in ms. Default 1,000. */
  idleGrace?: number
  /**
   * Whether a stopping worker passes idle keep-alive connections (HTTP/1 without TLS) on to other workers, so that their clients notice nothing. For
   * these the connection is new: what the program has noted on a socket stays behind. false: it closes them after `idleGrace`.
   * Default true.
   */
  passIdle?: boolean
  /** Limits the time in which a worker gives its state to its replacement (`worker.handOver()`), in ms. Default 5,000. */
  handOverTimeout?: number
  /** Sets how often a worker reports its state, in ms; at least twice in `hangTimeout`. Default 1,000. */
  heartbeat?: number
  /** Limits the time without a report, in ms. Then the supervisor kills and replaces the worker. Default 10,000; 0: no limit. */
  hangTimeout?: number
  /** Decides when a dead worker is replaced: see `restartPolicy()`, the default. */
  restart?: RestartPolicy
  /** Replaces a worker that exceeds one of these limits, after its successor is ready. Default: none. */
  limits?: WorkerLimits
  /** Options of `worker.channel` on the supervisor's side. */
  channel?: ChannelOptions
  /**
   * Opens an admin channel at a path, optionally with `mode`, `owner` and `group` of the socket file. It lets in processes of the same user and
   * root, of `owner`, and those in `group`. Default: there is none.
   */
  admin?: string | AdminSpec
  /**
   * Lets a newly started supervisor replace this one, and this one replace the one that serves at the path: see docs/takeover.md. All listeners
   * move, with what waits in them, and the admin path. A stop removes the socket files at which nobody listens any more. Default: none.
   */
  takeover?: string | SupervisorTakeover
}

/** How a supervisor replaces another one, and is replaced. Times in ms. */
export interface SupervisorTakeover extends TakeoverPath {
  /** Names of the predecessor's listeners that are to be closed: see `takeOver()`. */
  drop?: readonly string[]
  /** Decides whether a process may be the other side. Default: a process of the same user, or root. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** Whether a candidate whose turn it is not waits (the default) or is refused with ERR_PASSFD_TAKEOVER_BUSY. */
  busy?: 'wait' | 'refuse'
  /** Limits the wait for the predecessor's offer. Default 60,000. */
  turnTimeout?: number
  /** As the old supervisor: limits the time from the offer to the commit, in which the new one's workers start. Default 120,000. */
  attemptTimeout?: number
  /** How long a predecessor whose channel has ended may take to die. Default 2,000. */
  graceTimeout?: number
  /** `process.exitCode` after `run()` of a supervisor that was superseded and has drained, 0 to 255, unless the program has set it. Default 0. */
  supersededStatus?: number
}

const SUPERVISOR_OPTIONS = {
  entry: true,
  command: true,
  program: true,
  waitReady: true,
  listeners: true,
  workers: true,
  balance: true,
  spawn: true,
  readyTimeout: true,
  lameDuck: true,
  stopTimeout: true,
  killTimeout: true,
  idleGrace: true,
  passIdle: true,
  handOverTimeout: true,
  heartbeat: true,
  hangTimeout: true,
  restart: true,
  limits: true,
  channel: true,
  admin: true,
  takeover: true
} as const satisfies KnownOptions<SupervisorOptions>
const TAKEOVER_OPTIONS = {
  path: true,
  mode: true,
  owner: true,
  group: true,
  drop: true,
  authorize: 'method',
  busy: true,
  turnTimeout: true,
  attemptTimeout: true,
  graceTimeout: true,
  supersededStatus: true
} as const satisfies KnownOptions<SupervisorTakeover>
const SPAWN_OPTIONS = {
  cwd: true,
  env: true,
  uid: true,
  gid: true,
  args: true,
  execArgv: true,
  leaveGroup: true,
  stdio: true
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
  readonly program: readonly [string, ...string[]] | undefined
  readonly waitReady: boolean
  readonly listeners: ReadonlyMap<string, ListenerSpec>
  readonly workers: number
  readonly balance: Balance
  readonly spawn: SpawnSettings
  readonly readyTimeout: number
  readonly lameDuck: number
  readonly stopTimeout: number
  readonly killTimeout: number
  readonly idleGrace: number
  readonly passIdle: boolean
  readonly handOverTimeout: number
  readonly heartbeat: number
  readonly hangTimeout: number
  readonly restart: RestartPolicy
  readonly limits: WorkerLimits
  readonly channel: ChannelOptions
  readonly admin: AdminSpec | undefined
  readonly takeover: TakeOverSettings | undefined
}

export const MAX_WORKERS = 1024
const STDIO: readonly unknown[] = ['inherit', 'ignore', 'lines']
/** The highest user (credentials(7)); the one above means none. */
const MAX_ID = 0xfffffffe

/** Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function settingsOf(given: SupervisorOptions): Settings {
  const options = readOptions(given, SUPERVISOR_OPTIONS)
  const { command, program, waitReady = false, passIdle = true, listeners, admin, restart = restartPolicy() } = options
  const entry = asUrl(options.entry) ?? options.entry
  const spawn = readOptions(options.spawn === undefined ? {} : options.spawn, SPAWN_OPTIONS, 'options.spawn')
  if (spawn.cwd !== undefined) spawn.cwd = asUrl(spawn.cwd) ?? spawn.cwd
  const channel = readOptions(options.channel === undefined ? {} : options.channel, CHANNEL_OPTIONS, 'options.channel')
  const limits = readOptions(options.limits === undefined ? {} : options.limits, LIMIT_OPTIONS, 'options.limits')
  const kinds = Object.entries({ entry, command, program }).filter(([, value]) => value !== undefined)
  if (kinds.length !== 1)
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'options',
      expected: 'an object with one of entry, command and program',
      actual: `one with ${kinds.map(([name]) => name).join(' and ') || 'none'}`
    })
  if (entry !== undefined && typeof entry !== 'string' && !(entry instanceof URL))
    throw invalid('options.entry', 'a path or a URL', entry)
  if (command !== undefined && !isCommand(command))
    throw invalid('options.command', 'an array of strings, the program first', command)
  if (typeof entry === 'string') checkPathText(entry, 'options.entry')
  if (program !== undefined && !isCommand(program))
    throw invalid('options.program', 'an array of strings, the command first', program)
  for (const [index, part] of (command ?? []).entries()) checkNoNul(part, `options.command[${index}]`)
  for (const [index, part] of (program ?? []).entries()) checkNoNul(part, `options.program[${index}]`)
  if (typeof waitReady !== 'boolean') throw invalid('options.waitReady', 'true or false', waitReady)
  if (typeof passIdle !== 'boolean') throw invalid('options.passIdle', 'true or false', passIdle)
  if (waitReady && program === undefined)
    throw invalid('options.waitReady', 'undefined: only a program has it', waitReady)
  if (typeof restart !== 'function') throw invalid('options.restart', 'a function', restart)
  checkSpawn(spawn, entry === undefined)
  channelLimits(channel)
  const { workers = availableParallelism() } = options
  checkWorkers(workers)
  const heartbeat = time(options.heartbeat, 'options.heartbeat', 1000, 10)
  const hangTimeout = time(options.hangTimeout, 'options.hangTimeout', 10_000, 0)
  return {
    entry,
    command,
    program,
    waitReady,
    listeners: readListeners(listeners, 'options.listeners', program === undefined ? 1 : 0),
    workers,
    balance: balanceOf(options.balance, command !== undefined),
    spawn,
    readyTimeout: time(options.readyTimeout, 'options.readyTimeout', 30_000, 0),
    lameDuck: time(options.lameDuck, 'options.lameDuck', 0, 0),
    stopTimeout: time(options.stopTimeout, 'options.stopTimeout', 30_000, 1),
    killTimeout: time(options.killTimeout, 'options.killTimeout', 5000, 1),
    idleGrace: time(options.idleGrace, 'options.idleGrace', 1000, 0),
    passIdle,
    handOverTimeout: time(options.handOverTimeout, 'options.handOverTimeout', 5000, 1),
    // A worker whose heartbeat is late does not hang yet
    heartbeat: hangTimeout === 0 ? heartbeat : Math.min(heartbeat, Math.max(10, Math.floor(hangTimeout / 2))),
    hangTimeout,
    restart,
    limits: limitsOf(limits),
    channel,
    admin: adminOf(admin),
    takeover: takeoverOf(options.takeover)
  }
}

/** Checks it once, because Node would report it at each start of each worker. */
function checkSpawn(spawn: SpawnSettings, foreign: boolean): void {
  const { cwd, env, uid, gid, args, execArgv, leaveGroup, stdio } = spawn
  if (cwd !== undefined && typeof cwd !== 'string' && !(cwd instanceof URL))
    throw invalid('options.spawn.cwd', 'a path or a URL', cwd)
  if (typeof cwd === 'string') checkPathText(cwd, 'options.spawn.cwd')
  if (env !== undefined && (typeof env !== 'object' || env === null))
    throw invalid('options.spawn.env', 'an object', env)
  if (leaveGroup !== undefined && typeof leaveGroup !== 'boolean')
    throw invalid('options.spawn.leaveGroup', 'true or false', leaveGroup)
  if (stdio !== undefined && !STDIO.includes(stdio))
    throw invalid('options.spawn.stdio', "'inherit', 'ignore' or 'lines'", stdio)
  for (const [name, value] of Object.entries(env ?? {})) {
    checkNoNul(name, 'the name of a variable in options.spawn.env')
    checkNoNul(String(value), `options.spawn.env.${name}`)
  }
  if (uid !== undefined) checkInteger(uid, 'options.spawn.uid', 0, MAX_ID)
  if (gid !== undefined) checkInteger(gid, 'options.spawn.gid', 0, MAX_ID)
  for (const [name, list] of Object.entries({ args, execArgv })) {
    if (list === undefined) continue
    if (foreign)
      throw invalid(`options.spawn.${name}`, 'undefined: a command or program has its arguments in itself', list)
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

/** Checks them as `takeOver()` does, without the options that a supervisor has itself. */
function takeoverOf(given: unknown): TakeOverSettings | undefined {
  if (given === undefined) return undefined
  if (typeof given !== 'string' && (typeof given !== 'object' || given === null))
    throw invalid('options.takeover', 'a path or an object with one', given)
  if (typeof given === 'string') return takeOverSettings({ path: given }, 'options.takeover')
  const { path, mode, owner, group, ...rest } = readOptions(
    given as SupervisorTakeover,
    TAKEOVER_OPTIONS,
    'options.takeover'
  )
  const place = Object.fromEntries(
    Object.entries({ path, mode, owner, group }).filter(([, value]) => value !== undefined)
  )
  return takeOverSettings({ ...rest, path: place as unknown as TakeoverPath }, 'options.takeover', 'options.takeover')
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

/** Refuses a NUL, at which an argument or variable of a program would end (execve(2)). */
function checkNoNul(text: string, what: string): void {
  if (text.includes('\0')) throw invalid(what, 'a text without NUL bytes', text)
}

function isCommand(command: unknown): boolean {
  // An argument may be empty
  return (
    Array.isArray(command) && command.every(part => typeof part === 'string') && command.length > 0 && command[0] !== ''
  )
}
