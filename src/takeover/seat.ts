/** `takeOver()` and `Seat`: this process as the successor of one that serves, as the one that serves, and as the predecessor of the next one. */
import { EventEmitter } from 'node:events'
import type { Server } from 'node:net'
import { AsyncContext } from '../base/async-context.ts'
import { invalid } from '../base/check.ts'
import { deferred } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { type BindSpec, Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import type { ListenHandle } from '../descriptor/to-node.ts'
import type { ConnectionHandler } from '../serving/descriptor-intake.ts'
import { GracefulEnd } from '../serving/graceful-end.ts'
import { ServedListeners } from '../serving/served-listeners.ts'
import { type ListenerSpec, readListeners } from '../serving/specs.ts'
import type { StopHandler } from '../serving/stop-handlers.ts'
import type { Draining } from './messages.ts'
import { settingsOf, type TakeOverOptions, type TakeOverSettings } from './options.ts'
import { Place, type Report, warnOf } from './place.ts'
import { SeatListeners } from './seat-listeners.ts'
import { type ReadyOptions, SeatState } from './seat-state.ts'
import { ADMIN } from './served-socket.ts'
import { LockedState } from './state.ts'

const READY_OPTIONS = { freeze: 'method', thaw: 'method' } as const

export interface SeatEvents {
  /** What a takeover has changed or could not do. Without a listener it is a process warning, TakeoverWarning. */
  report: [report: Report]
  /** A successor serves. This process stops accepting, finishes what it has, and ends. */
  superseded: [successor: Peer]
  /** The superseded processes that still have connections, oldest last. */
  draining: [processes: readonly Draining[]]
}

/**
 * Takes the place of the process that serves at `options.path`, or the first place there. Resolves when this process has the listeners; until
 * `ready()` the predecessor accepts and serves as if nothing had happened.
 *
 * Rejects with ERR_PASSFD_TAKEOVER_BUSY, _TIMEOUT, _VERSION, _LISTENERS, ERR_PASSFD_UNAUTHORIZED, ERR_PASSFD_PEER if the owner does not admit
 * this process, an AbortError, or the system's error if a new listener can't be bound. Nothing has moved then. A Descriptor in `listeners` is closed.
 */
export async function takeOver<State = unknown>(options: TakeOverOptions): Promise<Seat<State>> {
  const settings = settingsOf(options)
  const seat = new Seat<State>(settings)
  try {
    await open(seat, settings)
    setImmediate(reportHeld, seat) // the program listens by then
    return seat
  } catch (error) {
    await giveUp(seat)
    throw error
  }
}

/** @internal */
let open: (seat: Seat<any>, settings: TakeOverSettings) => Promise<void>
let giveUp: (seat: Seat<any>) => Promise<void>
/** @internal */
let reportHeld: (seat: Seat<any>) => void

type Phase = 'booting' | 'owner' | 'superseded' | 'stopped' | 'given up'

/** The place of a process that serves: the result of `takeOver()`. */
export class Seat<State = unknown> extends EventEmitter<SeatEvents> implements AsyncDisposable {
  readonly #settings: TakeOverSettings
  readonly #place: Place
  readonly #listeners = new SeatListeners()
  readonly #served: ServedListeners
  readonly #end: GracefulEnd
  readonly #context = new AsyncContext('PASSFD_SEAT')
  readonly #ended = deferred()
  #dropped: readonly string[]
  /** `bind()` was called, so the names that the predecessor knows are outdated. */
  #boundLater = false
  #phase: Phase = 'booting'
  #inherited: LockedState | undefined
  #inheriting = false
  /** A stop came before `ready()`, and the process will end: see `#unlessLeaving()`. */
  #leaving = false
  /** `ready()` was called, and has not committed yet. */
  #committing = false
  readonly #state: SeatState
  /** Listeners that the successor does not serve. */
  #alone: readonly string[] = []
  #unlisten: () => void = () => {}
  /** Reports from the time before the program has this seat and can add listeners. */
  #held: Report[] | undefined = []
  /** Keeps the process running until its end, because nothing else may while it is frozen. */
  #running: NodeJS.Timeout | undefined

  /** @internal */
  constructor(settings: TakeOverSettings) {
    super()
    markUncloneable(this)
    this.#settings = settings
    this.#dropped = settings.drop
    this.#served = new ServedListeners({
      listeners: this.#listeners.grants,
      isShared: name => this.#phase === 'superseded' && !this.#alone.includes(name),
      sendIdle: settings.passIdle ? (name, connections) => this.#place.give(name, connections, 0) : undefined
    })
    this.#served.hold()
    this.#end = new GracefulEnd(this.#served, settings, {
      stopping: () => this.#stopping(),
      leave: () => this.#leave(),
      exit: code => this.#exit(code)
    })
    this.#state = new SeatState({
      suspend: () => this.#served.suspend(this.#listeners.lanes),
      accept: () => this.#accept(),
      report: report => this.#report(report)
    })
    this.#place = new Place(settings, {
      names: () => this.names,
      copies: () => this.#listeners.copies(),
      freeze: context => this.#state.freeze(context),
      rollBack: how => this.#rollBack(how),
      letGo: (successor, alone) => this.#letGo(successor, alone),
      onConnections: (name, connections, slot) => this.#served.give(name, connections, slot !== undefined),
      onDraining: () => void this.#emit('draining', this.draining),
      connections: () => this.connections,
      report: report => this.#report(report)
    })
  }

  /** The process whose place this one takes or has taken; undefined: there was none. */
  get predecessor(): Peer | undefined {
    return this.#place.predecessor
  }

  /** Whether a successor serves in this process's place. */
  get superseded(): boolean {
    return this.#phase === 'superseded'
  }

  /** Aborts when this process stops accepting: superseded, by a signal, or by `stop()`. Then end responses that have no end of their own. */
  get signal(): AbortSignal {
    return this.#end.signal
  }

  /** Aborts as soon as it is known that this process will stop, at the latest together with `signal`: see the option `lameDuck`. */
  get lameDuck(): AbortSignal {
    return this.#end.lameDuck
  }

  /** Resolves when a process with `exit: false` has drained and its `onStop` handlers are done. */
  get ended(): Promise<void> {
    return this.#ended.promise
  }

  /** Connections that the servers of this process have open. */
  get connections(): number {
    return this.#end.connections
  }

  /** The superseded processes that still have connections, with their last reported numbers. */
  get draining(): readonly Draining[] {
    return this.#place.draining
  }

  /** Names of all listeners: those of the option, and those that `bind()` has added; without the option all that the predecessor has. */
  get names(): string[] {
    return [...this.#listeners.grants.keys()]
  }

  /**
   * Adds a listener before `ready()`: the predecessor's, if its name and address are the same, else a new one.
   *
   * For programs that learn only while they boot what they listen on: leave the option `listeners` out there, because `takeOver()` requires that
   * it lists or drops all of the predecessor's. It cancels an earlier `drop(name)`.
   *
   * Rejects with the system's error if the listener can't be bound. A Descriptor is moved in.
   */
  async bind(name: string, spec: BindSpec): Promise<void> {
    this.#mustBoot('bind()')
    const [read] = readListeners({ [name]: spec }, 'listeners').values()
    this.#boundLater = true
    this.#dropped = this.#dropped.filter(one => one !== name)
    await this.#bind(name, read!)
  }

  /** Leaves these listeners of the predecessor, before `ready()`. After the commit the predecessor serves the clients in their queues, and closes them. */
  drop(...names: string[]): void {
    this.#mustBoot('drop()')
    for (const name of names) if (typeof name !== 'string') throw invalid('name', 'a text', name)
    this.#dropped = [...this.#dropped, ...names]
  }

  /**
   * Serves the connections of the listener `name` with a net, tls, http, https or http2 server. Resolves when the server is prepared; its
   * `'listening'` comes at the commit. The graceful end closes the server: don't close it yourself.
   * @throws (rejects) `ERR_PASSFD_LISTENER_UNKNOWN`; `ERR_PASSFD_LISTENER_SERVED`; `ERR_PASSFD_SERVER_CLOSED`.
   */
  listen(name: string, server: Server): Promise<void> {
    return this.#unlessLeaving(async () => {
      this.#mustServe('listen()')
      await this.#served.serve(name, server)
      this.#acceptFurther()
    })
  }

  /** Calls `handler` with each connection of the listener `name` as a Descriptor, which the handler owns; otherwise as `listen()`. */
  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    this.#mustServe('receive()')
    await this.#served.receive(name, handler)
    this.#acceptFurther()
  }

  /**
   * Returns a handle of the listener `name` for your own `server.listen()`. Call that after `ready()`, and close the server when `signal` aborts.
   * @throws `ERR_PASSFD_LISTENER_UNKNOWN`.
   */
  listener(name: string): ListenHandle {
    return this.descriptor(name).toListenHandle()
  }

  /**
   * Returns a duplicate of the listener `name`, which the caller owns: of a UDP, SEQPACKET or datagram socket, for example. Read from it only after
   * `ready()`, and stop when `signal` aborts or `freeze` is called: two readers do not both get a datagram.
   */
  descriptor(name: string): Descriptor {
    this.#mustServe('descriptor()')
    return this.#served.expose(name)
  }

  /** Calls `handler` when the process stops and its HTTP requests are finished: see `Worker.onStop`. */
  onStop(handler: StopHandler): void {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    this.#end.onStop(handler)
  }

  /**
   * Freezes the predecessor and resolves to its state; from then on nobody accepts, and the kernel queues, until `ready()`.
   *
   * Call it as late as possible: the predecessor goes on by itself when its `freezeTimeout` is over. Resolves to undefined if there is no
   * predecessor, if that has no `freeze`, or if it has died with its state (see `'report'`).
   *
   * The program can read the value at once. Its Descriptors and Connections are locked until `ready()` has resolved: every use throws
   * ERR_PASSFD_TAKEOVER_NOT_READY. If this process gives up, passfd closes them here. `accepts`: any value, for the predecessor's `freeze`.
   *
   * Rejects with ERR_PASSFD_REMOTE if the predecessor's `freeze` has failed (`remote` has its error). The predecessor serves on, and this process
   * may call it again, or call `ready()` and do without the state. Rejects with ERR_PASSFD_TAKEOVER_OVER if the state was not complete within
   * `inheritTimeout`; then `ready()` fails, too.
   */
  inherit(options: { accepts?: unknown } = {}): Promise<State | undefined> {
    return this.#unlessLeaving(() => this.#inherit(options))
  }

  async #inherit(options: { accepts?: unknown }): Promise<State | undefined> {
    const { accepts } = readOptions(options, { accepts: true } as const)
    this.#mustBoot('inherit()')
    if (this.#committing)
      throw new PassfdError('TAKEOVER_BEGUN', { operation: 'inherit()', why: 'ready() is under way' })
    if (this.#inheriting || this.#inherited !== undefined)
      throw new PassfdError('TAKEOVER_BEGUN', { operation: 'inherit()', why: 'it was called before' })
    const { succession } = this.#place
    if (succession === undefined) return undefined
    this.#inheriting = true
    try {
      const parts = await succession.inherit(accepts)
      if (parts === undefined) {
        const { pid } = succession.predecessor
        this.#report({ code: 'stateLost', message: `Process ${pid} has died before it had given its state.`, pid })
        return undefined
      }
      this.#inherited = new LockedState(parts)
      return this.#inherited.value as State
    } finally {
      this.#inheriting = false
    }
  }

  /**
   * The commit: from here on this process serves, and the predecessor drains and ends. Resolves when every server accepts; what `inherit()` has
   * given is this program's then.
   *
   * Rejects with ERR_PASSFD_TAKEOVER_TOO_LATE if the predecessor has gone on meanwhile, ERR_PASSFD_TAKEOVER_OVER, or
   * ERR_PASSFD_TAKEOVER_LISTENERS. The predecessor serves then, and all that this process was given is closed, except after _LISTENERS.
   */
  ready(options: ReadyOptions<State> = {}): Promise<void> {
    return this.#unlessLeaving(() => this.#commitWith(options))
  }

  async #commitWith(options: ReadyOptions<State>): Promise<void> {
    const ready = readOptions(options, READY_OPTIONS)
    for (const name of ['freeze', 'thaw'] as const)
      if (ready[name] !== undefined && typeof ready[name] !== 'function')
        throw invalid(`options.${name}`, 'a function', ready[name])
    this.#mustBoot('ready()')
    this.#reportHeld()
    if (this.#inheriting)
      throw new PassfdError('TAKEOVER_BEGUN', { operation: 'ready()', why: 'inherit() is still under way' })
    this.#committing = true
    try {
      await this.#sendDrops()
    } finally {
      this.#committing = false
    }
    this.#mustBoot('ready()')
    this.#state.use(ready as ReadyOptions)
    const accepting = this.#commit()
    this.#reportUnserved()
    await accepting
  }

  /**
   * Stops gracefully and ends the process; with `exit: false` it resolves then, otherwise never.
   *
   * It serves the clients that wait in the queues. During an attempt of a successor it waits for the outcome, which may be that the successor
   * serves. Before `ready()` it gives up, and the predecessor goes on.
   */
  async stop(): Promise<void> {
    this.#end.endLameDuck()
    await this.#stop()
    return this.#settings.exit ? deferred().promise : this.ended
  }

  /** Before `ready()` it gives up: the predecessor goes on. Afterwards as `stop()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#phase === 'booting') await this.#giveUp()
    else if (this.#phase !== 'given up') await this.stop()
  }

  // --- taking over

  async #open(): Promise<void> {
    const { listeners, signal } = this.#settings
    const offered = await this.#place.take(listeners === undefined ? undefined : [...listeners.keys()], signal)
    this.#listenToSignals()
    this.#running = setInterval(() => {}, MAX_TIMEOUT)
    this.#listeners.offer(offered, this.predecessor?.pid ?? 0)
    if (listeners === undefined) this.#listeners.takeAll()
    const binding = [...(listeners ?? [])].map(([name, spec]) => this.#bind(name, spec))
    const failed = (await Promise.allSettled(binding)).find(({ status }) => status === 'rejected')
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
    if (listeners !== undefined) this.#checkLeft()
  }

  async #bind(name: string, spec: ListenerSpec): Promise<void> {
    for (const report of await this.#listeners.bind(name, spec)) this.#report(report)
  }

  /** Checks that each listener of the predecessor is served or dropped. */
  #checkLeft(): void {
    this.#place.checkDecided(this.#listeners.undecided(this.#dropped))
  }

  async #sendDrops(): Promise<void> {
    if (this.#settings.listeners === undefined) this.#listeners.leave(this.#dropped)
    this.#checkLeft()
    const left = this.#listeners.left.filter(name => name !== ADMIN)
    if (left.length > 0 || this.#boundLater) await this.#place.drop(left)
  }

  /** Commits, entirely within this turn of the event loop. */
  #commit(): Promise<void> {
    try {
      this.#place.succession?.checkUndefeated()
      this.#served.reserve(this.#listeners.lanes) // before the byte: without descriptors the predecessor serves on
      this.#place.win()
    } catch (error) {
      void this.#giveUp()
      throw error
    }
    try {
      this.#listeners.listen()
      this.#served.attach(this.#listeners.lanes)
      this.#place.mark()
    } catch (error) {
      this.#place.fail()
      void this.#giveUp()
      throw error
    }
    this.#phase = 'owner'
    const accepting = this.#place.serve()
    this.#listeners.closeLeft()
    this.#inherited?.unlock()
    this.#inherited = undefined
    return accepting
  }

  async #giveUp(): Promise<void> {
    if (this.#phase !== 'booting') return
    this.#phase = 'given up'
    this.#unlisten()
    clearInterval(this.#running)
    this.#inherited?.close()
    this.#inherited = undefined
    void this.#served.end(false) // in this turn, as the predecessor accepts again
    for (const spec of this.#settings.listeners?.values() ?? []) if (spec instanceof Descriptor) spec[Symbol.dispose]()
    const listeners = this.#listeners.close(true) // before the predecessor's are closed, of which these have the same objects
    await this.#place.giveUp()
    await listeners
  }

  // --- as the owner

  #accept(): void {
    this.#served.attach(this.#listeners.lanes)
  }

  /** Accepts from the further lanes of listeners that are served only after `ready()`. */
  #acceptFurther(): void {
    if (this.#phase === 'owner' && !this.#served.held) this.#accept()
  }

  #rollBack({ frozen, listens }: { frozen: boolean; listens: boolean }): void {
    if (listens) this.#listeners.listen()
    if (frozen) this.#state.takeBack()
  }

  #letGo(successor: Peer, alone: readonly string[]): void {
    this.#phase = 'superseded'
    const { init } = this.#place
    if (init !== undefined && this.#settings.signals) {
      this.#unlisten()
      init.passSignals()
    }
    this.#alone = alone
    this.#state.letGo()
    this.#listeners.closeFurther()
    this.#end.endLameDuck()
    void this.#end.begin({ last: false, alone: () => this.#alone, atOnce: true })
    this.#emit('superseded', successor)
  }

  // --- its end

  #listenToSignals(): void {
    if (!this.#settings.signals) return
    let told = false
    const stop = (): void => {
      if (told) this.#end.hurry()
      else void this.#stop()
      told = true
    }
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, stop)
    this.#unlisten = () => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, stop)
    }
  }

  /** Does not settle if the process is ending after TERM, because a rejection would end the program with status 1. */
  async #unlessLeaving<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!this.#leaving) throw error
      return new Promise(() => {})
    }
  }

  async #stop(): Promise<void> {
    if (this.#phase === 'booting') {
      this.#leaving = this.#settings.exit
      await this.#giveUp()
    }
    const atOnce = this.#phase === 'given up'
    await this.#end.begin({ last: async () => this.#phase === 'stopped', alone: () => this.#alone, atOnce })
  }

  /** Waits for the outcome of an attempt under way, because a successor may be taking over. */
  async #stopping(): Promise<void> {
    await this.#place.stop()
    if (this.#phase !== 'owner') return
    this.#phase = 'stopped'
    this.#listeners.closeFurther()
  }

  async #leave(): Promise<void> {
    await this.#place.leave()
    await this.#listeners.close(false)
  }

  #exit(code: number | string): void {
    this.#unlisten()
    clearInterval(this.#running)
    this.#ended.resolve()
    if (!this.#settings.exit) return
    const { init } = this.#place
    if (this.superseded && init !== undefined) void init.ended().then(status => process.exit(status))
    else process.exit(this.superseded ? this.#settings.supersededStatus : code)
  }

  #mustBoot(operation: string): void {
    if (this.#phase !== 'booting') throw new PassfdError('TAKEOVER_BEGUN', { operation, why: this.#why() })
  }

  #mustServe(operation: string): void {
    if (this.#phase !== 'booting' && this.#phase !== 'owner')
      throw new PassfdError('TAKEOVER_BEGUN', { operation, why: this.#why() })
  }

  #why(): string {
    switch (this.#phase) {
      case 'superseded':
        return `process ${this.#place.successor!.pid} has taken over`
      case 'given up':
        return 'this process has given up, and its predecessor serves'
      case 'stopped':
        return 'this process stops'
      default:
        return 'ready() was called before'
    }
  }

  #reportUnserved(): void {
    for (const name of this.#served.unused)
      this.#report({
        code: 'unserved',
        message: `Nothing serves the listener ${name}: its clients wait for ever. Call seat.listen() before seat.ready().`,
        name
      })
  }

  #report(report: Report): void {
    if (this.#held !== undefined) this.#held.push(report)
    else if (!this.#emit('report', report)) warnOf(report)
  }

  /** Nothing that a listener throws disturbs the takeover. False: there is none. */
  #emit<Name extends keyof SeatEvents>(name: Name, ...values: SeatEvents[Name]): boolean {
    return this.#context.tell(this, name, ...values)
  }

  #reportHeld(): void {
    const held = this.#held ?? []
    this.#held = undefined
    for (const report of held) this.#report(report)
  }

  static {
    open = seat => seat.#open()
    giveUp = seat => seat.#giveUp()
    reportHeld = seat => seat.#reportHeld()
  }
}
mark(Seat, 'Seat')
