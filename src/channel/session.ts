/**
 * The protocol's state machine over one transport: hello, credit, taken, closing. It knows no socket and no user. Messages, requests and answers
 * leave by `sending.ts` and arrive by `receiving.ts`; `custody.ts` counts and closes descriptors.
 *
 *   greeting ──peer's hello──▶ open ──close()──▶ draining ──all settled──▶ leaving ──peer's goodbye, end of file──▶ ended
 *                                └────────────────peer's goodbye─────────────▶┘
 *   any state ──violation, destroy(), lost peer──▶ ended
 */

import { AsyncContext } from '../base/async-context.ts'
import { EndSignals } from '../base/end-signals.ts'
import { ECONNRESET, ENOTCONN, EPIPE } from '../base/errno.ts'
import { overdueError, PassfdError, systemError, textOf } from '../base/errors.ts'
import { keepAlive } from '../base/timers.ts'
import { Codec } from '../codec/codec.ts'
import { isEncoding } from '../codec/codec-in-progress.ts'
import { limitOf } from '../codec/encoded.ts'
import * as frame from '../codec/frame.ts'
import { decodePlain } from '../codec/plain.ts'
import { Credit } from './credit.ts'
import { Custody } from './custody.ts'
import { decodeError, peerError } from './fault.ts'
import { checkHello, type Hello, sayHello } from './hello.ts'
import type { Limits } from './options.ts'
import { OwnRequests } from './own-requests.ts'
import type { Parcel } from './parcel.ts'
import { PeerRequests } from './peer-requests.ts'
import { Receiving } from './receiving.ts'
import { OWN_QUEUE, Sending, THE_PEER } from './sending.ts'
import type { SessionCore, SessionOwner, State } from './session-core.ts'
import { Transport, type TransportOwner } from './transport.ts'
import type { Wire } from './wire.ts'
import { microtask, nextTick } from './write-scheduler.ts'

/** The kinds of frames that may follow a goodbye. */
const MAY_FOLLOW: readonly number[] = [frame.REPLY, frame.FAULT, frame.TAKEN, frame.DEFINITIONS]

export class Session implements SessionCore, TransportOwner {
  readonly limits: Limits
  readonly owner: SessionOwner
  readonly transport: Transport
  readonly codec = new Codec()
  readonly credit: Credit
  readonly peerRequests = new PeerRequests()
  readonly custody: Custody
  readonly sending: Sending
  state: State = 'greeting'
  /** The error that ended it, if any. */
  error: Error | undefined
  peer: Hello | undefined
  /** Called when the peer has confirmed all descriptors that it was sent. */
  onAllTaken: (() => void) | undefined
  /** The async context in which the channel was opened. */
  readonly context = new AsyncContext('PASSFD_CHANNEL')

  readonly #receiving: Receiving
  #requests: OwnRequests | undefined
  #scheduled = false
  /** Where in the outgoing stream the last confirmation or credit ends. */
  #controlEnd = 0
  #peerSaidGoodbye = false
  #shutDown = false
  #endSignals: EndSignals | undefined
  #handshakeTimer: NodeJS.Timeout | undefined
  #closeTimer: NodeJS.Timeout | undefined
  #stallTimer: NodeJS.Timeout | undefined

  /** `pid`: the peer's. `description`: the token of the socket's own Descriptor, if there was one. */
  constructor(wire: Wire, limits: Limits, owner: SessionOwner, pid: number, description?: object) {
    this.limits = limits
    this.owner = owner
    this.codec.limit = limitOf(limits.maxQueued, OWN_QUEUE)
    this.codec.maxValues = limits.maxValues
    this.transport = new Transport(wire, this)
    this.transport.reader.lends = limits.lendBuffers
    this.credit = new Credit(limits.window)
    this.custody = new Custody(this, pid)
    this.sending = new Sending(this, this.custody, description)
    this.#receiving = new Receiving(this, this.custody, this.sending)
  }

  /** Requests of this side, made at the first one: most channels of a server never send any. */
  get requests(): OwnRequests {
    this.#requests ??= new OwnRequests(
      request => this.sending.cancel(request),
      timeout => overdueError('TIMEOUT', { timeout }, this.transport.heldBack)
    )
    return this.#requests
  }

  /** Says hello and starts to read. `timeout` in ms for the peer's hello, 0 for none. */
  start(timeout: number): void {
    this.transport.wire.start(this.transport) // first, as it may throw
    this.sending.appendPlain(frame.HELLO, sayHello(this.limits))
    if (timeout > 0)
      this.#handshakeTimer = setTimeout(
        () => this.end(new PassfdError('HANDSHAKE_TIMEOUT', { timeout: this.limits.handshakeTimeout }), true),
        timeout
      )
    this.flush()
  }

  /** A new signal that is aborted at the end; aborted already if it has ended. */
  makeEndSignal(): AbortSignal {
    if (this.state === 'ended') return AbortSignal.abort(this.closedError())
    this.#endSignals ??= new EndSignals()
    return this.#endSignals.make()
  }

  ref(): void {
    this.transport.wire.ref()
  }

  unref(): void {
    this.transport.wire.unref()
  }

  /** The number of sent descriptors that the peer has not confirmed. */
  get descriptorsOut(): number {
    return this.custody.out
  }

  // --- closing

  /** Refuses new sends, waits until everything under way has settled, and sends a goodbye. */
  close(): void {
    if (this.state !== 'greeting' && this.state !== 'open') return
    this.state = 'draining'
    this.#startCloseTimer()
    this.settle()
  }

  /** Ends it now. `tell`: sends the error's code to the peer first. */
  end(error: Error | undefined, tell: boolean): void {
    if (this.state === 'ended') return
    const { custody, sending, transport } = this
    const saidGoodbye = this.state === 'leaving'
    this.state = 'ended'
    this.error = error
    for (const timer of [this.#handshakeTimer, this.#closeTimer, this.#stallTimer]) clearTimeout(timer)
    if (tell) this.#sayLastWords(saidGoodbye, error)
    custody.readDone()
    if (custody.hasDiscarded) custody.discardNow()
    for (const parcel of transport.takeRefused()) sending.takeBack(parcel)
    for (const { parcel, left } of transport.end()) custody.returnParcel(left ? 'unconfirmed' : 'unsent', parcel)
    const closed = this.closedError()
    sending.end(closed)
    this.peerRequests.endAll(closed, this.context)
    this.#endSignals?.abort(closed, this.context)
    this.#requests?.failAll(closed)
    sending.failDrained(closed)
    this.owner.onEnd(error)
    custody.checkLent()
  }

  // --- writing

  /** Writes everything that is queued so far. */
  write(): void {
    this.transport.flush()
  }

  /** Writes everything that is queued, after confirmations and credit. */
  flush(): void {
    this.#scheduled = false
    if (this.state === 'ended') return
    this.#appendControl()
    this.transport.flush()
    // This write may allow credit that was held back
    if (this.#appendControl()) this.transport.flush()
    this.#afterWrite()
    this.#spin()
    // After the write, because waking a helper thread takes longer than all the rest
    if (this.custody.hasDiscarded) this.custody.discardNow()
  }

  // --- what its parts need: SessionCore

  get isOver(): boolean {
    return this.state === 'ended'
  }

  closedError(): PassfdError {
    const { error } = this
    if (error === undefined) return new PassfdError('CLOSED')
    const how = ` (${textOf(error).replace(/[.]$/, '')})`
    return new PassfdError('CLOSED', { how }, { cause: error })
  }

  scheduleAtTick(): void {
    this.#schedule(nextTick)
  }

  scheduleAtMicrotask(): void {
    this.#schedule(microtask)
  }

  consumed(cost: number): void {
    this.credit.owe(cost)
    if (this.credit.due) this.scheduleAtTick()
  }

  allTaken(): void {
    this.onAllTaken?.()
  }

  /** Lets waiting senders go on, and sends the goodbye when close() has nothing left to wait for. */
  settle(): void {
    this.sending.letGoOn()
    if (this.state === 'leaving') this.scheduleAtTick() // this may have been the last thing before the end
    if (this.state !== 'draining' || this.peer === undefined) return
    if (isEncoding()) {
      // close() was called by a getter of a value that is being sent
      process.nextTick(() => this.settle())
      return
    }
    if (this.#requestsPending() === 0 && !this.sending.waits && this.custody.out === 0) this.#sayGoodbye()
  }

  // --- what the transport reports: TransportOwner

  onFrame(received: frame.Frame): boolean {
    const { kind } = received
    const receiving = this.#receiving
    if (this.peer === undefined && kind !== frame.HELLO && kind !== frame.GOODBYE)
      receiving.violate(
        received.fds,
        new PassfdError('BAD_HELLO', { detail: `a frame of kind ${kind} came before it` })
      )
    if (this.#peerSaidGoodbye && !MAY_FOLLOW.includes(kind))
      receiving.violate(received.fds, new PassfdError('BAD_FRAME', { detail: `kind ${kind} came after goodbye` }))
    switch (kind) {
      case frame.MESSAGE:
      case frame.REQUEST:
        receiving.onMessage(received)
        break
      case frame.REPLY:
        receiving.onReply(received)
        break
      case frame.FAULT:
        receiving.onFault(received)
        break
      case frame.CANCEL:
        receiving.onCancel(received.id)
        break
      case frame.CREDIT:
        this.credit.receive(received.id)
        this.sending.sendWaiting()
        break
      case frame.TAKEN:
        this.custody.onTaken(received.id)
        break
      case frame.DEFINITIONS:
        receiving.onDefinitions(received)
        break
      case frame.HELLO:
        this.#onHello(received)
        break
      default:
        this.#onGoodbye(received)
    }
    return !this.isOver
  }

  onReadDone(): void {
    if (this.state === 'ended') return
    const { credit, custody } = this
    custody.readDone()
    if (this.#scheduled || custody.unconfirmed > 0 || credit.due || custody.hasDiscarded) this.flush()
    else this.#spin()
    this.#watchForStall()
  }

  onViolation(error: PassfdError): void {
    this.end(error, true)
  }

  onReadEnd(result: number): void {
    // A reset after both goodbyes only means that the peer has closed first
    if (this.#peerSaidGoodbye && this.state === 'leaving') this.end(undefined, false)
    else
      this.end(new PassfdError('DISCONNECTED', {}, result < 0 ? { cause: systemError(result, 'recvmsg') } : {}), false)
  }

  onProgress(): void {
    this.flush()
  }

  /** The peer reads no more. The session first reads everything that the peer has still written. */
  onWriteError(errno: number): void {
    if (this.state === 'ended') return // it was the last goodbye
    if (errno === EPIPE || errno === ECONNRESET || errno === ENOTCONN) this.#startCloseTimer()
    else queueMicrotask(() => this.end(systemError(errno, 'sendmsg'), false))
  }

  /** Gives refused messages back, fails refused requests, and answers the peer's requests with a fault. Everything else goes on. */
  onRefused(parcels: readonly Parcel[]): void {
    for (const parcel of parcels) this.sending.takeBack(parcel)
    if (this.isOver) return
    this.sending.sendWaiting()
    this.settle()
  }

  /** The peer expects the rest of that frame, so nothing else can follow. */
  onUnwritable(error: Error): void {
    queueMicrotask(() => this.end(error, false))
  }

  // --- control frames

  #onHello(body: frame.Body): void {
    if (this.peer !== undefined) throw new PassfdError('BAD_HELLO', { detail: 'it came twice' })
    const hello = checkHello(decodePlain(body))
    const { codec, limits, sending, transport } = this
    this.peer = hello
    if (hello.maxMessage < limits.maxQueued) codec.limit = limitOf(hello.maxMessage, THE_PEER)
    codec.records = limits.records && hello.features.includes('records')
    transport.takesDefinitions = codec.records && hello.features.includes('definitions')
    this.credit.receive(hello.window)
    transport.reader.maxBody = limits.maxMessage
    clearTimeout(this.#handshakeTimer)
    this.#handshakeTimer = undefined
    sending.adaptTo(hello)
    if (this.state === 'greeting') {
      this.state = 'open'
      this.owner.onOpen(hello)
    }
    sending.sendWaiting()
    this.settle()
  }

  #onGoodbye(body: frame.Body): void {
    const remote = decodeError(body, true)
    this.#peerSaidGoodbye = true
    if (remote.code !== '') this.end(peerError(remote), false)
    else if (this.peer === undefined) this.end(new PassfdError('REFUSED'), false)
    else {
      if (this.state !== 'leaving') this.#sayGoodbye()
      this.scheduleAtTick()
    }
  }

  #sayGoodbye(): void {
    this.state = 'leaving'
    this.#startCloseTimer()
    this.sending.giveUpWaiting(this.closedError())
    if (this.isOver) return // a 'returned' listener has ended it
    if (this.custody.unconfirmed > 0) this.#confirm()
    this.sending.appendPlain(frame.GOODBYE, {})
    this.scheduleAtTick()
  }

  /** Confirms received descriptors, and lets a queued goodbye leave, or else queues one that names the error. */
  #sayLastWords(saidGoodbye: boolean, error: Error | undefined): void {
    if (this.custody.unconfirmed > 0) this.#confirm()
    // A getter of a value can end the channel during encoding, when nothing else can be encoded
    if (!saidGoodbye && !isEncoding()) this.sending.appendLastWords(error)
    this.transport.flush()
  }

  #schedule(writers: typeof nextTick): void {
    if (this.#scheduled) return
    this.#scheduled = true
    if (!this.transport.reading) writers.add(this)
  }

  /**
   * Queues confirmations and credit. Until the last ones have left, further ones only add up, so a peer that doesn't read can't fill the queue.
   * They don't wait until the queue is empty, because a busy sender's queue never is.
   */
  #appendControl(): boolean {
    const { outgoing } = this.transport
    if (this.peer === undefined || outgoing.sent < this.#controlEnd) return false
    const before = outgoing.queued
    if (this.custody.unconfirmed > 0) this.#confirm()
    if (this.#mayGrant()) outgoing.appendBare(frame.CREDIT, this.credit.grant())
    if (outgoing.queued === before) return false
    this.#controlEnd = outgoing.queued
    return true
  }

  #confirm(): void {
    this.transport.appendBare(frame.TAKEN, this.custody.unconfirmed)
    this.custody.unconfirmed = 0
  }

  /** A peer gets no credit while it does not read. */
  #mayGrant(): boolean {
    return this.credit.due && this.state !== 'leaving' && this.transport.outgoing.waiting <= this.limits.highWaterMark
  }

  // --- inside

  #afterWrite(): void {
    this.sending.letGoOn()
    if (this.transport.outgoing.waiting === 0) this.sending.release()
    if (this.state === 'leaving' && this.#peerSaidGoodbye && !this.#shutDown && this.#nothingOwed()) {
      this.#shutDown = true
      // The peer sees the close(2) as the same end. Without either both sides would wait for closeTimeout
      if (this.transport.wire.shutdown() < 0) queueMicrotask(() => this.end(undefined, false))
    }
  }

  /** Whether each side waits only for the other side's end. */
  #nothingOwed(): boolean {
    return (
      this.peerRequests.size === 0 &&
      this.#requestsPending() === 0 &&
      this.custody.out === 0 &&
      this.custody.unconfirmed === 0 &&
      this.transport.outgoing.waiting === 0
    )
  }

  #requestsPending(): number {
    return this.#requests?.size ?? 0
  }

  #spin(): void {
    if (this.limits.spin > 0) this.transport.wire.spin(this.limits.spin)
  }

  // --- timers

  /** Ends the session if an incomplete frame does not progress. One timer serves all frames. */
  #watchForStall(): void {
    const { frameTimeout } = this.limits
    const { transport } = this
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

  #startCloseTimer(): void {
    const timeout = this.limits.closeTimeout
    this.#closeTimer ??= setTimeout(() => {
      const clean = this.#peerSaidGoodbye && this.#nothingOwed()
      this.end(clean ? undefined : overdueError('CLOSE_TIMEOUT', { timeout }, this.transport.heldBack), true)
    }, timeout)
  }
}
