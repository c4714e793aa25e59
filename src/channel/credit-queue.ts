/** Encoded messages and requests that wait for credit, in order. */

import { PassfdError } from '../base/errors.ts'
import { Encoded } from '../codec/encoded.ts'
import { HEADER, RECORDS, REQUEST } from '../codec/frame.ts'
import { detachedToPlain } from '../codec/plain.ts'
import { giveSlab, ROOM, SLAB, takeSlab } from '../codec/slab.ts'
import type { Hello } from './hello.ts'
import type { Parcel } from './parcel.ts'

export class QueuedFrame {
  readonly kind: number
  readonly id: number
  readonly parcel: Parcel | undefined
  /** Kept until the peer's hello has come, so that a message which the peer does not accept can come back. */
  readonly value: unknown
  flags: number
  encoded: Encoded

  constructor(kind: number, flags: number, id: number, encoded: Encoded, parcel: Parcel | undefined, value: unknown) {
    this.kind = kind
    this.flags = flags
    this.id = id
    this.encoded = encoded
    this.parcel = parcel
    this.value = value
  }

  get size(): number {
    return HEADER + this.encoded.length
  }

  /** Converts a value that was encoded before the peer's hello. Throws if the peer does not accept it. */
  adapt(hello: Hello, records: boolean): void {
    const count = this.parcel?.fds.length ?? 0
    if (!records && this.flags & RECORDS) {
      const { bytes, start, end, holes } = this.encoded
      this.encoded = copyOf(detachedToPlain(bytes.subarray(start + HEADER, end), count, holes))
      this.flags &= ~RECORDS
    }
    const { length } = this.encoded
    if (length > hello.maxMessage) throw new PassfdError('MESSAGE_TOO_LARGE', { size: length, limit: hello.maxMessage })
    if (count > hello.maxDescriptors)
      throw new PassfdError('TOO_MANY_DESCRIPTORS', { count, limit: hello.maxDescriptors })
  }
}

export class CreditQueue {
  /** Bytes of all frames in it. */
  size = 0
  /** How many of them use record definitions that were sent before. */
  streamed = 0
  #items: QueuedFrame[] = []
  /** Bodies stand one behind the other, in the order in which they will leave. */
  #slab: Buffer | undefined
  #slabEnd = 0

  get length(): number {
    return this.#items.length
  }

  /** The slab to encode the next body into; its free place begins at `slabEnd`. */
  get slab(): Buffer {
    if (this.#slab === undefined || SLAB - this.#slabEnd < ROOM) {
      this.#slab = takeSlab() // the full one may still wait to be sent
      this.#slabEnd = 0
    }
    return this.#slab
  }

  get slabEnd(): number {
    return this.#slabEnd
  }

  /** Keeps the last encoded body: in place if it is in the slab, otherwise as a copy. */
  keep(encoded: Encoded): Encoded {
    if (encoded.bytes !== this.#slab || encoded.start !== this.#slabEnd) return copyOf(encoded)
    this.#slabEnd = (encoded.end + 7) & ~7
    const kept = keptOf(encoded, encoded.bytes)
    kept.padded = true
    return kept
  }

  push(item: QueuedFrame): void {
    this.#items.push(item)
    this.#count(item, 1)
  }

  /** Takes items from the front while `fits` holds, asked before each. */
  takeWhile(fits: () => boolean, take: (item: QueuedFrame) => void): void {
    let count = 0
    while (count < this.#items.length && fits()) {
      const item = this.#items[count++]!
      this.#count(item, -1)
      take(item)
    }
    if (count > 0) this.#items.splice(0, count)
  }

  /** Called when the queue is empty and everything in the slab has left. */
  release(): void {
    if (this.#slab !== undefined) giveSlab(this.#slab)
    this.#slab = undefined
  }

  takeAll(): QueuedFrame[] {
    const items = this.#items
    this.#items = []
    this.size = this.streamed = 0
    return items
  }

  takeRequest(id: number): QueuedFrame | undefined {
    const at = this.#items.findIndex(item => item.kind === REQUEST && item.id === id)
    if (at < 0) return undefined
    const [item] = this.#items.splice(at, 1) as [QueuedFrame]
    this.#count(item, -1)
    return item
  }

  #count(item: QueuedFrame, sign: 1 | -1): void {
    this.size += sign * item.size
    if (item.encoded.streamed) this.streamed += sign
  }
}

/** Copies a body out of the encoder's buffer, because the encoder uses its buffers again. */
function copyOf(encoded: Encoded): Encoded {
  const copy = keptOf(encoded, Buffer.from(encoded.bytes.subarray(encoded.start, encoded.end)))
  copy.start = 0
  copy.end = encoded.end - encoded.start
  return copy
}

/** The item without its descriptors, which are in its parcel. */
function keptOf(encoded: Encoded, bytes: Buffer): Encoded {
  const kept = new Encoded()
  kept.bytes = bytes
  kept.start = encoded.start
  kept.end = encoded.end
  kept.flags = encoded.flags
  kept.length = encoded.length
  kept.holes = encoded.holes
  kept.streamed = encoded.streamed
  return kept
}
