/** What a listener needs to know of a worker to which it gives connections. */
import type { FromSupervisor } from '../control/control.ts'
import type { WorkerInfo } from '../control/worker-info.ts'

export interface Recipient {
  readonly slot: number
  /** The listeners that it serves, by name, and whether it can borrow further lanes of them. */
  readonly uses: ReadonlyMap<string, { adopts: boolean }>
  /** The number of its open connections, if it reports that. */
  sent: number
  /** The number of connections that were sent to it and that it has not taken. */
  readonly unconfirmed: number
  /** It understands the message that tells it to accept. */
  readonly knowsAccept: boolean
  /** How many permits of the listener it has not used, if it counts them in shared memory: any number >= 0. Its messages may come later. */
  unusedPermits(name: string): number | undefined
  /** It sends its next message for the listener as soon as it has used a permit, if it counts them in shared memory. */
  wantMessage(name: string): void
  /** Its own process has ended. */
  readonly ended: boolean
  /** Its control channel has ended, so it gets no message any more. */
  readonly unreachable: boolean
  info(): WorkerInfo
  /** Tells it to accept so many connections of a dispatched listener. */
  accept(name: string, count: number): void
  /** Moves the Descriptors in the message, even if sending fails. Resolves when the worker has room for more. */
  send(message: FromSupervisor): Promise<void>
}
