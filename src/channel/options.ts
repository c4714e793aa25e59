/** Options of channels and servers: their defaults, their checks, and the bounds that follow from them. */

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType, describe } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { KnownOptions } from '../base/known-options.ts'
import type { Peer } from '../descriptor/peer.ts'
import { accessOf, type FileAccess } from '../os/account.ts'

export type Schema<T> = StandardSchemaV1<any, T>

export interface ChannelOptions<In = unknown> {
  /**
   * Checks incoming messages and requests, and gives `In` its type: any Standard Schema (zod, valibot, …). passfd answers a request that fails
   * with an error.
   */
  schema?: Schema<In>
  /**
   * Decides whether a process may be the peer. passfd calls it before it reads a byte or a descriptor. Default: a process of the same user, or
   * root.
   */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** Ends the attempt of `connect`, or closes the server of `listen`, with Node's AbortError. */
  signal?: AbortSignal
  /**
   * Limits connecting and the wait for the peer's hello, in ms. Default 10,000; 0: no limit. Of `pair()`: 0, because the other end may start
   * later.
   */
  handshakeTimeout?: number
  /** Limits the wait for an answer, in ms. Default 30,000; 0: no limit. */
  requestTimeout?: number
  /** Limits `close()`, in ms. Default 5,000. */
  closeTimeout?: number
  /** Limits the wait for the next byte of an incomplete frame, in ms. Default 30,000; 0: no limit. */
  frameTimeout?: number
  /** Limits a received body, in bytes. Default 2 MiB. */
  maxMessage?: number
  /** Limits the descriptors of one received message. Default and maximum 253 (the kernel's, `SCM_MAX_FD`). */
  maxDescriptors?: number
  /**
   * Limits received descriptors that the program has neither claimed nor closed, and the sum that the replies to pending requests may carry.
   * Default 1,024.
   */
  maxUnclaimed?: number
  /**
   * Limits the bytes of received messages that wait for the consumer. It is the first credit; a message that began within it may exceed it.
   * Default 4 MiB.
   */
  window?: number
  /** Limits the pending requests, in each direction. Default 1,024. */
  maxPending?: number
  /** Limits the bytes that wait to be sent. Default 64 MiB. More is ERR_PASSFD_QUEUE_FULL. */
  maxQueued?: number
  /** Limits the sent descriptors that the peer has not confirmed. Default 4,096. More is ERR_PASSFD_QUEUE_FULL. */
  maxInFlight?: number
  /** Lets `send()` resolve while fewer bytes than this wait (and fewer than half of `maxInFlight` descriptors). Default 256 KiB. */
  highWaterMark?: number
  /** Polls without sleeping for this many µs, at most 10,000, after each send and each arrival. It costs that much CPU time. Default 0: off. */
  spin?: number
  /** Uses msgpackr's record structures if the peer supports them. They also carry Map, Set, BigInt and typed arrays. Default true. */
  records?: boolean
  /**
   * Lends binary values of messages and requests of 16 KiB and more. After the message's scope passfd uses their memory again, and they have length
   * 0, unless the program has called `message.claim()`. Default false: they are the program's.
   */
  lendBuffers?: boolean
}

export const CHANNEL_OPTIONS = {
  schema: true,
  authorize: 'method',
  signal: true,
  handshakeTimeout: true,
  requestTimeout: true,
  closeTimeout: true,
  frameTimeout: true,
  maxMessage: true,
  maxDescriptors: true,
  maxUnclaimed: true,
  window: true,
  maxPending: true,
  maxQueued: true,
  maxInFlight: true,
  highWaterMark: true,
  spin: true,
  records: true,
  lendBuffers: true
} as const satisfies KnownOptions<ChannelOptions>

export interface ListenOptions<In = unknown> extends ChannelOptions<In> {
  /** Sets the permissions of the socket file, from the moment it exists. Default 0o600. */
  mode?: number
  /** Sets the user that owns the socket file: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Sets the group of the socket file: a number, or a name in /etc/group. Default: this process's. `authorize` still decides about its members. */
  group?: number | string
  /** Limits the connections that wait to be accepted (listen(2)). Default 511. */
  backlog?: number
  /**
   * Limits the open channels, handshakes included. Each gets at least one descriptor of `maxUnclaimedTotal`, half of which is reserved for that.
   * Default 1,024.
   */
  maxConnections?: number
  /** Limits the open channels of one user. Default: as many as `maxConnections`. */
  maxConnectionsPerUser?: number
  /** Limits the unclaimed descriptors of all channels together. Default: half of `RLIMIT_NOFILE`. */
  maxUnclaimedTotal?: number
}

export const LISTEN_OPTIONS = {
  ...CHANNEL_OPTIONS,
  mode: true,
  owner: true,
  group: true,
  backlog: true,
  maxConnections: true,
  maxConnectionsPerUser: true,
  maxUnclaimedTotal: true
} as const satisfies KnownOptions<ListenOptions>

/** The options of one channel with every default filled in. */
export interface Limits {
  readonly handshakeTimeout: number
  readonly requestTimeout: number
  readonly closeTimeout: number
  readonly frameTimeout: number
  readonly maxMessage: number
  readonly maxDescriptors: number
  readonly maxUnclaimed: number
  readonly window: number
  readonly descriptorCost: number
  readonly maxPending: number
  readonly maxQueued: number
  readonly maxInFlight: number
  readonly highWaterMark: number
  readonly spin: number
  readonly records: boolean
  readonly lendBuffers: boolean
  /** The most values of a received body, at every depth: for servers of passfd's own. */
  readonly maxValues?: number
}

const MAX = 0xffffffff
const MAX_TIMEOUT = 0x7fffffff
const MEBIBYTE = 1048576

type Range = readonly [fallback: number, min: number, max: number]

const RANGES = {
  handshakeTimeout: [10_000, 0, MAX_TIMEOUT],
  requestTimeout: [30_000, 0, MAX_TIMEOUT],
  closeTimeout: [5_000, 1, MAX_TIMEOUT],
  frameTimeout: [30_000, 0, MAX_TIMEOUT],
  maxMessage: [2 * MEBIBYTE, 1, MAX],
  maxDescriptors: [MAX_RIGHTS, 0, MAX_RIGHTS],
  maxUnclaimed: [1024, 1, MAX_TIMEOUT],
  window: [4 * MEBIBYTE, 1, MAX],
  maxPending: [1024, 1, MAX_TIMEOUT],
  maxQueued: [64 * MEBIBYTE, 1, Number.MAX_SAFE_INTEGER],
  maxInFlight: [4096, 1, MAX_TIMEOUT],
  highWaterMark: [262_144, 1, Number.MAX_SAFE_INTEGER],
  spin: [0, 0, 10_000]
} as const satisfies Record<string, Range>

/** Checks every option of a channel and fills in the defaults. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function channelLimits(options: ChannelOptions<any>, defaults: { handshakeTimeout?: number } = {}): Limits {
  checkObject(options)
  const numbers: Record<string, number> = {}
  for (const [name, [fallback, min, max]] of Object.entries(RANGES)) {
    const { [name as keyof ChannelOptions]: value = defaults[name as 'handshakeTimeout'] ?? fallback } = options
    checkInteger(value, `options.${name}`, min, max)
    numbers[name] = value
  }
  checkType(
    options.schema,
    'schema',
    'a Standard Schema',
    value => typeof (value as { '~standard'?: { validate?: unknown } })['~standard']?.validate === 'function'
  )
  checkType(options.authorize, 'authorize', 'a function', value => typeof value === 'function')
  checkType(options.signal, 'signal', 'an AbortSignal', isAbortSignal)
  const { records = true, lendBuffers = false } = options
  checkType(records, 'records', 'true or false', value => typeof value === 'boolean')
  checkType(lendBuffers, 'lendBuffers', 'true or false', value => typeof value === 'boolean')
  const limits = { ...numbers, records, lendBuffers } as Omit<Limits, 'descriptorCost'>
  return withUnclaimed(limits, limits.maxUnclaimed)
}

/** Limits a channel to so many unclaimed descriptors: it raises the cost of each, so that the window pays for no more. */
export function withUnclaimed(limits: Omit<Limits, 'descriptorCost'>, unclaimed: number): Limits {
  return { ...limits, descriptorCost: Math.max(1, Math.ceil(limits.window / unclaimed)) }
}

export interface ServerLimits {
  readonly access: FileAccess
  readonly backlog: number
  readonly maxConnections: number
  readonly maxConnectionsPerUser: number
  readonly maxUnclaimedTotal: number
}

export function serverLimits(options: ListenOptions<any>, descriptorLimit: number): ServerLimits {
  checkObject(options)
  const {
    mode = 0o600,
    backlog = 511,
    maxConnections = 1024,
    maxConnectionsPerUser = maxConnections,
    maxUnclaimedTotal = Math.floor(descriptorLimit / 2)
  } = options
  const limits = {
    access: accessOf(options, mode, 'options.'),
    backlog,
    maxConnections,
    maxConnectionsPerUser,
    maxUnclaimedTotal
  }
  checkInteger(mode, 'options.mode', 0, 0o777)
  for (const name of ['backlog', 'maxConnections', 'maxConnectionsPerUser', 'maxUnclaimedTotal'] as const)
    checkInteger(limits[name], `options.${name}`, 1, MAX_TIMEOUT)
  return limits
}

function checkObject(options: unknown): void {
  if (typeof options !== 'object' || options === null)
    throw new PassfdError('INVALID_ARGUMENT', { what: 'options', expected: 'an object', actual: describe(options) })
}
