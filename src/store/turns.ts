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

  /** Calls `work`, which never throws: now, or when it is the turn of this user. */
  run(uid: number, work: () => void): void {
    const user = this.#user(uid)
    if (user.waiting.length > 0 || user.used >= SLICE) user.waiting.push(work)
    else measure(user, work)
    if (this.#isPlanned) return
    this.#isPlanned = true
    setImmediate(() => this.#next())
  }

  #user(uid: number): User {
    let user = this.#users.get(uid)
    if (user === undefined) {
      user = { used: 0, waiting: [] }
      this.#users.set(uid, user)
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
    for (const user of this.#users.values())
      while (user.waiting.length > 0 && user.used < SLICE) measure(user, user.waiting.shift()!)
  }
}

function measure(user: User, work: () => void): void {
  const began = performance.now()
  work()
  user.used += performance.now() - began
}
