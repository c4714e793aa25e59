/** The seam between a channel and the operating system: one connected socket on this thread's loop. Tests put a fake one here. */
import { LARGE_TARGET, largeBodyComes } from '../os/heap.ts'
import { AREA, closeNow, discard, HEADROOM, RESULTS, unwatch, type WatchListener, watch } from '../os/loop.ts'
import {
  native,
  READABLE,
  RESULT_BYTES,
  RESULT_DESCRIPTORS,
  RESULT_FIRST,
  RESULT_FLAGS,
  TRUNCATED,
  WRITABLE
} from '../os/native.ts'

/** What a channel needs of its socket. Numbers are bytes or -errno. */
export interface Wire {
  /** The area of received bytes, which begin at `headroom`. The reader owns the bytes before. */
  readonly area: Buffer
  readonly headroom: number
  /** Writes bytes [start, end) once, with the first `count` of `fds` attached to the first byte. */
  send(bytes: Uint8Array, start: number, end: number, fds: Int32Array, count: number): number
  /** Writes several chunks at once, without the first `skip` bytes of the first chunk. */
  sendVector(chunks: readonly Uint8Array[], skip: number, fds: Int32Array, count: number): number
  /** Asks for `onWritable` when there is room again. */
  awaitWritable(on: boolean): void
  /** Receives the next bytes directly into buffer [start, end); null ends that. */
  target(buffer: Buffer | null, start: number, end: number): void
  /** Ends writing. Returns 0 or -errno. */
  shutdown(): number
  /** Leaves the loop and closes the socket. */
  end(): void
  /** Closes descriptors that a peer has chosen or has held, off the loop, and then reports how many. */
  discard(fds: readonly number[], done: ((count: number) => void) | undefined): void
  /** Closes copies of this process's own descriptors on the loop, if their close never waits. False: it has closed none. */
  closeHere(fds: readonly number[]): boolean
  /** The number of descriptors of this process that are being closed off the loop. */
  readonly closing: number
  /** Keeps the loop from sleeping for this many µs. */
  spin(microseconds: number): void
  /** Starts reading. */
  start(owner: WireOwner): void
  ref(): void
  unref(): void
}

export interface WireOwner {
  /** `length` bytes (0: end of file; negative: -errno) and `count` descriptors, whose numbers `fds` holds from `first` on. */
  onReadable(length: number, fds: Int32Array, first: number, count: number, truncated: boolean): void
  onWritable(): void
}

/** The send buffer of each channel's socket, in bytes. Linux doubles it, which makes twice the default. */
const SEND_BUFFER = 212_992
/**
 * The send buffer after a write of more than LARGE: then neither end waits for the other to wake up, and 1 MiB blocks move a third
 * faster. Its limit is net.core.wmem_max: 4 MiB since Linux 6.17, 208 KiB before.
 */
const LARGE_SEND_BUFFER = 425_984
/** In bytes. No slab of small messages is longer. */
const LARGE = 65_536

/** The real wire. It owns `fd`, which the shim holds. */
export class SocketWire implements Wire, WatchListener {
  readonly fd: number
  ended = false
  #owner: WireOwner | undefined
  #id = 0
  #refed = true
  #awaitsWritable = false
  #sendsLarge = false

  constructor(fd: number) {
    this.fd = fd
  }

  start(owner: WireOwner): void {
    native.sendBuffer(this.fd, SEND_BUFFER)
    this.#owner = owner
    this.#id = watch(this.fd, true, this)
    if (!this.#refed) native.unref(this.#id)
  }

  onEvents(events: number): void {
    const owner = this.#owner!
    // Writing first, so that answers which reading queues can leave at once
    if (events & WRITABLE) owner.onWritable()
    if (events & READABLE && this.#id !== 0)
      owner.onReadable(
        RESULTS[RESULT_BYTES]!,
        RESULTS,
        RESULT_FIRST,
        RESULTS[RESULT_DESCRIPTORS]!,
        (RESULTS[RESULT_FLAGS]! & TRUNCATED) !== 0
      )
  }

  get area(): Buffer {
    return AREA
  }

  get headroom(): number {
    return HEADROOM
  }

  send(bytes: Uint8Array, start: number, end: number, fds: Int32Array, count: number): number {
    if (end - start > LARGE && !this.#sendsLarge) this.#makeRoom()
    return native.send(this.fd, bytes, start, end, fds, 0, count)
  }

  sendVector(chunks: readonly Uint8Array[], skip: number, fds: Int32Array, count: number): number {
    if (!this.#sendsLarge && chunks.some(({ byteLength }) => byteLength > LARGE)) this.#makeRoom()
    return native.sendVector(this.fd, chunks, skip, fds, 0, count)
  }

  awaitWritable(on: boolean): void {
    if (this.#id === 0 || on === this.#awaitsWritable) return
    this.#awaitsWritable = on
    native.interest(this.#id, on ? READABLE | WRITABLE : READABLE)
  }

  target(buffer: Buffer | null, start: number, end: number): void {
    if (this.#id === 0) return
    native.target(this.#id, buffer, start, end)
    if (buffer !== null && end - start >= LARGE_TARGET) largeBodyComes()
  }

  shutdown(): number {
    return native.shutdown(this.fd, 1)
  }

  end(): void {
    this.ended = true
    if (this.#id !== 0) unwatch(this.#id)
    this.#id = 0
    // shutdown(2) shows the end to the peer now, because the close may block on unreceived descriptors
    native.shutdown(this.fd, 2)
    discard([this.fd])
  }

  discard(fds: readonly number[], done: ((count: number) => void) | undefined): void {
    discard(fds, done)
  }

  closeHere(_fds: readonly number[]): boolean {
    return false
  }

  get closing(): number {
    return native.pendingCloses()
  }

  spin(microseconds: number): void {
    if (this.#id !== 0) native.spin(this.#id, microseconds)
  }

  ref(): void {
    this.#refed = true
    if (this.#id !== 0) native.ref(this.#id)
  }

  unref(): void {
    this.#refed = false
    if (this.#id !== 0) native.unref(this.#id)
  }

  #makeRoom(): void {
    this.#sendsLarge = true
    native.sendBuffer(this.fd, LARGE_SEND_BUFFER)
  }
}

/**
 * A wire for descriptors of this process whose close(2) never blocks, whatever the peer has done with them: it closes copies of these on the loop, which
 * takes a third of the time. What the peer has sent is closed off the loop all the same.
 */
export class TrustedWire extends SocketWire {
  override closeHere(fds: readonly number[]): boolean {
    closeNow(fds)
    return true
  }
}
