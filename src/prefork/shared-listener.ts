/** The shared policy: one socket, and every worker accepts from it. */
import type { Descriptor } from '../descriptor.ts'
import { addressOf, type Bound, closeBound, type ListenAddress } from './bound.ts'
import type { Loan } from './control.ts'
import type { Listener } from './listener.ts'

export class SharedListener implements Listener {
  readonly name: string
  readonly closesAtOnce = true // listeners of which we have another copy
  readonly #bound: Bound

  constructor(bound: Bound) {
    this.name = bound.name
    this.#bound = bound
  }

  loan(): Loan {
    const { descriptor, backlog } = this.#bound
    return { lane: 0, listener: descriptor.dup(), backlog }
  }

  /** Whoever is left goes on accepting. */
  balance(): void {}

  workerIsFree(): void {}

  giveBack(connections: readonly Descriptor[]): void {
    for (const connection of connections) connection.close()
  }

  address(): ListenAddress {
    return addressOf(this.#bound.descriptor.borrow())
  }

  close(): Promise<void> {
    return closeBound(this.#bound)
  }
}
