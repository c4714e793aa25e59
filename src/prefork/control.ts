/**
 * What a supervisor and a worker say to each other, on a channel of their own. It is not part of the public surface: both ends are of one
 * version of passfd, or the worker says which it is and is refused.
 */
import type { Descriptor } from '../descriptor.ts'

export const VERSION = 1
/** The worker's end of the control channel and of the application's. */
export const CONTROL_NUMBER = 3
export const APPLICATION_NUMBER = 4
/** Set in a worker's environment, to its supervisor's pid. */
export const SUPERVISOR_VARIABLE = 'PASSFD_SUPERVISOR'
/** Connections that were sent to one worker and that it has not taken yet: beyond, others get them. */
export const MAX_UNCONFIRMED = 1024

export interface Join {
  type: 'join'
  version: number
}

/** Of a listener, for one worker. The Descriptor is a dup, and the worker's. */
export type Loan =
  | { lane: number; listener: Descriptor; backlog: number | undefined }
  /** The supervisor accepts. Only when that is gone the worker does, so that who waits in the queue is not lost with it. */
  | { dispatched: true; listener: Descriptor }

/** The answer to `join`. */
export interface Welcome {
  slot: number
  id: number
  heartbeat: number
  idleGrace: number
  stopTimeout: number
  killTimeout: number
  /** The supervisor wants to hear of every closed connection. */
  tellClosed: boolean
  listeners: Record<string, Loan>
}

/** The worker serves this listener's connections. `adopts`: it can be lent further lanes of it. */
export interface Uses {
  type: 'uses'
  name: string
  adopts: boolean
}

export interface Ready {
  type: 'ready'
}

export interface Beat {
  type: 'beat'
  connections: number
  requests: number
  lag: number
}

/** So many connections of its servers have closed since the last word. */
export interface Closed {
  type: 'closed'
  count: number
}

/** It stops by itself. The answer: whether the supervisor has closed its listeners, as with `Stop.last`. */
export interface Stopping {
  type: 'stopping'
}

/** An exception that nobody has caught: the last word, unless the program handles it. */
export interface Failed {
  type: 'failed'
  name: string
  message: string
}

/** The program has handled it, and goes on. */
export interface Recovered {
  type: 'recovered'
}

export type FromWorker = Join | Uses | Ready | Beat | Closed | Stopping | Failed | Recovered

export interface Lend {
  type: 'lend'
  name: string
  lane: number
  listener: Descriptor
  backlog: number | undefined
}

export interface TakeBack {
  type: 'takeBack'
  name: string
  lane: number
}

/** `last`: the supervisor has closed its listeners, so what waits in their queues is this worker's to serve. */
export interface Stop {
  type: 'stop'
  last: boolean
}

export interface Connections {
  type: 'connections'
  name: string
  connections: Descriptor[]
}

export type FromSupervisor = Lend | TakeBack | Stop | Connections
