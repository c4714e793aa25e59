/** A listener that a supervisor or a predecessor has given to this process. */
import type { Descriptor } from '../descriptor/descriptor.ts'

/**
 * The Descriptor is this process's own copy. `own`: passfd has bound it, so that only processes of this service hold it, unless a program has given
 * a copy away.
 */
export type ListenerGrant =
  | { lane: number; listener: Descriptor; backlog: number | undefined; own: boolean }
  /** The supervisor decides which worker accepts. After the supervisor's end the worker accepts all waiting connections, so that none is lost. */
  | { dispatched: true; listener: Descriptor; own: boolean }

/** A further lane of a listener. */
export interface Lane {
  readonly name: string
  readonly lane: number
  readonly listener: Descriptor
  readonly backlog: number | undefined
  readonly own: boolean
}
