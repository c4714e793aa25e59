/**
 * The owner's side of one attempt to take over: a state machine that knows no channel, no clock and no descriptor.
 *
 *   offering ──last part──▶ offered ──freeze()──▶ frozen
 *      │                       └───────┬────────────┘
 *      │            life ends, channel ends, time is over: read the byte
 *      │                   got it ▼           ▼ no byte
 *      └───────────────────▶ rolled back    committed ──life ends──▶ rolled back
 *                                               └──mark──▶ let go     (the mark counts in every state)
 */

/** `over`: the attempt has its outcome, which is final. */
export type AttemptState = 'offering' | 'offered' | 'frozen' | 'committed' | 'over'

/** What an attempt calls on its owner, each at most once. */
export interface AttemptEffects {
  /** Reads the decision pipe. Returns true if it got the byte: then the successor can't commit any more. */
  takeByte(): boolean
  /** The owner goes on. `frozen`: it takes its state back. `listens`: the successor may have called listen(2), so the owner calls it again. */
  rollBack(how: { frozen: boolean; listens: boolean }): void
  /** The successor serves: the owner closes its listeners and its state, and drains. */
  letGo(): void
  /** The successor has committed and has not written its mark: only its end, or the mark, decides. */
  awaitMark(): void
}

/** The whole memory of an attempt. */
export interface AttemptFacts {
  state: AttemptState
  /** The program has frozen its state for this attempt. */
  frozen: boolean
}

export class Attempt {
  readonly facts: AttemptFacts
  readonly #effects: AttemptEffects

  constructor(effects: AttemptEffects, facts: AttemptFacts = { state: 'offering', frozen: false }) {
    this.#effects = effects
    this.facts = facts
  }

  get state(): AttemptState {
    return this.facts.state
  }

  /** The owner has sent the last part of its offer, with the decision pipe. */
  offered(): void {
    if (this.state === 'offering') this.facts.state = 'offered'
  }

  /** Called before the owner freezes. Returns false if the successor can't commit any more, or has not got the whole offer. */
  freeze(): boolean {
    if (this.state !== 'offered') return false
    this.facts.state = 'frozen'
    this.facts.frozen = true
    return true
  }

  /** The program could not freeze. It goes on with its state, and the successor may commit without it. */
  notFrozen(): void {
    if (this.state !== 'frozen') return
    this.facts.state = 'offered'
    this.facts.frozen = false
  }

  /** The successor's life pipe has the mark. */
  marked(): void {
    if (this.state === 'over') return
    this.facts.state = 'over'
    this.#effects.letGo()
  }

  /** The successor's life pipe has ended without a mark: it has touched nothing, whether it had committed or not. */
  lifeEnded(): void {
    if (this.state === 'over') return
    const listens = this.state === 'committed' || (this.state !== 'offering' && !this.#effects.takeByte())
    this.#rollBack(listens)
  }

  /** The channel has ended, or a time limit is over. The successor may still live, and only the byte shows whether it has committed. */
  interrupted(): void {
    if (this.state === 'over' || this.state === 'committed') return
    if (this.state === 'offering' || this.#effects.takeByte()) {
      this.#rollBack(false)
      return
    }
    this.facts.state = 'committed'
    this.#effects.awaitMark()
  }

  #rollBack(listens: boolean): void {
    this.facts.state = 'over'
    this.#effects.rollBack({ frozen: this.facts.frozen, listens })
  }
}
