/** Received messages. The channel's schema checks them, and they wait in order until the consumer accepts them. */

import diagnostics from 'node:diagnostics_channel'
import type { EventEmitter } from 'node:events'
import type { AsyncContext } from '../base/async-context.ts'
import { Consumer, type ConsumerOwner, LISTENERS, LOOP } from '../base/consumer.ts'
import type { PassfdError } from '../base/errors.ts'
import { validate } from '../base/schema.ts'
import { throwLater } from '../base/throw-later.ts'
import { fail, type Handler, Handlers, type ServeOptions } from './handlers.ts'
import { END, type Message } from './message.ts'
import type { Schema } from './options.ts'
import type { Session } from './session.ts'

export const SERVE = 'serve()'

/** A message in the inbox. */
interface Entry<In> {
  message: Message<In>
  cost: number
  /** Its schema has been applied. */
  ready: boolean
  failure: PassfdError | undefined
}

/** Shared by all unused inboxes, and always empty. */
const NONE: never[] = []
const received = diagnostics.channel('passfd:message:received')

export class Inbox<In> implements ConsumerOwner<Message<In>> {
  readonly consumer = new Consumer<Message<In>, typeof SERVE>(this)
  readonly #channel: EventEmitter<any>
  readonly #session: Session
  readonly #schema: Schema<In> | undefined
  readonly #isOwn: boolean
  #handlers: Handlers<In> | undefined
  #entries: Entry<In>[] = NONE
  /** How many messages at the front the consumer has; they are removed together. */
  #given = 0
  #pumping = false
  #ended = false
  #destroyed = false

  /** `isOwn`: see ChannelSetup. */
  constructor(channel: EventEmitter<any>, session: Session, schema: Schema<In> | undefined, isOwn: boolean) {
    this.#channel = channel
    this.#session = session
    this.#schema = schema
    this.#isOwn = isOwn
  }

  /** Whether messages wait for a consumer. */
  get hasUnread(): boolean {
    return this.#entries.length > 0
  }

  /** The handlers of the `serve` call, if there was one. */
  get handlers(): Handlers<In> | undefined {
    return this.#handlers
  }

  /** Messages that the program has not finished, and those that it has not been given. */
  get open(): Message<In>[] {
    return [
      ...this.#entries.map(({ message }) => message),
      ...this.consumer.current,
      ...(this.#handlers?.handled ?? [])
    ]
  }

  /** Sets the handler for every message. Throws ERR_PASSFD_CONSUMED if there is another consumer. `context`: see Handlers. */
  serve(handler: Handler<In>, options: ServeOptions<In>, context?: AsyncContext): void {
    this.consumer.claim(SERVE)
    this.#handlers = new Handlers(this.#session, this, handler, options, this.#isOwn, context)
    this.pumpSoon()
  }

  /** The channel's first `'message'` listener was added. */
  listen(): void {
    this.consumer.claim(LISTENERS)
    this.pumpSoon()
  }

  /** Accepts a message that has arrived. True: the consumer has it. False: it waits, and costs credit until the consumer accepts it. */
  receive(message: Message<In>, cost: number): boolean {
    const schema = this.#schema
    if (schema === undefined && this.#entries.length === 0 && !this.#pumping && !this.#isReported && this.#ready) {
      this.#giveAtOnce(message)
      return true
    }
    const entry: Entry<In> = { message, cost, ready: true, failure: undefined }
    const { context } = this.#session
    // Before the schema: what a tracer has added to the value is no business of the program's
    if (this.#isReported) context.run(() => received.publish({ channel: this.#channel, message }))
    if (schema !== undefined && !this.#destroyed) {
      const checked = context.run(() => validate(schema, message.value))
      if (checked instanceof Promise) {
        entry.ready = false
        void checked.then(result => {
          applySchema(entry, result)
          this.pump()
        })
      } else applySchema(entry, checked)
    }
    if (this.#destroyed) {
      // By a subscriber or the schema
      message[END]('the channel was destroyed', false)
      return false
    }
    if (this.#entries === NONE) this.#entries = []
    this.#entries.push(entry)
    this.pump()
    return false
  }

  /** Gives messages to the consumer while it accepts them. */
  pump(): void {
    if (this.#pumping) return
    this.#pumping = true
    const entries = this.#entries
    try {
      while (this.#given < entries.length && entries[this.#given]!.ready && this.#ready) {
        const entry = entries[this.#given++]!
        this.#session.consumed(entry.cost)
        if (entry.failure === undefined) this.#give(entry.message)
        else fail(entry.message, entry.failure, this.#session, this.#handlers)
      }
    } finally {
      // Usually there is only one, and splice() would cost as much as the rest of this function
      if (this.#given === 1 && entries.length === 1) entries.pop()
      else if (this.#given > 0) entries.splice(0, this.#given)
      this.#given = 0
      this.#pumping = false
    }
    if (this.#ended && entries.length === 0) this.consumer.endReaders()
  }

  pumpSoon(): void {
    process.nextTick(() => this.pump())
  }

  /** Notes that no further message will come. The caller pumps when the program may be informed. */
  end(): void {
    this.#ended = true
  }

  /** Drops messages that the consumer was not given, and closes their descriptors. */
  destroy(): void {
    this.#destroyed = true
    for (const { message } of this.#entries.splice(this.#given)) message[END]('the channel was destroyed', false)
  }

  // --- what the consumer needs

  countListeners(): number {
    return this.#channel.listenerCount('message')
  }

  endItem(message: Message<In>): void {
    message[END]('the next message was asked for', true)
  }

  onLeft(): void {}

  // --- inside

  get #isReported(): boolean {
    return received.hasSubscribers && !this.#isOwn
  }

  get #ready(): boolean {
    return this.consumer.by === SERVE ? this.#handlers!.free : this.consumer.ready
  }

  /** Returns what `pump` would do with the message. */
  #giveAtOnce(message: Message<In>): void {
    this.#pumping = true
    try {
      this.#give(message)
    } finally {
      this.#pumping = false
    }
    if (this.#entries.length > 0) this.pump()
  }

  #give(message: Message<In>): void {
    const { consumer } = this
    if (consumer.by === SERVE) this.#handlers!.handle(message)
    else if (consumer.by === LOOP) consumer.giveToLoop(message)
    else {
      try {
        this.#session.context.run(this.#emit, this, message)
      } catch (error) {
        throwLater(error)
      }
      message[END]("the 'message' listeners returned", false)
    }
  }

  #emit(message: Message<In>): void {
    this.#channel.emit('message', message)
  }
}

function applySchema<In>(entry: Entry<In>, result: { value: unknown } | { error: PassfdError }): void {
  entry.ready = true
  if ('error' in result) entry.failure = result.error
  else (entry.message as { value: unknown }).value = result.value
}
