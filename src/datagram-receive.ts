/** One datagram out of the kernel, with all that came with it. */
import type { SocketName } from './address.ts'
import { addressOf } from './datagram-address.ts'
import { MAX_RIGHTS } from './limits.ts'
import {
  CREDENTIALS,
  CUT,
  MESSAGE_FIRST,
  MESSAGE_GID,
  MESSAGE_NAME,
  MESSAGE_PID,
  MESSAGE_UID,
  native,
  RESULT_DESCRIPTORS,
  RESULT_FLAGS,
  TRUNCATED
} from './native.ts'

/** The process that sent a datagram, as the kernel tells (`SCM_CREDENTIALS`, unix(7)). Root may claim to be another one. */
export interface Sender {
  /** 0 if it is not in our pid namespace. */
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

export interface Received {
  /** All of it, unless `cut`. */
  readonly data: Buffer
  /** How many bytes it had. */
  readonly size: number
  readonly from: SocketName | undefined
  /** Undefined if the kernel does not know: it came before we asked for credentials. */
  readonly sender: Sender | undefined
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
 * over `limit` bytes, or another reader of the same socket was faster and the next one is longer, it is `cut`.
 */
export function receiveDatagram(fd: number, limit: number): Received | number {
  const pending = native.pending(fd)
  if (pending < 0) return pending
  const room = pending > limit ? 0 : pending
  const data = room === 0 ? NOTHING : Buffer.allocUnsafe(room)
  const length = native.receiveMessage(fd, data, 0, room, results, name)
  if (length < 0) return length
  const flags = results[RESULT_FLAGS]!
  return {
    data: length === room ? data : data.subarray(0, length),
    size: Math.max(pending, length),
    from: addressOf(name.subarray(0, results[MESSAGE_NAME])),
    sender: flags & CREDENTIALS ? senderOf() : undefined,
    fds: Array.from(results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + results[RESULT_DESCRIPTORS]!)),
    cut: (flags & CUT) !== 0,
    truncated: (flags & TRUNCATED) !== 0
  }
}

function senderOf(): Sender | undefined {
  const pid = results[MESSAGE_PID]!
  const uid = results[MESSAGE_UID]! >>> 0
  return pid === 0 && uid === NOBODY ? undefined : { pid, uid, gid: results[MESSAGE_GID]! >>> 0 }
}
