/** Runs the `onStop` handlers of the program, within their time limit. */
import { setTimeout as later } from 'node:timers/promises'
import { bound } from '../base/async-context.ts'
import { deferred } from '../base/deferred.ts'
import { asError, PassfdError } from '../base/errors.ts'

export interface StopContext {
  /** Aborts when `stopTimeout` is over: the worker then closes the remaining connections, and the process ends soon. */
  readonly signal: AbortSignal
}

export type StopHandler = (context: StopContext) => unknown

export class StopHandlers {
  readonly #handlers: StopHandler[] = []
  readonly #timeIsOver = deferred()
  /** Set by `#timeIsOver`: when the process ends in any case, by performance.now(). */
  #deadline = 0

  /** Adds a handler, which runs in the async context of this call. */
  add(handler: StopHandler): void {
    this.#handlers.push(bound(handler))
  }

  /** Sets that the process ends in so many ms, even if handlers still run. */
  limit(milliseconds: number): void {
    this.#deadline = performance.now() + milliseconds
    this.#timeIsOver.resolve()
  }

  /** Runs the handlers one after the other, the last one first. Resolves to whether one has failed. `signal`: see `StopContext`. */
  async run(signal: AbortSignal): Promise<boolean> {
    let failed = false
    const run = async (handler: StopHandler): Promise<void> => {
      try {
        await handler({ signal })
      } catch (error) {
        failed = true
        process.emitWarning(new PassfdError('STOP_HANDLER', { message: asError(error).message }, { cause: error }))
      }
    }
    const running: Promise<void>[] = []
    for (let handler = this.#handlers.pop(); handler !== undefined; handler = this.#handlers.pop()) {
      const done = run(handler)
      running.push(done)
      await Promise.race([done, this.#shareIsOver()])
    }
    await Promise.all(running)
    return failed
  }

  /** The running handler and those behind it have equal shares of the time that is left after `stopTimeout`. */
  async #shareIsOver(): Promise<void> {
    await this.#timeIsOver.promise
    const left = this.#deadline - performance.now()
    await later(left / (this.#handlers.length + 1), undefined, { ref: false })
  }
}
