/** `Worker`: what a worker's program has to do with its supervisor, and its graceful end. */

import type { Server } from 'node:net'
import { setTimeout as later } from 'node:timers/promises'
import { AsyncContext, bound } from '../../base/async-context.ts'
import { describe } from '../../base/check.ts'
import { mark } from '../../base/copy.ts'
import { deferred } from '../../base/deferred.ts'
import { asError, PassfdError } from '../../base/errors.ts'
import { throwLater } from '../../base/throw-later.ts'
import { markUncloneable } from '../../base/uncloneable.ts'
import type { Channel } from '../../channel/channel.ts'
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import type { ListenHandle } from '../../descriptor/to-node.ts'
import { acceptUpTo, acceptWaiting } from '../../serving/accept.ts'
import type { Lane } from '../../serving/accept-sources.ts'
import { type ConnectionHandler, Receiver } from '../../serving/descriptor-intake.ts'
import type { Serving } from '../../serving/intake.ts'
import { endListeners } from '../../serving/last-accept.ts'
import { ServedServer } from '../../serving/server-intake.ts'
import type { Lend, Loan } from '../control/control.ts'

export interface StopContext {
  /** Aborted when the time is over (`stopTimeout`): what is left is cut off, and the process ends soon. */
  readonly signal: AbortSignal
}

export type StopHandler = (context: StopContext) => unknown

/** Where a worker comes from: a supervisor, or nobody. */
export interface Home {
  readonly slot: number
  readonly id: number
  readonly supervised: boolean
  readonly channel: Channel
  readonly listeners: ReadonlyMap<string, Loan>
  readonly idleGrace: number
  readonly stopTimeout: number
  readonly killTimeout: number
  /** ms for which it goes on when it was told to stop. */
  readonly lameDuck: number
  /** To be called for each connection that it was sent, when it has closed. Undefined: nobody wants to know. */
  readonly onClosed: (() => void) | undefined
  /** `exposed`: the program was given a copy of the listener. */
  uses(name: string, how: { adopts: boolean; exposed: boolean }): void
  ready(): Promise<void>
  /** It stops by its own wish, or by a signal. */
  stopping(signal: boolean): Promise<Standing>
  /** The last thing: nothing is served any more. */
  leave(): Promise<void>
}

/** How a worker that stops stands to the others. */
export interface Standing {
  /** Nobody else serves whoever waits in the queues. */
  last: boolean
  /** The supervisor's process has ended. */
  orphan: boolean
}

/** `told`: by the supervisor. `orphan`: that one's process has ended. `signal`: by a signal. */
interface Ending {
  /** Nobody else serves whoever waits in the queues. */
  last: boolean
  told: boolean
  orphan?: boolean
  signal?: boolean
}

interface ServedListener {
  readonly served: Serving
  /** By number: the listeners it was lent beyond its own. */
  readonly lanes: Map<number, Promise<Lane>>
}

/** This process as a worker: what `joinSupervisor()` resolves to. */
export class Worker {
  readonly #home: Home
  readonly #servers = new Map<Server, ServedServer>()
  readonly #receivers: Receiver[] = []
  readonly #serving = new Map<string, ServedListener>()
  /** Listeners that the program was given: it may have passed them on, so that they are not only ours. */
  readonly #exposed = new Set<string>()
  readonly #handlers: StopHandler[] = []
  readonly #lameDuck = new AbortController()
  readonly #lameDuckOver = deferred()
  readonly #stop = new AbortController()
  readonly #hurry = new AbortController()
  readonly #timeIsOver = deferred()
  /** From `#timeIsOver` on: when the process ends in any case, on the clock of performance.now(). */
  #deadline = 0
  readonly #context = new AsyncContext('PASSFD_WORKER')
  #orphan = false
  #stopped: Promise<void> | undefined

  /** @internal */
  constructor(home: Home) {
    markUncloneable(this)
    this.#home = home
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
    return sum(this.#all(), served => served.connections)
  }

  /** @internal */
  get requests(): number {
    return sum(this.#all(), served => served.requests)
  }

  /**
   * Serves the connections of the listener `name` with a net, tls, http, https or http2 server, whatever the balancing is. Resolves when it does.
   * The graceful stop looks after the server: don't close it.
   * @throws (rejects) `ERR_PASSFD_LISTENER_UNKNOWN`; `ERR_PASSFD_LISTENER_SERVED` if it has a server already.
   */
  async listen(name: string, server: Server): Promise<void> {
    await this.#serve(name, 'listen()', () => this.#servedBy(server))
  }

  /**
   * Calls `handler` with each connection of the listener `name` as a Descriptor, which is the handler's own: for what is no server of Node's,
   * to be sent on for example. Nothing of it has been read. Otherwise as `listen()`; the graceful stop does not look after the connections.
   */
  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    if (typeof handler !== 'function')
      throw new PassfdError('INVALID_ARGUMENT', { what: 'handler', expected: 'a function', actual: describe(handler) })
    await this.#serve(name, 'receive()', () => {
      const receiver = new Receiver(handler)
      this.#receivers.push(receiver)
      return receiver
    })
  }

  async #serve(name: string, operation: string, serving: () => Serving): Promise<void> {
    const lent = this.#lent(name)
    if (this.#serving.has(name)) throw new PassfdError('LISTENER_SERVED', { name })
    if (lent.listener.kind === 'udp')
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation,
        expected: 'tcp-listener, unix-stream-listener',
        actual: 'udp (use descriptor(name).toDatagram())'
      })
    const served = serving()
    this.#serving.set(name, { served, lanes: new Map() })
    let copy: Descriptor | undefined
    try {
      if ('dispatched' in lent || hasEnded(lent.listener, lent.own)) served.prepare()
      else {
        copy = lent.listener.dup()
        await served.add(copy, lent.backlog, () => this.#isOwn(name))
      }
    } catch (error) {
      copy?.[Symbol.dispose]()
      this.#serving.delete(name) // for another server
      throw error
    }
    if (this.#stopped === undefined) this.#home.uses(name, { adopts: true, exposed: this.#exposed.has(name) })
  }

  /**
   * For a `server.listen()` of your own: a handle on the listener `name`, which the graceful stop does not look after.
   * @throws `ERR_PASSFD_LISTENER_UNKNOWN`, `ERR_PASSFD_LISTENER_DISPATCHED`.
   */
  listener(name: string): ListenHandle {
    const handle = this.descriptor(name).toListenHandle()
    const { backlog } = this.#lent(name) as { backlog?: number }
    return backlog === undefined ? handle : Object.assign(handle, { backlog })
  }

  /** The listener `name` as a Descriptor (a dup, yours), a UDP socket for example. Throws as `listener()` does. */
  descriptor(name: string): Descriptor {
    const lent = this.#lent(name)
    if ('dispatched' in lent) throw new PassfdError('LISTENER_DISPATCHED', { name })
    const descriptor = lent.listener.dup()
    this.#exposed.add(name)
    this.#home.uses(name, { adopts: this.#serving.has(name), exposed: true })
    return descriptor
  }

  /**
   * Calls `handler` when the worker stops and its HTTP requests are finished: the place to close WebSockets and databases. They run one
   * after the other, the last one registered first, each in the async context of its `onStop` call. When `stopTimeout` is over, all connections
   * that are left are destroyed, `signal` is aborted, and the process ends `killTimeout` later, or earlier if the handlers are done. One that
   * does not settle then keeps the others waiting for its share of that time only: half of it with one more handler, a third with two.
   */
  onStop(handler: StopHandler): void {
    if (typeof handler !== 'function')
      throw new PassfdError('INVALID_ARGUMENT', { what: 'handler', expected: 'a function', actual: describe(handler) })
    this.#handlers.push(bound(handler))
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

  /** @internal More of a listener, until it is taken back. */
  lend(name: string, { lane, listener, backlog, own }: Lend): void {
    const serving = this.#serving.get(name)
    const wanted = serving !== undefined && this.#stopped === undefined && !serving.lanes.has(lane)
    if (!wanted || hasEnded(listener, own)) {
      listener.close()
      return
    }
    serving.lanes.set(
      lane,
      serving.served.add(listener.claim(), backlog, () => this.#isOwn(name))
    )
  }

  /** @internal */
  takeBack(name: string, lane: number): void {
    const lanes = this.#serving.get(name)?.lanes
    const lent = lanes?.get(lane)
    lanes?.delete(lane)
    void lent?.then(one => one.remove())
  }

  /** @internal What the program throws when it is given one, by a 'drop' listener for example, keeps no other from being served. */
  give(name: string, connections: readonly Descriptor[]): void {
    const served = this.#serving.get(name)?.served
    for (const connection of connections) {
      if (served === undefined || this.#hurry.signal.aborted) {
        connection.close()
        this.#home.onClosed?.()
        continue
      }
      try {
        served.give(connection, this.#home.onClosed)
      } catch (error) {
        connection[Symbol.dispose]()
        throwLater(error)
      }
    }
  }

  /** @internal Accepts up to `count` connections that wait, to be given to `give`. `error`: what has kept it from accepting more (-errno). */
  accept(name: string, count: number): { connections: Descriptor[]; error: number } {
    const connections: Descriptor[] = []
    const lent = this.#home.listeners.get(name)
    // Once it stops, others take who waits
    if (this.#stopped !== undefined || lent === undefined || !this.#serving.has(name)) return { connections, error: 0 }
    const error = acceptUpTo(lent.listener.borrow(), count, connection => void connections.push(own(connection)))
    return { connections, error }
  }

  /** @internal It will be told to stop soon. */
  becomeLameDuck(): void {
    this.#context.run(() => this.#lameDuck.abort())
  }

  /** @internal Time is over: what is left is cut off. Or that of the lame duck, first. */
  hurry(): void {
    if (this.#stopped !== undefined && !this.#stop.signal.aborted) this.#lameDuckOver.resolve()
    else this.#context.run(() => this.#hurry.abort())
  }

  /** @internal Ends the process. `last`: what waits in the queues is ours to serve. `told`: by the supervisor. */
  end({ last, told, signal = false, orphan = false }: Ending): Promise<void> {
    this.#orphan ||= orphan
    this.#stopped ??= this.#endNow(last, told, signal)
    return this.#stopped
  }

  async #endNow(last: boolean, told: boolean, bySignal: boolean): Promise<void> {
    const { idleGrace, stopTimeout, killTimeout, lameDuck } = this.#home
    const { signal } = this.#hurry
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
      for (const served of this.#all()) served.destroyAll()
      setTimeout(() => process.exit(1), killTimeout) // a handler that waits for ever
      this.#deadline = performance.now() + killTimeout
      this.#timeIsOver.resolve()
    })
    this.#context.run(() => this.#stop.abort())
    // The supervisor may be about to stop, too, and then nobody else would serve who waits
    const isLast = told ? last : this.#askIfLast(bySignal)
    const all = this.#all()
    const stopped = all.map(served => served.stopAccepting({ last: isLast }))
    this.#closeListeners(lent => !('dispatched' in lent)) // the servers have copies, and theirs must be the last ones
    await Promise.all(stopped)
    if (await isLast) await this.#acceptDispatched()
    this.#closeListeners(() => true)
    const drained = all.map(served => served.drain({ idleGrace, signal }))
    await Promise.all(all.map(served => served.requestsDone))
    const failed = await this.#runHandlers()
    await Promise.all(drained)
    for (const served of all) served.destroyAll()
    await this.#home.leave()
    process.exit(failed || signal.aborted ? 1 : (process.exitCode ?? 0))
  }

  /** Resolves to whether what waits in the queues is this worker's to serve. */
  async #askIfLast(bySignal: boolean): Promise<boolean> {
    const { last, orphan } = await this.#home.stopping(bySignal)
    this.#orphan ||= orphan
    return last
  }

  /** Returns whether one has failed. */
  async #runHandlers(): Promise<boolean> {
    let failed = false
    const run = async (handler: StopHandler): Promise<void> => {
      try {
        await handler({ signal: this.#hurry.signal })
      } catch (error) {
        failed = true
        process.emitWarning(new PassfdError('STOP_HANDLER', { message: asError(error).message }, { cause: error }))
      }
    }
    const running: Promise<void>[] = []
    for (let handler = this.#handlers.pop(); handler !== undefined; handler = this.#handlers.pop()) {
      const done = run(handler)
      running.push(done)
      await Promise.race([done, this.#shareIsOver()])
    }
    await Promise.all(running)
    return failed
  }

  /** Of the time that is left after `stopTimeout` the handler that runs and those behind it have equal shares. */
  async #shareIsOver(): Promise<void> {
    await this.#timeIsOver.promise
    const left = this.#deadline - performance.now()
    await later(left / (this.#handlers.length + 1), undefined, { ref: false })
  }

  /** Nobody else accepts from them any more. */
  async #acceptDispatched(): Promise<void> {
    const dispatched = [...this.#home.listeners].filter(([, lent]) => 'dispatched' in lent)
    await Promise.all(
      dispatched.map(async ([name, { listener }]) => {
        const give = (connection: number): void => this.give(name, [own(connection)])
        const fd = listener.borrow()
        if (this.#isOwn(name)) await endListeners([fd], () => acceptWaiting(fd, give))
        const waiting: number[] = []
        acceptWaiting(fd, connection => void waiting.push(connection))
        listener.close()
        waiting.forEach(give)
      })
    )
  }

  #closeListeners(which: (lent: Loan) => boolean): void {
    for (const lent of this.#home.listeners.values()) if (which(lent) && !lent.listener.closed) lent.listener.close()
  }

  /** It is this process's to end for all that hold it: the supervisor is gone, or there is none, and no other program holds it. */
  #isOwn(name: string): boolean {
    if (this.#home.supervised && !this.#orphan) return false
    return this.#home.listeners.get(name)?.own === true && !this.#exposed.has(name)
  }

  #lent(name: string): Loan {
    const lent = this.#home.listeners.get(name)
    if (lent === undefined)
      throw new PassfdError('LISTENER_UNKNOWN', { name, names: [...this.#home.listeners.keys()].join(', ') })
    return lent
  }

  #all(): Serving[] {
    return [...this.#servers.values(), ...this.#receivers]
  }

  #servedBy(server: Server): ServedServer {
    let served = this.#servers.get(server)
    if (served === undefined) {
      served = new ServedServer(server)
      this.#servers.set(server, served)
    }
    return served
  }
}
mark(Worker, 'Worker')

/** The supervisor stops, and has shut it down: a TCP socket is no listener any more. */
function hasEnded(listener: Descriptor, own: boolean): boolean {
  return own && listener.kind === 'tcp'
}

function sum<T>(values: Iterable<T>, of: (value: T) => number): number {
  let total = 0
  for (const value of values) total += of(value)
  return total
}
