/** The commands of a supervisor, which its program, signals and the admin channel use. */
import type { EventEmitter } from 'node:events'
import type { Failure } from '../../base/errors.ts'
import type { Peer } from '../../descriptor/peer.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { Draining } from '../../takeover/messages.ts'
import type { Report } from '../../takeover/place.ts'
import type { WorkerInfo } from '../control/worker-info.ts'

export interface SupervisorEvents {
  /** A worker is ready. */
  worker: [WorkerInfo]
  /**
   * A worker's process has ended and was reaped. Both are null if it could not be started, or if the supervisor may not signal it
   * (ERR_PASSFD_NOT_ENDED, a process warning).
   */
  exit: [WorkerInfo, code: number | null, signal: NodeJS.Signals | null]
  /**
   * A worker has written a line (`spawn.stdio` is `'lines'`): the bytes without the newline. All lines of a worker come before its 'exit'. Lines
   * of a process that it has left behind may come later. A line of more than 16 MiB comes in parts of 16 MiB.
   */
  line: [worker: WorkerInfo, stream: 'stdout' | 'stderr', line: Buffer]
  /** A worker's state has changed. Its first state is 'starting'. */
  state: [WorkerInfo]
  /** The restart policy has given up a slot, which stays empty until `reload()` or `scale()`. ERR_PASSFD_WORKERS_DIE. */
  gaveUp: [Failure]
  /** A replacement (for a limit, or by a signal) has not become ready. The old worker goes on. */
  reloadFailed: [Failure]
  /** Three workers of one slot in a row have ended on their own, soon after their start. ERR_PASSFD_CRASH_LOOP. */
  crashLoop: [Failure]
  /**
   * The supervisor replaced a worker for a limit, and the successor exceeds that limit as soon as it is ready. The supervisor does not replace
   * it for that limit again until `reload()` or `scale()`. Emitted once for a slot and a limit. ERR_PASSFD_BEYOND_LIMIT.
   */
  beyondLimit: [Failure]
  /** `route` has thrown, and the next worker in turn got the connection. */
  routeFailed: [unknown]
  /**
   * A process can't accept for a `dispatch` listener: EMFILE or ENFILE (the limit of open files), ENOMEM, ENOBUFS. The process is a worker, or
   * the supervisor where that accepts itself. Clients wait in the listener's queue, or go to other workers. The process tries again after 50 ms.
   * Emitted once for each process until it has accepted a connection.
   */
  acceptError: [error: Failure, listener: string]
  /** Every worker is ready: `start()` is about to resolve. */
  started: []
  /** The supervisor was told to stop, and its workers serve as before for this many ms: the option `lameDuck`. */
  lameDuck: [milliseconds: number]
  /** All workers are ready, and none of them serves this listener. Without a listener for this event the supervisor emits a process warning. */
  unserved: [name: string]
  /**
   * No worker of a `program` listens at this address any more, after a reload: the supervisor has closed the listener. Without a listener for this
   * event the supervisor emits a process warning.
   */
  listenerClosed: [name: string, address: ListenAddress]
  /** A successor serves (the option `takeover`). The workers accept no more connections, finish their requests, and end; then the supervisor stops. */
  superseded: [successor: Peer]
  /** The superseded processes that still have connections, each with its pid and its last reported number of connections. */
  draining: [processes: readonly Draining[]]
  /** A report of a takeover. Without a listener it is a process warning. */
  takeoverReport: [report: Report]
  /** The supervisor has stopped. */
  stopped: []
}

/** `'lame duck'`: the supervisor was told to stop, and its workers still serve as before. */
export type SupervisorPhase = 'new' | 'starting' | 'running' | 'lame duck' | 'stopping' | 'stopped'

export interface Commands extends EventEmitter<SupervisorEvents> {
  readonly size: number
  readonly phase: SupervisorPhase
  readonly workers: readonly WorkerInfo[]
  readonly addresses: Record<string, ListenAddress>
  readonly draining: readonly Draining[]
  reload(): Promise<void>
  scale(workers: number): Promise<void>
  stop(): Promise<void>
  kill(): Promise<void>
  metrics(): Promise<string>
}
