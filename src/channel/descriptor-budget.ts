/** How many descriptors the channels of one server may hold unclaimed together, and each one's part of that. */

/**
 * Half is reserved: each of `connections` channels gets an equal base of it. Of the other half a new channel gets up to an eighth of the
 * rest. So the first channels get much and later ones less, but each gets something.
 */
export class DescriptorBudget {
  readonly #base: number
  #reserve: number
  #extra: number
  /** The last part. Most channels get the same, so they share the object. */
  #last: Part = { total: 0, base: 0, extra: 0 }

  constructor(total: number, connections: number) {
    this.#base = Math.max(1, Math.floor(total / 2 / connections))
    this.#reserve = Math.max(Math.floor(total / 2), Math.min(total, 1))
    this.#extra = total - this.#reserve
  }

  /** Reserves up to `wanted` descriptors for a new channel, and returns how many. 0: no room. */
  allot(wanted: number): Part {
    const base = Math.min(this.#base, this.#reserve, wanted)
    const more = base === 0 ? Math.min(1, this.#extra) : Math.floor(this.#extra / 8)
    const extra = Math.min(wanted - base, more)
    this.#reserve -= base
    this.#extra -= extra
    if (this.#last.base !== base || this.#last.extra !== extra) this.#last = { total: base + extra, base, extra }
    return this.#last
  }

  giveBack({ base, extra }: Part): void {
    this.#reserve += base
    this.#extra += extra
  }
}

export interface Part {
  readonly total: number
  readonly base: number
  readonly extra: number
}
