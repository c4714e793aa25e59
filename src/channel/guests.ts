/** The connections of one server, and what each takes of its bounds: a place, one of its user's places, and a part of the descriptors. */

import { PassfdError } from '../base/errors.ts'
import type { Channel, ChannelKeeper } from './channel.ts'
import { DescriptorBudget, type Part } from './descriptor-budget.ts'
import type { ServerLimits } from './options.ts'

/** A connection's place in the server, until it has left and given back its part of the descriptors. */
export class Guest implements ChannelKeeper {
  readonly uid: number
  readonly part: Part
  /** The channel's end, and that it was seen. */
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

  /** The handshake is done. The channel may be over already. */
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
    this.#channel = undefined // else it could not be collected
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
  /** Channels that have ended and of which the application still holds descriptors, while it can reach them. */
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

  /** The guest is not let in, or its handshake has failed: it counts no longer. */
  refuse(guest: Guest): void {
    this.#leave(guest)
    this.#budget.giveBack(guest.part)
  }

  /** One of the things has happened that the guest's place waits for. */
  settle(guest: Guest): void {
    if (--guest.waitsFor === 0) this.#leave(guest)
  }

  /** The channel of an admitted guest has ended. */
  closed(guest: Guest, channel: Channel<any, any>): void {
    this.settle(guest)
    this.#onClosed(channel)
    // The loop holds it no longer: if the application lets it go with what it holds, nothing else tells
    if (!guest.givenBack) this.#collected.register(channel, guest, guest)
  }

  /** Nothing that was lent to the application is held any more. */
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
