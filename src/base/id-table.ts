/**
 * A Map by number that mostly holds one thing, which stands outside of it: a Map that goes from one entry to none and back makes
 * itself anew each time. The Map is made for the second. Its order is that of insertion.
 */
export class IdTable<Value> {
  #id = -1
  #first: Value | undefined
  #others: Map<number, Value> | undefined

  get size(): number {
    return (this.#first === undefined ? 0 : 1) + (this.#others?.size ?? 0)
  }

  get(id: number): Value | undefined {
    return id === this.#id ? this.#first : this.#others?.get(id)
  }

  /** `id` must be new. */
  add(id: number, value: Value): void {
    if (this.size === 0) {
      this.#id = id
      this.#first = value
    } else {
      this.#others ??= new Map()
      this.#others.set(id, value)
    }
  }

  delete(id: number): void {
    if (id === this.#id) {
      this.#id = -1
      this.#first = undefined
    } else this.#others?.delete(id)
  }

  clear(): void {
    this.#id = -1
    this.#first = undefined
    this.#others = undefined
  }

  values(): Value[] {
    const others = this.#others === undefined ? [] : [...this.#others.values()]
    return this.#first === undefined ? others : [this.#first, ...others]
  }
}
