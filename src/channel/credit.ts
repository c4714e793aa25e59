/** Back pressure in one unit: how much this side may send, how much the peer may send, and how much credit is due to the peer. */

const MAX_AVAILABLE = 2 ** 48
const MAX_GRANT = 0xffffffff

export class Credit {
  /** How much this side may send. A message may start while this is above 0, and take it below. */
  available = 0
  /** How much the peer may send. */
  granted: number
  readonly #window: number
  #owed = 0

  constructor(window: number) {
    this.#window = window
    this.granted = window
  }

  /** Adds credit that the peer gives, up to a limit that keeps the sum exact. */
  receive(amount: number): void {
    this.available = Math.min(this.available + amount, MAX_AVAILABLE)
  }

  /** Called when the application has consumed a message that cost this much. */
  owe(cost: number): void {
    this.#owed += cost
  }

  /** Whether to send credit now: in large pieces, or in small ones if the peer has little left. */
  get due(): boolean {
    return this.#owed > 0 && (this.#owed * 8 >= this.#window || this.granted * 2 < this.#window)
  }

  /** Takes the credit that is due to the peer, to send it now. */
  grant(): number {
    const amount = Math.min(this.#owed, MAX_GRANT)
    this.#owed -= amount
    this.granted += amount
    return amount
  }
}
