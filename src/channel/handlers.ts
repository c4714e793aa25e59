/** Runs the handlers of one `serve` call, and answers with the results. */

import { AsyncContext } from '../base/async-context.ts'
import { checkInteger, checkType } from '../base/check.ts'
import { asError, type Failure, isPassfdError, PassfdError, textOf } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { throwLater } from '../base/throw-later.ts'
import { descriptorsGiven } from './find-descriptors.ts'
import { ALL, ANSWER, ANSWERED, END, type Message } from './message.ts'
import { UnsentAnswer } from './sending.ts'
import type { Session } from './session.ts'
import { handling, isThenable, traceHandler } from './tracing.ts'

export type Handler<In = unknown> = (message: Message<In>) => unknown

export interface ServeOptions<In = unknown> {
  /** Limits the handlers that run at the same time; further messages wait. Default 256. */
  concurrency?: number
  /**
   * Called when the handler of a plain message fails, and when an answer can't be sent; the answer's descriptors have then come back in
   * `'returned'`. Without `onError` the failure of a plain message's handler ends the channel.
   */
  onError?(error: Failure, message: Message<In>): void
}

const SERVE_OPTIONS = { concurrency: true, onError: 'method' } as const satisfies KnownOptions<ServeOptions>

const CONCURRENCY = 256

/** What handlers need of the inbox. */
export interface HandlersOwner {
  /** A handler has settled, so there is room for another one. */
  pump(): void
}

export class Handlers<In> {
  /** The async context of the `serve` call. */
  readonly context: AsyncContext
  readonly #ownsContext: boolean
  readonly #session: Session
  readonly #owner: HandlersOwner
  readonly #handler: Handler<In>
  readonly #concurrency: number
  readonly #onError: ServeOptions<In>['onError']
  readonly #isOwn: boolean
  #running = 0
  /** Messages with descriptors whose handlers are running. */
  #handled: Set<Message<In>> | undefined

  /** `isOwn`: see ChannelSetup. `context`: that of a server's `serve` call, which ends it. */
  constructor(
    session: Session,
    owner: HandlersOwner,
    handler: Handler<In>,
    options: ServeOptions<In>,
    isOwn: boolean,
    context?: AsyncContext
  ) {
    const { concurrency = CONCURRENCY, onError } = options // read once, as a getter may fail later
    this.context = context ?? new AsyncContext('PASSFD_SERVE')
    this.#ownsContext = context === undefined
    this.#session = session
    this.#owner = owner
    this.#handler = handler
    this.#concurrency = concurrency
    this.#onError = onError
    this.#isOwn = isOwn
  }

  /** Whether another handler may run. */
  get free(): boolean {
    return this.#running < this.#concurrency
  }

  /** Messages with descriptors whose handlers have not settled. */
  get handled(): Iterable<Message<In>> {
    return this.#handled ?? []
  }

  /** Called when the channel has ended. */
  end(): void {
    if (this.#ownsContext) this.context.end()
  }

  /** Calls the handler, and answers with what it returns or what its promise resolves to. */
  handle(message: Message<In>): void {
    this.context.run(this.#handle, this, message)
  }

  /** Reports a failure to `onError`, if there is one. What `onError` throws is thrown later. */
  report(error: unknown, message: Message<In>): void {
    const onError = this.#onError
    try {
      if (onError !== undefined) this.context.run(() => onError(asError(error), message))
    } catch (failure) {
      throwLater(failure)
    }
  }

  /** Reports a failure that no answer reports. False: there is no `onError`. */
  reportUnanswered(error: Failure, message: Message<In>): boolean {
    if (this.#onError === undefined) return false
    this.report(error, message)
    return true
  }

  #handle(message: Message<In>): void {
    let result: unknown
    let later: boolean
    try {
      const isReported = handling.hasSubscribers && !this.#isOwn
      result = isReported ? traceHandler(this.#handler, message) : this.#handler(message)
      later = isThenable(result)
    } catch (error) {
      fail(message, error, this.#session, this)
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

  /** `await` calls the `then` of any object of the program, and turns its exceptions into rejections. */
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
    if (failed) fail(message, value, this.#session, this)
    else this.#answer(message, value)
    this.#owner.pump()
  }

  #answer(message: Message<In>, value: unknown): void {
    if (!message[ANSWERED]) {
      try {
        void message[ANSWER](value)
      } catch (failure) {
        if (failure instanceof UnsentAnswer) this.#answerFailed(message, value, failure)
        else throw failure
        return
      }
    }
    message[END]('its serve handler returned', true)
  }

  /** A handler gives away what it returns, so it comes back if it can't be sent. The requester and onError get the reason. */
  #answerFailed(message: Message<In>, value: unknown, { error, met }: UnsentAnswer): void {
    const descriptors = descriptorsGiven(value, met)
    if (!message[ANSWERED]) void message.fail(error as Error) // a getter of the answer may have answered the request already
    if (descriptors.length > 0) this.#session.custody.returnAnswer(value, descriptors)
    this.report(error, message)
    message[END]('its serve handler returned', true)
  }
}

/**
 * Ends a message that could not be handled. The requester gets the error. If no requester waits for an answer, `onError` of `handlers` gets it, and
 * without `onError` the channel ends with it.
 */
export function fail<In>(
  message: Message<In>,
  thrown: unknown,
  session: Session,
  handlers: Handlers<In> | undefined
): void {
  const error = asError(thrown)
  if (!message[ANSWERED]) void message.fail(error)
  else if (handlers === undefined || !handlers.reportUnanswered(error, message))
    session.end(
      isPassfdError(error) ? error : new PassfdError('HANDLER', { message: textOf(error) }, { cause: error }),
      true
    )
  message[END]('its serve handler failed', true)
}

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
