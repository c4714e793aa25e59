/** Descriptors that have arrived before their frames were complete: a queue in order of arrival, from which each frame takes its own. */

/** Queues that are used up from the front are cut when so much of them is. */
const COMPACT_AT = 512

/** Most channels never have any: all share an array that nothing is put into. */
const NO_FDS: number[] = []

export class ArrivingDescriptors {
  /** Those in front of #given have been given to their frames. */
  #arrived = NO_FDS
  #given = 0

  /** How many wait for their frame. */
  get waiting(): number {
    return this.#arrived.length - this.#given
  }

  /** `count` have arrived, whose numbers `fds` holds from `first` on. */
  push(fds: Int32Array, first: number, count: number): void {
    if (this.#arrived === NO_FDS) this.#arrived = []
    for (let i = 0; i < count; i++) this.#arrived.push(fds[first + i]!)
  }

  /** Gives the next `count`, as many as wait at most. The caller owns them. */
  take(count: number): number[] {
    if (count === 0) return NO_FDS
    const { waiting } = this
    const fds = count === 1 ? [this.#arrived[this.#given]!] : this.#arrived.slice(this.#given, this.#given + count)
    this.#given += count
    if (waiting === count || this.#given >= COMPACT_AT) {
      this.#arrived = waiting === count ? NO_FDS : this.#arrived.slice(this.#given)
      this.#given = 0
    }
    return fds
  }
}
