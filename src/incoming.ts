/** Requests from the peer that have no answer yet. */
import { PassfdError } from './errors.ts'

export class Incoming {
  readonly id: number
  /** How many descriptors the reply may carry. */
  readonly allowance: number
  /** The peer no longer waits. An answer is owed all the same. */
  cancelled = false
  #controller: AbortController | undefined

  constructor(id: number, allowance: number) {
    this.id = id
    this.allowance = allowance
  }

  /** Aborted when the peer cancels, or when the channel ends before the answer. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.cancelled) this.#controller.abort(new PassfdError('CANCELLED'))
    }
    return this.#controller.signal
  }

  cancel(): void {
    this.cancelled = true
    this.#controller?.abort(new PassfdError('CANCELLED'))
  }

  end(reason: Error): void {
    this.#controller?.abort(reason)
  }
}

/** Mostly there is one at a time: a Map is made for the second. */
export class IncomingTable {
  #only: Incoming | undefined
  #more: Map<number, Incoming> | undefined

  get size(): number {
    return (this.#only === undefined ? 0 : 1) + (this.#more?.size ?? 0)
  }

  get(id: number): Incoming | undefined {
    return this.#only?.id === id ? this.#only : this.#more?.get(id)
  }

  add(incoming: Incoming): void {
    if (this.#only === undefined) this.#only = incoming
    else {
      this.#more ??= new Map()
      this.#more.set(incoming.id, incoming)
    }
  }

  /** True while it has no answer. */
  has(incoming: Incoming): boolean {
    return this.#only === incoming || this.#more?.get(incoming.id) === incoming
  }

  /** It is being answered. */
  delete(incoming: Incoming): void {
    if (this.#only === incoming) this.#only = undefined
    else this.#more?.delete(incoming.id)
  }

  endAll(reason: Error): void {
    const all = [...(this.#only === undefined ? [] : [this.#only]), ...(this.#more?.values() ?? [])]
    this.#only = this.#more = undefined
    for (const incoming of all) incoming.end(reason)
  }
}
