/** The places of workers: the worker in each, its replacement, and the start of another one after a death. */
import type { AsyncContext } from '../../base/async-context.ts'
import { asError, PassfdError } from '../../base/errors.ts'
import { MAX_TIMEOUT } from '../../base/timers.ts'
import type { EmptySlot } from '../control/worker-info.ts'
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
  /** The timer of the next start. */
  timer: NodeJS.Timeout | undefined
  /** When that timer fires, by performance.now(). */
  due: number
  restarts: number
  /** The last worker that died. */
  died: WorkerProcess | undefined
  /** Deaths in a row, each soon after the start. */
  early: number
}

/** What the slots need of their supervisor. */
export interface SlotsOwner {
  /** Starts a worker. Throws ERR_PASSFD_SUPERVISOR_STOPPED, or the error of the start. */
  launch(slot: Slot): WorkerProcess
  /** Called when other workers get new connections, or when slots have changed. `stays` returns false for workers that will be stopped. */
  rebalance(stays?: (worker: WorkerProcess) => boolean): void
  /** Dead workers are replaced now. */
  isServing(): boolean
  /** The supervisor was not told to stop. */
  isRunning(): boolean
  /** The restart policy has given up every slot. */
  onAllGivenUp(error: Error): void
}

/** The limit for which a worker is replaced. */
export interface Exceeded {
  readonly limit: string
  /** A sentence about the worker. */
  readonly reason: string
}

/** The most workers of one slot that stop at the same time. At this number the next successor waits until one of them has ended. */
const MAX_STOPPING = 4
/** The interval, in ms, of checks of a slot with that many. */
const STOPPING_RETRY = 100
/** The time in ms from a failed start to the next one. */
const START_RETRY = 1000
/** A crash loop: CRASHES deaths in a row, each within EARLY ms of the start. */
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

  /** Iterates over a copy, because slots may be added and removed meanwhile. */
  [Symbol.iterator](): IterableIterator<Slot> {
    return [...this.#slots][Symbol.iterator]()
  }

  get length(): number {
    return this.#slots.length
  }

  /** How many workers ended on their own and were to be replaced. */
  get restarts(): number {
    return this.#restarts
  }

  /** Describes the slots that have no worker now. */
  get empty(): EmptySlot[] {
    return this.#slots
      .filter(({ current, next }) => current === undefined && next === undefined)
      .map(({ index, restarts, died, timer, due }) => ({
        slot: index,
        restarts,
        restartReason: died?.reason,
        startsIn: timer === undefined ? undefined : Math.max(0, due - performance.now())
      }))
  }

  /** Adds slots, and starts a worker in each empty one, also in slots that were given up. Returns these slots. */
  grow(workers: number): Slot[] {
    while (this.#slots.length < workers) {
      const [index, none] = [this.#slots.length, undefined]
      this.#slots.push({ index, current: none, next: none, timer: none, due: 0, restarts: 0, died: none, early: 0 })
    }
    const empty = this.#slots.filter(isEmpty)
    try {
      for (const slot of empty) slot.current = this.#owner.launch(slot)
    } finally {
      this.#owner.rebalance() // lends new lanes, which get clients at once, until their workers are ready
    }
    return empty
  }

  /** Removes slots. Returns the workers that it stops. */
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

  /** Resolves when each empty slot has few enough stopping workers for a new one. */
  async roomFor(workers: number): Promise<void> {
    const empty = Array.from({ length: workers }, (_, index) => index).filter(index => {
      const slot = this.#slots[index]
      return slot === undefined || isEmpty(slot)
    })
    await Promise.all(empty.map(index => this.#room(index)))
  }

  /** Starts another worker for the slot, and stops the old one when the new one is ready. */
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
      if (slot.current === undefined) this.#vacated(slot, next) // the old worker has died meanwhile
      throw error
    }
    slot.next = undefined
    slot.current = next
    if (old === undefined) return
    old.replaced = true
    if (exceeded !== undefined) this.replacements[exceeded.limit] = (this.replacements[exceeded.limit] ?? 0) + 1
    if (old.gives && next.inherits) {
      this.#owner.rebalance() // the old worker gets no more connections
      await old.give(end => next.inherit(end, old.slot))
    }
    // The stop of the supervisor ends it, after the listeners: it may be the last one that serves those who wait there
    if (this.#owner.isServing()) void old.stop(exceeded === undefined ? {} : { reason: exceeded.reason })
  }

  /** Handles a worker that has ended, or that will end. If the supervisor did not stop it, another worker is started in its place. */
  left(worker: WorkerProcess): void {
    const slot = this.#slots[worker.slot]
    if (worker.replaced || slot?.current !== worker) return
    worker.replaced = true
    this.#vacated(slot, worker)
  }

  /** Starts workers in empty slots, at the time that the policy chooses. */
  refill(): void {
    for (const slot of this.#slots) this.#refill(slot)
  }

  /** Cancels all planned starts. */
  end(): void {
    for (const { timer } of this.#slots) clearTimeout(timer)
  }

  /** Resolves when a further worker may be started in the slot. */
  async #room(index: number): Promise<void> {
    for (;;) {
      const stopping = this.#stoppingIn(index)
      if (stopping.length < MAX_STOPPING) return
      await Promise.race(stopping.map(worker => worker.exited))
    }
  }

  /** The workers of a slot that are ending: they are neither starting nor ready. */
  #stoppingIn(index: number): WorkerProcess[] {
    return this.#workers.filter(({ slot, state }) => slot === index && state !== 'starting' && state !== 'ready')
  }

  /** Handles a worker that has ended, or will end, without a request of the supervisor. */
  #vacated(slot: Slot, worker: WorkerProcess): void {
    slot.current = undefined
    slot.restarts++
    slot.died = worker
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
      this.#plan(slot, Math.min(decision.delay, MAX_TIMEOUT))
      return
    }
    const error = new PassfdError('WORKERS_DIE', { slot: slot.index, reason: decision.reason })
    this.#reports.warn('gaveUp', error)
    if (this.#slots.every(isEmpty)) this.#owner.onAllGivenUp(error)
  }

  #plan(slot: Slot, delay: number): void {
    slot.due = performance.now() + delay
    slot.timer = setTimeout(() => this.#restart(slot), delay)
  }

  /** Asks the restart policy. If the user's function throws or returns nonsense, the slot is given up. */
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
      this.#plan(slot, STOPPING_RETRY)
      return
    }
    try {
      slot.current = this.#owner.launch(slot)
    } catch (error) {
      // Most likely no descriptor is free. Try again, as for a worker that did not start
      this.#reports.warn('reloadFailed', asError(error))
      this.#plan(slot, START_RETRY)
    }
  }
}

/** Whether the slot has neither a worker nor a replacement. */
function isEmpty({ current, next, timer }: Slot): boolean {
  return current === undefined && next === undefined && timer === undefined
}
