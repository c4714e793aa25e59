/** `Channel`: the surface of one connection. What happens on the wire is `session.ts`; `inbox.ts` gives messages to their consumer. */

import diagnostics from 'node:diagnostics_channel'
import { EventEmitter } from 'node:events'
import { setImmediate } from 'node:timers'
import type { AsyncContext } from '../base/async-context.ts'
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType } from '../base/check.ts'
import { quiet } from '../base/deferred.ts'
import { abortError, asError, type Failure, PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { checkOptions, type KnownOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { SharedListeners } from '../base/shared-listeners.ts'
import { throwLater } from '../base/throw-later.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { type Descriptor, guardLoan } from '../descriptor/descriptor.ts'
import { type Peer, withAgent } from '../descriptor/peer.ts'
import { type Handler, type ServeOptions, serveOptions } from './handlers.ts'
import type { Hello } from './hello.ts'
import { Inbox } from './inbox.ts'
import { ALL, Message } from './message.ts'
import type { ChannelOptions, Limits, Schema } from './options.ts'
import { OwnRequest } from './own-requests.ts'
import type { Parcel } from './parcel.ts'
import type { PeerRequest } from './peer-requests.ts'
import { ReplySettlement } from './reply-settlement.ts'
import { giveReturned, type Returned } from './returned.ts'
import { Session } from './session.ts'
import type { ReturnState, SessionOwner } from './session-core.ts'
import { requests, traceRequest } from './tracing.ts'
import type { Wire } from './wire.ts'

export interface RequestOptions<Reply = unknown> {
  /** Limits the descriptors of the reply. Default 1, at most 253. */
  descriptors?: number
  /** Cancels the request: it rejects with Node's AbortError, and passfd informs the peer. */
  signal?: AbortSignal
  /** Limits the wait for the answer, in ms; 0: no limit. Default: the channel's `requestTimeout`. */
  timeout?: number
  /**
   * Checks the reply, by any Standard Schema. If the reply fails, the request rejects with ERR_PASSFD_SCHEMA. passfd closes descriptors that are
   * not in the schema's result. It can't see a descriptor in a closure or a private field: the schema calls `claim()` on that.
   */
  schema?: Schema<Reply>
}

const REQUEST_OPTIONS = {
  descriptors: true,
  signal: true,
  timeout: true,
  schema: true
} as const satisfies KnownOptions<RequestOptions>

/** Stands for options that the program has not passed. */
const NO_OPTIONS: RequestOptions<any> = {}

export interface ChannelEvents<In = unknown, Out = unknown> {
  message: [Message<In>]
  returned: [Returned<Out>]
  close: [error?: Failure]
}

/** @internal What `connect`, `listen` and `pair` know before they make the channel. */
export interface ChannelSetup {
  wire: Wire
  peer: Peer
  limits: Limits
  options: ChannelOptions<any>
  /** Called once: with undefined when both hellos are exchanged, otherwise with the error. */
  onOpen?(error: Error | undefined): void
  /** The token of the socket's Descriptor, so that it isn't sent through itself. */
  description?: object | undefined
  /** The maker of the channel, if it needs to know the channel's end. */
  keeper?: ChannelKeeper | undefined
  /** It carries messages of passfd itself, as between a supervisor and a worker: diagnostics channels do not report it, because tracers change values. */
  isOwn?: boolean
}

/** @internal */
export interface ChannelKeeper {
  /** After the 'close' event. */
  onClosed(): void
  /** It has ended, and nothing that was lent is held any more. Before or after `onClosed`. */
  onGivenBack(): void
}

const opened = diagnostics.channel('passfd:channel:open')
const ended = diagnostics.channel('passfd:channel:close')
const sent = diagnostics.channel('passfd:message:sent')

/** @internal */
export let createChannel: (setup: ChannelSetup) => Channel<any, any>
/** @internal Says hello and reads. */
export let startChannel: (channel: Channel<any, any>, handshakeTimeout: number) => void
/** @internal */
export let sessionOf: (channel: Channel<any, any>) => Session
/** @internal Messages have come that no consumer was given. */
export let hasUnread: (channel: Channel<any, any>) => boolean
/** @internal As `channel.serve()`, with checked options. The handler runs in `context`, which its server ends. */
export let serveIn: <In>(
  channel: Channel<In, any>,
  handler: Handler<In>,
  options: ServeOptions<In>,
  context: AsyncContext
) => void
let listened: (channel: Channel<any, any>) => void

/** A connection to another process. It carries messages and requests with descriptors in both directions, in order. */
export class Channel<In = unknown, Out = unknown>
  extends EventEmitter<ChannelEvents<In, Out>>
  implements AsyncIterable<Message<In>>, AsyncDisposable
{
  readonly #session: Session
  readonly #wire: Wire
  readonly #inbox: Inbox<In>
  readonly #keeper: ChannelKeeper | undefined
  readonly #isOwn: boolean
  #onOpen: ChannelSetup['onOpen']
  #peer: Peer
  #over = false
  #closed: { promise: Promise<Failure | undefined>; resolve(error: Failure | undefined): void } | undefined

  private constructor(setup: ChannelSetup) {
    super()
    markUncloneable(this)
    // Not the object itself, because its contents would live as long as the channel
    const { wire, peer, limits, options, onOpen, description, keeper, isOwn = false } = setup
    this.#wire = wire
    this.#keeper = keeper
    this.#isOwn = isOwn
    this.#onOpen = onOpen
    this.#peer = peer
    this.#session = new Session(wire, limits, new Channel.#Listener(this), peer.pid, description)
    this.#inbox = new Inbox(this, this.#session, options.schema, isOwn)
    listeners.give(this)
  }

  /** The process at the other end, as the kernel reports it. Its hello gives `agent`. */
  get peer(): Peer {
    return this.#peer
  }

  /** Resolves when the channel has ended: to the error, or to undefined if both sides have sent a goodbye. Never rejects. */
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
   * Sends a value and moves the Descriptors in it. It never blocks. Misuse throws at once and moves nothing (ERR_PASSFD_ENCODE, _DESCRIPTOR_…,
   * _MESSAGE_TOO_LARGE, _TOO_MANY_DESCRIPTORS, _QUEUE_FULL, _OWN_SOCKET, _CHANNEL_CLOSED).
   *
   * The promise resolves when the queue is below `highWaterMark` and all binary values of 64 KiB or more have been sent. passfd does not copy
   * these, so don't change them before. It rejects with ERR_PASSFD_CLOSED if the channel ends first. The program need not await it.
   */
  send(value: Out): Promise<void> {
    this.#notClosedByUs()
    const result = this.#session.sending.send(value)
    if (sent.hasSubscribers && !this.#isOwn) sent.publish({ channel: this, value, request: false })
    return result
  }

  /**
   * Sends a value, moves the Descriptors in it, and resolves to the peer's answer. The caller owns the descriptors in the answer.
   *
   * Misuse throws as in `send`, also ERR_PASSFD_TOO_MANY_REQUESTS.
   *
   * Rejects with ERR_PASSFD_REMOTE (see `remote`), ERR_PASSFD_TIMEOUT, ERR_PASSFD_SCHEMA, ERR_PASSFD_CLOSED or an AbortError.
   */
  request<Reply = unknown>(value: Out, options: RequestOptions<Reply> = NO_OPTIONS): Promise<Reply> {
    if (requests.hasSubscribers && !this.#isOwn)
      return traceRequest(this, value, given => this.#request(given, options))
    return this.#request(value, options)
  }

  #request<Reply>(value: Out, options: RequestOptions<Reply>): Promise<Reply> {
    this.#notClosedByUs()
    if (options !== NO_OPTIONS) checkOptions(options, REQUEST_OPTIONS)
    const { descriptors = 1, signal, timeout = this.#session.limits.requestTimeout, schema } = options
    checkInteger(descriptors, 'options.descriptors', 0, MAX_RIGHTS)
    checkInteger(timeout, 'options.timeout', 0, 0x7fffffff)
    checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
    if (signal?.aborted) return quiet(Promise.reject(abortError(signal)))
    const settlement = new ReplySettlement<Reply>(schema, this.#wire, this.#peer.pid)
    this.#session.sending.request(value, descriptors, new OwnRequest(settlement, timeout, signal))
    if (sent.hasSubscribers && !this.#isOwn) sent.publish({ channel: this, value, request: true })
    return settlement.promise
  }

  /**
   * Calls `handler` for every message and request, several at a time.
   *
   * The handler's return value (or the result of its promise) answers a request, and moves the Descriptors in it. An exception becomes an error
   * for the requester. Throws ERR_PASSFD_CONSUMED if the channel has another consumer.
   */
  serve(handler: Handler<In>, given: ServeOptions<In> = {}): void {
    this.#inbox.serve(handler, serveOptions(handler, given))
  }

  /**
   * Closes the channel: refuses new sends, and waits until requests are answered, the queue is sent and descriptors are confirmed, within
   * `closeTimeout`.
   *
   * Then unconfirmed messages come back in `'returned'`. Resolves when the channel has ended. Never rejects (`closed` has the error).
   */
  async close(): Promise<void> {
    this.#closedByUs = true
    this.#session.close()
    await this.closed
  }

  /** Ends the channel at once, and sends the error's code to the peer. Unread messages are dropped, and their descriptors closed. */
  destroy(error?: Error): void {
    this.#closedByUs = true
    this.#session.end(error === undefined || error === null ? undefined : asError(error), true)
    this.#inbox.destroy()
  }

  /** Lets the channel keep the process running (the default). */
  ref(): this {
    this.#session.ref()
    return this
  }

  /** Lets the process end while the channel is open. */
  unref(): this {
    this.#session.unref()
    return this
  }

  override removeAllListeners(...name: Parameters<EventEmitter<ChannelEvents<In, Out>>['removeAllListeners']>): this {
    super.removeAllListeners(...name)
    listeners.giveAgain(this)
    return this
  }

  /** Iterates over the messages, until the channel has ended (`closed` has the reason). `break` stops reading and closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message<In>> {
    return this.#inbox.consumer.iterate()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** The async context of all functions of the program except `serve` handlers. */
  get #context(): AsyncContext {
    return this.#session.context
  }

  #closedByUs = false

  #notClosedByUs(): void {
    if (this.#closedByUs) throw new PassfdError('CHANNEL_CLOSED')
  }

  // --- callbacks of the session

  #opened(hello: Hello): void {
    this.#peer = withAgent(this.#peer, hello.agent)
    if (opened.hasSubscribers && !this.#isOwn)
      this.#context.run(() => opened.publish({ channel: this, peer: this.#peer }))
    this.#settleOpen(undefined)
  }

  #settleOpen(error: Error | undefined): void {
    const onOpen = this.#onOpen
    this.#onOpen = undefined
    onOpen?.(error)
  }

  #arrived(
    request: PeerRequest | undefined,
    value: unknown,
    descriptors: readonly Descriptor[],
    cost: number,
    lent: ArrayBuffer | undefined
  ): boolean {
    return this.#inbox.receive(new Message(value as In, descriptors, this, this.#session, request, lent), cost)
  }

  #returned(state: ReturnState, parcel: Parcel): void {
    const { answer, error } = parcel
    giveReturned(this, this.#context, this.#wire, state, parcel)
    if (error !== undefined && answer !== undefined) this.#inbox.handlers!.report(error, answer as Message<In>)
  }

  #end(error: Error | undefined): void {
    this.#over = true
    this.#inbox.end()
    this.#settleOpen(error ?? new PassfdError('DISCONNECTED'))
    if (ended.hasSubscribers && !this.#isOwn) this.#context.run(() => ended.publish({ channel: this, error }))
    // The collector closes descriptors of unread messages, and those of a handler that never ends
    for (const message of this.#inbox.open) for (const descriptor of message[ALL]) guardLoan(descriptor)
    // Not in this tick: a program that gets the channel by a promise must first be able to add listeners
    setImmediate(() => {
      this.#closed?.resolve(error)
      this.#inbox.pump()
      try {
        if (error === undefined) this.#context.emit(this, 'close')
        else this.#context.emit(this, 'close', error)
      } catch (failure) {
        throwLater(failure)
      }
      this.#context.end()
      this.#inbox.handlers?.end()
      this.#keeper?.onClosed()
    })
  }

  /** The session's callbacks: one object for each channel, and no closures. */
  static readonly #Listener = class implements SessionOwner {
    readonly #channel: Channel<any, any>

    constructor(channel: Channel<any, any>) {
      this.#channel = channel
    }

    onOpen(hello: Hello): void {
      this.#channel.#opened(hello)
    }

    onMessage(
      request: PeerRequest | undefined,
      value: unknown,
      descriptors: readonly Descriptor[],
      cost: number,
      lent: ArrayBuffer | undefined
    ): boolean {
      return this.#channel.#arrived(request, value, descriptors, cost, lent)
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
    hasUnread = channel => channel.#inbox.hasUnread
    serveIn = (channel, handler, options, context) => channel.#inbox.serve(handler, options, context)
    listened = channel => channel.#inbox.listen()
  }
}
mark(Channel, 'Channel')

const listeners = new SharedListeners(function (this: Channel, name) {
  if (name === 'message') listened(this)
})
