/** The interface to the consumer of a listener's connections: a server, or a function. */
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { AcceptSource, Begun } from './accept-sources.ts'

/** How many times `idleGrace` a new connection has. With the default that is 5 s, as in Go's Server.Shutdown(). */
export const NEW_GRACE_FACTOR = 5

export interface DrainOptions {
  /** How long, in ms, an idle keep-alive connection stays open, counted from its last activity: its client may be about to use it. */
  idleGrace: number
  /** The same for a connection without a request so far: its client has something to send, and may be slow. Default: `NEW_GRACE_FACTOR` times `idleGrace`. */
  newGrace?: number
  /** Ends the wait. Remaining connections stay open. */
  signal?: AbortSignal
  /**
   * Gets the number of an idle connection, which another process goes on with. Without it, and for what can't be passed on (TLS, HTTP/2), idle
   * connections are closed after `idleGrace`.
   */
  pass?: PassOn
}

/** `true`: it has taken the connection, and owns it. `'later'`: it has no room now, so the connection stays open. `false`: nobody takes it. */
export type PassOn = (connection: number) => boolean | 'later'

export interface Intake {
  /** The number of open connections. */
  readonly connections: number
  /** The number of requests begun since the start. */
  readonly requests: number
  /** Resolves during `drain()`, when only connections are open that the application must end. */
  readonly requestsDone: Promise<void>
  /** Checks that it can get listeners and connections. @throws ERR_PASSFD_SERVER_CLOSED. */
  check(): void
  /** Prepares it for connections without a listener. */
  prepare(): void
  /** Prepares the removal of all its sources. Throws the system's error, and changes nothing, if no descriptor is free for that. */
  beforeRemoval(): void
  /** Accepts from a listener, which it uses up, until the source is removed. `exclusive`, called at the end: whether no other program holds it. */
  add(listener: Descriptor, backlog?: number, exclusive?: () => boolean): Promise<AcceptSource>
  /** As `add`, but it accepts when it returns, and throws the errors. */
  begin(listener: Descriptor, backlog?: number, exclusive?: () => boolean): Begun
  /** Serves a connection that was accepted elsewhere, and uses it up. `idle`: another process has served requests of it before. */
  give(connection: Descriptor, onClosed?: () => void, idle?: boolean): void
  /** Stops accepting from all listeners, at once. `last`: it first accepts the connections that wait in the queues. `last` may resolve later. */
  stopAccepting(options: { last: boolean | Promise<boolean> }): Promise<void>
  /** Ends the open connections gracefully. Resolves when none is left, or when `signal` aborts. */
  drain(options: DrainOptions): Promise<void>
  destroyAll(): void
  /** The program has closed the server itself, and may listen again. */
  closed?(): void
}
