/** `Worker`: what a worker's program has to do with its supervisor, and its graceful end. */

import type { Server } from 'node:net'
import { AsyncContext } from '../../base/async-context.ts'
import { invalid } from '../../base/check.ts'
import { mark } from '../../base/copy.ts'
import { deferred } from '../../base/deferred.ts'
import { markUncloneable } from '../../base/uncloneable.ts'
import type { Channel } from '../../channel/channel.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { ListenHandle } from '../../descriptor/to-node.ts'
import type { ConnectionHandler } from '../../serving/descriptor-intake.ts'
import type { Home } from './home.ts'
import { LentListeners } from './lent-listeners.ts'
import { type StopHandler, StopHandlers } from './stop-handlers.ts'

/** `told`: by the supervisor. `orphan`: that one's process has ended. `signal`: by a signal. */
interface Ending {
  /** Nobody else serves whoever waits in the queues. */
  last: boolean
  told: boolean
  orphan?: boolean
  signal?: boolean
}

/** This process as a worker: what `joinSupervisor()` resolves to. */
export class Worker {
  /** @internal */
  readonly listeners: LentListeners
  readonly #home: Home
  readonly #handlers = new StopHandlers()
  readonly #lameDuck = new AbortController()
  readonly #lameDuckOver = deferred()
  readonly #stop = new AbortController()
  readonly #hurry = new AbortController()
  readonly #context = new AsyncContext('PASSFD_WORKER')
  #stopped: Promise<void> | undefined

  /** @internal */
  constructor(home: Home) {
    markUncloneable(this)
    this.#home = home
    this.listeners = new LentListeners(home)
  }

  /** Its place among the workers, 0 to n-1; its replacement gets the same. Standalone: 0. */
  get slot(): number {
    return this.#home.slot
  }

  /** Its own number, never used again by its supervisor. Standalone: 1. */
  get id(): number {
    return this.#home.id
  }

  /** False if the program was started by hand. */
  get supervised(): boolean {
    return this.#home.supervised
  }

  /** For the application's own messages to and from the supervisor. Standalone: requests on it are answered with ERR_PASSFD_NOT_SUPERVISED. */
  get channel(): Channel {
    return this.#home.channel
  }

  /** Aborted when the worker begins to stop: time to end what would last for ever, such as event streams. */
  get signal(): AbortSignal {
    return this.#stop.signal
  }

  /**
   * Aborted as soon as it is known that the worker will stop, at the latest together with `signal`. Until that one is aborted, too,
   * everything is served (the option `lameDuck`). What tells load balancers whether to send more clients looks at this.
   */
  get lameDuck(): AbortSignal {
    return this.#lameDuck.signal
  }

  /** @internal */
  get connections(): number {
    return sum(this.listeners.servings, served => served.connections)
  }

  /** @internal */
  get requests(): number {
    return sum(this.listeners.servings, served => served.requests)
  }

  /**
   * Serves the connections of the listener `name` with a net, tls, http, https or http2 server, whatever the balancing is. Resolves when it does.
   * The graceful stop looks after the server: don't close it.
   * @throws (rejects) `ERR_PASSFD_LISTENER_UNKNOWN`; `ERR_PASSFD_LISTENER_SERVED` if it has a server already.
   */
  async listen(name: string, server: Server): Promise<void> {
    await this.listeners.serve(name, server)
  }

  /**
   * Calls `handler` with each connection of the listener `name` as a Descriptor, which is the handler's own: for what is no server of Node's,
   * to be sent on for example. Nothing of it has been read. Otherwise as `listen()`; the graceful stop does not look after the connections.
   */
  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    await this.listeners.receive(name, handler)
  }

  /**
   * For a `server.listen()` of your own: a handle on the listener `name`, which the graceful stop does not look after.
   * @throws `ERR_PASSFD_LISTENER_UNKNOWN`, `ERR_PASSFD_LISTENER_DISPATCHED`.
   */
  listener(name: string): ListenHandle {
    const handle = this.descriptor(name).toListenHandle()
    const { backlog } = this.listeners.get(name) as { backlog?: number }
    return backlog === undefined ? handle : Object.assign(handle, { backlog })
  }

  /** The listener `name` as a Descriptor (a dup, yours), a UDP socket for example. Throws as `listener()` does. */
  descriptor(name: string): Descriptor {
    return this.listeners.expose(name)
  }

  /**
   * Calls `handler` when the worker stops and its HTTP requests are finished: the place to close WebSockets and databases. They run one
   * after the other, the last one registered first, each in the async context of its `onStop` call. When `stopTimeout` is over, all connections
   * that are left are destroyed, `signal` is aborted, and the process ends `killTimeout` later, or earlier if the handlers are done. One that
   * does not settle then keeps the others waiting for its share of that time only: half of it with one more handler, a third with two.
   */
  onStop(handler: StopHandler): void {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    this.#handlers.add(handler)
  }

  /** Tells the supervisor that it serves: connections may come, and the one that it replaces may stop. Resolves when the supervisor knows. */
  ready(): Promise<void> {
    return this.#home.ready()
  }

  /**
   * Stops gracefully and ends the process; the supervisor starts another one. Standalone it goes on for `lameDuck` ms first; a further call
   * ends that time. Never resolves.
   */
  async stop(): Promise<void> {
    if (this.#stopped !== undefined) this.#lameDuckOver.resolve()
    await this.end({ last: false, told: false })
    return deferred().promise
  }

  /** @internal It will be told to stop soon. */
  becomeLameDuck(): void {
    this.#context.run(() => this.#lameDuck.abort())
  }

  /** @internal Time is over: what is left is cut off. Or that of the lame duck, first. */
  hurry(): void {
    if (this.#stopped !== undefined && !this.#stop.signal.aborted) this.#lameDuckOver.resolve()
    else {
      this.listeners.cutOff()
      this.#context.run(() => this.#hurry.abort())
    }
  }

  /** @internal Ends the process. `last`: what waits in the queues is ours to serve. `told`: by the supervisor. */
  end({ last, told, signal = false, orphan = false }: Ending): Promise<void> {
    if (orphan) this.listeners.becomeOrphan()
    if (this.#stopped === undefined) {
      const stopped = deferred()
      this.#stopped = stopped.promise // first: what the program does when `signal` is aborted may ask for it again
      this.#endNow(last, told, signal).then(stopped.resolve, stopped.reject)
    }
    return this.#stopped
  }

  async #endNow(last: boolean, told: boolean, bySignal: boolean): Promise<void> {
    const { idleGrace, stopTimeout, killTimeout, lameDuck } = this.#home
    const { signal } = this.#hurry
    this.listeners.beginStop()
    this.becomeLameDuck()
    if (lameDuck > 0) {
      const timer = setTimeout(() => this.#lameDuckOver.resolve(), lameDuck)
      await this.#lameDuckOver.promise
      clearTimeout(timer)
    }
    const limit = setTimeout(() => this.hurry(), stopTimeout)
    signal.addEventListener('abort', () => {
      clearTimeout(limit)
      // A handler may wait for just that
      for (const served of this.listeners.servings) served.destroyAll()
      setTimeout(() => process.exit(1), killTimeout) // a handler that waits for ever
      this.#handlers.limit(killTimeout)
    })
    this.#context.run(() => this.#stop.abort())
    // The supervisor may be about to stop, too, and then nobody else would serve who waits
    const isLast = told ? last : this.#askIfLast(bySignal)
    const all = this.listeners.servings
    await this.listeners.end(isLast)
    const drained = all.map(served => served.drain({ idleGrace, signal }))
    await Promise.all(all.map(served => served.requestsDone))
    const failed = await this.#handlers.run(signal)
    await Promise.all(drained)
    for (const served of all) served.destroyAll()
    await this.#home.leave()
    process.exit(failed || signal.aborted ? 1 : (process.exitCode ?? 0))
  }

  /** Resolves to whether what waits in the queues is this worker's to serve. */
  async #askIfLast(bySignal: boolean): Promise<boolean> {
    const { last, orphan } = await this.#home.stopping(bySignal)
    if (orphan) this.listeners.becomeOrphan()
    return last
  }
}
mark(Worker, 'Worker')

function sum<T>(values: Iterable<T>, of: (value: T) => number): number {
  let total = 0
  for (const value of values) total += of(value)
  return total
}
