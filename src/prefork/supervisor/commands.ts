/** What a supervisor can be asked for, by its program, by signals and over the admin channel. */
import type { EventEmitter } from 'node:events'
import type { Failure } from '../../base/errors.ts'
import type { WorkerInfo } from '../control/worker-info.ts'
import type { ListenAddress } from '../listen/bound-socket.ts'

export interface SupervisorEvents {
  /** A worker is ready. */
  worker: [WorkerInfo]
  /**
   * A worker's process has ended and was collected. Both are null if it could not be started, or if the kernel did not let the supervisor end it
   * (ERR_PASSFD_NOT_ENDED, a warning of the process).
   */
  exit: [WorkerInfo, code: number | null, signal: NodeJS.Signals | null]
  /** A worker's state has changed; its first one is 'starting'. */
  state: [WorkerInfo]
  /** The restart policy has given up a slot, which stays empty until `reload()` or `scale()`. ERR_PASSFD_WORKERS_DIE. */
  gaveUp: [Failure]
  /** A replacement (for a limit, or by a signal) has not got ready; the worker that it was for goes on. */
  reloadFailed: [Failure]
  /** Three workers in a row have ended soon after their start in one slot, unasked. ERR_PASSFD_CRASH_LOOP. */
  crashLoop: [Failure]
  /**
   * The successor of a worker that was replaced for a limit is beyond that limit as soon as it is ready. It is not replaced for it again, until
   * `reload()` or `scale()`. Told once for a slot and a limit. ERR_PASSFD_BEYOND_LIMIT.
   */
  beyondLimit: [Failure]
  /** `route` has thrown; the connection went to whoever's turn it was. */
  routeFailed: [unknown]
  /**
   * A worker that was told to accept (`dispatch`), or the supervisor where that accepts itself, can't: EMFILE or ENFILE (the limit of open files), ENOMEM,
   * ENOBUFS. Clients wait in the listener's queue, or go to other workers. It tries again after 50 ms. Emitted once for each process until that
   * has accepted a connection.
   */
  acceptError: [error: Failure, listener: string]
  /** Every worker is ready: `start()` is about to resolve. */
  started: []
  /** It was told to stop, and everything accepts for so many ms more: the option `lameDuck`. */
  lameDuck: [milliseconds: number]
  /** All workers are ready, and none of them serves this listener. Without a listener for this event it is a warning of the process. */
  unserved: [name: string]
  /** It has stopped. */
  stopped: []
}

/** `'lame duck'`: it was told to stop, and everything still accepts. */
export type SupervisorPhase = 'new' | 'starting' | 'running' | 'lame duck' | 'stopping' | 'stopped'

export interface Commands extends EventEmitter<SupervisorEvents> {
  readonly size: number
  readonly phase: SupervisorPhase
  readonly workers: readonly WorkerInfo[]
  readonly addresses: Record<string, ListenAddress>
  reload(): Promise<void>
  scale(workers: number): Promise<void>
  stop(): Promise<void>
  kill(): Promise<void>
  metrics(): Promise<string>
}
