/** USR2: the command line of this process again, as its successor. */
import { constants } from 'node:os'
import { asError } from '../../base/errors.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { Watcher } from '../../os/loop.ts'
import { native } from '../../os/native.ts'
import { launchAgain } from './launch.ts'

export interface Upgraded {
  /** Returns the sockets that the service manager has given. */
  sockets(): readonly { readonly name: string; readonly fd: number }[]
  isSuperseded(): boolean
  /** Calls it when a successor would find this process at the takeover path: at once, or later, and then once for the same function. Default: at once. */
  whenStarted?(start: () => void): void
  /** A successor is about to be started. Returns a function to be called if it fails. */
  onBegin(): () => void
  /** The successor could not be started, or has ended before it served. A sentence. */
  onFailure(message: string, pid: number | undefined): void
}

/** USR2, from now on: each signal starts a successor, unless one is starting. */
export class Upgrades {
  readonly #program: Upgraded
  readonly #onStarted = (): void => void this.#start()
  readonly #onSignal = (): void => {
    if (this.#program.whenStarted === undefined) void this.#start()
    else this.#program.whenStarted(this.#onStarted)
  }
  /** A successor starts. */
  #isStarting = false
  #stopped = false
  #ended = false
  #process: Process | undefined
  #failed = (): void => {}

  constructor(program: Upgraded) {
    this.#program = program
    process.on('SIGUSR2', this.#onSignal)
  }

  /** The process was told to stop: no successor is started any more. One that is starting gets TERM, because nobody would stop it otherwise. */
  stop(): void {
    this.#stopped = true
    if (!this.#program.isSuperseded()) this.#process?.terminate()
  }

  /** Ignores the signal from now on. A successor that is starting goes on. */
  end(): void {
    process.off('SIGUSR2', this.#onSignal)
    this.#ended = true
    this.#forget()
  }

  async #start(): Promise<void> {
    if (this.#isStarting || this.#stopped || this.#ended || this.#program.isSuperseded()) return
    this.#isStarting = true
    this.#failed = this.#program.onBegin()
    let pid: number | undefined
    try {
      pid = await launchAgain(this.#program.sockets())
      this.#process = new Process(pid, () =>
        this.#over(`The successor, process ${pid}, has ended before it served`, pid)
      )
      if (this.#stopped) this.stop()
      if (this.#ended) this.#forget()
    } catch (error) {
      this.#over(`The successor could not be started, or has ended at once: ${asError(error).message}`, pid)
    }
  }

  #over(what: string, pid: number | undefined): void {
    this.#forget()
    this.#isStarting = false
    if (this.#stopped || this.#program.isSuperseded()) return
    this.#failed()
    this.#program.onFailure(`${what}. This process goes on.`, pid)
  }

  #forget(): void {
    this.#process?.forget()
    this.#process = undefined
  }
}

/** A process that is no child of this one. */
class Process {
  readonly #pidfd: Descriptor
  readonly #watcher: Watcher

  /** Throws ESRCH if it has ended. */
  constructor(pid: number, onEnd: () => void) {
    this.#pidfd = Descriptor.pidfd(pid)
    this.#watcher = new Watcher(this.#pidfd.borrow(), onEnd)
    this.#watcher.unref()
  }

  terminate(): void {
    native.signal(this.#pidfd.borrow(), constants.signals.SIGTERM)
  }

  forget(): void {
    this.#watcher.end()
    this.#pidfd.close()
  }
}
