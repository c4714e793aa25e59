/** Messages that come back: their descriptors were moved, and the peer has not taken them. */

import type { EventEmitter } from 'node:events'
import type { AsyncContext } from '../base/async-context.ts'
import type { Failure } from '../base/errors.ts'
import { throwLater } from '../base/throw-later.ts'
import { type Descriptor, endLoan, forgetIfClosed, restoreNumber } from '../descriptor/descriptor.ts'
import type { Lender } from '../descriptor/lender.ts'
import { withoutConnections } from './message.ts'
import type { Parcel } from './parcel.ts'
import type { ReturnState } from './session-core.ts'
import type { Wire } from './wire.ts'

/**
 * A message whose descriptors the peer did not take. Its Descriptors are open again. passfd closes those that were not claimed when the
 * listeners return.
 */
export interface Returned<Out = unknown> {
  /**
   * *unsent*: the message never left this process. *unconfirmed*: it left, and the peer may hold the descriptors, too. *refused*: it was the
   * answer to a request that was given up.
   */
  readonly state: ReturnState
  readonly value: Out
  /** The Descriptors of `value`, without those in Connections. A Connection in `value` is open again, too. */
  readonly descriptors: readonly Descriptor[]
  /**
   * The reason if only this message failed, and the channel goes on; otherwise undefined. The system's error: the kernel refuses to pass a
   * descriptor (EBADF, EINVAL for an io_uring, …). ERR_PASSFD_ENCODE: a binary value of 64 KiB or more was transferred or detached before it was
   * sent. ERR_PASSFD_MESSAGE_TOO_LARGE, ERR_PASSFD_TOO_MANY_DESCRIPTORS: it was sent before the peer's hello, and the peer does not accept it.
   * In these three cases there may be no descriptors.
   */
  readonly error: Failure | undefined
  /** Keeps all Descriptors and Connections of `value`, which the caller then owns. */
  claim(): this
}

/**
 * Gives the descriptors of a parcel back to the program: `emitter` emits `'returned'` in `context`. passfd closes all that no listener claims,
 * on a helper thread.
 */
export function giveReturned(
  emitter: EventEmitter<any>,
  context: AsyncContext,
  wire: Wire,
  state: ReturnState,
  parcel: Parcel
): void {
  // Other code has closed these numbers. Forget them, because they may soon name other files
  const lost =
    parcel.error === undefined ? [] : parcel.descriptors.filter((each, at) => forgetIfClosed(each, parcel.fds[at]!))
  if (emitter.listenerCount('returned') > 0) emitReturned(emitter, context, wire, state, parcel, lost)
  else if (parcel.fds.length > lost.length)
    wire.discard(lost.length === 0 ? parcel.fds : withoutLost(parcel, lost), undefined)
}

function emitReturned(
  emitter: EventEmitter<any>,
  context: AsyncContext,
  wire: Wire,
  state: ReturnState,
  parcel: Parcel,
  lost: readonly Descriptor[]
): void {
  const { fds, descriptors, value, error } = parcel
  const lender: Lender = {
    message: 'returned message',
    pid: process.pid,
    ended: '',
    kept: () => {},
    discard: fd => wire.discard([fd], undefined)
  }
  for (const [index, descriptor] of descriptors.entries())
    if (!lost.includes(descriptor)) restoreNumber(descriptor, fds[index]!, lender)
  const returned: Returned = {
    state,
    value,
    descriptors: withoutConnections(descriptors),
    error,
    claim() {
      for (const descriptor of descriptors) if (!descriptor.closed) descriptor.claim()
      return this
    }
  }
  try {
    context.emit(emitter, 'returned', returned)
  } catch (error) {
    throwLater(error)
  }
  const unclaimed = descriptors
    .map(descriptor => endLoan(descriptor, "the 'returned' listeners returned"))
    .filter(fd => fd >= 0)
  if (unclaimed.length > 0) wire.discard(unclaimed, undefined)
}

function withoutLost({ fds, descriptors }: Parcel, lost: readonly Descriptor[]): number[] {
  return fds.filter((_, index) => !lost.includes(descriptors[index]!))
}
