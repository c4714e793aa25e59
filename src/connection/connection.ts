/** `Connection`: a live stream together with the bytes that were read from it already, so that it can go on elsewhere. */

import { type Server, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { inspect } from 'node:util'
import { isAbortSignal, isUint8Array } from '../base/brand.ts'
import { bufferOf } from '../base/bytes.ts'
import { invalid } from '../base/check.ts'
import { mark } from '../base/copy.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { assertOpen, Descriptor, handOver, moveOut } from '../descriptor/descriptor.ts'
import { DUPLEXES, type Kind, SOCKETS } from '../descriptor/kind.ts'
import { takeStream } from '../descriptor/take-stream.ts'
import { checkReadable } from '../descriptor/to-node.ts'
import { native } from '../os/native.ts'
import { giveHead } from './head.ts'
import { giveTo, prepareServer, type SocketSetup, setupOf } from './inject.ts'

export interface TakeOptions {
  /** Bytes that a parser gives back, such as those of http's `'upgrade'`: they come before what the stream holds. Default none. */
  head?: Uint8Array
  /** Ends the waiting for what is still to be written; the stream then goes on as before. */
  signal?: AbortSignal
}

const TAKE_OPTIONS = { head: true, signal: true } as const satisfies KnownOptions<TakeOptions>

export interface StreamOptions {
  /** As for `net.Socket`: false (the default) answers the peer's end with one of ours. Kinds tcp and unix-stream. */
  allowHalfOpen?: boolean
}

const STREAM_OPTIONS = { allowHalfOpen: true } as const satisfies KnownOptions<StreamOptions>

const NO_BYTES = Buffer.alloc(0)
const WITHIN: unique symbol = Symbol('within')
const inside = new WeakSet<Descriptor>()

/** @internal The Descriptor in an open Connection. Throws ERR_PASSFD_CONNECTION_GONE. */
export let descriptorOf: (connection: Connection) => Descriptor
/** @internal A Connection of a Descriptor that came in a message, and shares its scope. */
export let connectionOf: (descriptor: Descriptor, head: Buffer) => Connection
/** @internal By its private fields. */
export let isConnection: (value: object) => value is Connection

/** @internal The Descriptor stands in a Connection, so it is not to be handed out alone. */
export function isInside(descriptor: Descriptor): boolean {
  return inside.has(descriptor)
}

/**
 * A live connection (or a pipe, or a terminal) with the bytes already read from it. It can stand in a message like a Descriptor, and
 * has one owner like a Descriptor: sending *moves* it, `toSocket()`, `toDuplex()` and `injectInto()` use it up, `close()` ends it.
 * Later use is ERR_PASSFD_CONNECTION_GONE, which says what took it. One that came in a message is *lent* until the message's scope ends.
 */
export class Connection implements Disposable {
  readonly #descriptor: Descriptor
  readonly #head: Buffer
  /** What used it up here. */
  #by = ''

  /**
   * A Connection of a Descriptor (which is used up) and the bytes that were read from it already (copied).
   * @throws `ERR_PASSFD_DESCRIPTOR_KIND` unless its kind is tcp, unix-stream, pipe or tty.
   */
  constructor(descriptor: Descriptor, head?: Uint8Array)
  /** @internal */
  constructor(descriptor: Descriptor, head: Buffer, within: typeof WITHIN)
  constructor(descriptor: Descriptor, head: Uint8Array = NO_BYTES, within?: typeof WITHIN) {
    markUncloneable(this)
    if (within === WITHIN) {
      this.#descriptor = descriptor
      this.#head = head as Buffer
    } else {
      if (!(descriptor instanceof Descriptor)) throw invalid('descriptor', 'a Descriptor', descriptor)
      this.#head = copyOf('head', head)
      assertOpen(descriptor) // its kind may be remembered
      checkKind('new Connection()', descriptor.kind, DUPLEXES)
      this.#descriptor = handOver(descriptor, 'new Connection()')
    }
    inside.add(this.#descriptor)
  }

  /**
   * Takes a live stream out of this process: waits until all that was written has left (and until it is connected), takes what Node has
   * read and not given out, and destroys the stream without shutting the connection down. From the call on its listeners get no
   * data. `stream`: a `net.Socket` (TCP, Unix, a pipe, a terminal), or what `toDuplex()` gave.
   *
   * Misuse throws at the call and changes nothing: ERR_PASSFD_CONNECTION_SOURCE for a stream that can't be taken, and why. Rejects with
   * the socket's own error if it fails meanwhile, or with an AbortError: then the stream goes on as it was.
   */
  static take(stream: Socket | Duplex, options: TakeOptions = {}): Promise<Connection> {
    const { head = NO_BYTES, signal } = readOptions(options, TAKE_OPTIONS)
    const copy = copyOf('options.head', head)
    if (signal !== undefined && !isAbortSignal(signal)) throw invalid('options.signal', 'an AbortSignal', signal)
    return takeStream(stream, copy, signal).then(taken => new Connection(taken.descriptor, taken.head, WITHIN))
  }

  /** The bytes that were read from it already. Untrusted when they came from a peer. */
  get head(): Buffer {
    return this.#head
  }

  /** What it is open on, as the kernel tells: tcp, unix-stream, pipe, tty; anything when it came from a peer. */
  get kind(): Kind {
    return this.#open().kind
  }

  /** True once it was closed, moved or used up, or its scope is over. */
  get closed(): boolean {
    return this.#descriptor.closed
  }

  /** A `net.Socket`, paused until it is read, that gives `head` first. Kinds: tcp, unix-stream. Uses this up. */
  toSocket(options: StreamOptions = {}): Socket {
    return this.#toSocket('toSocket()', streamOptions(options))
  }

  /** The same for the kinds pipe and tty, too: see `Descriptor.toDuplex()`. Uses this up. */
  toDuplex(options: StreamOptions = {}): Duplex {
    const setup = streamOptions(options)
    const descriptor = this.#open()
    if (SOCKETS.includes(descriptor.kind)) return this.#toSocket('toDuplex()', setup)
    const unread = this.#head.length > 0
    if (unread) checkReadable(descriptor.borrow(), descriptor.kind, 'toDuplex() with bytes that were read already')
    const stream = descriptor.toDuplex()
    this.#by = 'toDuplex()'
    if (unread) stream.unshift(this.#head)
    return stream
  }

  /**
   * Gives it to an http, https, http2 or net server as if that had accepted it: as its `'connection'` (in the next tick), counted,
   * with its `maxConnections` (over which it is dropped: destroyed, `'drop'` emitted), its time-outs and its `close()` working. Uses this up.
   *
   * A server that never listened begins to listen on a socket that nobody can reach: `'listening'` is emitted, `listening` is true,
   * `address()` null, and a later `listen()` throws Node's ERR_SERVER_ALREADY_LISTEN. It doesn't keep the process running.
   * @throws `ERR_PASSFD_SERVER_CLOSED` if it was closed, or its `listen()` is still under way. Kinds: tcp, unix-stream.
   */
  injectInto(server: Server): Socket {
    checkKind('injectInto()', this.#open().kind, SOCKETS)
    const accepting = prepareServer(server)
    const socket = this.#toSocket('injectInto()', setupOf(accepting))
    giveTo(accepting, socket)
    return socket
  }

  /** Keeps a received one beyond its message's scope. On any other it changes nothing. */
  claim(): this {
    this.#open().claim()
    return this
  }

  /** Closes it; what was not read is lost. @throws the error that says what took it, if it is not open any more. */
  close(): void {
    this.#open().close()
  }

  /** Closes it if it is still open. */
  [Symbol.dispose](): void {
    this.#descriptor[Symbol.dispose]()
  }

  /** Never part of a JSON text: it means nothing elsewhere. */
  toJSON(): never {
    throw new PassfdError('ENCODE', { detail: 'a Connection can be sent through a passfd channel only, not as JSON' })
  }

  /** For `console.log`. */
  [inspect.custom](): string {
    const bytes = this.closed || this.#head.length === 0 ? '' : `, ${this.#head.length} bytes unread`
    return inspect(this.#descriptor).replace('Descriptor', 'Connection').replace(/\)$/, `${bytes})`)
  }

  #open(): Descriptor {
    const descriptor = this.#descriptor
    if (!descriptor.closed) return descriptor
    try {
      assertOpen(descriptor)
      return descriptor
    } catch (error) {
      throw gone(error as PassfdError, this.#by)
    }
  }

  #toSocket(operation: string, setup: SocketSetup): Socket {
    const descriptor = this.#open()
    checkKind(operation, descriptor.kind, SOCKETS)
    const socket = new Socket({ ...setup, fd: descriptor.borrow() })
    native.release(moveOut(descriptor, operation))
    this.#by = operation
    // Nothing can have been read before the loop turns
    if (this.#head.length > 0) giveHead(socket, this.#head)
    return socket
  }

  static {
    descriptorOf = connection => connection.#open()
    isConnection = (value): value is Connection => #head in value
    connectionOf = (descriptor, head) => new Connection(descriptor, head, WITHIN)
  }
}
mark(Connection, 'Connection')

/** The Descriptor in it knows what happened, but its remedies are not all those of a Connection. */
function gone(error: PassfdError, by: string): PassfdError {
  const how = {
    ERR_PASSFD_DESCRIPTOR_CLOSED: 'was closed by close()',
    ERR_PASSFD_DESCRIPTOR_MOVED: 'was moved away in a message: it belongs to the channel, then to the peer'
  }
  if (by !== '') return goneBy(`was used up by ${by}: the stream that call returned owns it`, error)
  const told = how[error.code as keyof typeof how]
  return told === undefined ? error : goneBy(told, error)
}

function goneBy(how: string, cause: PassfdError): PassfdError {
  return new PassfdError('CONNECTION_GONE', { how }, { cause })
}

function checkKind(operation: string, actual: Kind, kinds: readonly Kind[]): void {
  if (!kinds.includes(actual))
    throw new PassfdError('DESCRIPTOR_KIND', { operation, expected: kinds.join(' or '), actual })
}

function streamOptions(options: StreamOptions): StreamOptions {
  const { allowHalfOpen = false } = readOptions(options, STREAM_OPTIONS)
  if (typeof allowHalfOpen !== 'boolean') throw invalid('options.allowHalfOpen', 'a boolean', allowHalfOpen)
  return { allowHalfOpen }
}

function copyOf(what: string, bytes: unknown): Buffer {
  if (!isUint8Array(bytes)) throw invalid(what, 'a Buffer or Uint8Array', bytes)
  return Buffer.from(bufferOf(what, bytes))
}
