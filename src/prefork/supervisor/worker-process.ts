/** The supervisor's view of one worker: its process, its states, and its end. */
import type { ChildProcess } from 'node:child_process'
import { type Deferred, deferred } from '../../base/deferred.ts'
import { PassfdError } from '../../base/errors.ts'
import type { Channel } from '../../channel/channel.ts'
import { pair } from '../../channel/connect.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { native } from '../../os/native.ts'
import { statOf } from '../../os/process-stat.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { NotifySocket } from '../../systemd/notify-socket.ts'
import { areCounted } from '../balance.ts'
import { AcceptCounts } from '../control/accept-counts.ts'
import type { Accepted, FromSupervisor, Join, Welcome } from '../control/control.ts'
import type { WorkerInfo, WorkerState } from '../control/worker-info.ts'
import { isStop } from '../launch/exit-status.ts'
import { deniedTo } from '../launch/launch.ts'
import { cpu, rss } from '../launch/procfs.ts'
import { SessionLeftovers } from '../launch/session-leftovers.ts'
import type { Recipient } from '../listen/recipient.ts'
import type { Settings } from '../options.ts'
import { ControlLine, type LineOwner, lastWords } from './control-line.ts'
import { Debugger } from './debugger.ts'
import { type Exit, ExitCause } from './exit-cause.ts'
import { ListeningProcess } from './listening-process.ts'
import type { OutputLines, OutputStream, WorkerOutput, WriteEnds } from './output-lines.ts'
import { startFailure, startWorker } from './start-worker.ts'

/** The time in ms in which a worker may end on its own after its control channel has ended, before it counts as one that stops. */
const LAST_WORDS = 1000

/** Receives the events of a worker. */
export interface WorkerOwner {
  onState(worker: WorkerProcess): void
  onUses(worker: WorkerProcess, name: string, exposed: boolean): void
  /** Its program has closed the server of this listener. */
  onLeaves(worker: WorkerProcess, name: string): void
  /** Its control channel has ended. */
  onUnreachable(worker: WorkerProcess): void
  /** It has taken all connections that it was sent. */
  onAllTaken(worker: WorkerProcess): void
  /** It has accepted connections as told, or has found the queue empty. */
  onAccepted(worker: WorkerProcess, accepted: Accepted): void
  /**
   * Called when the worker stops on its own. Resolves to true if the supervisor stops, too; then it has closed its listeners, and has sent the
   * waiting connections to workers.
   */
  isLeaving(worker: WorkerProcess): Promise<boolean>
  /** It stops, and others go on with these idle connections. The callee owns them. Resolves when it may send more. */
  onIdle(worker: WorkerProcess, name: string, connections: readonly Descriptor[]): Promise<void>
  /** It had not taken these connections before its channel ended. `idle`: another worker had passed them on. */
  onReturned(worker: WorkerProcess, name: string, connections: readonly Descriptor[], idle: boolean): void
  /** Resolves to whether the supervisor stops, too: its signal may arrive a moment after the worker's. */
  stopsToo(): Promise<boolean>
  /** It has written these lines (`spawn.stdio` is `'lines'`). */
  onLines(worker: WorkerProcess, stream: OutputStream, lines: readonly Buffer[]): void
  /** Called after the state 'exited', and after all messages and lines of the worker. */
  onExit(worker: WorkerProcess, exit: Exit): void
}

export interface WorkerSetup {
  readonly slot: number
  readonly id: number
  readonly settings: Settings
  readonly owner: WorkerOwner
  /** Where a `command` says how it is, or a `program` with `waitReady` that it is ready. */
  readonly notify: NotifySocket | undefined
  /** Only for a `program`: the name of the desk. */
  readonly desk: string | undefined
  /** Only for a `program`: the files of the listeners. */
  readonly paths: readonly string[]
  readonly deathSignal: boolean
  readonly grants: ReadonlyMap<string, ListenerGrant>
  /** Closing copies of what it has taken never blocks. */
  readonly closesAtOnce: boolean
  readonly tellClosed: boolean
  /** Reads its output if `spawn.stdio` is `'lines'`. */
  readonly outputLines: OutputLines
  /** Its supervisor waits for the outcome of a takeover: see Welcome. */
  held(): boolean
  /** Another supervisor may hold the listeners, too. */
  shared(): boolean
  restarts(): number
  /** Why the last worker that died in its slot has ended. */
  restartReason(): string | undefined
}

export class WorkerProcess implements Recipient {
  readonly slot: number
  readonly id: number
  /** The channel for the application's messages. */
  readonly channel: Channel
  /** The listeners that it serves, by name, and whether it can borrow further lanes of them. */
  readonly uses = new Map<string, { adopts: boolean }>()
  /** A random number that varies its limits: see `limits.jitter`. */
  readonly spread = Math.random()
  state: WorkerState = 'starting'
  connections = 0
  /** The number of open connections that it was sent, if it reports that (`tellClosed`). */
  sent = 0
  requests = 0
  lag = 0
  rss = 0
  cpu = 0
  /** The time of its last message, by performance.now(). */
  heard = performance.now()
  /** At the last check a debugger was attached, and no message has come since. */
  held = false
  /** It has become ready once. */
  booted = false
  /** The supervisor has told it to end. */
  told = false
  /** Its control channel has ended, so it gets no message any more. */
  unreachable = false
  /** Its main process has ended by a stop signal that was not the supervisor's. Other processes of its session still serve. */
  drains = false
  /** Its slot has a successor, or will get one. */
  replaced = false
  /** The limit for which its predecessor was replaced. */
  replaces: string | undefined
  /** Its program gives its state to a replacement (`handOver()`). */
  gives = false
  /** Its program takes the state of the worker that it replaces (`onInherit()`). */
  inherits = false
  /** Its limits were checked since it became ready. */
  checked = false
  /** Why it has ended, or is to end, in words. */
  reason: string | undefined
  /** It has ended as one that was to stop: see WorkerInfo. */
  stopped = false

  /** Of a `program`: its process that listens. */
  readonly listening = new ListeningProcess()
  readonly #setup: WorkerSetup
  /** Undefined for a `command`. */
  readonly #line: ControlLine | undefined
  readonly #child: ChildProcess | undefined
  readonly #output: WorkerOutput | undefined
  readonly #debugger: Debugger
  readonly #cause = new ExitCause()
  readonly #started = performance.now()
  readonly #ready: Deferred = deferred()
  readonly #exited: Deferred = deferred()
  #timer: NodeJS.Timeout | undefined
  #watchdog = false
  /** When its main process ended; other processes of its session may be left. */
  #endedAt: number | undefined
  #leftovers: SessionLeftovers | undefined
  /** The time limit of its graceful stop. */
  #stopBy = 0
  /** No process of its session gets time to end. */
  #atOnce = false
  /** It serves only after the message `go`. */
  #waits = false
  /** A `program` has said by sd_notify(3) that it is ready. */
  #saidReady = false
  /** How many permits it has used. */
  #counts: AcceptCounts | undefined
  /** Idle connections that it got since its last report. */
  #passed = 0

  constructor(setup: WorkerSetup) {
    this.#setup = setup
    this.slot = setup.slot
    this.id = setup.id
    const { settings } = setup
    this.#debugger = new Debugger(settings.spawn)
    const [channel, application] = pair(settings.channel)
    this.channel = channel.unref()
    let ends: WriteEnds | undefined
    let control: Descriptor | undefined
    try {
      if (settings.spawn.stdio === 'lines')
        [this.#output, ends] = setup.outputLines.begin((stream, lines) => setup.owner.onLines(this, stream, lines))
      if (settings.command === undefined) [this.#line, control] = ControlLine.open(setup.closesAtOnce, this.#lineOwner)
      if (settings.program !== undefined) {
        const copy = application.dup()
        this.listening.keep([control!, copy])
        control = undefined // it is kept
      }
      this.#child = startWorker({
        ...setup,
        control,
        application,
        output: ends,
        desk: setup.desk === undefined ? undefined : { name: setup.desk, token: this.listening.token }
      })
      this.#follow(this.#child)
    } catch (error) {
      // spawn() throws some failures and emits others: report all of them in the same way
      process.nextTick(() => this.#failedToStart(error as Error))
    } finally {
      control?.close()
      application.close()
      ends?.stdout.close()
      ends?.stderr.close()
    }
    if (settings.readyTimeout > 0) this.#timer = setTimeout(() => this.#notReady(), settings.readyTimeout)
  }

  /** It handles a listener that was shut down. A worker of protocol version 1 would emit an 'error' for that. */
  get knowsEnds(): boolean {
    return this.#version >= 2
  }

  /** Of its main process, or of the process of a `program` that listens. */
  get pid(): number | undefined {
    return this.listening.pid ?? this.#child?.pid
  }

  get uptime(): number {
    return (this.#endedAt ?? performance.now()) - this.#started
  }

  /** Resolves when it is ready; rejects with ERR_PASSFD_WORKER_NOT_READY if it ends or is stopped before. */
  get ready(): Promise<void> {
    return this.#ready.promise
  }

  /** Resolves when its process was reaped, all its messages are read, and no process of its session is left. */
  get exited(): Promise<void> {
    return this.#exited.promise
  }

  /** Its main process has ended. */
  get ended(): boolean {
    return this.#endedAt !== undefined
  }

  /** It sends heartbeats, so the supervisor notices when it hangs. */
  get watched(): boolean {
    if (this.ended || this.unreachable) return false
    return this.#line !== undefined ? this.booted : this.#watchdog
  }

  /** A debugger is attached, so a paused worker does not hang. */
  get debugged(): boolean {
    return this.pid !== undefined && !this.ended && this.#debugger.holds(this.pid, this.booted)
  }

  /** The number of connections that were sent to it and that it has not taken. */
  get unconfirmed(): number {
    return this.#line?.unconfirmed ?? 0
  }

  /** It understands the message that tells it to accept. */
  get knowsAccept(): boolean {
    return this.#version >= 3
  }

  /** Tells it to accept so many connections of a dispatched listener. */
  accept(name: string, count: number): void {
    this.sent += count
    const place = this.#counts?.tell(name, count)
    void this.send({ type: 'accept', name, count, ...(place !== undefined && { place }) })
  }

  unusedPermits(name: string): number | undefined {
    return this.#counts?.unused(name)
  }

  wantMessage(name: string): void {
    this.#counts?.wantMessage(name)
  }

  /** Gives it memory to count in as early as listeners: later it might have no descriptor left, and a channel that loses descriptors ends. */
  #giveCounts(): void {
    try {
      const [counts, memory] = AcceptCounts.create()
      this.#counts = counts
      void this.send({ type: 'counts', memory })
    } catch {
      // No descriptor is free: it confirms each order at once
    }
  }

  /** Whether it can take so many more connections, and keep half of its descriptors for other purposes. */
  hasRoom(connections: number): boolean {
    return this.connections + this.#passed + connections <= native.limit() / 2
  }

  /** Sends it idle connections of another worker, which are moved. Resolves when it has room for more. */
  async pass(name: string, connections: Descriptor[]): Promise<void> {
    this.sent += connections.length
    this.#passed += connections.length
    await this.send({ type: 'connections', name, connections, idle: true })
  }

  /** It was not told to end. */
  get mayListen(): boolean {
    return !this.ended && !this.told
  }

  /**
   * The process `pid` of its program listens, and is the worker from now on. Returns the welcome and its ends of the channels, which the caller owns;
   * undefined if it had joined before. Throws if supervisor and worker have no version in common.
   */
  join(join: Join, pid: number): { welcome: Welcome; ends: readonly Descriptor[] } | undefined {
    const joined = this.listening.begin(pid, () => this.#line!.join(join))
    if (joined !== undefined) this.#setup.notify?.watch(pid, fields => this.#onNotification(fields))
    return joined
  }

  /** Its program serves the listener, or is about to. */
  hasListener(name: string): boolean {
    return this.uses.has(name) || this.listening.has(name)
  }

  /** Its program has closed the server of this listener. */
  leaves(name: string, grant: number | undefined): void {
    if (!this.listening.isCurrent(name, grant)) return
    this.listening.left(name)
    this.uses.delete(name)
    this.#setup.owner.onLeaves(this, name)
  }

  /** Reads from the system what the worker does not report. */
  measure(): void {
    if (this.pid === undefined || this.ended) return
    this.rss = rss(this.pid) ?? this.rss
    this.cpu = cpu(this.pid) ?? this.cpu
  }

  info(): WorkerInfo {
    const { slot, id, pid, state, uptime, connections, requests, lag, stopped, channel } = this
    return {
      slot,
      id,
      pid,
      state,
      uptime: Math.round(uptime),
      restarts: this.#setup.restarts(),
      restartReason: this.#setup.restartReason(),
      connections,
      requests,
      lag,
      rss: this.rss,
      cpu: this.cpu,
      reason: this.reason,
      stopped,
      channel
    }
  }

  /** Moves the Descriptors in the message, even if sending fails. Resolves when the worker has room for more. */
  async send(message: FromSupervisor): Promise<void> {
    await this.#line?.send(message)
  }

  /**
   * Stops it gracefully, after `stopTimeout` by TERM, and `killTimeout` later by KILL. Resolves when it has ended. `reason`: a sentence about the
   * worker.
   */
  stop({ last = false, reason }: { last?: boolean; reason?: string } = {}): Promise<void> {
    const { settings } = this.#setup
    if (this.state === 'exited' || (this.told && this.state === 'stopping')) return this.exited
    this.told = true
    if (this.ended) return this.exited
    const serves = this.booted && this.state !== 'hung'
    this.reason ??= this.booted ? reason : 'it was stopped before it was ready'
    if (this.state !== 'hung') this.#become('stopping')
    if (this.#line !== undefined && serves) {
      void this.send({ type: 'stop', last })
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
      this.#cause.overdue = `it has not stopped within ${stopTimeout} ms (stopTimeout)`
      this.#signal('SIGTERM')
      this.#after(killTimeout, () => this.kill())
    })
  }

  /** Makes it serve after a takeover. Resolves when it accepts, or has ended. A worker that does not answer within `hangTimeout` is killed. */
  async go(): Promise<void> {
    if (!this.#waits) return
    this.#waits = false
    const { hangTimeout } = this.#setup.settings
    const look = (): void => {
      if (!this.debugged) this.hung()
    }
    const timer = hangTimeout > 0 ? setInterval(look, hangTimeout) : undefined
    if (!(await Promise.race([this.#line?.request({ type: 'go' }), this.exited]))) await this.exited
    clearInterval(timer)
  }

  /**
   * Makes it give its state over a socketpair. `connect` gets the other end, and owns it. Resolves when the state is given, when that has failed, or
   * when the time is over. If no descriptor is free for the pair, the worker keeps its state, and drains.
   */
  async give(connect: (end: Descriptor) => void): Promise<void> {
    const { handOverTimeout: timeout } = this.#setup.settings
    let ends: [Descriptor, Descriptor]
    try {
      ends = Descriptor.socketpair()
    } catch {
      return
    }
    connect(ends[1])
    const over = deferred()
    const timer = setTimeout(over.resolve, timeout + LAST_WORDS)
    await Promise.race([this.#line?.request({ type: 'give', end: ends[0], timeout }), this.exited, over.promise])
    clearTimeout(timer)
  }

  /** Makes it take the state of the worker at the other end of `end`, which is moved in. That worker was in `slot`. */
  inherit(end: Descriptor, slot: number): void {
    void this.send({ type: 'inherit', end, slot, timeout: this.#setup.settings.handOverTimeout })
  }

  tellShared(shared: boolean): void {
    void this.send({ type: 'share', shared })
  }

  /** Informs it that the supervisor will stop, and that it serves as before until then. */
  tellLameDuck(): void {
    void this.send({ type: 'lameDuck' })
  }

  /** Sends KILL to its main process at once. */
  kill(reason?: string): void {
    if (this.ended) return
    this.#cause.killedFor ??= reason
    clearTimeout(this.#timer)
    this.#signal('SIGKILL')
    if (this.#cause.denied) this.#letGo()
  }

  /** Sends KILL to all processes of its session at once. */
  killAll(reason?: string): void {
    this.#atOnce = true
    this.kill(reason)
    this.#leftovers?.kill()
  }

  /** Kills it, because it has sent nothing for `hangTimeout`. */
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
    this.#cause.denied = false
    const leader = this.#child?.pid
    if (leader === undefined) return
    // A wrapper that is killed can't pass the signal on
    const { pid } = this.listening
    if (signal === 'SIGKILL' && pid !== undefined && pid !== leader && statOf(pid)?.session === leader) killNow(pid)
    this.#child!.kill(signal)
  }

  /** Stops waiting for a process that can't be killed: it might never end. */
  #letGo(): void {
    this.#child?.unref()
    this.#warnOfThoseLeft([this.pid!])
    void this.#ended({ code: null, signal: null })
  }

  #warnOfThoseLeft(pids: readonly number[]): void {
    if (pids.length > 0) process.emitWarning(new PassfdError('NOT_ENDED', { slot: this.slot, pids: pids.join(', ') }))
  }

  // --- its start

  #follow(child: ChildProcess): void {
    child.on('error', error => {
      if (child.pid === undefined) this.#failedToStart(error)
      else this.#cause.denied = true // kill(2) failed with EPERM
    })
    child.once('exit', (code, signal) => void this.#ended({ code, signal }))
    if (child.pid === undefined) return
    this.#setup.notify?.watch(child.pid, fields => this.#onNotification(fields))
  }

  #failedToStart(error: Error): void {
    this.#cause.startFailure = startFailure(error, this.#setup.settings.spawn)
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

  /** Returns what it has not done to become ready. */
  #missing(): string {
    if (this.#line === undefined) return 'said READY=1 to NOTIFY_SOCKET'
    const { program, waitReady } = this.#setup.settings
    if (program !== undefined) {
      if (!this.#line.joined) return waitReady ? 'called listen(), which waitReady also requires,' : 'called listen()'
      return waitReady ? "called process.send('ready'), or sent READY=1 to NOTIFY_SOCKET," : 'been listening'
    }
    return this.#line.joined ? 'called worker.ready()' : 'called joinSupervisor()'
  }

  #becomeReady(): void {
    if (this.state !== 'starting' || this.told) return
    clearTimeout(this.#timer)
    this.booted = true
    this.heard = performance.now()
    this.#become('ready')
    this.#ready.resolve()
  }

  // --- its messages

  readonly #lineOwner: LineOwner = {
    onHeard: () => this.#isHeard(),
    onJoin: ({ debugPort }) => {
      if (typeof debugPort === 'number') this.#debugger.listensAt(debugPort)
      const { settings, grants, tellClosed } = this.#setup
      const shared = this.#setup.shared()
      this.#waits = this.#setup.held() && this.#version >= 4
      const { heartbeat, idleGrace, stopTimeout, killTimeout, passIdle: takesIdle } = settings
      const { slot, id } = this
      const listeners = Object.fromEntries(grants)
      if (areCounted(settings.balance) && this.#version >= 6) process.nextTick(() => this.#giveCounts())
      const hold = this.#waits
      const limits = { idleGrace, stopTimeout, killTimeout }
      return { slot, id, heartbeat, ...limits, tellClosed, takesIdle, hold, shared, listeners }
    },
    onUses: ({ name, adopts, exposed = !adopts, grant }) => {
      if (grant !== undefined && !this.listening.isCurrent(name, grant)) return // its program has left that one
      if (grant === undefined && !this.#setup.grants.has(name)) throw new Error(`there is no listener ${name}`)
      this.uses.set(name, { adopts })
      this.#setup.owner.onUses(this, name, exposed)
      if (this.#saidReady) this.#becomeReady()
    },
    onLeaves: ({ name, grant }) => this.leaves(name, grant),
    onHandsOver: ({ gives, inherits }) => {
      this.gives = gives
      this.inherits = inherits
    },
    onReady: () => this.#becomeReady(),
    onBeat: ({ connections, requests, lag, inspector }) => {
      this.connections = connections
      this.#passed = 0
      this.requests = requests
      this.lag = lag
      if (inspector !== undefined) this.#debugger.opened(inspector)
    },
    onClosed: count => {
      this.sent = Math.max(0, this.sent - count)
    },
    onAccepted: accepted => {
      const { count, taken } = accepted
      this.sent = Math.max(0, this.sent - (count - taken))
      this.#setup.owner.onAccepted(this, accepted)
    },
    onStopping: () => {
      this.#stopsByItself()
      return this.#setup.owner.isLeaving(this)
    },
    onException: words => {
      this.#cause.exception = words
    },
    onRefused: reason => {
      this.#cause.refused = reason
    },
    onNonsense: reason => {
      this.#cause.refused = reason
      this.kill(reason)
    },
    // A worker that serves has no connections for others
    mayPass: () => this.#setup.settings.passIdle && this.state !== 'ready',
    onIdle: (name, connections) => this.#setup.owner.onIdle(this, name, connections),
    onAllTaken: () => this.#setup.owner.onAllTaken(this),
    onReturned: (name, connections, idle) => this.#setup.owner.onReturned(this, name, connections, idle),
    onBroken: error => this.kill(`it can't be told: ${error}`),
    onEnd: error => {
      this.unreachable = true
      this.#setup.owner.onUnreachable(this)
      // Most likely it is ending, and its exit status says more than the end of the channel
      if (this.ended || this.state === 'stopping') return
      const reason = `its control channel has ended: ${error?.message ?? 'it was closed'}`
      this.#after(LAST_WORDS, () => {
        // npm may take longer, and then reports the exit status
        if (this.#isWrapperLeft()) this.#after(this.#setup.settings.killTimeout, () => this.kill(reason))
        else if (this.state === 'ready') this.#finishes(reason)
        else this.kill(reason)
      })
    }
  }

  /** The process that listened has ended, and the command that had started it has not. */
  #isWrapperLeft(): boolean {
    const { pid } = this.listening
    return pid !== undefined && pid !== this.#child?.pid && statOf(pid)?.lives !== true
  }

  get #version(): number {
    return this.#line?.version ?? 1
  }

  #isHeard(): void {
    this.heard = performance.now()
    this.held = false
  }

  /** Handles a stop that the supervisor did not order: another process has sent TERM, or the program ends. One that is not ready yet gets no connections. */
  #stopsByItself(): void {
    if (this.state !== 'ready' && this.state !== 'starting') return
    this.#become('stopping')
    this.#limitStop()
  }

  /** Handles a ready worker that has lost its control channel, and lives: it has noticed that too, and stops as by an order. */
  #finishes(reason: string): void {
    this.#cause.refused ??= reason
    this.#become('stopping')
    this.#limitStop()
  }

  #onNotification(fields: ReadonlyMap<string, string>): void {
    if (this.#line !== undefined) {
      // What else it might say, passfd knows from the process itself
      this.#saidReady ||= fields.get('READY') === '1'
      if (this.#saidReady && this.uses.size > 0) this.#becomeReady()
      return
    }
    this.#isHeard()
    if (fields.get('WATCHDOG') === '1') this.#watchdog = true
    if (fields.get('WATCHDOG') === 'trigger' && this.state === 'ready') this.hung()
    if (fields.get('READY') === '1') this.#becomeReady()
    if (fields.get('STOPPING') === '1') this.#stopsByItself()
    // A worker that still reports has survived the failure that it reported before
    const errno = fields.get('ERRNO')
    this.#cause.errno = errno === undefined || errno === '0' ? undefined : `it reports errno ${errno}`
  }

  // --- its end

  async #ended(exit: Exit): Promise<void> {
    if (this.ended) return
    this.#endedAt = performance.now()
    clearTimeout(this.#timer)
    for (const pid of [this.#child?.pid, this.pid]) if (pid !== undefined) this.#setup.notify?.unwatch(pid)
    await this.#line?.lastWords()
    for (const grant of this.#setup.grants.values()) grant.listener[Symbol.dispose]()
    this.listening.close()
    const { slot, pid = 'none' } = this
    const more = this.pid === undefined ? '' : ' Its standard error may tell more.'
    const detail = this.#describe(exit)
    this.reason = detail
    await this.#endSession(exit)
    this.#output?.finish()
    if (!this.booted) this.#ready.reject(new PassfdError('WORKER_NOT_READY', { slot, pid, detail, more }))
    this.#become('exited')
    this.#setup.owner.onExit(this, exit)
    this.#exited.resolve()
    await lastWords(this.channel)
  }

  /** Ends the other processes of its session. After a stop, of whatever origin, they first have the rest of `stopTimeout`. */
  async #endSession(exit: Exit): Promise<void> {
    const { spawn, stopTimeout, killTimeout } = this.#setup.settings
    const leader = this.#child?.pid
    if (leader === undefined || spawn.leaveGroup === true) return
    const leftovers = await SessionLeftovers.of(leader)
    if (leftovers === undefined) return
    this.#leftovers = leftovers
    if (this.#atOnce) leftovers.kill()
    const asked = this.state === 'stopping'
    this.drains = !asked && isStop(exit)
    this.#become('stopping')
    const together = await this.#setup.owner.stopsToo()
    const limit = asked ? this.#stopBy : together || this.drains ? this.#endedAt! + stopTimeout : 0
    // A shell that TERM has killed did not pass it on. But if the supervisor stops, all processes may have got TERM
    const alone = (asked || this.drains) && exit.signal !== null && isStop(exit)
    const term = alone && (together ? asked : 'first')
    this.#warnOfThoseLeft(await leftovers.end({ grace: Math.max(0, limit - performance.now()), term, killTimeout }))
  }

  /** Returns the reason of its end. */
  #describe(exit: Exit): string {
    const { booted, told, reason, pid } = this
    const progress = {
      started: pid !== undefined,
      booted,
      told,
      stopping: this.state === 'stopping',
      reason,
      missing: this.#missing(),
      unreadable: (code: number | null) => this.#unreadable(code)
    }
    this.stopped = this.#cause.isStop(exit, progress)
    return this.#cause.describe(exit, progress)
  }

  /** Returns a guess why Node exited with 1: a file that the worker's user may not read. Node explains it only on the worker's stderr. */
  #unreadable(code: number | null): string | undefined {
    const { entry, spawn } = this.#setup.settings
    if (entry === undefined || this.#line?.joined === true || code !== 1 || spawn.uid === undefined) return undefined
    const path = deniedTo(spawn.uid, spawn.gid ?? process.getgid!(), { entry, cwd: spawn.cwd })
    return path === undefined ? undefined : `user ${spawn.uid} may not read ${path}`
  }
}

/** Sends KILL. It may have ended meanwhile, or run as another user: then `SessionLeftovers` reports it. */
function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
}
