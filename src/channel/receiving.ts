/** Receives messages, requests and answers: from the whole frame to the program. A violation throws, which ends the session. */

import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { Frame } from '../codec/frame.ts'
import * as frame from '../codec/frame.ts'
import { endBodyLoan } from '../codec/lent-bodies.ts'
import { type Descriptor, moveOutShared, own, received } from '../descriptor/descriptor.ts'
import type { Custody } from './custody.ts'
import { decodeError } from './fault.ts'
import { PeerRequest } from './peer-requests.ts'
import type { Sending } from './sending.ts'
import type { SessionCore } from './session-core.ts'

/** The empty list that all messages without descriptors share. */
const NO_DESCRIPTORS: readonly Descriptor[] = Object.freeze([])

export class Receiving {
  readonly #core: SessionCore
  readonly #custody: Custody
  readonly #sending: Sending

  constructor(core: SessionCore, custody: Custody, sending: Sending) {
    this.#core = core
    this.#custody = custody
    this.#sending = sending
  }

  /** Handles a message or request: lends its descriptors, and gives it to the owner. */
  onMessage(received: Frame): void {
    const core = this.#core
    const { credit, peerRequests } = core
    const { maxDescriptors, maxPending, descriptorCost } = core.limits
    const { id, flags, fds } = received
    const request = received.kind === frame.REQUEST
    const cost = frame.HEADER + received.length
    if (credit.granted <= 0) this.violate(fds, new PassfdError('CREDIT_EXCEEDED'))
    if (fds.length > maxDescriptors)
      this.violate(fds, countError(`${fds.length} in a message, the limit is ${maxDescriptors}`))
    if (request && peerRequests.get(id) !== undefined)
      this.violate(fds, new PassfdError('BAD_ID', { detail: `request ${id} is still pending` }))
    credit.granted -= cost + fds.length * descriptorCost
    if (core.state === 'leaving') {
      // It came after this side's goodbye. passfd does not confirm it, so the sender gets its descriptors back
      for (const fd of this.#drop(received)) this.#custody.discardLater(fd)
      if (received.lent !== undefined) endBodyLoan(received.lent)
      return
    }
    const descriptors = fds.length === 0 ? NO_DESCRIPTORS : this.#custody.lend(fds, request)
    const value = this.#decode(received, descriptors)
    this.#custody.unconfirmed += fds.length
    if (!request) this.#give(undefined, value, descriptors, cost, received.lent)
    else if (peerRequests.size >= maxPending) {
      for (const descriptor of descriptors) descriptor.close()
      if (received.lent !== undefined) endBodyLoan(received.lent)
      credit.owe(cost)
      this.#sending.faultFor(id, new PassfdError('BUSY', { detail: `${maxPending} requests are pending` }))
    } else {
      const pending = new PeerRequest(id, Math.min(flags >>> frame.ALLOWANCE_SHIFT, MAX_RIGHTS))
      peerRequests.add(id, pending)
      this.#give(pending, value, descriptors, cost, received.lent)
    }
  }

  /** Handles an answer with a value. The requester owns its descriptors. */
  onReply(reply: Frame): void {
    const core = this.#core
    const { id, fds } = reply
    const request = core.requests.get(id)
    if (request === undefined)
      this.violate(fds, new PassfdError('BAD_ID', { detail: `an answer to ${id}, which is not pending` }))
    if (fds.length > request.allowance)
      this.violate(fds, countError(`${fds.length} in a reply, the request allows ${request.allowance}`))
    if (request.cancelled) {
      // They did not cost credit, so closing them returns none
      const dropped = this.#drop(reply)
      if (dropped.length > 0) core.transport.wire.discard(dropped, undefined)
      this.#custody.unconfirmed += fds.length
      core.requests.settle(id)
    } else {
      const descriptors = fds.length === 0 ? NO_DESCRIPTORS : fds.map(received)
      const value = this.#decode(reply, descriptors)
      this.#custody.unconfirmed += fds.length
      core.requests.settle(id)
      request.succeed(value, descriptors)
    }
    core.settle()
  }

  /** Handles an answer with an error. */
  onFault(fault: Frame): void {
    const core = this.#core
    const remote = decodeError(fault, false)
    const request = core.requests.settle(fault.id)
    if (request === undefined)
      throw new PassfdError('BAD_ID', { detail: `an answer to ${fault.id}, which is not pending` })
    if (!request.cancelled) request.fail(new PassfdError('REMOTE', { message: remote.message }, { remote }))
    core.settle()
  }

  /** Handles a cancel. If the answer was sent already, its descriptors come back when the peer confirms them. */
  onCancel(id: number): void {
    const request = this.#core.peerRequests.get(id)
    if (request === undefined) this.#core.transport.cancelReply(id)
    else this.#core.context.run(request.cancel, request)
  }

  /** Handles the rest of a frame that its sender withdrew: its record definitions. It costs no credit. */
  onDefinitions(definitions: Frame): void {
    if ((definitions.flags & frame.RECORDS) === 0)
      throw new PassfdError('BAD_FRAME', { detail: 'a frame of definitions uses no records' })
    if (definitions.id > MAX_RIGHTS)
      throw new PassfdError('BAD_FRAME', { detail: `${definitions.id} descriptors in a frame` })
    this.#core.codec.learn(definitions, definitions.id)
  }

  /** Closes the frame's descriptors, and throws the error that ends the session. */
  violate(fds: readonly number[], error: PassfdError): never {
    for (const fd of fds) this.#custody.discardLater(fd)
    throw error
  }

  #give(
    request: PeerRequest | undefined,
    value: unknown,
    descriptors: readonly Descriptor[],
    cost: number,
    lent: ArrayBuffer | undefined
  ): void {
    if (this.#core.owner.onMessage(request, value, descriptors, cost, lent)) this.#core.consumed(cost)
  }

  #decode(body: Frame, descriptors: readonly Descriptor[]): unknown {
    try {
      return this.#core.codec.decode(body, descriptors)
    } catch (error) {
      for (const descriptor of descriptors) this.#custody.discardLater(moveOutShared(descriptor, ''))
      throw error
    }
  }

  /** Drops a body that nobody wants, and has its numbers closed. It decodes a flagged body, which may define records for later ones. */
  #drop(unwanted: Frame): readonly number[] {
    if ((unwanted.flags & frame.RECORDS) === 0) return unwanted.fds
    const descriptors = unwanted.fds.map(own)
    this.#decode(unwanted, descriptors)
    return descriptors.map(descriptor => moveOutShared(descriptor, ''))
  }
}

function countError(detail: string): PassfdError {
  return new PassfdError('DESCRIPTOR_COUNT', { detail })
}
