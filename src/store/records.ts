/** What a store remembers of clients that have said who they are, while they are not connected. */
import type { ClientState } from './client-state.ts'
import { now } from './deadlines.ts'

/** How long the leases of a client of the predecessor wait until it connects again, in ms. */
const RETURN = 10_000
/** How long the results of a client that is gone are kept, in ms, and of how many such clients of a user. */
const FORGET = 600_000
const MOST_GONE = 32
/** A timer that is so much late, in ms: this process was stopped, and so perhaps the client. */
const STALL = 1000

export interface RecordsOwner {
  /** The state is given to a successor, so nothing changes. */
  isFrozen(): boolean
  /** What the client has taken comes back. */
  releaseAll(state: ClientState): void
}

export class Records {
  readonly #owner: RecordsOwner
  readonly #all = new Map<string, ClientState>()
  /** Of those that are not connected: the timer of each. */
  readonly #timers = new Map<ClientState, NodeJS.Timeout>()
  /** Those of them that have no leases any more, the oldest first. */
  readonly #remembered = new Set<ClientState>()

  constructor(owner: RecordsOwner) {
    this.#owner = owner
  }

  /** By the clients' own numbers: those that are connected, and those that may come back. */
  get all(): ReadonlyMap<string, ClientState> {
    return this.#all
  }

  /** The client is connected, or was so at the predecessor: it is not waited for. */
  add(state: ClientState): void {
    this.#endWait(state)
    this.#all.set(state.key!, state)
  }

  /** Waits for a client of the predecessor, which may have leases. */
  await(state: ClientState): void {
    this.#after(RETURN, state, () => {
      this.#owner.releaseAll(state)
      this.remember(state)
    })
  }

  /** The client has no leases. It may come back, and ask again for what it has no answer to. */
  remember(state: ClientState): void {
    this.#after(FORGET, state, () => this.#forget(state))
    this.#remembered.add(state)
    const others = [...this.#remembered].filter(({ uid }) => uid === state.uid)
    if (others.length > MOST_GONE) this.#forget(others[0]!)
  }

  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer)
    this.#timers.clear()
    this.#remembered.clear()
    this.#all.clear()
  }

  #after(time: number, state: ClientState, work: () => void): void {
    const due = now() + time
    const timer = setTimeout(() => {
      if (!this.#owner.isFrozen() && now() - due < STALL) work()
      else this.#after(time, state, work)
    }, time)
    this.#timers.set(state, timer.unref())
  }

  #forget(state: ClientState): void {
    this.#endWait(state)
    this.#all.delete(state.key!)
  }

  #endWait(state: ClientState): void {
    clearTimeout(this.#timers.get(state))
    this.#timers.delete(state)
    this.#remembered.delete(state)
  }
}
