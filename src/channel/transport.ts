/**
 * The only place where bytes and descriptors meet. Outgoing: many frames leave in one write, and each batch of up to 253 descriptors is attached
 * to the write with the first byte of the first frame it belongs to. Incoming: a queue of descriptors, from which each complete frame
 * takes its own.
 */

import { EAGAIN, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE, ETOOMANYREFS } from '../base/errno.ts'
import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { Encoded } from '../codec/encoded.ts'
import { type Frame, FrameReader, type FrameSink } from '../codec/frame.ts'
import { lostError } from '../codec/lost-bytes.ts'
import { ArrivingDescriptors } from './arriving-descriptors.ts'
import { OutgoingBytes, type OutgoingBytesOwner } from './outgoing-bytes.ts'
import type { Parcel } from './parcel.ts'
import { attachedNumbers, badTaken, ParcelsUnderWay } from './parcels-under-way.ts'
import type { Wire, WireOwner } from './wire.ts'

/** This much waiting is written at once instead of at the end of the turn. */
const WRITE_AT = 32768
/** Tries again after this many ms to send descriptors, because no event reports that descriptors in flight have arrived. */
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

export class Transport implements FrameSink, OutgoingBytesOwner, WireOwner {
  readonly wire: Wire
  readonly reader: FrameReader
  readonly outgoing: OutgoingBytes
  /** The socket is full, or a write has failed: nothing is written until that changes. */
  blocked = false
  /** Frames that have just arrived are being handed over. */
  reading = false
  /** Bytes ever received. */
  received = 0
  /** The peer takes frames of the kind DEFINITIONS. */
  takesDefinitions = false

  readonly #owner: TransportOwner
  readonly #arriving = new ArrivingDescriptors()
  /** Most channels never have any. */
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

  /** Queues a frame that was just encoded, or kept since. `parcel.sent` resolves once its binary values are no longer looked at. */
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

  /** Writes what waits until nothing is left or the socket is full. */
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
      if (limit === outgoing.sent) continue // a withdrawn frame was left out
      const count = parcels === undefined ? 0 : parcels.attachCount
      const result = outgoing.write(this.wire, limit, attachedNumbers, count)
      if (result < 0) {
        if (count > 0 && isRefusal(result) && parcels!.refuseAttached(result)) continue
        this.#writeFailed(result)
        return
      }
      parcels?.haveLeft()
      outgoing.advance(result)
    }
  }

  /** The peer has taken `count` more descriptors. Gives what is to be closed here, and the replies whose requests the peer had cancelled. */
  onTaken(count: number): { closing: number[]; cancelled: Parcel[] } {
    if (this.#parcels === undefined && count > 0) throw badTaken(count, 0)
    const result = this.#parcels?.onTaken(count) ?? { closing: [], cancelled: [] }
    if (this.#retry !== undefined) this.#tryAgain()
    return result
  }

  /** The peer has cancelled request `id`: if descriptors of the reply are not taken yet, they will come back when they are. */
  cancelReply(id: number): void {
    this.#parcels?.cancelReply(id)
  }

  /** Gives the refused parcels: those with withdrawn frames that the owner has not heard of. */
  takeRefused(): readonly Parcel[] {
    return this.#parcels?.takeRefused() ?? []
  }

  /** The end: gives every parcel that was not taken, with whether its descriptors had left. Nothing is written or read any more. */
  end(): { parcel: Parcel; left: boolean }[] {
    this.#writing = false
    clearTimeout(this.#retry)
    this.#retry = undefined
    const rest = this.#parcels?.end() ?? []
    this.outgoing.end()
    const { waiting } = this.#arriving
    if (waiting > 0) this.wire.discard(this.#arriving.take(waiting), undefined)
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

  // --- incoming

  onReadable(length: number, fds: Int32Array, first: number, count: number, truncated: boolean): void {
    const arriving = this.#arriving
    if (count > 0) arriving.push(fds, first, count)
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
      if (arriving.waiting > MAX_RIGHTS) {
        const ahead = arriving.waiting - this.reader.announced
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
    const { waiting } = this.#arriving
    if (waiting < count) {
      if (this.#truncated) throw new PassfdError('DESCRIPTORS_TRUNCATED')
      throw new PassfdError('DESCRIPTORS_MISSING', { count: waiting, expected: count })
    }
    frame.fds = this.#arriving.take(count)
    return this.#owner.onFrame(frame)
  }

  /** A frame has begun and not ended, or descriptors wait for theirs. */
  get incomplete(): boolean {
    return this.reader.partial || this.#arriving.waiting > 0
  }
}

/** What says that the kernel does not pass a descriptor: it was closed (EBADF), or is of a kind that is never passed (EINVAL: io_uring). */
function isRefusal(errno: number): boolean {
  return !isBackPressure(errno) && errno !== EPIPE && errno !== ECONNRESET && errno !== ENOTCONN
}

function isBackPressure(errno: number): boolean {
  return errno === EAGAIN || errno === ETOOMANYREFS || errno === ENOBUFS || errno === ENOMEM
}
