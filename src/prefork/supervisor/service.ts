/** Tells the service manager (systemd) what the supervisor does, if one listens: NOTIFY_SOCKET, sd_notify(3). */
import { setImmediate } from 'node:timers'
import { asError } from '../../base/errors.ts'
import { unitOf } from '../../os/unit.ts'
import type { Notification } from '../../systemd/notification.ts'
import { barrier, notify } from '../../systemd/notify.ts'
import { type Watchdog, watchdog } from '../../systemd/watchdog.ts'
import type { Commands } from './commands.ts'

/** While it starts, reloads or stops, it asks so often for so much more time, in ms. */
const AGAIN = 10_000
const EXTENSION = 30_000
/** How long the last notifications may take, in ms. */
const LAST = 1000

export class ServiceReports {
  readonly #supervisor: Commands
  readonly #watchdog: Watchdog | false
  readonly #onState = (): void => this.#change()
  #extending: NodeJS.Timeout | undefined
  #reloads = 0
  /** What was said last. */
  #status = ''
  #isPlanned = false
  #hasStarted = false
  /** Another process serves. The manager is told nothing more: a stop would have its time limit, while requests may take longer. */
  #superseded = false
  #ended = false
  #failed = false

  /** Undefined: no manager listens. */
  static begin(supervisor: Commands): ServiceReports | undefined {
    return process.env.NOTIFY_SOCKET ? new ServiceReports(supervisor) : undefined
  }

  private constructor(supervisor: Commands) {
    this.#supervisor = supervisor
    this.#watchdog = watchdog()
    for (const event of ['state', 'exit', 'lameDuck'] as const) supervisor.on(event, this.#onState)
    this.#extend()
    this.#change()
  }

  /** All workers are ready. `replaces`: another supervisor, which was the service's main process. */
  started(replaces: boolean): void {
    this.#hasStarted = true
    clearInterval(this.#extending)
    this.#status = this.#text()
    this.#say({ ready: true, status: this.#status, ...(replaces && { mainPid: process.pid }) })
  }

  /**
   * A reload, or the start of a successor, begins. Returns a function to be called when it is done, or has failed. A superseded supervisor need not call
   * it. With Type=notify-reload the manager waits for a RELOADING=1 that is later than its signal, so each one is reported.
   */
  reloading(): () => void {
    this.#reloads++
    this.#status = this.#text()
    this.#say({ reloading: true, status: this.#status })
    this.#extend()
    return () => {
      if (--this.#reloads > 0 || this.#ended || this.#phase !== 'running') return
      clearInterval(this.#extending)
      this.#status = this.#text()
      this.#say({ ready: true, status: this.#status })
    }
  }

  /**
   * The workers are about to stop. Before the start is done that is no stop of the service: this may be the successor of a main process that serves on, and
   * STOPPING=1 would end that.
   */
  stopping(): void {
    if (this.#hasStarted) {
      this.#status = this.#text()
      this.#say({ stopping: true, status: this.#status })
    }
    this.#extend()
  }

  /** The process `pid` has taken this one's place: as the main process of this service, or in a service of its own. */
  supersededBy(pid: number): void {
    clearInterval(this.#extending)
    if (unitOf(pid) === unitOf(process.pid)) {
      // The manager may not hear the successor's READY=1 before that is its main process
      this.#say({ mainPid: pid, ...(this.#reloads > 0 && { ready: true }) })
      if (this.#watchdog !== false) this.#watchdog.stop()
    } else this.#say({ status: `superseded by process ${pid}, finishes its requests` })
    this.#superseded = true
  }

  /**
   * Whether superseded processes of this service finish their requests, which the status says. With KillMode=mixed the manager kills what is left of the
   * service when the main process ends.
   */
  drains(superseded: readonly number[]): boolean {
    if (this.#superseded) return false
    const unit = unitOf('self')
    const pids = unit === undefined ? [] : superseded.filter(pid => unitOf(pid) === unit)
    if (pids.length === 0) return false
    // From here on the unit's own limit counts: they have limits, too, which began earlier
    clearInterval(this.#extending)
    const status = `stopping, waits until the requests of process ${pids.join(', ')} are answered`
    if (status !== this.#status) this.#say({ status })
    this.#status = status
    return true
  }

  /** Resolves when the manager has heard the last notification, so that this process may end. */
  async end(): Promise<void> {
    this.#ended = true
    clearInterval(this.#extending)
    for (const event of ['state', 'exit', 'lameDuck'] as const) this.#supervisor.off(event, this.#onState)
    if (this.#watchdog !== false) this.#watchdog.stop()
    await barrier({ timeout: LAST }).catch(error => this.#warn(error))
  }

  get #phase(): Commands['phase'] {
    return this.#supervisor.phase
  }

  #text(): string {
    const { size, workers } = this.#supervisor
    const slots = new Set(workers.filter(({ state }) => state === 'ready').map(({ slot }) => slot))
    const ready = `${slots.size} of ${size} workers ready`
    if (this.#phase === 'running') return this.#reloads > 0 ? `${ready}, reloading` : ready
    return `${ready}, ${this.#phase === 'new' ? 'starting' : this.#phase}`
  }

  /** Says the status, if it is another one, once for all changes of a turn. */
  #change(): void {
    if (this.#isPlanned) return
    this.#isPlanned = true
    setImmediate(() => {
      this.#isPlanned = false
      const status = this.#text()
      if (this.#ended || status === this.#status) return
      this.#status = status
      this.#say({ status })
      if (this.#phase === 'lame duck') this.#extend()
    })
  }

  #extend(): void {
    clearInterval(this.#extending)
    const ask = (): void => this.#say({ extendTimeout: EXTENSION })
    ask()
    this.#extending = setInterval(ask, AGAIN).unref()
  }

  #say(notification: Notification): void {
    if (this.#superseded) return
    notify(notification).then(
      () => {
        this.#failed = false
      },
      error => this.#warn(error)
    )
  }

  /** Once, until a notification has left again. */
  #warn(error: unknown): void {
    if (!this.#failed)
      process.emitWarning(`The service manager hears nothing from this supervisor: ${asError(error).message}`)
    this.#failed = true
  }
}
