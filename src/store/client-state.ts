/** What a store knows of a client: over a reconnect, if the client has said who it is. */
import type { Channel } from '../channel/channel.ts'
import type { Told } from './messages.ts'

/** The most results that a client's record keeps: more than requests may wait for an answer (maxPending). */
const MOST = 1100

/** The result of a request that was done, for a client that has lost the answer. */
export interface Done {
  readonly id: number
  readonly result: unknown
}

export class ClientState {
  readonly uid: number
  /** The client's own number. Undefined: it has not said hello, so all ends with its channel. */
  readonly key: string | undefined
  /** Undefined: it is not connected. */
  channel: Channel<unknown, Told> | undefined
  /** Numbers of the entries that it has taken, and not kept yet. */
  readonly leases = new Set<number>()
  /** Numbers of the entries of which it has copies. */
  readonly kept = new Set<number>()
  #seen = 0
  readonly #done = new Map<number, unknown>()

  constructor(uid: number, key: string | undefined) {
    this.uid = uid
    this.key = key
  }

  /** Requests that change something, and were done. */
  get done(): Done[] {
    return [...this.#done].map(([id, result]) => ({ id, result }))
  }

  /** The client has the answers to all requests up to this number. */
  get seen(): number {
    return this.#seen
  }

  /** Undefined: the request was not done. */
  doneBefore(id: number): Done | undefined {
    return this.#done.has(id) ? { id, result: this.#done.get(id) } : undefined
  }

  note({ id, result }: Done): void {
    this.#done.set(id, result)
    if (this.#done.size > MOST) for (const [oldest] of this.#done) return void this.#done.delete(oldest)
  }

  /** The client has the answers to all requests up to this number. */
  forget(seen: number): void {
    if (seen <= this.#seen) return
    this.#seen = seen
    for (const id of this.#done.keys()) {
      if (id > seen) break
      this.#done.delete(id)
    }
  }
}
