/** A client's watch: the entries that match, and then what happens to them. */
import type { EntryFacts } from './entry.ts'
import type { Part } from './holdings.ts'
import type { EntryEvent, StoredEntry, Told } from './messages.ts'

/** So many messages may wait for a client that reads too slowly; then the watch begins again. */
const MOST_UNSENT = 64

export interface WatchOwner {
  part(after: number, shows: (entry: { readonly facts: EntryFacts }) => boolean): Part
  /** Whether the client may see it and asks for it. */
  shows(entry: { readonly facts: EntryFacts }): boolean
  /** Resolves when the client's queue is short again, or its channel has ended. Never rejects. */
  send(told: Told): Promise<void>
  /** Calls `work` when it is the turn of the client's user. */
  later(work: () => void): void
}

/** What happened to an entry. All watches share one. */
export interface Occurrence {
  readonly event: EntryEvent
  readonly facts: EntryFacts
  /** The entry as it was then. */
  readonly entry: StoredEntry
}

/** It does its work in the turns of the client's user: one message at a time, so that others wait for no more than that. */
export class Watch {
  readonly #number: number
  readonly #owner: WatchOwner
  /** What happened and was not looked at. */
  readonly #occurred: Occurrence[] = []
  /** Entries up to this number were listed. The client will see later ones in the list. */
  #listed = 0
  #isListing = true
  #unsent = 0
  /** The client has missed something, so it gets a new list. */
  #isVoid = false
  #isPlanned = false
  #ended = false

  constructor(number: number, owner: WatchOwner) {
    this.#number = number
    this.#owner = owner
    this.#plan()
  }

  onEvent(occurrence: Occurrence): void {
    if (this.#ended || this.#isVoid || occurrence.facts.entry > this.#listed) return
    if (this.#unsent + this.#occurred.length >= MOST_UNSENT) {
      this.#isVoid = true
      this.#occurred.length = 0
    } else {
      this.#occurred.push(occurrence)
      this.#plan()
    }
  }

  end(): void {
    this.#ended = true
    this.#occurred.length = 0
  }

  #plan(): void {
    if (this.#isPlanned || this.#ended) return
    this.#isPlanned = true
    this.#owner.later(() => {
      this.#isPlanned = false
      if (!this.#ended) this.#work()
    })
  }

  #work(): void {
    const occurrence = this.#occurred.shift()
    if (occurrence !== undefined) {
      const { event, entry } = occurrence
      if (this.#owner.shows(occurrence)) void this.#send({ watch: this.#number, event, entry })
    } else if (this.#isListing && this.#unsent === 0) this.#list()
    this.#beginAgain()
    if (this.#occurred.length > 0) this.#plan()
  }

  #list(): void {
    const { entries, after } = this.#owner.part(this.#listed, entry => this.#owner.shows(entry))
    this.#listed = after ?? Number.POSITIVE_INFINITY
    this.#isListing = after !== undefined
    // A part in which nothing was found need not be sent, unless it is the last one
    if (entries.length > 0 || after === undefined)
      void this.#send({ watch: this.#number, event: 'list', entries, more: after !== undefined })
  }

  async #send(told: Told): Promise<void> {
    this.#unsent++
    await this.#owner.send(told)
    this.#unsent--
    this.#beginAgain()
  }

  /** All that was sent is on its way. */
  #beginAgain(): void {
    if (this.#ended || this.#unsent > 0) return
    if (this.#isVoid && !this.#isListing) {
      this.#isVoid = false
      this.#isListing = true
      this.#listed = 0
    }
    if (this.#isListing) this.#plan()
  }
}
