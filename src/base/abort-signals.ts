/**
 * Waiting for AbortSignals. A program gives one signal to as many calls as it likes: all of them share one listener, so that Node
 * doesn't warn of too many, and the listener is removed when the last call is done.
 */

type Listener = () => void

/** What waits for a signal. */
class Waiters {
  readonly listeners = new Set<Listener>()
  readonly #signal: AbortSignal

  constructor(signal: AbortSignal) {
    this.#signal = signal
    methods(signal).addEventListener.call(signal, 'abort', this.#onAbort, { once: true })
  }

  remove(listener: Listener): void {
    if (!this.listeners.delete(listener) || this.listeners.size > 0) return
    methods(this.#signal).removeEventListener.call(this.#signal, 'abort', this.#onAbort)
    if (waiters.get(this.#signal) === this) waiters.delete(this.#signal)
  }

  readonly #onAbort = (): void => {
    waiters.delete(this.#signal)
    // One that is removed by another's doing is not called any more, as with an EventTarget
    for (const listener of this.listeners) {
      this.listeners.delete(listener)
      listener()
    }
  }
}

type Methods = Pick<EventTarget, 'addEventListener' | 'removeEventListener'>

/** Of Node's EventTarget. Test environments put another class in the place of the global one, or leave it out. */
const own: Methods = Object.getPrototypeOf(AbortSignal.prototype)

/** Node's own methods, even if the program has replaced them; the methods of a library's signal. */
function methods(signal: AbortSignal): Methods {
  return Object.prototype.isPrototypeOf.call(own, signal) ? own : signal
}

const waiters = new WeakMap<AbortSignal, Waiters>()

/**
 * Calls `listener` once when the signal is aborted; in a microtask if that has happened already. Returns what stops the waiting, which
 * may be called at any time. `listener` must not throw.
 */
export function whenAborted(signal: AbortSignal | undefined, listener: Listener): () => void {
  if (signal === undefined) return nothing
  if (signal.aborted) {
    let stopped = false
    queueMicrotask(() => {
      if (!stopped) listener()
    })
    return () => {
      stopped = true
    }
  }
  let waiting = waiters.get(signal)
  if (waiting === undefined) {
    waiting = new Waiters(signal)
    waiters.set(signal, waiting)
  }
  const { listeners } = waiting
  const mine = waiting
  const once = listeners.has(listener) ? () => listener() : listener
  listeners.add(once)
  return () => mine.remove(once)
}

function nothing(): void {}
