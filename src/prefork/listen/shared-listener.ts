/** The shared policy: one socket, and every worker accepts from it. */
import type { Descriptor } from '../../descriptor/descriptor.ts'
import { addressOf, type Bound, closeBound, type ListenAddress } from '../../serving/bound-socket.ts'
import { endOwn } from '../../serving/last-accept.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Ending, Listener } from './listener.ts'

export class SharedListener implements Listener {
  readonly name: string
  readonly closesAtOnce: boolean
  readonly #bound: Bound

  constructor(bound: Bound) {
    this.name = bound.name
    this.closesAtOnce = bound.closesAtOnce // workers are sent connections at the end
    this.#bound = bound
  }

  grant(): ListenerGrant {
    const { descriptor, backlog, own } = this.#bound
    return { lane: 0, listener: descriptor.dup(), backlog, own }
  }

  /** The remaining workers go on accepting. */
  balance(): void {}

  workerIsFree(): void {}

  accepted(): void {}

  giveBack(connections: readonly Descriptor[]): void {
    for (const connection of connections) connection.close()
  }

  address(): ListenAddress {
    return addressOf(this.#bound.descriptor.borrow())
  }

  close({ exclusive, served, give }: Ending): Promise<void> {
    const { own, descriptor } = this.#bound
    if (!own || !exclusive) return closeBound(this.#bound)
    return closeBound(this.#bound, () => endOwn([descriptor.borrow()], served, give))
  }
}
