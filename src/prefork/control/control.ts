/**
 * The messages between a supervisor and a worker, on a channel of their own. They are not public, but the two may run different releases of
 * passfd, because a deployment brings a new release to the workers first. So:
 *
 * - Each end speaks the versions from LEAST to NEWEST. The worker's `join` names both, and the supervisor answers with the highest version that
 *   both speak. A `join` without `newest`, or an answer without `version`, is of version 1.
 * - Both ends ignore messages and fields that they do not know. Version 1 does not, so the other end sends it only what it knows.
 */
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { Lane, ListenerGrant } from '../../serving/listener-grant.ts'

export const LEAST = 1
export const NEWEST = 6
/** The messages that a worker of version 1 knows. It would stop at any other. */
export const TO_FIRST_WORKERS: readonly string[] = ['lend', 'takeBack', 'stop', 'connections']
/** The worker's end of the control channel and of the application's. */
export const CONTROL_NUMBER = 3
export const APPLICATION_NUMBER = 4
/** Set in a worker's environment, to its supervisor's pid. */
export const SUPERVISOR_VARIABLE = 'PASSFD_SUPERVISOR'
/** The most connections that one worker was sent and has not taken. Others get further ones. */
export const MAX_UNCONFIRMED = 1024
/**
 * The most connections of one listener that one worker was told to accept and has not confirmed; others are told to accept further ones. They stay
 * in the listener's queue, so a busy worker must not keep much of it.
 */
export const MAX_PERMITS = 64

export interface Join {
  type: 'join'
  /** The lowest version that the worker speaks. */
  version: number
  /** The highest version. Undefined: the same. */
  newest?: number
  /** The address of its inspector, if SIGUSR1 opens that. */
  debugPort?: number
}

/** The answer to `join`. */
export interface Welcome {
  /** The version that both speak from now on. Undefined: 1. */
  version?: number
  slot: number
  id: number
  heartbeat: number
  idleGrace: number
  stopTimeout: number
  killTimeout: number
  /** The worker reports every closed connection. */
  tellClosed: boolean
  /** The worker serves only after `go`, because its supervisor replaces another one, and that may fail. Since version 4. */
  hold?: boolean
  /** See `Share`. Since version 4. */
  shared?: boolean
  /** The supervisor takes `Idle`. Since version 5. */
  takesIdle?: boolean
  /** The Descriptors are dups, which the worker owns. */
  listeners: Record<string, ListenerGrant>
}

/**
 * The worker serves this listener's connections. `adopts`: it can be lent further lanes of it. `exposed`: its program was given a copy of the
 * listener, so that others may hold it.
 */
export interface Uses {
  type: 'uses'
  name: string
  adopts: boolean
  exposed?: boolean
  /** Of a program: the `id` of `Granted`. */
  grant?: number
}

/** The program has closed the server of this listener: the worker does not serve it any more. Only programs send it, which run the supervisor's own passfd. */
export interface Leaves {
  type: 'leaves'
  name: string
  grant?: number
}

export interface Ready {
  type: 'ready'
}

export interface Beat {
  type: 'beat'
  connections: number
  requests: number
  lag: number
  /** Where its inspector listens, if it is open. */
  inspector?: string | undefined
}

/** So many connections of its servers have closed since the last message. */
export interface Closed {
  type: 'closed'
  count: number
}

/** It stops on its own. The answer says whether the supervisor has closed its listeners, as with `Stop.last`. */
export interface Stopping {
  type: 'stopping'
}

/** An uncaught exception: the worker's last message, unless the program handles it. */
export interface Failed {
  type: 'failed'
  name: string
  message: string
}

/** The program has handled the exception, and goes on. Since version 2. */
export interface Recovered {
  type: 'recovered'
}

/**
 * The worker has handled an `accept`, or several that had a `place`, and wants more. It accepted `taken` connections; `error` (-errno): why it could not
 * accept more. Since version 3.
 */
export interface Accepted {
  type: 'accepted'
  name: string
  /** As in the `accept`, or the sum of them. */
  count: number
  taken: number
  error?: number | undefined
}

/** Whether the program has called `handOver()` and `onInherit()`. Since version 4. */
export interface HandsOver {
  type: 'handsOver'
  gives: boolean
  inherits: boolean
}

/**
 * A request of a worker that stops: another worker goes on with these connections, on which no request is under way. Answered when there is room for
 * more. Since version 5.
 */
export interface Idle {
  type: 'idle'
  name: string
  connections: Descriptor[]
}

export type FromWorker =
  | Idle
  | HandsOver
  | Join
  | Uses
  | Leaves
  | Ready
  | Beat
  | Closed
  | Stopping
  | Failed
  | Recovered
  | Accepted

export interface Lend extends Lane {
  type: 'lend'
}

export interface TakeBack {
  type: 'takeBack'
  name: string
  lane: number
}

/** `last`: the supervisor has closed its listeners, so this worker serves the connections in their queues. */
export interface Stop {
  type: 'stop'
  last: boolean
}

/** The supervisor will stop, and its workers serve as before until then: see the option `lameDuck`. */
export interface LameDuck {
  type: 'lameDuck'
}

export interface Connections {
  type: 'connections'
  name: string
  connections: Descriptor[]
  /** They came in an `Idle`. Since version 5. */
  idle?: boolean
}

/** Tells the worker to accept so many connections from a dispatched listener. Since version 3. */
export interface Accept {
  type: 'accept'
  name: string
  count: number
  /** Where it counts the permits that it has used: then it may answer when it has begun to serve the connections. Since version 6. */
  place?: number
}

/** Memory in which the worker counts the permits that it has used: see accept-counts.ts. The worker owns it. Without it, it answers at once. Since version 6. */
export interface Counts {
  type: 'counts'
  memory: Descriptor
}

/** A request: the worker accepts from its listeners when it answers. Since version 4. */
export interface Go {
  type: 'go'
}

/** Another supervisor may hold the listeners, too. Then a worker whose supervisor has ended does not end them for all. Since version 4. */
export interface Share {
  type: 'share'
  shared: boolean
}

/** A request: the worker gives its state to the process at the other end of a socketpair. Answered at the end of the attempt. Since version 4. */
export interface Give {
  type: 'give'
  end: Descriptor
  /** The time limit of the whole hand-over, in ms. */
  timeout: number
}

/** The worker takes the state of the worker at the other end, which has been in `slot`. Since version 4. */
export interface Inherit {
  type: 'inherit'
  end: Descriptor
  slot: number
  timeout: number
}

export type FromSupervisor =
  | Go
  | Share
  | Give
  | Inherit
  | Lend
  | TakeBack
  | Stop
  | LameDuck
  | Connections
  | Accept
  | Counts
