/** The listeners of a process that serves, by name, and the server of the program that serves each of them. */
import type { Server } from 'node:net'
import { PassfdError } from '../base/errors.ts'
import { throwLater } from '../base/throw-later.ts'
import { type Descriptor, own } from '../descriptor/descriptor.ts'
import { LISTENERS } from '../descriptor/kind.ts'
import type { ListenHandle } from '../descriptor/to-node.ts'
import { acceptUpTo, acceptWaiting } from '../os/acceptor.ts'
import type { AcceptSource, Begun } from './accept-sources.ts'
import { type ConnectionHandler, DescriptorIntake } from './descriptor-intake.ts'
import type { DrainOptions, Intake } from './intake.ts'
import { endListeners } from './last-accept.ts'
import { ListenerAddresses } from './listener-addresses.ts'
import type { Lane, ListenerGrant } from './listener-grant.ts'
import { PassedOn, type SendIdle } from './passed-on.ts'
import { ServerIntake } from './server-intake.ts'

/** Where the listeners come from. */
export interface ListenerSource {
  readonly listeners: ReadonlyMap<string, ListenerGrant>
  /** Other processes serve its listeners, too, or will. */
  isShared(name: string): boolean
  /** Called when a given connection has closed. Undefined: the origin does not need that. */
  readonly onClosed?: (() => void) | undefined
  /** Gives idle connections to another process. Undefined: there is none that takes them. */
  readonly sendIdle?: SendIdle | undefined
  /** `exposed`: the program has a copy of the listener. */
  uses?(name: string, how: { adopts: boolean; exposed: boolean }): void
  /** Its server was closed by the program. */
  leaves?(name: string): void
}

/** What the graceful end of a process needs of its listeners: see ServedListeners. */
export type EndingListeners = Pick<ServedListeners, 'intakes' | 'requests' | 'beginStop' | 'cutOff' | 'end' | 'drain'>

/** What a worker needs of its listeners. */
export type WorkerListeners = EndingListeners &
  Pick<ServedListeners, 'serve' | 'receive' | 'expose' | 'handle' | 'becomeOrphan' | 'suspend'>

interface ServedListener {
  readonly served: Intake
  /** The lanes from which it accepts, by number. */
  readonly lanes: Map<number, Promise<AcceptSource>>
}

export class ServedListeners {
  readonly #source: ListenerSource
  /** A program may close its server, and call its `listen()` again. */
  readonly #servers = new WeakMap<Server, ServerIntake>()
  /** Those that serve a listener, or have open connections. */
  readonly #active = new Set<ServerIntake>()
  /** The requests of those that do not. */
  #pastRequests = 0
  readonly #receivers: DescriptorIntake[] = []
  readonly #serving = new Map<string, ServedListener>()
  /** Listeners that the program itself got: it may have passed them on, so other programs may hold them. */
  readonly #exposed = new Set<string>()
  readonly #addresses = new ListenerAddresses()
  /** Copies for the next `attach()`. */
  readonly #reserved = new Map<Descriptor, Descriptor>()
  #held = false
  #stopping = false
  #ended = false
  #cutOff = false
  #orphan = false
  #elsewhere = false

  constructor(source: ListenerSource) {
    this.#source = source
  }

  /** The servers. */
  get intakes(): Intake[] {
    return [...this.#active, ...this.#receivers]
  }

  /** The number of requests that the servers have begun, also those that were closed. */
  get requests(): number {
    return this.intakes.reduce((sum, served) => sum + served.requests, this.#pastRequests)
  }

  /** Names of listeners that the program neither serves nor has got. */
  get unused(): string[] {
    return [...this.#source.listeners.keys()].filter(name => !this.#serving.has(name) && !this.#exposed.has(name))
  }

  /** @throws ERR_PASSFD_LISTENER_UNKNOWN */
  get(name: string): ListenerGrant {
    const grant = this.#source.listeners.get(name)
    if (grant === undefined)
      throw new PassfdError('LISTENER_UNKNOWN', { name, names: [...this.#source.listeners.keys()].join(', ') })
    return grant
  }

  /** While the listeners are held, it only checks the server. */
  async serve(name: string, server: Server): Promise<void> {
    await this.#serve(name, 'listen()', () => this.#servedBy(server))
  }

  /**
   * As `serve()`, for a server whose own `listen()` is being called. It listens when this returns, even while the listeners are held: then, and if
   * the supervisor decides who accepts, on a socket that nobody can reach.
   */
  async serveWithin(name: string, server: Server): Promise<void> {
    const intake = this.#servedBy(server, true)
    if (this.#held) intake.prepare()
    await this.#serve(name, 'listen()', () => intake)
  }

  /** The program has closed its server: no more is accepted from the listener. Open connections live on, and other workers accept. */
  leave(name: string): void {
    const entry = this.#serving.get(name)
    if (entry === undefined || this.#ended) return
    this.#serving.delete(name)
    for (const source of entry.lanes.values()) void source.then(one => one.remove())
    entry.served.closed?.()
    if (entry.served instanceof ServerIntake) this.#retire(entry.served)
    this.#source.leaves?.(name)
  }

  /** Forgets the server when its last connection has ended: a program may make any number of servers, one after the other. */
  #retire(intake: ServerIntake): void {
    intake.whenIdle(() => {
      if ([...this.#serving.values()].some(({ served }) => served === intake)) return
      if (this.#active.delete(intake)) this.#pastRequests += intake.requests
    })
  }

  /** Whether a server of this process serves it. */
  isServing(name: string): boolean {
    return this.#serving.has(name)
  }

  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    await this.#serve(name, 'receive()', () => {
      const receiver = new DescriptorIntake(handler)
      this.#receivers.push(receiver)
      return receiver
    })
  }

  async #serve(name: string, operation: string, serving: () => Intake): Promise<void> {
    const grant = this.get(name)
    if (this.#serving.has(name)) throw new PassfdError('LISTENER_SERVED', { name })
    const { kind } = grant.listener
    const ended = hasEnded(grant.listener, grant.own)
    if (!LISTENERS.includes(kind) && !ended)
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation,
        expected: LISTENERS.join(', '),
        actual: kind === 'udp' ? 'udp (use descriptor(name).toDatagram())' : `${kind} (use descriptor(name))`
      })
    const served = serving()
    const entry: ServedListener = { served, lanes: new Map() }
    this.#serving.set(name, entry)
    try {
      if (this.#held) served.check()
      else if ('dispatched' in grant || ended) served.prepare()
      else await this.#begin(name, entry, { name, ...grant }).listening
    } catch (error) {
      this.#serving.delete(name) // for another server
      if (served instanceof ServerIntake) this.#retire(served)
      throw error
    }
    // A program may have closed its server meanwhile
    if (!this.#stopping && this.#serving.get(name) === entry)
      this.#source.uses?.(name, { adopts: true, exposed: this.#exposed.has(name) })
  }

  /** Accepts from a copy of the grant's lane. */
  #begin(name: string, { served, lanes }: ServedListener, { lane, listener, backlog }: Lane): Begun {
    const copy = this.#reserved.get(listener) ?? listener.dup()
    this.#reserved.delete(listener)
    try {
      const begun = served.begin(copy, backlog, () => this.#isOwn(name))
      lanes.set(lane, Promise.resolve(begun.source))
      return begun
    } catch (error) {
      copy[Symbol.dispose]()
      throw error
    }
  }

  /** Returns a copy for the program, which may pass it on. */
  expose(name: string): Descriptor {
    const grant = this.get(name)
    if ('dispatched' in grant) throw new PassfdError('LISTENER_DISPATCHED', { name })
    const descriptor = grant.listener.dup()
    this.#exposed.add(name)
    this.#source.uses?.(name, { adopts: this.#serving.has(name), exposed: true })
    return descriptor
  }

  /** Returns a copy for the program's own `server.listen()`. */
  handle(name: string): ListenHandle {
    const handle = this.expose(name).toListenHandle()
    const { backlog } = this.get(name) as { backlog?: number }
    return backlog === undefined ? handle : Object.assign(handle, { backlog })
  }

  // --- accepting later, and not for a while

  /** Whether no server accepts now. */
  get held(): boolean {
    return this.#held
  }

  /** Until `attach()` no server accepts; after `pause()` none accepts any more. */
  hold(): void {
    this.#held = true
  }

  /**
   * Every server accepts when this returns; what accepts already is left alone. Nothing after `end()` has begun. `lanes`: all that there are, if
   * they are more than the source's; they stay the caller's.
   */
  attach(lanes: readonly Lane[] = this.#ownLanes()): void {
    this.#held = false
    if (this.#ended) return
    for (const [name, entry] of this.#serving) {
      if ('dispatched' in this.get(name)) entry.served.prepare()
      for (const lane of lanes) {
        if (lane.name !== name || entry.lanes.has(lane.lane)) continue
        // The program gets the server's 'error' event
        void this.#begin(name, entry, lane).listening.catch(() => {})
      }
    }
  }

  #ownLanes(): Lane[] {
    return [...this.#source.listeners].flatMap(([name, grant]) => ('dispatched' in grant ? [] : [{ name, ...grant }]))
  }

  /** Prepares an `attach(lanes)` that needs no new descriptor. @throws the system's error, and leaves no copy open. */
  reserve(lanes: readonly Lane[]): void {
    try {
      for (const { name, listener } of lanes)
        if (this.#serving.has(name) && !this.#reserved.has(listener)) this.#reserved.set(listener, listener.dup())
    } catch (error) {
      this.#closeReserved()
      throw error
    }
  }

  /** As `pause()`, but a later `attach(lanes)` needs no new descriptor. @throws the system's error, and accepts as before. */
  suspend(lanes: readonly Lane[]): void {
    this.reserve(lanes)
    try {
      for (const { served } of this.#serving.values()) served.beforeRemoval()
    } catch (error) {
      this.#closeReserved()
      throw error
    }
    this.pause()
  }

  #closeReserved(): void {
    for (const copy of this.#reserved.values()) copy.close()
    this.#reserved.clear()
  }

  /** Stops accepting. Open connections live on, and `attach()` may follow. */
  pause(): void {
    this.#held = true
    for (const { lanes } of this.#serving.values()) {
      for (const source of lanes.values()) void source.then(one => one.remove())
      lanes.clear()
    }
  }

  // --- what a supervisor lends and gives

  /** Accepts from a further lane of a listener, until the supervisor takes that back. */
  lend({ name, lane, listener, backlog, own }: Lane): void {
    const serving = this.#serving.get(name)
    const wanted = serving !== undefined && !this.#stopping && !serving.lanes.has(lane)
    if (!wanted || hasEnded(listener, own)) {
      listener.close()
      return
    }
    serving.lanes.set(
      lane,
      serving.served.add(listener.claim(), backlog, () => this.#isOwn(name))
    )
  }

  takeBack(name: string, lane: number): void {
    const lanes = this.#serving.get(name)?.lanes
    const lent = lanes?.get(lane)
    lanes?.delete(lane)
    void lent?.then(one => one.remove())
  }

  /** Accepts up to `count` waiting connections for `give`. `error`: why it could not accept more (-errno). */
  accept(name: string, count: number): { connections: Descriptor[]; error: number } {
    const connections: Descriptor[] = []
    const grant = this.#source.listeners.get(name)
    // After it has stopped, other workers accept the waiting connections
    if (this.#stopping || grant === undefined || !this.#serving.has(name)) return { connections, error: 0 }
    const error = acceptUpTo(grant.listener.borrow(), count, connection => void connections.push(own(connection)))
    return { connections, error }
  }

  /**
   * Serves each connection, even if the program's code throws for another one (in a 'drop' listener, for example). `idle`: another process has
   * served requests of them.
   */
  give(name: string, connections: readonly Descriptor[], idle = false): void {
    const served = this.#serving.get(name)?.served
    for (const connection of connections) {
      if (served === undefined || this.#cutOff) {
        connection.close()
        this.#source.onClosed?.()
        continue
      }
      try {
        served.give(connection, this.#source.onClosed, idle)
      } catch (error) {
        connection[Symbol.dispose]()
        throwLater(error)
      }
    }
  }

  // --- their end

  /** Called when the supervisor's process has ended. */
  becomeOrphan(): void {
    this.#orphan = true
  }

  /** Sets whether another supervisor may hold them, too. Then this process does not end them for all, even as an orphan. */
  share(elsewhere: boolean): void {
    this.#elsewhere = elsewhere
  }

  /** From now on no lane is lent, and no listener is newly served. Suspended ones may still be attached, until `end()`. */
  beginStop(): void {
    this.#stopping = true
  }

  /** From now on it closes connections that it is given. */
  cutOff(): void {
    this.#cutOff = true
  }

  /**
   * Stops accepting, and resolves when all are closed. `last`: this process serves the connections that wait in the queues. `alone`: names of
   * listeners that no other process goes on with, so that it serves those that wait there in any case.
   */
  async end(last: boolean | Promise<boolean>, alone: readonly string[] = []): Promise<void> {
    this.#ended = true
    this.#closeReserved()
    this.#addresses.note(this.#source.listeners)
    const emptied: Promise<void>[] = []
    for (const name of alone)
      for (const source of this.#serving.get(name)?.lanes.values() ?? []) emptied.push(source.then(one => one.empty()))
    if (emptied.length > 0) await Promise.all(emptied) // else at once
    const stopped = this.intakes.map(served => served.stopAccepting({ last }))
    this.#close(grant => !this.#isUnattached(grant)) // the servers have copies, and theirs must be the last ones
    await Promise.all(stopped)
    if (await last) await this.#acceptUnattached()
    this.#close(() => true)
  }

  /** No server accepts from it by itself: its supervisor dispatches it, or all are suspended. */
  #isUnattached(grant: ListenerGrant): boolean {
    return 'dispatched' in grant || this.#held
  }

  /**
   * Ends the open connections of all servers, after `end()`. Returns a promise for each, and one for connections that others go on with. `passes`:
   * other processes serve the listeners.
   */
  drain({ passes, ...options }: Omit<DrainOptions, 'pass'> & { passes: boolean }): Promise<void>[] {
    const { sendIdle } = this.#source
    if (!passes || sendIdle === undefined) return this.intakes.map(served => served.drain(options))
    const passedOn = new PassedOn(sendIdle)
    const drained = this.intakes.map(served =>
      served.drain({
        ...options,
        pass: connection => {
          const name = this.#addresses.listenerOf(connection, this.#namesOf(served))
          return name !== undefined && this.#source.isShared(name) && passedOn.add(name, connection)
        }
      })
    )
    return [...drained, Promise.all(drained).then(() => passedOn.done)]
  }

  #namesOf(served: Intake): string[] {
    return [...this.#serving].filter(([, entry]) => entry.served === served).map(([name]) => name)
  }

  /** Accepts the connections that wait in listeners without a server, because no other process does any more, and closes these listeners. */
  async #acceptUnattached(): Promise<void> {
    const unattached = [...this.#source.listeners].filter(
      ([name, grant]) => this.#serving.has(name) && this.#isUnattached(grant)
    )
    await Promise.all(
      unattached.map(async ([name, { listener }]) => {
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

  #close(which: (grant: ListenerGrant) => boolean): void {
    for (const grant of this.#source.listeners.values())
      if (which(grant) && !grant.listener.closed) grant.listener.close()
  }

  /** Whether this process may end it for all: no supervisor lives, and no other program holds it. */
  #isOwn(name: string): boolean {
    if (this.#elsewhere || (this.#source.isShared(name) && !this.#orphan)) return false
    return this.#source.listeners.get(name)?.own === true && !this.#exposed.has(name)
  }

  /** `within`: it is called by the server's own `listen()`. */
  #servedBy(server: Server, within = false): ServerIntake {
    let served = this.#servers.get(server)
    if (served === undefined) {
      served = new ServerIntake(server, within)
      this.#servers.set(server, served)
    }
    if (!this.#active.has(served)) {
      this.#active.add(served)
      this.#pastRequests -= served.requests // 0 of a new one
    }
    return served
  }
}

/** Whether the stopping supervisor has shut it down: then a TCP socket does not listen any more. */
function hasEnded(listener: Descriptor, own: boolean): boolean {
  return own && listener.kind === 'tcp'
}
