/** What a client's watch gives: an iterator over changes. */
import { whenAborted } from '../base/abort-signals.ts'
import type { EntryEvent, StoredEntry, Told } from './messages.ts'

/** A change of a store: all entries that match, or what happened to one of them. */
export type StoreChange =
  | { readonly event: 'list'; readonly entries: readonly StoredEntry[] }
  | { readonly event: EntryEvent; readonly entry: StoredEntry }

/** So many changes wait for a program that reads too slowly; then it gets a new list instead. */
const MOST = 4096

export interface ChangesOwner {
  /** The program has missed something: the watch has to begin again. */
  again(): void
  /** Nobody reads any more. */
  ended(): void
}

type Reader = { resolve(result: IteratorResult<StoreChange>): void; reject(error: Error): void }

export class Changes implements AsyncIterableIterator<StoreChange> {
  readonly #owner: ChangesOwner
  readonly #forget: () => void
  #changes: StoreChange[] = []
  #readers: Reader[] = []
  /** The parts of a list that is not complete. */
  #parts: StoredEntry[] | undefined
  /** Since it was said that something was missed, only a list counts. */
  #isVoid = true
  #isOver = false
  #error: Error | undefined

  constructor(signal: AbortSignal | undefined, owner: ChangesOwner) {
    this.#owner = owner
    this.#forget = whenAborted(signal, () => this.end())
  }

  /** Takes a message of the store for this watch. */
  push(told: Exclude<Told, { event: 'gone' }>): void {
    if (this.#isOver) return
    if (told.event === 'list') {
      this.#parts = [...(this.#parts ?? []), ...told.entries]
      if (told.more) return
      const entries = this.#parts
      this.#parts = undefined
      this.#isVoid = false
      this.#changes = [] // void
      this.#give({ event: 'list', entries })
      return
    }
    // While a list comes in parts: what happens to the entries of earlier parts
    if (this.#parts !== undefined) this.#parts = changed(this.#parts, told)
    else if (!this.#isVoid) this.#give({ event: told.event, entry: told.entry })
  }

  /** A new list will come. */
  restart(): void {
    this.#isVoid = true
    this.#parts = undefined
  }

  /** Ends the iteration: `error` rejects the next `next()`. */
  end(error?: Error): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#error = error
    this.#forget()
    for (const reader of this.#readers.splice(0)) this.#finish(reader)
    this.#owner.ended()
  }

  async next(): Promise<IteratorResult<StoreChange>> {
    const change = this.#changes.shift()
    if (change !== undefined) return { done: false, value: change }
    return new Promise((resolve, reject) => {
      if (this.#isOver) this.#finish({ resolve, reject })
      else this.#readers.push({ resolve, reject })
    })
  }

  async return(): Promise<IteratorResult<StoreChange>> {
    this.#changes = []
    this.end()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #give(change: StoreChange): void {
    const reader = this.#readers.shift()
    if (reader !== undefined) reader.resolve({ done: false, value: change })
    else if (this.#changes.length < MOST) this.#changes.push(change)
    else {
      this.#changes = []
      this.restart()
      this.#owner.again()
    }
  }

  #finish({ resolve, reject }: Reader): void {
    const error = this.#error
    this.#error = undefined
    if (error === undefined) resolve({ done: true, value: undefined })
    else reject(error)
  }
}

function changed(entries: StoredEntry[], { event, entry }: { event: EntryEvent; entry: StoredEntry }): StoredEntry[] {
  const others = entries.filter(one => one.entry !== entry.entry)
  const isThere = event === 'put' || event === 'leased' || event === 'returned'
  return isThere ? [...others, entry].sort((a, b) => a.entry - b.entry) : others
}
