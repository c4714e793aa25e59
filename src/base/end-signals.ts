/** Signals that are aborted when a channel ends: each message has its own, so that what listens to it does not pile up on one signal. */

import type { AsyncContext } from './async-context.ts'

/** Aborts the signals of one channel that the program can still reach. */
export class EndSignals {
  readonly #controllers = new Set<AbortController>()

  /**
   * A new signal. `AbortSignal.any` has Node keep it as long as it has listeners, even if the program holds it no longer, and let it be
   * collected otherwise. Its controller leaves the set then.
   */
  make(): AbortSignal {
    const controller = new AbortController()
    const signal = AbortSignal.any([controller.signal])
    this.#controllers.add(controller)
    collected.register(signal, { controllers: this.#controllers, controller })
    return signal
  }

  /** The channel has ended. Listeners run in `context`. */
  abort(reason: Error, context: AsyncContext): void {
    for (const controller of this.#controllers) {
      this.#controllers.delete(controller)
      context.run(() => controller.abort(reason))
    }
  }
}

const collected = new FinalizationRegistry<{ controllers: Set<AbortController>; controller: AbortController }>(
  ({ controllers, controller }) => controllers.delete(controller)
)
