/** What the supervisor listens on: opened once, kept open for its whole life, and lent. */
import type { AsyncContext } from '../async-context.ts'
import { LISTENERS } from '../convert.ts'
import { type BindSpec, Descriptor } from '../descriptor.ts'
import { PortGroup } from '../port-group.ts'
import { bind, closeBound, type ListenAddress } from './bound.ts'
import type { Loan } from './control.ts'
import { DispatchedListener } from './dispatched-listener.ts'
import type { Balance } from './options.ts'
import { PerWorkerListener } from './per-worker-listener.ts'
import { SharedListener } from './shared-listener.ts'
import type { WorkerProcess } from './worker-process.ts'

/** One listener under a policy. The three policies are three classes with these methods. */
export interface Listener {
  readonly name: string
  /** To close what workers have been sent of it never waits. */
  readonly closesAtOnce: boolean
  /** What a worker that starts in `slot` gets. */
  loan(slot: number): Loan
  /** `servers`: the workers that are ready and serve it. `slots`: how many workers there are to be. */
  balance(servers: readonly WorkerProcess[], slots: number): void
  /** A worker has taken all connections that it was sent. */
  workerIsFree(): void
  /** Connections come back from a worker that has ended without having taken them. They are the listener's now. */
  giveBack(connections: readonly Descriptor[]): void
  /** Where it is bound. */
  address(): ListenAddress
  /** Closes every copy of the supervisor's own; what the workers hold lives on. */
  close(): Promise<void>
}

export interface ListenerEvents {
  onRouteFailed(error: unknown): void
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
