/** Counts the connections of one server. Each uses a place, one of its user's places, and a part of the descriptors. */

import { PassfdError } from '../base/errors.ts'
import type { Channel, ChannelKeeper } from './channel.ts'
import { DescriptorBudget, type Part } from './descriptor-budget.ts'
import type { ServerLimits } from './options.ts'

/** A connection's place in the server. It is kept until the channel has ended and its descriptors are returned. */
export class Guest implements ChannelKeeper {
  readonly uid: number
  readonly part: Part
  /** How many conditions are left before its place is free: the channel's end, and that the program has seen the channel. */
  waitsFor = 1
  givenBack = false
  readonly #guests: Guests
  #admitted = false
  #channel: Channel<any, any> | undefined
  #over = false

  constructor(guests: Guests, uid: number, part: Part) {
    this.#guests = guests
    this.uid = uid
    this.part = part
  }

  /** Called after the handshake. The channel may have ended already. */
  admitted(channel: Channel<any, any>): void {
    this.#admitted = true
    this.#channel = channel
    if (this.givenBack) this.#guests.giveBack(this)
    if (this.#over) this.onClosed()
  }

  onClosed(): void {
    this.#over = true
    const channel = this.#channel
    if (channel === undefined) return
    this.#channel = undefined // so that the channel can be collected
    this.#guests.closed(this, channel)
  }

  onGivenBack(): void {
    if (this.givenBack) return
    this.givenBack = true
    if (this.#admitted) this.#guests.giveBack(this)
  }
}

export class Guests {
  readonly #bounds: ServerLimits
  readonly #onClosed: (channel: Channel<any, any>) => void
  readonly #budget: DescriptorBudget
  readonly #users = new Map<number, number>()
  #connections = 0
  /** Ended channels of which the application still holds descriptors and can reach them. */
  readonly #collected = new FinalizationRegistry<Guest>(guest => this.#budget.giveBack(guest.part))

  /** `onClosed` is called when the channel of an admitted guest has ended. */
  constructor(bounds: ServerLimits, onClosed: (channel: Channel<any, any>) => void) {
    this.#bounds = bounds
    this.#onClosed = onClosed
    this.#budget = new DescriptorBudget(bounds.maxUnclaimedTotal, bounds.maxConnections)
  }

  /** Counts a connection of user `uid`, whose channel wants so many unclaimed descriptors. */
  arrive(uid: number, wanted: number): Guest {
    this.#connections++
    this.#users.set(uid, (this.#users.get(uid) ?? 0) + 1)
    return new Guest(this, uid, this.#budget.allot(wanted))
  }

  /** Throws ERR_PASSFD_BUSY if the guest is one too many. */
  check({ uid, part }: Guest): void {
    const { maxConnections, maxConnectionsPerUser } = this.#bounds
    if (this.#connections > maxConnections)
      throw new PassfdError('BUSY', { detail: `${maxConnections} channels are open (maxConnections)` })
    if (this.#users.get(uid)! > maxConnectionsPerUser)
      throw new PassfdError('BUSY', {
        detail: `${maxConnectionsPerUser} channels of user ${uid} are open (maxConnectionsPerUser)`
      })
    if (part.total === 0)
      throw new PassfdError('BUSY', { detail: 'the descriptors of all its channels are used up (maxUnclaimedTotal)' })
  }

  /** Removes a guest that was refused, or whose handshake has failed. */
  refuse(guest: Guest): void {
    this.#leave(guest)
    this.#budget.giveBack(guest.part)
  }

  /** Called when one of the conditions is met. */
  settle(guest: Guest): void {
    if (--guest.waitsFor === 0) this.#leave(guest)
  }

  /** Called when the channel of an admitted guest has ended. */
  closed(guest: Guest, channel: Channel<any, any>): void {
    this.settle(guest)
    this.#onClosed(channel)
    // The event loop does not hold it any more. Only the collector reports that the application has dropped it with its descriptors
    if (!guest.givenBack) this.#collected.register(channel, guest, guest)
  }

  /** Called when the application holds no lent descriptor any more. */
  giveBack(guest: Guest): void {
    this.#collected.unregister(guest)
    this.#budget.giveBack(guest.part)
  }

  #leave({ uid }: Guest): void {
    this.#connections--
    const left = this.#users.get(uid)! - 1
    if (left === 0) this.#users.delete(uid)
    else this.#users.set(uid, left)
  }
}
