/** Reports to the service manager (systemd) what the store does, if one listens: NOTIFY_SOCKET, sd_notify(3). */
import { asError } from '../../base/errors.ts'
import { unitOf } from '../../os/unit.ts'
import type { Store } from '../../store/index.ts'
import { barrier, type Notification, notify, type Watchdog, watchdog } from '../../systemd/index.ts'
import { countOf } from '../words.ts'

/** How often it looks whether the status is another one, in ms: clients may put and take thousands of times in a second. */
const LOOK = 1000
/** How long the last notifications may take, in ms. */
const LAST = 1000

export class ServiceReports {
  readonly #store: Store
  readonly #warn: (text: string) => void
  readonly #watchdog: Watchdog | false
  readonly #timer: NodeJS.Timeout
  /** What was reported last. */
  #status = ''
  /** Another process is the service's main one. */
  #isOver = false
  #isUpgrading = false
  #failed = false

  /** The store answers clients. Undefined: no manager listens. */
  static begin(store: Store, warn: (text: string) => void): ServiceReports | undefined {
    return process.env.NOTIFY_SOCKET ? new ServiceReports(store, warn) : undefined
  }

  private constructor(store: Store, warn: (text: string) => void) {
    this.#store = store
    this.#warn = warn
    this.#watchdog = watchdog()
    this.#status = statusText(store)
    const replaces = store.predecessor !== undefined
    this.#report({ ready: true, status: this.#status, ...(replaces && { mainPid: process.pid }) })
    this.#timer = setInterval(() => this.#look(), LOOK).unref()
  }

  /** A successor is started: for the manager a reload. Returns a function to be called if it fails. */
  upgrading(): () => void {
    this.#isUpgrading = true
    this.#report({ reloading: true, status: `${statusText(this.#store)}, a successor starts` })
    return () => {
      this.#isUpgrading = false
      this.#status = statusText(this.#store)
      this.#report({ ready: true, status: this.#status })
    }
  }

  stopping(): void {
    this.#report({ stopping: true, status: `${statusText(this.#store)}, stopping` })
    clearInterval(this.#timer)
  }

  /** The process `pid` has taken this one's place: as the main process of this service, or in a service of its own. */
  supersededBy(pid: number): void {
    clearInterval(this.#timer)
    if (unitOf(pid) === unitOf(process.pid)) {
      // The manager may not hear the successor's READY=1 before that is its main process
      this.#report({ mainPid: pid, ...(this.#isUpgrading && { ready: true }) })
      if (this.#watchdog !== false) this.#watchdog.stop()
    } else this.#report({ status: `superseded by process ${pid}` })
    this.#isOver = true
  }

  /** Resolves when the manager has read the last notification, so that this process may end. */
  async end(): Promise<void> {
    clearInterval(this.#timer)
    if (this.#watchdog !== false) this.#watchdog.stop()
    await barrier({ timeout: LAST }).catch(error => this.#failure(error))
  }

  #look(): void {
    const status = statusText(this.#store)
    if (status === this.#status) return
    this.#status = status
    this.#report({ status })
  }

  #report(notification: Notification): void {
    if (this.#isOver) return
    notify(notification).then(
      () => {
        this.#failed = false
      },
      error => this.#failure(error)
    )
  }

  /** Once, until a notification has left again. */
  #failure(error: unknown): void {
    if (!this.#failed) this.#warn(`The service manager does not hear this store: ${asError(error).message}`)
    this.#failed = true
  }
}

/** '12 names, 14 descriptors'. */
export function statusText({ status: { names, descriptors } }: Store): string {
  return `${countOf(names, 'name')}, ${countOf(descriptors, 'descriptor')}`
}
