/** All watches of a store, by the users of their clients. */
import { PassfdError } from '../base/errors.ts'
import type { Entry } from './entry.ts'
import type { EntryEvent } from './messages.ts'
import type { Occurrence, Watch } from './watch.ts'

/** The watches of one client; of all clients of a user; and of those of root and of the store's user, which may have many programs. */
const MOST_OF_CLIENT = 16
const MOST_OF_USER = 128
const MOST_OF_OWN = 1024

export class Watches {
  readonly #mayRead: (uid: number, owner: number) => boolean
  readonly #users = new Map<number, Set<Watch>>()

  /** `mayRead`: whether a user may read anything of an owner. */
  constructor(mayRead: (uid: number, owner: number) => boolean) {
    this.#mayRead = mayRead
  }

  /** Throws ERR_PASSFD_STORE_FULL if a further watch is too much, for a client of this user that has `ofClient` already. */
  checkRoom(uid: number, ofClient: number): void {
    check(ofClient, 'watches of a client', MOST_OF_CLIENT)
    check(this.#users.get(uid)?.size ?? 0, `watches of user ${uid}`, isOwn(uid) ? MOST_OF_OWN : MOST_OF_USER)
  }

  add(uid: number, watch: Watch): void {
    const watches = this.#users.get(uid) ?? new Set()
    this.#users.set(uid, watches.add(watch))
  }

  end(uid: number, watch: Watch): void {
    watch.end()
    const watches = this.#users.get(uid)!
    watches.delete(watch)
    if (watches.size === 0) this.#users.delete(uid)
  }

  onEvent(event: EntryEvent, entry: Entry): void {
    let occurrence: Occurrence | undefined
    for (const [uid, watches] of this.#users) {
      if (!this.#mayRead(uid, entry.facts.owner)) continue
      occurrence ??= { event, facts: entry.facts, entry: entry.shown() }
      for (const watch of watches) watch.onEvent(occurrence)
    }
  }
}

function isOwn(uid: number): boolean {
  return uid === 0 || uid === process.geteuid!()
}

function check(used: number, what: string, limit: number): void {
  const data = { what, limit }
  if (used >= limit) throw new PassfdError('STORE_FULL', data, { data })
}
