/** Options of datagram sockets: defaults and checks. */

import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType } from '../base/check.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { KnownOptions } from '../base/known-options.ts'
import { accessOf, type FileAccess } from '../os/account.ts'
import type { SocketName } from '../os/socket-name.ts'
import type { Sender } from './sender.ts'

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
  /**
   * `sender.pidfd()` gives the process that sent a datagram. The kernel makes a pidfd for each one, which counts as an open file until the
   * datagram's scope ends. Default false. Needs Linux 6.5: opening fails with ERR_PASSFD_PEER_PIDFD before.
   */
  pidfd?: boolean
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
  /** The user whom the socket file belongs to: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Its group: a number, or a name in /etc/group. Default: this process's. Who may send by it still has to pass `authorize`. */
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
