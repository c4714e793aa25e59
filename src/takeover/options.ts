/** Options of `takeOver()`: their defaults and their checks. */
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkOneOf, checkPathText, checkType, invalid } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { time } from '../base/timers.ts'
import type { BindSpec } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { accessOf, type FileAccess } from '../os/account.ts'
import { type ListenerSpec, readListeners } from '../serving/specs.ts'

/** The socket file at which the owner answers. `mode`: default 0o600. `owner`, `group`: numbers, or names in /etc/passwd and /etc/group. */
export interface TakeoverPath {
  path: string
  mode?: number
  owner?: number | string
  group?: number | string
}

export interface TakeOverOptions {
  /** The path by which the processes of one service find each other, on a local file system. The directory must be theirs alone to write to. */
  path: string | TakeoverPath
  /**
   * The listeners by name. A listener of the predecessor with the same name and address is the predecessor's socket, with the clients in its queue; all
   * others are bound. A Descriptor is moved in, and offered to successors. A name has 1 to 255 printable ASCII characters without a colon. Absent:
   * all that the predecessor has; see `seat.bind()`.
   */
  listeners?: Record<string, BindSpec>
  /** Names of the predecessor's listeners that are to be closed. One that is neither listed nor dropped is an error: ERR_PASSFD_TAKEOVER_LISTENERS. */
  drop?: readonly string[]
  /**
   * Decides whether a process may be the other side, as its candidate or as its owner. The other side gets the listeners and the state. It replaces
   * the default: a process of the same user, or root. A program that drops its user before `ready()` needs it, for both users.
   */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** Ends the wait for the predecessor, with Node's AbortError. */
  signal?: AbortSignal
  /** As the owner: whether a candidate whose turn it is not waits (the default) or is refused with ERR_PASSFD_TAKEOVER_BUSY. At most 16 wait. */
  busy?: 'wait' | 'refuse'
  /** As a candidate: limits the wait for the offer, in ms, from the connect or from the owner's last word that it has to wait. Default 60,000. */
  turnTimeout?: number
  /** As a candidate: limits `inherit()`, in ms. Default 10,000. */
  inheritTimeout?: number
  /** As a candidate: how long a predecessor whose channel has ended may take to die, in ms. Default 2,000. */
  graceTimeout?: number
  /** As the owner: limits the time from the offer to the commit, in ms. It covers the boot of the successor. Default 120,000. */
  attemptTimeout?: number
  /**
   * As the owner: limits the time from the call of `freeze` to the commit, in ms. Nobody accepts in it. Default 5,000. Then the owner accepts again and
   * calls `thaw`, and the successor's `ready()` rejects with ERR_PASSFD_TAKEOVER_TOO_LATE.
   */
  freezeTimeout?: number
  /** Sets how long it serves as before after `stop()`, TERM or INT, in ms. Not when it is superseded. Default 0. */
  lameDuck?: number
  /** Limits the time in which it finishes its requests at its end, in ms. Then it destroys what is left, and ends with status 1. Default 0: no limit. */
  stopTimeout?: number
  /** Limits the time after `stopTimeout` in which `onStop` handlers may go on, in ms. Default 5,000. */
  killTimeout?: number
  /** Sets how long an idle keep-alive connection stays open after its last request at the end, in ms. Default 1,000. */
  idleGrace?: number
  /**
   * Whether it passes idle keep-alive connections (HTTP/1 without TLS) on to its successor, so that their clients notice nothing. For the successor
   * these are new: what the program has noted on a socket stays behind. false: it closes them after `idleGrace`. Default true.
   */
  passIdle?: boolean
  /** Lets TERM and INT stop it gracefully; a second one closes the remaining connections. Default true. */
  signals?: boolean
  /** False: the process does not end by itself when nothing is left to do: see `seat.ended`. Default true. */
  exit?: boolean
  /** Sets the exit status of a superseded process, 0 to 255, also after a failure, so that a service manager does not start it again. Default 0. */
  supersededStatus?: number
}

const TAKEOVER_OPTIONS = {
  path: true,
  listeners: true,
  drop: true,
  authorize: 'method',
  signal: true,
  busy: true,
  turnTimeout: true,
  inheritTimeout: true,
  graceTimeout: true,
  attemptTimeout: true,
  freezeTimeout: true,
  lameDuck: true,
  stopTimeout: true,
  killTimeout: true,
  idleGrace: true,
  passIdle: true,
  signals: true,
  exit: true,
  supersededStatus: true
} as const satisfies KnownOptions<TakeOverOptions>
const PATH_OPTIONS = { path: true, mode: true, owner: true, group: true } as const satisfies KnownOptions<TakeoverPath>

/** What a place at a takeover path needs. Times in ms. */
export interface PlaceSettings {
  readonly path: string
  readonly access: FileAccess
  readonly authorize: ((peer: Peer) => boolean | Promise<boolean>) | undefined
  readonly busy: 'wait' | 'refuse'
  readonly turnTimeout: number
  readonly inheritTimeout: number
  readonly graceTimeout: number
  readonly attemptTimeout: number
  readonly freezeTimeout: number
}

/** Options, checked and complete. */
export interface TakeOverSettings extends PlaceSettings {
  readonly listeners: ReadonlyMap<string, ListenerSpec> | undefined
  readonly drop: readonly string[]
  readonly signal: AbortSignal | undefined
  readonly lameDuck: number
  readonly stopTimeout: number
  readonly killTimeout: number
  readonly idleGrace: number
  readonly passIdle: boolean
  readonly signals: boolean
  readonly exit: boolean
  readonly supersededStatus: number
}

/** Checks the options, and moves no Descriptor. Throws ERR_PASSFD_INVALID_ARGUMENT. `what` names the options in errors, `place` those of the path. */
export function settingsOf(given: TakeOverOptions, what = 'options', place = `${what}.path`): TakeOverSettings {
  const options = readOptions(given, TAKEOVER_OPTIONS)
  const { drop = [], authorize, signal, busy = 'wait', supersededStatus = 0 } = options
  const { passIdle = true, signals = true, exit = true } = options
  const at = pathOf(options.path, what, place)
  if (!Array.isArray(drop) || drop.some(name => typeof name !== 'string'))
    throw invalid(`${what}.drop`, 'an array of names', drop)
  if (authorize !== undefined && typeof authorize !== 'function')
    throw invalid(`${what}.authorize`, 'a function', authorize)
  if (signal !== undefined && !isAbortSignal(signal)) throw invalid(`${what}.signal`, 'an AbortSignal', signal)
  checkOneOf(busy, `${what}.busy`, ['wait', 'refuse'])
  for (const [name, value] of Object.entries({ passIdle, signals, exit }))
    checkType(value, name, 'true or false', one => typeof one === 'boolean')
  checkInteger(supersededStatus, `${what}.supersededStatus`, 0, 255)
  return {
    path: at.path,
    access: accessOf(at, at.mode ?? 0o600, `${place}.`),
    listeners: options.listeners === undefined ? undefined : readListeners(options.listeners, 'options.listeners'),
    drop,
    authorize,
    signal,
    busy,
    turnTimeout: time(options.turnTimeout, `${what}.turnTimeout`, 60_000, 1),
    inheritTimeout: time(options.inheritTimeout, `${what}.inheritTimeout`, 10_000, 1),
    graceTimeout: time(options.graceTimeout, `${what}.graceTimeout`, 2000, 1),
    attemptTimeout: time(options.attemptTimeout, `${what}.attemptTimeout`, 120_000, 1),
    freezeTimeout: time(options.freezeTimeout, `${what}.freezeTimeout`, 5000, 1),
    lameDuck: time(options.lameDuck, `${what}.lameDuck`, 0, 0),
    stopTimeout: time(options.stopTimeout, `${what}.stopTimeout`, 0, 0),
    killTimeout: time(options.killTimeout, `${what}.killTimeout`, 5000, 1),
    idleGrace: time(options.idleGrace, `${what}.idleGrace`, 1000, 0),
    passIdle,
    signals,
    exit,
    supersededStatus
  }
}

function pathOf(given: unknown, what: string, place: string): TakeoverPath {
  if (typeof given !== 'string' && (typeof given !== 'object' || given === null))
    throw invalid(`${what}.path`, 'a path or an object with one', given)
  const at = typeof given === 'string' ? { path: given } : readOptions(given as TakeoverPath, PATH_OPTIONS, place)
  if (typeof at.path !== 'string' || at.path === '') throw invalid(`${what}.path`, 'a path', at.path)
  checkPathText(at.path, `${what}.path`)
  if (at.mode !== undefined) checkInteger(at.mode, `${place}.mode`, 0, 0o777)
  return at
}
