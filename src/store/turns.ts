/** Whose request is next: users in turn, each for a short time, so that a flood by one user delays the others by no more than that. */
import { setImmediate } from 'node:timers'

/** How long the requests of one user may keep the event loop before others have their turn, in ms. */
const SLICE = 0.5

interface User {
  /** How much of its slice of this turn of the loop is used up, in ms. */
  used: number
  readonly waiting: (() => void)[]
}

export class Turns {
  readonly #users = new Map<number, User>()
  #isPlanned = false

  /** Whether it is the turn of this user, and none of its requests waits. */
  isFree(uid: number): boolean {
    const user = this.#users.get(uid)
    return user === undefined || (user.waiting.length === 0 && user.used < SLICE)
  }

  /** Does the work of a request now, and counts its time. */
  now<T>(uid: number, work: () => T): T {
    const user = this.#user(uid)
    const began = performance.now()
    try {
      return work()
    } finally {
      user.used += performance.now() - began
    }
  }

  /** Counts time that was not measured, in ms. Default: the whole slice. */
  charge(uid: number, time = SLICE): void {
    this.#user(uid).used += time
  }

  /** Calls `work`, which never throws, when it is the turn of this user. */
  later(uid: number, work: () => void): void {
    this.#user(uid).waiting.push(work)
  }

  #user(uid: number): User {
    let user = this.#users.get(uid)
    if (user === undefined) {
      user = { used: 0, waiting: [] }
      this.#users.set(uid, user)
    }
    if (!this.#isPlanned) {
      this.#isPlanned = true
      setImmediate(() => this.#next())
    }
    return user
  }

  /** The next turn of the loop. */
  #next(): void {
    for (const [uid, user] of this.#users) {
      user.used = 0
      if (user.waiting.length === 0) this.#users.delete(uid)
    }
    this.#isPlanned = this.#users.size > 0
    if (this.#isPlanned) setImmediate(() => this.#next())
    for (const [uid, user] of this.#users)
      while (user.waiting.length > 0 && user.used < SLICE) this.now(uid, user.waiting.shift()!)
  }
}
