/**
 * The protocol's state machine over one transport: hello, credit, taken, requests, closing. It knows no socket and no user.
 *
 *   greeting ──peer's hello──▶ open ──close()──▶ draining ──all settled──▶ leaving ──peer's goodbye, end of file──▶ ended
 *                                └────────────────peer's goodbye─────────────▶┘
 *   any state ──violation, destroy(), lost peer──▶ ended
 */
import { type Codec, decodePlain, detachedToPlain, type Encoded, encodePlain } from './codec.ts'
import { assertOpen, type Descriptor, isDescription, own, take } from './descriptor.ts'
import { PassfdError, type RemoteError, systemError } from './errors.ts'
import * as frame from './frame.ts'
import { checkHello, type Hello, sayHello } from './hello.ts'
import type { Limits } from './options.ts'
import { type OutgoingRequest, RequestTable } from './requests.ts'
import { Parcel, Transport, type TransportOwner } from './transport.ts'
import type { Wire } from './wire.ts'

export type ReturnState = 'unsent' | 'unconfirmed' | 'refused'

/** A request from the peer that has no answer yet. */
export class Incoming {
  readonly id: number
  /** How many descriptors the reply may carry. */
  readonly allowance: number
  /** The peer no longer waits. */
  cancelled = false
  controller: AbortController | undefined

  constructor(id: number, allowance: number) {
    this.id = id
    this.allowance = allowance
  }
}

/** What a session tells the channel on top of it. */
export interface SessionOwner {
  onOpen(hello: Hello): void
  /** A message, or a request that waits for an answer. The descriptors were made by `lend`; `cost` is to be `consumed`. */
  onMessage(incoming: Incoming | undefined, value: unknown, descriptors: readonly Descriptor[], cost: number): void
  /** Makes lent Descriptors of numbers that have arrived. */
  lend(fds: readonly number[], request: boolean): Descriptor[]
  /** Descriptors that were moved and not taken. */
  onReturned(state: ReturnState, parcel: Parcel): void
  /** `error` undefined: both sides said goodbye. */
  onEnd(error: Error | undefined): void
}

/** A message that waits for credit, encoded already. */
interface Waiting {
  kind: number
  flags: number
  id: number
  encoded: Encoded
  parcel: Parcel | undefined
  size: number
  sent: (() => void) | undefined
}

type State = 'greeting' | 'open' | 'draining' | 'leaving' | 'ended'

const RESOLVED = Promise.resolve()
const MAX_CREDIT = 2 ** 48
const MAX_GRANT = 0xffffffff

/** Sessions that have something to write, and the one tick in which they do. */
const dirty: Session[] = []

function flushDirty(): void {
  try {
    for (let i = 0; i < dirty.length; i++) dirty[i]!.flush() // a flush may add to the list
  } finally {
    dirty.length = 0
  }
}

export class Session implements TransportOwner {
  readonly limits: Limits
  readonly requests: RequestTable
  state: State = 'greeting'
  /** What ended it, if that was an error. */
  error: Error | undefined
  peer: Hello | undefined

  readonly #owner: SessionOwner
  readonly #transport: Transport
  readonly #codec: Codec
  readonly #descriptorCost: number
  readonly #description: object | undefined
  #helloSent = false
  #scheduled = false
  /** How much we may send, and how much the peer may. */
  #credit = 0
  #granted: number
  #owed = 0
  #takenOwed = 0
  #discarded: number[] = []
  readonly #waiting: Waiting[] = []
  #waitingSize = 0
  #descriptorsOut = 0
  /** Requests from the peer, not answered yet. */
  readonly #pending = new Map<number, Incoming>()
  readonly #controllers = new Set<AbortController>()
  #peerSaidGoodbye = false
  #shutDown = false
  #drained: { promise: Promise<void>; resolve(): void; reject(error: Error): void } | undefined
  #handshakeTimer: NodeJS.Timeout | undefined
  #closeTimer: NodeJS.Timeout | undefined
  #stallTimer: NodeJS.Timeout | undefined
  #stallMark = 0
  #read = 0

  /** `description`: the token of the socket's own Descriptor, if there was one. */
  constructor(wire: Wire, codec: Codec, limits: Limits, owner: SessionOwner, description?: object) {
    this.#description = description
    this.limits = limits
    this.#owner = owner
    this.#codec = codec
    this.#transport = new Transport(wire, this)
    this.#granted = limits.window
    this.#descriptorCost = limits.descriptorCost
    this.requests = new RequestTable(request => this.#cancel(request))
  }

  /** Says hello and starts to read. `timeout` in ms for the peer's hello, 0 for none. */
  start(timeout: number): void {
    this.#transport.reader.maxBody = frame.MAX_HELLO
    this.#helloSent = true
    this.#transport.append(encodePlain(sayHello(this.limits)), frame.HELLO, 0, 0, undefined)
    if (timeout > 0)
      this.#handshakeTimer = setTimeout(
        () => this.end(new PassfdError('HANDSHAKE_TIMEOUT', { timeout }), true),
        timeout
      )
    this.#transport.wire.start(this.#transport)
    this.flush()
  }

  // --- sending

  /** Bytes that wait for credit or for the socket. */
  get backlog(): number {
    return this.#transport.waiting + this.#waitingSize
  }

  /** Sends a message. Misuse throws and moves nothing. */
  send(value: unknown): Promise<void> {
    if (this.state !== 'open' && this.state !== 'greeting') return this.#sendLate(value)
    return this.#dispatch(frame.MESSAGE, 0, 0, value)
  }

  /** Sends a request. `allowance`: how many descriptors its reply may carry. */
  request(value: unknown, allowance: number, request: OutgoingRequest): void {
    if (this.state !== 'open' && this.state !== 'greeting') {
      this.#sendLate(value)
      request.fail(this.#closedError())
      return
    }
    const { maxPending, maxUnclaimed } = this.limits
    if (this.requests.size >= maxPending) throw new PassfdError('TOO_MANY_REQUESTS', { count: this.requests.size })
    if (this.requests.allowance + allowance > maxUnclaimed)
      throw new PassfdError('QUEUE_FULL', {
        queued: this.requests.allowance + allowance,
        limit: maxUnclaimed,
        option: 'descriptors of replies, maxUnclaimed'
      })
    request.id = this.requests.nextId()
    request.allowance = allowance
    this.#dispatch(frame.REQUEST, allowance << frame.ALLOWANCE_SHIFT, request.id, value)
    this.requests.add(request)
  }

  /** Answers a request with a value. Throws, and answers nothing, if the value or its descriptors can't be sent. */
  reply(incoming: Incoming, value: unknown): void {
    const { id } = incoming
    if (this.state === 'ended' || !this.#pending.has(id)) {
      this.#sendLate(value)
      return
    }
    const transport = this.#transport
    const encoded = incoming.cancelled
      ? this.#codec.encode(value, false)
      : this.#codec.encode(value, true, transport.slab, transport.slabEnd)
    const parcel = this.#checkedParcel(encoded, value, id, incoming.allowance)
    if (incoming.cancelled) {
      this.fault(incoming, new PassfdError('CANCELLED'))
      if (parcel !== undefined) this.#return('refused', parcel)
      return
    }
    this.#pending.delete(id)
    this.#append(encoded, frame.REPLY, encoded.flags, id, parcel, undefined)
    this.#settle()
  }

  /** Answers a request with an error: its `code`, `message` and `data`. */
  fault(incoming: Incoming, error: Error & { code?: unknown; data?: unknown }): void {
    if (this.state === 'ended' || !this.#pending.delete(incoming.id)) return
    this.#fault(incoming.id, typeof error.code === 'string' ? error.code : error.name, error.message, error.data)
    this.#settle()
  }

  /** Resolves when the queue is below its high-water mark. */
  whenDrained(): Promise<void> {
    if (this.state === 'ended') return quiet(Promise.reject(this.#closedError()))
    return this.backlog < this.limits.highWaterMark ? RESOLVED : this.#drain()
  }

  /** Aborts `controller` when the request is cancelled or the session ends, which may have happened already. */
  abortAtEnd(incoming: Incoming | undefined, controller: AbortController): void {
    if (this.state === 'ended' || incoming?.cancelled)
      controller.abort(incoming?.cancelled ? new PassfdError('CANCELLED') : this.#closedError())
    else this.#controllers.add(controller)
    if (incoming !== undefined) incoming.controller = controller
  }

  // --- receiving: what the application has done with what it was given

  /** The application was given a message that cost this much. */
  consumed(cost: number): void {
    this.#owed += cost
    if (this.#needsGrant()) this.#schedule()
  }

  /** A lent descriptor was claimed. */
  kept(): void {
    this.consumed(this.#descriptorCost)
  }

  /** A lent descriptor is to be closed, off the loop. Its cost returns then. */
  discard(fd: number): void {
    if (this.state === 'ended') this.#transport.wire.discard([fd], undefined)
    else {
      this.#discarded.push(fd)
      this.#schedule()
    }
  }

  // --- closing

  /** Refuses new sends, lets what is under way settle, says goodbye. */
  close(): void {
    if (this.state === 'greeting' || this.state === 'open') {
      this.state = 'draining'
      this.#startCloseTimer()
      this.#settle()
    }
  }

  /** Ends it now. `tell`: the peer hears the error's code first. */
  end(error: Error | undefined, tell: boolean): void {
    if (this.state === 'ended') return
    const saidGoodbye = this.state === 'leaving'
    this.state = 'ended'
    this.error = error
    for (const timer of [this.#handshakeTimer, this.#closeTimer, this.#stallTimer]) clearTimeout(timer)
    if (tell && !saidGoodbye) this.#lastWords(error)
    if (this.#discarded.length > 0) this.#discardNow()
    const rest = this.#transport.end()
    for (const { parcel, left } of rest) this.#return(left ? 'unconfirmed' : 'unsent', parcel)
    for (const { parcel, sent } of this.#waiting.splice(0)) {
      sent?.()
      if (parcel !== undefined) this.#return('unsent', parcel)
    }
    this.#waitingSize = 0
    this.#pending.clear()
    for (const controller of this.#controllers) controller.abort(this.#closedError())
    this.#controllers.clear()
    const closed = this.#closedError()
    this.requests.failAll(closed)
    this.#drained?.reject(closed)
    this.#drained = undefined
    this.#owner.onEnd(error)
  }

  ref(): void {
    this.#transport.wire.ref()
  }

  unref(): void {
    this.#transport.wire.unref()
  }

  /** Writes what has gathered: confirmations and credit first of all. */
  flush(): void {
    this.#scheduled = false
    if (this.state === 'ended') return
    if (this.#discarded.length > 0) this.#discardNow()
    // While the socket is full these only add up, so that a peer that doesn't read can't make us queue them
    if (!this.#transport.blocked && this.#helloSent) {
      if (this.#takenOwed > 0) this.#confirm()
      if (this.#needsGrant() && this.state !== 'leaving' && this.peer !== undefined) this.#grant()
    }
    this.#transport.flush()
    this.#afterWrite()
  }

  // --- TransportOwner

  onFrame(
    kind: number,
    flags: number,
    id: number,
    bytes: Buffer,
    start: number,
    end: number,
    owned: boolean,
    fds: number[]
  ): boolean {
    this.#read += end - start + frame.HEADER
    if (this.peer === undefined && kind !== frame.HELLO && kind !== frame.GOODBYE) {
      this.#discarded.push(...fds)
      throw new PassfdError('BAD_HELLO', { detail: `a frame of kind ${kind} came before it` })
    }
    if (this.#peerSaidGoodbye && kind !== frame.REPLY && kind !== frame.FAULT && kind !== frame.TAKEN) {
      this.#discarded.push(...fds)
      throw new PassfdError('BAD_FRAME', { detail: `kind ${kind} came after goodbye` })
    }
    switch (kind) {
      case frame.MESSAGE:
      case frame.REQUEST:
        this.#onMessage(kind === frame.REQUEST, flags, id, bytes, start, end, owned, fds)
        break
      case frame.REPLY:
        this.#onReply(flags, id, bytes, start, end, owned, fds)
        break
      case frame.FAULT:
        this.#onFault(id, bytes, start, end)
        break
      case frame.CANCEL:
        this.#onCancel(id)
        break
      case frame.CREDIT:
        this.#credit = Math.min(this.#credit + id, MAX_CREDIT)
        this.#sendWaiting()
        break
      case frame.TAKEN:
        this.#onTaken(id)
        break
      case frame.HELLO:
        this.#onHello(bytes, start, end)
        break
      default:
        this.#onGoodbye(bytes, start, end)
    }
    return (this.state as State) !== 'ended'
  }

  onReadDone(): void {
    if (this.state === 'ended') return
    if (this.#takenOwed > 0 || this.#needsGrant()) this.#schedule()
    this.#watchForStall()
  }

  onViolation(error: PassfdError): void {
    this.end(error, true)
  }

  onReadEnd(result: number): void {
    if (this.state === 'ended') return
    // A reset after both goodbyes only says that the peer was quicker to close
    if (this.#peerSaidGoodbye && this.state === 'leaving') this.end(undefined, false)
    else
      this.end(new PassfdError('DISCONNECTED', {}, result < 0 ? { cause: systemError(result, 'recvmsg') } : {}), false)
  }

  onProgress(): void {
    this.flush()
  }

  /** The peer reads no more. What it has still written is read to the end before anything is concluded. */
  onWriteError(errno: number): void {
    const lost = errno === EPIPE || errno === ECONNRESET || errno === ENOTCONN
    if (lost) this.#startCloseTimer()
    else queueMicrotask(() => this.end(systemError(errno, 'sendmsg'), false))
  }

  // --- sending, inside

  #dispatch(kind: number, flags: number, id: number, value: unknown): Promise<void> {
    const transport = this.#transport
    const final = this.#credit > 0 && this.#waiting.length === 0 && this.peer !== undefined
    const encoded = final
      ? this.#codec.encode(value, true, transport.slab, transport.slabEnd)
      : this.#encodeWaiting(value)
    const parcel = this.#checkedParcel(encoded, value, -1, undefined)
    const byReference = encoded.holes.length > 0 ? deferred() : undefined
    if (final) {
      this.#credit -= this.#costForPeer(encoded.length, parcel)
      this.#append(encoded, kind, flags | encoded.flags, id, parcel, byReference?.resolve)
    } else {
      const { bytes, start, end, length, holes } = encoded
      const kept: Encoded = {
        ...encoded,
        bytes: Buffer.from(bytes.subarray(start, end)),
        start: 0,
        end: end - start,
        length,
        holes,
        descriptors: []
      }
      const size = frame.HEADER + length
      this.#waiting.push({
        kind,
        flags: flags | encoded.flags,
        id,
        encoded: kept,
        parcel,
        size,
        sent: byReference?.resolve
      })
      this.#waitingSize += size
    }
    if (byReference !== undefined) return this.#untilEnded(byReference.promise)
    return this.whenDrained()
  }

  /** Before the hello nobody knows whether the peer takes records: then the body is encoded so that it can be turned into either. */
  #encodeWaiting(value: unknown): Encoded {
    if (this.peer !== undefined) return this.#codec.encode(value, false)
    this.#codec.records = true
    try {
      return this.#codec.encode(value, false)
    } finally {
      this.#codec.records = false
    }
  }

  /** Checks what was encoded against every limit; only then are its descriptors moved. */
  #checkedParcel(encoded: Encoded, value: unknown, replyTo: number, allowance: number | undefined): Parcel | undefined {
    const { length, descriptors } = encoded
    try {
      this.#checkLimits(length, descriptors.length, allowance)
      for (const descriptor of descriptors) {
        assertOpen(descriptor)
        if (this.#description !== undefined && isDescription(descriptor, this.#description))
          throw new PassfdError('OWN_SOCKET')
      }
    } catch (error) {
      this.#codec.forget() // the record definitions in this body are never sent
      throw error
    }
    if (descriptors.length === 0) return undefined
    this.#descriptorsOut += descriptors.length
    return new Parcel(
      descriptors.map(descriptor => take(descriptor, replyTo === -1 ? 'send()' : 'a reply')),
      descriptors,
      value,
      replyTo
    )
  }

  #checkLimits(length: number, count: number, allowance: number | undefined): void {
    const { peer, limits } = this
    if (length > limits.maxQueued)
      throw new PassfdError('MESSAGE_TOO_LARGE', {
        size: length,
        whose: "this side's queue (maxQueued)",
        limit: limits.maxQueued
      })
    if (peer !== undefined && length > peer.maxMessage)
      throw new PassfdError('MESSAGE_TOO_LARGE', { size: length, whose: 'the peer', limit: peer.maxMessage })
    const most = allowance ?? peer?.maxDescriptors ?? limits.maxDescriptors
    const whose = allowance === undefined ? 'the peer' : 'the request (its option descriptors)'
    if (count > most) throw new PassfdError('TOO_MANY_DESCRIPTORS', { count, whose, limit: most })
    if (this.backlog + length > limits.maxQueued)
      throw new PassfdError('QUEUE_FULL', { queued: this.backlog, limit: limits.maxQueued, option: 'bytes, maxQueued' })
    if (this.#descriptorsOut + count > limits.maxInFlight)
      throw new PassfdError('QUEUE_FULL', {
        queued: this.#descriptorsOut,
        limit: limits.maxInFlight,
        option: 'descriptors, maxInFlight'
      })
  }

  #append(
    encoded: Encoded,
    kind: number,
    flags: number,
    id: number,
    parcel: Parcel | undefined,
    sent: (() => void) | undefined
  ): void {
    this.#transport.append(encoded, kind, flags, id, parcel, sent)
    this.#schedule()
  }

  #sendWaiting(): void {
    let count = 0
    const waiting = this.#waiting
    while (count < waiting.length && this.#credit > 0) {
      const { kind, flags, id, encoded, parcel, size, sent } = waiting[count++]!
      this.#waitingSize -= size
      this.#credit -= this.#costForPeer(encoded.length, parcel)
      this.#transport.appendKept(encoded, kind, flags, id, parcel, sent)
    }
    if (count === 0) return
    waiting.splice(0, count)
    this.#schedule()
  }

  #costForPeer(length: number, parcel: Parcel | undefined): number {
    return frame.HEADER + length + (parcel === undefined ? 0 : parcel.fds.length * this.peer!.descriptorCost)
  }

  /** The channel is over, or is being closed by the peer: what is moved comes back at once. */
  #sendLate(value: unknown): Promise<void> {
    const { descriptors } = this.#codec.encode(value, false)
    for (const descriptor of descriptors) assertOpen(descriptor)
    if (descriptors.length > 0) {
      const parcel = new Parcel(
        descriptors.map(descriptor => take(descriptor, 'send()')),
        descriptors,
        value,
        -1
      )
      process.nextTick(() => this.#owner.onReturned('unsent', parcel))
    }
    return quiet(Promise.reject(this.#closedError()))
  }

  #closedError(): PassfdError {
    const { error } = this
    return new PassfdError(
      'CLOSED',
      { how: error === undefined ? '' : ` (${error.message})` },
      error === undefined ? {} : { cause: error }
    )
  }

  #drain(): Promise<void> {
    this.#drained ??= deferred()
    return this.#drained.promise
  }

  #untilEnded(promise: Promise<void>): Promise<void> {
    return quiet(
      promise.then(() => {
        if (this.state === 'ended') throw this.#closedError()
      })
    )
  }

  #return(state: ReturnState, parcel: Parcel): void {
    this.#descriptorsOut -= parcel.fds.length
    this.#owner.onReturned(state, parcel)
  }

  // --- receiving, inside

  #onHello(bytes: Buffer, start: number, end: number): void {
    if (this.peer !== undefined) throw new PassfdError('BAD_HELLO', { detail: 'it came twice' })
    const hello = checkHello(decodePlain(bytes, start, end))
    this.peer = hello
    this.#codec.records = this.limits.records && hello.features.includes('records')
    this.#credit = hello.window
    this.#transport.reader.maxBody = this.limits.maxMessage
    clearTimeout(this.#handshakeTimer)
    this.#adaptWaiting(hello)
    if (this.state === 'greeting') {
      this.state = 'open'
      this.#owner.onOpen(hello)
    }
    this.#sendWaiting()
    this.#settle()
  }

  /** What was queued before anyone knew the peer's limits is brought into the form it takes, or comes back. */
  #adaptWaiting(hello: Hello): void {
    for (const item of this.#waiting.splice(0)) {
      this.#waitingSize -= item.size
      const count = item.parcel?.fds.length ?? 0
      if (!this.#codec.records && item.encoded.holes.length === 0) {
        try {
          const plain = detachedToPlain(item.encoded.bytes, item.encoded.start + frame.HEADER, item.encoded.end, count)
          item.encoded = {
            ...plain,
            bytes: Buffer.from(plain.bytes.subarray(plain.start, plain.end)),
            start: 0,
            end: plain.end - plain.start,
            descriptors: []
          }
          item.flags &= ~frame.RECORDS
        } catch (error) {
          this.#giveUp(item, error as Error)
          continue
        }
      }
      const { length } = item.encoded
      if (length > hello.maxMessage)
        this.#giveUp(
          item,
          new PassfdError('MESSAGE_TOO_LARGE', { size: length, whose: 'the peer', limit: hello.maxMessage })
        )
      else if (count > hello.maxDescriptors)
        this.#giveUp(
          item,
          new PassfdError('TOO_MANY_DESCRIPTORS', { count, whose: 'the peer', limit: hello.maxDescriptors })
        )
      else {
        item.size = frame.HEADER + length
        this.#waitingSize += item.size
        this.#waiting.push(item)
      }
    }
  }

  #giveUp(item: Waiting, error: Error): void {
    if (item.parcel !== undefined) this.#return('unsent', item.parcel)
    if (item.kind === frame.REQUEST) this.requests.settle(item.id)?.fail(error)
  }

  #onMessage(
    request: boolean,
    flags: number,
    id: number,
    bytes: Buffer,
    start: number,
    end: number,
    owned: boolean,
    fds: number[]
  ): void {
    const flagged = (flags & frame.RECORDS) !== 0
    const bodyCost = frame.HEADER + end - start
    const cost = bodyCost + fds.length * this.#descriptorCost
    if (this.#granted <= 0 || fds.length > this.limits.maxDescriptors || (request && this.#pending.has(id))) {
      this.#discarded.push(...fds)
      if (this.#granted <= 0) throw new PassfdError('CREDIT_EXCEEDED')
      if (fds.length > this.limits.maxDescriptors)
        throw new PassfdError('DESCRIPTOR_COUNT', {
          detail: `${fds.length} in a message, the limit is ${this.limits.maxDescriptors}`
        })
      throw new PassfdError('BAD_ID', { detail: `request ${id} is still pending` })
    }
    this.#granted -= cost
    if (this.state === 'leaving') {
      // After our goodbye: not confirmed, so that the sender gets them back
      if (flagged) this.#decodeAndForget(bytes, start, end, fds)
      else this.#discarded.push(...fds)
      this.#schedule()
      return
    }
    const descriptors = fds.length === 0 ? NO_DESCRIPTORS : this.#owner.lend(fds, request)
    const value = this.#decode(bytes, start, end, flagged, descriptors, owned)
    this.#takenOwed += fds.length
    if (!request) this.#owner.onMessage(undefined, value, descriptors, bodyCost)
    else if (this.#pending.size >= this.limits.maxPending) {
      for (const descriptor of descriptors) descriptor.close()
      this.#owed += bodyCost
      this.#fault(
        id,
        'ERR_PASSFD_BUSY',
        new PassfdError('BUSY', { detail: `${this.#pending.size} requests are pending` }).message,
        undefined
      )
    } else {
      const incoming = new Incoming(id, flags >>> frame.ALLOWANCE_SHIFT)
      this.#pending.set(id, incoming)
      this.#owner.onMessage(incoming, value, descriptors, bodyCost)
    }
  }

  #decode(
    bytes: Buffer,
    start: number,
    end: number,
    flagged: boolean,
    descriptors: readonly Descriptor[],
    owned: boolean
  ): unknown {
    try {
      return this.#codec.decode(bytes, start, end, flagged, descriptors, owned)
    } catch (error) {
      for (const descriptor of descriptors) descriptor[Symbol.dispose]()
      throw error
    }
  }

  #decodeAndForget(bytes: Buffer, start: number, end: number, fds: number[]): void {
    const descriptors = fds.length === 0 ? NO_DESCRIPTORS : this.#owner.lend(fds, false)
    this.#decode(bytes, start, end, true, descriptors, false)
    for (const descriptor of descriptors) descriptor.close()
  }

  #onReply(flags: number, id: number, bytes: Buffer, start: number, end: number, owned: boolean, fds: number[]): void {
    const request = this.requests.settle(id)
    if (request === undefined || fds.length > request.allowance) {
      this.#discarded.push(...fds)
      if (request === undefined) throw new PassfdError('BAD_ID', { detail: `an answer to ${id}, which is not pending` })
      this.requests.add(request) // so that it fails with the channel
      throw new PassfdError('DESCRIPTOR_COUNT', {
        detail: `${fds.length} in a reply, the request allows ${request.allowance}`
      })
    }
    this.#takenOwed += fds.length
    const flagged = (flags & frame.RECORDS) !== 0
    if (request.cancelled) {
      if (flagged) this.#decodeAndForget(bytes, start, end, fds)
      else this.#discarded.push(...fds)
      this.#settle()
      return
    }
    let value: unknown
    const descriptors = fds.map(own)
    try {
      value = this.#codec.decode(bytes, start, end, flagged, descriptors, owned)
    } catch (error) {
      this.#discarded.push(...descriptors.map(descriptor => take(descriptor, '')))
      this.requests.add(request)
      throw error
    }
    request.succeed(value, descriptors)
    this.#settle()
  }

  #onFault(id: number, bytes: Buffer, start: number, end: number): void {
    const request = this.requests.settle(id)
    if (request === undefined) throw new PassfdError('BAD_ID', { detail: `an answer to ${id}, which is not pending` })
    const remote = remoteError(decodePlain(bytes, start, end))
    if (!request.cancelled) request.fail(new PassfdError('REMOTE', { message: remote.message }, { remote }))
    this.#settle()
  }

  #onCancel(id: number): void {
    const incoming = this.#pending.get(id)
    if (incoming === undefined) this.#transport.refuse(id)
    else {
      incoming.cancelled = true
      incoming.controller?.abort(new PassfdError('CANCELLED'))
    }
  }

  #onTaken(count: number): void {
    const before = this.#transport.untakenDescriptors
    const refused = this.#transport.taken(count)
    this.#descriptorsOut -= before - this.#transport.untakenDescriptors
    if (refused !== undefined)
      for (const parcel of refused) {
        this.#descriptorsOut += parcel.fds.length
        this.#return('refused', parcel)
      }
    this.#settle()
  }

  #onGoodbye(bytes: Buffer, start: number, end: number): void {
    const { code, message, data } = remoteError(decodePlain(bytes, start, end))
    this.#peerSaidGoodbye = true
    if (code !== '') {
      this.end(
        new PassfdError(
          'PEER',
          { code, message },
          { remote: data === undefined ? { code, message } : { code, message, data } }
        ),
        false
      )
      return
    }
    if (this.peer === undefined) {
      this.end(new PassfdError('DISCONNECTED'), false)
      return
    }
    if (this.state !== 'leaving') this.#sayGoodbye()
    this.#settle()
  }

  /** A frame that has begun must go on; looked at with one timer, not one a frame. */
  #watchForStall(): void {
    const { frameTimeout } = this.limits
    if (frameTimeout === 0 || this.#stallTimer !== undefined) return
    if (!this.#transport.reader.partial && this.#transport.ahead === 0) return
    this.#stallMark = this.#progress()
    this.#stallTimer = setTimeout(() => {
      this.#stallTimer = undefined
      if (!this.#transport.reader.partial && this.#transport.ahead === 0) return
      if (this.#progress() === this.#stallMark)
        this.end(new PassfdError('FRAME_STALLED', { timeout: frameTimeout }), true)
      else this.#watchForStall()
    }, frameTimeout)
    this.#stallTimer.unref()
  }

  /** Changes whenever a byte has come. */
  #progress(): number {
    return this.#transport.received
  }

  // --- control frames

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    if (dirty.length === 0) process.nextTick(flushDirty)
    dirty.push(this)
  }

  #confirm(): void {
    this.#transport.appendBare(frame.TAKEN, this.#takenOwed)
    this.#takenOwed = 0
  }

  /** Credit is returned in large pieces, in small ones only when the peer has little left, and not while it doesn't read what we write. */
  #needsGrant(): boolean {
    const { window, highWaterMark } = this.limits
    if (this.#owed <= 0 || this.#transport.waiting > highWaterMark) return false
    return this.#owed * 8 >= window || this.#granted * 2 < window
  }

  #grant(): void {
    const amount = Math.min(this.#owed, MAX_GRANT)
    this.#owed -= amount
    this.#granted += amount
    this.#transport.appendBare(frame.CREDIT, amount)
  }

  #discardNow(): void {
    const fds = this.#discarded
    this.#discarded = []
    this.#transport.wire.discard(fds, count => {
      if (this.state !== 'ended') this.consumed(count * this.#descriptorCost)
    })
  }

  #fault(id: number, code: string, message: string, data: unknown): void {
    this.#append(
      this.#encodeFault({ code, message: message.slice(0, MAX_TEXT), ...(data === undefined ? {} : { data }) }),
      frame.FAULT,
      0,
      id,
      undefined,
      undefined
    )
  }

  /** A fault is always delivered, if need be without its data and with a shorter message. */
  #encodeFault(fault: { code: string; message: string; data?: unknown }): Encoded {
    const limit = this.peer?.maxMessage ?? frame.MAX_HELLO
    if ('data' in fault) {
      try {
        const encoded = encodePlain(fault)
        if (encoded.length <= limit && encoded.descriptors.length === 0) return encoded
      } catch {
        // data that can't be encoded stays here
      }
    }
    const encoded = encodePlain({ code: fault.code, message: fault.message })
    return encoded.length <= limit ? encoded : encodePlain({ code: fault.code.slice(0, 64), message: '' })
  }

  #cancel(request: OutgoingRequest): void {
    const at = this.#waiting.findIndex(item => item.kind === frame.REQUEST && item.id === request.id)
    if (at >= 0) {
      const [item] = this.#waiting.splice(at, 1) as [Waiting]
      this.#waitingSize -= item.size
      this.requests.settle(request.id)
      item.sent?.()
      if (item.parcel !== undefined) this.#return('unsent', item.parcel)
    } else if (this.state === 'open' || this.state === 'draining') {
      this.#transport.appendBare(frame.CANCEL, request.id)
      this.#schedule()
    }
    this.#settle()
  }

  // --- closing, inside

  /** Goes on with closing as far as that is possible now, and lets those who wait for room go on. */
  #settle(): void {
    if (
      this.state === 'draining' &&
      this.requests.size === 0 &&
      this.#waiting.length === 0 &&
      this.#descriptorsOut === 0 &&
      this.peer !== undefined
    )
      this.#sayGoodbye()
    if (this.state === 'leaving') this.#schedule()
  }

  #sayGoodbye(): void {
    this.state = 'leaving'
    this.#startCloseTimer()
    for (const item of this.#waiting.splice(0)) {
      this.#waitingSize -= item.size
      item.sent?.()
      this.#giveUp(item, this.#closedError())
    }
    if (this.#takenOwed > 0) this.#confirm()
    this.#transport.append(encodePlain({}), frame.GOODBYE, 0, 0, undefined)
    this.#schedule()
  }

  #afterWrite(): void {
    if (this.#drained !== undefined && this.backlog < this.limits.highWaterMark) {
      this.#drained.resolve()
      this.#drained = undefined
    }
    if (
      this.state === 'leaving' &&
      this.#peerSaidGoodbye &&
      !this.#shutDown &&
      this.#pending.size === 0 &&
      this.#transport.waiting === 0 &&
      this.#descriptorsOut === 0
    ) {
      this.#shutDown = true
      this.#transport.wire.shutdown()
    }
  }

  #lastWords(error: Error | undefined): void {
    if (!this.#helloSent && this.peer === undefined && error === undefined) return
    if (this.#takenOwed > 0 && this.peer !== undefined) this.#confirm()
    const code = (error as NodeJS.ErrnoException | undefined)?.code ?? 'ERR_PASSFD_DESTROYED'
    const message = error instanceof PassfdError ? error.message : 'the channel was destroyed'
    this.#transport.append(
      encodePlain({ code: String(code).slice(0, 64), message: message.slice(0, MAX_TEXT) }),
      frame.GOODBYE,
      0,
      0,
      undefined
    )
    this.#transport.flush()
  }

  #startCloseTimer(): void {
    const { closeTimeout } = this.limits
    this.#closeTimer ??= setTimeout(() => {
      this.end(this.#peerSaidGoodbye ? undefined : new PassfdError('CLOSE_TIMEOUT', { timeout: closeTimeout }), false)
    }, closeTimeout)
  }
}

/** Tells a peer that is not let in why, before any hello, and closes the wire. */
export function refuse(wire: Wire, error: PassfdError): void {
  const { bytes, start, end, length } = encodePlain({ code: error.code, message: error.message.slice(0, MAX_TEXT) })
  frame.writeHeader(bytes, start, length, frame.GOODBYE, 0, 0, 0)
  wire.send(bytes, start, end, NO_NUMBERS, 0)
  wire.end()
}

function deferred(): { promise: Promise<void>; resolve(): void; reject(error: Error): void } {
  let resolve!: () => void
  let reject!: (error: Error) => void
  const promise = quiet(
    new Promise<void>((yes, no) => {
      resolve = yes
      reject = no
    })
  )
  return { promise, resolve, reject }
}

/** Its rejection need not be caught: 'close' tells the same. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}

/** What a fault or goodbye says, whatever the peer made of it. */
function remoteError(body: unknown): RemoteError {
  const { code, message, data } = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>
  return {
    code: typeof code === 'string' ? code : '',
    message: typeof message === 'string' ? message : '',
    ...(data === undefined || data === null ? {} : { data })
  }
}

const EPIPE = -32
const ECONNRESET = -104
const ENOTCONN = -107
const MAX_TEXT = 512
const NO_NUMBERS = new Int32Array(0)
const NO_DESCRIPTORS: Descriptor[] = []
