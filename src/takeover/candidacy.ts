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

/** `bereaved`: the channel has ended before the state was complete, but the predecessor's life pipe is open. */
export type CandidacyState = 'waiting' | 'receiving' | 'holding' | 'copying' | 'bereaved' | 'won' | 'owner' | 'over'

/** Why a candidacy is over. `again`: the candidate closes what it has, and connects again. */
export type Defeat = 'again' | 'turn' | 'offer' | 'state' | 'late' | 'given up' | 'attach'

export interface CandidacyEffects {
  /** Reads the decision pipe. Returns true if it got the byte: then the predecessor can't roll back any more. */
  takeByte(): boolean
  /** Writes the mark into this process's life pipe. */
  mark(): void
  /** The channel has ended, and the predecessor may be dying. Waits for the end of its life pipe, or for a time limit (`timeOver`). */
  awaitDeath(): void
  /** The predecessor has died with the state. The candidate may commit without it. */
  stateLost(): void
  /** Closes everything that the candidate got, and its life pipe. */
  giveUp(why: Defeat): void
}

/** The whole memory of a candidacy. */
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

  /** Whether the candidate has everything that it needs to commit. */
  get complete(): boolean {
    return this.state === 'holding'
  }

  /** A part of the offer has come; the last one has the decision pipe. */
  received(last: boolean): void {
    if (this.state === 'waiting' || this.state === 'receiving') this.facts.state = last ? 'holding' : 'receiving'
  }

  /** Called to ask for the state. Returns false if the predecessor can't be asked (see `stateLost` and `giveUp`), or not in this state. */
  inherit(): boolean {
    if (this.state !== 'holding') return false
    this.facts.state = 'copying'
    if (this.facts.connected) return true
    this.#bereave()
    return false
  }

  /** The last part of the state has come. Or the predecessor has answered that it could not freeze, and goes on with its state. */
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

  /** The time limit of the candidacy's present state is over. */
  timeOver(): void {
    if (this.state === 'waiting') this.#end('turn')
    else if (this.state === 'receiving') this.#end('offer')
    else if (this.state === 'copying' || this.state === 'bereaved') this.#end('state')
  }

  /** Reads the byte. If it returns true, this process must attach its servers and call `attached()` in the same turn. */
  commit(): boolean {
    if (this.state !== 'holding') return false
    if (this.#effects.takeByte()) {
      this.facts.state = 'won'
      return true
    }
    this.#end('late')
    return false
  }

  /** All servers accept: writes the mark. Throws the system's error if that fails; then call `giveUp()`. */
  attached(): void {
    if (this.state !== 'won') return
    this.#effects.mark()
    this.facts.state = 'owner'
  }

  /** The program gives up, or has failed. After the commit it could not attach its servers, and the predecessor goes on. */
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
