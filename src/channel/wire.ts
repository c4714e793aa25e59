/** The seam between a channel and the operating system: one connected socket on this thread's loop. Tests put a fake one here. */
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
  /** Where received bytes stand: at `headroom` and after; what is in front belongs to the reader. */
  readonly area: Buffer
  readonly headroom: number
  /** One write of bytes [start, end) with the first `count` of `fds` attached to its first byte. */
  send(bytes: Uint8Array, start: number, end: number, fds: Int32Array, count: number): number
  /** The same, gathered; the first `skip` bytes of the first chunk are left out. */
  sendVector(chunks: readonly Uint8Array[], skip: number, fds: Int32Array, count: number): number
  /** `onWritable` is wanted, once there is room again. */
  awaitWritable(on: boolean): void
  /** The next bytes go to buffer [start, end) first; null ends that. */
  target(buffer: Buffer | null, start: number, end: number): void
  /** Nothing more will be written. */
  shutdown(): void
  /** Leaves the loop and closes the socket. */
  end(): void
  /** Closes descriptors that a peer has chosen or has held, off the loop, then reports how many. */
  discard(fds: readonly number[], done: ((count: number) => void) | undefined): void
  /** How many descriptors of this process are being closed off the loop. */
  readonly closing: number
  /** The loop is not to sleep for this many µs. */
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

/** Asked for each channel's socket, in bytes. Linux doubles it: twice what a socket has by itself. */
const SEND_BUFFER = 212_992
/**
 * Asked once something larger than LARGE is written: then neither end waits for the other to wake up. 1 MiB blocks move a third
 * faster. net.core.wmem_max, which is 4 MiB since Linux 6.17 and was 208 KiB before, is the limit.
 */
const LARGE_SEND_BUFFER = 425_984
/** In bytes: no slab of small messages is longer. */
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
    // Room to write first: what the reading queues may then leave at once
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
    if (this.#id !== 0) native.target(this.#id, buffer, start, end)
  }

  shutdown(): void {
    native.shutdown(this.fd, 1)
  }

  end(): void {
    this.ended = true
    if (this.#id !== 0) unwatch(this.#id)
    this.#id = 0
    // The peer sees the end now; the close itself may block on unreceived descriptors
    native.shutdown(this.fd, 2)
    discard([this.fd])
  }

  discard(fds: readonly number[], done: ((count: number) => void) | undefined): void {
    discard(fds, done)
  }

  get closing(): number {
    return native.pendingCloses()
  }

  spin(microseconds: number): void {
    native.spin(microseconds)
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

/** Sends to a process that the caller trusts not to make close(2) block: passfd closes its copies on the loop, which takes a third of the time. */
export class TrustedWire extends SocketWire {
  override discard(fds: readonly number[], done: ((count: number) => void) | undefined): void {
    const count = closeNow(fds)
    done?.(count)
  }
}
