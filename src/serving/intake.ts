/** The interface to the consumer of a listener's connections: a server, or a function. */
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { AcceptSource, Begun } from './accept-sources.ts'

export interface DrainOptions {
  /** How long, in ms, an idle keep-alive connection stays open, counted from its last activity: its client may be about to use it. */
  idleGrace: number
  /** Ends the waiting; what is left stays as it is. */
  signal?: AbortSignal
}

export interface Intake {
  /** Open now. */
  readonly connections: number
  /** Begun since the start. */
  readonly requests: number
  /** Resolves in the course of `drain()`: what is still open then is the application's to end. */
  readonly requestsDone: Promise<void>
  /** It can be given listeners and connections. @throws ERR_PASSFD_SERVER_CLOSED. */
  check(): void
  /** It will only be given connections. */
  prepare(): void
  /** All its sources are about to be removed. Throws the system's error if no descriptor is left for that: nothing has changed then. */
  beforeRemoval(): void
  /** Accepts from a listener, which is used up, until the source is removed. `exclusive`, asked at the end: no other program holds it. */
  add(listener: Descriptor, backlog?: number, exclusive?: () => boolean): Promise<AcceptSource>
  /** The same, at once: it throws what `add` rejects with, and accepts when it returns. */
  begin(listener: Descriptor, backlog?: number, exclusive?: () => boolean): Begun
  /** A connection that was accepted elsewhere, which is used up. */
  give(connection: Descriptor, onClosed?: () => void): void
  /** Stops accepting from all listeners, at once. `last`: it first accepts the connections that wait in the queues. `last` may resolve later. */
  stopAccepting(options: { last: boolean | Promise<boolean> }): Promise<void>
  /** Brings what is open to its end; resolves when nothing is left, or when `signal` aborts. */
  drain(options: DrainOptions): Promise<void>
  destroyAll(): void
}
