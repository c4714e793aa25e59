/**
 * The only place where bytes and descriptors meet. Outgoing: frames are put one behind the other in slabs, many leave in one
 * write, and each batch of up to 253 descriptors is attached to the write with the first byte of the first frame it belongs to.
 * PeerRequest: a queue of descriptors, from which each complete frame takes its own.
 */

import { EAGAIN, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE, ETOOMANYREFS } from '../base/errno.ts'
import { PassfdError, systemError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { roomForOne } from '../base/small-array.ts'
import type { Encoded, Hole, Space } from '../codec/encoded.ts'
import {
  DEFINITIONS,
  type Frame,
  FrameReader,
  type FrameSink,
  HEADER,
  RECORDS,
  SKIP_MASK,
  writeHeader
} from '../codec/frame.ts'
import { isLost, lostError } from '../codec/lost-bytes.ts'
import { giveSlab, ROOM, SLAB, takeSlab } from '../codec/slab.ts'
import type { Parcel } from './parcel.ts'
import type { Wire, WireOwner } from './wire.ts'

/** This much waiting is written at once instead of at the end of the turn. */
const WRITE_AT = 32768
const MAX_CHUNKS = 64
/** No write takes more at once, so that only the buffers in it have to be looked at. In bytes. */
const MAX_WRITE = 4 << 20
/** Queues that are used up from the front are cut when so much of them is. */
const COMPACT_AT = 512

/** No event tells that descriptors in flight have arrived, so these are tried again, after this many ms. */
const RETRY_AFTER = 5

export interface TransportOwner {
  /** One whole frame with its descriptors, which the owner has to close now. False stops reading for good. */
  onFrame(frame: Frame): boolean
  /** What was complete in this read has been handed over. */
  onReadDone(): void
  onViolation(error: PassfdError): void
  /** The peer writes no more: end of file (0), or the reading failed (-errno). */
  onReadEnd(result: number): void
  /** Bytes have left, or can leave again. */
  onProgress(): void
  onWriteError(errno: number): void
  /** The kernel has refused the descriptors of these, or their binary values are gone; their frames are withdrawn. Called in a turn of its own. */
  onRefused(parcels: readonly Parcel[]): void
  /** A buffer of the application's can't be read any more, and a part of its frame has left. */
  onUnwritable(error: Error): void
}

class Segment {
  bytes: Uint8Array
  start: number
  end: number
  /** The slab goes back to the pool after this segment. */
  retires: boolean
  sent: (() => void) | undefined
  /** The bytes are the application's: its promise waits for them. */
  borrowed: boolean

  constructor(bytes: Uint8Array, start: number, end: number, borrowed = false, sent?: () => void) {
    this.bytes = bytes
    this.start = start
    this.end = end
    this.retires = false
    this.borrowed = borrowed
    this.sent = sent
  }
}

/** Most channels never have any of these: all share an array that nothing is put into. */
const NO_FDS: number[] = []
const NO_PARCELS: Parcel[] = []
const attached = new Int32Array(MAX_RIGHTS)
const PADDING = Buffer.alloc(8)

export class Transport implements FrameSink, Space, WireOwner {
  readonly wire: Wire
  readonly reader: FrameReader
  /** Bytes ever queued and ever written. Their difference waits. */
  queued = 0
  sent = 0
  /** The socket is full, or a write has failed: nothing is written until that changes. */
  blocked = false
  /** Frames that have just arrived are being handed over. */
  reading = false

  readonly #owner: TransportOwner
  readonly #segments = roomForOne<Segment>()
  #first = 0
  #slab: Buffer | undefined
  #slabEnd = 0
  /** Parcels in stream order: [#taking, #attaching) have left, [#attaching, …) have not. */
  #parcels = NO_PARCELS
  #taking = 0
  #attaching = 0
  /** Those that answer a request, by its id: a peer may cancel thousands, so they are not looked for. */
  #replies: Map<number, Parcel> | undefined
  /** Descriptors in order of arrival; those in front of #given have been given to their frames. */
  #arrived = NO_FDS
  #given = 0
  #truncated = false
  #target: Buffer | undefined
  #retry: NodeJS.Timeout | undefined
  #writing = true
  /** The parcels that the next write may attach: fewer while the one is looked for that the kernel refuses. */
  #most = MAX_RIGHTS
  /** Withdrawn frames, in stream order: each is left out of the stream once all before it has been written. */
  readonly #withdrawn: Parcel[] = []
  /** Those with binary values that are not copied, in stream order, until they have left. */
  #borrowing = NO_PARCELS
  #refused: Parcel[] = []
  /** The peer takes frames of the kind DEFINITIONS. */
  takesDefinitions = false

  constructor(wire: Wire, owner: TransportOwner) {
    this.wire = wire
    this.#owner = owner
    this.reader = new FrameReader(this, wire.area, wire.headroom)
  }

  // --- outgoing

  get waiting(): number {
    return this.queued - this.sent
  }

  /** Bytes ever received. */
  received = 0

  /** The slab to encode the next frame into; its free place begins at `slabEnd`. */
  get slab(): Buffer {
    if (this.#slab !== undefined && SLAB - this.#slabEnd >= ROOM) return this.#slab
    if (this.#slab !== undefined) this.flush()
    if (this.#slab === undefined || SLAB - this.#slabEnd < ROOM) this.#newSlab()
    return this.#slab!
  }

  get slabEnd(): number {
    return this.#slabEnd
  }

  /** Queues a frame that was just encoded, or kept since. `parcel.sent` resolves once its binary values are no longer looked at. */
  append(encoded: Encoded, kind: number, flags: number, id: number, parcel: Parcel | undefined): void {
    const { bytes, start, end, length, holes, room } = encoded
    const count = parcel === undefined ? 0 : parcel.fds.length
    const inSlab = bytes === this.#slab && start === this.#slabEnd
    const skip = inSlab || room ? -end & 7 : 0 // keeps the next frame aligned, as msgpackr aligns what it packs
    writeHeader(bytes, start, length, kind, count, flags | skip, id)
    if (parcel !== undefined) {
      parcel.start = this.queued
      parcel.end = this.queued + HEADER + length + skip
      if (holes.length > 0) this.#borrow(parcel, holes)
    }
    if (parcel !== undefined && count > 0) {
      if (this.#parcels === NO_PARCELS) this.#parcels = []
      this.#parcels.push(parcel)
      if (parcel.replyTo !== -1) {
        this.#replies ??= new Map()
        this.#replies.set(parcel.replyTo, parcel)
      }
    }
    for (let i = 0; i < skip; i++) bytes[end + i] = 0
    if (inSlab) this.#slabEnd = end + skip
    this.#add(bytes, start, end + skip, holes, parcel?.sent?.resolve)
    this.queued += HEADER + length + skip
    if (this.waiting >= WRITE_AT) this.flush()
  }

  /** Queues a frame without a body. */
  appendBare(kind: number, id: number): void {
    const slab = this.slab
    const start = this.#slabEnd
    writeHeader(slab, start, 0, kind, 0, 4, id)
    PADDING.copy(slab, start + HEADER, 0, 4)
    this.#slabEnd = start + 16
    this.#add(slab, start, start + 16, [], undefined)
    this.queued += 16
  }

  /** Writes what waits until nothing is left or the socket is full. */
  flush(): void {
    while (this.sent < this.queued && !this.blocked && this.#writing) {
      if (this.#borrowing.length > 0 && !this.#withdrawLost()) {
        this.#writing = false
        this.#owner.onUnwritable(lostError())
        return
      }
      const limit = this.#limit()
      if (limit === this.sent) continue // a withdrawn frame was left out
      const count = this.#attachCount
      const result = this.#write(limit, count)
      if (result < 0) {
        if (count > 0 && isRefusal(result) && this.#refuse(result)) continue
        this.#writeFailed(result)
        return
      }
      this.#most = MAX_RIGHTS
      this.#attaching += this.#attachParcels
      this.#advance(result)
    }
  }

  /** The peer has taken `count` more descriptors. Gives what is to be closed here, and the parcels that were refused instead. */
  taken(count: number): { closing: number[]; refused: Parcel[] } {
    this.#checkTaken(count)
    let left = count
    const closing: number[] = []
    const refused: Parcel[] = []
    while (left > 0) {
      const parcel = this.#parcels[this.#taking]!
      const here = Math.min(left, parcel.fds.length - parcel.taken)
      parcel.taken += here
      left -= here
      if (parcel.taken < parcel.fds.length) break
      this.#taking++
      if (parcel.replyTo !== -1 && this.#replies?.get(parcel.replyTo) === parcel) this.#replies.delete(parcel.replyTo)
      if (parcel.refused) refused.push(parcel)
      else for (const fd of parcel.fds) closing.push(fd)
    }
    this.#compactParcels()
    if (this.#retry !== undefined) this.#tryAgain()
    return { closing, refused }
  }

  /** Before anything changes, so that all of them can come back. */
  #checkTaken(count: number): void {
    let sent = 0
    for (let i = this.#taking; i < this.#attaching && sent < count; i++)
      sent += this.#parcels[i]!.fds.length - this.#parcels[i]!.taken
    if (sent < count) throw new PassfdError('BAD_TAKEN', { count, sent })
  }

  /** The reply to request `id`, if its descriptors are not taken yet: they will come back when they are. */
  refuse(id: number): void {
    const parcel = this.#replies?.get(id)
    if (parcel !== undefined) parcel.refused = true
  }

  /**
   * The kernel passes none of the descriptors of a write if it refuses one, and writes nothing. So half of them are tried, until the one parcel
   * is found; its frame is withdrawn. False: it can't be, as the peer would miss the records that it defines.
   */
  #refuse(errno: number): boolean {
    if (this.#attachParcels > 1) {
      this.#most = this.#attachParcels >> 1
      return true
    }
    return this.#withdraw(this.#parcels[this.#attaching]!, systemError(errno, 'sendmsg'))
  }

  /** Takes a frame of which nothing has left out of the stream. False: it can't be, as the peer would miss the records that it defines. */
  #withdraw(parcel: Parcel, error: Error): boolean {
    if (parcel.defines && !this.takesDefinitions) return false
    parcel.error = error
    parcel.sent?.reject(error)
    const at = parcel.fds.length === 0 ? -1 : this.#parcels.indexOf(parcel, this.#attaching)
    if (at >= 0) this.#parcels.splice(at, 1)
    if (parcel.holes.length > 0) this.#borrowing.splice(this.#borrowing.indexOf(parcel), 1)
    if (parcel.replyTo !== -1 && this.#replies?.get(parcel.replyTo) === parcel) this.#replies.delete(parcel.replyTo)
    if (parcel.defines) this.#makeDefinitions(parcel)
    else {
      const next = this.#withdrawn.findIndex(({ start }) => start > parcel.start)
      this.#withdrawn.splice(next < 0 ? this.#withdrawn.length : next, 0, parcel)
    }
    // Not now: this may be in the middle of a call of the program's
    if (this.#refused.push(parcel) === 1) process.nextTick(() => this.#tellRefused())
    return true
  }

  /**
   * Withdraws the frames that the next write may reach and whose binary values the program has taken away. False: a part of such a frame has left,
   * and the peer was promised the rest.
   */
  #withdrawLost(): boolean {
    const borrowing = this.#borrowing
    let left = 0
    while (left < borrowing.length && borrowing[left]!.end <= this.sent) left++
    if (left > 0) borrowing.splice(0, left)
    for (let i = 0; i < borrowing.length && borrowing[i]!.start < this.sent + MAX_WRITE; ) {
      const parcel = borrowing[i]!
      const { start, holes } = parcel
      if (!holes.some(hole => hole.until > this.sent && isLost(hole))) i++
      else if (start < this.sent || !this.#withdraw(parcel, lostError())) return false
    }
    return true
  }

  #borrow(parcel: Parcel, holes: readonly Hole[]): void {
    let until = parcel.start + HEADER
    let from = 0
    parcel.holes = holes.map(({ at, bytes, length }) => {
      until += at - from + length
      from = at
      return { bytes, length, until }
    })
    if (this.#borrowing === NO_PARCELS) this.#borrowing = []
    this.#borrowing.push(parcel)
  }

  #tellRefused(): void {
    const parcels = this.takeRefused()
    if (parcels.length > 0) this.#owner.onRefused(parcels)
  }

  /** Those that the owner has not heard of. */
  takeRefused(): Parcel[] {
    const parcels = this.#refused
    this.#refused = []
    return parcels
  }

  /** Up to where the next write may reach: no further than a withdrawn frame, which is left out when everything before it has left. */
  #limit(): number {
    const [withdrawn] = this.#withdrawn
    if (withdrawn?.start === this.sent) {
      this.#withdrawn.shift()
      this.#advance(withdrawn.end - withdrawn.start)
      return this.sent
    }
    let limit = this.#attach()
    if (withdrawn !== undefined) limit = Math.min(limit, withdrawn.start)
    return this.#borrowing.length === 0 ? limit : Math.min(limit, this.sent + MAX_WRITE)
  }

  /** The frame stays, as a message to nobody. The application's own bytes in it are not looked at any more. */
  #makeDefinitions({ start, end, fds }: Parcel): void {
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
      } else if (segment.borrowed && at >= start) {
        segment.bytes = new Uint8Array(size)
        segment.start = 0
        segment.end = size
        segment.borrowed = false
      }
      at += size
    }
  }

  /** The end: gives every parcel that was not taken, with whether its descriptors had left. Nothing is written or read any more. */
  end(): { parcel: Parcel; left: boolean }[] {
    this.#writing = false
    clearTimeout(this.#retry)
    this.#retry = undefined
    const rest = this.#parcels
      .slice(this.#taking)
      .map((parcel, index) => ({ parcel, left: this.#taking + index < this.#attaching }))
    this.#parcels = this.#borrowing = NO_PARCELS
    this.#withdrawn.length = 0
    this.#taking = this.#attaching = 0
    for (const segment of this.#segments.slice(this.#first)) segment.sent?.()
    this.#segments.length = 0
    this.#first = 0
    this.#releaseSlab()
    this.queued = this.sent
    if (this.#waitingForFrames > 0) this.wire.discard(this.#arrived.slice(this.#given), undefined)
    this.#arrived = NO_FDS
    this.#given = 0
    this.wire.end()
    return rest
  }

  // --- incoming

  onReadable(length: number, fds: Int32Array, first: number, count: number, truncated: boolean): void {
    if (count > 0 && this.#arrived === NO_FDS) this.#arrived = []
    for (let i = 0; i < count; i++) this.#arrived.push(fds[first + i]!)
    if (length <= 0) {
      this.#owner.onReadEnd(length)
      return
    }
    this.received += length
    this.#truncated = truncated
    this.reading = true
    try {
      this.reader.received(length)
      if (truncated) throw new PassfdError('DESCRIPTORS_TRUNCATED')
      if (this.#waitingForFrames > MAX_RIGHTS) {
        const ahead = this.#waitingForFrames - this.reader.announced
        if (ahead > MAX_RIGHTS) throw new PassfdError('DESCRIPTORS_AHEAD', { count: ahead, limit: MAX_RIGHTS })
      }
    } catch (error) {
      if (!(error instanceof PassfdError)) throw error
      this.#owner.onViolation(error)
      return
    } finally {
      this.reading = false
    }
    this.#owner.onReadDone()
    const { target } = this.reader
    if (target !== this.#target) {
      this.#target = target
      if (target === undefined) this.wire.target(null, 0, 0)
      else this.wire.target(target, this.reader.filled, this.reader.targetEnd)
    }
  }

  onWritable(): void {
    if (!this.blocked) return
    this.blocked = false
    this.flush()
    // What is large blocks again at once: to ask anew each time would cost four system calls
    if (!this.blocked) this.wire.awaitWritable(false)
    this.#owner.onProgress()
  }

  /** A whole frame: gives it the descriptors that it has announced. */
  onFrame(frame: Frame): boolean {
    const { count } = frame
    let fds = NO_FDS
    if (count > 0) {
      const waiting = this.#waitingForFrames
      if (waiting < count) {
        if (this.#truncated) throw new PassfdError('DESCRIPTORS_TRUNCATED')
        throw new PassfdError('DESCRIPTORS_MISSING', { count: waiting, expected: count })
      }
      fds = count === 1 ? [this.#arrived[this.#given]!] : this.#arrived.slice(this.#given, this.#given + count)
      this.#given += count
      if (waiting === count || this.#given >= COMPACT_AT) {
        this.#arrived = waiting === count ? NO_FDS : this.#arrived.slice(this.#given)
        this.#given = 0
      }
    }
    frame.fds = fds
    return this.#owner.onFrame(frame)
  }

  /** A frame has begun and not ended, or descriptors wait for theirs. */
  get incomplete(): boolean {
    return this.reader.partial || this.#waitingForFrames > 0
  }

  get #waitingForFrames(): number {
    return this.#arrived.length - this.#given
  }

  // --- writing

  #attachCount = 0
  #attachParcels = 0

  /**
   * Chooses the descriptors of the next write and up to where in the stream it may reach: a frame whose descriptors would make
   * more than 253 of the kernel's write, or more than 253 ahead of their frames at the peer, waits for the next one.
   */
  #attach(): number {
    const parcels = this.#parcels
    this.#attachCount = this.#attachParcels = 0
    if (this.#attaching === parcels.length) return this.queued
    let ahead = 0
    for (let i = this.#attaching - 1; i >= this.#taking && parcels[i]!.end > this.sent; i--)
      ahead += parcels[i]!.fds.length
    for (let i = this.#attaching; i < parcels.length; i++) {
      const { fds, start, holes } = parcels[i]!
      // What may still have to be withdrawn must not send its descriptors ahead
      if (holes.length > 0 && start > this.sent) return start
      if (ahead + this.#attachCount + fds.length > MAX_RIGHTS || this.#attachParcels === this.#most) return start
      for (const fd of fds) attached[this.#attachCount++] = fd
      this.#attachParcels++
    }
    return this.queued
  }

  #write(limit: number, count: number): number {
    const segments = this.#segments
    const segment = segments[this.#first]!
    let room = limit - this.sent
    const size = segment.end - segment.start
    if (size >= room || this.#first + 1 === segments.length)
      return this.wire.send(segment.bytes, segment.start, segment.start + Math.min(size, room), attached, count)
    const chunks: Uint8Array[] = []
    for (let i = this.#first; i < segments.length && room > 0 && chunks.length < MAX_CHUNKS; i++) {
      const { bytes, start, end } = segments[i]!
      const take = Math.min(room, end - start)
      chunks.push(bytes.subarray(start, start + take))
      room -= take
    }
    return this.wire.sendVector(chunks, 0, attached, count)
  }

  #advance(written: number): void {
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
    while (segments.length > 0) segments.pop() // to set `length` is a call of the runtime
    this.#first = 0
    this.#releaseSlab()
  }

  #writeFailed(errno: number): void {
    if (errno === EAGAIN) {
      this.blocked = true
      this.wire.awaitWritable(true)
    } else if (isBackPressure(errno)) {
      this.blocked = true
      this.wire.awaitWritable(false)
      this.#retry ??= setTimeout(() => this.#tryAgain(), RETRY_AFTER)
    } else {
      this.#writing = false
      this.#owner.onWriteError(errno)
    }
  }

  #tryAgain(): void {
    clearTimeout(this.#retry)
    this.#retry = undefined
    this.blocked = false
    this.flush()
    this.#owner.onProgress()
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
    // The full one goes back once the last piece of it has left
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

  #compactParcels(): void {
    if (this.#taking < COMPACT_AT && this.#taking < this.#parcels.length) return
    this.#parcels.splice(0, this.#taking)
    this.#attaching -= this.#taking
    this.#taking = 0
  }
}

/** What says that the kernel does not pass a descriptor: it was closed (EBADF), or is of a kind that is never passed (EINVAL: io_uring). */
function isRefusal(errno: number): boolean {
  return !isBackPressure(errno) && errno !== EPIPE && errno !== ECONNRESET && errno !== ENOTCONN
}

function isBackPressure(errno: number): boolean {
  return errno === EAGAIN || errno === ETOOMANYREFS || errno === ENOBUFS || errno === ENOMEM
}
