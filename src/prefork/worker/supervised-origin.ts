/** The worker's side of the control channel, in a worker that a supervisor has started. */
import { setImmediate } from 'node:timers'
import { setTimeout as later } from 'node:timers/promises'
import { asError, type PassfdError } from '../../base/errors.ts'
import { type Channel, sessionOf } from '../../channel/channel.ts'
import type { Message } from '../../channel/message.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import { native } from '../../os/native.ts'
import { statOf } from '../../os/process-stat.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { SendIdle } from '../../serving/passed-on.ts'
import type { ListenerSource, ServedListeners } from '../../serving/served-listeners.ts'
import { UsedPermits } from '../control/accept-counts.ts'
import type { Accept, Accepted, FromSupervisor, FromWorker, Give, Welcome } from '../control/control.ts'
import { give, inherit, type Worker } from './worker.ts'
import type { Standing, WorkerOrigin } from './worker-origin.ts'

/** The time limit of the worker's last messages, in ms. */
const LEAVE = 1000
/** How long it waits for the end of the supervisor's process after the end of its channel, in ms. */
const ORPHANED = 200

/** The supervisor, as the worker sees it on the control channel. */
export class SupervisedOrigin implements WorkerOrigin, ListenerSource {
  readonly supervised = true
  readonly lameDuck = 0 // the supervisor's business
  readonly slot: number
  readonly id: number
  readonly channel: Channel
  /** A program gets further ones later: see program.ts. */
  readonly listeners: Map<string, ListenerGrant>
  readonly idleGrace: number
  readonly stopTimeout: number
  readonly killTimeout: number
  readonly onClosed: (() => void) | undefined
  readonly sendIdle: SendIdle | undefined
  readonly #control: Channel<FromSupervisor, FromWorker>
  readonly #parent: number
  /** False: a wrapper (npm, for example) is between. */
  readonly #isChild: boolean
  readonly #heartbeat: number
  readonly #version: number
  readonly #inspector = inspectorOf()
  readonly #told = new Map<string, { adopts: boolean; exposed: boolean }>()
  readonly #hold: boolean
  readonly #shared: boolean
  #closed = 0
  #used: UsedPermits | undefined
  /** How many connections it has accepted and not confirmed by a message, by the listener's name. */
  readonly #unconfirmed = new Map<string, number>()
  /** Turns of the event loop until it confirms them. */
  #turnsLeft = 0
  #leaving = false

  constructor(welcome: Welcome, parent: number, control: Channel<FromSupervisor, FromWorker>, channel: Channel) {
    this.#version = welcome.version ?? 1
    this.#parent = parent
    this.#isChild = process.ppid === parent
    this.#hold = welcome.hold === true
    this.#shared = welcome.shared === true
    this.slot = welcome.slot
    this.id = welcome.id
    this.idleGrace = welcome.idleGrace
    this.stopTimeout = welcome.stopTimeout
    this.killTimeout = welcome.killTimeout
    this.listeners = new Map(Object.entries(welcome.listeners))
    this.channel = channel
    this.#control = control
    this.onClosed = welcome.tellClosed ? () => this.#oneClosed() : undefined
    this.sendIdle = welcome.takesIdle === true ? (name, connections) => this.#sendIdle(name, connections) : undefined
    this.#heartbeat = welcome.heartbeat
  }

  isShared(): boolean {
    return true
  }

  /** `listeners`: the worker's. */
  begin(worker: Worker, listeners: ServedListeners): void {
    const control = this.#control
    if (this.#hold) listeners.hold()
    listeners.share(this.#shared)
    control.on('message', (message: Message<FromSupervisor>) => {
      const { value } = message
      if (value?.type === 'go') this.#go(listeners, message)
      else if (value?.type === 'share') listeners.share(value.shared)
      else if (value?.type === 'give') void this.#give(worker, value, message)
      else if (value?.type === 'inherit') void inherit(worker, value.slot, value.end.claim(), value.timeout)
      else if (value?.type === 'connections') listeners.give(value.name, value.connections, value.idle === true)
      else if (value?.type === 'accept') this.#accept(listeners, value)
      else if (value?.type === 'counts') this.#used = usedPermits(value.memory)
      else if (value?.type === 'lend') listeners.lend(value)
      else if (value?.type === 'takeBack') listeners.takeBack(value.name, value.lane)
      else if (value?.type === 'lameDuck') worker.becomeLameDuck()
      else if (value?.type === 'stop') void worker.end({ last: value.last, told: true })
    })
    // The supervisor has ended, so this worker and its siblings serve the connections in the queues
    control.once('close', error => {
      if (this.#leaving) return
      survivesBrokenOutput()
      // The supervisor lives, so the cause is in this process: most likely no descriptor is free for received connections
      if (error !== undefined && (error as PassfdError).code !== 'ERR_PASSFD_DISCONNECTED') process.emitWarning(error)
      void this.#isOrphan().then(orphan => worker.end({ last: true, told: true, orphan }))
    })
    // First, because another listener may throw
    process.prependListener('uncaughtExceptionMonitor', error => this.#lastWords(error))
    this.#beat(worker)
  }

  async #give(worker: Worker, { end, timeout }: Give, message: Message<FromSupervisor>): Promise<void> {
    const given = await give(worker, end.claim(), timeout)
    try {
      await message.reply(given)
    } catch {
      // The supervisor has ended, or does not wait any more
    }
  }

  #go(listeners: ServedListeners, message: Message<FromSupervisor>): void {
    listeners.attach()
    void message.reply()
  }

  #accept(listeners: ServedListeners, { name, count, place }: Accept): void {
    const { connections, error } = listeners.accept(name, count)
    const taken = connections.length
    const before = this.#unconfirmed.get(name) ?? 0
    // All before the connections are given, because the program's code may take long
    const later = place !== undefined && this.#used?.add(place, count) === false && taken === count
    if (later) {
      this.#unconfirmed.set(name, before + count)
      this.#confirmLater()
    } else {
      this.#unconfirmed.delete(name)
      this.#confirm({ name, count: before + count, taken: before + taken, ...(error < 0 && { error }) })
    }
    listeners.give(name, connections)
  }

  /** Confirms when what has come with the connections is handled: in this turn of the event loop it gets them, and in the next one their first bytes. */
  #confirmLater(): void {
    if (this.#turnsLeft === 0) setImmediate(this.#turnOver)
    this.#turnsLeft = 2
  }

  readonly #turnOver = (): void => {
    this.#turnsLeft--
    if (this.#turnsLeft > 0) {
      setImmediate(this.#turnOver)
      return
    }
    for (const [name, count] of this.#unconfirmed) this.#confirm({ name, count, taken: count })
    this.#unconfirmed.clear()
  }

  #confirm(accepted: Omit<Accepted, 'type'>): void {
    this.#say({ type: 'accepted', ...accepted })
    sessionOf(this.#control).flush()
  }

  /** Resolves to whether the supervisor's process has ended. It waits, because the kernel closes descriptors a moment before it re-parents children. */
  async #isOrphan(): Promise<boolean> {
    const deadline = performance.now() + ORPHANED
    while (this.#supervisorLives() && performance.now() < deadline) await later(1)
    return !this.#supervisorLives()
  }

  #supervisorLives(): boolean {
    return this.#isChild ? process.ppid === this.#parent : statOf(this.#parent)?.lives === true
  }

  uses(name: string, how: { adopts: boolean; exposed: boolean }): void {
    const before = this.#told.get(name)
    const adopts = how.adopts || before?.adopts === true
    const exposed = how.exposed || before?.exposed === true
    if (before?.adopts === adopts && before.exposed === exposed) return
    this.#told.set(name, { adopts, exposed })
    this.#say({ type: 'uses', name, adopts, exposed, ...this.grantOf(name) })
  }

  handsOver({ gives, inherits }: { gives: boolean; inherits: boolean }): void {
    this.#say({ type: 'handsOver', gives, inherits })
  }

  async ready(): Promise<void> {
    await this.#control.request({ type: 'ready' }, { descriptors: 0 })
  }

  async stopping(signal: boolean): Promise<Standing> {
    // Sent but untaken connections should reach other workers soon. But all processes of the service may have got the signal
    if (!signal && [...this.listeners.values()].every(grant => 'dispatched' in grant)) {
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

  /** The program has closed the server of a listener. */
  leaves(name: string): void {
    this.#told.delete(name)
    this.#say({ type: 'leaves', name, ...this.grantOf(name) })
  }

  /** Which of its grants of the listener it speaks of: only programs have several. */
  protected grantOf(_name: string): { grant?: number } {
    return {}
  }

  exit(code: number | string): void {
    process.exit(code)
  }

  async leave(): Promise<void> {
    this.#leaving = true
    const closed = Promise.all([this.channel.close(), this.#control.close()])
    await Promise.race([closed, new Promise(resolve => setTimeout(resolve, LEAVE))])
  }

  /** Sends a message. If the supervisor has ended the message is lost, and other code notices the end. */
  #say(message: FromWorker): void {
    try {
      void this.#control.send(message)
    } catch {
      // this process has closed it
    }
  }

  async #sendIdle(name: string, connections: Descriptor[]): Promise<void> {
    await this.#control.request({ type: 'idle', name, connections }, { descriptors: 0, timeout: 0 })
  }

  #oneClosed(): void {
    if (this.#closed++ > 0) return
    setImmediate(() => {
      this.#say({ type: 'closed', count: this.#closed })
      this.#closed = 0
    })
  }

  #lastWords(thrown: unknown): void {
    // A supervisor of version 1 has no message for a handled exception
    if (this.#version < 2 && isHandled()) return
    const { name, message } = asError(thrown)
    this.#say({ type: 'failed', name, message })
    sessionOf(this.#control).flush()
    // This runs only if a listener for 'uncaughtException', a domain or a capture callback has returned, not after an exit or a throw there
    if (this.#version >= 2) process.nextTick(() => this.#say({ type: 'recovered' }))
  }

  #beat(worker: Worker): void {
    let due = performance.now() + this.#heartbeat
    native.longestTurn()
    setInterval(() => {
      const now = performance.now()
      const late = Math.max(native.longestTurn() / 1000, now - due, 0)
      due = now + this.#heartbeat
      const { connections, requests } = worker
      this.#say({ type: 'beat', connections, requests, lag: Math.round(late), inspector: this.#inspector?.url() })
    }, this.#heartbeat).unref()
  }
}

/** Undefined: it can't be mapped here, so each `accept` is confirmed at once. */
function usedPermits(memory: Descriptor): UsedPermits | undefined {
  try {
    return new UsedPermits(memory.claim())
  } catch {
    return undefined
  }
}

/** Whether the program handles uncaught exceptions. */
function isHandled(): boolean {
  return process.listenerCount('uncaughtException') > 0 || process.hasUncaughtExceptionCaptureCallback()
}

/** The supervisor may have read this process's output by pipes. Node would end the process for an EPIPE while it serves its last requests. */
function survivesBrokenOutput(): void {
  for (const name of ['stdout', 'stderr'] as const) {
    try {
      process[name].on('error', () => {})
    } catch {
      // the descriptor is closed
    }
  }
}

interface Inspector {
  url(): string | undefined
}

/** Undefined in a Node that was built without the inspector. */
function inspectorOf(): Inspector | undefined {
  try {
    return process.getBuiltinModule('node:inspector')
  } catch {
    return undefined
  }
}
