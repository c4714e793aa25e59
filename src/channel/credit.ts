/** The application's back pressure, in one unit: what we may still send, what the peer may, and what we owe it back. */

const MAX_AVAILABLE = 2 ** 48
const MAX_GRANT = 0xffffffff

export class Credit {
  /** How much we may send. A message may start while this is above 0, and take it below. */
  available = 0
  /** How much the peer may send. */
  granted: number
  readonly #window: number
  #owed = 0

  constructor(window: number) {
    this.#window = window
    this.granted = window
  }

  /** The peer gives more; whatever it gives, there is an end to counting. */
  receive(amount: number): void {
    this.available = Math.min(this.available + amount, MAX_AVAILABLE)
  }

  /** The application has dealt with something that cost this much. */
  owe(cost: number): void {
    this.#owed += cost
  }

  /** Credit returns in large pieces; in small ones only when the peer has little left. */
  get due(): boolean {
    return this.#owed > 0 && (this.#owed * 8 >= this.#window || this.granted * 2 < this.#window)
  }

  /** The credit that is due to the peer, to be sent now. */
  grant(): number {
    const amount = Math.min(this.#owed, MAX_GRANT)
    this.#owed -= amount
    this.granted += amount
    return amount
  }
}
