/** A client's watch: the entries that match, and then what happens to them. */
import type { Entry } from './entry.ts'
import type { Part } from './holdings.ts'
import type { EntryEvent, Told } from './messages.ts'

/** So many messages may wait for a client that reads too slowly; then the watch begins again. */
const MOST_UNSENT = 64

export interface WatchOwner {
  part(after: number, shows: (entry: Entry) => boolean): Part
  /** Whether the client may see it and asks for it. */
  shows(entry: Entry): boolean
  /** Resolves when the client's queue is short again. Rejects when its channel has ended. */
  send(told: Told): Promise<void>
}

export class Watch {
  readonly #number: number
  readonly #owner: WatchOwner
  /** Entries up to this number were listed. The client will see later ones in the list. */
  #listed = 0
  #unsent = 0
  /** The client has missed something, so it gets a new list. */
  #isVoid = false
  #isListing = false
  #ended = false

  constructor(number: number, owner: WatchOwner) {
    this.#number = number
    this.#owner = owner
    void this.#list()
  }

  onEvent(event: EntryEvent, entry: Entry): void {
    if (this.#ended || this.#isVoid || entry.facts.entry > this.#listed || !this.#owner.shows(entry)) return
    if (this.#unsent < MOST_UNSENT) void this.#send({ watch: this.#number, event, entry: entry.shown() })
    else this.#isVoid = true
  }

  end(): void {
    this.#ended = true
  }

  async #list(): Promise<void> {
    this.#isListing = true
    this.#isVoid = false
    this.#listed = 0
    while (!this.#ended && this.#listed !== Number.POSITIVE_INFINITY) {
      const { entries, after } = this.#owner.part(this.#listed, entry => this.#owner.shows(entry))
      this.#listed = after ?? Number.POSITIVE_INFINITY
      await this.#send({ watch: this.#number, event: 'list', entries, more: after !== undefined })
      if (after !== undefined) await new Promise(resolve => setImmediate(resolve))
    }
    this.#isListing = false
    this.#beginAgain()
  }

  async #send(told: Told): Promise<void> {
    this.#unsent++
    try {
      await this.#owner.send(told)
    } catch {
      this.#ended = true
    }
    this.#unsent--
    this.#beginAgain()
  }

  #beginAgain(): void {
    if (this.#isVoid && this.#unsent === 0 && !this.#isListing && !this.#ended) void this.#list()
  }
}
