/** Frames of the wire, version 1: bytes in, frames out. Pure: no socket, no descriptor, no clock. `docs/protocol.md` describes it. */
import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { lendBody } from './lent-bodies.ts'

export const HEADER = 12

export const HELLO = 0
export const MESSAGE = 1
export const REQUEST = 2
export const REPLY = 3
export const FAULT = 4
export const CANCEL = 5
export const CREDIT = 6
export const TAKEN = 7
export const GOODBYE = 8
/** The rest of a frame whose descriptors the kernel refused: only its record definitions count. `id`: how many descriptors it had. */
export const DEFINITIONS = 9

/** Flag bits 0-2: bytes to skip after the body. */
export const SKIP_MASK = 7
/** Flag bit 3: the body uses record structures and msgpackr's further types. */
export const RECORDS = 8
/** Flag bits 8-15 of a request: how many descriptors its reply may carry. */
export const ALLOWANCE_SHIFT = 8

/** The longest hello, and the longest body of any kind before the hello, in bytes. */
export const MAX_HELLO = 4096

/** Bodies from this size on get a buffer of their own, which the kernel fills directly. */
const LARGE = 16384

const NO_BYTES: Buffer = Buffer.alloc(0)

/** Which kinds may carry descriptors, and which have no body at all. */
const CARRIES = [false, true, true, true, false, false, false, false, false, false]
const BODILESS = [false, false, false, false, false, true, true, true, false, false]
/** Which flag bits a kind may have besides the skip. */
const FLAGS = [0, RECORDS, RECORDS | 0xff00, RECORDS, 0, 0, 0, 0, 0, RECORDS]

/** A body: `bytes` [start, end). */
export interface Body {
  readonly bytes: Buffer
  readonly start: number
  readonly end: number
  /** Those of its frame. */
  readonly flags: number
  /** No other code will change that buffer. Otherwise it is valid until the call returns. */
  readonly owned: boolean
}

const NO_FDS: number[] = []

/** One whole frame. All readers use the same object for each: it is valid until the sink returns, or calls the program. */
export class Frame implements Body {
  kind = 0
  /** How many descriptors it has. */
  count = 0
  flags = 0
  id = 0
  bytes = NO_BYTES
  start = 0
  end = 0
  owned = false
  /** The body is lent: the sink ends the loan of this memory. */
  lent: ArrayBuffer | undefined
  /** Its descriptors, which the sink owns. The transport fills them in. */
  fds = NO_FDS

  /** Length of the body. */
  get length(): number {
    return this.end - this.start
  }

  /** Lets a buffer go that is the message's alone. */
  release(): void {
    this.bytes = NO_BYTES
    this.lent = undefined
    this.fds = NO_FDS
  }
}

/** One for all readers, because each one's own took 100 bytes of a channel. */
const frame = new Frame()

export interface FrameSink {
  /** Accepts one whole frame. False stops the reader for good. */
  onFrame(frame: Frame): boolean
}

/** Writes a header at `bytes[at]`. */
export function writeHeader(
  bytes: Uint8Array,
  at: number,
  length: number,
  kind: number,
  count: number,
  flags: number,
  id: number
): void {
  bytes[at] = length
  bytes[at + 1] = length >>> 8
  bytes[at + 2] = length >>> 16
  bytes[at + 3] = length >>> 24
  bytes[at + 4] = kind
  bytes[at + 5] = count
  bytes[at + 6] = flags
  bytes[at + 7] = flags >>> 8
  bytes[at + 8] = id
  bytes[at + 9] = id >>> 8
  bytes[at + 10] = id >>> 16
  bytes[at + 11] = id >>> 24
}

/**
 * Splits a stream of bytes into frames. It reads from an *area* that it may share with other readers: received bytes
 * begin at `headroom`, and it copies the rest of earlier bytes right in front of them.
 *
 * States: *between* (nothing kept), *partial* (`kept` holds the beginning of a frame), *large* (`target` is
 * being filled directly, up to `targetEnd`).
 */
export class FrameReader {
  /** The limit for bodies, in bytes; the session raises it after the hello. */
  maxBody = MAX_HELLO
  /** Lends the large bodies of messages and requests. */
  lends = false
  /** A large body being filled: the next bytes belong to `target` [filled, targetEnd). */
  target: Buffer | undefined
  filled = 0
  targetEnd = 0

  readonly #sink: FrameSink
  readonly #area: Buffer
  readonly #headroom: number
  #kept: Buffer = NO_BYTES
  #targetHeader: Buffer = NO_BYTES
  #targetLent = false

  constructor(sink: FrameSink, area: Buffer, headroom: number) {
    this.#sink = sink
    this.#area = area
    this.#headroom = headroom
  }

  /** True while a frame has begun and not ended. */
  get partial(): boolean {
    return this.target !== undefined || this.#kept.length > 0
  }

  /** Descriptors that the frame in progress has announced. */
  get announced(): number {
    if (this.target !== undefined) return this.#targetHeader[5] ?? 0
    return this.#kept.length > 5 ? (this.#kept[5] ?? 0) : 0
  }

  /** `length` bytes have been received: into the target while there was one, the rest into the area. */
  received(length: number): void {
    if (this.target !== undefined) {
      const direct = Math.min(length, this.targetEnd - this.filled)
      this.filled += direct
      length -= direct
      if (this.filled < this.targetEnd) return
      if (!this.#finishTarget()) return
    }
    if (length === 0) return
    let start = this.#headroom
    if (this.#kept.length > 0) {
      start -= this.#kept.length
      this.#area.set(this.#kept, start)
      this.#kept = NO_BYTES
    }
    this.#parse(start, this.#headroom + length)
  }

  #parse(at: number, end: number): void {
    const area = this.#area
    const sink = this.#sink
    while (end - at >= HEADER) {
      const length = (area[at]! | (area[at + 1]! << 8) | (area[at + 2]! << 16) | (area[at + 3]! << 24)) >>> 0
      const kind = area[at + 4]!
      const count = area[at + 5]!
      const flags = area[at + 6]! | (area[at + 7]! << 8)
      this.#check(length, kind, count, flags)
      const start = at + HEADER
      const next = start + length + (flags & SKIP_MASK)
      if (next > end) {
        if (length >= LARGE) this.#startTarget(at, end, length, kind, flags)
        else this.#keep(at, end)
        return
      }
      frame.kind = kind
      frame.count = count
      frame.flags = flags
      frame.id = (area[at + 8]! | (area[at + 9]! << 8) | (area[at + 10]! << 16) | (area[at + 11]! << 24)) >>> 0
      frame.bytes = area
      frame.start = start
      frame.end = start + length
      frame.owned = false
      if (!sink.onFrame(frame)) return
      at = next
    }
    if (at < end) this.#keep(at, end)
  }

  #check(length: number, kind: number, count: number, flags: number): void {
    if (kind > DEFINITIONS) throw new PassfdError('BAD_FRAME', { detail: `kind ${kind} is unknown` })
    if (length > this.maxBody) throw new PassfdError('FRAME_TOO_LARGE', { size: length, limit: this.maxBody })
    if (flags & ~(SKIP_MASK | FLAGS[kind]!))
      throw new PassfdError('BAD_FRAME', { detail: `flags 0x${flags.toString(16)} are unknown for kind ${kind}` })
    if (count > 0 && !CARRIES[kind])
      throw new PassfdError('BAD_FRAME', { detail: `kind ${kind} carries no descriptors` })
    if (count > MAX_RIGHTS) throw new PassfdError('BAD_FRAME', { detail: `${count} descriptors in a frame` })
    if (length > 0 && BODILESS[kind]) throw new PassfdError('BAD_FRAME', { detail: `kind ${kind} has no body` })
  }

  #keep(at: number, end: number): void {
    this.#kept = Buffer.from(this.#area.subarray(at, end))
  }

  #startTarget(at: number, end: number, length: number, kind: number, flags: number): void {
    const start = at + HEADER
    const size = length + (flags & SKIP_MASK)
    this.#targetLent = this.lends && (kind === MESSAGE || kind === REQUEST)
    const target = this.#targetLent ? lendBody(size) : Buffer.allocUnsafeSlow(size)
    this.#targetHeader = Buffer.from(this.#area.subarray(at, start))
    this.filled = this.#area.copy(target, 0, start, end)
    this.target = target
    this.targetEnd = target.length
  }

  #finishTarget(): boolean {
    const header = this.#targetHeader
    const target = this.target!
    this.target = undefined
    this.#targetHeader = NO_BYTES
    frame.kind = header[4]!
    frame.count = header[5]!
    frame.flags = header.readUInt16LE(6)
    frame.id = header.readUInt32LE(8)
    frame.bytes = target
    frame.start = 0
    frame.end = header.readUInt32LE(0)
    frame.owned = true
    frame.lent = this.#targetLent ? (target.buffer as ArrayBuffer) : undefined
    try {
      return this.#sink.onFrame(frame)
    } finally {
      frame.release() // else a large body would live as long as the channel
    }
  }
}
