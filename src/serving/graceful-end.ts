/** The graceful end of a process that serves: it stops accepting, finishes its requests, runs the program's handlers, and ends. */
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { deferred } from '../base/deferred.ts'
import type { ServedListeners } from './served-listeners.ts'
import { type StopHandler, StopHandlers } from './stop-handlers.ts'

/** Time limits in ms. */
export interface EndLimits {
  /** How long an idle keep-alive connection stays open after its last request. */
  readonly idleGrace: number
  /** The time for requests; then what is left is cut off. 0: no limit. */
  readonly stopTimeout: number
  /** From then on: the process ends then in any case. */
  readonly killTimeout: number
  /** How long it serves as before after it was told to stop. */
  readonly lameDuck: number
}

export interface EndOptions {
  /** No other process serves the connections that wait in the queues. A function is called when accepting is about to stop. */
  readonly last: boolean | (() => Promise<boolean>)
  /** Listeners that no other process goes on with: see `ServedListeners.end`. Asked when accepting is about to stop. */
  readonly alone?: () => readonly string[]
  /** It has been superseded: the time of the lame duck is over already. */
  readonly atOnce?: boolean
}

export interface EndEffects {
  /** The time of the lame duck is over, and it is about to stop accepting. */
  stopping?(): Promise<void>
  /** The last thing: nothing is served any more. */
  leave(): Promise<void>
  /** Ends the process, or not. `code`: 1 if a handler has failed or the time was over, else the program's own, or 0. */
  exit(code: number | string): void
}

export class GracefulEnd {
  readonly #listeners: ServedListeners
  readonly #limits: EndLimits
  readonly #effects: EndEffects
  readonly #handlers = new StopHandlers()
  readonly #lameDuck = new AbortController()
  readonly #lameDuckOver = deferred()
  readonly #stop = new AbortController()
  readonly #hurry = new AbortController()
  /** That in which the program asked for the listeners: its listeners of `signal` run in it. */
  readonly #context = new AsyncContext('PASSFD_WORKER')
  /** Work that gives its servers further connections. */
  readonly #before = new Set<Promise<unknown>>()
  #stopped: Promise<void> | undefined

  constructor(listeners: ServedListeners, limits: EndLimits, effects: EndEffects) {
    this.#listeners = listeners
    this.#limits = limits
    this.#effects = effects
  }

  /** Aborts when it stops accepting. */
  get signal(): AbortSignal {
    return this.#stop.signal
  }

  /** Aborts when it is known that it will stop. */
  get lameDuck(): AbortSignal {
    return this.#lameDuck.signal
  }

  get begun(): boolean {
    return this.#stopped !== undefined
  }

  /** Connections that its servers have open. */
  get connections(): number {
    return this.#listeners.intakes.reduce((sum, served) => sum + served.connections, 0)
  }

  /** Requests that its servers have begun. */
  get requests(): number {
    return this.#listeners.intakes.reduce((sum, served) => sum + served.requests, 0)
  }

  onStop(handler: StopHandler): void {
    this.#handlers.add(handler)
  }

  /** Its servers close only when `work` is done, because that may give them connections. A failure of `work` is its caller's to handle. */
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

  /** The time of the lame duck is over, if it has begun. */
  endLameDuck(): void {
    if (this.#stopped !== undefined) this.#lameDuckOver.resolve()
  }

  /** Time is over: what is left is cut off. Or that of the lame duck, first. */
  hurry(): void {
    if (this.#stopped !== undefined && !this.#stop.signal.aborted) this.#lameDuckOver.resolve()
    else {
      this.#listeners.cutOff()
      this.#context.run(() => this.#hurry.abort())
    }
  }

  /** Further calls return the same promise. What fails is the program's to see: an unhandled rejection ends the process. */
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
      // A handler may wait for just that
      for (const served of this.#listeners.intakes) served.destroyAll()
      setTimeout(() => this.#effects.exit(1), killTimeout) // a handler that waits for ever
      this.#handlers.limit(killTimeout)
    })
    this.#context.run(() => this.#stop.abort())
    if (this.#before.size > 0)
      await Promise.race([Promise.all(this.#before), new Promise<void>(resolve => whenAborted(signal, resolve))])
    const isLast = typeof last === 'function' ? last() : last
    const all = this.#listeners.intakes
    await this.#listeners.end(isLast, alone?.())
    const drained = all.map(served => served.drain({ idleGrace, signal }))
    await Promise.all(all.map(served => served.requestsDone))
    const failed = await this.#handlers.run(signal)
    await Promise.all(drained)
    for (const served of all) served.destroyAll()
    clearTimeout(limit)
    await this.#effects.leave()
    this.#effects.exit(failed || signal.aborted ? 1 : (process.exitCode ?? 0))
  }
}
