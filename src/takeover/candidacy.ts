/**
 * The candidate's side of one attempt to take over: a state machine that knows no channel, no clock and no descriptor.
 *
 *   waiting ──part──▶ receiving ──last part──▶ holding ──inherit()──▶ copying ──last part of the state──▶ holding
 *                                                │  ▲                    └──channel ends──▶ bereaved
 *                                                │  └──the predecessor is dead───────────────┘
 *                                             commit(): read the byte
 *                                        got it ▼        ▼ no byte
 *                                  won ──mark()──▶ owner   over
 */

/** `bereaved`: the channel has ended before the state was complete, and the predecessor's life pipe has not. */
export type CandidacyState = 'waiting' | 'receiving' | 'holding' | 'copying' | 'bereaved' | 'won' | 'owner' | 'over'

/** Why a candidacy is over. `again`: the candidate gives back what it has and connects anew. */
export type Defeat = 'again' | 'turn' | 'offer' | 'state' | 'late' | 'given up' | 'attach'

export interface CandidacyEffects {
  /** Reads the decision pipe. True: the byte was there, and the predecessor can't roll back any more. */
  takeByte(): boolean
  /** Writes the mark into the own life pipe. */
  mark(): void
  /** The channel has ended, and the predecessor may be dying: its life pipe tells, or a limit is over (`timeOver`). */
  awaitDeath(): void
  /** The state can't come any more: the predecessor has died with it. The candidate may commit without it. */
  stateLost(): void
  /** Closes all that the candidate was given, and its life pipe. */
  giveUp(why: Defeat): void
}

/** All that a candidacy remembers. */
export interface CandidacyFacts {
  state: CandidacyState
  connected: boolean
  predecessorLives: boolean
}

export class Candidacy {
  readonly facts: CandidacyFacts
  readonly #effects: CandidacyEffects

  constructor(
    effects: CandidacyEffects,
    facts: CandidacyFacts = { state: 'waiting', connected: true, predecessorLives: true }
  ) {
    this.#effects = effects
    this.facts = facts
  }

  get state(): CandidacyState {
    return this.facts.state
  }

  /** Everything is here, and nothing of the predecessor is needed to commit. */
  get complete(): boolean {
    return this.state === 'holding'
  }

  /** A part of the offer has come; the last one has the decision pipe. */
  received(last: boolean): void {
    if (this.state === 'waiting' || this.state === 'receiving') this.facts.state = last ? 'holding' : 'receiving'
  }

  /** Asks for the state. False: there is nobody to ask (see `stateLost` and `giveUp`), or it is not the time. */
  inherit(): boolean {
    if (this.state !== 'holding') return false
    this.facts.state = 'copying'
    if (this.facts.connected) return true
    this.#bereave()
    return false
  }

  /** The last part of the state has come; or the predecessor has answered that it could not freeze, and goes on with its state. */
  inherited(): void {
    if (this.state === 'copying') this.facts.state = 'holding'
  }

  channelEnded(): void {
    this.facts.connected = false
    if (this.state === 'waiting' || this.state === 'receiving') this.#end('again')
    else if (this.state === 'copying') this.#bereave()
  }

  /** The predecessor's life pipe has ended: it is dead. */
  lifeEnded(): void {
    this.facts.predecessorLives = false
    if (this.state === 'bereaved') this.#bereave()
  }

  /** The limit of the state that the candidacy is in is over. */
  timeOver(): void {
    if (this.state === 'waiting') this.#end('turn')
    else if (this.state === 'receiving') this.#end('offer')
    else if (this.state === 'copying' || this.state === 'bereaved') this.#end('state')
  }

  /** Reads the byte. True: this process is the owner as soon as it has attached; it is to do so, and to `mark()`, in the same turn. */
  commit(): boolean {
    if (this.state !== 'holding') return false
    if (this.#effects.takeByte()) {
      this.facts.state = 'won'
      return true
    }
    this.#end('late')
    return false
  }

  /** It accepts. */
  attached(): void {
    if (this.state !== 'won') return
    this.facts.state = 'owner'
    this.#effects.mark()
  }

  /** The program does not want to, or has failed. After the commit: it could not attach, and the predecessor takes back. */
  giveUp(): void {
    if (this.state !== 'owner' && this.state !== 'over') this.#end(this.state === 'won' ? 'attach' : 'given up')
  }

  #bereave(): void {
    if (this.facts.predecessorLives) {
      this.facts.state = 'bereaved'
      this.#effects.awaitDeath()
      return
    }
    this.facts.state = 'holding'
    this.#effects.stateLost()
  }

  #end(why: Defeat): void {
    this.facts.state = 'over'
    this.#effects.giveUp(why)
  }
}
