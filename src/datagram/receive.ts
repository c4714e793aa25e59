/** One datagram out of the kernel, with all that came with it. */

import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import {
  CREDENTIALS,
  CUT,
  MESSAGE_FIRST,
  MESSAGE_GID,
  MESSAGE_NAME,
  MESSAGE_PID,
  MESSAGE_PIDFD,
  MESSAGE_UID,
  native,
  PIDFD,
  RESULT_BYTES,
  RESULT_DESCRIPTORS,
  RESULT_FLAGS,
  TRUNCATED
} from '../os/native.ts'
import type { SocketName } from '../os/socket-name.ts'
import { addressOf } from './address.ts'
import { PinnedSender, type Sender, senderOf } from './sender.ts'

export interface Received {
  /** All of it, unless `cut`. */
  readonly data: Buffer
  /** How many bytes it had. */
  readonly size: number
  readonly from: SocketName | undefined
  /** Undefined if the kernel does not know it: the datagram came before the socket asked for credentials. */
  readonly sender: Sender | undefined
  /** The sender's process, which the holder of this object ends. Null: the kernel gave none. Undefined: the socket did not ask. */
  readonly pin: PinnedSender | null | undefined
  /** The shim holds the numbers, and the caller owns them. */
  readonly fds: number[]
  /** It was longer than it might be, and the rest is gone. */
  readonly cut: boolean
  /** The kernel dropped some of its descriptors. */
  readonly truncated: boolean
}

const results = new Int32Array(MESSAGE_FIRST + 2 * MAX_RIGHTS)
const name = Buffer.allocUnsafeSlow(108)
const NOTHING = Buffer.alloc(0)
/** In bytes: the default of `maxMessage`. The kernel gives memory only to the part that a datagram has reached. */
const SCRATCH = 2_097_152
/** A larger datagram gets the scratch buffer itself, so that a thread keeps no more memory than this for it. In bytes. */
const COPIED = 262_144
let scratch: Buffer | undefined
/** What the kernel says of a user that it can't name (/proc/sys/kernel/overflowuid). */
const NOBODY = 65534

/**
 * Receives the first datagram of the socket's queue. Returns -errno if there is none (EAGAIN). passfd cuts a datagram only if it is longer
 * than `limit` bytes, or longer than SCRATCH while another process reads the same socket. `wantsPidfd`: the caller gets the sender's pidfd,
 * if the socket asks the kernel for it.
 */
export function receiveDatagram(fd: number, limit: number, wantsPidfd = false): Received | number {
  // Only a limit beyond the scratch buffer needs the size of the datagram that is there. FIONREAD answers 0 for an empty queue, too, and what came
  // after it would be cut
  const next = limit > SCRATCH ? native.nextSize(fd) : 0
  if (next < 0) return next
  // Another reader may receive that datagram first, so that a longer one is received here: the scratch buffer has room for it
  const large = next > SCRATCH && next <= limit
  scratch ??= Buffer.allocUnsafeSlow(SCRATCH)
  const buffer = large ? Buffer.allocUnsafe(next) : scratch
  const length = native.receiveMessage(
    fd,
    buffer,
    0,
    large ? next : Math.min(limit, SCRATCH),
    results,
    name,
    wantsPidfd
  )
  if (length < 0) return length
  const flags = results[RESULT_FLAGS]!
  const pin = wantsPidfd ? pinned(flags) : undefined
  return {
    data: large ? buffer.subarray(0, length) : takeOut(buffer, length),
    size: results[RESULT_BYTES]!,
    from: addressOf(name, results[MESSAGE_NAME]),
    sender: flags & CREDENTIALS ? knownSender(pin) : undefined,
    pin,
    fds: numbers(results[RESULT_DESCRIPTORS]!),
    cut: (flags & CUT) !== 0,
    truncated: (flags & TRUNCATED) !== 0
  }
}

/** The first bytes of the scratch buffer. They are the caller's. */
function takeOut(buffer: Buffer, length: number): Buffer {
  if (length === 0) return NOTHING
  const bytes = buffer.subarray(0, length)
  if (length <= COPIED) return Buffer.from(bytes)
  scratch = undefined
  return bytes
}

function numbers(count: number): number[] {
  return count === 0 ? [] : Array.from(results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + count))
}

function pinned(flags: number): PinnedSender | null {
  return flags & PIDFD ? new PinnedSender(results[MESSAGE_PIDFD]!) : null
}

function knownSender(pin: PinnedSender | null | undefined): Sender | undefined {
  const pid = results[MESSAGE_PID]!
  const uid = results[MESSAGE_UID]! >>> 0
  return pid === 0 && uid === NOBODY ? undefined : senderOf(pid, uid, results[MESSAGE_GID]! >>> 0, pin)
}
