/** Where a worker comes from, and what it asks of that: a supervisor (`SupervisedHome`), or nobody (`standaloneHome`). */
import type { Channel } from '../../channel/channel.ts'
import type { Loan } from '../control/control.ts'

export interface Home {
  readonly slot: number
  readonly id: number
  readonly supervised: boolean
  readonly channel: Channel
  readonly listeners: ReadonlyMap<string, Loan>
  readonly idleGrace: number
  readonly stopTimeout: number
  readonly killTimeout: number
  /** ms for which it goes on when it was told to stop. */
  readonly lameDuck: number
  /** To be called for each connection that it was sent, when it has closed. Undefined: nobody wants to know. */
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
  /** Nobody else serves whoever waits in the queues. */
  last: boolean
  /** The supervisor's process has ended. */
  orphan: boolean
}
