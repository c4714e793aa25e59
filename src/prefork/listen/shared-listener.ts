/** The shared policy: one socket, and every worker accepts from it. */
import type { Descriptor } from '../../descriptor/descriptor.ts'
import { addressOf, type Bound, closeBound, type ListenAddress } from '../../serving/bound-socket.ts'
import { endOwn } from '../../serving/last-accept.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Ending, Listener } from './listener.ts'
import type { Recipient } from './recipient.ts'

export class SharedListener implements Listener {
  readonly name: string
  readonly closesAtOnce: boolean
  readonly #bound: Bound
  /**
   * Further lanes of a predecessor. Each worker is lent all of them, because closing a lane resets its queue. If workers can't borrow lanes,
   * passfd closes these, because no process would accept from them.
   */
  #further: readonly Descriptor[]
  readonly #lent = new WeakSet<Recipient>()

  /** `further` is moved in. */
  constructor(bound: Bound, further: readonly Descriptor[] = []) {
    this.name = bound.name
    this.closesAtOnce = bound.closesAtOnce // at the end it sends connections to workers
    this.#bound = bound
    this.#further = further
  }

  grant(): ListenerGrant {
    const { descriptor, backlog, own } = this.#bound
    return { lane: 0, listener: descriptor.dup(), backlog, own }
  }

  /** The remaining workers go on accepting. */
  balance(servers: readonly Recipient[]): void {
    if (this.#further.length === 0) return
    if (servers.length > 0 && !servers.some(server => this.#adopts(server))) this.#drop()
    for (const server of servers) {
      if (this.#lent.has(server) || !this.#adopts(server)) continue
      this.#lent.add(server)
      const { backlog, own } = this.#bound
      for (const [index, lane] of this.#further.entries())
        void server.send({ type: 'lend', name: this.name, lane: index + 1, listener: lane.dup(), backlog, own })
    }
  }

  #adopts(server: Recipient): boolean {
    return server.uses.get(this.name)?.adopts === true
  }

  #drop(): void {
    for (const lane of this.#further) lane.close()
    this.#further = []
  }

  offered(): void {}

  begin(): void {}

  workerIsFree(): void {}

  accepted(): void {}

  giveBack(connections: readonly Descriptor[]): void {
    for (const connection of connections) connection.close()
  }

  address(): ListenAddress {
    return addressOf(this.#bound.descriptor.borrow())
  }

  sockets(): readonly Descriptor[] {
    return [this.#bound.descriptor, ...this.#further]
  }

  release(): void {
    for (const socket of this.sockets()) socket.close()
  }

  async close({ exclusive, served, give }: Ending): Promise<void> {
    const { own } = this.#bound
    const fds = this.sockets().map(socket => socket.borrow())
    await closeBound(this.#bound, own && exclusive ? () => endOwn(fds, served, give) : undefined)
    this.#drop()
  }
}
