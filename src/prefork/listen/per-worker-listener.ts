/**
 * The per-worker policy: each slot has a listener (a *lane*) on the same port, and the kernel spreads new connections over them (SO_REUSEPORT,
 * socket(7)). A lane without a worker is lent to another worker. It stays open even if its slot is removed, because closing it resets its queue.
 * Only if workers can't borrow lanes (they listen by themselves) is it closed with its slot.
 */
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import type { PortGroup } from '../../os/port-group.ts'
import { addressOf, type ListenAddress } from '../../serving/bound-socket.ts'
import { endOwn } from '../../serving/last-accept.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Ending, Listener } from './listener.ts'
import type { Recipient } from './recipient.ts'

interface Lane {
  readonly descriptor: Descriptor
  /** A worker that was started with another lane and now accepts from this one, too. */
  borrower: Recipient | undefined
}

export class PerWorkerListener implements Listener {
  readonly name: string
  readonly closesAtOnce = true // it closes copies of listeners, never the last one
  readonly #group: PortGroup
  readonly #backlog: number | undefined
  readonly #lanes: Lane[]
  /** Slots whose worker was started with another slot's lane: a new lane gets clients at once, and it may have to be closed again. */
  readonly #sharing = new Set<number>()
  /** Workers of those slots. Each is lent its own slot's lane when that is open. */
  readonly #strangers = new WeakSet<Recipient>()
  #begun: boolean
  #offered = false

  /** `lanes`: a predecessor's, which are moved in. Without them the group opens the first lane. */
  constructor(name: string, group: PortGroup, backlog: number | undefined, lanes: readonly Descriptor[] = []) {
    this.name = name
    this.#group = group
    this.#backlog = backlog
    this.#lanes = lanes.map(descriptor => ({ descriptor, borrower: undefined }))
    this.#begun = lanes.length === 0
    if (this.#begun) this.#lane(0) // from now on this process holds the port
  }

  grant(slot: number): ListenerGrant {
    const count = this.#lanes.length
    const shares = slot >= count && !this.#opens(slot)
    if (shares) this.#sharing.add(slot)
    else this.#sharing.delete(slot)
    const lane = shares ? slot % count : slot
    return { lane, listener: this.#lane(lane).descriptor.dup(), backlog: this.#backlog, own: true }
  }

  begin(): void {
    if (this.#begun) return
    this.#begun = true
    this.#group.share(this.#lanes.map(({ descriptor }) => descriptor.borrow()))
  }

  offered(is: boolean): void {
    this.#offered = is
  }

  get #mayOpen(): boolean {
    return this.#begun && !this.#offered
  }

  /** Opens the lanes of slots that share, if some worker can borrow lanes: otherwise no process would accept from them. */
  #openMissing(servers: readonly Recipient[]): void {
    for (const server of servers) if (this.#sharing.has(server.slot)) this.#strangers.add(server)
    if (!servers.some(server => this.#adopts(server))) return
    for (const slot of this.#sharing) {
      try {
        this.#lane(slot)
      } catch {
        // EADDRINUSE as in #opens(), or no free descriptor: the worker goes on sharing
      }
    }
    this.#sharing.clear()
  }

  /** Opens the slot's lane. Returns false if it is too early, or if a predecessor of another user bound the port (EADDRINUSE). */
  #opens(slot: number): boolean {
    if (!this.#mayOpen) return false
    try {
      this.#lane(slot)
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || this.#lanes.length === 0) throw error
      return false
    }
  }

  balance(servers: readonly Recipient[], slots: number): void {
    if (servers.length > 0 && !servers.some(server => this.#adopts(server))) this.#drop(slots)
    if (this.#mayOpen && this.#sharing.size > 0) this.#openMissing(servers)
    for (const [slot, lane] of this.#lanes.entries()) {
      const { borrower } = lane
      const borrowed = borrower !== undefined && servers.includes(borrower)
      if (!borrowed) lane.borrower = undefined
      if (servers.some(server => server.slot === slot && !this.#strangers.has(server))) {
        if (borrowed) void borrower.send({ type: 'takeBack', name: this.name, lane: slot })
        lane.borrower = undefined
      } else if (!borrowed) this.#lend(slot, lane, servers)
    }
  }

  workerIsFree(): void {}

  accepted(): void {}

  giveBack(connections: readonly Descriptor[]): void {
    for (const connection of connections) connection.close()
  }

  address(): ListenAddress {
    return addressOf(this.#lanes[0]!.descriptor.borrow())
  }

  sockets(): readonly Descriptor[] {
    return this.#lanes.map(({ descriptor }) => descriptor)
  }

  release(): void {
    for (const { descriptor } of this.#lanes.splice(0)) descriptor.close()
  }

  async close({ exclusive, served, give }: Ending): Promise<void> {
    if (exclusive) {
      const fds = this.#lanes.map(({ descriptor }) => descriptor.borrow())
      await endOwn(fds, served, give)
    }
    for (const { descriptor } of this.#lanes.splice(0)) descriptor.close()
  }

  #lane(slot: number): Lane {
    while (this.#lanes.length <= slot) this.#lanes.push({ descriptor: own(this.#group.open()), borrower: undefined })
    return this.#lanes[slot]!
  }

  #adopts(server: Recipient): boolean {
    return server.uses.get(this.name)?.adopts === true
  }

  /**
   * Closes this process's copies of removed slots' lanes, because no worker can borrow them. Those lanes live until their workers end. With
   * copies here the kernel would go on giving them connections that no process accepts.
   */
  #drop(slots: number): void {
    for (const { descriptor } of this.#lanes.splice(Math.max(1, slots))) descriptor.close()
  }

  /** Lends a lane to its own slot's worker, or else to the worker that has borrowed the fewest. */
  #lend(slot: number, lane: Lane, servers: readonly Recipient[]): void {
    const able = servers.filter(server => this.#adopts(server))
    if (able.length === 0) return // the slot's next worker will get it
    const burden = (worker: Recipient) => this.#lanes.filter(({ borrower }) => borrower === worker).length
    const fewest = able.reduce((least, next) => (burden(next) < burden(least) ? next : least))
    lane.borrower = able.find(server => server.slot === slot) ?? fewest
    const listener = lane.descriptor.dup()
    void lane.borrower.send({ type: 'lend', name: this.name, lane: slot, listener, backlog: this.#backlog, own: true })
  }
}
