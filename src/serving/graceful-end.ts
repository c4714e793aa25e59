/** The graceful end of a process that serves: it stops accepting, finishes its requests, runs the program's handlers, and ends. */
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { deferred } from '../base/deferred.ts'
import { NEW_GRACE_FACTOR } from './intake.ts'
import type { EndingListeners } from './served-listeners.ts'
import { type StopHandler, StopHandlers } from './stop-handlers.ts'

/** Time limits in ms. */
export interface EndLimits {
  /** How long an idle keep-alive connection stays open after its last request. */
  readonly idleGrace: number
  /** The time for requests; then the remaining connections are destroyed. 0: no limit. */
  readonly stopTimeout: number
  /** The time after `stopTimeout` at which the process ends in any case. */
  readonly killTimeout: number
  /** How long it serves as before after the order to stop. */
  readonly lameDuck: number
}

export interface EndOptions {
  /** No other process serves the connections that wait in the queues. A function is called when it takes no more connections from others. */
  readonly last: boolean | (() => Promise<boolean>)
  /** Returns the listeners that no other process serves: see `ServedListeners.end`. Called just before accepting stops. */
  readonly alone?: () => readonly string[]
  /** It was superseded, so it does not serve as a lame duck. */
  readonly atOnce?: boolean
}

export interface EndEffects {
  /** Called when the time as a lame duck is over, before accepting stops. */
  stopping?(): Promise<void>
  /** Called at the very end, when nothing is served any more. */
  leave(): Promise<void>
  /** May end the process. `code`: 1 if a handler has failed or the time was over, otherwise the program's own, or 0. */
  exit(code: number | string): void
}

export class GracefulEnd {
  readonly #listeners: EndingListeners
  readonly #limits: EndLimits
  readonly #effects: EndEffects
  readonly #handlers = new StopHandlers()
  readonly #lameDuck = new AbortController()
  readonly #lameDuckOver = deferred()
  readonly #stop = new AbortController()
  readonly #hurry = new AbortController()
  /** The async context of the program's call. Its listeners of `signal` run in it. */
  readonly #context = new AsyncContext('PASSFD_WORKER')
  /** Work under way that may give its servers connections. */
  readonly #before = new Set<Promise<unknown>>()
  #stopped: Promise<void> | undefined

  constructor(listeners: EndingListeners, limits: EndLimits, effects: EndEffects) {
    this.#listeners = listeners
    this.#limits = limits
    this.#effects = effects
  }

  /** Aborts when it stops accepting. */
  get signal(): AbortSignal {
    return this.#stop.signal
  }

  /** Aborts at the order to stop. */
  get lameDuck(): AbortSignal {
    return this.#lameDuck.signal
  }

  get begun(): boolean {
    return this.#stopped !== undefined
  }

  /** The number of open connections of its servers. */
  get connections(): number {
    return this.#listeners.intakes.reduce((sum, served) => sum + served.connections, 0)
  }

  /** The number of requests that its servers have begun. */
  get requests(): number {
    return this.#listeners.requests
  }

  onStop(handler: StopHandler): void {
    this.#handlers.add(handler)
  }

  /** Keeps the servers open until `work` is done, because that may give them connections. The caller handles a failure of `work`. */
  waitFor(work: Promise<unknown>): void {
    const done = work.then(
      () => void this.#before.delete(done),
      () => void this.#before.delete(done)
    )
    this.#before.add(done)
  }

  becomeLameDuck(): void {
    this.#context.run(() => this.#lameDuck.abort())
  }

  /** Ends the time as a lame duck, if it has begun. */
  endLameDuck(): void {
    if (this.#stopped !== undefined) this.#lameDuckOver.resolve()
  }

  /** Ends the time as a lame duck; otherwise destroys the remaining connections. */
  hurry(): void {
    if (this.#stopped !== undefined && !this.#stop.signal.aborted) this.#lameDuckOver.resolve()
    else {
      this.#listeners.cutOff()
      this.#context.run(() => this.#hurry.abort())
    }
  }

  /** Begins the end. Further calls return the same promise. A failure becomes an unhandled rejection, which ends the process. */
  begin(options: EndOptions): Promise<void> {
    if (this.#stopped === undefined) {
      let begin!: () => void
      this.#stopped = new Promise((resolve, reject) => {
        begin = () => void this.#end(options).then(resolve, reject)
      })
      begin() // after the assignment: what the program does when `signal` is aborted may ask for it again
    }
    return this.#stopped
  }

  async #end({ last, alone, atOnce = false }: EndOptions): Promise<void> {
    const { idleGrace, stopTimeout, killTimeout, lameDuck } = this.#limits
    const { signal } = this.#hurry
    this.#listeners.beginStop()
    this.becomeLameDuck()
    if (lameDuck > 0 && !atOnce) {
      const timer = setTimeout(() => this.#lameDuckOver.resolve(), lameDuck)
      await this.#lameDuckOver.promise
      clearTimeout(timer)
    }
    if (!atOnce && this.#effects.stopping !== undefined) await this.#effects.stopping()
    const limit = stopTimeout > 0 ? setTimeout(() => this.hurry(), stopTimeout) : undefined
    signal.addEventListener('abort', () => {
      clearTimeout(limit)
      // A handler may wait for the end of these connections
      for (const served of this.#listeners.intakes) served.destroyAll()
      setTimeout(() => this.#effects.exit(1), killTimeout) // a handler that waits for ever
      this.#handlers.limit(killTimeout)
    })
    this.#context.run(() => this.#stop.abort())
    // At once, because whoever gives it connections must know that it takes no more
    const isLast = typeof last === 'function' ? last() : last
    if (this.#before.size > 0)
      await Promise.race([Promise.all(this.#before), new Promise<void>(resolve => whenAborted(signal, resolve))])
    const all = this.#listeners.intakes
    await this.#listeners.end(isLast, alone?.())
    // Clients that only hold connections open do not use up all of the time
    const newGrace = Math.max(
      idleGrace,
      Math.min(NEW_GRACE_FACTOR * idleGrace, stopTimeout > 0 ? stopTimeout / 2 : Infinity)
    )
    const drained = this.#listeners.drain({ idleGrace, newGrace, signal, passes: !(await isLast) })
    await Promise.all(all.map(served => served.requestsDone))
    const failed = await this.#handlers.run(signal)
    await Promise.race([Promise.all(drained), new Promise<void>(resolve => whenAborted(signal, resolve))])
    for (const served of all) served.destroyAll()
    clearTimeout(limit)
    await this.#effects.leave()
    this.#effects.exit(failed || signal.aborted ? 1 : (process.exitCode ?? 0))
  }
}
