/** The owner of a seat. It answers on the takeover path, gives each candidate its turn, and closes its listeners when a successor serves. */
import { PassfdError } from '../base/errors.ts'
import type { Channel } from '../channel/channel.ts'
import type { Message } from '../channel/message.ts'
import { type ChannelServer, listenOwn } from '../channel/server.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { native } from '../os/native.ts'
import { isSeen, type OwnUnit, unitOf } from '../os/unit.ts'
import { Attempt } from './attempt.ts'
import { type Copy, copying } from './copies.ts'
import {
  type Asked,
  type Begin,
  checkVersion,
  closeParts,
  type Draining,
  type Frozen,
  type Offer,
  type Offered,
  PART,
  type Part,
  type Program,
  readAsked,
  type StatePart,
  type Status,
  type Told,
  VERSION
} from './messages.ts'
import { type Life, makeDecision, OtherLife, takeByte } from './pipes.ts'
import { publishStep } from './steps.ts'
import { Successor } from './successor.ts'

/** The backlog of the takeover path, as that of any channel server. */
export const BACKLOG = 511
/** The most candidates that wait for their turn. */
const MAX_WAITING = 16
/** How often the owner sends `wait` to a waiting candidate, in ms. */
const WAIT_INTERVAL = 3000
/** How long a client of the takeover path may send nothing, in ms. */
const SILENCE = 10_000
/** The owner reports a committed successor that has not written its mark for so long, in ms. */
const SILENT_AFTER = 1000

export interface OwnerLimits {
  /** From the offer to the commit, in ms. */
  readonly attemptTimeout: number
  /** From the call of `freeze` to the commit, in ms. */
  readonly freezeTimeout: number
  /** What happens to a candidate while another one has its turn. */
  readonly busy: 'wait' | 'refuse'
}

/** The argument of `freeze`. */
export interface FreezeContext {
  readonly successor: Peer
  /** What the successor has given to `inherit()`: which formats of the state it takes, for example. Untrusted if `authorize` lets others in. */
  readonly accepts: unknown
  /** Aborted when the attempt is over before `freeze` has returned. What it returns then comes back by `thaw`. */
  readonly signal: AbortSignal
}

/** What an owner calls on its program. */
export interface OwnerHooks {
  /** Returns copies of every lane of every listener, which the caller owns. `wants`: the names that the successor serves; undefined: not known yet. */
  offer(wants: readonly string[] | undefined, successor: Peer): Offered[]
  /** The successor does not serve these listeners. */
  drops(names: readonly string[], successor: Peer): void
  /** Stops accepting, and resolves to copies of the state, which the caller owns. The program keeps the originals. If it rejects, the program goes on. */
  freeze(context: FreezeContext): Promise<readonly StatePart[]>
  /** The attempt has failed. `frozen`: the program gets its state back and accepts again. `listens`: the owner calls listen(2) again. */
  rollBack(how: { frozen: boolean; listens: boolean }, successor: Peer): void
  /** The successor serves. The program closes its listeners and the originals of its state, and drains. */
  letGo(successor: Peer, to: Successor): void
  /** `silent`: the successor has committed, and has not written its mark for a second. */
  report(code: 'silent' | 'failed', successor: Peer, detail: string): void
}

export interface OwnerSetup {
  /** The listening socket of the takeover path, which the owner keeps until a successor serves. Undefined: its only candidate is at a channel. */
  readonly path: Descriptor | undefined
  readonly program: Program
  readonly generation: number
  readonly limits: OwnerLimits
  readonly hooks: OwnerHooks
  readonly authorize: ((peer: Peer) => boolean | Promise<boolean>) | undefined
  /** Predecessors that still drain. */
  readonly chain: () => Draining[]
}

interface Candidate {
  readonly channel: Channel<unknown, Told>
  readonly peer: Peer
  readonly begin: Begin
  readonly turn: { resolve(offer: Offer): void; reject(error: Error): void }
}

/** The attempt that is under way. */
interface Turn {
  readonly candidate: Candidate
  readonly attempt: Attempt
  readonly offered: Offered[]
  readonly signal: AbortController
  decision: Descriptor | undefined
  life: OtherLife | undefined
  /** The parts that the successor has not asked for yet. */
  state: Map<number, StatePart> | undefined
  timer: NodeJS.Timeout | undefined
  /** The time limit of the whole attempt, by performance.now(). */
  deadline: number
}

/** Listens from its construction on, so that peers see this process's credentials. */
export class Owner {
  readonly life: Life
  readonly since = Date.now()
  readonly #setup: OwnerSetup
  readonly #waiting: Candidate[] = []
  readonly #waits: NodeJS.Timeout
  #server: ChannelServer<unknown, Told> | undefined
  #turn: Turn | undefined
  #over = false
  /** No further attempt begins after the present one. */
  #stopping = false
  #settled: (() => void) | undefined

  private constructor(setup: OwnerSetup, life: Life) {
    this.#setup = setup
    this.life = life
    this.#waits = setInterval(() => this.#tellWaiting(), WAIT_INTERVAL).unref()
  }

  /**
   * `life`: the owner's for the rest of its process's life; a successor's has its mark already. `listening`: a copy of the path's socket, which is moved
   * in. Accepts in this turn of the event loop.
   */
  static begin(setup: OwnerSetup, life: Life, listening: Descriptor): { owner: Owner; accepting: Promise<void> } {
    const owner = new Owner(setup, life)
    return { owner, accepting: owner.#listen(listening) }
  }

  /** Makes an owner with one candidate, at the other end of the channel, and without a path. */
  static at(channel: Channel<unknown, Told>, setup: OwnerSetup, life: Life): Owner {
    const owner = new Owner(setup, life)
    owner.#admitted(channel)
    return owner
  }

  /** The pid of the candidate whose turn it is. */
  get candidate(): number | undefined {
    return this.#turn?.candidate.peer.pid
  }

  /** Resolves when no attempt is under way: at once, or when the present one has its outcome. */
  settled(): Promise<void> {
    if (this.#turn === undefined) return Promise.resolve()
    return new Promise(resolve => {
      const before = this.#settled
      this.#settled = () => {
        before?.()
        resolve()
      }
    })
  }

  /** Stops without a successor: candidates connect again, and find no owner. The socket file stays, and the next start replaces it. */
  async stop(): Promise<void> {
    this.#stopping = true
    await this.settled()
    await this.#end()
  }

  // --- the takeover path

  async #listen(listening: Descriptor): Promise<void> {
    const { authorize } = this.#setup
    const opening = listenOwn<unknown, Told>(listening, {
      ...(authorize === undefined ? {} : { authorize }),
      maxMessage: 1048576,
      maxDescriptors: 1,
      maxUnclaimed: 4,
      maxUnclaimedTotal: 1024,
      maxPending: 4,
      maxConnections: 256,
      requestTimeout: 0
    })
    const server = await opening.catch(error => {
      listening[Symbol.dispose]() // it is still ours, and a client would wait at it for ever
      throw error
    })
    this.#server = server.unref()
    if (this.#over) {
      await server.close({ channels: false })
      return
    }
    server.on('channel', channel => this.#admitted(channel))
  }

  #admitted(channel: Channel<unknown, Told>): void {
    channel.unref()
    // A client that asks only for the status may stay no longer than a silent one
    const silence = setTimeout(() => {
      if (!this.#isCandidate(channel)) channel.destroy(new PassfdError('TAKEOVER_SILENT', { timeout: SILENCE }))
    }, SILENCE).unref()
    channel.serve(message => {
      silence.refresh()
      return this.#answer(channel, message)
    })
    void channel.closed.then(() => {
      clearTimeout(silence)
      this.#left(channel)
    })
  }

  /** Whether the channel's client waits for its turn, has it, or was the successor. */
  #isCandidate(channel: Channel<unknown, Told>): boolean {
    if (this.#over || this.#turn?.candidate.channel === channel) return true
    return this.#waiting.some(candidate => candidate.channel === channel)
  }

  async #answer(channel: Channel<unknown, Told>, message: Message): Promise<unknown> {
    const asked: Asked = readAsked(message.value)
    const turn = this.#turn?.candidate.channel === channel ? this.#turn : undefined
    switch (asked.do) {
      case 'status':
        return this.#status()
      case 'begin':
        return this.#begin(channel, asked)
      case 'more':
        return this.#more(this.#own(turn), asked.from)
      case 'drops':
        this.#setup.hooks.drops(asked.names, this.#own(turn).candidate.peer)
        return undefined
      case 'freeze':
        return this.#freeze(this.#own(turn), asked.accepts)
      case 'state':
        return this.#state(this.#own(turn), asked.part)
    }
  }

  #own(turn: Turn | undefined): Turn {
    if (turn === undefined)
      throw new PassfdError('TAKEOVER_PROTOCOL', { detail: 'it is not the turn of this candidate' })
    return turn
  }

  #status(): Status {
    if (this.#over) throw new PassfdError('TAKEOVER_MOVED')
    const { program, generation, chain } = this.#setup
    const { candidate, since } = this
    return {
      owner: program,
      generation,
      since,
      ...(candidate === undefined ? {} : { candidate }),
      waiting: this.#waiting.map(({ peer }) => peer.pid),
      chain: chain()
    }
  }

  // --- whose turn it is

  /** Throws if systemd would not take the candidate for the main process of a service, as it does this one. */
  #checkUnit(candidate: number, service: OwnUnit | undefined): void {
    if (this.#setup.path === undefined || !process.env.NOTIFY_SOCKET) return
    const unit = unitOf('self')
    if (unit?.endsWith('.service') !== true) return
    const where = service === undefined ? seenOutside(candidate) : outside(unit, service)
    if (where !== undefined)
      throw new PassfdError('TAKEOVER_UNIT', { pid: process.pid, unit, where }, { data: { unit, where } })
  }

  #begin(channel: Channel<unknown, Told>, begin: Begin): Promise<Offer> {
    checkVersion(begin)
    const { peer } = channel
    if (this.#over) throw new PassfdError('TAKEOVER_MOVED')
    this.#checkUnit(peer.pid, begin.service)
    const all = [...this.#waiting, ...(this.#turn === undefined ? [] : [this.#turn.candidate])]
    if (all.some(one => one.channel === channel))
      throw new PassfdError('TAKEOVER_PROTOCOL', { detail: 'this channel has begun already' })
    const busy =
      this.#turn !== undefined && (this.#setup.limits.busy === 'refuse' || this.#waiting.length >= MAX_WAITING)
    if (busy || all.some(one => one.peer.pid === peer.pid)) throw this.#busy(peer.pid)
    begin.life.claim()
    return new Promise((resolve, reject) => {
      this.#waiting.push({ channel, peer, begin, turn: { resolve, reject } })
      this.#next()
      if (this.#waiting.length > 0) this.#tellWaiting()
    })
  }

  #busy(pid: number): PassfdError {
    const { candidate = pid } = this
    return Object.assign(new PassfdError('TAKEOVER_BUSY', { pid: candidate }), { data: { pid: candidate } })
  }

  #tellWaiting(): void {
    const { candidate } = this
    if (candidate === undefined) return
    for (const { channel } of this.#waiting) {
      try {
        void channel.send({ do: 'wait', behind: candidate }).catch(() => {})
      } catch {
        // The candidate has left; the end of its channel reports that
      }
    }
  }

  #next(): void {
    if (this.#turn !== undefined || this.#over) return
    const candidate = this.#stopping ? undefined : this.#waiting.shift()
    if (candidate === undefined) {
      this.#settled?.()
      this.#settled = undefined
      return
    }
    this.#offer(candidate)
  }

  // --- an attempt

  #offer(candidate: Candidate): void {
    const { hooks, program, generation, limits, path } = this.#setup
    const { begin, peer } = candidate
    const attempt = new Attempt({
      takeByte: () => takeByte(turn.decision!),
      rollBack: how => this.#rolledBack(turn, how),
      letGo: () => this.#letGo(turn),
      awaitMark: () => this.#awaitMark(turn)
    })
    const turn: Turn = {
      candidate,
      attempt,
      offered: [],
      signal: new AbortController(),
      decision: undefined,
      life: undefined,
      state: undefined,
      timer: undefined,
      deadline: performance.now() + limits.attemptTimeout
    }
    this.#turn = turn
    publishStep('answer begin', peer.pid)
    try {
      turn.life = new OtherLife(begin.life, { onMark: () => attempt.marked(), onEnd: () => attempt.lifeEnded() })
      turn.offered.push(...hooks.offer(begin.wants, peer))
      turn.timer = setTimeout(() => attempt.interrupted(), limits.attemptTimeout).unref()
      const { offered } = turn
      const offer = copying(copy => ({
        takeover: Math.min(VERSION, begin.takeover),
        needs: [],
        program,
        generation,
        total: offered.length,
        ...(path === undefined ? {} : { path: copy(path) }),
        life: this.life.readEnd(copy),
        ...this.#part(turn, 0, copy)
      }))
      candidate.turn.resolve(offer)
    } catch (error) {
      // For example no descriptor is free. The candidate gets the error, and the owner goes on
      candidate.turn.reject(error as Error)
      this.#forget(turn)
      this.#next()
    }
  }

  /** Returns copies of the listeners from `from` on, which the caller owns, and with the last ones the decision pipe. */
  #part(turn: Turn, from: number, copy: Copy): Part {
    const { offered, attempt } = turn
    const listeners = offered.slice(from, from + PART).map(one => ({ ...one, listener: copy(one.listener) }))
    if (from + PART < offered.length) return { listeners }
    turn.decision ??= makeDecision()
    const decision = copy(turn.decision)
    attempt.offered()
    return { listeners, decision }
  }

  #more(turn: Turn, from: number): Part {
    if (turn.attempt.state !== 'offering' || from > turn.offered.length)
      throw new PassfdError('TAKEOVER_PROTOCOL', { detail: 'there is no such part of the offer' })
    publishStep('answer more', turn.candidate.peer.pid)
    return copying(copy => this.#part(turn, from, copy))
  }

  async #freeze(turn: Turn, accepts: unknown): Promise<Frozen> {
    const { hooks, limits } = this.#setup
    const { attempt, candidate, signal } = turn
    if (!attempt.freeze())
      throw new PassfdError('TAKEOVER_PROTOCOL', {
        detail: 'the state can be asked for once, after the last part of the offer'
      })
    publishStep('answer freeze', candidate.peer.pid)
    clearTimeout(turn.timer)
    turn.timer = setTimeout(() => attempt.interrupted(), limits.freezeTimeout).unref()
    try {
      const frozen = hooks.freeze({ successor: candidate.peer, accepts, signal: signal.signal })
      const isOver = new Promise<undefined>(resolve => {
        signal.signal.addEventListener('abort', () => resolve(undefined))
      })
      const parts = await Promise.race([frozen, isOver])
      if (parts === undefined || attempt.state !== 'frozen') {
        void frozen.then(closeParts, () => {}) // a program that still freezes keeps its successor waiting no longer
        throw new PassfdError('TAKEOVER_TOO_LATE', { pid: process.pid })
      }
      turn.state = new Map(parts.entries())
      return {
        parts: parts.length,
        bytes: sum(parts, one => one.bytes.length),
        descriptors: sum(parts, one => one.descriptors.length)
      }
    } catch (error) {
      attempt.notFrozen()
      if (attempt.state === 'offered') {
        // The program accepts again, so the short limit does not apply any more
        clearTimeout(turn.timer)
        const left = Math.max(turn.deadline - performance.now(), limits.freezeTimeout)
        turn.timer = setTimeout(() => attempt.interrupted(), left).unref()
      }
      throw error
    }
  }

  /** Sends each part once. Its descriptors are copies, and move. */
  #state(turn: Turn, part: number): StatePart {
    const one = turn.state?.get(part)
    if (one === undefined)
      throw new PassfdError('TAKEOVER_PROTOCOL', {
        detail: 'there is no such part of the state, or it was given already'
      })
    publishStep('answer state', turn.candidate.peer.pid)
    turn.state!.delete(part)
    return one
  }

  #left(channel: Channel<unknown, Told>): void {
    const index = this.#waiting.findIndex(one => one.channel === channel)
    if (index >= 0) {
      const [{ begin, turn }] = this.#waiting.splice(index, 1) as [Candidate]
      begin.life.close()
      turn.reject(new PassfdError('TAKEOVER_MOVED'))
    }
    const turn = this.#turn
    if (turn?.candidate.channel !== channel) return
    // The life pipe counts more than the end of the channel
    turn.life?.look()
    turn.attempt.interrupted()
  }

  #awaitMark(turn: Turn): void {
    clearTimeout(turn.timer)
    const { peer } = turn.candidate
    turn.timer = setTimeout(() => {
      this.#setup.hooks.report('silent', peer, `process ${peer.pid} has committed and does not serve yet`)
    }, SILENT_AFTER).unref()
  }

  #rolledBack(turn: Turn, how: { frozen: boolean; listens: boolean }): void {
    const { candidate } = turn
    publishStep('rollBack', candidate.peer.pid)
    this.#forget(turn)
    void candidate.channel.close()
    // Peers see the credentials of the process that called listen(2) last
    const { path } = this.#setup
    if (how.listens && path !== undefined) native.listen(path.borrow(), BACKLOG)
    this.#setup.hooks.rollBack(how, candidate.peer)
    this.#next()
  }

  #letGo(turn: Turn): void {
    const { channel, peer } = turn.candidate
    publishStep('letGo', peer.pid)
    this.#forget(turn)
    void this.#end()
    this.#setup.hooks.letGo(peer, new Successor(channel))
  }

  #forget(turn: Turn): void {
    this.#turn = undefined
    clearTimeout(turn.timer)
    turn.signal.abort()
    turn.life?.close()
    if (!turn.candidate.begin.life.closed) turn.candidate.begin.life.close()
    turn.decision?.close()
    for (const { listener } of turn.offered) listener.close()
    if (turn.state !== undefined) closeParts(turn.state.values())
  }

  /** No further candidate: those that wait connect again. The file of the path stays. */
  async #end(): Promise<void> {
    this.#over = true
    clearInterval(this.#waits)
    for (const { begin, turn } of this.#waiting.splice(0)) {
      begin.life.close()
      turn.reject(new PassfdError('TAKEOVER_MOVED'))
    }
    this.#settled?.()
    this.#settled = undefined
    await this.#server?.close({ channels: false })
    const { path } = this.#setup
    if (path?.closed === false) path.close()
  }
}

function sum<T>(values: readonly T[], of: (value: T) => number): number {
  return values.reduce((total, value) => total + of(value), 0)
}

/** What is wrong with a candidate, after "this candidate". Undefined: it is in the unit, or is the process of another service. */
function outside(unit: string, service: OwnUnit): string | undefined {
  if (service.unit === unit) return undefined
  if (service.unit?.endsWith('.service') !== true) return OUTSIDE
  return service.own ? undefined : `was started by another process of the service ${service.unit}`
}

/** The same of one that does not report its unit: the owner can't see whose process it is there. */
function seenOutside(pid: number): string | undefined {
  if (unitOf(pid)?.endsWith('.service') === true) return undefined
  return isSeen(pid) ? OUTSIDE : 'does not report its service, and is hidden from that process'
}

const OUTSIDE = 'was started outside of any service'
