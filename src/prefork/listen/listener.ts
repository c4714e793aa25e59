/** What the supervisor listens on: opened once, kept open for its whole life, and lent. */
import type { AsyncContext } from '../../base/async-context.ts'
import { LISTENERS } from '../../descriptor/convert.ts'
import { type BindSpec, Descriptor } from '../../descriptor/descriptor.ts'
import { PortGroup } from '../../os/port-group.ts'
import type { Accepted, Loan } from '../control/control.ts'
import type { Balance } from '../options.ts'
import type { WorkerProcess } from '../supervisor/worker-process.ts'
import { bind, closeBound, type ListenAddress } from './bound-socket.ts'
import { DispatchedListener } from './dispatched-listener.ts'
import { PerWorkerListener } from './per-worker-listener.ts'
import { SharedListener } from './shared-listener.ts'

/** How a listener ends. */
export interface Ending {
  /** No other program holds a copy, as far as workers have told. */
  readonly exclusive: boolean
  /** Some workers still take connections. False: who waits is left to those that hold copies, programs of any kind. */
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
  loan(slot: number): Loan
  /** `servers`: the workers that are ready and serve it. `slots`: how many workers there are to be. */
  balance(servers: readonly WorkerProcess[], slots: number): void
  /** A worker has taken all connections that it was sent or told to accept. */
  workerIsFree(): void
  /** A worker has done what it was told to accept. */
  accepted(worker: WorkerProcess, accepted: Accepted): void
  /** Connections come back from a worker that has ended without having taken them. They are the listener's now. */
  giveBack(connections: readonly Descriptor[]): void
  /** Where it is bound. */
  address(): ListenAddress
  /**
   * Closes every copy of the supervisor's own. If it was bound here, nobody else holds it, and workers serve it, whoever the kernel has
   * accepted goes to them, and from then on it refuses clients, although workers have copies. Otherwise those live on as they are.
   */
  close(ending: Ending): Promise<void>
}

export interface ListenerEvents {
  onRouteFailed(error: unknown): void
  /** accept(2) fails: told once until somebody was accepted. */
  onAcceptError(error: Error, name: string): void
  /** In which a route function runs. */
  readonly context: AsyncContext
}

/** Rejects with the system's error (EADDRINUSE, EACCES, …) or ERR_PASSFD_DESCRIPTOR_KIND. Nothing is left open then. */
export async function openListener(
  name: string,
  spec: BindSpec,
  balance: Balance,
  events: ListenerEvents
): Promise<Listener> {
  if (balance === 'per-worker' && !(spec instanceof Descriptor) && 'port' in spec && !('type' in spec))
    return new PerWorkerListener(name, await PortGroup.open(spec), spec.backlog)
  const bound = await bind(name, spec)
  // Datagrams are not accepted: every worker reads them from the one socket
  if (typeof balance === 'string' || !LISTENERS.includes(bound.descriptor.kind)) return new SharedListener(bound)
  try {
    return new DispatchedListener(bound, balance, events)
  } catch (error) {
    await closeBound(bound)
    throw error
  }
}
