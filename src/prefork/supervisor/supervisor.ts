/** `Supervisor`: owns the listeners, and keeps workers running that serve them. */

import { EventEmitter } from 'node:events'
import { setTimeout as later, setImmediate } from 'node:timers/promises'
import { AsyncContext } from '../../base/async-context.ts'
import { checkType } from '../../base/check.ts'
import { type Deferred, deferred } from '../../base/deferred.ts'
import { PassfdError } from '../../base/errors.ts'
import { type KnownOptions, readOptions } from '../../base/known-options.ts'
import { mark } from '../../base/package-copy.ts'
import { markUncloneable } from '../../base/uncloneable.ts'
import { closeOffLoop, type Descriptor } from '../../descriptor/descriptor.ts'
import type { Peer } from '../../descriptor/peer.ts'
import { collectOrphans } from '../../os/orphans.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import { NotifySocket } from '../../systemd/notify-socket.ts'
import type { ContainerInit } from '../../takeover/container-init.ts'
import type { Draining } from '../../takeover/messages.ts'
import type { WorkerInfo } from '../control/worker-info.ts'
import { canSignalOnDeath, ownDirectory } from '../launch/launch.ts'
import { Upgrades } from '../launch/upgrade.ts'
import { checkWorkers, type Settings, type SupervisorOptions, settingsOf } from '../options.ts'
import { type AdminServer, type AdminSubject, openAdmin } from './admin.ts'
import type { Commands, SupervisorEvents, SupervisorPhase } from './commands.ts'
import { Desk } from './desk.ts'
import type { Exit } from './exit-cause.ts'
import { Grants } from './grants.ts'
import { Health } from './health.ts'
import { LastLines } from './last-lines.ts'
import { closeGrants, Listeners, type Predecessor } from './listeners.ts'
import { metricsOf } from './metrics.ts'
import { OutputLines } from './output-lines.ts'
import { Reports } from './reports.ts'
import { ReturnedConnections } from './returned.ts'
import { ServiceReports } from './service.ts'
import { obeySignals } from './signals.ts'
import { type Slot, Slots } from './slots.ts'
import { checkStart } from './start-worker.ts'
import { Takeover } from './takeover.ts'
import { type WorkerOwner, WorkerProcess, type WorkerSetup } from './worker-process.ts'
import { Workers } from './workers.ts'

/** How many ms later than the last serving worker this process may get the same signal. */
const TOGETHER = 200
/** How often it looks whether superseded supervisors have ended, in ms. */
const LOOK = 1000
/** How long a worker that was killed may take to end, in ms. */
const AFTER_KILL = 1000
const RUN_OPTIONS = { signals: true, upgrade: true } as const satisfies KnownOptions<RunOptions>

/** How `run()` runs. */
export interface RunOptions {
  /** Lets signals command the supervisor. Default true. */
  signals?: boolean
  /**
   * Lets USR2 start the command line of this process again, as its successor, which needs the option `takeover`. Deploys of a service of systemd use it.
   * Default false.
   */
  upgrade?: boolean
}

/**
 * Keeps `workers` processes running that serve `listeners`. It opens the listeners and keeps them open as long as it runs. So connections that
 * wait in them outlive every worker.
 */
export class Supervisor extends EventEmitter<SupervisorEvents> implements Commands, AsyncDisposable {
  readonly #settings: Settings
  /** The async context of the constructor call. Channels to workers are opened in it. */
  readonly #context = new AsyncContext('PASSFD_SUPERVISOR')
  readonly #reports = new Reports(this, this.#context, name => this.#admin?.unheard(name) ?? 0)
  readonly #workers: Workers
  readonly #listeners: Listeners
  /** Of a `program`. */
  readonly #grants: Grants
  readonly #returned: ReturnedConnections
  readonly #slots: Slots
  readonly #health: Health
  readonly #outputLines = new OutputLines()
  /** Undefined: nobody can ask for them. */
  readonly #lastLines: LastLines | undefined
  readonly #exits: Record<string, number> = {}
  readonly #since = Date.now()
  readonly #stopped: Deferred = deferred()
  readonly #lameDuckOver: Deferred = deferred()
  readonly #stopBegun: Deferred = deferred()
  readonly #killed: Deferred = deferred()
  /** The next change of `draining`. */
  #drains: Deferred = deferred()
  #phase: SupervisorPhase = 'new'
  /** Settles when all changes of the set of workers are done: they run one after the other. */
  #queue: Promise<unknown> = Promise.resolve()
  readonly #takeover: Takeover | undefined
  #notify: NotifySocket | undefined
  #desk: Desk | undefined
  #admin: AdminServer | undefined
  #deathSignal = false
  #endCollecting = (): void => {}
  #ids = 0
  #size = 0
  /** The number of scale() calls under way. */
  #scalings = 0
  /** The result of a reload() that has not begun. */
  #nextReload: { done: Promise<void> } | undefined
  #stopping: Promise<void> | undefined
  #listenersClosed: Promise<void> | undefined
  #killing = false
  /** Makes PID 1 pass signals on once it is superseded. */
  #passSignals: (init: ContainerInit) => void = () => {}
  #failure: Error | undefined
  /** Undefined: no service manager listens, or `run()` was not called. */
  #service: ServiceReports | undefined
  /** Undefined: USR2 is the program's. */
  #upgrades: Upgrades | undefined

  /** Checks the options. It opens and starts nothing yet. @throws `ERR_PASSFD_INVALID_ARGUMENT` */
  constructor(options: SupervisorOptions) {
    super()
    markUncloneable(this)
    this.#settings = settingsOf(options)
    ownDirectory() // makes Node cache the path, because the directory may be removed before a worker starts
    const settings = this.#settings
    this.#size = settings.workers
    if (settings.admin !== undefined && settings.spawn.stdio === 'lines') this.#lastLines = new LastLines()
    this.#workers = new Workers(settings.command === undefined)
    this.#listeners = new Listeners(settings, this.#workers)
    this.#grants = new Grants(this.#workers, this.#listeners, () => this.#mayCloseLeft())
    this.#returned = new ReturnedConnections(
      this.#workers,
      name => this.#listeners.get(name),
      (name, connections, slot) => this.#giveAway(name, connections, slot)
    )
    if (settings.takeover !== undefined)
      this.#takeover = new Takeover(settings.takeover, this.#listeners, this.#workers, {
        admin: () => this.#admin,
        onOwner: () => this.#rebalance(),
        supersede: (successor, alone) => this.#supersede(successor, alone),
        take: (name, connections, slot) => {
          if (slot === undefined) this.#returned.giveToAnybody(name, connections)
          else void this.#returned.pass({ slot }, name, connections)
        },
        inherit: (slot, end) => this.#inherit(slot, end),
        onDraining: processes => {
          this.#drains.resolve()
          this.#reports.emit('draining', processes)
        },
        report: report => this.#reports.takeover(report)
      })
    this.#slots = new Slots(settings, this.#context, this.#workers, this.#reports, {
      launch: slot => this.#launch(slot),
      rebalance: stays => this.#rebalance(stays),
      isServing: () => this.#isServing(),
      isRunning: () => this.#phase === 'running',
      onAllGivenUp: error => this.#giveUp(error)
    })
    this.#health = new Health(settings, this.#workers, this.#slots, this.#reports, {
      isRunning: () => this.#phase === 'running',
      exclusive: work => this.#exclusive(work)
    })
  }

  /** The wanted number of workers. */
  get size(): number {
    return this.#size
  }

  /** The superseded supervisors before this one that still have connections, with their last reported numbers. */
  get draining(): readonly Draining[] {
    return this.#takeover?.draining ?? []
  }

  /** Its phase. */
  get phase(): SupervisorPhase {
    return this.#phase
  }

  /** Returns a snapshot of the workers whose process has not ended, by slot. A slot may have two while one replaces the other. */
  get workers(): readonly WorkerInfo[] {
    return [...this.#workers].map(worker => worker.info()).sort((a, b) => a.slot - b.slot || a.id - b.id)
  }

  /** Returns the address of a listener, with the port that the kernel chose for port 0. Works from `start()` on. */
  address(name: string): ListenAddress {
    return this.#listeners.address(name)
  }

  /** Returns the addresses of all listeners, by name. */
  get addresses(): Record<string, ListenAddress> {
    return this.#listeners.addresses
  }

  /**
   * Opens the listeners and starts the workers.
   *
   * Resolves when every worker is ready. If a worker does not become ready, or a listener can't be opened, it stops all workers and rejects:
   * with ERR_PASSFD_WORKER_NOT_READY, or the system's error (EADDRINUSE, …).
   *
   * It rejects with ERR_PASSFD_SUPERVISOR_STOPPED if `stop()` was called meanwhile.
   */
  async start(): Promise<void> {
    if (this.#phase !== 'new') throw new PassfdError('SUPERVISOR_STATE', { operation: 'start()', phase: this.#phase })
    this.#phase = 'starting'
    try {
      await this.#exclusive(async () => {
        const { listeners, program, admin } = this.#settings
        const names = program === undefined ? [...listeners.keys()] : undefined
        await this.#open(await this.#takeover?.take(names, admin?.path))
        this.#slots.grow(this.#settings.workers)
        await allReady(this.#slots)
        await this.#commit()
        if (this.#phase === 'starting') this.#phase = 'running'
        this.#slots.refill() // a ready worker may have died meanwhile
      })
      this.#service?.started(this.#takeover?.hasPredecessor === true)
      this.#reports.emit('started')
      this.#warnOfUnserved()
    } catch (error) {
      await this.#stop(false)
      throw error
    }
  }

  /**
   * Replaces every worker by a new one, one after the other: it stops an old worker when its successor is ready.
   *
   * Resolves when all are replaced and the old workers have ended.
   *
   * Rejects with ERR_PASSFD_WORKER_NOT_READY if a successor does not become ready. Then its predecessor goes on, and later workers are not
   * replaced.
   *
   * The next reload() or scale() does not wait for old workers that still stop. A call while an earlier reload() still waits to begin joins that
   * reload. Of one slot at most 4 workers stop at a time: the next successor waits until one of them has ended.
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
      const reloaded = this.#service?.reloading()
      this.#health.retryLimits()
      const replaced = [...this.#workers]
      try {
        for (const slot of this.#slots) await this.#slots.replace(slot)
      } finally {
        reloaded?.()
      }
      return replaced
    })
    await Promise.all(old.map(worker => worker.exited))
    if (this.#settings.program === undefined || this.#phase !== 'running') return
    // The new code does not listen there
    const isUsed = (name: string): boolean =>
      this.#grants.isUsed(name) || this.#workers.some(({ state }) => state === 'starting')
    for (const [name, address] of await this.#listeners.closeUnused(isUsed)) this.#reports.listenerClosed(name, address)
  }

  /** Sets the number of workers (1 to 1,024). Resolves when new workers are ready, or surplus workers have ended. */
  async scale(workers: number): Promise<void> {
    checkWorkers(workers)
    this.#assertRunning('scale()')
    this.#size = workers
    this.#scalings++
    this.#nextReload = undefined // a later reload() runs after this scale()
    let leaving: readonly WorkerProcess[] = []
    try {
      await this.#exclusive(async () => {
        const before = this.#slots.length
        this.#health.retryLimits()
        try {
          if (workers < before) leaving = this.#slots.shrink(workers)
          else {
            await this.#slots.roomFor(workers)
            await allReady(this.#slots.grow(workers))
          }
        } catch (error) {
          leaving = this.#slots.shrink(before)
          throw error
        }
      })
    } finally {
      if (--this.#scalings === 0) this.#size = this.#slots.length
      await Promise.all(leaving.map(worker => worker.exited))
    }
  }

  /**
   * Stops gracefully: the workers accept no more connections and finish their requests.
   *
   * After `stopTimeout` the supervisor sends TERM, then KILL. Resolves when every process has ended and everything is closed. Never rejects.
   * With the option `lameDuck` the workers first serve as before for that time; a further call ends it. From the first call on `reload()` and
   * `scale()` fail with ERR_PASSFD_SUPERVISOR_STATE.
   */
  stop(): Promise<void> {
    this.#upgrades?.stop()
    if (this.#phase === 'lame duck') this.#lameDuckOver.resolve()
    return this.#stop(false, this.#settings.lameDuck)
  }

  /** Stops at once: sends KILL to every worker. */
  kill(): Promise<void> {
    this.#upgrades?.stop()
    return this.#stop(true)
  }

  /**
   * Starts (unless `start()` was called before), handles signals, and resolves when it was stopped.
   *
   * TERM and INT stop gracefully; a second one, or QUIT, stops at once (the second one of a lame duck ends that time). HUP reloads, TTIN and
   * TTOU add or remove a worker. `signals: false` leaves signals to the program. Only this method listens for signals of the process, until it
   * returns.
   *
   * From the call on 'gaveUp', 'reloadFailed', 'crashLoop', 'beyondLimit' and (once) 'routeFailed' are process warnings if they have no listener. If
   * NOTIFY_SOCKET is set, it notifies the service manager of readiness, reloads, the stop and a status, and pings the manager's watchdog
   * (passfd/systemd).
   *
   * Rejects as `start()` does, or with ERR_PASSFD_WORKERS_DIE when the restart policy has given up every slot.
   */
  async run(options: RunOptions = {}): Promise<void> {
    const { signals = true, upgrade = false } = readOptions(options, RUN_OPTIONS)
    checkType(signals, 'signals', 'true or false', value => typeof value === 'boolean')
    checkType(upgrade, 'upgrade', 'true or false', value => typeof value === 'boolean')
    const takeover = this.#takeover
    if (upgrade && takeover === undefined)
      throw new PassfdError('INVALID_ARGUMENT', {
        what: 'options.upgrade',
        expected: 'false without the option takeover, by which a successor finds this supervisor',
        actual: 'true'
      })
    this.#reports.warnOfTrouble()
    this.#service ??= ServiceReports.begin(this)
    if (this.#phase === 'running') this.#service?.started(takeover?.hasPredecessor === true)
    const ignore = signals ? obeySignals(this, error => this.#reports.warn('reloadFailed', error)) : () => {}
    const upgrades = upgrade
      ? new Upgrades({
          sockets: () => this.#listeners.activated(),
          isSuperseded: () => takeover!.superseded,
          whenStarted: start => {
            if (this.#phase !== 'new' && this.#phase !== 'starting') start()
            else if (!this.listeners('started').includes(start)) this.once('started', start)
          },
          onBegin: () => this.#service?.reloading() ?? (() => {}),
          onFailure: (message, pid) =>
            this.#reports.takeover({ code: 'upgrade', message, ...(pid === undefined ? {} : { pid }) })
        })
      : undefined
    this.#upgrades = upgrades
    if (this.#stopping !== undefined) upgrades?.stop()
    this.#passSignals = init => {
      ignore()
      if (signals) init.passSignals()
    }
    try {
      if (this.#phase !== 'running' && this.#phase !== 'lame duck') await this.start()
      await this.#stopped.promise
    } catch (error) {
      if ((error as PassfdError).code !== 'ERR_PASSFD_SUPERVISOR_STOPPED') throw error
    } finally {
      ignore()
      upgrades?.end()
      await this.#service?.end()
    }
    if (this.#failure !== undefined) throw this.#failure
    if (this.#takeover?.superseded !== true) return
    const { init } = this.#takeover
    process.exitCode ??= init === undefined ? this.#settings.takeover!.supersededStatus : await init.ended()
  }

  /**
   * Slows the event 'line' down, for a listener that can't write the lines away as fast as they come.
   *
   * From now on the supervisor reads 64 KiB a second of each worker's stdout and stderr. Then the pipe is full, and a worker that writes more
   * waits. No line is lost. Does nothing if it is paused already.
   */
  pauseLines(): void {
    this.#outputLines.pause()
  }

  /** Reads the workers' output as fast as it comes. */
  resumeLines(): void {
    this.#outputLines.resume()
  }

  /**
   * Returns metrics as OpenMetrics text (for Prometheus). Needs the package prom-client.
   * @throws `ERR_PASSFD_METRICS_MISSING` (rejects) if that is not installed.
   */
  metrics(): Promise<string> {
    // passfd does not know what a program in another language serves
    const unknown = { connections: undefined, requests: undefined, lag: undefined }
    const foreign = this.#settings.command !== undefined ? unknown : {}
    const workers = this.workers.flatMap(worker => {
      const { pid } = worker
      return pid === undefined ? [] : { ...worker, pid, ...foreign }
    })
    return metricsOf({
      workers,
      empty: this.#slots.empty,
      exits: this.#exits,
      restarts: this.#slots.restarts,
      since: this.#since,
      replacements: this.#slots.replacements,
      lameDuck: this.#phase === 'lame duck'
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  // --- starting and stopping

  get #subject(): AdminSubject {
    return {
      since: this.#since,
      foreign: this.#settings.command !== undefined,
      lastLines: this.#lastLines,
      emptySlots: () => this.#slots.empty
    }
  }

  async #open(predecessor: Predecessor | undefined): Promise<void> {
    const { command, program, waitReady, spawn, admin, takeover } = this.#settings
    const events = {
      onRouteFailed: (error: unknown) => this.#reports.routeFailed(error),
      onAcceptError: (error: Error, name: string) => this.#reports.acceptError(error, name),
      context: this.#context
    }
    // Each worker would report it
    checkStart(this.#settings)
    for (const report of await this.#listeners.open(events, predecessor)) this.#reports.takeover(report)
    // What a program listens on is known later, and what it leaves is closed at the commit
    if (program === undefined) this.#takeover?.check()
    else this.#desk = await Desk.open(spawn.uid, (ask, peer) => this.#grants.answer(ask, peer))
    if (command !== undefined || waitReady) this.#notify = await NotifySocket.open()
    if (command !== undefined) this.#deathSignal = await canSignalOnDeath()
    // With a predecessor's socket, the predecessor answers until the commit
    if (admin !== undefined && this.#takeover?.adminSocket === undefined)
      this.#admin = await openAdmin(admin, this, this.#subject, takeover !== undefined)
    this.#endCollecting = collectOrphans()
    this.#health.begin()
  }

  /** Called when every worker is ready. Without a takeover the workers already accept. */
  async #commit(): Promise<void> {
    const takeover = this.#takeover
    if (takeover === undefined) {
      this.#listeners.begin()
      return
    }
    await takeover.commit(async () => {
      const { admin } = this.#settings
      const { adminSocket } = takeover
      if (admin !== undefined && adminSocket !== undefined)
        this.#admin = await openAdmin(admin, this, this.#subject, true, adminSocket.dup())
      const all = [...this.#workers]
      await Promise.all(all.map(worker => worker.go()))
      const [{ slot = 0, pid = 'none', reason = 'it has ended' } = {}] = all
      if (takeover.waits && !all.some(({ state }) => state === 'ready'))
        throw new PassfdError('WORKER_NOT_READY', {
          slot,
          pid,
          detail: reason,
          more: ' Its standard error may tell more.'
        })
    })
  }

  /** Called when a successor serves. */
  #supersede(successor: Peer, alone: readonly string[]): void {
    this.#listeners.release(alone, (name, connections) => this.#returned.giveToAnybody(name, connections))
    this.#admin?.leavePath()
    this.#service?.supersededBy(successor.pid)
    const { init } = this.#takeover!
    if (init !== undefined) this.#passSignals(init)
    this.#lameDuckOver.resolve()
    void this.#stop(false)
    this.#reports.emit('superseded', successor)
  }

  /** Connects the predecessor's worker in `slot`, which gives its state, with a worker of this supervisor. */
  #inherit(slot: number, end: Descriptor): void {
    const worker = [...this.#slots][slot % Math.max(1, this.#slots.length)]?.current
    if (worker?.inherits === true && worker.state === 'ready') worker.inherit(end, slot)
    else end.close()
  }

  /** Handles connections that no worker takes. */
  async #giveAway(name: string, connections: readonly Descriptor[], slot: number | undefined): Promise<void> {
    if (this.#takeover === undefined) closeOffLoop(connections)
    else await this.#takeover.give(name, connections, slot)
  }

  #stop(now: boolean, lameDuck = 0): Promise<void> {
    if (now) this.#lameDuckOver.resolve()
    if (now && !this.#killing) {
      this.#killing = true
      this.#killed.resolve()
      this.#workers.expectNone()
      for (const worker of this.#workers) worker.killAll('the supervisor was stopped at once')
    }
    this.#stopping ??= this.#stopNow(now ? 0 : lameDuck)
    return this.#stopping
  }

  /** Serves as before for that time; dead workers are still replaced. */
  async #beLameDuck(milliseconds: number): Promise<void> {
    this.#phase = 'lame duck'
    this.#reports.emit('lameDuck', milliseconds)
    for (const worker of this.#workers) worker.tellLameDuck()
    const timer = setTimeout(() => this.#lameDuckOver.resolve(), milliseconds)
    await this.#lameDuckOver.promise
    clearTimeout(timer)
  }

  async #stopNow(lameDuck: number): Promise<void> {
    if (this.#phase === 'running' && lameDuck > 0) await this.#beLameDuck(lameDuck)
    // A successor may be taking over: wait for the outcome first
    const outcome = this.#takeover?.stop()
    const gaveUp =
      outcome !== undefined && !this.#killing && (await Promise.race([outcome, this.#killed.promise])) === true
    const superseded = this.#takeover?.superseded === true
    const began = this.#phase
    this.#phase = 'stopping'
    this.#service?.stopping()
    this.#stopBegun.resolve()
    this.#slots.end()
    // The listeners first, so that workers which do not stop yet get the connections in the queues
    this.#listenersClosed = this.#closeListeners()
    await this.#listenersClosed
    await this.#returned.giveHeld(this.#settings.stopTimeout)
    const end = (worker: WorkerProcess): void => {
      if (this.#killing) worker.killAll('the supervisor was stopped at once')
      else void this.#stopWorker(worker, !gaveUp && !superseded)
    }
    const keeper = this.#returned.keeper()
    for (const worker of this.#workers) if (worker !== keeper) end(worker)
    if (keeper !== undefined) {
      const { stopTimeout, killTimeout } = this.#settings
      await this.#returned.settled(stopTimeout + killTimeout + AFTER_KILL, this.#killed.promise)
      end(keeper)
    }
    await this.#workers.allExited()
    // Queued changes fail on their own, because their workers have ended
    await this.#queue
    await this.#workers.allExited()
    await this.#closeListeners()
    await this.#listeners.removeFiles()
    this.#listeners.closeGiven()
    this.#outputLines.close()
    this.#health.end()
    this.#endCollecting()
    await this.#notify?.close()
    await this.#desk?.close()
    await this.#takeover?.removePath()
    await this.#admin?.close()
    await this.#drained()
    await this.#takeover?.leave()
    this.#phase = 'stopped'
    if (began !== 'new') this.#reports.emit('stopped')
    this.#stopped.resolve()
  }

  /** Waits for superseded supervisors that the service manager would kill when this process ends. */
  async #drained(): Promise<void> {
    if (this.#service === undefined || this.#takeover === undefined) return
    const look = setInterval(() => this.#drains.resolve(), LOOK) // also keeps the process running
    while (!this.#killing && this.#service.drains(this.#takeover.remaining)) {
      this.#drains = deferred()
      await Promise.race([this.#drains.promise, this.#killed.promise])
    }
    clearInterval(look)
  }

  /** `last`: the workers serve the connections that wait in the queues. */
  async #stopWorker(worker: WorkerProcess, last: boolean): Promise<void> {
    if (this.#takeover?.superseded === true) await this.#takeover.giveState(worker)
    await worker.stop({ last })
  }

  #closeListeners(): Promise<void> {
    return this.#listeners.close(!this.#killing, (name, connections) => this.#returned.giveToAnybody(name, connections))
  }

  #giveUp(error: Error): void {
    this.#failure = error
    this.#lameDuckOver.resolve()
    void this.#stop(false)
  }

  #warnOfUnserved(): void {
    for (const name of this.#settings.listeners.keys())
      if (!this.#workers.some(({ uses }) => uses.has(name))) this.#reports.unserved(name)
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

  /** Runs `work` after all earlier changes. */
  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(() => {
      if (this.#hasStopped()) throw new PassfdError('SUPERVISOR_STOPPED')
      return work().catch(cause => {
        throw this.#hasStopped() ? new PassfdError('SUPERVISOR_STOPPED', {}, { cause }) : cause
      })
    })
    this.#queue = result.catch(() => {}) // a failure does not affect later changes
    return result
  }

  // --- workers

  /** Whether listeners that programs have left may be closed: no worker is missing that may need them, and no other supervisor holds them. */
  #mayCloseLeft(): boolean {
    if (this.#hasStopped() || this.#takeover?.waits === true || this.#takeover?.shared === true) return false
    return [...this.#slots].every(({ timer }) => timer === undefined)
  }

  #launch(slot: Slot): WorkerProcess {
    if (this.#phase !== 'starting' && !this.#isServing()) throw new PassfdError('SUPERVISOR_STOPPED')
    const { balance, command, program } = this.#settings
    const grants = program === undefined ? this.#listeners.grants(slot.index) : new Map<string, ListenerGrant>()
    let worker: WorkerProcess
    try {
      const setup: WorkerSetup = {
        slot: slot.index,
        id: ++this.#ids,
        settings: this.#settings,
        owner: this.#owner,
        notify: this.#notify,
        desk: this.#desk?.name,
        paths: program === undefined ? [] : this.#listeners.paths,
        deathSignal: this.#deathSignal,
        grants,
        closesAtOnce: this.#listeners.closeAtOnce,
        tellClosed: typeof balance === 'object' && balance.dispatch === 'least-connections',
        outputLines: this.#outputLines,
        held: () => this.#takeover?.held === true,
        shared: () => this.#takeover?.shared === true,
        restarts: () => slot.restarts,
        restartReason: () => slot.died?.reason
      }
      worker = this.#context.run(() => new WorkerProcess(setup))
    } catch (error) {
      closeGrants(grants)
      throw error
    }
    if (command !== undefined) for (const name of grants.keys()) worker.uses.set(name, { adopts: false })
    this.#workers.add(worker)
    this.#reports.emit('state', worker.info())
    return worker
  }

  #rebalance(stays: (worker: WorkerProcess) => boolean = () => true): void {
    if (this.#takeover?.waits === true) return
    this.#listeners.balance(this.#workers.ready().filter(stays), this.#slots.length)
  }

  readonly #owner: WorkerOwner = {
    onState: worker => {
      this.#reports.emit('state', worker.info())
      if (worker.state === 'starting') return
      if (worker.state !== 'exited') this.#rebalance()
      if (worker.state === 'ready') {
        if (this.#phase === 'lame duck') worker.tellLameDuck()
        this.#reports.emit('worker', worker.info())
        this.#grants.closeLeft()
      }
      // It stops on its own, so its replacement starts without waiting for its end
      if (worker.state === 'stopping' && !worker.told && (!worker.ended || worker.drains)) this.#slots.left(worker)
    },
    onUses: (_worker, name, exposed) => {
      if (exposed) this.#workers.expose(name)
      this.#rebalance()
    },
    onUnreachable: () => this.#rebalance(),
    onLeaves: (worker, name) => {
      this.#rebalance()
      this.#grants.left(name, worker)
    },
    onAllTaken: () => {
      this.#listeners.workerIsFree()
      this.#returned.look()
    },
    onAccepted: (worker, accepted) => this.#listeners.get(accepted.name)?.accepted(worker, accepted),
    isLeaving: async worker => {
      await setImmediate() // libuv reports signals after all other events of the same turn
      // No other process would serve the waiting connections
      if (!this.#hasStopped() && !this.#workers.some(({ state }) => state === 'ready'))
        await Promise.race([this.#stopBegun.promise, later(TOGETHER, undefined, { ref: false })])
      await this.#listenersClosed
      if (!this.#hasStopped()) this.#workers.letGo(worker)
      return this.#hasStopped()
    },
    stopsToo: async () => {
      if (!this.#hasStopped()) await Promise.race([this.#stopBegun.promise, later(TOGETHER, undefined, { ref: false })])
      return this.#hasStopped()
    },
    onLines: (worker, stream, lines) => {
      const isHeard = this.listenerCount('line') > 0
      if (!isHeard && this.#lastLines === undefined) return
      const info = worker.info()
      for (const line of lines) {
        this.#lastLines?.add(info, stream, line)
        if (isHeard) this.#reports.emit('line', info, stream, line)
      }
    },
    onIdle: (worker, name, connections) => this.#returned.pass(worker, name, connections),
    onReturned: (worker, name, connections, idle) => this.#returned.from(worker, name, connections, idle),
    onExit: (worker, exit) => this.#onExit(worker, exit)
  }

  #onExit(worker: WorkerProcess, { code, signal }: Exit): void {
    this.#workers.delete(worker)
    const unknown = worker.pid === undefined ? 'not started' : 'not ended'
    const how = signal ?? (code === null ? unknown : String(code))
    this.#exits[how] = (this.#exits[how] ?? 0) + 1
    this.#rebalance()
    this.#reports.emit('exit', worker.info(), code, signal)
    this.#slots.left(worker)
  }
}
mark(Supervisor, 'Supervisor')

async function allReady(slots: Iterable<Slot>): Promise<void> {
  await Promise.all([...slots].map(slot => slot.current?.ready))
}
