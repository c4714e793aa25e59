/**
 * Owns a channel's descriptors: sent ones that the peer has not confirmed (*out*), received ones that are lent to the program (*lent*), and
 * received ones that the program does not get (*discarded*), which it closes off the event loop.
 */
import { setImmediate } from 'node:timers'
import { type Descriptor, lent, moveOutShared } from '../descriptor/descriptor.ts'
import type { Lender } from '../descriptor/lender.ts'
import { Parcel } from './parcel.ts'
import type { ReturnState, SessionCore } from './session-core.ts'

/** Shared by all channels that discard nothing at the moment, and always empty. */
const NO_FDS: number[] = []

/** The bound of closes under way in this process. A peer whose closes hang soon exceeds it. */
const FEW_CLOSES = 1024

export class Custody {
  /** The number of sent descriptors that the peer has not confirmed. */
  out = 0
  /** Arrived descriptors that are not confirmed to the peer yet. */
  unconfirmed = 0
  readonly #core: SessionCore
  readonly #pid: number
  /** The number of descriptors that the application has got and neither claimed nor closed. */
  #lent = 0
  #lenders: { message: Lender; request: Lender } | undefined
  /** Numbers to close off the loop. */
  #discarded = NO_FDS
  /** The same, for the end of the read in progress. */
  #atReadDone = NO_FDS

  /** `pid`: the peer's, for the error of a lent descriptor. */
  constructor(core: SessionCore, pid: number) {
    this.#core = core
    this.#pid = pid
  }

  // --- out

  /** Moves the program's descriptors into a parcel, which counts as *out*. `replyTo`: the request that it answers, or -1. */
  toParcel(descriptors: readonly Descriptor[], value: unknown, replyTo: number): Parcel {
    this.out += descriptors.length
    return moveIntoParcel(descriptors, value, replyTo, replyTo === -1 ? 'send()' : 'a reply')
  }

  /** Called when the peer has confirmed `count` more. Closes the copies here, and gives back replies whose requests the peer had cancelled. */
  onTaken(count: number): void {
    const core = this.#core
    const { cancelled, closing, foreign } = core.transport.onTaken(count)
    // If the peer has closed its copies, these are the last ones, and the peer may have made their close block
    if (closing.length > 0)
      this.#closeAside(
        closing,
        () => {
          this.out -= closing.length
          core.settle()
          if (this.out === 0) core.allTaken()
        },
        !foreign
      )
    for (const parcel of cancelled) this.returnParcel('refused', parcel)
    core.settle()
  }

  /** Gives a parcel that counts as *out* back to the program. */
  returnParcel(state: ReturnState, parcel: Parcel): void {
    if (parcel.fds.length === 0 && parcel.error === undefined) return // it has only binary values, so its promise reports the failure
    this.out -= parcel.fds.length
    this.#core.owner.onReturned(state, parcel)
  }

  /** Gives the descriptors of an answer that can't be sent back to the program. */
  returnAnswer(value: unknown, descriptors: readonly Descriptor[]): void {
    this.#core.owner.onReturned('unsent', moveIntoParcel(descriptors, value, -1, 'an answer'))
  }

  /** Gives the descriptors of a message that can't be sent any more back to the program, in a later tick. */
  returnLater(value: unknown, descriptors: readonly Descriptor[]): void {
    const parcel = moveIntoParcel(descriptors, value, -1, 'send()')
    // In a later tick, because a listener that sends it again and again would block the loop
    setImmediate(() => this.#core.owner.onReturned('unsent', parcel))
  }

  // --- lent

  /** Makes Descriptors of numbers that have arrived: lent to the program until the scope of the message or request ends. */
  lend(fds: readonly number[], request: boolean): Descriptor[] {
    const lender = this.#lender(request)
    this.#lent += fds.length
    return fds.map(fd => lent(fd, lender))
  }

  /** Called when a lent descriptor was claimed. */
  kept(): void {
    this.#core.consumed(this.#core.limits.descriptorCost)
    this.#lent--
    this.checkLent()
  }

  /** Closes a lent descriptor off the loop. Its cost returns when it is closed. */
  discard(fd: number): void {
    this.#lent--
    this.checkLent()
    if (this.#core.isOver) this.#core.transport.wire.discard([fd], undefined)
    else {
      this.discardLater(fd)
      this.#core.scheduleAtTick()
    }
  }

  /** After the end: reports to the owner once nothing is lent any more. */
  checkLent(): void {
    if (this.#lent === 0 && this.#core.isOver) this.#core.owner.onGivenBack()
  }

  #lender(request: boolean): Lender {
    if (this.#lenders === undefined) {
      const pid = this.#pid
      const makeLender = (message: string): Lender => ({
        message,
        pid,
        ended: '',
        kept: () => this.kept(),
        discard: fd => this.discard(fd)
      })
      this.#lenders = { message: makeLender('message'), request: makeLender('request') }
    }
    return request ? this.#lenders.request : this.#lenders.message
  }

  // --- discarded

  get hasDiscarded(): boolean {
    return this.#discarded.length > 0
  }

  /** Closes a number together with the next discarded ones. Its cost returns when it is closed. */
  discardLater(fd: number): void {
    if (this.#discarded === NO_FDS) this.#discarded = []
    this.#discarded.push(fd)
  }

  /** Closes the discarded numbers off the loop. Their cost returns when they are closed. */
  discardNow(): void {
    const fds = this.#discarded
    const cost = fds.length * this.#core.limits.descriptorCost
    this.#discarded = NO_FDS
    this.#closeAside(fds, () => this.#core.consumed(cost))
  }

  /** Called when all frames of a read were handled, and when the session ends in a read. */
  readDone(): void {
    const fds = this.#atReadDone
    if (fds === NO_FDS) return
    this.#atReadDone = NO_FDS
    this.#core.transport.wire.discard(fds, undefined)
  }

  /**
   * Calls `done` when they are closed; at once while few closes are under way, because on one core a helper thread waits for this thread. During a
   * read it collects the numbers, because one wake-up of a helper costs as much as ten closes. `isOwn`: they are copies of this process's own descriptors,
   * none of which came from a peer.
   */
  #closeAside(fds: readonly number[], done: () => void, isOwn = false): void {
    const { isOver, transport } = this.#core
    const { reading, wire } = transport
    if (isOwn && wire.closeHere(fds)) {
      done()
      return
    }
    const few = wire.closing + this.#atReadDone.length < FEW_CLOSES
    if (few && reading && !isOver) {
      if (this.#atReadDone === NO_FDS) this.#atReadDone = []
      for (const fd of fds) this.#atReadDone.push(fd)
      done()
      return
    }
    wire.discard(
      fds,
      few
        ? undefined
        : () => {
            if (!this.#core.isOver) done()
          }
    )
    if (few) done()
  }
}

/** Moves the numbers of open descriptors into a parcel, for the call `by`. The parcel's owner then owns them. */
function moveIntoParcel(descriptors: readonly Descriptor[], value: unknown, replyTo: number, by: string): Parcel {
  const fds = descriptors.map(descriptor => moveOutShared(descriptor, by))
  return new Parcel(fds, descriptors, value, replyTo)
}
