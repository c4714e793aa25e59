/** Options of datagram sockets: defaults and checks. */

import type { SocketName } from './address.ts'
import { isAbortSignal } from './brand.ts'
import { checkInteger } from './convert.ts'
import type { Sender } from './datagram-receive.ts'
import type { KnownOptions } from './known-options.ts'
import { MAX_RIGHTS } from './limits.ts'
import { checkType } from './options.ts'

/** What bounds the queue of datagrams that can't leave yet. */
export interface QueueOptions {
  /** Bytes queued for one destination, 256 more for each datagram. Default 1 MiB. More is ERR_PASSFD_QUEUE_FULL. */
  maxQueued?: number
  /** The same for all destinations together. Default 16 MiB. */
  maxQueuedTotal?: number
  /** Descriptors queued, for all destinations together. Default 1,024. */
  maxQueuedDescriptors?: number
}

export interface DatagramOptions extends QueueOptions {
  /** Whose datagrams are taken; asked for each one, must answer at once. Default: a process of the same user, or root. */
  authorize?(sender: Sender | undefined, from: SocketName | undefined): boolean
  /** The longest datagram taken, in bytes. Default 2 MiB; the kernel's own limit is the sender's send buffer. */
  maxMessage?: number
  /** Descriptors taken with one datagram. Default and maximum 253 (the kernel's, `SCM_MAX_FD`). 0 lets the kernel refuse them to the sender (Linux >= 6.16). */
  maxDescriptors?: number
  /** Received descriptors that are not claimed and still being closed (close(2) may block): with more, reading pauses. Default 1,024. */
  maxUnclaimed?: number
  /** For what is queued at `close()`, in ms. Default 5,000. */
  closeTimeout?: number
  /** Closes the socket, or ends the attempt, with Node's AbortError. */
  signal?: AbortSignal
}

export interface BindOptions extends DatagramOptions {
  /** Permissions of the socket file, from its first instant. Default 0o600. */
  mode?: number
}

export const QUEUE_OPTIONS = {
  maxQueued: true,
  maxQueuedTotal: true,
  maxQueuedDescriptors: true
} as const satisfies KnownOptions<QueueOptions>
export const DATAGRAM_OPTIONS = {
  ...QUEUE_OPTIONS,
  authorize: 'method',
  maxMessage: true,
  maxDescriptors: true,
  maxUnclaimed: true,
  closeTimeout: true,
  signal: true
} as const satisfies KnownOptions<DatagramOptions>
export const BIND_OPTIONS = { ...DATAGRAM_OPTIONS, mode: true } as const satisfies KnownOptions<BindOptions>

export interface QueueLimits {
  readonly maxQueued: number
  readonly maxQueuedTotal: number
  readonly maxQueuedDescriptors: number
}

export interface DatagramLimits extends QueueLimits {
  readonly maxMessage: number
  readonly maxDescriptors: number
  readonly maxUnclaimed: number
  readonly closeTimeout: number
  readonly mode: number
}

const MEBIBYTE = 1048576
const MAX = 0x7fffffff

const QUEUE = {
  maxQueued: [MEBIBYTE, 1, MAX],
  maxQueuedTotal: [16 * MEBIBYTE, 1, MAX],
  maxQueuedDescriptors: [1024, 0, MAX]
} as const
const RANGES = {
  ...QUEUE,
  maxMessage: [2 * MEBIBYTE, 0, MAX],
  maxDescriptors: [MAX_RIGHTS, 0, MAX_RIGHTS],
  maxUnclaimed: [1024, 1, MAX],
  closeTimeout: [5000, 1, MAX],
  mode: [0o600, 0, 0o777]
} as const

type Ranges = Record<string, readonly [fallback: number, min: number, max: number]>

/** Checks the options and fills in the defaults. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function datagramLimits(options: BindOptions): DatagramLimits {
  const limits = numbers(options, RANGES) as unknown as DatagramLimits
  checkType(options.authorize, 'authorize', 'a function', value => typeof value === 'function')
  checkSignal(options.signal)
  return limits
}

export function queueLimits(options: QueueOptions): QueueLimits {
  return numbers(options, QUEUE) as unknown as QueueLimits
}

export function checkSignal(signal: unknown): void {
  checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
}

function numbers(options: object, ranges: Ranges): Record<string, number> {
  const found: Record<string, number> = {}
  for (const [name, [fallback, min, max]] of Object.entries(ranges)) {
    const { [name]: value = fallback } = options as Record<string, number | undefined>
    checkInteger(value, `options.${name}`, min, max)
    found[name] = value
  }
  return found
}
