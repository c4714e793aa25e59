/**
 * Descriptors that are neither the program's nor the peer's alone: those that were sent and are not confirmed (*out*), those that have arrived
 * and are lent to the program (*lent*), and those that the program does not get, which are closed off the event loop (*discarded*).
 */
import { setImmediate } from 'node:timers'
import { type Descriptor, lent, moveOutShared } from '../descriptor/descriptor.ts'
import type { Lender } from '../descriptor/lender.ts'
import { Parcel } from './parcel.ts'
import type { ReturnState, SessionCore } from './session-core.ts'

/** Shared by all channels that discard nothing at the moment; it stays empty. */
const NO_FDS: number[] = []

/** Descriptors of this process that are being closed off the loop. A peer whose closes hang has soon more than this. */
const FEW_CLOSES = 1024

export class Custody {
  /** Descriptors that were sent and that the peer has not taken. */
  out = 0
  /** Arrived descriptors that are not confirmed to the peer yet. */
  unconfirmed = 0
  readonly #core: SessionCore
  readonly #pid: number
  /** Descriptors that the application has been given and has neither claimed nor given back. */
  #lent = 0
  #lenders: { message: Lender; request: Lender } | undefined
  /** Numbers to be closed off the loop. */
  #discarded = NO_FDS

  /** `pid`: the peer's, for the error of a lent descriptor. */
  constructor(core: SessionCore, pid: number) {
    this.#core = core
    this.#pid = pid
  }

  // --- out

  /** Moves descriptors out of the program's hands into a parcel, which counts as *out*. `replyTo`: the request that it answers, or -1. */
  toParcel(descriptors: readonly Descriptor[], value: unknown, replyTo: number): Parcel {
    this.out += descriptors.length
    return moveIntoParcel(descriptors, value, replyTo, replyTo === -1 ? 'send()' : 'a reply')
  }

  /** The peer has taken `count` more: closes our copies, and gives back replies whose requests it had cancelled. */
  onTaken(count: number): void {
    const core = this.#core
    const { cancelled, closing } = core.transport.onTaken(count)
    // Off the loop: if the peer has closed its own already, these are the last, and it may have made their close wait
    if (closing.length > 0)
      this.#closeAside(closing, () => {
        this.out -= closing.length
        core.settle()
        if (this.out === 0) core.allTaken()
      })
    for (const parcel of cancelled) this.returnParcel('refused', parcel)
    core.settle()
  }

  /** Gives a parcel that counts as *out* back to the program. */
  returnParcel(state: ReturnState, parcel: Parcel): void {
    if (parcel.fds.length === 0 && parcel.error === undefined) return // it only has binary values: its promise reports the failure
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
    // Not in this tick: a listener that sends it again must not keep the loop from everything else
    setImmediate(() => this.#core.owner.onReturned('unsent', parcel))
  }

  // --- lent

  /** Makes Descriptors of numbers that have arrived: lent to the program until the scope of the message or request ends. */
  lend(fds: readonly number[], request: boolean): Descriptor[] {
    const lender = this.#lender(request)
    this.#lent += fds.length
    return fds.map(fd => lent(fd, lender))
  }

  /** A lent descriptor was claimed. */
  kept(): void {
    this.#core.consumed(this.#core.limits.descriptorCost)
    this.#lent--
    this.checkLent()
  }

  /** Closes a lent descriptor, off the loop. Its cost returns then. */
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

  /** Closes a number with the next ones that are discarded. Its cost returns then. */
  discardLater(fd: number): void {
    if (this.#discarded === NO_FDS) this.#discarded = []
    this.#discarded.push(fd)
  }

  /** Closes what was discarded, off the loop. The cost returns when it is closed. */
  discardNow(): void {
    const fds = this.#discarded
    const cost = fds.length * this.#core.limits.descriptorCost
    this.#discarded = NO_FDS
    this.#closeAside(fds, () => this.#core.consumed(cost))
  }

  /** `done` is called when they are closed; at once, as long as helper threads have little to do: those may take turns with this one. */
  #closeAside(fds: readonly number[], done: () => void): void {
    const { wire } = this.#core.transport
    const few = wire.closing < FEW_CLOSES
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

/** Moves the numbers of open descriptors into a parcel, on behalf of `by`. The parcel's owner owns them now. */
function moveIntoParcel(descriptors: readonly Descriptor[], value: unknown, replyTo: number, by: string): Parcel {
  const fds = descriptors.map(descriptor => moveOutShared(descriptor, by))
  return new Parcel(fds, descriptors, value, replyTo)
}
