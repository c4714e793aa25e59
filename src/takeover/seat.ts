/** `takeOver()` and `Seat`: this process as the successor of one that serves, as the one that serves, and as the predecessor of the next one. */
import { EventEmitter } from 'node:events'
import type { Server } from 'node:net'
import { AsyncContext } from '../base/async-context.ts'
import { invalid } from '../base/check.ts'
import { deferred } from '../base/deferred.ts'
import { asError, PassfdError } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { version } from '../base/version.ts'
import { type BindSpec, type Descriptor, own } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import type { ListenHandle } from '../descriptor/to-node.ts'
import { listenOn, removeFile, type SocketFile } from '../os/socket-name.ts'
import type { ConnectionHandler } from '../serving/descriptor-intake.ts'
import { GracefulEnd } from '../serving/graceful-end.ts'
import { ServedListeners } from '../serving/served-listeners.ts'
import { readListeners } from '../serving/specs.ts'
import type { StopHandler } from '../serving/stop-handlers.ts'
import type { Draining, Offered, Program, StatePart } from './messages.ts'
import { settingsOf, type TakeOverOptions, type TakeOverSettings } from './options.ts'
import { BACKLOG, type FreezeContext, Owner, type Successor } from './owner.ts'
import { Life } from './pipes.ts'
import { SeatListeners } from './seat-listeners.ts'
import { GivenState, LockedState } from './state.ts'
import { apply, type Succession } from './succession.ts'

/** How often a superseded process looks how many connections are left, in ms. */
const LOOK = 1000

export interface ReadyOptions<State = unknown> {
  /**
   * Returns the state for this process's own successor: any value that a message can carry, with any number of Descriptors and Connections. passfd
   * sends copies. From its return until `thaw`, or the end of the process, the program doesn't touch what it has given.
   */
  freeze?(context: FreezeContext): State | Promise<State>
  /** The attempt has failed. `state` is the very value that `freeze` has returned, and everything in it is open and the program's. */
  thaw?(state: State): unknown
}

const READY_OPTIONS = { freeze: 'method', thaw: 'method' } as const

/** What a seat reports. Without a listener for `'report'` each is a process warning. */
export interface Report {
  readonly code:
    | 'address' // under a known name this program listens elsewhere
    | 'options' // a socket differs from what was asked
    | 'dropped' // the successor does not serve a listener; it is closed
    | 'unserved' // a listener without a server
    | 'silent' // the successor has committed and does not serve yet
    | 'failed' // an attempt to take over from this process has failed
    | 'stateLost' // the predecessor has died with its state
    | 'thaw' // `thaw` has failed, and the state was closed
    | 'path' // the takeover path can't be served
  readonly message: string
  /** The other process. */
  readonly pid?: number
  readonly name?: string
}

export interface SeatEvents {
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
 * Rejects with ERR_PASSFD_TAKEOVER_BUSY, _TIMEOUT, _VERSION, _LISTENERS, ERR_PASSFD_UNAUTHORIZED, an AbortError, or the system's error if a new
 * listener can't be bound. Nothing has moved then. A Descriptor in `listeners` is closed.
 */
export async function takeOver<State = unknown>(options: TakeOverOptions): Promise<Seat<State>> {
  const settings = settingsOf(options)
  const seat = new Seat<State>(settings)
  try {
    await open(seat, settings)
    return seat
  } catch (error) {
    await giveUp(seat)
    throw error
  }
}

/** @internal */
let open: (seat: Seat<any>, settings: TakeOverSettings) => Promise<void>
let giveUp: (seat: Seat<any>) => Promise<void>

type Phase = 'booting' | 'owner' | 'superseded' | 'stopped' | 'given up'

/** The place of a process that serves: the result of `takeOver()`. */
export class Seat<State = unknown> extends EventEmitter<SeatEvents> implements AsyncDisposable {
  readonly #settings: TakeOverSettings
  readonly #program: Program
  readonly #listeners = new SeatListeners()
  readonly #served: ServedListeners
  readonly #end: GracefulEnd
  readonly #context = new AsyncContext('PASSFD_SEAT')
  readonly #ended = deferred()
  readonly #predecessors = new Map<number, readonly Draining[]>()
  #phase: Phase = 'booting'
  #succession: Succession | undefined
  #path: Descriptor | undefined
  #file: SocketFile | undefined
  #life: Life | undefined
  #owner: Owner | undefined
  #inherited: LockedState | undefined
  #inheriting = false
  #ready: ReadyOptions<State> = {}
  /** What `freeze` has returned, for the attempt that is under way. */
  #given: GivenState | undefined
  /** Listeners that the successor of this attempt does not serve. */
  #alone: readonly string[] = []
  #successor: Successor | undefined
  #successorPid = 0
  #unlisten: () => void = () => {}
  /** Keeps the process running until its end: while it is frozen nothing else may. */
  #running: NodeJS.Timeout | undefined

  /** @internal */
  constructor(settings: TakeOverSettings) {
    super({ captureRejections: false })
    markUncloneable(this)
    this.#settings = settings
    this.#program = { pid: process.pid, passfd: version, runtime: `${process.release.name} ${process.version}` }
    this.#served = new ServedListeners({
      listeners: this.#listeners.grants,
      isShared: name => this.#phase === 'superseded' && !this.#alone.includes(name)
    })
    this.#served.hold()
    this.#end = new GracefulEnd(this.#served, settings, {
      leave: () => this.#leave(),
      exit: code => this.#exit(code)
    })
  }

  /** The process whose place this one takes or has taken; undefined: there was none. */
  get predecessor(): Peer | undefined {
    return this.#succession?.predecessor
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

  /** The superseded processes that still have connections, as they have told last. */
  get draining(): readonly Draining[] {
    return [...this.#predecessors.values()].flat()
  }

  /** Names of all listeners: those of the option, and those that `bind()` has added; without the option all that the predecessor has. */
  get names(): string[] {
    return [...this.#listeners.grants.keys()]
  }

  /**
   * Adds a listener before `ready()`: the predecessor's, if its name and address are the same, else a new one. For programs that learn only while
   * they boot what they listen on. Rejects with the system's error if it can't be bound. A Descriptor is moved in.
   */
  async bind(name: string, spec: BindSpec): Promise<void> {
    this.#mustBoot('bind()')
    const [read] = readListeners({ [name]: spec }, 'listeners').values()
    await this.#bind(name, read!)
  }

  /** The listener `name` of the predecessor is not served any more: the predecessor empties its queue and closes it after the commit. Before `ready()`. */
  drop(...names: string[]): void {
    this.#mustBoot('drop()')
    for (const name of names) if (typeof name !== 'string') throw invalid('name', 'a text', name)
    this.#dropped.push(...names)
  }
  readonly #dropped: string[] = []

  /**
   * Serves the connections of the listener `name` with a net, tls, http, https or http2 server. Resolves when the server is prepared; its
   * `'listening'` comes at the commit. The graceful end closes the server: don't close it yourself.
   * @throws (rejects) `ERR_PASSFD_LISTENER_UNKNOWN`; `ERR_PASSFD_LISTENER_SERVED`; `ERR_PASSFD_SERVER_CLOSED`.
   */
  async listen(name: string, server: Server): Promise<void> {
    this.#mustServe('listen()')
    await this.#served.serve(name, server)
  }

  /** Calls `handler` with each connection of the listener `name` as a Descriptor, which the handler owns; otherwise as `listen()`. */
  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    if (typeof handler !== 'function') throw invalid('handler', 'a function', handler)
    this.#mustServe('receive()')
    await this.#served.receive(name, handler)
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
   * Freezes the predecessor and resolves to its state; from then on nobody accepts, and the kernel queues, until `ready()`. Call it as late as
   * possible. Resolves to undefined if there is no predecessor, if that has no `freeze`, or if it has died with its state (see `'report'`).
   *
   * The value can be looked at at once. Its Descriptors and Connections are locked until `ready()` has resolved: every use throws
   * ERR_PASSFD_TAKEOVER_NOT_READY. Rejects with what the predecessor's `freeze` has thrown; the predecessor serves on, and this process may still
   * call `ready()`, and does without the state then. `accepts`: any value, for the predecessor's `freeze`.
   */
  async inherit(options: { accepts?: unknown } = {}): Promise<State | undefined> {
    const { accepts } = readOptions(options, { accepts: true } as const)
    this.#mustBoot('inherit()')
    if (this.#inheriting || this.#inherited !== undefined)
      throw new PassfdError('TAKEOVER_BEGUN', { operation: 'inherit()', why: 'it was called before' })
    const succession = this.#succession
    if (succession === undefined) return undefined
    this.#inheriting = true
    try {
      const parts = await succession.inherit(accepts)
      if (parts === undefined) {
        const { pid } = succession.predecessor
        this.#report('stateLost', `Process ${pid} has died before it had given its state.`, { pid })
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
  async ready(options: ReadyOptions<State> = {}): Promise<void> {
    const ready = readOptions(options, READY_OPTIONS)
    for (const name of ['freeze', 'thaw'] as const)
      if (ready[name] !== undefined && typeof ready[name] !== 'function')
        throw invalid(`options.${name}`, 'a function', ready[name])
    this.#mustBoot('ready()')
    if (this.#inheriting)
      throw new PassfdError('TAKEOVER_BEGUN', { operation: 'ready()', why: 'inherit() is still under way' })
    await this.#sendDrops()
    this.#mustBoot('ready()')
    this.#ready = {
      ...(ready.freeze === undefined ? {} : { freeze: inContext(ready.freeze) }),
      ...(ready.thaw === undefined ? {} : { thaw: inContext(ready.thaw) })
    }
    const accepting = this.#commit()
    this.#reportUnserved()
    await accepting.catch(error => this.#report('path', `The takeover path can't be served: ${asError(error).message}`))
  }

  /** Stops gracefully and ends the process. During an attempt of a successor it waits for the outcome. Before `ready()` it gives up. */
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
    const { path, listeners, drop, signal, authorize } = this.#settings
    this.#dropped.push(...drop)
    for (;;) {
      this.#succession = await apply({
        path,
        program: this.#program,
        wants: listeners === undefined ? undefined : [...listeners.keys()],
        limits: this.#settings,
        authorize,
        signal
      })
      if (this.#succession !== undefined || (await this.#bindPath())) break
    }
    this.#listenToSignals()
    this.#running = setInterval(() => {}, MAX_TIMEOUT)
    if (this.#succession !== undefined) this.#listeners.offer(this.#succession.listeners)
    if (listeners === undefined) this.#listeners.takeAll()
    const binding = [...(listeners ?? [])].map(([name, spec]) => this.#bind(name, spec))
    const failed = (await Promise.allSettled(binding)).find(({ status }) => status === 'rejected')
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
    if (listeners !== undefined) this.#checkLeft()
  }

  /** False: another process is there by now. */
  async #bindPath(): Promise<boolean> {
    const { path, access } = this.#settings
    try {
      const { fd, file } = await listenOn({ path }, access, BACKLOG)
      this.#path = own(fd)
      this.#file = file
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
      return false
    }
  }

  async #bind(name: string, spec: Parameters<SeatListeners['bind']>[1]): Promise<void> {
    const before = this.#listeners.left.includes(name)
    const differences = await this.#listeners.bind(name, spec)
    const pid = this.predecessor?.pid
    if (differences === undefined && before)
      this.#report('address', `The listener ${name} has another address than that of process ${pid}.`, { pid, name })
    for (const { option, asked, actual } of differences ?? [])
      this.#report(
        'options',
        option === 'backlog'
          ? `The socket of the listener ${name} has the backlog ${actual}; from the commit on it has ${asked}.`
          : `The socket of the listener ${name} keeps ${option} ${actual}; asked was ${asked}. Restart the service to change it.`,
        { pid, name }
      )
  }

  /** Every listener of the predecessor was decided on. */
  #checkLeft(): void {
    const undecided = this.#listeners.left.filter(name => !this.#listeners.has(name) && !this.#dropped.includes(name))
    if (undecided.length > 0)
      throw new PassfdError('TAKEOVER_LISTENERS', { pid: this.predecessor!.pid, names: undecided.join(', ') })
  }

  async #sendDrops(): Promise<void> {
    const succession = this.#succession
    if (succession === undefined) return
    if (this.#settings.listeners === undefined) this.#listeners.leave(this.#dropped)
    this.#checkLeft()
    const { left } = this.#listeners
    if (left.length === 0) return
    try {
      await succession.drop(left)
    } catch (error) {
      if (succession.defeat !== undefined) throw error
      // The predecessor is dead, or its channel is: it decides by the pipes what it does
    }
    for (const name of left)
      this.#report('dropped', `The listener ${name} of process ${succession.predecessor.pid} is served no more.`, {
        pid: succession.predecessor.pid,
        name
      })
  }

  /** All of it happens in this turn of the event loop. */
  #commit(): Promise<void> {
    const succession = this.#succession
    if (succession === undefined) {
      this.#life = new Life()
      return this.#attach(this.#path!)
    }
    let accepting!: Promise<void>
    try {
      succession.commit(() => {
        accepting = this.#attach(succession.path)
      })
    } catch (error) {
      this.#served.pause()
      this.#owner = undefined
      this.#phase = 'booting'
      void this.#giveUp()
      throw error
    }
    this.#listeners.closeLeft()
    this.#inherited?.unlock()
    this.#inherited = undefined
    this.#followPredecessor(succession)
    return accepting
  }

  #attach(path: Descriptor): Promise<void> {
    const succession = this.#succession
    this.#life ??= succession!.life
    this.#path = path
    this.#listeners.listen()
    this.#served.attach(this.#listeners.lanes)
    this.#phase = 'owner'
    const { attemptTimeout, freezeTimeout, busy, authorize } = this.#settings
    const { owner, accepting } = Owner.begin(
      {
        path,
        program: this.#program,
        generation: succession?.generation ?? 1,
        limits: { attemptTimeout, freezeTimeout, busy },
        authorize,
        chain: () => [...this.draining],
        hooks: {
          offer: wants => this.#offer(wants),
          drops: names => {
            this.#alone = names
          },
          freeze: context => this.#freeze(context),
          rollBack: how => this.#rollBack(how),
          letGo: (successor, to) => this.#letGo(successor, to),
          report: (code, { pid }, detail) => this.#report(code, `Process ${pid} takes over: ${detail}.`, { pid })
        }
      },
      this.#life
    )
    this.#owner = owner
    return accepting
  }

  #followPredecessor(succession: Succession): void {
    const { pid } = succession.predecessor
    succession.listenTo({
      onLeft: (connections, chain) => this.#leftOf(pid, [{ pid, connections }, ...chain]),
      onConnections: (name, connections) => this.#served.give(name, connections),
      onEnd: () => this.#leftOf(pid, [])
    })
  }

  #leftOf(pid: number, processes: readonly Draining[]): void {
    if (processes.length > 0) this.#predecessors.set(pid, processes)
    else if (!this.#predecessors.delete(pid)) return
    this.#context.emit(this, 'draining', this.draining)
  }

  async #giveUp(): Promise<void> {
    if (this.#phase !== 'booting') return
    this.#phase = 'given up'
    this.#unlisten()
    clearInterval(this.#running)
    this.#inherited?.close()
    this.#inherited = undefined
    this.#succession?.giveUp()
    const { listeners } = this.#settings
    for (const spec of listeners?.values() ?? []) if (Symbol.dispose in spec) spec[Symbol.dispose]()
    await this.#listeners.close(true)
    if (this.#succession !== undefined) return
    if (this.#file !== undefined) await removeFile(this.#file)
    if (this.#path?.closed === false) this.#path.close()
    this.#life?.end()
  }

  // --- as the owner

  #offer(wants: readonly string[] | undefined): Offered[] {
    this.#alone = wants === undefined ? [] : this.names.filter(name => !wants.includes(name))
    return this.#listeners.copies()
  }

  async #freeze(context: FreezeContext): Promise<readonly StatePart[]> {
    const { freeze } = this.#ready
    if (freeze === undefined) return new GivenState(undefined).parts
    this.#served.pause()
    let returned: { value: State } | undefined
    try {
      returned = { value: await freeze(context) }
      if (context.signal.aborted)
        throw new PassfdError('TAKEOVER_OVER', { pid: context.successor.pid, why: 'freeze() has taken too long' })
      const given = new GivenState(returned.value)
      this.#given = given
      return given.parts
    } catch (error) {
      // After the end of the attempt it accepts already
      if (!context.signal.aborted) this.#accept()
      if (returned !== undefined) this.#thaw(returned.value)
      const { pid } = context.successor
      this.#report('failed', `Process ${pid} gets no state: ${asError(error).message}`, { pid })
      throw error
    }
  }

  #accept(): void {
    this.#served.attach(this.#listeners.lanes)
  }

  #thaw(value: State): void {
    const { thaw } = this.#ready
    void (async () => thaw?.(value))().catch(error => {
      new GivenState(value).close()
      this.#report('thaw', `thaw() has failed, and the state was closed: ${asError(error).message}`)
    })
  }

  #rollBack({ frozen, listens }: { frozen: boolean; listens: boolean }): void {
    this.#alone = []
    if (listens) this.#listeners.listen()
    const given = this.#given
    this.#given = undefined
    if (frozen && this.#ready.freeze !== undefined) this.#accept()
    if (given !== undefined) this.#thaw(given.value as State)
  }

  #letGo(successor: Peer, to: Successor): void {
    this.#phase = 'superseded'
    this.#owner = undefined
    this.#successor = to
    this.#successorPid = successor.pid
    this.#given?.close()
    this.#given = undefined
    const { pid } = successor
    for (const name of this.#alone)
      this.#report('dropped', `The listener ${name} is served no more, by a decision of process ${pid}.`, { pid, name })
    this.#context.emit(this, 'superseded', successor)
    this.#listeners.closeFurther()
    void this.#end.begin({ last: false, alone: this.#alone, atOnce: true })
    const look = setInterval(() => to.left(this.connections, [...this.draining]), LOOK).unref()
    to.left(this.connections, [...this.draining])
    void this.#ended.promise.then(() => clearInterval(look))
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

  async #stop(): Promise<void> {
    if (this.#phase === 'booting') await this.#giveUp()
    // An attempt has its outcome first: it may supersede this process
    await this.#owner?.stop()
    if (this.#phase === 'owner') {
      this.#phase = 'stopped'
      this.#listeners.closeFurther()
    }
    await this.#end.begin({ last: this.#phase === 'stopped', atOnce: this.#phase === 'given up' })
  }

  async #leave(): Promise<void> {
    await this.#successor?.end()
    this.#life?.end()
    await this.#listeners.close(false)
  }

  #exit(code: number | string): void {
    this.#unlisten()
    clearInterval(this.#running)
    this.#ended.resolve()
    if (!this.#settings.exit) return
    process.exit(this.superseded && code === 0 ? this.#settings.supersededStatus : code)
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
        return `process ${this.#successorPid} has taken over`
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
      this.#report(
        'unserved',
        `Nothing serves the listener ${name}: its clients wait for ever. Call seat.listen() before seat.ready().`,
        { name }
      )
  }

  #report(code: Report['code'], message: string, more: { pid?: number | undefined; name?: string } = {}): void {
    const report = { code, message, ...more } as Report
    if (this.#context.emit(this, 'report', report)) return
    process.emitWarning(message, { type: 'TakeoverWarning', code: `PASSFD_TAKEOVER_${code.toUpperCase()}` })
  }

  static {
    open = seat => seat.#open()
    giveUp = seat => seat.#giveUp()
  }
}
mark(Seat, 'Seat')

/** In the async context of the `ready()` call, each time. */
function inContext<A, R>(callback: (argument: A) => R): (argument: A) => R {
  const context = new AsyncContext('PASSFD_SEAT')
  return argument => context.run(callback, undefined, argument)
}
