/** `Worker`: the interface of a worker's program to its supervisor, and its graceful end. */

import type { Server } from 'node:net'
import { AsyncContext } from '../../base/async-context.ts'
import { invalid } from '../../base/check.ts'
import { deferred } from '../../base/deferred.ts'
import { asError } from '../../base/errors.ts'
import { type KnownOptions, readOptions } from '../../base/known-options.ts'
import { mark } from '../../base/package-copy.ts'
import { throwLater } from '../../base/throw-later.ts'
import { markUncloneable } from '../../base/uncloneable.ts'
import type { Channel } from '../../channel/channel.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { ListenHandle } from '../../descriptor/to-node.ts'
import type { ConnectionHandler } from '../../serving/descriptor-intake.ts'
import { GracefulEnd } from '../../serving/graceful-end.ts'
import type { WorkerListeners } from '../../serving/served-listeners.ts'
import type { StopHandler } from '../../serving/stop-handlers.ts'
import { type Giver, giveState, takeState } from '../../takeover/hand-over.ts'
import type { FreezeContext } from '../../takeover/owner.ts'
import { warnOf } from '../../takeover/place.ts'
import type { WorkerOrigin } from './worker-origin.ts'

/** Why it stops. `told`: the supervisor has ordered it. `orphan`: the supervisor's process has ended. `signal`: it got a signal. */
interface Ending {
  /** No other process serves the connections that wait in the queues. */
  last: boolean
  told: boolean
  orphan?: boolean
  signal?: boolean
}

/** What `freeze` of a worker gets. */
export type HandOverContext = Pick<FreezeContext, 'accepts' | 'signal'>

/** What a worker gives to its replacement. */
export interface HandOver<State = unknown> {
  /**
   * Returns what the replacement gets: any value that a message can carry, with any number of Descriptors and Connections.
   *
   * passfd sends copies. From its return until `thaw`, or for ever, the program doesn't touch what it has given. `signal` aborts when the time
   * is over (`handOverTimeout`). The worker accepts no connection any more when `freeze` is called; the replacement does.
   */
  freeze(context: HandOverContext): State | Promise<State>
  /**
   * The replacement has not taken it.
   *
   * `state` is the very value that `freeze` has returned, and everything in it is open and the program's. The worker is about to stop; its
   * servers still take connections by `Connection.injectInto()` until `thaw` has returned, or its promise is settled.
   */
  thaw?(state: State): unknown
}

/** Receives what a worker has given. `slot`: that of the giver. The program owns the Descriptors and Connections in `state`. */
export type InheritHandler<State = unknown> = (state: State, giver: { readonly slot: number }) => unknown

const HAND_OVER = { freeze: 'method', thaw: 'method' } as const satisfies KnownOptions<HandOver>
const INHERIT = { accepts: true } as const

/** @internal Gives the state to the process at the other end, which is moved in. */
export let give: (worker: Worker, end: Descriptor, timeout: number) => Promise<boolean>
/** @internal Takes the state of the worker at the other end, which is moved in. */
export let inherit: (worker: Worker, slot: number, end: Descriptor, timeout: number) => Promise<void>

/** This process as a worker: the result of `joinSupervisor()`. */
export class Worker {
  readonly #listeners: WorkerListeners
  readonly #origin: WorkerOrigin
  readonly #end: GracefulEnd
  #giver: Giver | undefined
  #requests = 0
  /** Connections that came from other workers. */
  #inherited = 0
  #heir: { accepts: unknown; handle(state: unknown, slot: number): unknown } | undefined

  /** @internal */
  constructor(origin: WorkerOrigin, listeners: WorkerListeners) {
    markUncloneable(this)
    this.#origin = origin
    this.#listeners = listeners
    this.#end = new GracefulEnd(this.#listeners, origin, {
      leave: () => origin.leave(),
      exit: code => origin.exit(code)
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
    // A server counts each connection that it gets. With its predecessors' connections a worker could exceed `limits.requests` from its start
    this.#requests = Math.max(this.#requests, this.#end.requests - this.#inherited)
    return this.#requests
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
   * Calls `handler` with each connection of the listener `name` as a Descriptor, which the handler owns.
   *
   * Use it to send connections on, or for servers that are not Node's. No byte of the connection has been read. Otherwise it works as
   * `listen()`, but the graceful stop does not wait for the connections.
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
    return this.#listeners.handle(name)
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
   * Gives state and live connections to the worker that replaces this one: at `reload()`, for a limit, and when the supervisor is replaced.
   *
   * passfd calls `freeze` when the replacement is ready, and before this worker stops; never if the replacement has not called `onInherit()`.
   * The replacement gets all or nothing. The worker drains what it keeps, as without `handOver()`. Call it before `ready()`. It does nothing in
   * a standalone program.
   */
  handOver<State>(giver: HandOver<State>): void {
    const { freeze, thaw } = readOptions(giver, HAND_OVER, 'giver')
    if (typeof freeze !== 'function') throw invalid('giver.freeze', 'a function', freeze)
    if (thaw !== undefined && typeof thaw !== 'function') throw invalid('giver.thaw', 'a function', thaw)
    const context = new AsyncContext('PASSFD_WORKER')
    this.#giver = {
      freeze: ({ accepts, signal }) => context.run(() => (freeze as HandOver['freeze'])({ accepts, signal })),
      ...(thaw === undefined
        ? {}
        : { thaw: state => context.run(thaw as (state: unknown) => unknown, undefined, state) })
    }
    this.#tellHandsOver()
  }

  /**
   * Calls `handler` once for each worker that gives its state to this one (see `handOver()`).
   *
   * Without a handler the giver keeps it. `accepts`: any value for the giver's `freeze`; which formats this program reads, for example. Call it
   * before `ready()`. What the handler throws, or rejects with, is an uncaught exception.
   *
   * The graceful stop waits for the handler, and for connections that it gives to servers by `Connection.injectInto()`.
   */
  onInherit<State>(handler: InheritHandler<State>, options: { accepts?: unknown } = {}): void {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    const { accepts } = readOptions(options, INHERIT)
    const context = new AsyncContext('PASSFD_WORKER')
    this.#heir = {
      accepts,
      handle: (state, slot) => context.run(() => handler(state as State, { slot }))
    }
    this.#tellHandsOver()
  }

  #tellHandsOver(): void {
    this.#origin.handsOver({ gives: this.#giver !== undefined, inherits: this.#heir !== undefined })
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

  /** @internal The supervisor will stop it soon. */
  becomeLameDuck(): void {
    this.#end.becomeLameDuck()
  }

  /** @internal Ends the time as a lame duck; otherwise destroys the remaining connections. */
  hurry(): void {
    this.#end.hurry()
  }

  /** @internal Ends the process. `last`: this worker serves the connections that wait in the queues. `told`: the supervisor has ordered it. */
  end({ last, told, signal = false, orphan = false }: Ending): Promise<void> {
    if (orphan) this.#listeners.becomeOrphan()
    // The supervisor may stop soon, too, and then no other process would serve the waiting connections
    return this.#end.begin({ last: told ? last : () => this.#askIfLast(signal) })
  }

  /** Resolves to whether this worker serves the connections that wait in the queues. */
  async #askIfLast(bySignal: boolean): Promise<boolean> {
    const { last, orphan } = await this.#origin.stopping(bySignal)
    if (orphan) this.#listeners.becomeOrphan()
    return last
  }

  async #inherit(slot: number, end: Descriptor, timeout: number): Promise<void> {
    const heir = this.#heir
    // For example it has stopped meanwhile
    if (heir === undefined || this.#end.begun) {
      end.close()
      return
    }
    const handled = takeState(end, heir.accepts, timeout).then(taken => {
      if (taken === undefined) return
      this.#inherited += taken.connections
      return heir.handle(taken.state, slot)
    })
    this.#end.waitFor(handled)
    await handled.catch(throwLater)
  }

  async #give(end: Descriptor, timeout: number): Promise<boolean> {
    const giver = this.#giver
    if (giver === undefined || this.#end.begun) {
      end.close()
      return false
    }
    // Connections accepted after `freeze` would have to be drained here
    try {
      this.#listeners.suspend([])
    } catch (error) {
      end.close()
      warnOf({ code: 'failed', message: `The replacement gets no state: ${asError(error).message}` })
      return false
    }
    const taken = giveState(end, giver, timeout, late => this.#end.onStop(() => late))
    this.#end.waitFor(taken)
    return taken
  }

  static {
    give = (worker, end, timeout) => worker.#give(end, timeout)
    inherit = (worker, slot, end, timeout) => worker.#inherit(slot, end, timeout)
  }
}
mark(Worker, 'Worker')
