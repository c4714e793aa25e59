/** Sends messages, requests and answers: encodes the value, checks every limit, and then queues it or lets it wait for credit. */

import { type Deferred, deferred, quiet, RESOLVED } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import type { Timing } from '../codec/codec.ts'
import { isEncoding } from '../codec/codec-in-progress.ts'
import { Encoded, type Space } from '../codec/encoded.ts'
import * as frame from '../codec/frame.ts'
import { keepLent } from '../codec/lent-bodies.ts'
import { encodePlain } from '../codec/plain.ts'
import { assertOpen, type Descriptor, isDescription } from '../descriptor/descriptor.ts'
import { CreditQueue, QueuedFrame } from './credit-queue.ts'
import type { Custody } from './custody.ts'
import { encodeFault, encodeLastWords, tell } from './fault.ts'
import type { Hello } from './hello.ts'
import type { OwnRequest } from './own-requests.ts'
import { Parcel } from './parcel.ts'
import type { PeerRequest } from './peer-requests.ts'
import type { SessionCore } from './session-core.ts'

/** Names the limit's owner in errors. */
export const OWN_QUEUE = "this side's queue (maxQueued)"
export const THE_PEER = 'the peer (maxMessage)'

/** An answer of a handler that can't be sent. */
export class UnsentAnswer {
  readonly error: unknown
  /** The Descriptors that the encoder met before it failed. */
  readonly met: readonly Descriptor[]

  constructor(error: unknown, met: readonly Descriptor[]) {
    this.error = error
    this.met = met
  }
}

/** The encoder's outcome. All sessions share it, because only one value is encoded at a time. It is not read after the call. */
const encoded = new Encoded()

export class Sending {
  /** Messages and requests that wait for credit, or for the peer's hello: most channels have none. */
  #queue: CreditQueue | undefined
  readonly #core: SessionCore
  readonly #custody: Custody
  readonly #description: object | undefined
  #drained: Deferred | undefined

  /** `description`: the token of the socket's own Descriptor, if there was one. */
  constructor(core: SessionCore, custody: Custody, description: object | undefined) {
    this.#core = core
    this.#custody = custody
    this.#description = description
  }

  /** Bytes that wait for credit or for the socket. */
  get backlog(): number {
    return this.#core.transport.outgoing.waiting + (this.#queue?.size ?? 0)
  }

  /** Whether messages or requests wait for credit, or for the peer's hello. */
  get waits(): boolean {
    return this.#queue !== undefined && this.#queue.length > 0
  }

  /** Called when everything that did not wait for credit has left: frees the memory of what has waited. The queue stays, as it will fill again. */
  release(): void {
    if (this.#queue?.length === 0) this.#queue.release()
  }

  /** Sends a message. Misuse throws and moves nothing. */
  send(value: unknown): Promise<void> {
    const { state } = this.#core
    if (state !== 'open' && state !== 'greeting') return this.#sendLate(value)
    return this.#dispatch(frame.MESSAGE, 0, 0, value)
  }

  /** Sends a request. `allowance`: how many descriptors its reply may carry. */
  request(value: unknown, allowance: number, request: OwnRequest): void {
    const core = this.#core
    if (core.state !== 'open' && core.state !== 'greeting') {
      void this.#sendLate(value)
      request.fail(core.closedError())
      return
    }
    const { requests } = core
    const { maxPending, maxUnclaimed } = core.limits
    if (requests.size >= maxPending) throw new PassfdError('TOO_MANY_REQUESTS', { count: requests.size })
    const queued = requests.allowance + allowance
    if (queued > maxUnclaimed)
      throw new PassfdError('QUEUE_FULL', {
        what: 'Too many descriptors are allowed to the replies that are awaited',
        queued,
        limit: maxUnclaimed,
        option: 'maxUnclaimed',
        remedy: 'Await some replies first, or allow fewer with the option descriptors of request()'
      })
    request.id = requests.nextId()
    request.allowance = allowance
    void this.#dispatch(frame.REQUEST, allowance << frame.ALLOWANCE_SHIFT, request.id, value)
    if (core.isOver) request.fail(core.closedError())
    else requests.add(request)
  }

  /** Answers a request with a value. Throws, and answers nothing, if the value or its descriptors can't be sent. */
  reply(request: PeerRequest, value: unknown, answer?: object): Promise<void> {
    const { peerRequests, transport } = this.#core
    if (!peerRequests.has(request)) return this.#sendLate(value)
    const { id, allowance, cancelled } = request
    if (cancelled) this.#encode(value, 'apart', undefined)
    else this.#encodeNext(value)
    if (!peerRequests.has(request)) return this.#comeBack(value)
    const parcel = this.#checkedParcel(value, id, allowance)
    if (parcel !== undefined) {
      parcel.kind = frame.REPLY
      parcel.answer = answer
    }
    if (cancelled) {
      // The requester has cancelled: the descriptors come back unsent
      this.fault(request, new PassfdError('CANCELLED'))
      parcel?.sent?.resolve() // its binary values are not read
      if (parcel !== undefined) this.#custody.returnParcel('refused', parcel)
      return this.whenDrained()
    }
    peerRequests.delete(request.id)
    transport.append(encoded, frame.REPLY, encoded.flags, id, parcel)
    this.#core.scheduleAtMicrotask()
    return this.#whenSent(parcel)
  }

  /** Answers a request with a handler's result. If the kernel refuses it, it comes back with `message`. Throws an UnsentAnswer. */
  answer(request: PeerRequest, value: unknown, message: object): Promise<void> {
    const nested = isEncoding()
    try {
      return this.reply(request, value, message)
    } catch (error) {
      throw new UnsentAnswer(error, nested ? [] : encoded.descriptors)
    }
  }

  /** Answers a request with an error: its `code`, `message` and `data`. */
  fault(request: PeerRequest, error: unknown): void {
    if (isEncoding()) {
      // A getter called this while a value is encoded into the slab
      process.nextTick(() => this.fault(request, error))
      return
    }
    const { peerRequests } = this.#core
    if (!peerRequests.has(request)) return
    peerRequests.delete(request.id)
    this.faultFor(request.id, error)
  }

  /** Answers a request, which is not in the table, with an error. */
  faultFor(id: number, error: unknown): void {
    const core = this.#core
    const told = tell(error)
    if (core.isOver) return // a getter of the error has ended it
    const fault = encodeFault(told, core.peer!.maxMessage, core.transport.outgoing)
    if (core.isOver) return // a getter of its data has ended it
    core.transport.append(fault, frame.FAULT, 0, id, undefined)
    core.scheduleAtMicrotask()
  }

  /** Queues a hello or goodbye. */
  appendPlain(kind: number, value: unknown): void {
    const { transport } = this.#core
    transport.append(encodePlain(value, transport.outgoing), kind, 0, 0, undefined)
  }

  /** Queues a goodbye that names the error which ends the session. */
  appendLastWords(error: Error | undefined): void {
    const { peer, transport } = this.#core
    const words = encodeLastWords(error, peer?.maxMessage ?? frame.MAX_HELLO, transport.outgoing)
    if (words !== undefined) transport.append(words, frame.GOODBYE, 0, 0, undefined)
  }

  /** Resolves when the queue has fewer bytes than the high-water mark, and fewer than half of `maxInFlight` descriptors are under way. */
  whenDrained(): Promise<void> {
    if (this.#core.isOver) return quiet(Promise.reject(this.#core.closedError()))
    if (this.#belowMark()) return RESOLVED
    this.#drained ??= deferred()
    return this.#drained.promise
  }

  /** Lets waiting senders go on, if there is room again. */
  letGoOn(): void {
    if (this.#drained === undefined || !this.#belowMark()) return
    this.#drained.resolve()
    this.#drained = undefined
  }

  /** Sends waiting messages, as far as the credit allows. */
  sendWaiting(): void {
    const { credit, transport } = this.#core
    const queue = this.#queue
    if (queue === undefined || queue.length === 0) return
    queue.takeWhile(
      () => credit.available > 0,
      item => {
        this.#pay(item.encoded, item.parcel)
        transport.append(item.encoded, item.kind, item.flags, item.id, item.parcel)
      }
    )
    this.#core.scheduleAtTick()
    this.#core.settle()
  }

  /** Called for the peer's hello: converts values that were encoded before it. Those that the peer does not accept come back. */
  adaptTo(hello: Hello): void {
    const { records } = this.#core.codec
    const unfit: { item: QueuedFrame; error: Error }[] = []
    const queue = this.#queue
    for (const item of queue?.takeAll() ?? []) {
      try {
        item.adapt(hello, records)
        queue!.push(item)
      } catch (error) {
        unfit.push({ item, error: error as Error })
      }
    }
    // After the loop, because a listener that gets one back may send another
    for (const { item, error } of unfit) this.#comeBackUnfit(item, error)
  }

  /** Withdraws a request that has not left, or sends a cancel to the peer. */
  cancel(request: OwnRequest): void {
    if (isEncoding()) {
      // A getter has aborted it while a value is encoded into the slab
      process.nextTick(() => this.cancel(request))
      return
    }
    const core = this.#core
    const item = this.#queue?.takeRequest(request.id)
    if (item !== undefined) {
      core.requests.settle(request.id)
      const { parcel } = item
      parcel?.sent?.resolve()
      if (parcel !== undefined) this.#custody.returnParcel('unsent', parcel)
    } else if (core.state === 'open' || core.state === 'draining') {
      core.transport.appendBare(frame.CANCEL, request.id)
      core.scheduleAtTick()
    }
    core.settle()
  }

  /** Called when the kernel has refused a parcel: its credit returns, its request fails, and a request of the peer is answered with a fault. */
  takeBack(parcel: Parcel): void {
    const { kind, id, cost, replyTo } = parcel
    const core = this.#core
    const error = parcel.error!
    core.credit.available += cost
    if (kind === frame.REQUEST) {
      const request = core.requests.settle(id)
      if (request?.cancelled === false) request.fail(error)
      if (parcel.fds.length === 0) return // it had only binary values, so its promise has reported the failure
    } else if (kind === frame.REPLY && !core.isOver) this.faultFor(replyTo, error)
    this.#custody.returnParcel('unsent', parcel)
  }

  /** Called for the peer's goodbye: messages that wait for credit come back, and waiting requests fail. */
  giveUpWaiting(error: Error): void {
    for (const { kind, id, parcel } of this.#queue?.takeAll() ?? []) {
      parcel?.sent?.reject(error)
      if (parcel !== undefined) this.#custody.returnParcel('unsent', parcel)
      if (kind === frame.REQUEST) this.#core.requests.settle(id)?.fail(error)
    }
  }

  /** Called at the session's end: messages that wait for credit come back. Waiting requests fail together with all others. */
  end(error: Error): void {
    for (const { parcel } of this.#queue?.takeAll() ?? []) {
      parcel?.sent?.reject(error)
      if (parcel !== undefined) this.#custody.returnParcel('unsent', parcel)
    }
  }

  /** Called at the session's end, after which the queue never drains. */
  failDrained(error: Error): void {
    this.#drained?.reject(error)
    this.#drained = undefined
  }

  // --- inside

  #dispatch(kind: number, flags: number, id: number, value: unknown): Promise<void> {
    const { credit, peer, transport } = this.#core
    const final = credit.available > 0 && !this.waits && peer !== undefined
    const queue = final ? undefined : (this.#queue ??= new CreditQueue())
    if (queue === undefined) this.#encodeNext(value)
    else this.#encode(value, peer === undefined ? 'early' : 'later', queue)
    if (this.#core.isOver) return this.#comeBack(value) // a getter of the value has ended it
    const parcel = this.#checkedParcel(value, -1, undefined)
    flags |= encoded.flags
    if (parcel !== undefined) {
      parcel.kind = kind
      parcel.id = id
    }
    if (queue === undefined) {
      this.#pay(encoded, parcel)
      transport.append(encoded, kind, flags, id, parcel)
      if (kind === frame.REQUEST) this.#core.scheduleAtMicrotask()
      else this.#core.scheduleAtTick()
    } else {
      const kept = peer === undefined ? value : undefined
      queue.push(new QueuedFrame(kind, flags, id, queue.keep(encoded), parcel, kept))
    }
    return this.#whenSent(parcel)
  }

  /** For a body that is queued at once. It overtakes waiting messages, so it must not redefine the records that they use. */
  #encodeNext(value: unknown): void {
    const streamed = this.#queue !== undefined && this.#queue.streamed > 0
    this.#encode(value, streamed ? 'later' : 'next', this.#core.transport.outgoing)
  }

  /** The only call of the encoder. It encodes into `encoded`, in `space` if given, and moves nothing. */
  #encode(value: unknown, timing: Timing, space: Space | undefined): void {
    this.#core.codec.encode(value, timing, encoded, space)
  }

  /** Checks every limit, and then moves the descriptors. */
  #checkedParcel(value: unknown, replyTo: number, allowance: number | undefined): Parcel | undefined {
    const { length, descriptors, holes } = encoded
    try {
      this.#checkLimits(length, descriptors.length, allowance)
      for (const descriptor of descriptors) {
        assertOpen(descriptor)
        if (this.#description !== undefined && isDescription(descriptor, this.#description))
          throw new PassfdError('OWN_SOCKET')
      }
    } catch (error) {
      this.#core.codec.forget(encoded) // the record definitions in this body are never sent
      throw error
    }
    if (descriptors.length === 0 && holes.length === 0) return undefined
    const parcel = this.#custody.toParcel(descriptors, value, replyTo)
    parcel.defines = encoded.defines
    if (holes.length > 0) {
      parcel.sent = deferred()
      keepLent(holes, parcel.sent.promise)
    }
    return parcel
  }

  #checkLimits(length: number, count: number, allowance: number | undefined): void {
    const { peer, limits } = this.#core
    const { maxQueued, maxInFlight } = limits
    const { backlog } = this
    if (length > maxQueued) throw tooLarge(length, OWN_QUEUE, maxQueued)
    if (peer !== undefined && length > peer.maxMessage) throw tooLarge(length, THE_PEER, peer.maxMessage)
    if (backlog + length > maxQueued) throw queueFull(backlog, maxQueued, 'maxQueued')
    if (count === 0) return
    const limit = allowance ?? peer?.maxDescriptors ?? limits.maxDescriptors
    if (count > limit)
      throw allowance === undefined
        ? new PassfdError('TOO_MANY_DESCRIPTORS', { count, limit })
        : new PassfdError('TOO_MANY_DESCRIPTORS', {
            what: 'The reply',
            count,
            whose: 'the request (its option descriptors)',
            limit,
            remedy: `The requester can allow them: request(value, { descriptors: ${count} })`
          })
    const { out } = this.#custody
    if (out + count > maxInFlight) throw queueFull(out, maxInFlight, 'maxInFlight')
  }

  /** Returns how much credit a message or request costs. */
  #pay({ length }: Encoded, parcel: Parcel | undefined): void {
    const { credit, peer } = this.#core
    let cost = frame.HEADER + length
    if (parcel !== undefined) {
      cost += parcel.fds.length * peer!.descriptorCost
      parcel.cost = cost
    }
    credit.available -= cost
  }

  /** For a channel that has ended, or that the peer closes: moves the descriptors, and gives them back at once. */
  #sendLate(value: unknown): Promise<void> {
    this.#encode(value, 'apart', undefined)
    return this.#comeBack(value)
  }

  /** For an encoded value that can't be sent: moves its descriptors, and gives them back. */
  #comeBack(value: unknown): Promise<void> {
    const { descriptors } = encoded
    for (const descriptor of descriptors) assertOpen(descriptor)
    if (descriptors.length > 0) this.#custody.returnLater(value, descriptors)
    return quiet(Promise.reject(this.#core.closedError()))
  }

  /** For a message that the peer does not accept. It comes back even without descriptors, because its promise may have resolved before. */
  #comeBackUnfit({ kind, id, parcel, value }: QueuedFrame, error: Error): void {
    parcel?.sent?.reject(error)
    if (kind === frame.REQUEST) this.#core.requests.settle(id)?.fail(error)
    const returned = parcel ?? new Parcel([], [], value, -1)
    returned.error = error
    if (kind === frame.MESSAGE || returned.fds.length > 0) this.#custody.returnParcel('unsent', returned)
  }

  /** Resolves when the queue has drained, or, with uncopied binary values, when those have left. */
  #whenSent(parcel: Parcel | undefined): Promise<void> {
    const sent = parcel?.sent
    if (sent === undefined) return this.whenDrained()
    return quiet(
      sent.promise.then(() => {
        if (this.#core.isOver) throw this.#core.closedError()
      })
    )
  }

  #belowMark(): boolean {
    const { highWaterMark, maxInFlight } = this.#core.limits
    return this.backlog < highWaterMark && this.#custody.out * 2 < maxInFlight
  }
}

function tooLarge(size: number, whose: string, limit: number): PassfdError {
  return new PassfdError('MESSAGE_TOO_LARGE', { size, whose, limit })
}

/** A channel has no 'drain' event, because the promises of `send()` and `request()` report it. */
function queueFull(queued: number, limit: number, option: 'maxQueued' | 'maxInFlight'): PassfdError {
  return new PassfdError('QUEUE_FULL', {
    what:
      option === 'maxQueued'
        ? 'The peer does not keep up, and the queue is full of bytes'
        : 'The peer has not taken the descriptors that it was sent',
    queued,
    limit,
    option,
    remedy: 'Await send() or request() before sending more'
  })
}
