/** How many descriptors the channels of one server may hold unclaimed together, and each one's part of that. */

/**
 * Half is kept back so that each of `connections` channels gets an equal base; of the other half a new channel gets up to an
 * eighth of what is left. So the first channels get much, later ones less, and none nothing while there is room for it.
 */
export class DescriptorBudget {
  readonly #base: number
  #reserve: number
  #extra: number

  constructor(total: number, connections: number) {
    this.#base = Math.max(1, Math.floor(total / 2 / connections))
    this.#reserve = Math.max(Math.floor(total / 2), Math.min(total, 1))
    this.#extra = total - this.#reserve
  }

  /** At most `wanted` descriptors for a new channel; 0: there is no room. */
  allot(wanted: number): Part {
    const base = Math.min(this.#base, this.#reserve, wanted)
    const more = base === 0 ? Math.min(1, this.#extra) : Math.floor(this.#extra / 8)
    const extra = Math.min(wanted - base, more)
    this.#reserve -= base
    this.#extra -= extra
    return { total: base + extra, base, extra }
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
