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
  /** Undefined if the kernel does not know: it came before we asked for credentials. */
  readonly sender: Sender | undefined
  /** The sender's process: whoever has this ends it. Null: the kernel told of none. Undefined: nobody asked. */
  readonly pin: PinnedSender | null | undefined
  /** Held by the shim, the caller's. */
  readonly fds: number[]
  /** It was longer than it might be, and the rest is gone. */
  readonly cut: boolean
  /** The kernel dropped some of its descriptors. */
  readonly truncated: boolean
}

const results = new Int32Array(MESSAGE_FIRST + 2 * MAX_RIGHTS)
const name = Buffer.allocUnsafeSlow(108)
const NOTHING = Buffer.alloc(0)
/** What the kernel says of a user that it can't name (/proc/sys/kernel/overflowuid). */
const NOBODY = 65534

/**
 * Returns -errno if there is none (EAGAIN). The buffer is made for it: FIONREAD tells the size of the first one (unix(7)). If that is
 * over `limit` bytes, or another reader of the same socket was faster and the next one is longer, it is `cut`. `wantsPidfd`: that of the
 * sender is kept, if the socket asks for it.
 */
export function receiveDatagram(fd: number, limit: number, wantsPidfd = false): Received | number {
  const pending = native.pending(fd)
  if (pending < 0) return pending
  const room = pending > limit ? 0 : pending
  const data = room === 0 ? NOTHING : Buffer.allocUnsafe(room)
  const length = native.receiveMessage(fd, data, 0, room, results, name, wantsPidfd)
  if (length < 0) return length
  const flags = results[RESULT_FLAGS]!
  const pin = wantsPidfd ? pinned(flags) : undefined
  return {
    data: length === room ? data : data.subarray(0, length),
    size: Math.max(pending, length),
    from: addressOf(name.subarray(0, results[MESSAGE_NAME])),
    sender: flags & CREDENTIALS ? knownSender(pin) : undefined,
    pin,
    fds: Array.from(results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + results[RESULT_DESCRIPTORS]!)),
    cut: (flags & CUT) !== 0,
    truncated: (flags & TRUNCATED) !== 0
  }
}

function pinned(flags: number): PinnedSender | null {
  return flags & PIDFD ? new PinnedSender(results[MESSAGE_PIDFD]!) : null
}

function knownSender(pin: PinnedSender | null | undefined): Sender | undefined {
  const pid = results[MESSAGE_PID]!
  const uid = results[MESSAGE_UID]! >>> 0
  return pid === 0 && uid === NOBODY ? undefined : senderOf(pid, uid, results[MESSAGE_GID]! >>> 0, pin)
}
