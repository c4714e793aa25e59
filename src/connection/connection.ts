/** `Connection`: a live stream together with the bytes that were read from it already, so that it can go on elsewhere. */

import { type Server, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { inspect } from 'node:util'
import { isAbortSignal, isUint8Array } from '../base/brand.ts'
import { bufferOf } from '../base/bytes.ts'
import { invalid } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { assertOpen, Descriptor, handOver, moveOut } from '../descriptor/descriptor.ts'
import { DUPLEXES, type Kind, SOCKETS } from '../descriptor/kind.ts'
import { takeStream } from '../descriptor/take-stream.ts'
import { checkReadable } from '../descriptor/to-node.ts'
import { native } from '../os/native.ts'
import { giveHead } from './head.ts'
import { giveTo, prepareServer, type SocketSetup, setupOf } from './inject.ts'

export interface TakeOptions {
  /**
   * Bytes of the connection that your program has already read, such as the head of http's `'upgrade'`. They come before the bytes that the
   * stream still holds. Default none.
   */
  head?: Uint8Array
  /** Cancels the call while it waits for pending writes. The stream then works as before. */
  signal?: AbortSignal
}

const TAKE_OPTIONS = { head: true, signal: true } as const satisfies KnownOptions<TakeOptions>

export interface StreamOptions {
  /** As for `net.Socket`: false (the default) ends this side when the peer has ended. For the kinds tcp and unix-stream. */
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
 * Holds a live connection (or a pipe, or a terminal) with the bytes that were already read from it. A message can carry it like a Descriptor.
 *
 * It has one owner: sending *moves* it, `toSocket()`, `toDuplex()` and `injectInto()` use it up, and `close()` closes it. Every later use throws
 * ERR_PASSFD_CONNECTION_GONE, which names the call. passfd *lends* a received Connection until the message's scope ends.
 */
export class Connection implements Disposable {
  readonly #descriptor: Descriptor
  readonly #head: Buffer
  /** What used it up here. */
  #by = ''

  /**
   * Makes a Connection of a Descriptor, which it uses up, and of the bytes that were already read from it, which it copies.
   * @throws `ERR_PASSFD_DESCRIPTOR_KIND` unless its kind is tcp, unix-stream, pipe or tty. Then the caller still owns the Descriptor.
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
   * Takes the connection out of a live stream, and destroys the stream without shutting the connection down. The caller owns the result.
   *
   * It waits until the stream has connected and has sent all pending writes. Then it takes the bytes that Node has read and the program has not
   * consumed. From the call on the stream emits no data. `stream`: a `net.Socket` (TCP, Unix, a pipe, a terminal), or the result of
   * `toDuplex()`.
   *
   * Misuse throws at the call and changes nothing: ERR_PASSFD_CONNECTION_SOURCE says why the stream can't be taken. The promise rejects with the
   * socket's own error if the socket fails meanwhile. It rejects with an AbortError if `signal` aborts; then the stream works as before.
   */
  static take(stream: Socket | Duplex, options: TakeOptions = {}): Promise<Connection> {
    const { head = NO_BYTES, signal } = readOptions(options, TAKE_OPTIONS)
    const copy = copyOf('options.head', head)
    if (signal !== undefined && !isAbortSignal(signal)) throw invalid('options.signal', 'an AbortSignal', signal)
    return takeStream(stream, copy, signal).then(taken => new Connection(taken.descriptor, taken.head, WITHIN))
  }

  /** Gives the bytes that were already read from the connection. Untrusted when a peer sent the Connection. */
  get head(): Buffer {
    return this.#head
  }

  /** Reports the kernel's kind of the descriptor: tcp, unix-stream, pipe or tty. It may be any kind when a peer sent the Connection. */
  get kind(): Kind {
    return this.#open().kind
  }

  /** Reports whether it was closed, moved or used up, or its scope has ended. */
  get closed(): boolean {
    return this.#descriptor.closed
  }

  /**
   * Converts it to a `net.Socket` that gives `head` first. The socket is paused until the program reads it. Kinds: tcp, unix-stream. Uses this
   * up.
   */
  toSocket(options: StreamOptions = {}): Socket {
    return this.#toSocket('toSocket()', streamOptions(options))
  }

  /** Converts it to a Duplex that gives `head` first, also for the kinds pipe and tty: see `Descriptor.toDuplex()`. Uses this up. */
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
   * Gives the connection to an http, https, http2 or net server, as if the server had accepted it. Uses this up. Kinds: tcp, unix-stream.
   *
   * The server emits `'connection'` in the next tick, and counts the connection: time-outs, `close()` and `maxConnections` work. Over
   * `maxConnections` the server destroys the connection and emits `'drop'`. A server that never listened begins to listen on a socket that no
   * process can reach. It emits `'listening'`, `listening` is true, `address()` is null, and a later `listen()` throws Node's
   * ERR_SERVER_ALREADY_LISTEN. It doesn't keep the process running.
   * @throws `ERR_PASSFD_SERVER_CLOSED` if the server was closed, or its `listen()` has not finished.
   */
  injectInto(server: Server): Socket {
    checkKind('injectInto()', this.#open().kind, SOCKETS)
    const accepting = prepareServer(server)
    const socket = this.#toSocket('injectInto()', setupOf(accepting))
    giveTo(accepting, socket)
    return socket
  }

  /** Keeps a received Connection beyond its message's scope. On any other Connection it changes nothing. */
  claim(): this {
    this.#open().claim()
    return this
  }

  /** Closes it. Unread bytes are lost. @throws the error that names the call which took it, if it is not open any more. */
  close(): void {
    this.#open().close()
  }

  /** Closes it if it is still open. */
  [Symbol.dispose](): void {
    this.#descriptor[Symbol.dispose]()
  }

  /** Throws: JSON can't carry a connection. */
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
