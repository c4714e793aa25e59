/**
 * Parcels from their queueing until the peer has taken their descriptors. Here they are attached to writes, and here a frame is withdrawn whose
 * descriptors the kernel refuses, or whose binary values the program has taken away.
 */

import { PassfdError, systemError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { isLost, lostError } from '../codec/lost-bytes.ts'
import type { OutgoingBytes } from './outgoing-bytes.ts'
import type { Parcel } from './parcel.ts'

/** No write takes more at once, so that only the buffers in it have to be looked at. In bytes. */
const MAX_WRITE = 4 << 20
/** Queues that are used up from the front are cut when so much of them is. */
const COMPACT_AT = 512

/** Most channels never have any of these: all share an array that nothing is put into. */
const NO_PARCELS: Parcel[] = []

/** The descriptors of the write in progress. */
export const attachedNumbers = new Int32Array(MAX_RIGHTS)

export class ParcelsUnderWay {
  /** The peer takes frames of the kind DEFINITIONS. */
  takesDefinitions = false
  /** How many of `attachedNumbers` go with the next write. */
  attachCount = 0
  readonly #bytes: OutgoingBytes
  readonly #onRefused: () => void
  /** Those with descriptors, in stream order: [#taking, #attaching) have left, [#attaching, …) have not. */
  #parcels = NO_PARCELS
  #taking = 0
  #attaching = 0
  #attachParcels = 0
  /** Those that answer a request, by its id: a peer may cancel thousands, so they are not looked for. */
  #replies: Map<number, Parcel> | undefined
  /** The parcels that the next write may attach: fewer while the one is looked for that the kernel refuses. */
  #most = MAX_RIGHTS
  /** Withdrawn frames, in stream order: each is left out of the stream once all before it has been written. */
  #withdrawn = NO_PARCELS
  /** Those with binary values that are not copied, in stream order, until they have left. */
  #borrowing = NO_PARCELS
  /** Those whose frames were withdrawn, until the session collects them: the kernel refuses their descriptors, or binary values are gone. */
  #refused = NO_PARCELS

  /** `onRefused` is called in a turn of its own when there are some for `takeRefused`. */
  constructor(bytes: OutgoingBytes, onRefused: () => void) {
    this.#bytes = bytes
    this.#onRefused = onRefused
  }

  /** Adds a parcel whose frame was queued just now. */
  add(parcel: Parcel): void {
    if (parcel.holes.length > 0) {
      if (this.#borrowing === NO_PARCELS) this.#borrowing = []
      this.#borrowing.push(parcel)
    }
    if (parcel.fds.length === 0) return
    if (this.#parcels === NO_PARCELS) this.#parcels = []
    this.#parcels.push(parcel)
    if (parcel.replyTo !== -1) {
      this.#replies ??= new Map()
      this.#replies.set(parcel.replyTo, parcel)
    }
  }

  // --- attaching

  /**
   * Chooses the descriptors of the next write, and returns up to where in the stream it may reach: no further than a withdrawn frame, which is
   * left out when everything before it has left. If it returns where the stream is, one was left out just now.
   */
  attach(): number {
    const bytes = this.#bytes
    const [withdrawn] = this.#withdrawn
    if (withdrawn?.start === bytes.sent) {
      this.#withdrawn.shift()
      bytes.advance(withdrawn.end - withdrawn.start)
      return bytes.sent
    }
    let limit = this.#choose()
    if (withdrawn !== undefined) limit = Math.min(limit, withdrawn.start)
    return this.#borrowing.length === 0 ? limit : Math.min(limit, bytes.sent + MAX_WRITE)
  }

  /** A frame whose descriptors would make more than 253 of the kernel's write, or more than 253 ahead of their frames at the peer, waits for the next one. */
  #choose(): number {
    const parcels = this.#parcels
    const { sent, queued } = this.#bytes
    this.attachCount = this.#attachParcels = 0
    if (this.#attaching === parcels.length) return queued
    let ahead = 0
    for (let i = this.#attaching - 1; i >= this.#taking && parcels[i]!.end > sent; i--) ahead += parcels[i]!.fds.length
    for (let i = this.#attaching; i < parcels.length; i++) {
      const { fds, start, holes } = parcels[i]!
      // What may still have to be withdrawn must not send its descriptors ahead
      if (holes.length > 0 && start > sent) return start
      if (ahead + this.attachCount + fds.length > MAX_RIGHTS || this.#attachParcels === this.#most) return start
      for (const fd of fds) attachedNumbers[this.attachCount++] = fd
      this.#attachParcels++
    }
    return queued
  }

  /** The write has succeeded: what was attached to it has left. */
  haveLeft(): void {
    this.#most = MAX_RIGHTS
    this.#attaching += this.#attachParcels
  }

  // --- confirmed by the peer

  /** The peer has taken `count` more descriptors. Gives what is to be closed here, and the replies whose requests the peer had cancelled. */
  onTaken(count: number): { closing: number[]; cancelled: Parcel[] } {
    this.#checkTaken(count)
    let left = count
    const closing: number[] = []
    const cancelled: Parcel[] = []
    while (left > 0) {
      const parcel = this.#parcels[this.#taking]!
      const here = Math.min(left, parcel.fds.length - parcel.taken)
      parcel.taken += here
      left -= here
      if (parcel.taken < parcel.fds.length) break
      this.#taking++
      this.#forgetReply(parcel)
      if (parcel.cancelled) cancelled.push(parcel)
      else for (const fd of parcel.fds) closing.push(fd)
    }
    this.#compact()
    return { closing, cancelled }
  }

  /** The peer has cancelled request `id`: if descriptors of the reply are not taken yet, they will come back when they are. */
  cancelReply(id: number): void {
    const parcel = this.#replies?.get(id)
    if (parcel !== undefined) parcel.cancelled = true
  }

  /** Before anything changes, so that all of them can come back. */
  #checkTaken(count: number): void {
    let sent = 0
    for (let i = this.#taking; i < this.#attaching && sent < count; i++)
      sent += this.#parcels[i]!.fds.length - this.#parcels[i]!.taken
    if (sent < count) throw badTaken(count, sent)
  }

  #compact(): void {
    if (this.#taking < COMPACT_AT && this.#taking < this.#parcels.length) return
    this.#parcels.splice(0, this.#taking)
    this.#attaching -= this.#taking
    this.#taking = 0
  }

  #forgetReply(parcel: Parcel): void {
    if (parcel.replyTo !== -1 && this.#replies?.get(parcel.replyTo) === parcel) this.#replies.delete(parcel.replyTo)
  }

  // --- withdrawn

  /**
   * Handles a write that the kernel has refused for one of its descriptors. The kernel then passes none of them, and writes nothing. So half of
   * them are tried, until the one parcel is found; its frame is withdrawn. False: it can't be, as the peer would miss the records that it defines.
   */
  refuseAttached(errno: number): boolean {
    if (this.#attachParcels > 1) {
      this.#most = this.#attachParcels >> 1
      return true
    }
    return this.#withdraw(this.#parcels[this.#attaching]!, systemError(errno, 'sendmsg'))
  }

  /**
   * Withdraws the frames that the next write may reach and whose binary values the program has taken away. False: a part of such a frame has left,
   * and the peer was promised the rest.
   */
  withdrawLost(): boolean {
    const borrowing = this.#borrowing
    if (borrowing.length === 0) return true
    const { sent } = this.#bytes
    let left = 0
    while (left < borrowing.length && borrowing[left]!.end <= sent) left++
    if (left > 0) borrowing.splice(0, left)
    for (let i = 0; i < borrowing.length && borrowing[i]!.start < sent + MAX_WRITE; ) {
      const parcel = borrowing[i]!
      const { start, holes } = parcel
      if (!holes.some(hole => hole.until > sent && isLost(hole))) i++
      else if (start < sent || !this.#withdraw(parcel, lostError())) return false
    }
    return true
  }

  /** Gives the refused parcels: those whose frames were withdrawn since the last call. */
  takeRefused(): Parcel[] {
    const parcels = this.#refused
    this.#refused = NO_PARCELS
    return parcels
  }

  /** Takes a frame of which nothing has left out of the stream. False: it can't be, as the peer would miss the records that it defines. */
  #withdraw(parcel: Parcel, error: Error): boolean {
    if (parcel.defines && !this.takesDefinitions) return false
    parcel.error = error
    parcel.sent?.reject(error)
    const at = parcel.fds.length === 0 ? -1 : this.#parcels.indexOf(parcel, this.#attaching)
    if (at >= 0) this.#parcels.splice(at, 1)
    if (parcel.holes.length > 0) this.#borrowing.splice(this.#borrowing.indexOf(parcel), 1)
    this.#forgetReply(parcel)
    if (parcel.defines) this.#bytes.makeDefinitions(parcel)
    else this.#leaveOut(parcel)
    if (this.#refused === NO_PARCELS) this.#refused = []
    // Not now: this may be in the middle of a call of the program's
    if (this.#refused.push(parcel) === 1) process.nextTick(this.#onRefused)
    return true
  }

  #leaveOut(parcel: Parcel): void {
    if (this.#withdrawn === NO_PARCELS) this.#withdrawn = []
    const next = this.#withdrawn.findIndex(({ start }) => start > parcel.start)
    this.#withdrawn.splice(next < 0 ? this.#withdrawn.length : next, 0, parcel)
  }

  /** The end: gives every parcel that was not taken, with whether its descriptors had left. */
  end(): { parcel: Parcel; left: boolean }[] {
    const rest = this.#parcels
      .slice(this.#taking)
      .map((parcel, index) => ({ parcel, left: this.#taking + index < this.#attaching }))
    this.#parcels = this.#borrowing = this.#withdrawn = NO_PARCELS
    this.#taking = this.#attaching = 0
    return rest
  }
}

/** The peer says that it has taken `count` descriptors, of which only `sent` were sent. */
export function badTaken(count: number, sent: number): PassfdError {
  return new PassfdError('BAD_TAKEN', { count, sent })
}
