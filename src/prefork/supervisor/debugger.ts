/** Detects a debugger that is attached to a worker: a paused worker does not hang. */
import { hasConnection, isTraced } from '../launch/procfs.ts'
import type { SpawnSettings } from '../options.ts'

/** The default port of Node's inspector, and the options that make Node wait for a debugger. */
const DEBUG_PORT = 9229
const WAITING = /^--inspect-(brk|wait)\b/

export class Debugger {
  readonly #spawn: SpawnSettings
  /** Ports of loopback or elsewhere where the worker's inspector may listen: when it is opened, and where it said that it is open. */
  #ports: readonly number[] = [DEBUG_PORT]

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
    const [first = DEBUG_PORT] = this.#ports
    this.#ports = first === port ? [first] : [first, port] // a hostile worker may report another one at each heartbeat
  }

  /** `booted`: the worker's program runs, so Node does not wait for a debugger any more. */
  holds(pid: number, booted: boolean): boolean {
    return isTraced(pid) || (!booted && this.#isAwaited()) || hasConnection(pid, this.#ports)
  }

  /** `--inspect-brk` or `--inspect-wait`: Node runs nothing before a debugger is attached. */
  #isAwaited(): boolean {
    const { execArgv = process.execArgv, env = process.env } = this.#spawn
    return [...execArgv, ...(env.NODE_OPTIONS ?? '').split(' ')].some(option => WAITING.test(option))
  }
}
