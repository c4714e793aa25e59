/** What the supervisor listens on: opened once, kept open for its whole life, and lent. */
import type { AsyncContext } from '../../base/async-context.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Accepted } from '../control/control.ts'
import type { Recipient } from './recipient.ts'

/** How a listener ends. */
export interface Ending {
  /** No other program holds a copy, as far as workers have reported. */
  readonly exclusive: boolean
  /** Some workers still accept. False: the waiting connections are left to programs that hold copies. */
  readonly served: boolean
  /** Gives held numbers of accepted connections to workers. */
  give(connections: readonly number[]): void
}

/** One listener under a policy. The three policies are three classes with these methods. */
export interface Listener {
  readonly name: string
  /** To close what workers have been sent of it never waits. */
  readonly closesAtOnce: boolean
  /** What a worker that starts in `slot` gets. */
  grant(slot: number): ListenerGrant
  /** `servers`: the workers that are ready and serve it. `slots`: how many workers there are to be. */
  balance(servers: readonly Recipient[], slots: number): void
  /** A worker has taken all connections that it was sent. */
  workerIsFree(): void
  /** A worker has accepted as many connections as it was told to. */
  accepted(worker: Recipient, accepted: Accepted): void
  /** Connections come back from a worker that has ended without having taken them. They are the listener's now. */
  giveBack(connections: readonly Descriptor[]): void
  /** Where it is bound. */
  address(): ListenAddress
  /** The sockets, by lane: the listener's own. */
  sockets(): readonly Descriptor[]
  /** The supervisor serves: no other one has these sockets any more, or none ever had. Until then no worker is lent or given anything of them. */
  begin(): void
  /** A candidate has, or has no more, copies of all sockets. Meanwhile no further one is opened: nobody would go on with its queue. */
  offered(is: boolean): void
  /**
   * Closes every copy of the supervisor's own, because another process goes on with the sockets. `give` gets the connections that were accepted and
   * that no worker has.
   */
  release(give: (connections: readonly number[]) => void): void
  /**
   * Closes every copy of the supervisor's own. If it was bound here, nobody else holds it, and workers serve it, whoever the kernel has
   * accepted goes to them, and from then on it refuses clients, although workers have copies. Otherwise those live on as they are.
   */
  close(ending: Ending): Promise<void>
}

export interface ListenerEvents {
  onRouteFailed(error: unknown): void
  /** accept(2) fails. Emitted once until a connection was accepted. */
  onAcceptError(error: Error, name: string): void
  /** In which a route function runs. */
  readonly context: AsyncContext
}
