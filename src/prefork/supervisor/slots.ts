/** The places of workers: the worker in each, its replacement, and the start of another one after a death. */
import type { AsyncContext } from '../../base/async-context.ts'
import { asError, PassfdError } from '../../base/errors.ts'
import { MAX_TIMEOUT } from '../../base/timers.ts'
import type { Death, Decision } from '../launch/restart.ts'
import type { Settings } from '../options.ts'
import type { Reports } from './reports.ts'
import type { WorkerProcess } from './worker-process.ts'
import type { Workers } from './workers.ts'

/** A worker's place. */
export interface Slot {
  readonly index: number
  /** The worker that serves, or will serve. */
  current: WorkerProcess | undefined
  /** Its replacement, which isn't ready yet. */
  next: WorkerProcess | undefined
  /** A start that waits for its time. */
  timer: NodeJS.Timeout | undefined
  restarts: number
  /** Deaths in a row, each soon after the start. */
  early: number
}

/** What the slots need of their supervisor. */
export interface SlotsOwner {
  /** Starts a worker. Throws ERR_PASSFD_SUPERVISOR_STOPPED, or what keeps it from being started. */
  launch(slot: Slot): WorkerProcess
  /** The workers that new connections go to are others now; or the slots. `stays`: false for those that are about to be stopped. */
  rebalance(stays?: (worker: WorkerProcess) => boolean): void
  /** Workers that die are replaced. */
  isServing(): boolean
  /** The supervisor was not told to stop. */
  isRunning(): boolean
  /** The restart policy has given up every slot. */
  onAllGivenUp(error: Error): void
}

/** Why a worker is replaced that has done nothing wrong. */
export interface Exceeded {
  readonly limit: string
  /** As a sentence about the worker. */
  readonly reason: string
}

/** Workers of one slot that stop at the same time. With as many, the next successor there waits until one has ended. */
const MAX_STOPPING = 4
/** For a slot with that many, so many ms until the next look. */
const STOPPING_RETRY = 100
/** So many ms after a start has failed, the next one. */
const START_RETRY = 1000
/** So many deaths in a row, each within so many ms of the start, are a crash loop. */
const CRASHES = 3
const EARLY = 10_000

export class Slots implements Iterable<Slot> {
  readonly #settings: Settings
  readonly #context: AsyncContext
  readonly #workers: Workers
  readonly #reports: Reports
  readonly #owner: SlotsOwner
  readonly #slots: Slot[] = []
  readonly #deaths: Death[] = []
  #restarts = 0
  /** How many workers were replaced for a limit, by its name. */
  readonly replacements: Record<string, number> = {}

  constructor(settings: Settings, context: AsyncContext, workers: Workers, reports: Reports, owner: SlotsOwner) {
    this.#settings = settings
    this.#context = context
    this.#workers = workers
    this.#reports = reports
    this.#owner = owner
  }

  /** A copy: slots may be added and removed meanwhile. */
  [Symbol.iterator](): IterableIterator<Slot> {
    return [...this.#slots][Symbol.iterator]()
  }

  get length(): number {
    return this.#slots.length
  }

  /** How many workers were started in the place of one that ended by itself. */
  get restarts(): number {
    return this.#restarts
  }

  /** Returns those in which a worker was started: the new ones, and those that were given up. */
  grow(workers: number): Slot[] {
    while (this.#slots.length < workers) {
      const index = this.#slots.length
      this.#slots.push({ index, current: undefined, next: undefined, timer: undefined, restarts: 0, early: 0 })
    }
    const empty = this.#slots.filter(isEmpty)
    try {
      for (const slot of empty) slot.current = this.#owner.launch(slot)
    } finally {
      this.#owner.rebalance() // a new lane gets its share of new clients at once, and its worker isn't there yet
    }
    return empty
  }

  /** Returns the workers that stop for it. */
  shrink(workers: number): WorkerProcess[] {
    const removed = this.#slots.splice(workers)
    for (const { timer, current } of removed) {
      clearTimeout(timer)
      if (current !== undefined) current.replaced = true
    }
    const leaving = this.#workers.filter(worker => worker.slot >= workers)
    this.#owner.rebalance(worker => !leaving.includes(worker))
    for (const worker of leaving) void worker.stop()
    return leaving
  }

  /** Resolves when as many slots could be filled: in none of the empty ones too many workers stop. */
  async roomFor(workers: number): Promise<void> {
    const empty = Array.from({ length: workers }, (_, index) => index).filter(index => {
      const slot = this.#slots[index]
      return slot === undefined || isEmpty(slot)
    })
    await Promise.all(empty.map(index => this.#room(index)))
  }

  /** Another worker for the slot; when that is ready, the one that has been there is stopped. */
  async replace(slot: Slot, exceeded?: Exceeded): Promise<void> {
    await this.#room(slot.index)
    if (this.#slots[slot.index] !== slot) return
    const old = slot.current
    const next = this.#owner.launch(slot)
    next.replaces = exceeded?.limit
    clearTimeout(slot.timer)
    slot.timer = undefined
    slot.next = next
    try {
      await next.ready
    } catch (error) {
      slot.next = undefined
      if (slot.current === undefined) this.#vacated(slot, next) // its predecessor has died meanwhile
      throw error
    }
    slot.next = undefined
    slot.current = next
    if (old === undefined) return
    old.replaced = true
    if (exceeded !== undefined) this.replacements[exceeded.limit] = (this.replacements[exceeded.limit] ?? 0) + 1
    if (old.gives && next.inherits) {
      this.#owner.rebalance() // it accepts no more
      await old.give(end => next.inherit(end, old.slot))
    }
    void old.stop(exceeded === undefined ? {} : { reason: exceeded.reason })
  }

  /** Handles a worker that has ended, or that wants to end. If the supervisor had not asked for it, another worker is started in its place. */
  left(worker: WorkerProcess): void {
    const slot = this.#slots[worker.slot]
    if (worker.replaced || slot?.current !== worker) return
    worker.replaced = true
    this.#vacated(slot, worker)
  }

  /** Starts workers in empty slots when the policy says so. */
  refill(): void {
    for (const slot of this.#slots) this.#refill(slot)
  }

  /** No worker is started any more. */
  end(): void {
    for (const { timer } of this.#slots) clearTimeout(timer)
  }

  /** Resolves when one more worker may be started in the slot. */
  async #room(index: number): Promise<void> {
    for (;;) {
      const stopping = this.#stoppingIn(index)
      if (stopping.length < MAX_STOPPING) return
      await Promise.race(stopping.map(worker => worker.exited))
    }
  }

  /** Those of a slot whose successor is there, or that need none. */
  #stoppingIn(index: number): WorkerProcess[] {
    return this.#workers.filter(({ slot, state }) => slot === index && state !== 'starting' && state !== 'ready')
  }

  /** Handles a worker that has ended, or will end, without a request of the supervisor. */
  #vacated(slot: Slot, worker: WorkerProcess): void {
    slot.current = undefined
    slot.restarts++
    this.#restarts++
    this.#deaths.push({ booted: worker.booted, uptime: worker.uptime, at: performance.now(), slot: slot.index })
    const most = Math.max(100, 16 * this.#slots.length)
    if (this.#deaths.length > most) this.#deaths.splice(0, this.#deaths.length - most)
    slot.early = worker.uptime < EARLY ? slot.early + 1 : 0
    if (slot.early === CRASHES && this.#owner.isRunning()) {
      const reason = worker.reason ?? 'it was stopped by somebody else'
      this.#reports.warn('crashLoop', new PassfdError('CRASH_LOOP', { slot: slot.index, count: CRASHES, reason }))
    }
    this.#refill(slot)
  }

  #refill(slot: Slot): void {
    if (!isEmpty(slot) || !this.#owner.isServing()) return
    const decision = this.#decide()
    if (decision.restart) {
      slot.timer = setTimeout(() => this.#restart(slot), Math.min(decision.delay, MAX_TIMEOUT))
      return
    }
    const error = new PassfdError('WORKERS_DIE', { slot: slot.index, reason: decision.reason })
    this.#reports.warn('gaveUp', error)
    if (this.#slots.every(isEmpty)) this.#owner.onAllGivenUp(error)
  }

  /** A policy of the user's that fails has given up. */
  #decide(): Decision {
    try {
      const decision = this.#context.run(() => this.#settings.restart(this.#deaths, performance.now()))
      if (decision.restart ? decision.delay >= 0 : typeof decision.reason === 'string') return decision
      return { restart: false, reason: `options.restart has returned ${JSON.stringify(decision)}` }
    } catch (error) {
      return { restart: false, reason: `options.restart has failed: ${asError(error).message}` }
    }
  }

  #restart(slot: Slot): void {
    slot.timer = undefined
    if (!this.#owner.isServing() || slot.next !== undefined || slot.current !== undefined) return
    if (this.#stoppingIn(slot.index).length >= MAX_STOPPING) {
      slot.timer = setTimeout(() => this.#restart(slot), STOPPING_RETRY)
      return
    }
    try {
      slot.current = this.#owner.launch(slot)
    } catch (error) {
      // No descriptors, most likely: the same as a worker that did not start
      this.#reports.warn('reloadFailed', asError(error))
      slot.timer = setTimeout(() => this.#restart(slot), START_RETRY)
    }
  }
}

/** Whether the slot has neither a worker nor a replacement. */
function isEmpty({ current, next, timer }: Slot): boolean {
  return current === undefined && next === undefined && timer === undefined
}
