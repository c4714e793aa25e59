/** The origin of a worker, and its requests to that: a supervisor (`SupervisedOrigin`), or none (`standaloneOrigin`). */
import type { Channel } from '../../channel/channel.ts'
import type { EndLimits } from '../../serving/graceful-end.ts'

export interface WorkerOrigin extends EndLimits {
  readonly slot: number
  readonly id: number
  readonly supervised: boolean
  readonly channel: Channel
  /** The program has called `handOver()`, `onInherit()`. */
  handsOver(how: { gives: boolean; inherits: boolean }): void
  ready(): Promise<void>
  /** It stops on its own, or by a signal. */
  stopping(signal: boolean): Promise<Standing>
  /** Called at the very end, when nothing is served any more. */
  leave(): Promise<void>
  /** Ends the process. */
  exit(code: number | string): void
}

/** The situation of a stopping worker among the other processes. */
export interface Standing {
  /** No other process serves the connections that wait in the queues. */
  last: boolean
  /** The supervisor's process has ended. */
  orphan: boolean
}
