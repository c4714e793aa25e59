/** Whether a debugger holds a worker: then a pause is no hang. */
import { hasConnection, isTraced } from '../launch/procfs.ts'
import type { SpawnSettings } from '../options.ts'

/** Where Node's inspector listens if nothing else was said, and the options that make it wait for a debugger. */
const DEBUG_PORT = 9229
const WAITING = /^--inspect-(brk|wait)\b/

export class Debugger {
  readonly #spawn: SpawnSettings
  /** Ports of loopback or elsewhere where the worker's inspector may listen. */
  #ports: number[] = [DEBUG_PORT]

  constructor(spawn: SpawnSettings) {
    this.#spawn = spawn
  }

  /** Where the worker's inspector listens when it is opened. */
  listensAt(port: number): void {
    this.#ports = [port]
  }

  /** The worker's inspector is open at this URL. */
  opened(url: string): void {
    const port = Number(/:(\d+)\//.exec(url)?.[1])
    if (!this.#ports.includes(port)) this.#ports.push(port)
  }

  /** `booted`: it runs the worker's program, so that it does not wait for a debugger any more. */
  holds(pid: number, booted: boolean): boolean {
    return isTraced(pid) || (!booted && this.#isAwaited()) || hasConnection(pid, this.#ports)
  }

  /** `--inspect-brk`, `--inspect-wait`: until a debugger is there nothing runs. */
  #isAwaited(): boolean {
    const { execArgv = process.execArgv, env = process.env } = this.#spawn
    return [...execArgv, ...(env.NODE_OPTIONS ?? '').split(' ')].some(option => WAITING.test(option))
  }
}
