/** The one consumer of what arrives on a channel or socket: `'message'` listeners, a `for await` loop, or another one that the owner names. */

import type { EventEmitter } from 'node:events'
import { PassfdError } from './errors.ts'

export const NOBODY = 'nobody'
export const LOOP = 'for await'
export const LISTENERS = "'message' listeners"

/** What a consumer needs of the channel or socket whose items it consumes. */
export interface ConsumerOwner<Item> {
  /** Counts the listeners of the owner's `'message'` event. */
  countListeners(): number
  /** Gives items to the consumer while it is `ready`: the loop has asked for one. */
  pump(): void
  /** Ends the scope of an item that the loop was given: the loop asks for the next one, or was left. */
  endItem(item: Item): void
  /** The program has left the loop, and there is no consumer any more. */
  onLeft(): void
}

type Reader<Item> = (result: IteratorResult<Item>) => void

/** Shared by all whose loop was never used; nothing is put into it. */
const NONE: never[] = []
const DONE: Promise<IteratorResult<never>> = Promise.resolve({ done: true, value: undefined })

/** `Other`: names of consumers that the owner has besides listeners and the loop. */
export class Consumer<Item, Other extends string = never> {
  /** The kind of consumer. */
  by: Other | typeof NOBODY | typeof LOOP | typeof LISTENERS = NOBODY
  readonly #owner: ConsumerOwner<Item>
  /** Calls of the iterator's `next()` that wait for an item. */
  #readers: Reader<Item>[] = NONE
  /** The item that the loop's body has; several if the program has asked for several at once. */
  #current: Item[] = NONE

  constructor(owner: ConsumerOwner<Item>) {
    this.#owner = owner
  }

  /** Makes `by` the consumer. Throws ERR_PASSFD_CONSUMED if there is another one; listeners that were all removed don't count. */
  claim(by: Other | typeof LOOP | typeof LISTENERS): void {
    if (this.by === by && by === LISTENERS) return
    const unheard = this.by === LISTENERS && this.#owner.countListeners() === 0
    if (this.by !== NOBODY && !unheard) throw new PassfdError('CONSUMED', { by: this.by })
    this.by = by
  }

  /** Whether listeners or the loop accept an item now. Of `Other` consumers the owner decides. */
  get ready(): boolean {
    if (this.by === LOOP) return this.#readers.length > 0
    if (this.by !== LISTENERS) return false
    if (this.#owner.countListeners() > 0) return true
    this.by = NOBODY
    return false
  }

  /** The items whose scope ends when the loop asks for the next one. */
  get current(): readonly Item[] {
    return this.#current
  }

  /** Claims the loop and returns its iterator. `break` ends the scope of the current item, and leaves the loop. */
  iterate(): AsyncIterableIterator<Item> {
    this.claim(LOOP)
    let finished = false
    const iterator: AsyncIterableIterator<Item> = {
      next: () => (finished ? DONE : this.#next()),
      return: async () => {
        if (!finished) {
          finished = true
          this.#endCurrent()
          this.by = NOBODY
          this.endReaders()
          this.#owner.onLeft()
        }
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  /** Gives an item to the loop, which must be `ready`. */
  giveToLoop(item: Item): void {
    if (this.#current === NONE) this.#current = []
    this.#current.push(item)
    this.#readers.shift()!({ done: false, value: item })
  }

  /** Ends the loop: nothing follows what it was given. */
  endReaders(): void {
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
  }

  #next(): Promise<IteratorResult<Item>> {
    this.#endCurrent()
    return new Promise(resolve => {
      if (this.#readers === NONE) this.#readers = []
      this.#readers.push(resolve)
      this.#owner.pump()
    })
  }

  #endCurrent(): void {
    for (const item of this.#current.splice(0)) this.#owner.endItem(item)
  }
}

/**
 * Adds `notices` to the emitter: listeners of `'newListener'` and `'removeListener'`, by which it notices its own listeners. Call it again
 * after `removeAllListeners()`, which removes them too.
 */
export function addNotices(
  emitter: EventEmitter<any>,
  notices: readonly (readonly [event: string, notice: (this: any, name: string | symbol) => void])[]
): void {
  for (const [event, notice] of notices) if (!emitter.listeners(event).includes(notice)) emitter.on(event, notice)
}
