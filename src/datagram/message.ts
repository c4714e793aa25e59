/** A datagram that has arrived. */

import { PassfdError } from '../base/errors.ts'
import { mark } from '../base/package-copy.ts'
import { type Descriptor, endLoan, guardLoan, lent } from '../descriptor/descriptor.ts'
import type { Lender } from '../descriptor/lender.ts'
import type { SocketName } from '../os/socket-name.ts'
import type { Received } from './receive.ts'
import type { DatagramData, SendOptions } from './send.ts'
import type { PinnedSender, Sender } from './sender.ts'

/** @internal */
export const END: unique symbol = Symbol('end')
/** @internal */
export const GUARD: unique symbol = Symbol('guard')

/**
 * A datagram. passfd lends its descriptors until its scope ends, and then closes those that were not claimed. In `for await` the scope ends when
 * the program asks for the next datagram. In `'message'` listeners it ends when they have returned.
 */
export class DatagramMessage implements Disposable {
  /** All bytes of the datagram; there may be none. */
  readonly data: Buffer
  /** The received descriptors, in the order in which they were sent. */
  readonly descriptors: readonly Descriptor[]
  /**
   * The name of the socket that sent it: `send(…, { to: from })` answers. Undefined if it has no name, or one that this process can't reach. A
   * relative path is relative to the sender's directory (unix(7)).
   */
  readonly from: SocketName | undefined
  /** The process that sent it, as the kernel reports it. Undefined if the kernel does not know it; then `authorize` has let it in. */
  readonly sender: Sender | undefined
  readonly #owner: MessageOwner
  readonly #pin: PinnedSender | null | undefined

  /** @internal */
  constructor({ data, fds, from, sender, pin }: Received, owner: MessageOwner) {
    this.data = data
    this.from = from
    this.sender = sender
    this.#owner = owner
    this.#pin = pin
    this.descriptors = fds.length === 0 ? [] : lend(fds, sender?.pid ?? 0, owner)
  }

  /** Sends an answer to the datagram's sender, as `send` does. @throws `ERR_PASSFD_UNNAMED_SENDER` */
  reply(data: DatagramData, options: Omit<SendOptions, 'to'> = {}): Promise<void> {
    if (this.from === undefined) throw new PassfdError('UNNAMED_SENDER')
    return this.#owner.reply(data, options, this.from)
  }

  /** Keeps all descriptors beyond the scope. */
  claim(): this {
    for (const descriptor of this.descriptors) if (!descriptor.closed) descriptor.claim()
    return this
  }

  /** Ends the scope: closes unclaimed descriptors. */
  [Symbol.dispose](): void {
    this[END]('the datagram was disposed of')
  }

  /** @internal */
  [END](ended: string): void {
    this.#pin?.end()
    endLoans(this.descriptors, ended, this.#owner)
  }

  /** @internal The loop's body may never ask for the next one: what it was lent is closed when it is collected. */
  [GUARD](): void {
    this.#pin?.guard()
    for (const descriptor of this.descriptors) guardLoan(descriptor)
  }
}
mark(DatagramMessage, 'DatagramMessage')

/** @internal Closes the descriptors that are not claimed. */
export interface MessageOwner {
  discard(fds: readonly number[]): void
  reply(data: DatagramData, options: Omit<SendOptions, 'to'>, to: SocketName): Promise<void>
}

/** @internal Descriptors for numbers that came with a datagram, until `endLoans`. */
export function lend(fds: readonly number[], pid: number, owner: Pick<MessageOwner, 'discard'>): Descriptor[] {
  const lender: Lender = { ended: '', message: 'datagram', pid, kept() {}, discard: fd => owner.discard([fd]) }
  return fds.map(fd => lent(fd, lender))
}

/** @internal */
export function endLoans(
  descriptors: readonly Descriptor[],
  ended: string,
  owner: Pick<MessageOwner, 'discard'>
): void {
  const left = descriptors.map(descriptor => endLoan(descriptor, ended)).filter(fd => fd >= 0)
  if (left.length > 0) owner.discard(left)
}
