/** `joinSupervisor`: how a worker's program finds its supervisor, or does without. */

import { setImmediate } from 'node:timers'
import { setTimeout as later } from 'node:timers/promises'
import { isMainThread } from 'node:worker_threads'
import { checkInteger, checkType } from '../../base/check.ts'
import { asError, PassfdError } from '../../base/errors.ts'
import { type KnownOptions, readOptions } from '../../base/known-options.ts'
import { MAX_TIMEOUT } from '../../base/timers.ts'
import { type Channel, sessionOf } from '../../channel/channel.ts'
import { connect, pair } from '../../channel/connect.ts'
import type { Message } from '../../channel/message.ts'
import { CHANNEL_OPTIONS, type ChannelOptions } from '../../channel/options.ts'
import { type BindSpec, Descriptor } from '../../descriptor/descriptor.ts'
import { native } from '../../os/native.ts'
import { removeFile } from '../../os/socket-name.ts'
import {
  type Accept,
  APPLICATION_NUMBER,
  CONTROL_NUMBER,
  type FromSupervisor,
  type FromWorker,
  LEAST,
  type Loan,
  MAX_UNCONFIRMED,
  NEWEST,
  SUPERVISOR_VARIABLE,
  type Welcome
} from '../control/control.ts'
import { type Bound, bind, closeBound } from '../listen/bound-socket.ts'
import { type ListenerSpec, readListeners } from '../specs.ts'
import { type Home, type Standing, Worker } from './worker.ts'

export interface JoinOptions {
  /** What to listen on when the program was not started by a supervisor. Default: then it is an error. */
  standalone?: Record<string, BindSpec>
  /**
   * Not started by a supervisor: how long it goes on as before once it was told to stop, in ms, before it stops accepting; a second TERM or INT
   * ends that time. With a supervisor that one's option counts. Default 0.
   */
  lameDuck?: number
  /** TERM and INT stop the worker gracefully (a second one cuts off what is left). Default true. */
  signals?: boolean
  /** Options of `worker.channel` on this side. */
  channel?: ChannelOptions
}

const JOIN_OPTIONS = {
  standalone: true,
  lameDuck: true,
  signals: true,
  channel: true
} as const satisfies KnownOptions<JoinOptions>

/** How often event-loop lag is measured, in ms. */
const RESOLUTION = 50
/** What a standalone worker's supervisor would have said. */
const STANDALONE = { idleGrace: 1000, stopTimeout: 30_000, killTimeout: 5000 }
/** How long the last words may take, in ms. */
const LEAVE = 1000
/** How long after its channel a supervisor's process may end, in ms. */
const ORPHANED = 200
/** For the supervisor's answers, in ms. */
const ANSWER = 30_000

let joined: Promise<Worker> | undefined

/**
 * Joins the supervisor that has started this process. Standalone, it listens itself and stops itself on TERM and INT; the program is the
 * same. Further calls give the same Worker. Rejects with ERR_PASSFD_NOT_SUPERVISED if nobody has started it and `standalone` is not given, or
 * with the system's error for what can't be bound.
 */
export async function joinSupervisor(given: JoinOptions = {}): Promise<Worker> {
  const options = readOptions(given, JOIN_OPTIONS)
  checkType(options.signals, 'signals', 'true or false', value => typeof value === 'boolean')
  if (options.channel !== undefined) options.channel = readOptions(options.channel, CHANNEL_OPTIONS, 'options.channel')
  if (options.lameDuck !== undefined) checkInteger(options.lameDuck, 'options.lameDuck', 0, MAX_TIMEOUT)
  const { [SUPERVISOR_VARIABLE]: parent } = process.env
  joined ??= parent === undefined ? standAlone(options).catch(again) : joinParent(Number(parent), options)
  return joined
}

/** Nothing has happened yet: the next call may fare better. */
function again(error: Error): never {
  joined = undefined
  throw error
}

async function standAlone({ standalone, signals = true, lameDuck = 0 }: JoinOptions): Promise<Worker> {
  if (standalone === undefined) throw new PassfdError('NOT_SUPERVISED')
  const worker = new Worker(await alone(readListeners(standalone, 'options.standalone'), lameDuck))
  if (signals) stopOnSignals(worker)
  return worker
}

function stopOnSignals(worker: Worker): void {
  let told = false
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.on(signal, () => {
      // The first one says no more than the supervisor may have said already: it is sent to all of a service's processes by systemd
      if (told) worker.hurry()
      else void worker.end({ last: false, told: false, signal: true })
      told = true
    })
}

async function joinParent(parent: number, { signals = true, channel: options = {} }: JoinOptions): Promise<Worker> {
  delete process.env[SUPERVISOR_VARIABLE] // its children are not workers
  const authorize = (): boolean => true // whoever has started this process
  const control = await connect<FromSupervisor, FromWorker>(Descriptor.adopt(CONTROL_NUMBER), {
    authorize,
    maxUnclaimed: 4 * MAX_UNCONFIRMED,
    requestTimeout: ANSWER
  })
  const channel = await connect(Descriptor.adopt(APPLICATION_NUMBER), { ...options, authorize })
  const join = { type: 'join', version: LEAST, newest: NEWEST, debugPort: process.debugPort } as const
  const welcome = await control.request<Welcome>(join, { descriptors: 253 })
  const { stopTimeout, killTimeout } = welcome
  // If it hangs when its supervisor is killed, nobody else would end it
  if (isMainThread) native.dieAfterParent(Math.ceil((stopTimeout + killTimeout) / 1000) + 1, parent)
  // The control channel keeps the process running, as a worker lives until it is stopped
  const home = new SupervisedHome(welcome, parent, control, channel.unref(), inspectorOf())
  const worker = new Worker(home)
  home.begin(worker)
  if (signals) stopOnSignals(worker)
  return worker
}

interface Inspector {
  url(): string | undefined
}

/** A Node that was built without it has none. */
function inspectorOf(): Inspector | undefined {
  try {
    return process.getBuiltinModule('node:inspector')
  } catch {
    return undefined
  }
}

class SupervisedHome implements Home {
  readonly supervised = true
  readonly lameDuck = 0 // the supervisor's business
  readonly slot: number
  readonly id: number
  readonly channel: Channel
  readonly listeners: ReadonlyMap<string, Loan>
  readonly idleGrace: number
  readonly stopTimeout: number
  readonly killTimeout: number
  readonly onClosed: (() => void) | undefined
  readonly #control: Channel<FromSupervisor, FromWorker>
  readonly #parent: number
  readonly #heartbeat: number
  readonly #version: number
  readonly #inspector: Inspector | undefined
  readonly #told = new Map<string, { adopts: boolean; exposed: boolean }>()
  #closed = 0
  #leaving = false

  constructor(
    welcome: Welcome,
    parent: number,
    control: Channel<FromSupervisor, FromWorker>,
    channel: Channel,
    inspector: Inspector | undefined
  ) {
    this.#version = welcome.version ?? 1
    this.#inspector = inspector
    this.#parent = parent
    this.slot = welcome.slot
    this.id = welcome.id
    this.idleGrace = welcome.idleGrace
    this.stopTimeout = welcome.stopTimeout
    this.killTimeout = welcome.killTimeout
    this.listeners = new Map(Object.entries(welcome.listeners))
    this.channel = channel
    this.#control = control
    this.onClosed = welcome.tellClosed ? () => this.#oneClosed() : undefined
    this.#heartbeat = welcome.heartbeat
  }

  begin(worker: Worker): void {
    const control = this.#control
    control.on('message', ({ value }: Message<FromSupervisor>) => {
      if (value?.type === 'connections') worker.give(value.name, value.connections)
      else if (value?.type === 'accept') this.#accept(worker, value)
      else if (value?.type === 'lend') worker.lend(value.name, value)
      else if (value?.type === 'takeBack') worker.takeBack(value.name, value.lane)
      else if (value?.type === 'lameDuck') worker.becomeLameDuck()
      else if (value?.type === 'stop') void worker.end({ last: value.last, told: true })
    })
    // The supervisor is gone: what waits in the queues is this worker's and its siblings' to serve
    control.once('close', error => {
      if (this.#leaving) return
      // Not its supervisor's end, but something here: no descriptors left to take connections with, most likely
      if (error !== undefined && (error as PassfdError).code !== 'ERR_PASSFD_DISCONNECTED') process.emitWarning(error)
      void this.#isOrphan().then(orphan => worker.end({ last: true, told: true, orphan }))
    })
    // First: another listener may throw
    process.prependListener('uncaughtExceptionMonitor', error => this.#lastWords(error))
    this.#beat(worker)
  }

  #accept(worker: Worker, { name, count }: Accept): void {
    const { connections, error } = worker.accept(name, count)
    // First: what the program does with them may take its time
    this.#say({ type: 'accepted', name, count, taken: connections.length, ...(error < 0 && { error }) })
    sessionOf(this.#control).flush()
    worker.give(name, connections)
  }

  /** Whether the supervisor's process has ended. The kernel closes a process's descriptors a moment before it gives its children away. */
  async #isOrphan(): Promise<boolean> {
    const deadline = performance.now() + ORPHANED
    while (process.ppid === this.#parent && performance.now() < deadline) await later(1)
    return process.ppid !== this.#parent
  }

  uses(name: string, how: { adopts: boolean; exposed: boolean }): void {
    const before = this.#told.get(name)
    const adopts = how.adopts || before?.adopts === true
    const exposed = how.exposed || before?.exposed === true
    if (before?.adopts === adopts && before.exposed === exposed) return
    this.#told.set(name, { adopts, exposed })
    this.#say({ type: 'uses', name, adopts, exposed })
  }

  async ready(): Promise<void> {
    await this.#control.request({ type: 'ready' }, { descriptors: 0 })
  }

  async stopping(signal: boolean): Promise<Standing> {
    // What was sent and not taken goes to others, the sooner the better. But the signal may have come to all processes of the service
    if (!signal && [...this.listeners.values()].every(loan => 'dispatched' in loan)) {
      this.#say({ type: 'stopping' })
      return { last: false, orphan: false }
    }
    try {
      const last = await this.#control.request<boolean>({ type: 'stopping' }, { descriptors: 0, timeout: LEAVE })
      return { last, orphan: false }
    } catch (error) {
      // A supervisor that was stopped (SIGSTOP) still has its listeners
      if ((error as PassfdError).code === 'ERR_PASSFD_TIMEOUT') return { last: false, orphan: false }
      return { last: true, orphan: await this.#isOrphan() }
    }
  }

  async leave(): Promise<void> {
    this.#leaving = true
    const closed = Promise.all([this.channel.close(), this.#control.close()])
    await Promise.race([closed, new Promise(resolve => setTimeout(resolve, LEAVE))])
  }

  /** A supervisor that is gone hears nothing; its end is noticed apart. */
  #say(message: FromWorker): void {
    try {
      void this.#control.send(message)
    } catch {
      // closed by us
    }
  }

  #oneClosed(): void {
    if (this.#closed++ > 0) return
    setImmediate(() => {
      this.#say({ type: 'closed', count: this.#closed })
      this.#closed = 0
    })
  }

  #lastWords(thrown: unknown): void {
    // A supervisor of version 1 can't be told that it was handled
    if (this.#version < 2 && isHandled()) return
    const { name, message } = asError(thrown)
    this.#say({ type: 'failed', name, message })
    sessionOf(this.#control).flush()
    // It comes to that if a listener to 'uncaughtException', a domain or a capture callback has returned; after an exit or a throw there it does not
    if (this.#version >= 2) process.nextTick(() => this.#say({ type: 'recovered' }))
  }

  #beat(worker: Worker): void {
    let lag = 0
    let due = performance.now() + RESOLUTION
    // Not monitorEventLoopDelay() of Node: with it a request took 24.1 µs of CPU time, without it 21.6
    setInterval(() => {
      const now = performance.now()
      lag = Math.max(lag, now - due)
      due = now + RESOLUTION
    }, RESOLUTION).unref()
    setInterval(() => {
      const late = Math.round(Math.max(lag, performance.now() - due, 0))
      lag = 0
      const { connections, requests } = worker
      this.#say({ type: 'beat', connections, requests, lag: late, inspector: this.#inspector?.url() })
    }, this.#heartbeat).unref()
  }
}

/** Somebody handles uncaught exceptions. */
function isHandled(): boolean {
  return process.listenerCount('uncaughtException') > 0 || process.hasUncaughtExceptionCaptureCallback()
}

/** All of them, or none. */
async function bindAll(specs: ReadonlyMap<string, ListenerSpec>): Promise<Bound[]> {
  const attempts = [...specs].map(([name, spec]) => bind(name, spec))
  try {
    return await Promise.all(attempts)
  } catch (error) {
    for (const attempt of await Promise.allSettled(attempts))
      if (attempt.status === 'fulfilled') await closeBound(attempt.value)
    for (const spec of specs.values()) if (spec instanceof Descriptor) spec[Symbol.dispose]()
    throw error
  }
}

async function alone(specs: ReadonlyMap<string, ListenerSpec>, lameDuck: number): Promise<Home> {
  const listeners = new Map<string, Loan>()
  const bound = await bindAll(specs)
  for (const { name, descriptor, backlog, own } of bound)
    listeners.set(name, { lane: 0, listener: descriptor, backlog, own })
  const [channel, theirs] = pair()
  const nobody = await connect(theirs)
  nobody.unref().serve(message => {
    if (message.isRequest) throw new PassfdError('NOT_SUPERVISED')
  })
  return {
    slot: 0,
    id: 1,
    supervised: false,
    channel: channel.unref(),
    listeners,
    ...STANDALONE,
    lameDuck,
    onClosed: undefined,
    uses: () => {},
    ready: async () => {},
    stopping: async () => ({ last: true, orphan: false }),
    leave: async () => {
      await Promise.all(bound.map(({ file }) => file && removeFile(file)))
    }
  }
}
