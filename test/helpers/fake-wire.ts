/** Two connected stream sockets in memory, with descriptors as Linux passes them: see `read` and `write`. */
import { MAX_RIGHTS } from '../../src/base/kernel-limits.ts'
import type { Wire, WireOwner } from '../../src/channel/wire.ts'
import type { Ledger, Reference, Side } from './ledger.ts'

export const EPIPE = -32
export const EBADF = -9
export const EAGAIN = -11
export const ECONNRESET = -104
export const ETOOMANYREFS = -109

const HEADROOM = 65536
const ROOM = 16384
/** One for all, as in the real wire: what was read stands there no longer than the reader looks at it. */
const AREA = Buffer.allocUnsafeSlow(HEADROOM + ROOM)
const numbers = new Int32Array(3 + 4 * MAX_RIGHTS)

/** What a write finds: how much of it the socket takes, and how it is cut up. */
export interface Weather {
  /** How many of `bytes`, for which there is room, are accepted: 0 is EAGAIN. */
  accept(bytes: number): number
  /** The kernel puts a write into pieces; the descriptors belong to the first. */
  piece(bytes: number): number
  /** Too many descriptors are in flight already. */
  crowded(): boolean
}

export const FAIR: Weather = { accept: bytes => bytes, piece: bytes => bytes, crowded: () => false }

export interface Monitor {
  wrote(side: Side, bytes: Buffer, count: number): void
}

interface Piece {
  bytes: Buffer
  references: Reference[]
}

export class FakeSocket implements Wire {
  readonly area = AREA
  readonly headroom = HEADROOM
  readonly side: Side
  readonly capacity: number
  weather = FAIR
  monitor: Monitor | undefined
  /** The loop knows it; `end` takes it out. */
  attached = false
  ended = false
  closed = false
  /** Its process is gone: whatever still calls it is not there. */
  dead = false
  wantsWritable = false
  /** What the peer has written and nobody has read. */
  unread = 0
  /** Descriptors that wait to be closed off the loop. */
  readonly closings: { fds: readonly number[]; done: ((count: number) => void) | undefined }[] = []
  readonly #ledger: Ledger
  #peer!: FakeSocket
  #owner: WireOwner | undefined
  #pieces: Piece[] = []
  #error = 0
  #writes = true
  #reads = true
  #shutDown = false
  #target: Buffer | undefined
  #targetAt = 0
  #targetEnd = 0

  private constructor(side: Side, ledger: Ledger, capacity: number) {
    this.side = side
    this.#ledger = ledger
    this.capacity = capacity
  }

  static pair(ledger: Ledger, capacity: number): { left: FakeSocket; right: FakeSocket } {
    const left = new FakeSocket('left', ledger, capacity)
    const right = new FakeSocket('right', ledger, capacity)
    left.#peer = right
    right.#peer = left
    return { left, right }
  }

  // --- Wire

  start(owner: WireOwner): void {
    this.#owner = owner
    this.attached = true
  }

  send(bytes: Uint8Array, start: number, end: number, fds: Int32Array, count: number): number {
    return this.write(Buffer.from(bytes.subarray(start, end)), fds, count)
  }

  sendVector(chunks: readonly Uint8Array[], skip: number, fds: Int32Array, count: number): number {
    return this.write(Buffer.concat(chunks).subarray(skip), fds, count)
  }

  spin(): void {}

  awaitWritable(on: boolean): void {
    this.wantsWritable = on
  }

  target(buffer: Buffer | null, start: number, end: number): void {
    this.#target = buffer ?? undefined
    this.#targetAt = start
    this.#targetEnd = end
  }

  /** What shutdown(2) returns: 0, or -errno and writing goes on. */
  shutdownResult = 0

  shutdown(): number {
    if (this.#shutDown) this.#ledger.problem(`${this.side} shuts down twice`)
    this.#shutDown = true
    if (this.shutdownResult === 0) this.#writes = false
    return this.shutdownResult
  }

  end(): void {
    if (this.dead) return
    if (this.ended) this.#ledger.problem(`${this.side} ends its wire twice`)
    this.ended = true
    this.attached = this.wantsWritable = false
    this.#owner = undefined
    this.cut()
  }

  discard(fds: readonly number[], done: ((count: number) => void) | undefined): void {
    for (const fd of fds) this.#ledger.pass(fd, ['channel', 'given', 'lent'], 'closing', 'wire.discard')
    this.closings.push({ fds, done })
  }

  closeHere(): boolean {
    return false
  }

  /** What the program is told of closes under way; by default so many that it waits for its own. */
  closing = Number.POSITIVE_INFINITY

  ref(): void {}

  unref(): void {}

  // --- what the kernel does

  /** Both directions end, as by shutdown(2); what was written can still be read. */
  cut(): void {
    this.#writes = this.#reads = false
  }

  /** The socket is closed: what it has not read is lost, which the peer learns as a reset. */
  finishClose(): void {
    this.closed = true
    if (this.unread > 0) this.#peer.#error = ECONNRESET
    this.#pieces = []
    this.unread = 0
  }

  finishClosing(): void {
    const { fds, done } = this.closings.shift()!
    for (const fd of fds) this.#ledger.pass(fd, ['closing'], 'closed', 'close(2)')
    done?.(fds.length)
  }

  /** The process is gone, its socket closed with it. */
  die(): void {
    this.dead = true
    this.#owner = undefined
    this.ended = true
    this.attached = this.wantsWritable = false
    this.cut()
    this.finishClose()
  }

  get readable(): boolean {
    return this.attached && (this.unread > 0 || this.#error !== 0 || this.#atEnd)
  }

  get writable(): boolean {
    return this.attached && this.wantsWritable && (this.#broken || this.#peer.unread < this.capacity)
  }

  /** Bytes go in as far as there is room; all descriptors go with the first piece, or none if nothing goes (trap 16). */
  write(bytes: Buffer, fds: Int32Array, count: number): number {
    const ledger = this.#ledger
    if (this.dead) return EPIPE
    if (this.ended) ledger.problem(`${this.side} writes after its end`)
    if (count > MAX_RIGHTS || (count > 0 && bytes.length === 0))
      ledger.problem(`${this.side} writes ${count} descriptors with ${bytes.length} bytes`)
    if (bytes.length === 0) ledger.problem(`${this.side} writes nothing`)
    for (const fd of fds.subarray(0, count)) if (ledger.refusal(fd) !== 0) return ledger.refusal(fd)
    if (this.#error !== 0) return this.#takeError()
    if (this.#broken) return EPIPE
    if (count > 0 && this.weather.crowded()) return ETOOMANYREFS
    const room = Math.min(bytes.length, this.capacity - this.#peer.unread)
    const accepted = room > 0 ? this.weather.accept(room) : 0
    if (accepted <= 0) return EAGAIN
    const references = Array.from(fds.subarray(0, count), fd => ledger.depart(fd))
    this.#peer.put(bytes.subarray(0, accepted), references, this.weather)
    this.monitor?.wrote(this.side, bytes.subarray(0, accepted), count)
    return accepted
  }

  /** Bytes that arrive here, by whatever way. */
  put(bytes: Buffer, references: Reference[], weather = FAIR): void {
    let first = references
    for (let at = 0; at < bytes.length; ) {
      const size = Math.min(bytes.length - at, Math.max(1, weather.piece(bytes.length - at)))
      this.#pieces.push({ bytes: bytes.subarray(at, at + size), references: first })
      first = []
      at += size
    }
    this.unread += bytes.length
  }

  /**
   * Gives the owner up to `most` bytes, as one recvmsg(2): plain bytes merge in front of those with descriptors (trap 1); the
   * descriptors come with the first part of theirs (trap 2), and then the read ends where their piece does.
   * `lost`: so many of the descriptors the kernel fails to install (trap 3).
   */
  read(most: number, lost = 0): void {
    if (this.unread === 0) {
      const error = this.#error === 0 ? 0 : this.#takeError()
      this.#owner!.onReadable(error, numbers, 3, 0, false)
      if (this.attached) this.#ledger.problem(`${this.side} goes on after the end of file`)
      return
    }
    const aimed = this.#target === undefined ? 0 : this.#targetEnd - this.#targetAt
    const limit = Math.min(most, aimed + ROOM, this.unread)
    let references: Reference[] = []
    let length = 0
    while (length < limit && references.length === 0) {
      const piece = this.#pieces[0]!
      const size = Math.min(piece.bytes.length, limit - length)
      this.#copy(piece.bytes.subarray(0, size), length, aimed)
      length += size
      references = piece.references
      piece.references = []
      piece.bytes = piece.bytes.subarray(size)
      if (piece.bytes.length === 0) this.#pieces.shift()
    }
    this.unread -= length
    if (aimed > 0) this.#targetAt += Math.min(length, aimed)
    const count = Math.max(0, references.length - lost)
    for (let i = 0; i < count; i++) numbers[3 + i] = this.#ledger.arrive(this.side, references[i]!)
    this.#owner!.onReadable(length, numbers, 3, count, count < references.length)
    AREA.fill(0xee, HEADROOM - 256, HEADROOM + Math.max(0, length - aimed)) // the next channel's bytes
    numbers.fill(-1)
  }

  becomeWritable(): void {
    this.#owner!.onWritable()
  }

  #copy(bytes: Buffer, at: number, aimed: number): void {
    const direct = Math.max(0, Math.min(aimed - at, bytes.length))
    if (direct > 0) bytes.copy(this.#target!, this.#targetAt + at, 0, direct)
    bytes.copy(AREA, HEADROOM + Math.max(0, at - aimed), direct)
  }

  get #atEnd(): boolean {
    return this.unread === 0 && (!this.#peer.#writes || !this.#reads)
  }

  get #broken(): boolean {
    return !this.#writes || !this.#peer.#reads
  }

  #takeError(): number {
    const error = this.#error
    this.#error = 0
    return error
  }
}
