/** The sender of a datagram. */

import { ENOPROTOOPT } from '../base/errno.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { type Descriptor, endLoan, guardLoan, lent } from '../descriptor/descriptor.ts'
import type { Lender } from '../descriptor/lender.ts'
import { noPidfd } from '../descriptor/peer.ts'
import { native } from '../os/native.ts'

/**
 * The process that sent a datagram, as the kernel reports it (`SCM_CREDENTIALS`, unix(7)). Root may name another process. The object is frozen,
 * and several datagrams may share it.
 */
export interface Sender {
  /** 0 if it is not in this process's pid namespace. */
  readonly pid: number
  readonly uid: number
  readonly gid: number
  /**
   * Returns a pidfd of the process (SCM_PIDFD, Linux 6.5): a Descriptor that the caller owns.
   *
   * It never means another process with the same pid. The socket must be opened with `pidfd: true`. It works in `authorize`, until the
   * datagram's scope ends, and in `'dropped'` listeners until they return.
   * @throws `ERR_PASSFD_PEER_PIDFD` without that option, after the scope, or (Linux before 6.17) when the process was reaped.
   */
  pidfd(): Descriptor
}

/** @internal The pidfd of a sender: held by the shim, and closed when the scope of its datagram ends. */
export class PinnedSender {
  readonly #result: number
  readonly #descriptor: Descriptor | undefined

  /** `result`: the held number, or -errno. */
  constructor(result: number) {
    this.#result = result
    this.#descriptor = result < 0 ? undefined : lent(result, LENDER)
  }

  copy(): Descriptor {
    if (this.#descriptor === undefined) throw noPidfd(this.#result, 'recvmsg')
    if (this.#descriptor.closed)
      throw new PassfdError('PEER_PIDFD', {
        detail: "the scope of its datagram has ended: call it in 'authorize' or before"
      })
    return this.#descriptor.dup()
  }

  end(): void {
    if (this.#descriptor === undefined) return
    const fd = endLoan(this.#descriptor, LENDER.ended)
    if (fd >= 0) LENDER.discard(fd)
  }

  /** The scope may never end: then it is closed when it is collected. */
  guard(): void {
    if (this.#descriptor !== undefined) guardLoan(this.#descriptor)
  }
}

/** close(2) of a pidfd waits for nothing: it need not be done aside. */
const LENDER: Lender = {
  ended: 'the scope of its datagram ended',
  message: 'datagram',
  pid: 0,
  kept() {},
  discard: fd => void native.close(fd)
}

const pins = new WeakMap<object, PinnedSender | null>()

/** @internal `pin`: undefined if the socket did not ask for it, null if the kernel gave none. */
export function senderOf(pid: number, uid: number, gid: number, pin: PinnedSender | null | undefined): Sender {
  if (pin === undefined && last?.pid === pid && last.uid === uid && last.gid === gid) return last
  const sender = Object.freeze(Object.defineProperty({ pid, uid, gid }, 'pidfd', PIDFD)) as Sender
  if (pin === undefined) last = sender
  else pins.set(sender, pin)
  return sender
}

/** The last one without a pidfd. Datagrams share it, because most sockets receive several from one sender. */
let last: Sender | undefined

function pidfd(this: Sender): Descriptor {
  const pin = pins.get(this)
  if (pin) return pin.copy()
  throw new PassfdError('PEER_PIDFD', {
    detail:
      pin === null
        ? 'the datagram was sent before this socket asked for pidfds'
        : 'its socket was opened without the option pidfd: true, or this is the sender of no datagram'
  })
}

/** Not enumerable: a sender is printed and compared by its facts. */
const PIDFD = { value: pidfd, configurable: true, writable: true }

/**
 * @internal Asks the kernel for the pidfd of each sender from now on (`on`), or only whether it can.
 * @throws `ERR_PASSFD_PEER_PIDFD` on a kernel before 6.5.
 */
export function passPidfds(fd: number, on: boolean): void {
  const result = native.passPidfd(fd, on)
  if (result === ENOPROTOOPT) throw noPidfd(result, 'setsockopt')
  checked(result, 'setsockopt')
}
