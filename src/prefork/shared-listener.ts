/** The shared policy: one socket, and every worker accepts from it. */
import type { Descriptor } from '../descriptor.ts'
import { addressOf, type Bound, closeBound, type ListenAddress } from './bound.ts'
import type { Listener } from './listener.ts'
import type { Loan } from './worker-process.ts'

export class SharedListener implements Listener {
  readonly name: string
  readonly #bound: Bound

  constructor(bound: Bound) {
    this.name = bound.name
    this.#bound = bound
  }

  loan(): Loan {
    return { lane: 0, listener: this.#bound.descriptor.dup() }
  }

  /** Whoever is left goes on accepting. */
  balance(): void {}

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
