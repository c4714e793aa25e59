/** `Supervisor`: owns the listeners, and keeps workers running that serve them. */

import { EventEmitter } from 'node:events'
import { setTimeout as later, setImmediate } from 'node:timers/promises'
import { AsyncContext } from '../../base/async-context.ts'
import { checkType } from '../../base/check.ts'
import { mark } from '../../base/copy.ts'
import { type Deferred, deferred } from '../../base/deferred.ts'
import { asError, type Failure, PassfdError } from '../../base/errors.ts'
import { MAX_RIGHTS } from '../../base/kernel-limits.ts'
import { type KnownOptions, readOptions } from '../../base/known-options.ts'
import { throwLater } from '../../base/throw-later.ts'
import { MAX_TIMEOUT } from '../../base/timers.ts'
import { markUncloneable } from '../../base/uncloneable.ts'
import { Descriptor, own } from '../../descriptor/descriptor.ts'
import { NotifySocket } from '../../systemd/notify-socket.ts'
import type { Loan } from '../control/control.ts'
import type { WorkerInfo } from '../control/worker-info.ts'
import { canSignalOnDeath, ownDirectory } from '../launch/launch.ts'
import { collectOrphans } from '../launch/orphans.ts'
import type { Death, Decision } from '../launch/restart.ts'
import type { ListenAddress } from '../listen/bound-socket.ts'
import type { Listener, ListenerEvents } from '../listen/listener.ts'
import { openListener } from '../listen/open-listener.ts'
import { checkWorkers, type Settings, type SupervisorOptions, settingsOf } from '../options.ts'
import { type AdminServer, openAdmin } from './admin.ts'
import type { Commands, SupervisorEvents, SupervisorPhase } from './commands.ts'
import { metricsOf } from './metrics.ts'
import { obeySignals } from './signals.ts'
import { type Exit, type WorkerOwner, WorkerProcess, type WorkerSetup } from './worker-process.ts'

/** A worker's place. */
interface Slot {
  readonly index: number
  /** Who serves, or is to. */
  current: WorkerProcess | undefined
  /** Who is to replace it and isn't ready yet. */
  next: WorkerProcess | undefined
  /** A start that waits for its time. */
  timer: NodeJS.Timeout | undefined
  restarts: number
  /** Deaths in a row, each soon after the start. */
  early: number
  /** Limits that workers here exceed as soon as they are ready. True: no worker is replaced for it. */
  readonly useless: Map<Limit, boolean>
}

type Limit = 'rss' | 'age' | 'requests'
/** Events that are warnings of the process if `run()` runs it and nobody listens. */
type Warned = 'gaveUp' | 'reloadFailed' | 'crashLoop' | 'beyondLimit' | 'routeFailed'

/** After a replacement for a limit has failed, the next try is so many ms later. */
const LIMIT_RETRY = 30_000
/** Workers of one slot that stop at the same time. With as many, the next successor there waits until one has ended. */
const MAX_STOPPING = 4
/** For a slot with that many, so many ms until the next look. */
const STOPPING_RETRY = 100
/** A signal that has come to the last worker that serves may come to this process so many ms later. */
const TOGETHER = 200
/** So many deaths in a row, each within so many ms of the start, are a crash loop. */
const CRASHES = 3
const EARLY = 10_000
/** A worker below this part of a limit was not beyond it from the start. */
const WELL_BELOW = 0.9
const UNITS: Record<Limit, string> = { rss: 'bytes', age: 'ms', requests: 'requests' }

const RUN_OPTIONS = { signals: true } as const satisfies KnownOptions<{ signals?: boolean }>

/**
 * Keeps `workers` processes running that serve `listeners`. It opens the listeners and keeps them open as long as it runs, so what
 * waits in them outlives every worker.
 */
export class Supervisor extends EventEmitter<SupervisorEvents> implements Commands, AsyncDisposable {
  readonly #settings: Settings
  /** That in which this was made. Channels to workers are opened in it. */
  readonly #context = new AsyncContext('PASSFD_SUPERVISOR')
  readonly #listeners = new Map<string, Listener>()
  readonly #slots: Slot[] = []
  /** All whose process has not ended. */
  readonly #living = new Set<WorkerProcess>()
  /** Listeners of which a worker's program was given a copy. */
  readonly #exposed = new Set<string>()
  readonly #deaths: Death[] = []
  readonly #exits: Record<string, number> = {}
  readonly #since = Date.now()
  readonly #stopped: Deferred = deferred()
  readonly #lameDuckOver: Deferred = deferred()
  readonly #stopBegun: Deferred = deferred()
  #phase: SupervisorPhase = 'new'
  /** What changes the set of workers happens one after the other. */
  #queue: Promise<unknown> = Promise.resolve()
  #notify: NotifySocket | undefined
  #admin: AdminServer | undefined
  #deathSignal = false
  #endCollecting = (): void => {}
  #ids = 0
  #size = 0
  #turn = 0
  /** Calls of scale() that are not done. */
  #scalings = 0
  #restarts = 0
  #beat: NodeJS.Timeout | undefined
  #lastBeat = 0
  #limitRetry = 0
  /** Of reload(): one that was asked for and has not begun. */
  #nextReload: { done: Promise<void> } | undefined
  /** run() was called. */
  #runs = false
  #routeWarned = false
  readonly #replacements: Record<string, number> = {}
  /** Workers that stop by themselves and take nobody any more who waits. */
  readonly #letGo = new WeakSet<WorkerProcess>()
  /** Of a stop: connections for the first worker that gets ready, as nobody serves them yet. */
  #held: { name: string; connections: readonly Descriptor[] }[] = []
  #stopping: Promise<void> | undefined
  #listenersClosed: Promise<void> | undefined
  #killing = false
  #failure: Error | undefined

  /** @throws `ERR_PASSFD_INVALID_ARGUMENT`. Nothing is opened or started yet. */
  constructor(options: SupervisorOptions) {
    super()
    markUncloneable(this)
    this.#settings = settingsOf(options)
    ownDirectory() // Node remembers it, and it may be gone when a worker is started
    this.#size = this.#settings.workers
  }

  /** How many workers there are to be. */
  get size(): number {
    return this.#size
  }

  /** What it is at. */
  get phase(): SupervisorPhase {
    return this.#phase
  }

  /** A snapshot: those whose process has not ended, by slot. A slot may have two while one replaces the other. */
  get workers(): readonly WorkerInfo[] {
    return [...this.#living].map(worker => worker.info()).sort((a, b) => a.slot - b.slot || a.id - b.id)
  }

  /** Where a listener is bound: tells the port that was found for port 0. From `start()` on. */
  address(name: string): ListenAddress {
    const listener = this.#listeners.get(name)
    if (listener === undefined)
      throw new PassfdError('LISTENER_UNKNOWN', { name, names: [...this.#settings.listeners.keys()].join(', ') })
    return listener.address()
  }

  /** Where all of them are bound, by name. */
  get addresses(): Record<string, ListenAddress> {
    return Object.fromEntries([...this.#listeners].map(([name, listener]) => [name, listener.address()]))
  }

  /**
   * Opens the listeners and starts the workers. Resolves when every worker is ready. If one does not get ready, or a listener can't be
   * opened, all is stopped again and it rejects: with ERR_PASSFD_WORKER_NOT_READY, or the system's error (EADDRINUSE, …). With
   * ERR_PASSFD_SUPERVISOR_STOPPED if `stop()` was called meanwhile.
   */
  async start(): Promise<void> {
    if (this.#phase !== 'new') throw new PassfdError('SUPERVISOR_STATE', { operation: 'start()', phase: this.#phase })
    this.#phase = 'starting'
    try {
      await this.#exclusive(async () => {
        await this.#open()
        this.#grow(this.#settings.workers)
        await this.#allReady(this.#slots)
        if (this.#phase === 'starting') this.#phase = 'running'
        for (const slot of this.#slots) this.#refill(slot) // one that was ready may have died meanwhile
      })
      this.#tell('started')
      this.#warnOfUnserved()
    } catch (error) {
      await this.#stop(false)
      throw error
    }
  }

  /**
   * Replaces every worker by a new one, one after the other: each old one is stopped when its successor is ready. Resolves when all are
   * replaced and the old ones have ended. Rejects with ERR_PASSFD_WORKER_NOT_READY if a successor does not get ready: then its
   * predecessor goes on, and those after it are not touched. The next reload() or scale() does not wait for old workers that still stop; a call
   * while the one before it still waits to begin is the same reload. Of one slot at most 4 workers stop at a time: the next successor there
   * waits until one has ended.
   */
  async reload(): Promise<void> {
    this.#assertRunning('reload()')
    if (this.#nextReload === undefined) {
      const next = {
        done: this.#reload(() => {
          if (this.#nextReload === next) this.#nextReload = undefined
        })
      }
      this.#nextReload = next
    }
    await this.#nextReload.done
  }

  async #reload(onBegin: () => void): Promise<void> {
    const old = await this.#exclusive(async () => {
      onBegin()
      for (const { useless } of this.#slots) useless.clear()
      const replaced = [...this.#living]
      for (const slot of [...this.#slots]) await this.#replace(slot)
      return replaced
    })
    await Promise.all(old.map(worker => worker.exited))
  }

  /** Sets the number of workers (1 to 1,024). Resolves when new ones are ready, or those too many have ended. */
  async scale(workers: number): Promise<void> {
    checkWorkers(workers)
    this.#assertRunning('scale()')
    this.#size = workers
    this.#scalings++
    this.#nextReload = undefined // what is asked for after this happens after this
    let leaving: readonly WorkerProcess[] = []
    try {
      await this.#exclusive(async () => {
        const before = this.#slots.length
        for (const { useless } of this.#slots) useless.clear()
        try {
          if (workers < before) leaving = this.#shrink(workers)
          else {
            await this.#roomFor(workers)
            await this.#allReady(this.#grow(workers))
          }
        } catch (error) {
          leaving = this.#shrink(before)
          throw error
        }
      })
    } finally {
      if (--this.#scalings === 0) this.#size = this.#slots.length
      await Promise.all(leaving.map(worker => worker.exited))
    }
  }

  /**
   * Stops gracefully: no new connections, requests in flight are finished; after `stopTimeout` the rest gets TERM, then KILL.
   * Resolves when every process has ended and everything is closed. Never rejects. With the option `lameDuck` everything goes on as it is for
   * that time first; a further call ends it. `reload()` and `scale()` fail with ERR_PASSFD_SUPERVISOR_STATE from the first call on.
   */
  stop(): Promise<void> {
    if (this.#phase === 'lame duck') this.#lameDuckOver.resolve()
    return this.#stop(false, this.#settings.lameDuck)
  }

  /** Stops at once: every worker gets KILL. */
  kill(): Promise<void> {
    return this.#stop(true)
  }

  /**
   * Starts, if that hasn't been done, obeys signals and resolves when it was stopped: TERM and INT stop gracefully, a second one or QUIT at once
   * (the second one of a lame duck ends that time), HUP reloads, TTIN and TTOU add or remove a worker. `signals: false` leaves them alone.
   * Rejects as `start()` does, or with ERR_PASSFD_WORKERS_DIE when the restart policy has given up every slot. 'gaveUp', 'reloadFailed',
   * 'crashLoop', 'beyondLimit' and (once) 'routeFailed' are warnings of the process from then on if nobody listens to them. The only method
   * that touches the process: it listens for those signals until it returns.
   */
  async run(options: { signals?: boolean } = {}): Promise<void> {
    const { signals = true } = readOptions(options, RUN_OPTIONS)
    checkType(signals, 'signals', 'true or false', value => typeof value === 'boolean')
    this.#runs = true
    const ignore = signals ? obeySignals(this, error => this.#warn('reloadFailed', error)) : () => {}
    try {
      if (this.#phase !== 'running' && this.#phase !== 'lame duck') await this.start()
      await this.#stopped.promise
    } catch (error) {
      if ((error as PassfdError).code !== 'ERR_PASSFD_SUPERVISOR_STOPPED') throw error
    } finally {
      ignore()
    }
    if (this.#failure !== undefined) throw this.#failure
  }

  /**
   * What it knows, as OpenMetrics text (for Prometheus). Needs the package prom-client.
   * @throws `ERR_PASSFD_METRICS_MISSING` (rejects) if that is not installed.
   */
  metrics(): Promise<string> {
    // What a foreign program serves is not known
    const unknown = { connections: undefined, requests: undefined, lag: undefined }
    const foreign = this.#settings.command !== undefined ? unknown : {}
    const workers = this.workers.flatMap(worker => {
      const { pid } = worker
      return pid === undefined ? [] : { ...worker, pid, ...foreign }
    })
    return metricsOf({
      workers,
      exits: this.#exits,
      restarts: this.#restarts,
      since: this.#since,
      replacements: this.#replacements,
      lameDuck: this.#phase === 'lame duck'
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  // --- starting and stopping

  async #open(): Promise<void> {
    const { listeners, balance, command, admin, heartbeat } = this.#settings
    const events: ListenerEvents = {
      onRouteFailed: error => this.#onRouteFailed(error),
      onAcceptError: (error, name) => this.#onAcceptError(error, name),
      context: this.#context
    }
    for (const [name, spec] of listeners) this.#listeners.set(name, await openListener(name, spec, balance, events))
    if (command !== undefined) {
      this.#notify = await NotifySocket.open()
      this.#deathSignal = await canSignalOnDeath()
    }
    if (admin !== undefined) this.#admin = await openAdmin(admin, this)
    this.#endCollecting = collectOrphans()
    this.#lastBeat = performance.now()
    this.#beat = setInterval(() => this.#onBeat(), heartbeat)
  }

  #stop(now: boolean, lameDuck = 0): Promise<void> {
    if (now) this.#lameDuckOver.resolve()
    if (now && !this.#killing) {
      this.#killing = true
      for (const worker of this.#living) worker.killAll('the supervisor was stopped at once')
    }
    this.#stopping ??= this.#stopNow(now ? 0 : lameDuck)
    return this.#stopping
  }

  /** Everything goes on, workers that die are replaced, too. */
  async #beLameDuck(milliseconds: number): Promise<void> {
    this.#phase = 'lame duck'
    this.#tell('lameDuck', milliseconds)
    for (const worker of this.#living) worker.tellLameDuck()
    const timer = setTimeout(() => this.#lameDuckOver.resolve(), milliseconds)
    await this.#lameDuckOver.promise
    clearTimeout(timer)
  }

  async #stopNow(lameDuck: number): Promise<void> {
    if (this.#phase === 'running' && lameDuck > 0) await this.#beLameDuck(lameDuck)
    const began = this.#phase
    this.#phase = 'stopping'
    this.#stopBegun.resolve()
    for (const slot of this.#slots) clearTimeout(slot.timer)
    // First the listeners: whoever waits in their queues is sent to workers that have not been told to stop
    this.#listenersClosed = this.#closeListeners()
    await this.#listenersClosed
    await this.#giveHeld()
    for (const worker of this.#living) {
      if (this.#killing) worker.killAll('the supervisor was stopped at once')
      else void worker.stop({ last: true })
    }
    await Promise.all([...this.#living].map(worker => worker.exited))
    // What was queued behind fails by itself: its workers have ended
    await this.#queue
    await Promise.all([...this.#living].map(worker => worker.exited))
    await this.#closeListeners()
    // Moved in, whatever has come of them
    for (const spec of this.#settings.listeners.values()) if (spec instanceof Descriptor) spec[Symbol.dispose]()
    clearInterval(this.#beat)
    this.#endCollecting()
    await this.#notify?.close()
    await this.#admin?.close()
    this.#phase = 'stopped'
    if (began !== 'new') this.#tell('stopped')
    this.#stopped.resolve()
  }

  async #closeListeners(): Promise<void> {
    const all = [...this.#listeners]
    this.#listeners.clear()
    await Promise.all(
      all.map(
        ([name, listener]) =>
          listener
            .close({
              exclusive: !this.#killing && this.#isExclusive(name),
              served: this.#servers(name).length > 0 || this.#expected().length > 0,
              give: connections => this.#giveToAnybody(name, connections.map(own))
            })
            .catch(error => throwLater(error)) // a file that can't be removed stops nobody
      )
    )
  }

  /** Most likely a worker's program has forgotten to call `listen()`, and its clients would wait without an answer. */
  #warnOfUnserved(): void {
    for (const name of this.#listeners.keys()) {
      if ([...this.#living].some(({ uses }) => uses.has(name))) continue
      if (this.listenerCount('unserved') > 0) this.#tell('unserved', name)
      else process.emitWarning(new PassfdError('UNSERVED', { name }))
    }
  }

  #assertRunning(operation: string): void {
    if (this.#phase === 'running') return
    const phase = this.#phase === 'lame duck' ? 'about to stop (lameDuck)' : this.#phase
    throw new PassfdError('SUPERVISOR_STATE', { operation, phase })
  }

  #isServing(): boolean {
    return this.#phase === 'running' || this.#phase === 'lame duck'
  }

  #hasStopped(): boolean {
    return this.#phase === 'stopping' || this.#phase === 'stopped'
  }

  /** After what was asked for before. */
  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(() => {
      if (this.#hasStopped()) throw new PassfdError('SUPERVISOR_STOPPED')
      return work().catch(cause => {
        throw this.#hasStopped() ? new PassfdError('SUPERVISOR_STOPPED', {}, { cause }) : cause
      })
    })
    this.#queue = result.catch(() => {}) // whose failure is nothing to those behind it
    return result
  }

  // --- slots

  #grow(workers: number): Slot[] {
    while (this.#slots.length < workers) {
      const slot: Slot = {
        index: this.#slots.length,
        current: undefined,
        next: undefined,
        timer: undefined,
        restarts: 0,
        early: 0,
        useless: new Map()
      }
      this.#slots.push(slot)
    }
    const empty = this.#slots.filter(isEmpty) // those that were given up, too
    try {
      for (const slot of empty) slot.current = this.#launch(slot)
    } finally {
      this.#rebalance() // a new lane gets its share of new clients at once, and its worker isn't there yet
    }
    return empty
  }

  /** Returns those who stop for it. */
  #shrink(workers: number): WorkerProcess[] {
    const removed = this.#slots.splice(workers)
    for (const { timer, current } of removed) {
      clearTimeout(timer)
      if (current !== undefined) current.replaced = true
    }
    const leaving = [...this.#living].filter(worker => worker.slot >= workers)
    this.#rebalance(worker => !leaving.includes(worker))
    for (const worker of leaving) void worker.stop()
    return leaving
  }

  /** Those of a slot whose successor is there, or that need none. */
  #stoppingIn(index: number): WorkerProcess[] {
    return [...this.#living].filter(({ slot, state }) => slot === index && state !== 'starting' && state !== 'ready')
  }

  /** Resolves when one more worker may be started in the slot. */
  async #room(index: number): Promise<void> {
    for (;;) {
      const stopping = this.#stoppingIn(index)
      if (stopping.length < MAX_STOPPING) return
      await Promise.race(stopping.map(worker => worker.exited))
    }
  }

  async #roomFor(workers: number): Promise<void> {
    const empty = Array.from({ length: workers }, (_, index) => index).filter(index => {
      const slot = this.#slots[index]
      return slot === undefined || isEmpty(slot)
    })
    await Promise.all(empty.map(index => this.#room(index)))
  }

  #launch(slot: Slot): WorkerProcess {
    if (this.#phase !== 'starting' && !this.#isServing()) throw new PassfdError('SUPERVISOR_STOPPED')
    const { balance } = this.#settings
    const loans = new Map<string, Loan>()
    let worker: WorkerProcess
    try {
      for (const [name, listener] of this.#listeners) loans.set(name, listener.loan(slot.index))
      const setup: WorkerSetup = {
        slot: slot.index,
        id: ++this.#ids,
        settings: this.#settings,
        owner: this.#owner,
        notify: this.#notify,
        deathSignal: this.#deathSignal,
        loans,
        closesAtOnce: [...this.#listeners.values()].every(({ closesAtOnce }) => closesAtOnce),
        tellClosed: typeof balance === 'object' && balance.dispatch === 'least-connections',
        restarts: () => slot.restarts
      }
      worker = this.#context.run(() => new WorkerProcess(setup))
    } catch (error) {
      for (const loan of loans.values()) loan.listener[Symbol.dispose]()
      throw error
    }
    if (this.#settings.command !== undefined) for (const name of loans.keys()) worker.uses.set(name, { adopts: false })
    this.#living.add(worker)
    this.#tell('state', worker.info())
    return worker
  }

  async #allReady(slots: readonly Slot[]): Promise<void> {
    await Promise.all(slots.map(slot => slot.current?.ready))
  }

  /** Another worker for the slot; when that is ready, the one that has been there is stopped. */
  async #replace(slot: Slot, limit?: Exceeded): Promise<void> {
    await this.#room(slot.index)
    if (this.#slots[slot.index] !== slot) return
    const old = slot.current
    const next = this.#launch(slot)
    next.replaces = limit?.limit
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
    if (old !== undefined) {
      old.replaced = true
      if (limit !== undefined) this.#replacements[limit.limit] = (this.#replacements[limit.limit] ?? 0) + 1
      void old.stop(limit === undefined ? {} : { reason: limit.reason })
    }
  }

  /** The worker of a slot has gone, or goes, and nobody asked for it. */
  #vacated(slot: Slot, worker: WorkerProcess): void {
    slot.current = undefined
    slot.restarts++
    this.#restarts++
    this.#deaths.push({ booted: worker.booted, uptime: worker.uptime, at: performance.now(), slot: slot.index })
    const most = Math.max(100, 16 * this.#slots.length)
    if (this.#deaths.length > most) this.#deaths.splice(0, this.#deaths.length - most)
    slot.early = worker.uptime < EARLY ? slot.early + 1 : 0
    if (slot.early === CRASHES && this.#phase === 'running') {
      const reason = worker.reason ?? 'it was stopped by somebody else'
      this.#warn('crashLoop', new PassfdError('CRASH_LOOP', { slot: slot.index, count: CRASHES, reason }))
    }
    this.#refill(slot)
  }

  /** If nobody is there and nobody is to come, somebody is started when the policy says so. */
  #refill(slot: Slot): void {
    if (!isEmpty(slot) || !this.#isServing()) return
    const decision = this.#decide()
    if (decision.restart) {
      slot.timer = setTimeout(() => this.#restart(slot), Math.min(decision.delay, MAX_TIMEOUT))
      return
    }
    const error = new PassfdError('WORKERS_DIE', { slot: slot.index, reason: decision.reason })
    this.#warn('gaveUp', error)
    if (!this.#slots.every(isEmpty)) return
    this.#failure = error
    this.#lameDuckOver.resolve()
    void this.#stop(false)
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
    if (!this.#isServing() || slot.next !== undefined || slot.current !== undefined) return
    if (this.#stoppingIn(slot.index).length >= MAX_STOPPING) {
      slot.timer = setTimeout(() => this.#restart(slot), STOPPING_RETRY)
      return
    }
    try {
      slot.current = this.#launch(slot)
    } catch (error) {
      // No descriptors, most likely: the same as a worker that did not start
      this.#warn('reloadFailed', asError(error))
      slot.timer = setTimeout(() => this.#restart(slot), 1000)
    }
  }

  // --- what workers tell

  readonly #owner: WorkerOwner = {
    onState: worker => {
      this.#tell('state', worker.info())
      if (worker.state === 'starting') return
      if (worker.state !== 'exited') this.#rebalance()
      if (worker.state === 'ready') {
        if (this.#phase === 'lame duck') worker.tellLameDuck()
        this.#tell('worker', worker.info())
      }
      // By its own wish: its successor need not wait for its end
      if (worker.state === 'stopping' && !worker.told && (!worker.ended || worker.drains)) this.#left(worker)
    },
    onUses: (_worker, name, exposed) => {
      if (exposed) this.#exposed.add(name)
      this.#rebalance()
    },
    onAllTaken: () => {
      for (const listener of this.#listeners.values()) listener.workerIsFree()
    },
    onAccepted: (worker, accepted) => this.#listeners.get(accepted.name)?.accepted(worker, accepted),
    isLeaving: async worker => {
      await setImmediate() // libuv tells of signals after all else that has come with them
      // Nobody else would serve those who wait
      if (!this.#hasStopped() && ![...this.#living].some(({ state }) => state === 'ready'))
        await Promise.race([this.#stopBegun.promise, later(TOGETHER, undefined, { ref: false })])
      await this.#listenersClosed
      if (!this.#hasStopped()) this.#letGo.add(worker)
      return this.#hasStopped()
    },
    stopsToo: async () => {
      if (!this.#hasStopped()) await Promise.race([this.#stopBegun.promise, later(TOGETHER, undefined, { ref: false })])
      return this.#hasStopped()
    },
    onReturned: (worker, name, connections) => this.#giveBack(worker, name, connections),
    onExit: (worker, exit) => this.#onExit(worker, exit)
  }

  #onExit(worker: WorkerProcess, { code, signal }: Exit): void {
    this.#living.delete(worker)
    const unknown = worker.pid === undefined ? 'not started' : 'not ended'
    const how = signal ?? (code === null ? unknown : String(code))
    this.#exits[how] = (this.#exits[how] ?? 0) + 1
    this.#rebalance()
    this.#tell('exit', worker.info(), code, signal)
    this.#left(worker)
  }

  #left(worker: WorkerProcess): void {
    const slot = this.#slots[worker.slot]
    if (worker.replaced || slot?.current !== worker) return
    worker.replaced = true
    this.#vacated(slot, worker)
  }

  /** Nobody else may have them while the worker lives: it could have taken them, and not said so. */
  #giveBack(worker: WorkerProcess, name: string, connections: readonly Descriptor[]): void {
    void worker.exited.then(() => {
      const listener = this.#listeners.get(name)
      if (listener !== undefined) listener.giveBack(connections)
      else this.#giveToAnybody(name, connections)
    })
  }

  /** While it stops: workers that stop, too, still serve what they are sent. From one that has said goodbye they come back. */
  #giveToAnybody(name: string, connections: readonly Descriptor[]): void {
    const able = this.#servers(name)
    if (able.length === 0 && this.#expected().length > 0) {
      this.#held.push({ name, connections })
      return
    }
    const share = Math.min(MAX_RIGHTS, Math.ceil(connections.length / Math.max(1, able.length)))
    for (let at = 0; at < connections.length; at += share) {
      const some = connections.slice(at, at + share)
      if (able.length === 0) for (const connection of some) connection.close()
      else void able[this.#turn++ % able.length]!.send({ type: 'connections', name, connections: some })
    }
  }

  /** Workers that are about to get ready, and were not told to stop. */
  #expected(): WorkerProcess[] {
    if (this.#killing || this.#settings.command !== undefined) return []
    return [...this.#living].filter(({ state, told, ended }) => state === 'starting' && !told && !ended)
  }

  /** Once workers are ready that serve them; they have `stopTimeout` for that. */
  async #giveHeld(): Promise<void> {
    if (this.#held.length === 0) return
    const over = deferred()
    let isOver = false
    const timer = setTimeout(() => {
      isOver = true
      over.resolve()
    }, this.#settings.stopTimeout)
    while (!isOver && this.#held.some(({ name }) => this.#servers(name).length === 0)) {
      const expected = this.#expected()
      if (expected.length === 0) break
      await Promise.race([over.promise, ...expected.map(worker => worker.ready.catch(() => worker.exited))])
    }
    clearTimeout(timer)
    for (const worker of this.#expected()) void worker.stop({ last: true })
    for (const { name, connections } of this.#held.splice(0)) this.#giveToAnybody(name, connections)
  }

  /** No other program holds a copy of it, and every worker that accepts from it knows how it ends. */
  #isExclusive(name: string): boolean {
    const serving = [...this.#living].filter(({ uses }) => uses.get(name)?.adopts === true)
    return !this.#exposed.has(name) && serving.every(({ knowsEnds }) => knowsEnds)
  }

  /** Those that take connections of a listener: the ready ones, or, if there is none, those that stop. */
  #servers(name: string): WorkerProcess[] {
    const able = [...this.#living].filter(({ uses, ended }) => !ended && uses.get(name)?.adopts === true)
    const ready = able.filter(({ state }) => state === 'ready')
    if (ready.length > 0) return ready
    const stopping = able.filter(({ state }) => state === 'stopping')
    const staying = stopping.filter(worker => !this.#letGo.has(worker))
    // From the others they may come back, when nobody is left
    return staying.length > 0 || this.#expected().length > 0 ? staying : stopping
  }

  #rebalance(stays: (worker: WorkerProcess) => boolean = () => true): void {
    const ready = [...this.#living].filter(
      worker => worker.state === 'ready' && !worker.ended && !worker.replaced && stays(worker)
    )
    for (const [name, listener] of this.#listeners)
      listener.balance(
        ready.filter(({ uses }) => uses.has(name)),
        this.#slots.length
      )
  }

  // --- health

  #onBeat(): void {
    const { hangTimeout, heartbeat } = this.#settings
    const now = performance.now()
    const late = now - this.#lastBeat > 2 * heartbeat
    this.#lastBeat = now
    for (const worker of this.#living) {
      worker.measure()
      // If this process was late itself, what they have said may be unread
      if (late) worker.heard = now
      const silent = now - worker.heard > hangTimeout && hangTimeout > 0
      const doubtful = silent || worker.held // when the debugger has gone, it has all of hangTimeout again
      if (!doubtful || !worker.watched || (worker.state !== 'ready' && worker.state !== 'stopping')) continue
      worker.held = worker.debugged
      if (worker.held) worker.heard = now
      else if (silent) worker.hung()
    }
    this.#checkLimits(now)
  }

  #checkLimits(now: number): void {
    if (now < this.#limitRetry || this.#phase !== 'running') return
    // The oldest first: one whose successors are beyond it at once keeps no other waiting
    const beyond = this.#slots.flatMap(slot => {
      const exceeded = slot.current?.state === 'ready' ? this.#exceeds(slot, slot.current) : undefined
      return exceeded === undefined ? [] : { slot, worker: slot.current!, exceeded }
    })
    const [first] = beyond.sort((a, b) => a.worker.id - b.worker.id)
    if (first === undefined) return
    const { slot, worker, exceeded } = first
    this.#limitRetry = Infinity // one at a time
    this.#exclusive(() => (slot.current === worker ? this.#replace(slot, exceeded) : Promise.resolve())).then(
      () => {
        this.#limitRetry = 0
      },
      error => {
        this.#limitRetry = performance.now() + LIMIT_RETRY
        if (this.#phase === 'running') this.#warn('reloadFailed', asError(error))
      }
    )
  }

  /** The limit that a worker is to be replaced for. */
  #exceeds(slot: Slot, worker: WorkerProcess): Exceeded | undefined {
    const { limits } = this.#settings
    const part = 1 - (limits.jitter ?? 0) * worker.spread
    const values: Record<Limit, number> = { rss: worker.rss, age: worker.uptime, requests: worker.requests }
    const first = !worker.checked
    worker.checked = true
    let exceeded: Exceeded | undefined
    for (const limit of ['rss', 'age', 'requests'] as const) {
      const value = Math.round(values[limit])
      const bound = (limits[limit] ?? Infinity) * part
      if (value < bound * WELL_BELOW && slot.useless.get(limit) === true) slot.useless.set(limit, false)
      if (value < bound || (value === bound && limit !== 'requests')) continue
      const detail = `${value} of ${Math.floor(bound)} ${UNITS[limit]} (limits.${limit})`
      if (first && worker.replaces === limit) {
        const told = slot.useless.has(limit)
        slot.useless.set(limit, true)
        if (!told) this.#warn('beyondLimit', new PassfdError('BEYOND_LIMIT', { slot: slot.index, detail }))
      }
      if (slot.useless.get(limit) !== true) exceeded ??= { limit, reason: `it was beyond a limit: ${detail}` }
    }
    return exceeded
  }

  /** Tells it; if this process is ours to run, and nobody listens, as a warning. */
  #warn(name: Exclude<Warned, 'routeFailed'>, error: Error): void {
    // Who hears of each end hears of the loop
    const heard = this.#isHeard(name) || (name === 'crashLoop' && this.#isHeard('exit'))
    this.#tell(name, error)
    if (!heard) process.emitWarning(error)
  }

  #onAcceptError(error: Error, listener: string): void {
    const heard = this.#isHeard('acceptError')
    this.#tell('acceptError', error as Failure, listener)
    if (!heard) process.emitWarning(error)
  }

  /** The warning comes once: it may fail for every connection. */
  #onRouteFailed(cause: unknown): void {
    const heard = this.#isHeard('routeFailed')
    this.#tell('routeFailed', cause)
    if (heard || this.#routeWarned) return
    this.#routeWarned = true
    process.emitWarning(new PassfdError('ROUTE_FAILED', { message: asError(cause).message }, { cause }))
  }

  #isHeard(name: Warned | 'exit' | 'acceptError'): boolean {
    return !this.#runs || this.listenerCount(name) > (this.#admin?.unheard(name) ?? 0)
  }

  /** Nothing that a listener throws disturbs the supervisor. */
  #tell<Name extends keyof SupervisorEvents>(name: Name, ...values: SupervisorEvents[Name]): void {
    try {
      this.#context.emit(this, name, ...(values as unknown[]))
    } catch (error) {
      throwLater(error)
    }
  }
}
mark(Supervisor, 'Supervisor')

interface Exceeded {
  readonly limit: Limit
  /** As a sentence about the worker. */
  readonly reason: string
}

/** Nobody is there, and nobody is to come. */
function isEmpty({ current, next, timer }: Slot): boolean {
  return current === undefined && next === undefined && timer === undefined
}
