/** Time that stands still until a test moves it: replaces setTimeout, clearTimeout and performance.now. */

interface Timer {
  at: number
  callback(): void
  refed: boolean
  unref(): Timer
  ref(): Timer
}

const realSetTimeout = globalThis.setTimeout
const realClearTimeout = globalThis.clearTimeout

export class VirtualClock {
  now = 1000
  readonly #timers = new Set<Timer>()

  install(): void {
    globalThis.setTimeout = ((callback: () => void, delay: number) => this.#set(callback, delay)) as never
    globalThis.clearTimeout = ((timer: Timer | undefined) => void this.#timers.delete(timer!)) as never
    Object.defineProperty(performance, 'now', { value: () => this.now, configurable: true })
  }

  uninstall(): void {
    globalThis.setTimeout = realSetTimeout
    globalThis.clearTimeout = realClearTimeout
    delete (performance as { now?: unknown }).now
  }

  /** In how many ms the next timer is due; Infinity if none is set. */
  get next(): number {
    return Math.min(...[...this.#timers].map(({ at }) => at - this.now), Number.POSITIVE_INFINITY)
  }

  /** Timers that would keep the process alive. */
  get waiting(): number {
    return [...this.#timers].filter(({ refed }) => refed).length
  }

  advance(ms: number): void {
    const end = this.now + ms
    for (;;) {
      const due = [...this.#timers].filter(({ at }) => at <= end).sort((left, right) => left.at - right.at)[0]
      if (due === undefined) break
      this.#timers.delete(due)
      this.now = Math.max(this.now, due.at)
      due.callback()
    }
    this.now = end
  }

  #set(callback: () => void, delay: number): Timer {
    const timer: Timer = {
      at: this.now + Math.max(1, Math.trunc(delay)),
      callback,
      refed: true,
      unref: () => {
        timer.refed = false
        return timer
      },
      ref: () => {
        timer.refed = true
        return timer
      }
    }
    this.#timers.add(timer)
    return timer
  }
}
