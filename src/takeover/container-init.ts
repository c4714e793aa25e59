/**
 * A superseded PID 1 of a container. If it ended, the kernel would kill every process there. So it stays until all later owners have ended, reaps
 * orphans, passes signals on, and ends with the status of the last owner.
 */
import { deferred } from '../base/deferred.ts'
import { peerOf } from '../descriptor/peer.ts'
import { native } from '../os/native.ts'
import { collectOrphans, endOf } from '../os/orphans.ts'
import { connectTo } from '../os/socket-name.ts'

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const
/** How often it checks which process owns the path, in ms: a successor's successor does not announce itself to this process. */
const LOOK = 1000
/** How long it tries connect(2) while the path's queue is full, in ms. */
const PATIENCE = 1000

export class ContainerInit {
  readonly #path: string
  readonly #over = deferred()
  readonly #endCollecting: () => void
  /** The later owners of the path that have not ended. */
  readonly #living = new Set<number>()
  #owner = 0
  #status = 0
  #timer: NodeJS.Timeout | undefined
  #unlisten: () => void = () => {}

  /** Returns undefined if this process is not PID 1. Call it before children are started whose status is needed. */
  static of(path: string): ContainerInit | undefined {
    return process.pid === 1 && native.isReaper() === 1 ? new ContainerInit(path) : undefined
  }

  private constructor(path: string) {
    this.#path = path
    this.#endCollecting = collectOrphans()
  }

  /** Process `pid` now serves instead of this one. */
  follow(pid: number): void {
    this.#watch(pid)
    this.#timer = setInterval(() => void this.#look(), LOOK)
  }

  /** Passes signals on to the owner from now on. Remove the process's own handlers before. */
  passSignals(): void {
    const listeners = SIGNALS.map(signal => [signal, () => void this.#pass(signal)] as const)
    for (const [signal, listener] of listeners) process.on(signal, listener)
    this.#unlisten = () => {
      for (const [signal, listener] of listeners) process.off(signal, listener)
    }
  }

  /** Resolves when all later owners have ended, to the exit status of the last one, or to 0 if the kernel does not report it. */
  async ended(): Promise<number> {
    await this.#over.promise
    return this.#status
  }

  /** This process ends without a successor. */
  close(): void {
    if (this.#owner === 0) this.#endCollecting()
  }

  #watch(pid: number): void {
    if (this.#living.has(pid)) return
    this.#living.add(pid)
    this.#owner = pid
    void endOf(pid).then(status => {
      this.#living.delete(pid)
      if (pid === this.#owner) this.#status = status
      void this.#look()
    })
  }

  async #look(): Promise<void> {
    const pid = await ownerAt(this.#path)
    if (pid !== undefined) this.#watch(pid)
    if (this.#living.size > 0) return
    clearInterval(this.#timer)
    this.#unlisten()
    this.#endCollecting()
    this.#over.resolve()
  }

  async #pass(signal: NodeJS.Signals): Promise<void> {
    const pid = (await ownerAt(this.#path)) ?? this.#owner
    try {
      process.kill(pid, signal)
    } catch {
      // It has ended
    }
  }
}

/** Resolves to the process that last called listen(2) at the path. Undefined: none listens, or this process's pid namespace does not show it. */
async function ownerAt(path: string): Promise<number | undefined> {
  try {
    const fd = await connectTo({ path }, PATIENCE, undefined, () => {})
    const { pid } = peerOf(fd)
    native.close(fd)
    return pid > 1 ? pid : undefined
  } catch {
    return undefined
  }
}
