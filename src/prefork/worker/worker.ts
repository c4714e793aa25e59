/** `Worker`: what a worker's program has to do with its supervisor, and its graceful end. */

import type { Server } from 'node:net'
import { invalid } from '../../base/check.ts'
import { deferred } from '../../base/deferred.ts'
import { mark } from '../../base/package-copy.ts'
import { markUncloneable } from '../../base/uncloneable.ts'
import type { Channel } from '../../channel/channel.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { ListenHandle } from '../../descriptor/to-node.ts'
import type { ConnectionHandler } from '../../serving/descriptor-intake.ts'
import { GracefulEnd } from '../../serving/graceful-end.ts'
import { ServedListeners } from '../../serving/served-listeners.ts'
import type { StopHandler } from '../../serving/stop-handlers.ts'
import type { WorkerOrigin } from './worker-origin.ts'

/** `told`: by the supervisor. `orphan`: that one's process has ended. `signal`: by a signal. */
interface Ending {
  /** No other process serves the connections that wait in the queues. */
  last: boolean
  told: boolean
  orphan?: boolean
  signal?: boolean
}

/** @internal The listeners that the worker was lent. */
export let listenersOf: (worker: Worker) => ServedListeners

/** This process as a worker: the result of `joinSupervisor()`. */
export class Worker {
  readonly #listeners: ServedListeners
  readonly #origin: WorkerOrigin
  readonly #end: GracefulEnd

  /** @internal */
  constructor(origin: WorkerOrigin) {
    markUncloneable(this)
    this.#origin = origin
    this.#listeners = new ServedListeners(origin)
    this.#end = new GracefulEnd(this.#listeners, origin, {
      leave: () => origin.leave(),
      exit: code => process.exit(code)
    })
  }

  /** Its place among the workers, 0 to n-1. Its replacement gets the same slot. Standalone: 0. */
  get slot(): number {
    return this.#origin.slot
  }

  /** Its own number, never used again by its supervisor. Standalone: 1. */
  get id(): number {
    return this.#origin.id
  }

  /** Whether a supervisor has started the program. */
  get supervised(): boolean {
    return this.#origin.supervised
  }

  /** Carries the application's own messages to and from the supervisor. Standalone: requests on it reject with ERR_PASSFD_NOT_SUPERVISED. */
  get channel(): Channel {
    return this.#origin.channel
  }

  /** Aborts when the worker begins to stop. Then end responses that have no end of their own, such as event streams. */
  get signal(): AbortSignal {
    return this.#end.signal
  }

  /**
   * Aborts as soon as the worker knows that it will stop, at the latest together with `signal`. Until `signal` aborts, too, the worker serves as
   * before (the option `lameDuck`). Use it in the readiness check for load balancers.
   */
  get lameDuck(): AbortSignal {
    return this.#end.lameDuck
  }

  /** @internal */
  get connections(): number {
    return this.#end.connections
  }

  /** @internal */
  get requests(): number {
    return this.#end.requests
  }

  /**
   * Serves the connections of the listener `name` with a net, tls, http, https or http2 server, under every balance. Resolves when it serves.
   * The graceful stop closes the server: don't close it yourself.
   * @throws (rejects) `ERR_PASSFD_LISTENER_UNKNOWN`; `ERR_PASSFD_LISTENER_SERVED` if the listener has a server already.
   */
  async listen(name: string, server: Server): Promise<void> {
    await this.#listeners.serve(name, server)
  }

  /**
   * Calls `handler` with each connection of the listener `name` as a Descriptor, which the handler owns. Use it to send connections on, or for
   * servers that are not Node's. No byte of the connection has been read. Otherwise it works as `listen()`, but the graceful stop does not wait
   * for the connections.
   */
  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    await this.#listeners.receive(name, handler)
  }

  /**
   * Returns a handle of the listener `name` for your own `server.listen()`. The graceful stop does not close that server.
   * @throws `ERR_PASSFD_LISTENER_UNKNOWN`, `ERR_PASSFD_LISTENER_DISPATCHED`.
   */
  listener(name: string): ListenHandle {
    const handle = this.descriptor(name).toListenHandle()
    const { backlog } = this.#listeners.get(name) as { backlog?: number }
    return backlog === undefined ? handle : Object.assign(handle, { backlog })
  }

  /**
   * Returns a duplicate of the listener `name` as a Descriptor, which the caller owns; for example of a UDP socket. Throws as `listener()` does.
   */
  descriptor(name: string): Descriptor {
    return this.#listeners.expose(name)
  }

  /**
   * Calls `handler` when the worker stops and its HTTP requests are finished. Use it to close WebSockets and databases. Handlers run one after
   * the other, the last registered first, each in the async context of its `onStop` call.
   *
   * When `stopTimeout` is over, passfd destroys the remaining connections and aborts `signal`. The process ends `killTimeout` later, or when the
   * handlers are done. A handler that does not settle then delays the others for its share of that time only: half of it with one more handler,
   * a third with two.
   */
  onStop(handler: StopHandler): void {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    this.#end.onStop(handler)
  }

  /**
   * Informs the supervisor that the worker serves. Connections may come from then on, and the predecessor may stop. Resolves when the supervisor
   * has confirmed it.
   */
  ready(): Promise<void> {
    return this.#origin.ready()
  }

  /**
   * Stops gracefully and ends the process; the supervisor starts another one. A standalone program first serves as before for `lameDuck` ms; a
   * further call ends that time. Never resolves.
   */
  async stop(): Promise<void> {
    this.#end.endLameDuck()
    await this.end({ last: false, told: false })
    return deferred().promise
  }

  /** @internal The supervisor will tell it to stop soon. */
  becomeLameDuck(): void {
    this.#end.becomeLameDuck()
  }

  /** @internal Time is over: what is left is cut off. Or that of the lame duck, first. */
  hurry(): void {
    this.#end.hurry()
  }

  /** @internal Ends the process. `last`: what waits in the queues is this worker's to serve. `told`: by the supervisor. */
  end({ last, told, signal = false, orphan = false }: Ending): Promise<void> {
    if (orphan) this.#listeners.becomeOrphan()
    // The supervisor may stop soon, too, and then no other process would serve the waiting connections
    return this.#end.begin({ last: told ? last : () => this.#askIfLast(signal) })
  }

  /** Resolves to whether what waits in the queues is this worker's to serve. */
  async #askIfLast(bySignal: boolean): Promise<boolean> {
    const { last, orphan } = await this.#origin.stopping(bySignal)
    if (orphan) this.#listeners.becomeOrphan()
    return last
  }

  static {
    listenersOf = worker => worker.#listeners
  }
}
mark(Worker, 'Worker')
