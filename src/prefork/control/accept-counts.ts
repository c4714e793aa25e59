/**
 * Counts in memory that a supervisor shares with one worker: for each dispatched listener, how many permits to accept the worker has used. The
 * supervisor reads them whenever it looks at a queue. So the worker's message, which wakes the supervisor, can wait until the worker wants more.
 * Each place has two words: the count, and whether the supervisor wants the message at once.
 */
import { checked } from '../../base/errors.ts'
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import { createMemory } from '../../os/memfd.ts'
import { native } from '../../os/native.ts'

/** In bytes: one page. */
const SIZE = 4096
const PLACES = SIZE / (2 * Int32Array.BYTES_PER_ELEMENT)

/** The supervisor's side. */
export class AcceptCounts {
  readonly #words: Int32Array
  readonly #places = new Map<string, { readonly place: number; told: number }>()

  private constructor(words: Int32Array) {
    this.#words = words
  }

  /** Makes the memory. The Descriptor is for the worker, and the caller owns it. Throws the system's error if there is no descriptor or memory. */
  static create(): [AcceptCounts, Descriptor] {
    const fd = createMemory('passfd-accepted', { size: SIZE, seals: ['shrink', 'grow', 'seal'] })
    try {
      return [new AcceptCounts(mapped(fd)), own(fd)]
    } catch (error) {
      native.close(fd)
      throw error
    }
  }

  /** Notes that the worker is told to accept so many. Returns its place for this listener. Undefined: there is none left. */
  tell(listener: string, count: number): number | undefined {
    let entry = this.#places.get(listener)
    if (entry === undefined) {
      if (this.#places.size === PLACES) return undefined
      entry = { place: this.#places.size, told: 0 }
      this.#places.set(listener, entry)
    }
    entry.told += count
    return entry.place
  }

  /** How many permits the worker has not used, by its own account: any number >= 0, because the worker may write anything. */
  unused(listener: string): number | undefined {
    const entry = this.#places.get(listener)
    return entry && (entry.told - Atomics.load(this.#words, 2 * entry.place)) >>> 0
  }

  /** The worker sends its next message for this listener as soon as it has counted. */
  wantMessage(listener: string): void {
    const entry = this.#places.get(listener)
    if (entry !== undefined) Atomics.store(this.#words, 2 * entry.place + 1, 1)
  }
}

/** The worker's side. */
export class UsedPermits {
  readonly #words: Int32Array

  /** Closes the Descriptor. Throws the system's error, also if the runtime has no memory of others (Electron). */
  constructor(memory: Descriptor) {
    try {
      this.#words = mapped(memory.borrow())
    } finally {
      memory.close()
    }
  }

  /** Returns whether the supervisor wants a message at once. */
  add(place: number, count: number): boolean {
    Atomics.add(this.#words, 2 * place, count)
    return Atomics.exchange(this.#words, 2 * place + 1, 0) !== 0
  }
}

function mapped(fd: number): Int32Array {
  const holder: ArrayBuffer[] = []
  checked(native.map(fd, SIZE, true, holder), 'mmap')
  return new Int32Array(holder[0]!)
}
