/** `DescriptorStream`: a Duplex of bytes that also carries descriptors. */

import { setImmediate } from 'node:timers'
import { ContextDuplex } from '../base/context-duplex.ts'
import { EAGAIN, EINTR } from '../base/errno.ts'
import { type Failure, PassfdError, systemError } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { checkKind } from '../descriptor/admission.ts'
import { type Descriptor, descriptionOf, moveOut, received, restoreNumber } from '../descriptor/descriptor.ts'
import { type Cargo, cargoOf, checkCount, copiesOf, handBack } from '../descriptor/outgoing.ts'
import { askOf, type Peer, peerOf } from '../descriptor/peer.ts'
import { discard } from '../os/loop.ts'
import { MESSAGE_FIRST, MESSAGE_PLACE, native, RESULT_DESCRIPTORS, RESULT_FLAGS, TRUNCATED } from '../os/native.ts'
import { isBackPressure, RawSocket, RECEIVED } from '../os/raw-socket.ts'
import { READ_BLOCK, readBlock } from '../os/read-block.ts'
import { KeptDescriptors } from './kept-descriptors.ts'
import { STREAM_OPTIONS, type StreamOptions, streamLimits } from './options.ts'
import { type PartsSource, partsOf, type StreamPart } from './parts.ts'
import { closeCopies, StreamOutbox } from './stream-outbox.ts'

type Listener<Arguments extends unknown[]> = (...args: Arguments) => void

/** The events of a DescriptorStream besides those of every Duplex. */
export interface DescriptorStream {
  /**
   * Descriptors have arrived. `position` is the number of bytes of the stream before the byte that carried them. The listener owns them. The
   * event comes before that byte can be read.
   */
  on(event: 'descriptors', listener: Listener<[descriptors: Descriptor[], position: number]>): this
  /** Descriptors have arrived, as numbers that the listener must close. Not emitted while there is a listener for 'descriptors'. */
  on(event: 'fds', listener: Listener<[fds: number[]]>): this
  on(event: string | symbol, listener: Listener<any[]>): this
  once(event: 'descriptors', listener: Listener<[descriptors: Descriptor[], position: number]>): this
  once(event: 'fds', listener: Listener<[fds: number[]]>): this
  once(event: string | symbol, listener: Listener<any[]>): this
}

const NONE: number[] = []
/** Several reads in one wake-up, but not so many that others wait for long. */
const READS = 8

/** @internal */
export let createStream: (fd: number, peer: Peer, options: StreamOptions, description?: object) => DescriptorStream

/**
 * Carries bytes and descriptors over a connected AF_UNIX stream socket, as a Duplex.
 *
 * Received descriptors go to `'descriptors'` (or `'fds'`) listeners, to `withDescriptors()`, or, with the option `keepDescriptors`, to
 * `takeDescriptors()`. passfd closes all others at once. Errors, `end`, `destroy`, back pressure and half-close work as with `net.Socket`.
 *
 * The stream reads nothing before the program reads, so listeners may be added later.
 */
export class DescriptorStream extends ContextDuplex {
  /** The process at the other end (unix(7), `SO_PEERCRED`). */
  readonly peer: Peer
  readonly #socket: RawSocket
  readonly #outbox: StreamOutbox
  readonly #maxDescriptors: number
  readonly #description: object | undefined
  /** Descriptors that wait for `takeDescriptors()`, by where they came. */
  readonly #kept = new KeptDescriptors()
  #keeps: boolean
  /** withDescriptors() is being read. */
  #inParts = false
  /** Reading rests until some of them are taken. */
  #crowded = false
  #received = 0
  /** Somebody has begun to. */
  #reads = false
  #readEnded = false
  #written: ((error?: Error | null) => void) | undefined
  #owesDrain = false
  /** The stream ends with it once what has been received is read. */
  #failure: Error | undefined
  /** Writing has failed; what the peer said before is still to be read. */
  #writeFailure: Error | undefined

  private constructor(fd: number, peer: Peer, options: StreamOptions, description: object | undefined) {
    const { maxDescriptors, highWaterMark, allowHalfOpen, keepDescriptors } = streamLimits(options)
    super({ allowHalfOpen, highWaterMark })
    markUncloneable(this)
    this.peer = peer
    this.#maxDescriptors = maxDescriptors
    this.#keeps = keepDescriptors
    this.#description = description
    // Credentials would stop the kernel from merging bytes, and be in the way of finding descriptors' places
    native.passCredentials(fd, false)
    this.#outbox = new StreamOutbox(fd)
    this.#socket = new RawSocket(fd, { onReadable: () => this.#onReadable(), onWritable: () => this.#flush() })
    askOf(peer, this.#socket)
  }

  /**
   * Makes a stream on a connected socket: of a socketpair, inherited or received. It takes the Descriptor (kind `unix-stream`) over.
   * @throws ERR_PASSFD_DESCRIPTOR_KIND, ERR_PASSFD_INVALID_ARGUMENT; then the caller still owns the Descriptor.
   */
  static override from(descriptor: Descriptor, given: StreamOptions = {}): DescriptorStream {
    const options = readOptions(given, STREAM_OPTIONS)
    streamLimits(options)
    const by = 'DescriptorStream.from()'
    checkKind(descriptor, 'unix-stream', by)
    const peer = peerOf(descriptor.borrow())
    const fd = moveOut(descriptor, by)
    try {
      return createStream(fd, peer, options, descriptionOf(descriptor))
    } catch (error) {
      restoreNumber(descriptor, fd, undefined)
      throw error
    }
  }

  /** Reports the number of bytes received so far, which is the position of the next byte. */
  get bytesRead(): number {
    return this.#received
  }

  /** Reports the number of bytes that the kernel has accepted so far. */
  get bytesWritten(): number {
    return this.#outbox.sent
  }

  /**
   * Writes bytes (at least one) and moves the descriptors (at most 253) with their first byte, in order with all other writes. It never blocks,
   * and returns false if the program should wait for `'drain'`. passfd calls `callback` when the bytes have been sent.
   *
   * If the kernel refuses to pass a descriptor (EBADF: it was closed; EINVAL: an io_uring), `callback` gets the system's error. Then these bytes
   * are not sent either, the caller owns the open descriptors again, and the stream goes on. Without a callback the stream ends with that error.
   * If the stream ends first, passfd closes descriptors that were not sent, and `callback` gets the error.
   * @throws ERR_PASSFD_EMPTY_WRITE, ERR_PASSFD_TOO_MANY_RIGHTS, ERR_PASSFD_QUEUE_FULL (`maxDescriptors` wait to be sent),
   * ERR_PASSFD_STREAM_ENDED, and the error of a Descriptor that can't be sent. Then nothing has moved.
   */
  writeWithDescriptors(
    bytes: Uint8Array | string,
    descriptors: readonly Descriptor[],
    callback?: (error?: Failure | null) => void
  ): boolean {
    const chunk = this.#checked(bytes, descriptors.length)
    const cargo = cargoOf(descriptors, 'writeWithDescriptors()', this.#description)
    const moved = [...descriptors]
    return this.#writeWith(chunk, cargo, callback, () => handBack(moved, cargo.fds))
  }

  /**
   * Writes bytes and sends duplicates of the numbers, which the caller still owns. Otherwise it works as `writeWithDescriptors()`. With the
   * event `'fds'` it is the interface that npm's `dbus-native` expects of its `stream` option.
   * @throws also `EBADF` (a system error).
   */
  writeWithFds(
    bytes: Uint8Array | string,
    fds: readonly number[],
    callback?: (error?: Failure | null) => void
  ): boolean {
    const chunk = this.#checked(bytes, fds.length)
    const cargo: Cargo = { fds: copiesOf(fds), foreign: false }
    return this.#writeWith(chunk, cargo, callback, () => closeCopies(cargo.fds, cargo.foreign))
  }

  /**
   * Returns the kept descriptors that came with bytes before the position `before`, in order; the caller owns them. Needs the option
   * `keepDescriptors`. Default: those that came with bytes that the program has read from this stream.
   */
  takeDescriptors(before: number = this.#received - this.readableLength): Descriptor[] {
    const taken = this.#kept.take(before).map(received)
    if (this.#crowded && !this.#isCrowded) this.#goOn()
    return taken
  }

  /**
   * Iterates over the stream in parts.
   *
   * A part begins where descriptors came, and these came with its first byte. The reader owns them. passfd keeps descriptors from this call on.
   * So nothing may have been read before, and nothing else may read. `break` leaves unread bytes and closes nothing.
   */
  withDescriptors(): AsyncIterableIterator<StreamPart> {
    this.#keeps = true
    const source: PartsSource = {
      begin: () => {
        this.#inParts = true
      },
      part: position => this.#part(position),
      end: () => {
        this.#inParts = false
        if (this.#crowded) this.#goOn()
      }
    }
    return partsOf(this, source, this.#received - this.readableLength)
  }

  /** Keeps the process running while the stream reads or writes (the default). */
  ref(): this {
    this.#socket.ref()
    return this
  }

  unref(): this {
    this.#socket.unref()
    return this
  }

  override read(size?: number): any {
    const chunk = super.read(size)
    if (this.#failure !== undefined && this.readableLength === 0) this.destroy(this.#failure)
    return chunk
  }

  override _read(): void {
    if (this.#readEnded) return
    this.#reads = true
    this.#crowded = this.#isCrowded
    this.#socket.read(!this.#crowded)
    if (this.#writeFailure !== undefined) this.#readSoon()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#put([chunk], callback)
  }

  override _writev(items: { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    this.#put(
      items.map(({ chunk }) => chunk),
      callback
    )
  }

  override _final(callback: (error?: Error | null) => void): void {
    const result = native.shutdown(this.#socket.fd, 1)
    // After the peer's end the stream closes now, which the peer sees as well
    if (result >= 0 || this.readableEnded) callback()
    // Without the callback: destroy() gives the error to end() and pipeline()
    else this.#failWriting(systemError(result, 'shutdown'))
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    const unread = this.#kept.take(Number.POSITIVE_INFINITY)
    if (unread.length > 0) discard(unread)
    this.#outbox.end()
    this.#socket.end()
    this.#done(error ?? destroyedError())
    callback(error)
  }

  // --- writing

  #checked(bytes: Uint8Array | string, count: number): Buffer {
    const chunk = checkCount(bytes, count)
    if (this.writableEnded && !this.destroyed && !this.#readEnded) throw new PassfdError('STREAM_ENDED')
    const queued = this.#outbox.waiting + count
    if (queued > this.#maxDescriptors) {
      throw new PassfdError('QUEUE_FULL', {
        what: 'The peer does not keep up, and the queue is full of descriptors',
        queued: this.#outbox.waiting,
        limit: this.#maxDescriptors,
        option: 'maxDescriptors',
        remedy: "Wait for 'drain' before writing more"
      })
    }
    return chunk
  }

  /** `onRefused`: what becomes of the numbers if the kernel does not pass them. */
  #writeWith(
    chunk: Buffer,
    cargo: Cargo,
    callback: ((error?: Error | null) => void) | undefined,
    onRefused: () => void
  ): boolean {
    let refusal: Error | undefined
    if (callback !== undefined)
      cargo.onRefused = errno => {
        refusal = systemError(errno, 'sendmsg')
        onRefused()
      }
    // The stream will refuse the bytes in its own way
    if (this.destroyed || this.writableEnded) closeCopies(cargo.fds, cargo.foreign)
    else if (cargo.fds.length > 0) this.#outbox.attach(chunk, cargo)
    const more = callback === undefined ? this.write(chunk) : this.write(chunk, error => callback(refusal ?? error))
    if (this.#outbox.waiting <= this.#maxDescriptors / 2) return more
    this.#owesDrain = true
    return false
  }

  #put(chunks: Buffer[], callback: (error?: Error | null) => void): void {
    this.#written = callback
    this.#outbox.put(chunks)
    this.#flush()
  }

  #flush(): void {
    if (this.#written === undefined) return
    const result = this.#outbox.flush()
    if (result === 0) this.#done()
    else if (isBackPressure(result)) this.#socket.writeLater(result)
    else this.#failWriting(systemError(result, 'write'))
  }

  #done(error?: Error): void {
    const callback = this.#written
    this.#written = undefined
    callback?.(error)
    if (!this.#owesDrain || this.destroyed || this.#outbox.waiting > this.#maxDescriptors / 2) return
    this.#owesDrain = false
    if (!this.writableNeedDrain) process.nextTick(() => this.emit('drain'))
  }

  /** The peer is gone. What it wrote before is read first, if the program reads. */
  #failWriting(error: Error): void {
    if (this.#readEnded || !this.#reads) this.destroy(error)
    else {
      this.#writeFailure = error
      this.#readSoon()
    }
  }

  // --- reading

  /**
   * Whether enough descriptors are kept that reading should pause. Many descriptors may come with few bytes, so only a reader of parts, which
   * takes descriptors, may pause for them. Other readers may wait for more bytes first.
   */
  get #isCrowded(): boolean {
    return this.#inParts && this.#kept.count > this.#maxDescriptors / 2 && this.readableLength > 0
  }

  #goOn(): void {
    this.#crowded = false
    if (this.#readEnded || this.destroyed) return
    this.#socket.read(true)
    if (this.#writeFailure !== undefined) this.#readSoon()
  }

  /** No event comes if the peer has only stopped to read (shutdown(2)) and says nothing. */
  #readSoon(): void {
    setImmediate(() => {
      if (!this.#socket.ended && this.#socket.reading) this.#onReadable()
    })
  }

  #onReadable(): void {
    for (let i = 0; i < READS; i++) {
      const result = native.receivePlaced(this.#socket.fd, readBlock.memory, 0, READ_BLOCK, RECEIVED)
      if (result === EINTR) continue
      if (result === EAGAIN) {
        if (this.#writeFailure !== undefined) this.destroy(this.#writeFailure)
        return
      }
      const place = RECEIVED[MESSAGE_PLACE]!
      const count = RECEIVED[RESULT_DESCRIPTORS]!
      const fds = count === 0 ? NONE : Array.from(RECEIVED.subarray(MESSAGE_FIRST, MESSAGE_FIRST + count))
      const truncated = (RECEIVED[RESULT_FLAGS]! & TRUNCATED) !== 0
      const wantsMore = this.#arrived(readBlock.take(Math.max(result, 0)), place, fds, truncated)
      if (this.destroyed) return
      if (result <= 0) {
        this.#endReading(result)
        return
      }
      this.#crowded = wantsMore && this.#isCrowded
      if (!wantsMore || this.#crowded) {
        this.#socket.read(false)
        return
      }
      if (result < READ_BLOCK && fds.length === 0) return // that was all
    }
  }

  /** Pushes the bytes before the place, reports the descriptors, pushes the rest. Returns whether the reader wants more. */
  #arrived(bytes: Buffer, place: number, fds: number[], truncated: boolean): boolean {
    if (fds.length === 0 && !truncated) {
      this.#received += bytes.length
      return bytes.length === 0 || this.push(bytes)
    }
    let wantsMore = true
    const before = bytes.subarray(0, place)
    this.#received += place
    try {
      if (place > 0) wantsMore = this.push(before)
    } finally {
      // Even if a listener throws, the rest has been received
      if (truncated && fds.length > 0) discard(fds)
      else if (!truncated) wantsMore = this.#tell(fds, bytes.subarray(place)) && wantsMore
    }
    if (truncated) this.destroy(new PassfdError('DESCRIPTORS_TRUNCATED'))
    return wantsMore
  }

  #tell(fds: number[], rest: Buffer): boolean {
    const position = this.#received
    this.#received += rest.length
    try {
      this.#give(fds, position)
    } finally {
      if (!this.destroyed && rest.length > 0 && !this.push(rest)) this.#socket.read(false)
    }
    return this.readableLength < this.readableHighWaterMark
  }

  #give(fds: number[], position: number): void {
    if (this.destroyed) discard(fds)
    else if (this.listenerCount('descriptors') > 0) this.emit('descriptors', fds.map(received), position)
    else if (this.listenerCount('fds') > 0) {
      for (const fd of fds) native.release(fd)
      this.emit('fds', fds)
    } else if (!this.#keeps) discard(fds)
    else if (this.#kept.count + fds.length > this.#maxDescriptors) {
      discard(fds)
      this.destroy(
        new PassfdError('DESCRIPTORS_UNTAKEN', { count: this.#kept.count + fds.length, limit: this.#maxDescriptors })
      )
    } else {
      this.#kept.add(position, fds)
    }
  }

  #endReading(result: number): void {
    this.#readEnded = true
    this.#socket.read(false)
    const failure = result < 0 ? systemError(result, 'read') : undefined
    if (this.#writeFailure !== undefined || failure !== undefined)
      this.#failAfterReading(this.#writeFailure ?? failure!)
    else this.push(null)
  }

  /** What has been received comes first: after an error nothing would be given to readers any more. */
  #failAfterReading(error: Error): void {
    if (this.readableLength === 0) this.destroy(error)
    else this.#failure = error
  }

  #part(position: number): StreamPart | undefined {
    const bytes: Buffer | null = this.read(Math.min(this.readableLength, this.#kept.nextAfter(position) - position))
    return bytes === null ? undefined : { bytes, descriptors: this.takeDescriptors(position + 1) }
  }

  static {
    createStream = (fd, peer, options, description) => new DescriptorStream(fd, peer, options, description)
  }
}
mark(DescriptorStream, 'DescriptorStream')

/** The error that Node gives to waiting writes. */
function destroyedError(): Error {
  return Object.assign(new Error('Cannot call write after a stream was destroyed'), { code: 'ERR_STREAM_DESTROYED' })
}
