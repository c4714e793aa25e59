/** Listeners of emitters to which the program mostly adds none: until it does, all emitters share one object for them. */
import { EventEmitter } from 'node:events'

/** Called with the name of the event to which the program adds a listener. */
type Notice = (this: any, name: string | symbol) => void

/** What Node keeps of an emitter's listeners: the listeners by event, and for how many events there are some. */
interface Kept {
  _events: object
  _eventsCount: number
}

/**
 * Gives emitters a `'newListener'` listener. An emitter's own object for its listeners takes 0.3 kB, so it gets that with the first
 * listener that the program adds. Node reads the object anew when `'newListener'` was emitted, which makes this possible.
 */
export class SharedListeners {
  readonly #notice: Notice
  readonly #shared: object
  readonly #works: boolean

  constructor(notice: Notice) {
    const shared: object = Object.freeze(Object.assign(Object.create(null), { newListener }))
    function newListener(this: Kept, name: string | symbol): void {
      if (this._events === shared) this._events = Object.assign(Object.create(null), shared)
      notice.call(this, name)
    }
    this.#notice = newListener
    this.#shared = shared
    this.#works = isShareable(newListener, shared)
  }

  /** For an emitter that has no listeners. */
  give(emitter: EventEmitter<any>): void {
    if (this.#works) share(emitter, this.#shared)
    else emitter.on('newListener', this.#notice)
  }

  /** For an emitter whose listeners the program has removed, maybe all of them. */
  giveAgain(emitter: EventEmitter<any>): void {
    if (!emitter.listeners('newListener').includes(this.#notice)) emitter.on('newListener', this.#notice)
  }
}

function share(emitter: object, shared: object): void {
  const kept = emitter as Kept
  kept._events = shared
  kept._eventsCount = 1
}

/** Whether this runtime keeps listeners as Node does. */
function isShareable(notice: Notice, shared: object): boolean {
  const [one, other] = [new EventEmitter(), new EventEmitter()]
  try {
    share(one, shared)
    share(other, shared)
    const isNoticed = one.listeners('newListener')[0] === notice
    one.on('shared', () => {})
    return isNoticed && one.listenerCount('shared') === 1 && other.listenerCount('shared') === 0
  } catch {
    return false
  }
}
