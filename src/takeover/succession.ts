/** An admitted candidate: the predecessor's offer and state, and the commit. */
import { whenAborted } from '../base/abort-signals.ts'
import { type Deferred, deferred, quiet } from '../base/deferred.ts'
import { abortError, PassfdError } from '../base/errors.ts'
import type { Channel } from '../channel/channel.ts'
import { closeUnused } from '../channel/find-descriptors.ts'
import type { Message } from '../channel/message.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { ownUnit } from '../os/unit.ts'
import { Candidacy, type Defeat } from './candidacy.ts'
import {
  type Asked,
  checkVersion,
  closeParts,
  type Draining,
  FEATURES,
  type Offer,
  type Offered,
  type Part,
  type Program,
  readChain,
  readFrozen,
  readOffer,
  readPart,
  readStatePart,
  type StatePart,
  VERSION
} from './messages.ts'
import { Life, OtherLife, takeByte } from './pipes.ts'
import { publishStep } from './steps.ts'

/** A candidate that gets no message for so many ms connects again, because a stopped, superseded process may have accepted it. */
const SILENCE = 10_000
/** Descriptors of an answer: the kernel's limit (SCM_MAX_FD). */
const MOST = 253

export interface CandidateLimits {
  /** From the connect, or the last `wait`, to the offer, in ms. */
  readonly turnTimeout: number
  /** For the whole of `inherit`, in ms. */
  readonly inheritTimeout: number
  /** From the end of the channel until a silent life pipe means that the predecessor lives, in ms. */
  readonly graceTimeout: number
}

export interface CandidateSetup {
  readonly path: string
  readonly program: Program
  readonly wants: readonly string[] | undefined
  readonly limits: CandidateLimits
  readonly authorize: ((peer: Peer) => boolean | Promise<boolean>) | undefined
  readonly signal: AbortSignal | undefined
}

/** The messages of a superseded predecessor while it drains. */
export interface PredecessorListener {
  onLeft(connections: number, chain: readonly Draining[]): void
  /** The Descriptors are the listener's. `slot`: they are idle, and the predecessor's worker in that slot has served them. */
  onConnections(name: string, connections: readonly Descriptor[], slot: number | undefined): void
  /** Between supervisors: the end of a socketpair to its worker in `slot`, which gives its state. The Descriptor is the listener's. */
  onWorker(slot: number, end: Descriptor): void
  /** Its channel has ended: it has drained, or has died. */
  onEnd(): void
}

/** Returns the code of the other side's answer, or of this side's error. */
export function codeOf(error: unknown): string {
  const { code = '', remote } = error as { code?: string; remote?: { code?: string } }
  return code === 'ERR_PASSFD_REMOTE' ? (remote?.code ?? code) : code
}

/** When a candidate began to wait, or got its last `wait`, by performance.now(); and the owner that it has reached last. */
export interface Patience {
  since: number
  pid?: number
}

export class Succession {
  /** All offered listeners. Giving up the succession closes them; see `moveListeners()`. */
  readonly listeners: Offered[] = []
  /** This process's life pipe, which is marked when this process serves. */
  readonly life = new Life()
  readonly #setup: CandidateSetup
  readonly #channel: Channel<unknown, Asked>
  readonly #patience: Patience
  readonly #candidacy: Candidacy
  readonly #lost: Deferred = deferred()
  readonly #over: Deferred = deferred()
  #path: Descriptor | undefined
  #decision: Descriptor | undefined
  #predecessorLife: OtherLife | undefined
  #offer: Offer | undefined
  #timer: NodeJS.Timeout | undefined
  #predecessor: PredecessorListener | undefined
  #heard: (() => void) | undefined
  #defeat: Defeat | undefined

  constructor(setup: CandidateSetup, channel: Channel<unknown, Asked>, patience: Patience) {
    this.#setup = setup
    this.#patience = patience
    this.#channel = channel
    quiet(this.#over.promise)
    this.#candidacy = new Candidacy({
      takeByte: () => takeByte(this.#decision!),
      mark: () => this.life.mark(),
      awaitDeath: () => this.#limit(this.#setup.limits.graceTimeout),
      stateLost: () => this.#lost.resolve(),
      giveUp: why => this.#end(why)
    })
    channel.on('message', message => this.#hear(message))
    void channel.closed.then(() => {
      // Death is not atomic: the life pipe may have ended already
      this.#predecessorLife?.look()
      this.#candidacy.channelEnded()
      this.#predecessor?.onEnd()
    })
  }

  get predecessor(): Peer {
    return this.#channel.peer
  }

  get generation(): number {
    return this.#offer!.generation + 1
  }

  get program(): Program {
    return this.#offer!.program
  }

  /** Takes the listening socket of the takeover path, which the caller then owns. */
  get path(): Descriptor {
    return this.#path!
  }

  /** @throws as `win()` if this attempt is over. */
  checkUndefeated(): void {
    if (this.#defeat !== undefined) throw this.#defeated()
  }

  /** Waits for its turn, and receives every part of the offer. */
  async begin(): Promise<void> {
    const { wants, program } = this.#setup
    const { pid } = this.predecessor
    publishStep('begin', pid)
    const answer = await this.#ask(
      {
        do: 'begin',
        takeover: VERSION,
        needs: [...FEATURES],
        program,
        ...(wants === undefined ? {} : { wants: [...wants] }),
        service: ownUnit(),
        life: this.life.readEnd()
      },
      this.#setup.limits.turnTimeout,
      'its turn (turnTimeout)'
    )
    publishStep('offer', pid)
    const offer = this.#read(answer, () => {
      const read = readOffer(answer)
      this.#predecessorLife = new OtherLife(read.life, {
        onMark: () => {}, // an owner that was a successor once
        onEnd: () => this.#candidacy.lifeEnded()
      })
      const used = [...descriptorsOf(read), read.life, ...(read.path === undefined ? [] : [read.path])]
      return { read, used }
    })
    this.#offer = offer
    this.#path = offer.path
    this.#accept(offer)
    checkVersion(offer)
    while (this.listeners.length < offer.total) {
      const from = this.listeners.length
      publishStep('more', pid)
      const more = await this.#ask({ do: 'more', from }, this.#setup.limits.turnTimeout, 'the offer (turnTimeout)')
      const part = this.#read(more, () => {
        const read = readPart(more)
        return { read, used: descriptorsOf(read) }
      })
      this.#accept(part)
      if (part.listeners.length === 0)
        throw new PassfdError('TAKEOVER_PROTOCOL', { detail: 'a part of the offer is empty' })
    }
    if (this.#decision === undefined)
      throw new PassfdError('TAKEOVER_PROTOCOL', { detail: 'the offer has no decision pipe' })
    this.#candidacy.received(true)
    publishStep('boot', pid)
  }

  /** Reads an answer, and closes the descriptors in it that are not `used`: all, if it is malformed or this attempt is over. */
  #read<T>(answer: unknown, read: () => { read: T; used: readonly Descriptor[] }): T {
    try {
      // The channel may have ended right after the answer
      if (this.#defeat !== undefined)
        throw this.#defeat === 'again' ? new PassfdError('TAKEOVER_MOVED') : this.#defeated()
      const result = read()
      closeUnused(answer, result.used)
      return result.read
    } catch (error) {
      closeUnused(answer)
      throw error
    }
  }

  #accept({ listeners, decision }: Part): void {
    this.listeners.push(...listeners)
    this.#decision?.[Symbol.dispose]() // the last part has the decision pipe
    this.#decision = decision
    this.#candidacy.received(false)
  }

  /** Moves all listeners out. From now on the caller must close them, whatever the outcome. */
  moveListeners(): Offered[] {
    return this.listeners.splice(0)
  }

  /** Sends the names that the program does not serve, if it knows them only now. */
  async drop(names: readonly string[]): Promise<void> {
    await this.#ask({ do: 'drops', names: [...names] }, this.#setup.limits.inheritTimeout, 'an answer (inheritTimeout)')
  }

  /**
   * Asks the predecessor to freeze, and resolves to copies of its state, the caller's; to undefined if the state has died with the predecessor.
   * Rejects with what the predecessor's program answers: this side may commit without the state then; or because the attempt is over.
   */
  async inherit(accepts: unknown): Promise<StatePart[] | undefined> {
    const parts: StatePart[] = []
    const deadline = performance.now() + this.#setup.limits.inheritTimeout
    this.#limit(this.#setup.limits.inheritTimeout)
    try {
      if (this.#candidacy.inherit()) {
        const copied = this.#copy(accepts, parts, deadline).then(() => true as const)
        const whole = await Promise.race([copied, this.#lost.promise.then(() => false as const), this.#over.promise])
        if (whole) {
          this.#candidacy.inherited()
          return parts
        }
      } else await Promise.race([this.#lost.promise, this.#over.promise])
      closeParts(parts)
      return undefined
    } catch (error) {
      closeParts(parts)
      // The predecessor could not freeze, and keeps its state
      if (this.#candidacy.state === 'copying') this.#candidacy.inherited()
      throw error
    } finally {
      clearTimeout(this.#timer)
    }
  }

  async #copy(accepts: unknown, parts: StatePart[], deadline: number): Promise<void> {
    const ask = async <T>(asked: Asked, read: (answer: unknown) => T): Promise<T> => {
      // It throws if `accepts` can't be sent: the predecessor has heard nothing then
      const asking = this.#channel.request(asked, {
        descriptors: asked.do === 'state' ? MOST : 0,
        timeout: Math.max(1, Math.ceil(deadline - performance.now()))
      })
      let answer: unknown
      try {
        answer = await asking
      } catch (error) {
        // An error in the predecessor's answer is reported. All others mean the end of the channel or of the time, which the candidacy handles
        if (codeOf(error) === (error as { code?: string }).code) return new Promise(() => {})
        throw error
      }
      if (this.#candidacy.state === 'copying') return read(answer)
      closeUnused(answer) // too late
      return new Promise(() => {})
    }
    publishStep('freeze', this.predecessor.pid)
    const frozen = await ask({ do: 'freeze', accepts }, readFrozen)
    for (let part = 0; part < frozen.parts; part++) {
      publishStep('state', this.predecessor.pid)
      await ask({ do: 'state', part }, answer => {
        const one = this.#read(answer, () => {
          const read = readStatePart(answer)
          return { read, used: read.descriptors }
        })
        parts.push(one) // in the same turn, so that the end of this attempt closes it
      })
    }
    const bytes = parts.reduce((sum, one) => sum + one.bytes.length, 0)
    const descriptors = parts.reduce((sum, one) => sum + one.descriptors.length, 0)
    if (bytes !== frozen.bytes || descriptors !== frozen.descriptors)
      throw new PassfdError('TAKEOVER_PROTOCOL', { detail: 'the state is not as large as was announced' })
  }

  /**
   * Reads the byte: the predecessor can't roll back any more. This process calls listen(2), accepts, and then calls `mark()`, or `giveUp()`.
   * @throws ERR_PASSFD_TAKEOVER_TOO_LATE if the predecessor has gone on; ERR_PASSFD_TAKEOVER_OVER.
   */
  win(): void {
    if (this.#candidacy.state !== 'holding') throw this.#defeated()
    publishStep('commit', this.predecessor.pid)
    if (!this.#candidacy.commit()) throw this.#defeated()
    publishStep('attach', this.predecessor.pid)
  }

  /** Called when this process serves. @throws the system's error; then call `giveUp()`. */
  mark(): void {
    publishStep('mark', this.predecessor.pid)
    this.#candidacy.attached()
    this.#decision?.close()
    this.#predecessorLife?.close()
    this.#channel.unref()
  }

  /** Commits within one turn of the event loop. @throws as `win()`, and the errors of `attach`; then the predecessor goes on. */
  commit(attach: () => void): void {
    this.win()
    try {
      attach()
      this.mark()
    } catch (error) {
      this.#candidacy.giveUp()
      throw error
    }
  }

  /** Receives the predecessor's messages after the commit, while it drains. */
  listenTo(listener: PredecessorListener): void {
    this.#predecessor = listener
  }

  /** Gives up before the commit: closes everything that was offered, and the predecessor goes on. */
  giveUp(): void {
    this.#candidacy.giveUp()
  }

  /** Starts the time limit of the candidacy's present state. */
  #limit(timeout: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#candidacy.timeOver(), timeout)
  }

  #defeated(): PassfdError {
    const { pid } = this.#channel.peer
    return this.#defeat === 'late'
      ? new PassfdError('TAKEOVER_TOO_LATE', { pid })
      : new PassfdError('TAKEOVER_OVER', { pid, why: WHY[this.#defeat ?? 'given up'] })
  }

  /** Sends a request whose time limit starts again at each `wait`. */
  async #ask(asked: Asked, timeout: number, whom: string): Promise<unknown> {
    const ended = deferred()
    const begin = (): void => {
      clearTimeout(this.#timer)
      const { pid } = this.#channel.peer
      const left = asked.do === 'begin' ? Math.max(0, this.#patience.since + timeout - performance.now()) : timeout
      this.#timer = setTimeout(
        () => {
          if (left > SILENCE) ended.reject(new PassfdError('TAKEOVER_MOVED'))
          else ended.reject(new PassfdError('TAKEOVER_TIMEOUT', { pid, whom, timeout }))
        },
        Math.min(left, asked.do === 'begin' ? SILENCE : left)
      )
    }
    begin()
    this.#heard = () => {
      this.#patience.since = performance.now()
      begin()
    }
    // Only the wait for the predecessor can be aborted
    const signal = asked.do === 'drops' ? undefined : this.#setup.signal
    const forget = whenAborted(signal, () => ended.reject(abortError(signal!)))
    let answer: Promise<unknown> | undefined
    try {
      answer = this.#channel.request(asked, { descriptors: asked.do === 'drops' ? 0 : MOST, timeout: 0 })
      return await Promise.race([answer, ended.promise])
    } catch (error) {
      answer?.then(closeUnused, () => {}) // that comes after the limit
      throw error
    } finally {
      forget()
      clearTimeout(this.#timer)
      this.#heard = undefined
    }
  }

  #hear(message: Message): void {
    const { value } = message as Message<{
      do?: string
      connections?: unknown
      name?: unknown
      chain?: unknown
      slot?: unknown
      end?: unknown
    }>
    if (value?.do === 'wait') this.#heard?.()
    else if (value?.do === 'left' && Number.isSafeInteger(value.connections))
      this.#predecessor?.onLeft(value.connections as number, readChain(value.chain))
    else if (value?.do === 'connections' && this.#predecessor !== undefined) {
      message.claim()
      const slot = Number.isSafeInteger(value.slot) ? (value.slot as number) : undefined
      this.#predecessor.onConnections(String(value.name), message.descriptors, slot)
    } else if (value?.do === 'worker' && value.end instanceof Descriptor && this.#predecessor !== undefined)
      this.#predecessor.onWorker(Number(value.slot), value.end.claim())
  }

  #end(why: Defeat): void {
    this.#defeat = why
    clearTimeout(this.#timer)
    this.#over.reject(this.#defeated())
    // First a friendly goodbye, then the life pipe, then everything else
    void this.#channel.close()
    this.life.end()
    this.#predecessorLife?.close()
    for (const descriptor of [this.#path, this.#decision, ...this.listeners.map(({ listener }) => listener)])
      if (descriptor?.closed === false) descriptor.close()
  }
}

export const WHY: Record<Defeat, string> = {
  again: 'its predecessor has gone before the offer was complete',
  turn: 'its turn did not come in time (turnTimeout)',
  offer: 'the offer was not complete in time (turnTimeout)',
  state: 'the state was not there in time (inheritTimeout, graceTimeout)',
  late: 'the predecessor has gone on',
  'given up': 'it was given up',
  attach: 'it could not accept'
}

function descriptorsOf({ listeners, decision }: Part): Descriptor[] {
  const used = listeners.map(({ listener }) => listener)
  return decision === undefined ? used : [...used, decision]
}
