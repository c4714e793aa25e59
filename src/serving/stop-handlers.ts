/** What a worker's program does when the worker stops, and how long it may take. */
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
  /** From `#timeIsOver` on: when the process ends in any case, on the clock of performance.now(). */
  #deadline = 0

  /** It runs in the async context of this call. */
  add(handler: StopHandler): void {
    this.#handlers.push(bound(handler))
  }

  /** The process ends in so many ms, whatever they do. */
  limit(milliseconds: number): void {
    this.#deadline = performance.now() + milliseconds
    this.#timeIsOver.resolve()
  }

  /** Runs them one after the other, the last one first. Returns whether one has failed. `signal`: see `StopContext`. */
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

  /** Of the time that is left after `stopTimeout` the handler that runs and those behind it have equal shares. */
  async #shareIsOver(): Promise<void> {
    await this.#timeIsOver.promise
    const left = this.#deadline - performance.now()
    await later(left / (this.#handlers.length + 1), undefined, { ref: false })
  }
}
