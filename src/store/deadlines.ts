/** Entries that expire. */
import { MAX_TIMEOUT } from '../base/timers.ts'

export interface Expiring {
  /** In ms of `now()`. Undefined: it never expires. */
  readonly deadline: number | undefined
}

/** CLOCK_MONOTONIC in ms: the same for all processes, so a successor goes on with it. It stands still while the machine sleeps. */
export function now(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6
}

/** Calls `expired` with each entry when its time is over. The timers do not keep the process running. */
export class Deadlines<Entry extends Expiring> {
  readonly #expired: (entry: Entry) => void
  readonly #timers = new Map<Entry, NodeJS.Timeout | undefined>()
  #paused = false

  constructor(expired: (entry: Entry) => void) {
    this.#expired = expired
  }

  add(entry: Entry): void {
    if (entry.deadline === undefined) return
    this.#timers.set(entry, this.#paused ? undefined : this.#start(entry, entry.deadline))
  }

  remove(entry: Entry): void {
    const timer = this.#timers.get(entry)
    if (timer !== undefined) clearTimeout(timer)
    this.#timers.delete(entry)
  }

  /** Nothing expires until `resume()`. */
  pause(): void {
    this.#paused = true
    for (const [entry, timer] of this.#timers) {
      if (timer !== undefined) clearTimeout(timer)
      this.#timers.set(entry, undefined)
    }
  }

  resume(): void {
    this.#paused = false
    for (const entry of [...this.#timers.keys()]) this.add(entry)
  }

  #start(entry: Entry, deadline: number): NodeJS.Timeout {
    // A timer holds no more than MAX_TIMEOUT, and may be early by a part of a ms
    const left = Math.min(MAX_TIMEOUT, Math.max(1, Math.ceil(deadline - now())))
    const timer = setTimeout(() => {
      if (now() < deadline) {
        this.#timers.set(entry, this.#start(entry, deadline))
        return
      }
      this.#timers.delete(entry)
      this.#expired(entry)
    }, left)
    return timer.unref()
  }
}
