/**
 * The only place where bytes and descriptors meet. Outgoing: many frames leave in one write. Up to 253 descriptors are attached to the write that
 * has the first byte of their first frame. Incoming: each complete frame takes its descriptors from a queue.
 */

import { EAGAIN, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE, ETOOMANYREFS } from '../base/errno.ts'
import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { Encoded } from '../codec/encoded.ts'
import { type Frame, FrameReader, type FrameSink } from '../codec/frame.ts'
import { lostError } from '../codec/lost-bytes.ts'
import { ArrivingDescriptors, NO_FDS } from './arriving-descriptors.ts'
import { OutgoingBytes, type OutgoingBytesOwner } from './outgoing-bytes.ts'
import type { Parcel } from './parcel.ts'
import { attachedNumbers, badTaken, NOTHING_TAKEN, ParcelsUnderWay, type Taken } from './parcels-under-way.ts'
import type { Wire, WireOwner } from './wire.ts'

/** From so many waiting bytes on it writes at once, and does not wait for the end of the turn. */
const WRITE_AT = 32768
/** Tries again after this many ms to send descriptors, because no event reports that descriptors in flight have arrived. */
const RETRY_AFTER = 5

export interface TransportOwner {
  /** Gets one whole frame. The callee owns its descriptors. Returning false stops reading for ever. */
  onFrame(frame: Frame): boolean
  /** Called when all complete frames of a read were handed over. */
  onReadDone(): void
  onViolation(error: PassfdError): void
  /** The peer writes no more: end of file (0), or reading has failed (-errno). */
  onReadEnd(result: number): void
  /** Bytes were written, or can be written again. */
  onProgress(): void
  onWriteError(errno: number): void
  /** Frames were withdrawn: the kernel has refused their descriptors, or their binary values were transferred. Called in a later turn. */
  onRefused(parcels: readonly Parcel[]): void
  /** The application has transferred a buffer, and a part of its frame has left. */
  onUnwritable(error: Error): void
}

export class Transport implements FrameSink, OutgoingBytesOwner, WireOwner {
  readonly wire: Wire
  readonly reader: FrameReader
  readonly outgoing: OutgoingBytes
  /** The socket is full, or a write has failed: it writes nothing until that changes. */
  blocked = false
  /** Why the kernel refuses to send descriptors at the moment, although the socket has room: -errno, or 0. */
  heldBack = 0
  /** Received frames are being handed over. */
  reading = false
  /** Bytes ever received. */
  received = 0
  /** The peer takes frames of the kind DEFINITIONS. */
  takesDefinitions = false

  readonly #owner: TransportOwner
  /** Both are made for the first descriptors, because most channels never have any. */
  #arriving: ArrivingDescriptors | undefined
  #parcels: ParcelsUnderWay | undefined
  #truncated = false
  #target: Buffer | undefined
  #retry: NodeJS.Timeout | undefined
  #writing = true

  constructor(wire: Wire, owner: TransportOwner) {
    this.wire = wire
    this.#owner = owner
    this.reader = new FrameReader(this, wire.area, wire.headroom)
    this.outgoing = new OutgoingBytes(this)
  }

  // --- outgoing

  /** Queues an encoded frame. `parcel.sent` resolves when its binary values are not read any more. */
  append(encoded: Encoded, kind: number, flags: number, id: number, parcel: Parcel | undefined): void {
    const { outgoing } = this
    outgoing.append(encoded, kind, flags, id, parcel)
    if (parcel !== undefined) this.#addParcel(parcel)
    if (outgoing.waiting >= WRITE_AT) this.flush()
  }

  /** Queues a frame without a body. */
  appendBare(kind: number, id: number): void {
    this.outgoing.appendBare(kind, id)
  }

  /** Writes until nothing waits or the socket is full. */
  flush(): void {
    const { outgoing } = this
    while (outgoing.sent < outgoing.queued && !this.blocked && this.#writing) {
      const parcels = this.#parcels
      if (parcels !== undefined && !parcels.withdrawLost()) {
        this.#writing = false
        this.#owner.onUnwritable(lostError())
        return
      }
      const limit = parcels === undefined ? outgoing.queued : parcels.attach()
      if (limit === outgoing.sent) continue // it skipped a withdrawn frame
      const count = parcels === undefined ? 0 : parcels.attachCount
      const result = outgoing.write(this.wire, limit, attachedNumbers, count)
      if (result < 0) {
        if (count > 0 && isRefusal(result) && parcels!.refuseAttached(result)) continue
        this.#writeFailed(result)
        return
      }
      this.heldBack = 0
      parcels?.haveLeft()
      outgoing.advance(result)
    }
  }

  /** Called when the peer has confirmed `count` more: see `ParcelsUnderWay`. */
  onTaken(count: number): Taken {
    if (this.#parcels === undefined && count > 0) throw badTaken(count, 0)
    const result = this.#parcels?.onTaken(count) ?? NOTHING_TAKEN
    if (this.#retry !== undefined) this.#tryAgain()
    return result
  }

  /** Called when the peer has cancelled request `id`. Unconfirmed descriptors of its reply come back when the peer confirms them. */
  cancelReply(id: number): void {
    this.#parcels?.cancelReply(id)
  }

  /** Returns the parcels whose frames were withdrawn since the last call. */
  takeRefused(): readonly Parcel[] {
    return this.#parcels?.takeRefused() ?? []
  }

  /** Ends reading and writing. Returns every unconfirmed parcel, and whether its descriptors had left. */
  end(): { parcel: Parcel; left: boolean }[] {
    this.#writing = false
    clearTimeout(this.#retry)
    this.#retry = undefined
    const rest = this.#parcels?.end() ?? []
    this.outgoing.end()
    const arriving = this.#arriving
    if (arriving !== undefined && arriving.waiting > 0) this.wire.discard(arriving.take(arriving.waiting), undefined)
    this.wire.end()
    return rest
  }

  #addParcel(parcel: Parcel): void {
    this.#parcels ??= new ParcelsUnderWay(this.outgoing, () => this.#tellRefused())
    this.#parcels.takesDefinitions = this.takesDefinitions
    this.#parcels.add(parcel)
  }

  #tellRefused(): void {
    const parcels = this.takeRefused()
    if (parcels.length > 0) this.#owner.onRefused(parcels)
  }

  #writeFailed(errno: number): void {
    this.heldBack = 0
    if (errno === EAGAIN) {
      this.blocked = true
      this.wire.awaitWritable(true)
    } else if (isBackPressure(errno)) {
      this.blocked = true
      this.heldBack = errno
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

  // --- incoming

  onReadable(length: number, fds: Int32Array, first: number, count: number, truncated: boolean): void {
    if (count > 0) {
      this.#arriving ??= new ArrivingDescriptors()
      this.#arriving.push(fds, first, count)
    }
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
      const waiting = this.#waiting
      if (waiting > MAX_RIGHTS) {
        const ahead = waiting - this.reader.announced
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
    // During a large write the socket is soon full again. Asking anew each time would cost four system calls
    if (!this.blocked) this.wire.awaitWritable(false)
    this.#owner.onProgress()
  }

  /** Gives a whole frame the descriptors that it has announced. */
  onFrame(frame: Frame): boolean {
    const { count } = frame
    if (count === 0) frame.fds = NO_FDS
    else {
      const waiting = this.#waiting
      if (waiting < count) {
        if (this.#truncated) throw new PassfdError('DESCRIPTORS_TRUNCATED')
        throw new PassfdError('DESCRIPTORS_MISSING', { count: waiting, expected: count })
      }
      frame.fds = this.#arriving!.take(count)
    }
    return this.#owner.onFrame(frame)
  }

  /** Whether a frame is incomplete, or descriptors wait for their frame. */
  get incomplete(): boolean {
    return this.reader.partial || this.#waiting > 0
  }

  /** How many descriptors wait for their frame. */
  get #waiting(): number {
    return this.#arriving === undefined ? 0 : this.#arriving.waiting
  }
}

/** The errors of a descriptor that the kernel does not pass: it was closed (EBADF), or its kind is never passed (EINVAL: io_uring). */
function isRefusal(errno: number): boolean {
  return !isBackPressure(errno) && errno !== EPIPE && errno !== ECONNRESET && errno !== ENOTCONN
}

function isBackPressure(errno: number): boolean {
  return errno === EAGAIN || errno === ETOOMANYREFS || errno === ENOBUFS || errno === ENOMEM
}
