/** Finds workers that hang, and replaces workers that exceed a limit. */
import { asError, PassfdError } from '../../base/errors.ts'
import type { Settings } from '../options.ts'
import type { Reports } from './reports.ts'
import type { Exceeded, Slot, Slots } from './slots.ts'
import type { WorkerProcess } from './worker-process.ts'
import type { Workers } from './workers.ts'

type Limit = 'rss' | 'age' | 'requests'

/** What it needs of the supervisor. */
export interface HealthOwner {
  /** The supervisor was not told to stop. */
  isRunning(): boolean
  /** Runs `work` after all earlier changes of workers. */
  exclusive(work: () => Promise<void>): Promise<void>
}

/** The time in ms from a failed replacement for a limit to the next try. */
const LIMIT_RETRY = 30_000
/** A worker that is below this part of a limit did not exceed it from the start. */
const WELL_BELOW = 0.9
const UNITS: Record<Limit, string> = { rss: 'bytes', age: 'ms', requests: 'requests' }

export class Health {
  readonly #settings: Settings
  readonly #workers: Workers
  readonly #slots: Slots
  readonly #reports: Reports
  readonly #owner: HealthOwner
  /** Limits that workers of a slot exceed as soon as they are ready. True: no worker is replaced for it. */
  #useless = new WeakMap<Slot, Map<Limit, boolean>>()
  #beat: NodeJS.Timeout | undefined
  #lastBeat = 0
  #limitRetry = 0

  constructor(settings: Settings, workers: Workers, slots: Slots, reports: Reports, owner: HealthOwner) {
    this.#settings = settings
    this.#workers = workers
    this.#slots = slots
    this.#reports = reports
    this.#owner = owner
  }

  /** Checks all workers once in a heartbeat. */
  begin(): void {
    this.#lastBeat = performance.now()
    this.#beat = setInterval(() => this.#onBeat(), this.#settings.heartbeat)
  }

  end(): void {
    clearInterval(this.#beat)
  }

  /** Called when new code may run in the workers: each limit applies again. */
  retryLimits(): void {
    this.#useless = new WeakMap()
  }

  #onBeat(): void {
    const { hangTimeout, heartbeat } = this.#settings
    const now = performance.now()
    const late = now - this.#lastBeat > 2 * heartbeat
    this.#lastBeat = now
    for (const worker of this.#workers) {
      worker.measure()
      // If this process was late itself, messages of workers may be unread
      if (late) worker.heard = now
      const silent = now - worker.heard > hangTimeout && hangTimeout > 0
      const doubtful = silent || worker.held // after a debugger has left, the worker has the whole hangTimeout again
      if (!doubtful || !worker.watched || (worker.state !== 'ready' && worker.state !== 'stopping')) continue
      worker.held = worker.debugged
      if (worker.held) worker.heard = now
      else if (silent) worker.hung()
    }
    this.#checkLimits(now)
  }

  #checkLimits(now: number): void {
    if (now < this.#limitRetry || !this.#owner.isRunning()) return
    // The oldest first, so that a worker whose successors exceed the limit at once delays no other
    const beyond = [...this.#slots].flatMap(slot => {
      const exceeded = slot.current?.state === 'ready' ? this.#exceeds(slot, slot.current) : undefined
      return exceeded === undefined ? [] : { slot, worker: slot.current!, exceeded }
    })
    const [first] = beyond.sort((a, b) => a.worker.id - b.worker.id)
    if (first === undefined) return
    const { slot, worker, exceeded } = first
    this.#limitRetry = Infinity // one at a time
    this.#owner
      .exclusive(() => (slot.current === worker ? this.#slots.replace(slot, exceeded) : Promise.resolve()))
      .then(
        () => {
          this.#limitRetry = 0
        },
        error => {
          this.#limitRetry = performance.now() + LIMIT_RETRY
          if (this.#owner.isRunning()) this.#reports.warn('reloadFailed', asError(error))
        }
      )
  }

  /** Returns the limit for which a worker must be replaced. */
  #exceeds(slot: Slot, worker: WorkerProcess): Exceeded | undefined {
    const { limits } = this.#settings
    const useless = this.#uselessIn(slot)
    const part = 1 - (limits.jitter ?? 0) * worker.spread
    const values: Record<Limit, number> = { rss: worker.rss, age: worker.uptime, requests: worker.requests }
    const first = !worker.checked
    worker.checked = true
    let exceeded: Exceeded | undefined
    for (const limit of ['rss', 'age', 'requests'] as const) {
      const value = Math.round(values[limit])
      const bound = (limits[limit] ?? Infinity) * part
      if (value < bound * WELL_BELOW && useless.get(limit) === true) useless.set(limit, false)
      if (value < bound || (value === bound && limit !== 'requests')) continue
      const detail = `${value} of ${Math.floor(bound)} ${UNITS[limit]} (limits.${limit})`
      if (first && worker.replaces === limit) {
        const told = useless.has(limit)
        useless.set(limit, true)
        if (!told) this.#reports.warn('beyondLimit', new PassfdError('BEYOND_LIMIT', { slot: slot.index, detail }))
      }
      if (useless.get(limit) !== true) exceeded ??= { limit, reason: `it was beyond a limit: ${detail}` }
    }
    return exceeded
  }

  #uselessIn(slot: Slot): Map<Limit, boolean> {
    let useless = this.#useless.get(slot)
    if (useless === undefined) this.#useless.set(slot, (useless = new Map()))
    return useless
  }
}
