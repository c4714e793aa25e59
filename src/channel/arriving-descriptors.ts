/** Descriptors that have arrived before their frames were complete: a queue in order of arrival, from which each frame takes its own. */

/** The queue is cut when so many entries at its front are used up. */
const COMPACT_AT = 512

/** Shared by all that have none at the moment, and always empty. */
export const NO_FDS: number[] = []

export class ArrivingDescriptors {
  /** The numbers before #given belong to frames already. */
  #arrived = NO_FDS
  #given = 0

  /** The number of descriptors that wait for their frame. */
  get waiting(): number {
    return this.#arrived.length - this.#given
  }

  /** Adds `count` numbers of `fds`, from `first` on. */
  push(fds: Int32Array, first: number, count: number): void {
    if (this.#arrived === NO_FDS) this.#arrived = []
    for (let i = 0; i < count; i++) this.#arrived.push(fds[first + i]!)
  }

  /** Takes the next `count`, or fewer if fewer wait. The caller owns them. */
  take(count: number): number[] {
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
