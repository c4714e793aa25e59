/** What arrives: the value, the descriptors that came with it, and, for a request, the way to answer. */

import { PassfdError } from '../base/errors.ts'
import { mark } from '../base/package-copy.ts'
import { endBodyLoan, giveBody } from '../codec/lent-bodies.ts'
import { isInside } from '../connection/connection.ts'
import { type Descriptor, endLoan } from '../descriptor/descriptor.ts'
import type { Channel } from './channel.ts'
import type { PeerRequest } from './peer-requests.ts'
import type { Session } from './session.ts'

/** @internal */
export const END: unique symbol = Symbol('end')
/** @internal */
export const ANSWER: unique symbol = Symbol('answer')
/** @internal */
export const ANSWERED: unique symbol = Symbol('answered')
/** @internal */
export const ALL: unique symbol = Symbol('all')

/**
 * A message or request, with the descriptors that came with it.
 *
 * passfd lends its descriptors until its scope ends, and then closes those that were not claimed. The scope ends, in `serve`, when the handler's
 * result has settled. In `for await` it ends when the program asks for the next message. In `'message'` listeners it ends when they have
 * returned.
 *
 * With the option `lendBuffers` the binary values of a large message are lent likewise, and have length 0 afterwards.
 */
export class Message<In = unknown> implements Disposable {
  readonly value: In
  /** The channel that it came on. `message.channel.peer` is the sender. */
  readonly channel: Channel<any, any>
  /** @internal All that came, those in Connections, too. */
  readonly [ALL]: readonly Descriptor[]
  readonly #session: Session
  readonly #request: PeerRequest | undefined
  /** The memory of its binary values, if passfd lends it. */
  #lent: ArrayBuffer | undefined
  #answered = false
  #claimed = false
  #signal: AbortSignal | undefined

  /** @internal */
  constructor(
    value: In,
    descriptors: readonly Descriptor[],
    channel: Channel<any, any>,
    session: Session,
    request: PeerRequest | undefined,
    lent: ArrayBuffer | undefined
  ) {
    this.value = value
    this[ALL] = descriptors
    this.channel = channel
    this.#session = session
    this.#request = request
    this.#lent = lent
  }

  /**
   * The received Descriptors, in the order of the sender's encoder. Those in Connections are not listed, because they would lack the bytes that
   * were read from them. The scope and `claim()` cover both.
   */
  get descriptors(): readonly Descriptor[] {
    return withoutConnections(this[ALL])
  }

  /** Reports whether the sender waits for an answer. */
  get isRequest(): boolean {
    return this.#request !== undefined
  }

  /** Aborts when the peer cancels the request, or the channel ends. Each message has its own signal. */
  get signal(): AbortSignal {
    if (this.#request !== undefined && !this.#answered) return this.#request.signal
    this.#signal ??= this.#session.makeEndSignal()
    return this.#signal
  }

  /**
   * Answers the request, and moves the Descriptors in the value. Misuse throws and answers nothing: ERR_PASSFD_NOT_A_REQUEST,
   * ERR_PASSFD_ANSWERED, and the errors of `send`. Resolves when the queue is below its high-water mark.
   */
  reply(value?: unknown): Promise<void> {
    const sent = this.#session.sending.reply(this.#unanswered(), value)
    this.#answered = true
    return sent
  }

  /** @internal Answers with the result of a serve handler. The channel is informed if the kernel refuses it. Throws an UnsentAnswer. */
  [ANSWER](value: unknown): Promise<void> {
    const sent = this.#session.sending.answer(this.#unanswered(), value, this)
    this.#answered = true
    return sent
  }

  /** Answers the request with an error. The requester gets its `code`, `message` and `data`, and never its stack. */
  fail(error: Error): Promise<void> {
    const request = this.#unanswered()
    this.#answered = true // first, because a getter of the error may check it
    this.#session.sending.fault(request, error)
    return this.#session.sending.whenDrained()
  }

  /** Keeps all descriptors and lent binary values beyond the scope, and lets the program answer the request after it. */
  claim(): this {
    this.#claimed = true
    if (this.#lent !== undefined) giveBody(this.#lent)
    this.#lent = undefined
    for (const descriptor of this[ALL]) if (!descriptor.closed) descriptor.claim()
    return this
  }

  /** Ends the scope: closes unclaimed descriptors, ends the loan of binary values, and answers an unanswered request with ERR_PASSFD_UNANSWERED. */
  [Symbol.dispose](): void {
    this[END]('the message was disposed of', true)
  }

  /** @internal Ends the scope. `answer`: the program can't answer any more. */
  [END](ended: string, answer: boolean): void {
    for (const descriptor of this[ALL]) {
      const fd = endLoan(descriptor, ended)
      if (fd >= 0) this.#session.custody.discard(fd)
    }
    if (this.#lent !== undefined) endBodyLoan(this.#lent)
    this.#lent = undefined
    if (answer && !this.#answered && !this.#claimed && this.#request !== undefined) {
      this.#answered = true
      this.#session.sending.fault(this.#request, new PassfdError('UNANSWERED'))
    }
  }

  /** @internal */
  get [ANSWERED](): boolean {
    return this.#answered || this.#request === undefined
  }

  #unanswered(): PeerRequest {
    if (this.#request === undefined) throw new PassfdError('NOT_A_REQUEST')
    if (this.#answered) throw new PassfdError('ANSWERED')
    return this.#request
  }
}
mark(Message, 'Message')

/** @internal The Descriptors that are not in a Connection. */
export function withoutConnections(descriptors: readonly Descriptor[]): readonly Descriptor[] {
  if (descriptors.length === 0) return descriptors
  return descriptors.some(isInside) ? descriptors.filter(descriptor => !isInside(descriptor)) : descriptors
}
