/** What is told of a worker, and the states that it goes through. */
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

/** A worker as it was when this was asked for. */
export interface WorkerInfo {
  /** Its place, from 0 on: kept by its replacement. */
  readonly slot: number
  /** Its own: counts up from 1, never used again. */
  readonly id: number
  /** Undefined if it could not be started. */
  readonly pid: number | undefined
  readonly state: WorkerState
  /** Since its start, in ms. */
  readonly uptime: number
  /** How many workers have died in this slot unasked. */
  readonly restarts: number
  /** Open connections of the servers that it gave to `worker.listen()`, as of its last heartbeat. */
  readonly connections: number
  /** HTTP requests it has begun to answer (connections of servers that don't speak HTTP), as of its last heartbeat. */
  readonly requests: number
  /** The longest that its event loop was late since the heartbeat before the last one, in ms. */
  readonly lag: number
  /** Resident memory, in bytes; 0 if it is not known. */
  readonly rss: number
  /** Why it has ended, or why it is to end (beyond a limit), in words; undefined before. */
  readonly reason: string | undefined
  /** For the application's own messages to and from this worker. */
  readonly channel: Channel
}
