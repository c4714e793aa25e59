/** The outgoing stream of bytes: frames in slabs, and buffers of the program in between. Many frames leave in one write. */

import { roomForOne } from '../base/small-array.ts'
import type { Encoded, Hole, Space } from '../codec/encoded.ts'
import { DEFINITIONS, HEADER, RECORDS, SKIP_MASK, writeHeader } from '../codec/frame.ts'
import { giveSlab, ROOM, SLAB, takeSlab } from '../codec/slab.ts'
import type { Parcel } from './parcel.ts'
import { Segment } from './segment.ts'
import type { Wire } from './wire.ts'

const MAX_CHUNKS = 64
const PADDING = Buffer.alloc(8)

export interface OutgoingBytesOwner {
  /** Called before the stream takes another slab: writes waiting bytes if it can. */
  flush(): void
}

export class OutgoingBytes implements Space {
  /** All bytes that were ever queued, and ever written. The difference waits. */
  queued = 0
  sent = 0
  readonly #owner: OutgoingBytesOwner
  readonly #segments = roomForOne<Segment>()
  #first = 0
  #slab: Buffer | undefined
  #slabEnd = 0

  constructor(owner: OutgoingBytesOwner) {
    this.#owner = owner
  }

  get waiting(): number {
    return this.queued - this.sent
  }

  /** The slab to encode the next frame into; its free place begins at `slabEnd`. */
  get slab(): Buffer {
    if (this.#slab !== undefined && SLAB - this.#slabEnd >= ROOM) return this.#slab
    if (this.#slab !== undefined) this.#owner.flush()
    if (this.#slab === undefined || SLAB - this.#slabEnd < ROOM) this.#newSlab()
    return this.#slab!
  }

  get slabEnd(): number {
    return this.#slabEnd
  }

  /** Queues a frame, whose header it writes, and notes in the parcel where it stands. */
  append(encoded: Encoded, kind: number, flags: number, id: number, parcel: Parcel | undefined): void {
    const { bytes, start, end, length, holes, padded } = encoded
    const count = parcel === undefined ? 0 : parcel.fds.length
    const inSlab = bytes === this.#slab && start === this.#slabEnd
    const skip = inSlab || padded ? -end & 7 : 0 // keeps the next frame aligned, as msgpackr aligns what it packs
    writeHeader(bytes, start, length, kind, count, flags | skip, id)
    if (parcel !== undefined) {
      parcel.start = this.queued
      parcel.end = this.queued + HEADER + length + skip
      if (holes.length > 0) borrow(parcel, holes)
    }
    for (let i = 0; i < skip; i++) bytes[end + i] = 0
    if (inSlab) this.#slabEnd = end + skip
    this.#add(bytes, start, end + skip, holes, parcel?.sent?.resolve)
    this.queued += HEADER + length + skip
  }

  /** Queues a frame without a body. */
  appendBare(kind: number, id: number): void {
    const { slab } = this
    const start = this.#slabEnd
    writeHeader(slab, start, 0, kind, 0, 4, id)
    PADDING.copy(slab, start + HEADER, 0, 4)
    this.#slabEnd = start + 16
    this.#add(slab, start, start + 16, [], undefined)
    this.queued += 16
  }

  /** Writes waiting bytes once, up to `limit` in the stream, with the first `count` of `fds`. Returns the number of written bytes, or -errno. */
  write(wire: Wire, limit: number, fds: Int32Array, count: number): number {
    const segments = this.#segments
    const segment = segments[this.#first]!
    let room = limit - this.sent
    const size = segment.end - segment.start
    if (size >= room || this.#first + 1 === segments.length)
      return wire.send(segment.bytes, segment.start, segment.start + Math.min(size, room), fds, count)
    const chunks: Uint8Array[] = []
    for (let i = this.#first; i < segments.length && room > 0 && chunks.length < MAX_CHUNKS; i++) {
      const { bytes, start, end } = segments[i]!
      const part = Math.min(room, end - start)
      chunks.push(bytes.subarray(start, start + part))
      room -= part
    }
    return wire.sendVector(chunks, 0, fds, count)
  }

  /** Removes the next `written` bytes, which were written or withdrawn. */
  advance(written: number): void {
    this.sent += written
    const segments = this.#segments
    while (this.#first < segments.length) {
      const segment = segments[this.#first]!
      const size = segment.end - segment.start
      if (written < size) {
        segment.start += written
        return
      }
      written -= size
      this.#first++
      segment.sent?.()
      if (segment.retires) giveSlab(segment.bytes as Buffer)
    }
    while (segments.length > 0) segments.pop() // faster than setting `length`, which calls into the runtime
    this.#first = 0
    this.#releaseSlab()
  }

  /**
   * Turns an unsent frame into one from which the peer decodes only the record definitions. The program's own bytes in it are not read any more.
   */
  makeDefinitions({ start, end, fds }: Parcel): void {
    let at = this.sent
    for (let i = this.#first; i < this.#segments.length && at < end; i++) {
      const segment = this.#segments[i]!
      const size = segment.end - segment.start
      if (at <= start && start < at + size) {
        const { bytes } = segment
        const header = segment.start + start - at
        const flags = bytes[header + 6]! & (RECORDS | SKIP_MASK)
        const length = Buffer.from(bytes.buffer, bytes.byteOffset + header, 4).readUInt32LE()
        writeHeader(bytes, header, length, DEFINITIONS, 0, flags, fds.length)
      } else if (segment.borrowed && at >= start) segment.blank()
      at += size
    }
  }

  /** Drops everything: nothing is written any more. */
  end(): void {
    for (const segment of this.#segments.slice(this.#first)) segment.sent?.()
    this.#segments.length = 0
    this.#first = 0
    this.#releaseSlab()
    this.queued = this.sent
  }

  #add(bytes: Uint8Array, start: number, end: number, holes: readonly Hole[], sent: (() => void) | undefined): void {
    const last = this.#segments.length > this.#first ? this.#segments[this.#segments.length - 1]! : undefined
    if (
      last !== undefined &&
      last.bytes === bytes &&
      last.end === start &&
      last.sent === undefined &&
      holes.length === 0
    ) {
      last.end = end
      return
    }
    let from = start
    for (const [index, { at, bytes: hole, length }] of holes.entries()) {
      const to = start + HEADER + at
      if (to > from) this.#segments.push(new Segment(bytes, from, to))
      this.#segments.push(new Segment(hole, 0, length, true, index === holes.length - 1 ? sent : undefined))
      from = to
    }
    if (end > from) this.#segments.push(new Segment(bytes, from, end))
  }

  #newSlab(): void {
    const segments = this.#segments
    // The full slab returns to the pool when its last piece has left
    for (let i = segments.length - 1; i >= this.#first; i--) {
      if (segments[i]!.bytes !== this.#slab) continue
      segments[i]!.retires = true
      break
    }
    this.#slab = takeSlab()
    this.#slabEnd = 0
  }

  #releaseSlab(): void {
    if (this.#slab !== undefined) giveSlab(this.#slab)
    this.#slab = undefined
    this.#slabEnd = 0
  }
}

/** Notes in a parcel where its uncopied bytes end in the stream. */
function borrow(parcel: Parcel, holes: readonly Hole[]): void {
  let until = parcel.start + HEADER
  let from = 0
  parcel.holes = holes.map(({ at, bytes, length }) => {
    until += at - from + length
    from = at
    return { bytes, length, until }
  })
}
