/** Decides when sessions write what they have queued. */

import { RESOLVED } from '../base/deferred.ts'
import { isEncoding } from '../codec/codec-in-progress.ts'

/** When so many sessions have something to write, they write at once: each keeps a slab until then, and fresh slabs cost more than their messages. */
const MANY = 64

export interface Writer {
  /** Writes everything that is queued so far. */
  write(): void
  /** Writes everything that is queued, and handles what follows from that. */
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
      while (writers.length > 0) writers.pop() // faster than setting `length`, which calls into the runtime
    }
  }
}

export const nextTick = new Writers(flush => process.nextTick(flush))
export const microtask = new Writers(flush => void RESOLVED.then(flush))
