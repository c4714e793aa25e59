/**
 * The per-worker policy: for each slot a listener of its own (a *lane*), all on one port: the kernel spreads new connections over them
 * (SO_REUSEPORT, socket(7)). A lane whose worker is gone is lent to another one, with what waits in its queue. Once opened it stays so, though
 * its slot be removed: closing one resets what waits in it. Only where workers can't be lent any (they listen by themselves) it goes with its slot.
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
  /** Another slot's worker that accepts from it meanwhile. */
  borrower: Recipient | undefined
}

export class PerWorkerListener implements Listener {
  readonly name: string
  readonly closesAtOnce = true // listeners of which we have another copy
  readonly #group: PortGroup
  readonly #backlog: number | undefined
  readonly #lanes: Lane[]
  /** Slots whose worker was started with a lane of another slot. A lane of its own would get clients, and may have to be closed again. */
  readonly #sharing = new Set<number>()
  /** These workers: they are lent their slot's lane once that is open. */
  readonly #strangers = new WeakSet<Recipient>()
  #begun: boolean
  #offered = false

  /** `lanes`: a predecessor's, which are moved in; else the group opens the first one. */
  constructor(name: string, group: PortGroup, backlog: number | undefined, lanes: readonly Descriptor[] = []) {
    this.name = name
    this.#group = group
    this.#backlog = backlog
    this.#lanes = lanes.map(descriptor => ({ descriptor, borrower: undefined }))
    this.#begun = lanes.length === 0
    if (this.#begun) this.#lane(0) // the supervisor owns the port from now on
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

  /** Opens the lanes of slots that share. Without a worker that can be lent one, nobody would accept from it. */
  #openMissing(servers: readonly Recipient[]): void {
    for (const server of servers) if (this.#sharing.has(server.slot)) this.#strangers.add(server)
    if (!servers.some(server => this.#adopts(server))) return
    for (const slot of this.#sharing) {
      try {
        this.#lane(slot)
      } catch {
        // As in #opens(), or there is no descriptor for it: its worker goes on sharing
      }
    }
    this.#sharing.clear()
  }

  /** False: not yet; or a predecessor of another user has bound the port, so that this process can't join it (EADDRINUSE). */
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
   * Lanes of removed slots. No worker would accept from them, and the kernel gives them their share of the connections. So they are lent, and
   * live until their workers end.
   */
  #drop(slots: number): void {
    for (const { descriptor } of this.#lanes.splice(Math.max(1, slots))) descriptor.close()
  }

  /** To its own slot's worker, if that is a stranger; else to the one that has the fewest. */
  #lend(slot: number, lane: Lane, servers: readonly Recipient[]): void {
    const able = servers.filter(server => this.#adopts(server))
    if (able.length === 0) return // it waits for its slot's next worker
    const burden = (worker: Recipient) => this.#lanes.filter(({ borrower }) => borrower === worker).length
    const fewest = able.reduce((least, next) => (burden(next) < burden(least) ? next : least))
    lane.borrower = able.find(server => server.slot === slot) ?? fewest
    const listener = lane.descriptor.dup()
    void lane.borrower.send({ type: 'lend', name: this.name, lane: slot, listener, backlog: this.#backlog, own: true })
  }
}
