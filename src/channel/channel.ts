/** `Channel`: the surface of one connection. What happens on the wire is `session.ts`; here are the three ways to consume it. */

import diagnostics from 'node:diagnostics_channel'
import { EventEmitter } from 'node:events'
import { setImmediate } from 'node:timers'
import { AsyncContext } from '../base/async-context.ts'
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType } from '../base/check.ts'
import { mark } from '../base/copy.ts'
import { quiet } from '../base/deferred.ts'
import { abortError, asError, type Failure, isPassfdError, PassfdError, textOf } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { checkOptions, type KnownOptions, readOptions } from '../base/known-options.ts'
import { validate } from '../base/schema.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { Codec, takeMet } from '../codec/codec.ts'
import {
  type Descriptor,
  endLoan,
  forgetIfClosed,
  giveBack,
  guardLoan,
  type Lender,
  lent,
  moveOutShared
} from '../descriptor/descriptor.ts'
import { type Peer, withAgent } from '../descriptor/peer.ts'
import { descriptorsGiven } from './given.ts'
import type { Hello } from './hello.ts'
import { ALL, ANSWER, ANSWERED, END, Message, withoutConnections } from './message.ts'
import type { ChannelOptions, Limits, Schema } from './options.ts'
import { OutgoingRequest } from './own-requests.ts'
import type { Incoming } from './peer-requests.ts'
import { ReplySettlement } from './reply.ts'
import { type ReturnState, Session, type SessionOwner } from './session.ts'
import { Parcel } from './transport.ts'
import type { Wire } from './wire.ts'

export type Handler<In = unknown> = (message: Message<In>) => unknown

export interface ServeOptions<In = unknown> {
  /** Handlers running at a time; further messages wait. Default 256. */
  concurrency?: number
  /**
   * Failures that nobody is told of by an answer, and answers that can't be sent: their descriptors have come back by `'returned'`. Without
   * it a failure that nobody is told of ends the channel.
   */
  onError?(error: Failure, message: Message<In>): void
}

const SERVE_OPTIONS = { concurrency: true, onError: 'method' } as const satisfies KnownOptions<ServeOptions>

export interface RequestOptions<Reply = unknown> {
  /** How many descriptors the reply may carry. Default 1, at most 253. */
  descriptors?: number
  /** Cancels the request: it rejects with Node's AbortError, and the peer is told. */
  signal?: AbortSignal
  /** In ms; 0: no limit. Default: the channel's `requestTimeout`. */
  timeout?: number
  /**
   * Checks the reply: any Standard Schema. A reply that fails is ERR_PASSFD_SCHEMA. Descriptors that what it gives no longer holds are closed. One
   * that it puts into a closure or a private field can't be seen there: it calls `claim()`.
   */
  schema?: Schema<Reply>
}

const REQUEST_OPTIONS = {
  descriptors: true,
  signal: true,
  timeout: true,
  schema: true
} as const satisfies KnownOptions<RequestOptions>

/** A message whose descriptors were moved and not taken. Its Descriptors are open again, until the listeners return. */
export interface Returned<Out = unknown> {
  /** *unsent*: they never left. *unconfirmed*: they left; the peer may hold them too. *refused*: they answered a request that was given up. */
  readonly state: ReturnState
  readonly value: Out
  /** Those that stand alone; of a Connection in `value` that is the same object again, open. */
  readonly descriptors: readonly Descriptor[]
  /**
   * Why it came back, if the channel goes on. The system's error: the kernel refuses to pass one of them (EBADF, EINVAL for an io_uring, …).
   * ERR_PASSFD_ENCODE: a binary value of 64 KiB or more was transferred or detached before it had left. ERR_PASSFD_MESSAGE_TOO_LARGE,
   * ERR_PASSFD_TOO_MANY_DESCRIPTORS: it was sent before the peer's hello, which tells that the peer does not take it. There may be no
   * descriptors then. Otherwise undefined.
   */
  readonly error: Failure | undefined
  /** Keeps all of them, Connections too. */
  claim(): this
}

export interface ChannelEvents<In = unknown, Out = unknown> {
  message: [Message<In>]
  returned: [Returned<Out>]
  close: [error?: Failure]
}

/** @internal What `connect`, `listen` and `pair` have found out before there is a channel. */
export interface ChannelSetup {
  wire: Wire
  peer: Peer
  limits: Limits
  options: ChannelOptions<any>
  /** Called once: undefined when both hellos are exchanged, else with what came instead. */
  onOpen?(error: Error | undefined): void
  /** The token of the socket's Descriptor, so that it isn't sent through itself. */
  description?: object | undefined
  /** Whoever made the channel and has to know when it is over. */
  keeper?: ChannelKeeper | undefined
}

/** @internal */
export interface ChannelKeeper {
  /** After the 'close' event. */
  onClosed(): void
  /** It has ended, and nothing that was lent is held any more. Before or after `onClosed`. */
  onGivenBack(): void
}

const LISTENERS = "'message' listeners"
type Consumer = 'nobody' | 'serve()' | 'for await' | typeof LISTENERS

const CONCURRENCY = 256
/** Shared by all whose queues have never been used; nothing is put into it. */
const NONE: never[] = []
const opened = diagnostics.channel('passfd:channel:open')
const ended = diagnostics.channel('passfd:channel:close')
const sent = diagnostics.channel('passfd:message:sent')
const received = diagnostics.channel('passfd:message:received')

/** @internal */
export let createChannel: (setup: ChannelSetup) => Channel<any, any>
/** @internal Says hello and reads. */
export let startChannel: (channel: Channel<any, any>, handshakeTimeout: number) => void
/** @internal */
export let sessionOf: (channel: Channel<any, any>) => Session
/** @internal Messages have come that no consumer was given. */
export let hasUnread: (channel: Channel<any, any>) => boolean
let listened: (channel: Channel<any, any>) => void

/** One connection to another process: messages and requests with descriptors, both ways, in order. */
export class Channel<In = unknown, Out = unknown>
  extends EventEmitter<ChannelEvents<In, Out>>
  implements AsyncIterable<Message<In>>, AsyncDisposable
{
  readonly #session: Session
  readonly #wire: Wire
  readonly #schema: Schema<In> | undefined
  readonly #keeper: ChannelKeeper | undefined
  #onOpen: ChannelSetup['onOpen']
  #peer: Peer
  #consumer: Consumer = 'nobody'
  #inbox: Entry<In>[] = NONE
  /** How many at its front have been given to the consumer; they leave together. */
  #given = 0
  #handler: Handler<In> | undefined
  #concurrency = CONCURRENCY
  #onError: ServeOptions<In>['onError']
  /** That of the `serve` call. */
  #serveContext: AsyncContext | undefined
  #running = 0
  /** Messages with descriptors whose handlers are running. */
  #handled: Set<Message<In>> | undefined
  /** The message of the loop's body; several if several were asked for at once. */
  #current: Message<In>[] = NONE
  #readers: ((result: IteratorResult<Message<In>>) => void)[] = NONE
  #pumping = false
  #over = false
  #closed: { promise: Promise<Failure | undefined>; resolve(error: Failure | undefined): void } | undefined
  #lenders: { message: Lender; request: Lender } | undefined

  private constructor(setup: ChannelSetup) {
    super()
    markUncloneable(this)
    // Not the object itself, as what is in it would live as long as the channel
    const { wire, peer, limits, options, onOpen, description, keeper } = setup
    this.#wire = wire
    this.#schema = options.schema
    this.#keeper = keeper
    this.#onOpen = onOpen
    this.#peer = peer
    this.#session = new Session(wire, new Codec(), limits, new Channel.#Listener(this), description)
    this.#noticeListeners()
  }

  /** Who is at the other end, as the kernel tells; `agent` is what its hello says. */
  get peer(): Peer {
    return this.#peer
  }

  /** Resolves when the channel has ended: to the error, or to undefined if both sides had said goodbye. Never rejects. */
  get closed(): Promise<Failure | undefined> {
    if (this.#closed === undefined) {
      let resolve!: (error: Failure | undefined) => void
      const promise = new Promise<Failure | undefined>(done => {
        resolve = done
      })
      this.#closed = { promise, resolve }
      if (this.#over) resolve(this.#session.error)
    }
    return this.#closed.promise
  }

  /**
   * Sends a value; Descriptors anywhere in it move. Misuse throws at once and moves nothing (ERR_PASSFD_ENCODE,
   * _DESCRIPTOR_…, _MESSAGE_TOO_LARGE, _TOO_MANY_DESCRIPTORS, _QUEUE_FULL, _OWN_SOCKET, _CHANNEL_CLOSED). The promise resolves when the queue is
   * below `highWaterMark` and binary values of 64 KiB or more have left (they are not copied: leave them alone until then).
   * It rejects with ERR_PASSFD_CLOSED if the channel ends before; it need not be awaited.
   */
  send(value: Out): Promise<void> {
    this.#notClosedByUs()
    const result = this.#session.send(value)
    if (sent.hasSubscribers) sent.publish({ channel: this, value, request: false })
    return result
  }

  /**
   * Sends a value and resolves to the peer's answer; descriptors in the answer are yours. Misuse throws as in `send`, also
   * ERR_PASSFD_TOO_MANY_REQUESTS. Rejects with ERR_PASSFD_REMOTE (see `remote`), ERR_PASSFD_TIMEOUT, ERR_PASSFD_SCHEMA, ERR_PASSFD_CLOSED or an AbortError.
   */
  request<Reply = unknown>(value: Out, options: RequestOptions<Reply> = {}): Promise<Reply> {
    this.#notClosedByUs()
    checkOptions(options, REQUEST_OPTIONS)
    const { descriptors = 1, signal, timeout = this.#session.limits.requestTimeout, schema } = options
    checkInteger(descriptors, 'options.descriptors', 0, MAX_RIGHTS)
    checkInteger(timeout, 'options.timeout', 0, 0x7fffffff)
    checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
    if (signal?.aborted) return quiet(Promise.reject(abortError(signal)))
    const settlement = new ReplySettlement<Reply>(schema, this.#wire, this.#peer.pid)
    this.#session.request(value, descriptors, new OutgoingRequest(settlement, timeout, signal))
    if (sent.hasSubscribers) sent.publish({ channel: this, value, request: true })
    return settlement.promise
  }

  /**
   * Calls `handler` for every message and request, several at a time. What it returns (or its promise resolves to)
   * is the answer to a request; what it throws is answered as a fault. Throws ERR_PASSFD_CONSUMED if something else reads this channel.
   */
  serve(handler: Handler<In>, given: ServeOptions<In> = {}): void {
    const options = serveOptions(handler, given)
    this.#consume('serve()')
    const { concurrency = CONCURRENCY, onError } = options // read now, as a getter may fail later
    this.#handler = handler
    this.#concurrency = concurrency
    this.#onError = onError
    this.#serveContext = new AsyncContext('PASSFD_SERVE')
    this.#pumpSoon()
  }

  /**
   * Says goodbye: refuses new sends, lets requests settle, the queue leave and descriptors be taken, within `closeTimeout`; what is left
   * comes back as `'returned'`. Resolves when the channel has ended; never rejects (`closed` tells the error).
   */
  async close(): Promise<void> {
    this.#closedByUs = true
    this.#session.close()
    await this.closed
  }

  /** Ends it now. The peer hears the error's code; messages that nobody has read are dropped, their descriptors closed. */
  destroy(error?: Error): void {
    this.#closedByUs = true
    this.#session.end(error === undefined || error === null ? undefined : asError(error), true)
    this.#destroyed = true
    for (const { message } of this.#inbox.splice(this.#given)) message[END]('the channel was destroyed', false)
  }

  /** The channel keeps the process running (the default). */
  ref(): this {
    this.#session.ref()
    return this
  }

  /** The channel doesn't keep the process running. */
  unref(): this {
    this.#session.unref()
    return this
  }

  override removeAllListeners(...name: Parameters<EventEmitter<ChannelEvents<In, Out>>['removeAllListeners']>): this {
    super.removeAllListeners(...name)
    return this.#noticeListeners()
  }

  /** Messages one by one. `break` stops reading and closes nothing. Ends when the channel has; `closed` tells how. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message<In>> {
    this.#consume('for await')
    let finished = false
    const iterator: AsyncIterableIterator<Message<In>> = {
      next: () => (finished ? DONE : this.#next()),
      return: async () => {
        if (!finished) {
          finished = true
          this.#endCurrent()
          this.#consumer = 'nobody'
          for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
        }
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** In which the program's functions run that no call of `serve` has set. */
  get #context(): AsyncContext {
    return this.#session.context
  }

  // --- consuming

  #closedByUs = false
  #destroyed = false

  #notClosedByUs(): void {
    if (this.#closedByUs) throw new PassfdError('CHANNEL_CLOSED')
  }

  /** The EventEmitter itself tells when somebody starts to listen. */
  #noticeListeners(): this {
    const notice = onNewListener as never
    if (!this.listeners('newListener' as never).includes(notice)) this.on('newListener' as never, notice)
    return this
  }

  #consume(by: Consumer): void {
    if (this.#consumer === by && by === LISTENERS) return
    const unheard = this.#consumer === LISTENERS && this.listenerCount('message') === 0
    if (this.#consumer !== 'nobody' && !unheard) throw new PassfdError('CONSUMED', { by: this.#consumer })
    this.#consumer = by
  }

  #receive(message: Message<In>, cost: number): void {
    const schema = this.#schema
    if (
      schema === undefined &&
      this.#inbox.length === 0 &&
      !this.#pumping &&
      !received.hasSubscribers &&
      this.#wants()
    ) {
      this.#giveAtOnce(message, cost)
      return
    }
    const entry: Entry<In> = { message, cost, ready: true, failure: undefined }
    if (schema !== undefined) {
      const checked = this.#context.run(() => validate(schema, entry.message.value))
      if (checked instanceof Promise) {
        entry.ready = false
        void checked.then(result => {
          this.#applySchema(entry, result)
          this.#pump()
        })
      } else this.#applySchema(entry, checked)
    }
    if (received.hasSubscribers) this.#context.run(() => received.publish({ channel: this, message: entry.message }))
    if (this.#destroyed) {
      // By the schema or a subscriber
      message[END]('the channel was destroyed', false)
      return
    }
    if (this.#inbox === NONE) this.#inbox = []
    this.#inbox.push(entry)
    this.#pump()
  }

  /** What `#pump` would do with it. */
  #giveAtOnce(message: Message<In>, cost: number): void {
    this.#pumping = true
    this.#session.consumed(cost)
    try {
      this.#give(message)
    } finally {
      this.#pumping = false
    }
    if (this.#inbox.length > 0) this.#pump()
  }

  #applySchema(entry: Entry<In>, result: { value: unknown } | { error: PassfdError }): void {
    entry.ready = true
    if ('error' in result) entry.failure = result.error
    else (entry.message as { value: unknown }).value = result.value
  }

  #pumpSoon(): void {
    process.nextTick(() => this.#pump())
  }

  /** Gives messages to the consumer while it takes them. */
  #pump(): void {
    if (this.#pumping) return
    this.#pumping = true
    const inbox = this.#inbox
    try {
      while (this.#given < inbox.length && inbox[this.#given]!.ready && this.#wants()) {
        const entry = inbox[this.#given++]!
        this.#session.consumed(entry.cost)
        if (entry.failure === undefined) this.#give(entry.message)
        else this.#fail(entry.message, entry.failure)
      }
    } finally {
      // Mostly there is just one, and splice() costs as much as all the rest of this
      if (this.#given === 1 && inbox.length === 1) inbox.pop()
      else if (this.#given > 0) inbox.splice(0, this.#given)
      this.#given = 0
      this.#pumping = false
    }
    if (this.#over && inbox.length === 0)
      for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
  }

  #wants(): boolean {
    switch (this.#consumer) {
      case 'serve()':
        return this.#running < this.#concurrency
      case 'for await':
        return this.#readers.length > 0
      case LISTENERS:
        if (this.listenerCount('message') > 0) return true
        this.#consumer = 'nobody'
        return false
      default:
        return false
    }
  }

  #give(message: Message<In>): void {
    if (this.#consumer === 'serve()') this.#serveContext!.run(this.#handle, this, message)
    else if (this.#consumer === 'for await') {
      if (this.#current === NONE) this.#current = []
      this.#current.push(message)
      this.#readers.shift()!({ done: false, value: message })
    } else {
      try {
        this.#context.run(this.#emitMessage, this, message)
      } catch (error) {
        throwLater(error)
      }
      message[END]("the 'message' listeners returned", false)
    }
  }

  #emitMessage(message: Message<In>): void {
    this.emit('message', message)
  }

  #next(): Promise<IteratorResult<Message<In>>> {
    this.#endCurrent()
    return new Promise(resolve => {
      if (this.#readers === NONE) this.#readers = []
      this.#readers.push(resolve)
      this.#pump()
    })
  }

  #endCurrent(): void {
    for (const message of this.#current.splice(0)) message[END]('the next message was asked for', true)
  }

  #handle(message: Message<In>): void {
    let result: unknown
    let later: boolean
    try {
      result = this.#handler!(message)
      later = isThenable(result)
    } catch (error) {
      this.#fail(message, error)
      return
    }
    if (later) {
      this.#running++
      if (message[ALL].length > 0) {
        this.#handled ??= new Set()
        this.#handled.add(message)
      }
      void this.#await(message, result)
    } else this.#answer(message, result)
  }

  /** `await` takes the program's object for what it is, even if its `then` or `constructor` throws. */
  async #await(message: Message<In>, result: unknown): Promise<void> {
    let value: unknown
    let failed = false
    try {
      value = await result
    } catch (error) {
      failed = true
      value = error ?? new Error('the handler rejected without a reason')
    }
    this.#running--
    this.#handled?.delete(message)
    if (failed) this.#fail(message, value)
    else this.#answer(message, value)
    this.#pump()
  }

  #answer(message: Message<In>, value: unknown): void {
    if (!message[ANSWERED]) {
      try {
        void message[ANSWER](value)
      } catch (error) {
        this.#answerFailed(message, value, error)
        return
      }
    }
    message[END]('its serve handler returned', true)
  }

  /** What a handler returns was given away, so it comes back if it can't be sent. The requester hears why, and so does onError. */
  #answerFailed(message: Message<In>, value: unknown, error: unknown): void {
    const descriptors = descriptorsGiven(value, takeMet())
    if (!message[ANSWERED]) void message.fail(error as Error) // a getter of the answer may have failed it
    if (descriptors.length > 0) {
      const fds = descriptors.map(descriptor => moveOutShared(descriptor, 'an answer'))
      this.#returned('unsent', new Parcel(fds, descriptors, value, -1))
    }
    this.#tellFailure(error, message)
    message[END]('its serve handler returned', true)
  }

  #tellFailure(error: unknown, message: Message<In>): void {
    const onError = this.#onError
    try {
      if (onError !== undefined) this.#serveContext!.run(() => onError(asError(error), message))
    } catch (failure) {
      throwLater(failure)
    }
  }

  /** The requester hears of it; if nobody waits for an answer, onError does; without that the channel ends with it. */
  #fail(message: Message<In>, thrown: unknown): void {
    const error = asError(thrown)
    if (!message[ANSWERED]) void message.fail(error)
    else if (this.#onError !== undefined) this.#tellFailure(error, message)
    else
      this.#session.end(
        isPassfdError(error) ? error : new PassfdError('HANDLER', { message: textOf(error) }, { cause: error }),
        true
      )
    message[END]('its serve handler failed', true)
  }

  // --- what the session tells

  #opened(hello: Hello): void {
    this.#peer = withAgent(this.#peer, hello.agent)
    if (opened.hasSubscribers) this.#context.run(() => opened.publish({ channel: this, peer: this.#peer }))
    this.#settleOpen(undefined)
  }

  #settleOpen(error: Error | undefined): void {
    const onOpen = this.#onOpen
    this.#onOpen = undefined
    onOpen?.(error)
  }

  #lend(fds: readonly number[], request: boolean): Descriptor[] {
    const lender = this.#lender(request)
    return fds.map(fd => lent(fd, lender))
  }

  #arrived(incoming: Incoming | undefined, value: unknown, descriptors: readonly Descriptor[], cost: number): void {
    this.#receive(new Message(value as In, descriptors, this, this.#session, incoming), cost)
  }

  #lender(request: boolean): Lender {
    if (this.#lenders === undefined) {
      const session = this.#session
      const { pid } = this.#peer
      const lend = (message: string): Lender => ({
        message,
        pid,
        ended: '',
        kept: () => session.kept(),
        discard: fd => session.discard(fd)
      })
      this.#lenders = { message: lend('message'), request: lend('request') }
    }
    return request ? this.#lenders.request : this.#lenders.message
  }

  #returned(state: ReturnState, parcel: Parcel): void {
    const { answer, error } = parcel
    // Somebody else has closed them, by their numbers, which may be those of other files soon
    const lost =
      error === undefined ? [] : parcel.descriptors.filter((each, at) => forgetIfClosed(each, parcel.fds[at]!))
    if (this.listenerCount('returned') > 0) this.#emitReturned(state, parcel, lost)
    else if (parcel.fds.length > lost.length)
      this.#wire.discard(lost.length === 0 ? parcel.fds : withoutLost(parcel, lost), undefined)
    if (error !== undefined && answer !== undefined) this.#tellFailure(error, answer as Message<In>)
  }

  #emitReturned(state: ReturnState, parcel: Parcel, lost: readonly Descriptor[]): void {
    const { fds, descriptors, value, error } = parcel
    const wire = this.#wire
    const lender: Lender = {
      message: 'returned message',
      pid: process.pid,
      ended: '',
      kept: () => {},
      discard: fd => wire.discard([fd], undefined)
    }
    for (const [index, descriptor] of descriptors.entries())
      if (!lost.includes(descriptor)) giveBack(descriptor, fds[index]!, lender)
    const returned: Returned<Out> = {
      state,
      value: value as Out,
      descriptors: withoutConnections(descriptors),
      error,
      claim() {
        for (const descriptor of descriptors) if (!descriptor.closed) descriptor.claim()
        return this
      }
    }
    try {
      this.#context.emit(this, 'returned', returned)
    } catch (error) {
      throwLater(error)
    }
    const unclaimed = descriptors
      .map(descriptor => endLoan(descriptor, "the 'returned' listeners returned"))
      .filter(fd => fd >= 0)
    if (unclaimed.length > 0) wire.discard(unclaimed, undefined)
  }

  #end(error: Error | undefined): void {
    this.#over = true
    this.#settleOpen(error ?? new PassfdError('DISCONNECTED'))
    if (ended.hasSubscribers) this.#context.run(() => ended.publish({ channel: this, error }))
    // What is not read, or held by a handler that never ends, is closed when it is collected
    const open = [...this.#inbox.map(({ message }) => message), ...this.#current, ...(this.#handled ?? [])]
    for (const message of open) for (const descriptor of message[ALL]) guardLoan(descriptor)
    // Not in this tick: whoever is given the channel by a promise must first be able to listen
    setImmediate(() => {
      this.#closed?.resolve(error)
      this.#pump()
      try {
        if (error === undefined) this.#context.emit(this, 'close')
        else this.#context.emit(this, 'close', error)
      } catch (failure) {
        throwLater(failure)
      }
      this.#context.end()
      this.#serveContext?.end()
      this.#keeper?.onClosed()
    })
  }

  /** What the session tells; an object for each channel, but no closures. */
  static readonly #Listener = class implements SessionOwner {
    readonly #channel: Channel<any, any>

    constructor(channel: Channel<any, any>) {
      this.#channel = channel
    }

    onOpen(hello: Hello): void {
      this.#channel.#opened(hello)
    }

    onMessage(incoming: Incoming | undefined, value: unknown, descriptors: readonly Descriptor[], cost: number): void {
      this.#channel.#arrived(incoming, value, descriptors, cost)
    }

    lend(fds: readonly number[], request: boolean): Descriptor[] {
      return this.#channel.#lend(fds, request)
    }

    onReturned(state: ReturnState, parcel: Parcel): void {
      this.#channel.#returned(state, parcel)
    }

    onEnd(error: Error | undefined): void {
      this.#channel.#end(error)
    }

    onGivenBack(): void {
      this.#channel.#keeper?.onGivenBack()
    }
  }

  static {
    createChannel = setup => new Channel(setup)
    startChannel = (channel, timeout) => channel.#session.start(timeout)
    sessionOf = channel => channel.#session
    hasUnread = channel => channel.#inbox.length > 0
    listened = channel => {
      channel.#consume(LISTENERS)
      channel.#pumpSoon()
    }
  }
}
mark(Channel, 'Channel')

/** @internal Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function serveOptions<In>(handler: unknown, given: ServeOptions<In>): ServeOptions<In> {
  const options = readOptions(given, SERVE_OPTIONS)
  const { concurrency, onError } = options
  const isFunction = (given: unknown): boolean => typeof given === 'function'
  checkType(handler ?? null, 'handler', 'a function', isFunction)
  if (concurrency !== undefined) checkInteger(concurrency, 'options.concurrency', 1, 0x7fffffff)
  checkType(onError, 'onError', 'a function', isFunction)
  return options
}

/** A message in the inbox. */
interface Entry<In> {
  message: Message<In>
  cost: number
  /** Its schema has been applied. */
  ready: boolean
  failure: PassfdError | undefined
}

function withoutLost({ fds, descriptors }: Parcel, lost: readonly Descriptor[]): number[] {
  return fds.filter((_, index) => !lost.includes(descriptors[index]!))
}

const DONE: Promise<IteratorResult<never>> = Promise.resolve({ done: true, value: undefined })

function onNewListener(this: Channel, name: string | symbol): void {
  if (name === 'message') listened(this)
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

/** @internal The exception of a listener is the program's, not the channel's: it is thrown where it can't disturb the reading. */
export function throwLater(error: unknown): void {
  process.nextTick(() => {
    throw error
  })
}
