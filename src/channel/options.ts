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
  /** Checks incoming messages and requests, and gives `In` its type: any Standard Schema (zod, valibot, …). A value that fails is answered with a fault. */
  schema?: Schema<In>
  /** Who may be at the other end, asked before a byte or a descriptor of it is taken. Default: a process of the same user, or root. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** `connect`: ends the attempt. `listen`: closes the server. With Node's AbortError. */
  signal?: AbortSignal
  /** For connecting, and for the peer's hello, in ms. Default 10,000; 0: no limit. `pair()`: default 0, as the other end is yet to start. */
  handshakeTimeout?: number
  /** For the answer to a request, in ms. Default 30,000; 0: no limit. */
  requestTimeout?: number
  /** For `close()`, in ms. Default 5,000. */
  closeTimeout?: number
  /** For the next byte of a frame that has begun, in ms. Default 30,000; 0: no limit. */
  frameTimeout?: number
  /** The largest body taken from the peer, in bytes. Default 2 MiB. */
  maxMessage?: number
  /** Descriptors taken in one message. Default and maximum 253 (the kernel's, `SCM_MAX_FD`). */
  maxDescriptors?: number
  /** Received descriptors that are lent and not yet claimed or closed, and the sum that replies to own requests may carry. Default 1,024. */
  maxUnclaimed?: number
  /** Bytes of messages received and not yet given to the consumer (the first credit; a message that began within it may exceed it). Default 4 MiB. */
  window?: number
  /** Requests pending, in each direction. Default 1,024. */
  maxPending?: number
  /** Bytes queued for sending. Default 64 MiB. More is ERR_PASSFD_QUEUE_FULL. */
  maxQueued?: number
  /** Descriptors sent and not yet taken by the peer. Default 4,096. More is ERR_PASSFD_QUEUE_FULL. */
  maxInFlight?: number
  /** `send()` resolves while fewer bytes than this are queued (and less than half of `maxInFlight`). Default 256 KiB. */
  highWaterMark?: number
  /** µs, at most 10,000, in which the loop looks for answers without sleeping, after a send or an arrival. It costs that much CPU. Default 0: off. */
  spin?: number
  /** Use msgpackr's record structures, and with them Map, Set, BigInt and typed arrays, if the peer knows them. Default true. */
  records?: boolean
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
  records: true
} as const satisfies KnownOptions<ChannelOptions>

export interface ListenOptions<In = unknown> extends ChannelOptions<In> {
  /** Permissions of the socket file, from its first instant. Default 0o600. */
  mode?: number
  /** The user whom the socket file belongs to: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Its group: a number, or a name in /etc/group. Default: this process's. Who may connect by it still has to pass `authorize`. */
  group?: number | string
  /** Connections that wait to be accepted (listen(2)). Default 511. */
  backlog?: number
  /** Channels at a time, those in the handshake included; each takes at least one of `maxUnclaimedTotal`, half of which is kept for that. Default 1,024. */
  maxConnections?: number
  /** Of one user. Default: as many as `maxConnections`. */
  maxConnectionsPerUser?: number
  /** Received descriptors that all channels together may hold unclaimed. Default: half of `RLIMIT_NOFILE`. */
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
  checkType(options.records, 'records', 'true or false', value => typeof value === 'boolean')
  const limits = { ...numbers, records: options.records ?? true } as Omit<Limits, 'descriptorCost'>
  return withUnclaimed(limits, limits.maxUnclaimed)
}

/** The same limits for a channel that may hold only so many unclaimed descriptors: each costs so much that the window pays for no more. */
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
