/** The supervisor's view of one worker: its process, its state, what it says, and its end. */
import type { ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import { type Deferred, deferred } from '../../base/deferred.ts'
import { PassfdError } from '../../base/errors.ts'
import { type Channel, sessionOf } from '../../channel/channel.ts'
import { pair, trustedPair } from '../../channel/connect.ts'
import type { Message } from '../../channel/message.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { NotifySocket } from '../../systemd/notify-socket.ts'
import {
  type Accepted,
  type FromSupervisor,
  type FromWorker,
  type Join,
  LEAST,
  type Loan,
  MAX_UNCONFIRMED,
  NEWEST,
  SUPERVISOR_VARIABLE,
  TO_FIRST_WORKERS,
  type Welcome
} from '../control/control.ts'
import type { WorkerInfo, WorkerState } from '../control/worker-info.ts'
import { exitReason } from '../launch/exit-status.ts'
import { checkEntry, deniedTo, inheritable, launchCommand, launchNode } from '../launch/launch.ts'
import { hasConnection, isTraced, rss } from '../launch/procfs.ts'
import { Remainder } from '../launch/remainder.ts'
import type { Recipient } from '../listen/recipient.ts'
import type { Settings } from '../options.ts'

/** How long what a dead process has said is still read, in ms: its children may have its end of the channel. */
const LAST_WORDS = 1000

/** Where Node's inspector listens if nothing else was said, and the options that make it wait for a debugger. */
const DEBUG_PORT = 9229
const WAITING = /^--inspect-(brk|wait)\b/

/** And what a shell, or a wrapper that has passed the signal on, exits with. */
const STOPS: readonly unknown[] = ['SIGTERM', 'SIGINT', 128 + constants.signals.SIGTERM, 128 + constants.signals.SIGINT]

/** A process's end: one of the two is null. Both are if it could not be started. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Who has to know what a worker does. */
export interface WorkerOwner {
  onState(worker: WorkerProcess): void
  onUses(worker: WorkerProcess, name: string, exposed: boolean): void
  /** It has taken all connections that it was sent. */
  onAllTaken(worker: WorkerProcess): void
  /** It has done what it was told to accept. */
  onAccepted(worker: WorkerProcess, accepted: Accepted): void
  /** Resolves to whether it has closed its listeners, or does by a signal that has come already; then whoever has waited was sent to workers. */
  isLeaving(worker: WorkerProcess): Promise<boolean>
  /** Connections that it had not taken before it ended. */
  onReturned(worker: WorkerProcess, name: string, connections: readonly Descriptor[]): void
  /** Resolves to whether the supervisor stops: its own signal may come a moment after the worker's. */
  stopsToo(): Promise<boolean>
  /** After its state is 'exited', and after all that it had said. */
  onExit(worker: WorkerProcess, exit: Exit): void
}

export interface WorkerSetup {
  readonly slot: number
  readonly id: number
  readonly settings: Settings
  readonly owner: WorkerOwner
  /** For `command`. */
  readonly notify: NotifySocket | undefined
  readonly deathSignal: boolean
  readonly loans: ReadonlyMap<string, Loan>
  /** Closing what it has taken never waits. */
  readonly closesAtOnce: boolean
  readonly tellClosed: boolean
  restarts(): number
}

export class WorkerProcess implements Recipient {
  readonly slot: number
  readonly id: number
  /** For the application's own messages. */
  readonly channel: Channel
  /** Of the listeners: those that it serves, and whether it can be lent more of them. */
  readonly uses = new Map<string, { adopts: boolean }>()
  /** Its share of each limit, drawn once: see `limits.jitter`. */
  readonly spread = Math.random()
  state: WorkerState = 'starting'
  connections = 0
  /** Connections that it was sent and has not closed, if it tells (`tellClosed`). */
  sent = 0
  requests = 0
  lag = 0
  rss = 0
  /** When it was last heard of, on the clock of performance.now(). */
  heard = performance.now()
  /** A debugger held it when it was looked at last, and nothing was heard of it since. */
  held = false
  /** It has become ready once. */
  booted = false
  /** It was told to end by us. */
  told = false
  /** Somebody else has told its own process to stop, and that has ended by it: the others of its session still serve. */
  drains = false
  /** A successor has taken its place, or is being looked for. */
  replaced = false
  /** The limit that its predecessor was replaced for. */
  replaces: string | undefined
  /** It was looked at since it is ready, for its limits. */
  checked = false
  /** Why it has ended, or is to end, in words. */
  reason: string | undefined

  readonly #setup: WorkerSetup
  readonly #control: Channel<FromWorker, FromSupervisor> | undefined
  readonly #child: ChildProcess | undefined
  readonly #started = performance.now()
  readonly #ready: Deferred = deferred()
  readonly #exited: Deferred = deferred()
  #timer: NodeJS.Timeout | undefined
  #watchdog = false
  /** Of the control protocol. */
  #version = 1
  /** Ports of loopback or elsewhere where its inspector may listen. */
  #debugPorts: number[] = [DEBUG_PORT]
  /** Its program has called joinSupervisor(). */
  #joined = false
  /** When its own process has ended; others of its session may be left. */
  #endedAt: number | undefined
  #remainder: Remainder | undefined
  /** When the time for its graceful stop is over. */
  #stopBy = 0
  /** Nothing of it is given any time. */
  #atOnce = false
  /** Why it could not be started. */
  #startFailure: string | undefined
  /** What we have killed it for. */
  #killedFor: string | undefined
  /** Which time limit of its stop it has exceeded. */
  #overdue: string | undefined
  /** The exception that it is about to end by. */
  #failure: string | undefined
  /** The last signal for its own process was refused: it runs as another user, and we are not root (kill(2)). */
  #denied = false
  /** Why it was refused; it may end before the kill. */
  #refused: string | undefined
  /** What it has told of its failure by sd_notify(3). */
  #errno: string | undefined

  constructor(setup: WorkerSetup) {
    this.#setup = setup
    this.slot = setup.slot
    this.id = setup.id
    const { settings } = setup
    const [channel, application] = pair(settings.channel)
    this.channel = channel.unref()
    try {
      if (settings.command === undefined) {
        const pairUp = setup.closesAtOnce ? trustedPair : pair
        const [control, theirs] = pairUp<FromWorker, FromSupervisor>({ maxInFlight: 2 * MAX_UNCONFIRMED })
        this.#control = control.unref()
        this.#hear(control)
        try {
          this.#child = this.#launchNode(theirs, application)
        } finally {
          theirs.close()
        }
      } else this.#child = this.#launchCommand(settings.command, application)
      this.#follow(this.#child)
    } catch (error) {
      // Some failures of spawn(2) are thrown, others emitted
      process.nextTick(() => this.#failedToStart(error as Error))
    } finally {
      application.close()
    }
    if (settings.readyTimeout > 0) this.#timer = setTimeout(() => this.#notReady(), settings.readyTimeout)
  }

  /** It takes a listener that was shut down for nothing but that; one of the first version of passfd would make an 'error' of it. */
  get knowsEnds(): boolean {
    return this.#version >= 2
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  get uptime(): number {
    return (this.#endedAt ?? performance.now()) - this.#started
  }

  /** Resolves when it says so; rejects with ERR_PASSFD_WORKER_NOT_READY if it ends or is stopped before. */
  get ready(): Promise<void> {
    return this.#ready.promise
  }

  /** Resolves when its process was collected, all it had said is read, and nobody of its session is left. */
  get exited(): Promise<void> {
    return this.#exited.promise
  }

  /** Its own process has ended. */
  get ended(): boolean {
    return this.#endedAt !== undefined
  }

  /** It can't hang unnoticed: it tells how it is. */
  get watched(): boolean {
    if (this.ended) return false
    return this.#control !== undefined ? this.booted : this.#watchdog
  }

  /** A debugger is attached, so that a pause is no hang. */
  get debugged(): boolean {
    if (this.pid === undefined || this.ended) return false
    return isTraced(this.pid) || (!this.booted && this.#waitsForDebugger()) || hasConnection(this.pid, this.#debugPorts)
  }

  /** Connections on their way to it that it has not taken. */
  get unconfirmed(): number {
    return this.#control === undefined ? 0 : sessionOf(this.#control).descriptorsOut
  }

  /** It can be told to accept. */
  get knowsAccept(): boolean {
    return this.#version >= 3
  }

  /** It is to accept so many connections of a dispatched listener. */
  accept(name: string, count: number): void {
    this.sent += count
    void this.send({ type: 'accept', name, count })
  }

  /** Looks at what it doesn't tell itself. */
  measure(): void {
    if (this.pid !== undefined && !this.ended) this.rss = rss(this.pid) ?? this.rss
  }

  info(): WorkerInfo {
    const { slot, id, pid, state, uptime, connections, requests, lag, channel } = this
    return {
      slot,
      id,
      pid,
      state,
      uptime: Math.round(uptime),
      restarts: this.#setup.restarts(),
      connections,
      requests,
      lag,
      rss: this.rss,
      reason: this.reason,
      channel
    }
  }

  /** The Descriptors in it are moved in any case. Resolves when it has room for more. */
  async send(message: FromSupervisor): Promise<void> {
    if (this.#version < 2 && !TO_FIRST_WORKERS.includes(message.type)) return
    try {
      await this.#control?.send(message)
    } catch (error) {
      if ((error as PassfdError).code === 'ERR_PASSFD_CLOSED') return // they come back as 'returned'
      // Its channel has ended, and its exit is about to be told. What was in the message is not lost:
      if (message.type === 'connections')
        this.#setup.owner.onReturned(
          this,
          message.name,
          message.connections.filter(one => !one.closed)
        )
      else if (message.type === 'lend') message.listener[Symbol.dispose]()
      else if ((error as PassfdError).code !== 'ERR_PASSFD_CHANNEL_CLOSED') this.kill(`it can't be told: ${error}`)
    }
  }

  /**
   * Gracefully; after `stopTimeout` with TERM, after `killTimeout` with KILL. Resolves when it has ended. `reason`: why, as a sentence
   * about it.
   */
  stop({ last = false, reason }: { last?: boolean; reason?: string } = {}): Promise<void> {
    const { settings } = this.#setup
    if (this.state === 'exited' || (this.told && this.state === 'stopping')) return this.exited
    this.told = true
    if (this.ended) return this.exited
    const serves = this.booted && this.state !== 'hung'
    this.reason ??= this.booted ? reason : 'it was stopped before it was ready'
    if (this.state !== 'hung') this.#become('stopping')
    if (this.#control !== undefined && serves) {
      this.send({ type: 'stop', last })
      this.#limitStop()
    } else {
      this.#signal('SIGTERM')
      const [time, limit] = serves ? [settings.stopTimeout, 'stopTimeout'] : [settings.killTimeout, 'killTimeout']
      if (serves) this.#stopBy = performance.now() + time
      this.#after(time, () => this.kill(`it has not stopped within ${time} ms (${limit})`))
    }
    return this.exited
  }

  #limitStop(): void {
    const { stopTimeout, killTimeout } = this.#setup.settings
    this.#stopBy = performance.now() + stopTimeout
    this.#after(stopTimeout, () => {
      this.#overdue = `it has not stopped within ${stopTimeout} ms (stopTimeout)`
      this.#signal('SIGTERM')
      this.#after(killTimeout, () => this.kill())
    })
  }

  /** The supervisor was told to stop, and everything still accepts. */
  tellLameDuck(): void {
    void this.send({ type: 'lameDuck' })
  }

  /** With KILL, at once. */
  kill(reason?: string): void {
    if (this.ended) return
    this.#killedFor ??= reason
    clearTimeout(this.#timer)
    this.#signal('SIGKILL')
    if (this.#denied) this.#letGo()
  }

  /** The same, and all others of its session. */
  killAll(reason?: string): void {
    this.#atOnce = true
    this.kill(reason)
    this.#remainder?.kill()
  }

  /** Nothing was heard of it for too long. */
  hung(): void {
    const { hangTimeout } = this.#setup.settings
    this.#become('hung')
    this.kill(`it has not been heard of for ${hangTimeout} ms (hangTimeout)`)
  }

  #become(state: WorkerState): void {
    if (this.state === state || this.state === 'exited') return
    this.state = state
    this.#setup.owner.onState(this)
  }

  #after(milliseconds: number, action: () => void): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(action, milliseconds)
  }

  #signal(signal: NodeJS.Signals): void {
    this.#denied = false
    if (this.#child?.pid !== undefined) this.#child.kill(signal)
  }

  /** To wait for its end could take for ever. */
  #letGo(): void {
    this.#child?.unref()
    this.#warnOfThoseLeft([this.pid!])
    void this.#ended({ code: null, signal: null })
  }

  #warnOfThoseLeft(pids: readonly number[]): void {
    if (pids.length > 0) process.emitWarning(new PassfdError('NOT_ENDED', { slot: this.slot, pids: pids.join(', ') }))
  }

  // --- its start

  #launchNode(control: Descriptor, application: Descriptor): ChildProcess {
    const { entry, spawn } = this.#setup.settings
    checkEntry({ entry: entry!, cwd: spawn.cwd })
    const env = { ...inheritable(spawn.env), [SUPERVISOR_VARIABLE]: String(process.pid) }
    return launchNode({ ...spawn, entry: entry!, env }, [control.borrow(), application.borrow()])
  }

  #launchCommand(command: readonly [string, ...string[]], application: Descriptor): ChildProcess {
    const { settings, deathSignal, loans, notify } = this.#setup
    const env: NodeJS.ProcessEnv = { ...inheritable(settings.spawn.env), NOTIFY_SOCKET: notify!.address }
    if (settings.hangTimeout > 0) env.WATCHDOG_USEC = String(settings.hangTimeout * 1000)
    const listeners = [...loans].map(([name, loan]) => ({
      name,
      listener: (loan as { listener: Descriptor }).listener
    }))
    try {
      return launchCommand(
        { ...settings.spawn, command, env, deathSignal },
        listeners.map(({ name, listener }) => ({ name, fd: listener.borrow() })),
        { PASSFD_CHANNEL: application.borrow() }
      )
    } finally {
      for (const { listener } of listeners) listener.close()
    }
  }

  #follow(child: ChildProcess): void {
    child.on('error', error => {
      if (child.pid === undefined) this.#failedToStart(error)
      else this.#denied = true // of kill(2)
    })
    child.once('exit', (code, signal) => void this.#ended({ code, signal }))
    if (child.pid === undefined) return
    this.#setup.notify?.watch(child.pid, fields => this.#onNotification(fields))
  }

  #failedToStart(error: Error): void {
    this.#startFailure = error.message
    void this.#ended({ code: null, signal: null })
  }

  #notReady(): void {
    const { readyTimeout } = this.#setup.settings
    if (this.debugged) {
      this.#after(readyTimeout, () => this.#notReady())
      return
    }
    this.kill(`it has not ${this.#missing()} within ${readyTimeout} ms (readyTimeout)`)
  }

  /** What it owes us before it is ready. */
  #missing(): string {
    if (this.#control === undefined) return 'said READY=1 to NOTIFY_SOCKET'
    return this.#joined ? 'called worker.ready()' : 'called joinSupervisor()'
  }

  /** `--inspect-brk`, `--inspect-wait`: until a debugger is there nothing runs. */
  #waitsForDebugger(): boolean {
    const { execArgv = process.execArgv, env = process.env } = this.#setup.settings.spawn
    return [...execArgv, ...(env.NODE_OPTIONS ?? '').split(' ')].some(option => WAITING.test(option))
  }

  #becomeReady(): void {
    if (this.state !== 'starting' || this.told) return
    clearTimeout(this.#timer)
    this.booted = true
    this.heard = performance.now()
    this.#become('ready')
    this.#ready.resolve()
  }

  // --- what it says

  #hear(control: Channel<FromWorker, FromSupervisor>): void {
    sessionOf(control).onAllTaken = () => this.#setup.owner.onAllTaken(this)
    control.serve(message => this.#onMessage(message), {
      onError: error => {
        this.#refused = `it said something that is not understood: ${error.message}`
        this.kill(this.#refused)
      }
    })
    control.on('returned', returned => {
      const { value } = returned
      if (value.type !== 'connections') return
      returned.claim()
      this.#setup.owner.onReturned(this, value.name, returned.descriptors)
    })
    control.once('close', error => {
      // A worker without it can't be told to stop. Most likely it is about to end: its exit status tells more than a kill
      if (this.ended || this.state === 'stopping') return
      this.#after(LAST_WORDS, () => this.kill(`its control channel has ended: ${error?.message ?? 'it was closed'}`))
    })
  }

  #accepted(accepted: Accepted): void {
    const { count, taken } = accepted
    this.sent = Math.max(0, this.sent - (count - taken))
    this.#setup.owner.onAccepted(this, accepted)
  }

  #isHeard(): void {
    this.heard = performance.now()
    this.held = false
  }

  #onMessage({ value }: Message<FromWorker>): unknown {
    this.#isHeard()
    // A worker of version 1 does not say that it has recovered, but whatever it says shows it
    if (this.#version < 2) this.#failure = undefined
    const { owner } = this.#setup
    switch (value?.type) {
      case 'join':
        return this.#welcome(value)
      case 'uses':
        if (!this.#setup.loans.has(value.name)) throw new Error(`there is no listener ${value.name}`)
        this.uses.set(value.name, { adopts: value.adopts })
        owner.onUses(this, value.name, value.exposed ?? !value.adopts)
        return
      case 'ready':
        this.#becomeReady()
        return
      case 'beat':
        this.connections = value.connections
        this.requests = value.requests
        this.lag = value.lag
        this.#inspectorAt(value.inspector)
        return
      case 'closed':
        this.sent = Math.max(0, this.sent - value.count)
        return
      case 'accepted':
        this.#accepted(value)
        return
      case 'stopping':
        this.#stopsByItself()
        return owner.isLeaving(this)
      case 'failed':
        this.#failure = `it failed with ${value.name}: ${value.message}`
        return
      case 'recovered':
        this.#failure = undefined
        return
      default: // of a newer version: see control.ts
    }
  }

  #welcome({ version: least, newest = least, debugPort }: Join): Welcome {
    const version = Math.min(NEWEST, newest)
    if (!(version >= Math.max(LEAST, least))) {
      this.#refused = `the supervisor speaks versions ${LEAST} to ${NEWEST} of the control protocol, and the worker ${least} to ${newest}: use closer releases of passfd`
      throw new Error(this.#refused)
    }
    this.#version = version
    if (typeof debugPort === 'number') this.#debugPorts = [debugPort]
    this.#joined = true
    const { settings, loans, tellClosed } = this.#setup
    const { heartbeat, idleGrace, stopTimeout, killTimeout } = settings
    const { slot, id } = this
    const listeners = Object.fromEntries(loans)
    return { version, slot, id, heartbeat, idleGrace, stopTimeout, killTimeout, tellClosed, listeners }
  }

  #inspectorAt(url: string | undefined): void {
    const port = url === undefined ? undefined : Number(/:(\d+)\//.exec(url)?.[1])
    if (port !== undefined && !this.#debugPorts.includes(port)) this.#debugPorts.push(port)
  }

  /** It was sent TERM by somebody, or its program wants to end. */
  #stopsByItself(): void {
    if (this.state !== 'ready') return
    this.#become('stopping')
    this.#limitStop()
  }

  #onNotification(fields: ReadonlyMap<string, string>): void {
    this.#isHeard()
    if (fields.get('WATCHDOG') === '1') this.#watchdog = true
    if (fields.get('WATCHDOG') === 'trigger' && this.state === 'ready') this.hung()
    if (fields.get('READY') === '1') this.#becomeReady()
    if (fields.get('STOPPING') === '1') this.#stopsByItself()
    // Whoever goes on telling has survived what it told before
    const errno = fields.get('ERRNO')
    this.#errno = errno === undefined || errno === '0' ? undefined : `it reports errno ${errno}`
  }

  // --- its end

  async #ended(exit: Exit): Promise<void> {
    if (this.ended) return
    this.#endedAt = performance.now()
    clearTimeout(this.#timer)
    if (this.pid !== undefined) this.#setup.notify?.unwatch(this.pid)
    await lastWords(this.#control)
    for (const loan of this.#setup.loans.values()) loan.listener[Symbol.dispose]()
    const { slot, pid = 'none' } = this
    const detail = (this.reason = this.#why(exit))
    await this.#endSession(exit)
    if (!this.booted) this.#ready.reject(new PassfdError('WORKER_NOT_READY', { slot, pid, detail }))
    this.#become('exited')
    this.#setup.owner.onExit(this, exit)
    this.#exited.resolve()
    await lastWords(this.channel)
  }

  /** What is left of its session is ended. After a stop, whoever has asked for it, it has what is left of `stopTimeout` first. */
  async #endSession(exit: Exit): Promise<void> {
    const { spawn, stopTimeout, killTimeout } = this.#setup.settings
    if (this.pid === undefined || spawn.leaveGroup === true) return
    const remainder = await Remainder.of(this.pid)
    if (remainder === undefined) return
    this.#remainder = remainder
    if (this.#atOnce) remainder.kill()
    const asked = this.state === 'stopping'
    this.drains = !asked && isStop(exit)
    this.#become('stopping')
    const together = await this.#setup.owner.stopsToo()
    const limit = asked ? this.#stopBy : together || this.drains ? this.#endedAt! + stopTimeout : 0
    // A shell that TERM has killed has not sent it on. But if the supervisor stops, TERM may have come to all
    const alone = (asked || this.drains) && exit.signal !== null && isStop(exit)
    const term = alone && (together ? asked : 'first')
    this.#warnOfThoseLeft(await remainder.end({ grace: Math.max(0, limit - performance.now()), term, killTimeout }))
  }

  /** In words: of this end, not of what happened before. */
  #why({ code, signal }: Exit): string {
    if (this.pid === undefined) return this.#startFailure ?? 'it could not be started'
    if (this.#denied && code === null && signal === null)
      return 'it runs as another user, so that the supervisor may not end it (EPERM)'
    const how = exitReason(code, signal)
    const why = this.#cause(code, signal) ?? this.reason ?? this.#unreadable(code)
    if (why !== undefined) return `${why} (${how})`
    return code === 0 && !this.booted && !this.told ? `it ${how} and has not ${this.#missing()}` : `it ${how}`
  }

  /** Node says no more than its exit code; what it has written is on the worker's standard error. */
  #unreadable(code: number | null): string | undefined {
    const { entry, spawn } = this.#setup.settings
    if (entry === undefined || this.#joined || code !== 1 || spawn.uid === undefined) return undefined
    const path = deniedTo(spawn.uid, spawn.gid ?? process.getgid!(), { entry, cwd: spawn.cwd })
    return path === undefined ? undefined : `user ${spawn.uid} may not read ${path}`
  }

  #cause(code: number | null, signal: NodeJS.Signals | null): string | undefined {
    if (signal === 'SIGKILL' && this.#killedFor !== undefined) return this.#killedFor
    return this.#failure ?? this.#refused ?? this.#overdue ?? (code === null || code === 0 ? undefined : this.#errno)
  }
}

/** It has ended by a signal that means a graceful stop. */
function isStop({ code, signal }: Exit): boolean {
  return STOPS.includes(signal ?? code)
}

/** Resolves when the channel has ended. */
async function lastWords(channel: Channel<any, any> | undefined): Promise<void> {
  if (channel === undefined) return
  const timer = setTimeout(() => channel.destroy(), LAST_WORDS)
  await channel.closed
  clearTimeout(timer)
}
