/** The origin of a worker, and its requests to that: a supervisor (`SupervisedOrigin`), or none (`standaloneOrigin`). */
import type { Channel } from '../../channel/channel.ts'
import type { ListenerGrant } from '../control/control.ts'

export interface WorkerOrigin {
  readonly slot: number
  readonly id: number
  readonly supervised: boolean
  readonly channel: Channel
  readonly listeners: ReadonlyMap<string, ListenerGrant>
  readonly idleGrace: number
  readonly stopTimeout: number
  readonly killTimeout: number
  /** How long it serves as before after it was told to stop, in ms. */
  readonly lameDuck: number
  /** To be called when a connection that it was sent has closed. Undefined: the supervisor does not ask for it. */
  readonly onClosed: (() => void) | undefined
  /** `exposed`: the program was given a copy of the listener. */
  uses(name: string, how: { adopts: boolean; exposed: boolean }): void
  ready(): Promise<void>
  /** It stops by its own wish, or by a signal. */
  stopping(signal: boolean): Promise<Standing>
  /** The last thing: nothing is served any more. */
  leave(): Promise<void>
}

/** How a worker that stops stands to the others. */
export interface Standing {
  /** No other process serves the connections that wait in the queues. */
  last: boolean
  /** The supervisor's process has ended. */
  orphan: boolean
}
