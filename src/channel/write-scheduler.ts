/** Sessions that have something to write, and when they do. */

import { RESOLVED } from '../base/deferred.ts'
import { isEncoding } from '../codec/codec-in-progress.ts'

/** When so many have something to write, they write what they have so far: each keeps a slab until then, and fresh ones cost more than the messages in them. */
const MANY = 64

export interface Writer {
  /** Writes what has gathered so far. */
  write(): void
  /** Writes what has gathered, and what is to follow. */
  flush(): void
}

class Writers {
  readonly #writers: Writer[] = []
  readonly #later: (flush: () => void) => void

  constructor(later: (flush: () => void) => void) {
    this.#later = later
  }

  add(writer: Writer): void {
    const writers = this.#writers
    if (writers.length === 0) this.#later(this.#flush)
    else if (writers.length % MANY === 0 && !isEncoding())
      for (let i = writers.length - MANY; i < writers.length; i++) writers[i]!.write()
    writers.push(writer)
  }

  readonly #flush = (): void => {
    const writers = this.#writers
    try {
      for (let i = 0; i < writers.length; i++) writers[i]!.flush() // a flush may add to the list
    } finally {
      while (writers.length > 0) writers.pop() // to set `length` is a call of the runtime
    }
  }
}

export const nextTick = new Writers(flush => process.nextTick(flush))
export const microtask = new Writers(flush => void RESOLVED.then(flush))
