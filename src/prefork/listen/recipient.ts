/** What a listener has to know of a worker to give it connections. */
import type { FromSupervisor } from '../control/control.ts'
import type { WorkerInfo } from '../control/worker-info.ts'

export interface Recipient {
  readonly slot: number
  /** Of the listeners: those that it serves, and whether it can be lent more of them. */
  readonly uses: ReadonlyMap<string, { adopts: boolean }>
  /** Connections that it was given and has not closed, if it reports that. */
  sent: number
  /** Connections on their way to it that it has not taken. */
  readonly unconfirmed: number
  /** It supports being told to accept. */
  readonly knowsAccept: boolean
  /** Its own process has ended. */
  readonly ended: boolean
  info(): WorkerInfo
  /** It is to accept so many connections of a dispatched listener. */
  accept(name: string, count: number): void
  /** The Descriptors in it are moved in any case. Resolves when it has room for more. */
  send(message: FromSupervisor): Promise<void>
}
