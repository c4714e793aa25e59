/** Options of datagram sockets: defaults and checks. */

import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType } from '../base/check.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { KnownOptions } from '../base/known-options.ts'
import { accessOf, type FileAccess } from '../os/account.ts'
import type { SocketName } from '../os/socket-name.ts'
import type { Sender } from './sender.ts'

/** Limits of the datagrams that wait to be sent. */
export interface QueueOptions {
  /** Limits the bytes that wait for one destination; each datagram counts 256 more. Default 1 MiB. More is ERR_PASSFD_QUEUE_FULL. */
  maxQueued?: number
  /** Limits the bytes that wait for all destinations together. Default 16 MiB. */
  maxQueuedTotal?: number
  /** Limits the descriptors that wait, for all destinations together. Default 1,024. */
  maxQueuedDescriptors?: number
}

export interface DatagramOptions extends QueueOptions {
  /**
   * Decides whether to accept a datagram. passfd calls it for each one, and it must answer at once. Default: accept those of the same user and
   * of root.
   */
  authorize?(sender: Sender | undefined, from: SocketName | undefined): boolean
  /** Limits a received datagram, in bytes. Default 2 MiB; the kernel's own limit is the sender's send buffer. */
  maxMessage?: number
  /**
   * Limits the descriptors of one received datagram. Default and maximum 253 (the kernel's, `SCM_MAX_FD`). With 0 the kernel refuses descriptors
   * at the sender (Linux >= 6.16).
   */
  maxDescriptors?: number
  /**
   * Lets `sender.pidfd()` return the process that sent a datagram. The kernel makes a pidfd for each datagram, which counts as an open file
   * until the datagram's scope ends. Default false. Needs Linux 6.5: on an older kernel opening the socket fails with ERR_PASSFD_PEER_PIDFD.
   */
  pidfd?: boolean
  /** Limits the unclaimed descriptors that passfd is closing (close(2) may block). Beyond the limit reading pauses. Default 1,024. */
  maxUnclaimed?: number
  /** Limits the time for queued datagrams at `close()`, in ms. Default 5,000. */
  closeTimeout?: number
  /** Closes the socket, or ends the attempt, with Node's AbortError. */
  signal?: AbortSignal
}

export interface BindOptions extends DatagramOptions {
  /** Sets the permissions of the socket file, from the moment it exists. Default 0o600. */
  mode?: number
  /** Sets the user that owns the socket file: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Sets the group of the socket file: a number, or a name in /etc/group. Default: this process's. `authorize` still decides about its members. */
  group?: number | string
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
  pidfd: true,
  maxUnclaimed: true,
  closeTimeout: true,
  signal: true
} as const satisfies KnownOptions<DatagramOptions>
export const BIND_OPTIONS = {
  ...DATAGRAM_OPTIONS,
  mode: true,
  owner: true,
  group: true
} as const satisfies KnownOptions<BindOptions>

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
  readonly pidfd: boolean
  /** Of the socket file. */
  readonly access: FileAccess
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
  closeTimeout: [5000, 1, MAX]
} as const

type Ranges = Record<string, readonly [fallback: number, min: number, max: number]>

/** Checks the options and fills in the defaults. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function datagramLimits(options: BindOptions): DatagramLimits {
  const limits = numbers(options, RANGES) as unknown as Omit<DatagramLimits, 'pidfd' | 'access'>
  const { mode = 0o600, pidfd = false } = options
  checkInteger(mode, 'options.mode', 0, 0o777)
  checkType(pidfd, 'pidfd', 'true or false', value => typeof value === 'boolean')
  checkType(options.authorize, 'authorize', 'a function', value => typeof value === 'function')
  checkSignal(options.signal)
  return { ...limits, pidfd, access: accessOf(options, mode, 'options.') }
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
