/**
 * Parcels, from their queueing until the peer has confirmed their descriptors. It attaches descriptors to writes, and withdraws frames whose
 * descriptors the kernel refuses or whose binary values the program has transferred.
 */

import { PassfdError, systemError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { isLost, lostError } from '../codec/lost-bytes.ts'
import { isForeign } from '../descriptor/descriptor.ts'
import type { OutgoingBytes } from './outgoing-bytes.ts'
import type { Parcel } from './parcel.ts'

/** The most bytes of one write, so that only the buffers within it must be checked. */
const MAX_WRITE = 4 << 20
/** A queue is cut when so many entries at its front are used up. */
const COMPACT_AT = 512

/** Most channels never have any parcels, so all share this empty array. */
const NO_PARCELS: Parcel[] = []

/** What the peer has confirmed. */
export interface Taken {
  /** The numbers to close here. */
  readonly closing: readonly number[]
  /** Some of them came from a peer, so their close may block. */
  readonly foreign: boolean
  /** Replies whose requests the peer had cancelled. */
  readonly cancelled: readonly Parcel[]
}

export const NOTHING_TAKEN: Taken = { closing: [], foreign: false, cancelled: [] }

/** The descriptors of the write in progress. */
export const attachedNumbers = new Int32Array(MAX_RIGHTS)

export class ParcelsUnderWay {
  /** The peer takes frames of the kind DEFINITIONS. */
  takesDefinitions = false
  /** How many of `attachedNumbers` leave with the next write. */
  attachCount = 0
  readonly #bytes: OutgoingBytes
  readonly #onRefused: () => void
  /** Parcels with descriptors, in stream order: [#taking, #attaching) have left, [#attaching, …) have not. */
  #parcels = NO_PARCELS
  #taking = 0
  #attaching = 0
  #attachParcels = 0
  /** Parcels that answer a request, by its id, because searching would be slow for a peer that cancels thousands. */
  #replies: Map<number, Parcel> | undefined
  /** How many parcels the next write may attach: fewer during the search for the one that the kernel refuses. */
  #most = MAX_RIGHTS
  /** Withdrawn frames, in stream order. Each is skipped when everything before it is written. */
  #withdrawn = NO_PARCELS
  /** Parcels with uncopied binary values, in stream order, until those have left. */
  #borrowing = NO_PARCELS
  /** Parcels of withdrawn frames, until the session collects them by `takeRefused`. */
  #refused = NO_PARCELS

  /** Calls `onRefused`, in a later turn, when `takeRefused` has parcels to give. */
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
   * Chooses the descriptors of the next write, and returns where in the stream that write must end: at the latest before a withdrawn frame. It skips
   * such a frame when everything before it has left, and then returns the stream's current position.
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

  /** A frame waits for the next write if its descriptors would exceed 253 in the write, or 253 that arrive at the peer ahead of their frames. */
  #choose(): number {
    const parcels = this.#parcels
    const { sent, queued } = this.#bytes
    this.attachCount = this.#attachParcels = 0
    if (this.#attaching === parcels.length) return queued
    let ahead = 0
    for (let i = this.#attaching - 1; i >= this.#taking && parcels[i]!.end > sent; i--) ahead += parcels[i]!.fds.length
    for (let i = this.#attaching; i < parcels.length; i++) {
      const { fds, start, holes } = parcels[i]!
      // The descriptors of a frame that may have to be withdrawn must not leave before its bytes
      if (holes.length > 0 && start > sent) return start
      if (ahead + this.attachCount + fds.length > MAX_RIGHTS || this.#attachParcels === this.#most) return start
      for (const fd of fds) attachedNumbers[this.attachCount++] = fd
      this.#attachParcels++
    }
    return queued
  }

  /** Called when the write has succeeded: the attached descriptors have left. */
  haveLeft(): void {
    this.#most = MAX_RIGHTS
    this.#attaching += this.#attachParcels
  }

  // --- confirmed by the peer

  /** Called when the peer has confirmed `count` more. */
  onTaken(count: number): Taken {
    this.#checkTaken(count)
    let left = count
    const closing: number[] = []
    const cancelled: Parcel[] = []
    let foreign = false
    while (left > 0) {
      const parcel = this.#parcels[this.#taking]!
      const here = Math.min(left, parcel.fds.length - parcel.taken)
      parcel.taken += here
      left -= here
      if (parcel.taken < parcel.fds.length) break
      this.#taking++
      this.#forgetReply(parcel)
      if (parcel.cancelled) cancelled.push(parcel)
      else {
        for (const fd of parcel.fds) closing.push(fd)
        foreign ||= parcel.descriptors.some(isForeign)
      }
    }
    this.#compact()
    return { closing, foreign, cancelled }
  }

  /** Called when the peer has cancelled request `id`. Unconfirmed descriptors of its reply come back when the peer confirms them. */
  cancelReply(id: number): void {
    const parcel = this.#replies?.get(id)
    if (parcel !== undefined) parcel.cancelled = true
  }

  /** Checks the count before anything changes, so that all descriptors can come back. */
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
   * Handles a write that failed because of one descriptor: the kernel passed and wrote nothing. It tries half of them, until it has found the parcel,
   * and withdraws its frame. Returns false if that is impossible, because the peer would lack the records that the frame defines.
   */
  refuseAttached(errno: number): boolean {
    if (this.#attachParcels > 1) {
      this.#most = this.#attachParcels >> 1
      return true
    }
    return this.#withdraw(this.#parcels[this.#attaching]!, systemError(errno, 'sendmsg'))
  }

  /**
   * Withdraws the frames within the next write whose binary values the program has transferred. Returns false if a part of such a frame has left,
   * because the peer then expects the rest.
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

  /** Returns the parcels whose frames were withdrawn since the last call. */
  takeRefused(): Parcel[] {
    const parcels = this.#refused
    this.#refused = NO_PARCELS
    return parcels
  }

  /** Withdraws an unsent frame from the stream. Returns false if the peer would then lack the records that the frame defines. */
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
    // In a later turn, because a call of the program may be in progress
    if (this.#refused.push(parcel) === 1) process.nextTick(this.#onRefused)
    return true
  }

  #leaveOut(parcel: Parcel): void {
    if (this.#withdrawn === NO_PARCELS) this.#withdrawn = []
    const next = this.#withdrawn.findIndex(({ start }) => start > parcel.start)
    this.#withdrawn.splice(next < 0 ? this.#withdrawn.length : next, 0, parcel)
  }

  /** Called at the end. Returns every unconfirmed parcel, and whether its descriptors had left. */
  end(): { parcel: Parcel; left: boolean }[] {
    const rest = this.#parcels
      .slice(this.#taking)
      .map((parcel, index) => ({ parcel, left: this.#taking + index < this.#attaching }))
    this.#parcels = this.#borrowing = this.#withdrawn = NO_PARCELS
    this.#taking = this.#attaching = 0
    return rest
  }
}

/** The peer has confirmed `count` descriptors, although only `sent` were sent. */
export function badTaken(count: number, sent: number): PassfdError {
  return new PassfdError('BAD_TAKEN', { count, sent })
}
