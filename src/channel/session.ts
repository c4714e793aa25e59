/**
 * The protocol's state machine over one transport: hello, credit, taken, requests, closing. It knows no socket and no user.
 *
 *   greeting ──peer's hello──▶ open ──close()──▶ draining ──all settled──▶ leaving ──peer's goodbye, end of file──▶ ended
 *                                └────────────────peer's goodbye─────────────▶┘
 *   any state ──violation, destroy(), lost peer──▶ ended
 */

import { setImmediate } from 'node:timers'
import { AsyncContext } from '../base/async-context.ts'
import { type Deferred, deferred, quiet, RESOLVED } from '../base/deferred.ts'
import { EndSignals } from '../base/end-signals.ts'
import { ECONNRESET, ENOTCONN, EPIPE } from '../base/errno.ts'
import { PassfdError, systemError, textOf } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { keepAlive } from '../base/timers.ts'
import { type Codec, decodePlain, type Encoded, encodePlain, isEncoding, refuseNested } from '../codec/codec.ts'
import * as frame from '../codec/frame.ts'
import { assertOpen, type Descriptor, isDescription, moveOutShared, own, received } from '../descriptor/descriptor.ts'
import { Credit } from './credit.ts'
import { Waiting, WaitingQueue } from './credit-queue.ts'
import { decodeError, encodeFault, encodeLastWords, peerError, tell } from './fault.ts'
import { checkHello, type Hello, sayHello } from './hello.ts'
import type { Limits } from './options.ts'
import { type OutgoingRequest, RequestTable } from './own-requests.ts'
import { Incoming, IncomingTable } from './peer-requests.ts'
import { Parcel, Transport, type TransportOwner } from './transport.ts'
import type { Wire } from './wire.ts'
import { microtask, nextTick } from './write-scheduler.ts'

export type ReturnState = 'unsent' | 'unconfirmed' | 'refused'

/** What a session tells the channel on top of it. */
export interface SessionOwner {
  onOpen(hello: Hello): void
  /**
   * A message, or a request that waits for an answer. The descriptors were made by `lend`. True: the program has it. False: it waits, and
   * the owner calls `consumed` with its `cost` when the program is given it.
   */
  onMessage(incoming: Incoming | undefined, value: unknown, descriptors: readonly Descriptor[], cost: number): boolean
  /** Makes lent Descriptors of numbers that have arrived. */
  lend(fds: readonly number[], request: boolean): Descriptor[]
  /** Descriptors that were moved and not taken. */
  onReturned(state: ReturnState, parcel: Parcel): void
  /** `error` undefined: both sides said goodbye. */
  onEnd(error: Error | undefined): void
  /** It has ended, and the application holds nothing any more that was lent to it. */
  onGivenBack(): void
}

type State = 'greeting' | 'open' | 'draining' | 'leaving' | 'ended'

/** Shared by all messages without any, which give it to the program. */
const NO_DESCRIPTORS: readonly Descriptor[] = Object.freeze([])
/** Shared by all who discard nothing now; nothing is put into it. */
const NO_FDS: number[] = []

/** Whose limit it is, in errors. */
const OWN_QUEUE = "this side's queue (maxQueued)"
const THE_PEER = 'the peer (maxMessage)'

/** The kinds of frames that may follow a goodbye. */
const MAY_FOLLOW: readonly number[] = [frame.REPLY, frame.FAULT, frame.TAKEN, frame.DEFINITIONS]

/** Descriptors of this process that are being closed off the loop. A peer whose closes hang has soon more than this. */
const FEW_CLOSES = 1024

export class Session implements TransportOwner {
  readonly limits: Limits
  state: State = 'greeting'
  /** What ended it, if that was an error. */
  error: Error | undefined
  peer: Hello | undefined
  /** Called when the peer has taken all descriptors that it was sent. */
  onAllTaken: (() => void) | undefined
  /** That in which the channel was opened. */
  readonly context = new AsyncContext('PASSFD_CHANNEL')

  readonly #owner: SessionOwner
  readonly #transport: Transport
  readonly #codec: Codec
  readonly #description: object | undefined
  readonly #credit: Credit
  readonly #incoming = new IncomingTable()
  #requests: RequestTable | undefined
  readonly #waiting = new WaitingQueue()
  #scheduled = false
  /** Arrived descriptors that the peer has not been told of. */
  #takenOwed = 0
  /** Where in the outgoing stream the last confirmation or credit ends. */
  #controlEnd = 0
  /** Descriptors that the application has been given and has neither claimed nor given back. */
  #lent = 0
  /** Numbers to be closed off the loop. */
  #discarded = NO_FDS
  /** Descriptors moved and not taken. */
  #descriptorsOut = 0
  #peerSaidGoodbye = false
  #shutDown = false
  #drained: Deferred | undefined
  #endSignals: EndSignals | undefined
  #handshakeTimer: NodeJS.Timeout | undefined
  #closeTimer: NodeJS.Timeout | undefined
  #stallTimer: NodeJS.Timeout | undefined

  /** `description`: the token of the socket's own Descriptor, if there was one. */
  constructor(wire: Wire, codec: Codec, limits: Limits, owner: SessionOwner, description?: object) {
    this.#description = description
    this.limits = limits
    this.#owner = owner
    this.#codec = codec
    codec.limit = { bytes: limits.maxQueued, whose: OWN_QUEUE }
    this.#transport = new Transport(wire, this)
    this.#credit = new Credit(limits.window)
  }

  /** Requests of this side; most ends of a server never make one. */
  get requests(): RequestTable {
    this.#requests ??= new RequestTable(request => this.#cancel(request))
    return this.#requests
  }

  /** Says hello and starts to read. `timeout` in ms for the peer's hello, 0 for none. */
  start(timeout: number): void {
    this.#transport.wire.start(this.#transport) // first, as it may throw
    this.#appendPlain(frame.HELLO, sayHello(this.limits))
    if (timeout > 0)
      this.#handshakeTimer = setTimeout(
        () => this.end(new PassfdError('HANDSHAKE_TIMEOUT', { timeout: this.limits.handshakeTimeout }), true),
        timeout
      )
    this.flush()
  }

  // --- sending

  /** Bytes that wait for credit or for the socket. */
  get backlog(): number {
    return this.#transport.waiting + this.#waiting.size
  }

  /** Sends a message. Misuse throws and moves nothing. */
  send(value: unknown): Promise<void> {
    if (this.state !== 'open' && this.state !== 'greeting') return this.#sendLate(value)
    return this.#dispatch(frame.MESSAGE, 0, 0, value)
  }

  /** Sends a request. `allowance`: how many descriptors its reply may carry. */
  request(value: unknown, allowance: number, request: OutgoingRequest): void {
    if (this.state !== 'open' && this.state !== 'greeting') {
      void this.#sendLate(value)
      request.fail(this.#closedError())
      return
    }
    const { maxPending, maxUnclaimed } = this.limits
    if (this.requests.size >= maxPending) throw new PassfdError('TOO_MANY_REQUESTS', { count: this.requests.size })
    const queued = this.requests.allowance + allowance
    if (queued > maxUnclaimed)
      throw new PassfdError('QUEUE_FULL', {
        what: 'Too many descriptors are allowed to the replies that are awaited',
        queued,
        limit: maxUnclaimed,
        option: 'maxUnclaimed',
        remedy: 'Await some replies first, or allow fewer with the option descriptors of request()'
      })
    request.id = this.requests.nextId()
    request.allowance = allowance
    void this.#dispatch(frame.REQUEST, allowance << frame.ALLOWANCE_SHIFT, request.id, value)
    if (this.#isOver()) request.fail(this.#closedError())
    else this.requests.add(request)
  }

  /** Answers a request with a value; `answer` comes with what is returned, if the kernel refuses it. Throws, and answers nothing, if the value or its descriptors can't be sent. */
  reply(incoming: Incoming, value: unknown, answer?: object): Promise<void> {
    if (!this.#incoming.has(incoming)) return this.#sendLate(value)
    const { id, allowance, cancelled } = incoming
    const encoded = cancelled ? this.#codec.encode(value, false) : this.#encodeNext(value)
    if (!this.#incoming.has(incoming)) return this.#comeBack(encoded, value)
    const parcel = this.#checkedParcel(encoded, value, id, allowance)
    if (parcel !== undefined) {
      parcel.kind = frame.REPLY
      parcel.answer = answer
    }
    if (cancelled) {
      // Nobody waits: the descriptors come back without having travelled
      this.fault(incoming, new PassfdError('CANCELLED'))
      if (parcel !== undefined) this.#return('refused', parcel)
      return this.whenDrained()
    }
    this.#incoming.delete(incoming)
    const byReference = encoded.holes.length > 0 ? deferred() : undefined
    if (parcel !== undefined) parcel.sent = byReference
    this.#transport.append(encoded, frame.REPLY, encoded.flags, id, parcel, byReference?.resolve)
    this.#scheduleSoon()
    return byReference === undefined ? this.whenDrained() : this.#whenSent(byReference)
  }

  /** Answers a request with an error: its `code`, `message` and `data`. */
  fault(incoming: Incoming, error: unknown): void {
    if (isEncoding()) {
      // A getter has put the request aside, or has failed it; the slab is being written to
      process.nextTick(() => this.fault(incoming, error))
      return
    }
    if (!this.#incoming.has(incoming)) return
    this.#incoming.delete(incoming)
    this.#fault(incoming.id, error)
  }

  /** Gives the descriptors of a value that was given away and can't be sent back to the program. */
  giveBack(value: unknown, descriptors: readonly Descriptor[]): void {
    const fds = descriptors.map(descriptor => moveOutShared(descriptor, 'an answer'))
    this.#owner.onReturned('unsent', new Parcel(fds, descriptors, value, -1))
  }

  /** Resolves when fewer bytes than the high-water mark are queued, and fewer than half of the descriptors that may be under way are. */
  whenDrained(): Promise<void> {
    if (this.state === 'ended') return quiet(Promise.reject(this.#closedError()))
    if (this.#belowMark()) return RESOLVED
    this.#drained ??= deferred()
    return this.#drained.promise
  }

  // --- what the application has done with what it was given

  /** The application was given a message that cost this much. */
  consumed(cost: number): void {
    this.#credit.owe(cost)
    if (this.#credit.due) this.#schedule()
  }

  /** A lent descriptor was claimed. */
  kept(): void {
    this.consumed(this.limits.descriptorCost)
    this.#lent--
    this.#checkLent()
  }

  /** A lent descriptor is to be closed, off the loop. Its cost returns then. */
  discard(fd: number): void {
    this.#lent--
    this.#checkLent()
    if (this.state === 'ended') this.#transport.wire.discard([fd], undefined)
    else {
      this.#discardLater(fd)
      this.#schedule()
    }
  }

  /** A new signal that is aborted at the end; aborted already if it has ended. */
  makeEndSignal(): AbortSignal {
    if (this.state === 'ended') return AbortSignal.abort(this.#closedError())
    this.#endSignals ??= new EndSignals()
    return this.#endSignals.make()
  }

  // --- closing

  /** Refuses new sends, lets what is under way settle, says goodbye. */
  close(): void {
    if (this.state !== 'greeting' && this.state !== 'open') return
    this.state = 'draining'
    this.#startCloseTimer()
    this.#settle()
  }

  /** Ends it now. `tell`: the peer hears the error's code first. */
  end(error: Error | undefined, tell: boolean): void {
    if (this.state === 'ended') return
    const saidGoodbye = this.state === 'leaving'
    this.state = 'ended'
    this.error = error
    for (const timer of [this.#handshakeTimer, this.#closeTimer, this.#stallTimer]) clearTimeout(timer)
    if (tell) this.#sayLastWords(saidGoodbye, error)
    if (this.#discarded.length > 0) this.#discardNow()
    for (const parcel of this.#transport.takeRefused()) this.#takeBack(parcel)
    for (const { parcel, left } of this.#transport.end()) this.#return(left ? 'unconfirmed' : 'unsent', parcel)
    const closed = this.#closedError()
    for (const { parcel, sent } of this.#waiting.takeAll()) {
      sent?.reject(closed)
      if (parcel !== undefined) this.#return('unsent', parcel)
    }
    this.#incoming.endAll(closed, this.context)
    this.#endSignals?.abort(closed, this.context)
    this.#requests?.failAll(closed)
    this.#drained?.reject(closed)
    this.#drained = undefined
    this.#owner.onEnd(error)
    this.#checkLent()
  }

  ref(): void {
    this.#transport.wire.ref()
  }

  unref(): void {
    this.#transport.wire.unref()
  }

  /** Writes what has gathered so far. */
  write(): void {
    this.#transport.flush()
  }

  /** Descriptors that were sent and that the peer has not taken. */
  get descriptorsOut(): number {
    return this.#descriptorsOut
  }

  /** Writes what has gathered: confirmations and credit first of all. */
  flush(): void {
    this.#scheduled = false
    if (this.state === 'ended') return
    this.#appendControl()
    this.#transport.flush()
    // What has left just now may make room for credit that was held back
    if (this.#appendControl()) this.#transport.flush()
    this.#afterWrite()
    this.#spin()
    // To wake a helper thread takes longer than all the rest: an answer does not wait for it
    if (this.#discarded.length > 0) this.#discardNow()
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
    if (this.peer === undefined && kind !== frame.HELLO && kind !== frame.GOODBYE)
      this.#violate(fds, new PassfdError('BAD_HELLO', { detail: `a frame of kind ${kind} came before it` }))
    if (this.#peerSaidGoodbye && !MAY_FOLLOW.includes(kind))
      this.#violate(fds, new PassfdError('BAD_FRAME', { detail: `kind ${kind} came after goodbye` }))
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
        this.#credit.receive(id)
        this.#sendWaiting()
        break
      case frame.TAKEN:
        this.#onTaken(id)
        break
      case frame.DEFINITIONS:
        this.#onDefinitions(flags, id, bytes, start, end)
        break
      case frame.HELLO:
        this.#onHello(bytes, start, end)
        break
      default:
        this.#onGoodbye(bytes, start, end)
    }
    return !this.#isOver()
  }

  onReadDone(): void {
    if (this.state === 'ended') return
    if (this.#scheduled || this.#takenOwed > 0 || this.#credit.due || this.#discarded.length > 0) this.flush()
    this.#watchForStall()
    this.#spin()
  }

  onViolation(error: PassfdError): void {
    this.end(error, true)
  }

  onReadEnd(result: number): void {
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
    if (this.state === 'ended') return // it was the last words
    if (errno === EPIPE || errno === ECONNRESET || errno === ENOTCONN) this.#startCloseTimer()
    else queueMicrotask(() => this.end(systemError(errno, 'sendmsg'), false))
  }

  /** Such messages come back, requests fail, and to requests of the peer the answer is a fault. All others go on. */
  onRefused(parcels: readonly Parcel[]): void {
    for (const parcel of parcels) this.#takeBack(parcel)
    if (this.#isOver()) return
    this.#sendWaiting()
    this.#settle()
  }

  /** The peer was promised the rest of that frame, so nothing can follow. */
  onUnwritable(error: Error): void {
    queueMicrotask(() => this.end(error, false))
  }

  // --- sending, inside

  #dispatch(kind: number, flags: number, id: number, value: unknown): Promise<void> {
    const final = this.#credit.available > 0 && this.#waiting.length === 0 && this.peer !== undefined
    const encoded = final ? this.#encodeNext(value) : this.#encodeWaiting(value)
    if (this.#isOver()) return this.#comeBack(encoded, value) // a getter of the value has ended the channel
    const parcel = this.#checkedParcel(encoded, value, -1, undefined)
    const byReference = encoded.holes.length > 0 ? deferred() : undefined
    flags |= encoded.flags
    if (parcel !== undefined) {
      parcel.kind = kind
      parcel.id = id
      parcel.sent = byReference
    }
    if (final) {
      this.#pay(encoded, parcel)
      this.#transport.append(encoded, kind, flags, id, parcel, byReference?.resolve)
      if (kind === frame.REQUEST) this.#scheduleSoon()
      else this.#schedule()
    } else {
      const kept = this.peer === undefined ? value : undefined
      this.#waiting.push(new Waiting(kind, flags, id, this.#waiting.keep(encoded), parcel, byReference, kept))
    }
    return byReference === undefined ? this.whenDrained() : this.#whenSent(byReference)
  }

  /** For a body that is queued for the socket at once: straight into the outgoing slab. */
  #encodeNext(value: unknown): Encoded {
    refuseNested()
    const { slab } = this.#transport // first: it may be a new one
    const { slabEnd } = this.#transport
    // It overtakes what waits for credit, whose records must not get another meaning by it
    if (this.#waiting.streamed > 0) return this.#codec.encodeKnown(value, slab, slabEnd)
    return this.#codec.encode(value, true, slab, slabEnd)
  }

  /** Before the hello nobody knows whether the peer takes records: then the body is encoded so that it can be turned into either. */
  #encodeWaiting(value: unknown): Encoded {
    refuseNested()
    const { slab } = this.#waiting
    if (this.peer !== undefined) return this.#codec.encodeKnown(value, slab, this.#waiting.slabEnd)
    this.#codec.records = true
    try {
      return this.#codec.encode(value, false, slab, this.#waiting.slabEnd)
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
    if (descriptors.length === 0 && encoded.holes.length === 0) return undefined
    this.#descriptorsOut += descriptors.length
    const parcel = moved(descriptors, value, replyTo)
    parcel.defines = this.#codec.defines
    return parcel
  }

  #checkLimits(length: number, count: number, allowance: number | undefined): void {
    const { peer, limits } = this
    const { maxQueued, maxInFlight } = limits
    if (length > maxQueued) throw tooLarge(length, OWN_QUEUE, maxQueued)
    if (peer !== undefined && length > peer.maxMessage) throw tooLarge(length, THE_PEER, peer.maxMessage)
    if (this.backlog + length > maxQueued) throw queueFull(this.backlog, maxQueued, 'maxQueued')
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
    if (this.#descriptorsOut + count > maxInFlight) throw queueFull(this.#descriptorsOut, maxInFlight, 'maxInFlight')
  }

  #sendWaiting(): void {
    if (this.#waiting.length === 0) return
    this.#waiting.takeWhile(
      () => this.#credit.available > 0,
      ({ kind, flags, id, encoded, parcel, sent }) => {
        this.#pay(encoded, parcel)
        this.#transport.append(encoded, kind, flags, id, parcel, sent?.resolve)
      }
    )
    this.#schedule()
    this.#settle()
  }

  /** What a message or request costs of the peer's credit. */
  #pay({ length }: Encoded, parcel: Parcel | undefined): void {
    let cost = frame.HEADER + length
    if (parcel !== undefined) {
      cost += parcel.fds.length * this.peer!.descriptorCost
      parcel.cost = cost
    }
    this.#credit.available -= cost
  }

  /** The channel is over, or is being closed by the peer: what is moved comes back at once. */
  #sendLate(value: unknown): Promise<void> {
    return this.#comeBack(this.#codec.encode(value, false), value)
  }

  #comeBack({ descriptors }: Encoded, value: unknown): Promise<void> {
    for (const descriptor of descriptors) assertOpen(descriptor)
    if (descriptors.length > 0) {
      const parcel = moved(descriptors, value, -1)
      // Not in this tick: a listener that sends it again must not keep the loop from everything else
      setImmediate(() => this.#owner.onReturned('unsent', parcel))
    }
    return quiet(Promise.reject(this.#closedError()))
  }

  #whenSent({ promise }: Deferred): Promise<void> {
    return quiet(
      promise.then(() => {
        if (this.state === 'ended') throw this.#closedError()
      })
    )
  }

  #fault(id: number, error: unknown): void {
    const told = tell(error)
    if (this.#isOver()) return // by a getter of the error
    const { slab } = this.#transport
    const encoded = encodeFault(told, this.peer!.maxMessage, slab, this.#transport.slabEnd)
    if (this.#isOver()) return // by a getter of its data
    this.#transport.append(encoded, frame.FAULT, 0, id, undefined)
    this.#scheduleSoon()
  }

  #appendPlain(kind: number, value: unknown): void {
    const { slab } = this.#transport
    this.#transport.append(encodePlain(value, slab, this.#transport.slabEnd), kind, 0, 0, undefined)
  }

  #takeBack(parcel: Parcel): void {
    const { kind, id, cost, replyTo } = parcel
    const error = parcel.error!
    this.#credit.available += cost
    if (kind === frame.REQUEST) {
      const request = this.requests.settle(id)
      if (request?.cancelled === false) request.fail(error)
      if (parcel.fds.length === 0) return // it only had binary values: its promise has told
    } else if (kind === frame.REPLY && !this.#isOver()) this.#fault(replyTo, error)
    this.#return('unsent', parcel)
  }

  #return(state: ReturnState, parcel: Parcel): void {
    if (parcel.fds.length === 0 && parcel.error === undefined) return // it only has binary values: its promise tells
    this.#descriptorsOut -= parcel.fds.length
    this.#owner.onReturned(state, parcel)
  }

  #closedError(): PassfdError {
    const { error } = this
    if (error === undefined) return new PassfdError('CLOSED')
    const how = ` (${textOf(error).replace(/[.]$/, '')})`
    return new PassfdError('CLOSED', { how }, { cause: error })
  }

  // --- receiving, inside

  #onHello(bytes: Buffer, start: number, end: number): void {
    if (this.peer !== undefined) throw new PassfdError('BAD_HELLO', { detail: 'it came twice' })
    const hello = checkHello(decodePlain(bytes, start, end))
    this.peer = hello
    if (hello.maxMessage < this.limits.maxQueued) this.#codec.limit = { bytes: hello.maxMessage, whose: THE_PEER }
    this.#codec.records = this.limits.records && hello.features.includes('records')
    this.#transport.takesDefinitions = this.#codec.records && hello.features.includes('definitions')
    this.#credit.receive(hello.window)
    this.#transport.reader.maxBody = this.limits.maxMessage
    clearTimeout(this.#handshakeTimer)
    this.#handshakeTimer = undefined
    const unfit: { item: Waiting; error: Error }[] = []
    for (const item of this.#waiting.takeAll()) {
      try {
        item.adapt(hello, this.#codec.records)
        this.#waiting.push(item)
      } catch (error) {
        unfit.push({ item, error: error as Error })
      }
    }
    // Only now, as whoever gets one back may send another
    for (const { item, error } of unfit) this.#comeBackUnfit(item, error)
    if (this.state === 'greeting') {
      this.state = 'open'
      this.#owner.onOpen(hello)
    }
    this.#sendWaiting()
    this.#settle()
  }

  /** The peer does not take it. The promise of a message may have resolved long ago, so even one without descriptors comes back. */
  #comeBackUnfit({ kind, id, parcel, sent, value }: Waiting, error: Error): void {
    sent?.reject(error)
    if (kind === frame.REQUEST) this.requests.settle(id)?.fail(error)
    const returned = parcel ?? new Parcel([], [], value, -1)
    returned.error = error
    if (kind === frame.MESSAGE || returned.fds.length > 0) this.#return('unsent', returned)
  }

  #giveUp({ kind, id, parcel, sent }: Waiting, error: Error): void {
    sent?.reject(error)
    if (parcel !== undefined) this.#return('unsent', parcel)
    if (kind === frame.REQUEST) this.requests.settle(id)?.fail(error)
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
    const { maxDescriptors, maxPending, descriptorCost } = this.limits
    const flagged = (flags & frame.RECORDS) !== 0
    const bodyCost = frame.HEADER + end - start
    if (this.#credit.granted <= 0) this.#violate(fds, new PassfdError('CREDIT_EXCEEDED'))
    if (fds.length > maxDescriptors)
      this.#violate(fds, countError(`${fds.length} in a message, the limit is ${maxDescriptors}`))
    if (request && this.#incoming.get(id) !== undefined)
      this.#violate(fds, new PassfdError('BAD_ID', { detail: `request ${id} is still pending` }))
    this.#credit.granted -= bodyCost + fds.length * descriptorCost
    if (this.state === 'leaving') {
      // After our goodbye: not confirmed, so that the sender gets them back
      for (const fd of this.#drop(flagged, bytes, start, end, fds)) this.#discardLater(fd)
      return
    }
    const descriptors = fds.length === 0 ? NO_DESCRIPTORS : this.#owner.lend(fds, request)
    this.#lent += fds.length
    const value = this.#decode(bytes, start, end, flagged, descriptors, owned)
    this.#takenOwed += fds.length
    if (!request) this.#give(undefined, value, descriptors, bodyCost)
    else if (this.#incoming.size >= maxPending) {
      for (const descriptor of descriptors) descriptor.close()
      this.#credit.owe(bodyCost)
      this.#fault(id, new PassfdError('BUSY', { detail: `${maxPending} requests are pending` }))
    } else {
      const incoming = new Incoming(id, Math.min(flags >>> frame.ALLOWANCE_SHIFT, MAX_RIGHTS))
      this.#incoming.add(incoming)
      this.#give(incoming, value, descriptors, bodyCost)
    }
  }

  #give(incoming: Incoming | undefined, value: unknown, descriptors: readonly Descriptor[], cost: number): void {
    if (this.#owner.onMessage(incoming, value, descriptors, cost)) this.consumed(cost)
  }

  #onReply(flags: number, id: number, bytes: Buffer, start: number, end: number, owned: boolean, fds: number[]): void {
    const flagged = (flags & frame.RECORDS) !== 0
    const request = this.requests.get(id)
    if (request === undefined)
      this.#violate(fds, new PassfdError('BAD_ID', { detail: `an answer to ${id}, which is not pending` }))
    if (fds.length > request.allowance)
      this.#violate(fds, countError(`${fds.length} in a reply, the request allows ${request.allowance}`))
    if (request.cancelled) {
      // They were never counted against the credit, so closing them returns none
      const dropped = this.#drop(flagged, bytes, start, end, fds)
      if (dropped.length > 0) this.#transport.wire.discard(dropped, undefined)
      this.#takenOwed += fds.length
      this.requests.settle(id)
    } else {
      const descriptors = fds.map(received)
      const value = this.#decode(bytes, start, end, flagged, descriptors, owned)
      this.#takenOwed += fds.length
      this.requests.settle(id)
      request.succeed(value, descriptors)
    }
    this.#settle()
  }

  #onFault(id: number, bytes: Buffer, start: number, end: number): void {
    const remote = decodeError(bytes, start, end, false)
    const request = this.requests.settle(id)
    if (request === undefined) throw new PassfdError('BAD_ID', { detail: `an answer to ${id}, which is not pending` })
    if (!request.cancelled) request.fail(new PassfdError('REMOTE', { message: remote.message }, { remote }))
    this.#settle()
  }

  #onCancel(id: number): void {
    const incoming = this.#incoming.get(id)
    if (incoming === undefined) this.#transport.refuse(id)
    else this.context.run(incoming.cancel, incoming)
  }

  /** What it had to say has gone back to its sender. It costs no credit. */
  #onDefinitions(flags: number, count: number, bytes: Buffer, start: number, end: number): void {
    if ((flags & frame.RECORDS) === 0)
      throw new PassfdError('BAD_FRAME', { detail: 'a frame of definitions uses no records' })
    if (count > MAX_RIGHTS) throw new PassfdError('BAD_FRAME', { detail: `${count} descriptors in a frame` })
    this.#codec.learn(bytes, start, end, count)
  }

  #onTaken(count: number): void {
    const { refused, closing } = this.#transport.taken(count)
    // Off the loop: if the peer has closed its own already, these are the last, and it may have made their close wait
    if (closing.length > 0)
      this.#closeAside(closing, () => {
        this.#descriptorsOut -= closing.length
        this.#settle()
        if (this.#descriptorsOut === 0) this.onAllTaken?.()
      })
    for (const parcel of refused) this.#return('refused', parcel)
    this.#settle()
  }

  #onGoodbye(bytes: Buffer, start: number, end: number): void {
    const remote = decodeError(bytes, start, end, true)
    this.#peerSaidGoodbye = true
    if (remote.code !== '') this.end(peerError(remote), false)
    else if (this.peer === undefined) this.end(new PassfdError('REFUSED'), false)
    else {
      if (this.state !== 'leaving') this.#sayGoodbye()
      this.#schedule()
    }
  }

  #checkLent(): void {
    if (this.#lent > 0 || this.state !== 'ended') return
    this.#owner.onGivenBack()
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
      for (const descriptor of descriptors) this.#discardLater(moveOutShared(descriptor, ''))
      throw error
    }
  }

  /** Nobody wants it: gives the numbers to be closed. A flagged body may define records that later ones use. */
  #drop(flagged: boolean, bytes: Buffer, start: number, end: number, fds: readonly number[]): readonly number[] {
    if (!flagged) return fds
    const descriptors = fds.map(own)
    this.#decode(bytes, start, end, true, descriptors, false)
    return descriptors.map(descriptor => moveOutShared(descriptor, ''))
  }

  #violate(fds: readonly number[], error: PassfdError): never {
    for (const fd of fds) this.#discardLater(fd)
    throw error
  }

  /** A frame that has begun must go on; looked at with one timer, not one a frame. */
  #watchForStall(): void {
    const { frameTimeout } = this.limits
    const transport = this.#transport
    if (frameTimeout === 0 || this.#stallTimer !== undefined || !transport.incomplete) return
    const { received } = transport
    this.#stallTimer = setTimeout(() => {
      this.#stallTimer = undefined
      if (!transport.incomplete) return
      if (transport.received === received) this.end(new PassfdError('FRAME_STALLED', { timeout: frameTimeout }), true)
      else this.#watchForStall()
    }, frameTimeout)
    keepAlive(this.#stallTimer, false)
  }

  #spin(): void {
    if (this.limits.spin > 0) this.#transport.wire.spin(this.limits.spin)
  }

  // --- control frames

  /** Writes when the program has sent what it has to send now. Answers to what is being read leave when all of that is read. */
  #schedule(writers = nextTick): void {
    if (this.#scheduled) return
    this.#scheduled = true
    if (!this.#transport.reading) writers.add(this)
  }

  /**
   * The same, as soon as the promises that are settled now have had their say: for requests and answers, which somebody waits for. A
   * program that awaits one `send` after the other would make a write of each.
   */
  #scheduleSoon(): void {
    this.#schedule(microtask)
  }

  /**
   * Confirmations and credit. Until the last ones have left further ones only add up, so that a peer that doesn't read can't make
   * us queue them; but they don't wait for the whole queue to leave, which a busy sender's never does.
   */
  #appendControl(): boolean {
    const transport = this.#transport
    if (this.peer === undefined || transport.sent < this.#controlEnd) return false
    const before = transport.queued
    if (this.#takenOwed > 0) this.#confirm()
    if (this.#mayGrant()) transport.appendBare(frame.CREDIT, this.#credit.grant())
    if (transport.queued === before) return false
    this.#controlEnd = transport.queued
    return true
  }

  #confirm(): void {
    this.#transport.appendBare(frame.TAKEN, this.#takenOwed)
    this.#takenOwed = 0
  }

  /** A peer that doesn't read what we write gets no credit until it does. */
  #mayGrant(): boolean {
    return this.#credit.due && this.state !== 'leaving' && this.#transport.waiting <= this.limits.highWaterMark
  }

  #discardLater(fd: number): void {
    if (this.#discarded === NO_FDS) this.#discarded = []
    this.#discarded.push(fd)
  }

  /** Their cost returns when they are closed. */
  #discardNow(): void {
    const fds = this.#discarded
    const cost = fds.length * this.limits.descriptorCost
    this.#discarded = NO_FDS
    this.#closeAside(fds, () => this.consumed(cost))
  }

  /** `done` is called when they are closed; at once, as long as helper threads have little to do: those may take turns with this one. */
  #closeAside(fds: readonly number[], done: () => void): void {
    const { wire } = this.#transport
    const few = wire.closing < FEW_CLOSES
    wire.discard(
      fds,
      few
        ? undefined
        : () => {
            if (this.state !== 'ended') done()
          }
    )
    if (few) done()
  }

  #cancel(request: OutgoingRequest): void {
    if (isEncoding()) {
      // A getter has aborted it; the slab is being written to
      process.nextTick(() => this.#cancel(request))
      return
    }
    const item = this.#waiting.takeRequest(request.id)
    if (item !== undefined) {
      this.requests.settle(request.id)
      item.sent?.resolve()
      if (item.parcel !== undefined) this.#return('unsent', item.parcel)
    } else if (this.state === 'open' || this.state === 'draining') {
      this.#transport.appendBare(frame.CANCEL, request.id)
      this.#schedule()
    }
    this.#settle()
  }

  // --- closing, inside

  #isOver(): boolean {
    return this.state === 'ended'
  }

  /** Something has left, come back or been answered: lets waiting senders go on, and says goodbye once nothing is left that close() waits for. */
  #settle(): void {
    this.#letGoOn()
    if (this.state === 'leaving') this.#schedule() // it may have been the last before the end
    if (this.state !== 'draining' || this.peer === undefined) return
    if (isEncoding()) {
      // close() was called by a getter of a value that is being sent
      process.nextTick(() => this.#settle())
      return
    }
    if (this.#requestsPending() === 0 && this.#waiting.length === 0 && this.#descriptorsOut === 0) this.#sayGoodbye()
  }

  #sayGoodbye(): void {
    this.state = 'leaving'
    this.#startCloseTimer()
    for (const item of this.#waiting.takeAll()) this.#giveUp(item, this.#closedError())
    if (this.#isOver()) return // by a listener of what has come back
    if (this.#takenOwed > 0) this.#confirm()
    this.#appendPlain(frame.GOODBYE, {})
    this.#schedule()
  }

  /** What was delivered is confirmed, and a goodbye that was queued leaves; if there was none, the one that follows names the error. */
  #sayLastWords(saidGoodbye: boolean, error: Error | undefined): void {
    if (this.#takenOwed > 0) this.#confirm()
    // A getter of a value that is being sent can end the channel, but nothing else can be encoded then
    if (!saidGoodbye && !isEncoding()) {
      const { slab } = this.#transport
      const limit = this.peer?.maxMessage ?? frame.MAX_HELLO
      const encoded = encodeLastWords(error, limit, slab, this.#transport.slabEnd)
      if (encoded !== undefined) this.#transport.append(encoded, frame.GOODBYE, 0, 0, undefined)
    }
    this.#transport.flush()
  }

  #afterWrite(): void {
    this.#letGoOn()
    if (this.#waiting.length === 0 && this.#transport.waiting === 0) this.#waiting.release()
    if (this.state === 'leaving' && this.#peerSaidGoodbye && !this.#shutDown && this.#nothingOwed()) {
      this.#shutDown = true
      this.#transport.wire.shutdown()
    }
  }

  #belowMark(): boolean {
    return this.backlog < this.limits.highWaterMark && this.#descriptorsOut * 2 < this.limits.maxInFlight
  }

  #letGoOn(): void {
    if (this.#drained === undefined || !this.#belowMark()) return
    this.#drained.resolve()
    this.#drained = undefined
  }

  /** Neither side waits for anything of the other but the end. */
  #nothingOwed(): boolean {
    return (
      this.#incoming.size === 0 &&
      this.#requestsPending() === 0 &&
      this.#descriptorsOut === 0 &&
      this.#takenOwed === 0 &&
      this.#transport.waiting === 0
    )
  }

  #requestsPending(): number {
    return this.#requests?.size ?? 0
  }

  #startCloseTimer(): void {
    const timeout = this.limits.closeTimeout
    this.#closeTimer ??= setTimeout(() => {
      const clean = this.#peerSaidGoodbye && this.#nothingOwed()
      this.end(clean ? undefined : new PassfdError('CLOSE_TIMEOUT', { timeout }), true)
    }, timeout)
  }
}

function moved(descriptors: readonly Descriptor[], value: unknown, replyTo: number): Parcel {
  const by = replyTo === -1 ? 'send()' : 'a reply'
  const fds = descriptors.map(descriptor => moveOutShared(descriptor, by))
  return new Parcel(fds, descriptors, value, replyTo)
}

function tooLarge(size: number, whose: string, limit: number): PassfdError {
  return new PassfdError('MESSAGE_TOO_LARGE', { size, whose, limit })
}

/** A channel has no 'drain' event: the promises of `send()` and `request()` tell. */
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

function countError(detail: string): PassfdError {
  return new PassfdError('DESCRIPTOR_COUNT', { detail })
}
