/** The supervisor's listeners. It opens each once, keeps it open as long as it runs, and lends copies to workers. */
import type { AsyncContext } from '../../base/async-context.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Accepted } from '../control/control.ts'
import type { Recipient } from './recipient.ts'

/** How a listener ends. */
export interface Ending {
  /** No other program holds a copy, by the workers' reports. */
  readonly exclusive: boolean
  /** Some workers still accept. False: programs with copies get the waiting connections. */
  readonly served: boolean
  /** Gives accepted connections, as held numbers, to workers. */
  give(connections: readonly number[]): void
}

/** One listener under a policy. The three policies are three classes with these methods. */
export interface Listener {
  readonly name: string
  /** Closing copies of connections that were sent to workers never blocks. */
  readonly closesAtOnce: boolean
  /** Returns the grant for a worker that starts in `slot`. */
  grant(slot: number): ListenerGrant
  /** `servers`: the ready workers that serve it. `slots`: the wanted number of workers. */
  balance(servers: readonly Recipient[], slots: number): void
  /** Called when a worker has taken all connections that it was sent. */
  workerIsFree(): void
  /** Called when a worker reports that it has accepted, or has found the queue empty. */
  accepted(worker: Recipient, accepted: Accepted): void
  /** Gets connections back that a worker had not taken before it ended. The listener owns them. */
  giveBack(connections: readonly Descriptor[]): void
  /** Returns the address. */
  address(): ListenAddress
  /** Returns the sockets, by lane. The listener still owns them. */
  sockets(): readonly Descriptor[]
  /** Called when this supervisor alone serves. Before that, it lends no lane and sends no connection. */
  begin(): void
  /** Notes whether a candidate has copies of all sockets. Meanwhile it opens no socket, because no process would take over its queue. */
  offered(is: boolean): void
  /**
   * Closes the supervisor's copies, because another process goes on with the sockets. `give` gets accepted connections that no worker has.
   */
  release(give: (connections: readonly number[]) => void): void
  /**
   * Closes the supervisor's copies. If this process bound the socket, and no other program holds it, workers get all connections that wait in the
   * queue, and from then on the kernel refuses clients. Otherwise the copies of other processes go on accepting.
   */
  close(ending: Ending): Promise<void>
}

export interface ListenerEvents {
  onRouteFailed(error: unknown): void
  /** Called when accept(2) fails: once, until a connection was accepted. */
  onAcceptError(error: Error, name: string): void
  /** The async context of route functions. */
  readonly context: AsyncContext
}
