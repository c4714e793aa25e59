/** The facts about a worker, and its states. */
import type { Channel } from '../../channel/channel.ts'

/**
 *     starting ──ready()──▶ ready ──stop, reload, limit, its own wish──▶ stopping ──▶ exited
 *         │                   │                                           ▲    │        ▲
 *         │                   └──nothing heard for hangTimeout──▶ hung ◀──┼────┘        │
 *         │                                                        └──────┼─────────────┤
 *         └──────────told to stop before it was ready─────────────────────┘             │
 *     any of them ──it ends, or is killed───────────────────────────────────────────────┘
 */
export type WorkerState = 'starting' | 'ready' | 'stopping' | 'hung' | 'exited'

/** A slot that has no worker at the moment. */
export interface EmptySlot {
  readonly slot: number
  /** As of a worker. */
  readonly restarts: number
  readonly restartReason: string | undefined
  /** The time to the next start, in ms; undefined: the supervisor plans none, because it has given up the slot, or stops. */
  readonly startsIn: number | undefined
}

/** A snapshot of a worker. */
export interface WorkerInfo {
  /** Its place, from 0 on. Its replacement has the same slot. */
  readonly slot: number
  /** Its own number, counted from 1 and never used again. */
  readonly id: number
  /** The process; undefined if it could not be started. */
  readonly pid: number | undefined
  readonly state: WorkerState
  /** The time since its start, in ms. */
  readonly uptime: number
  /** How many workers have died in this slot on their own. */
  readonly restarts: number
  /** Why the last of them has ended, in words; undefined if none has died, or if it is still ending. */
  readonly restartReason: string | undefined
  /** Open connections of the servers that were given to `worker.listen()`, at its last heartbeat. */
  readonly connections: number
  /** HTTP requests that it has begun to answer (for other servers: connections), at its last heartbeat. */
  readonly requests: number
  /** The longest delay of its event loop since the heartbeat before the last one, in ms. */
  readonly lag: number
  /** Resident memory, in bytes; 0 if unknown. */
  readonly rss: number
  /** The CPU time of its process since its start, in ms. Measured at each heartbeat, like `rss`. */
  readonly cpu: number
  /** The reason why it has ended, or why it will end (a limit), in words; undefined before. */
  readonly reason: string | undefined
  /**
   * In `'exit'`: it was to stop, and has ended in time, with exit code 0, or by TERM or INT (also as exit code 143 or 130). Another code is the
   * program's report of a failure.
   */
  readonly stopped: boolean
  /** Carries the application's own messages to and from this worker. */
  readonly channel: Channel
}
