/** Descriptors that have come with a stream's bytes and wait to be taken, in order, by where they came. */
export class KeptDescriptors {
  readonly #entries: { position: number; fds: number[] }[] = []
  #count = 0

  /** How many there are. */
  get count(): number {
    return this.#count
  }

  /** They came with the byte at `position`, which no others have come with or after. */
  add(position: number, fds: number[]): void {
    this.#entries.push({ position, fds })
    this.#count += fds.length
  }

  /** Takes the descriptors that came before the position `before`. The caller owns them. */
  take(before: number): number[] {
    const taken: number[] = []
    while (this.#entries.length > 0 && this.#entries[0]!.position < before) taken.push(...this.#entries.shift()!.fds)
    this.#count -= taken.length
    return taken
  }

  /** Where the first of those behind `position` came; infinity if there are none. */
  nextAfter(position: number): number {
    return this.#entries.find(entry => entry.position > position)?.position ?? Number.POSITIVE_INFINITY
  }
}
