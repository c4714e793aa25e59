/** Messages and requests that wait for credit, encoded already, in order. */

import type { Deferred } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { detachedToPlain, type Encoded } from '../codec/codec.ts'
import { HEADER, RECORDS, REQUEST } from '../codec/frame.ts'
import { giveSlab, ROOM, SLAB, takeSlab } from '../codec/slab.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Hello } from './hello.ts'
import type { Parcel } from './transport.ts'

export class Waiting {
  readonly kind: number
  readonly id: number
  readonly parcel: Parcel | undefined
  /** Resolved when its binary values are no longer looked at; rejected when it will not be sent. */
  readonly sent: Deferred | undefined
  /** Kept while nobody knows whether the peer takes it, so that it can come back. */
  readonly value: unknown
  flags: number
  encoded: Encoded

  constructor(
    kind: number,
    flags: number,
    id: number,
    encoded: Encoded,
    parcel: Parcel | undefined,
    sent: Deferred | undefined,
    value: unknown
  ) {
    this.kind = kind
    this.flags = flags
    this.id = id
    this.encoded = encoded
    this.parcel = parcel
    this.sent = sent
    this.value = value
  }

  get size(): number {
    return HEADER + this.encoded.length
  }

  /** Brings what was encoded before the peer was known into the form that it takes. Throws if it doesn't take it. */
  adapt(hello: Hello, records: boolean): void {
    const count = this.parcel?.fds.length ?? 0
    if (!records && this.flags & RECORDS) {
      const { bytes, start, end, holes } = this.encoded
      this.encoded = copyOf(detachedToPlain(bytes, start + HEADER, end, count, holes))
      this.flags &= ~RECORDS
    }
    const { length } = this.encoded
    if (length > hello.maxMessage) throw new PassfdError('MESSAGE_TOO_LARGE', { size: length, limit: hello.maxMessage })
    if (count > hello.maxDescriptors)
      throw new PassfdError('TOO_MANY_DESCRIPTORS', { count, limit: hello.maxDescriptors })
  }
}

export class WaitingQueue {
  /** Bytes of all frames in it. */
  size = 0
  /** How many of them use record definitions that were sent before. */
  streamed = 0
  #items: Waiting[] = []
  /** Bodies are encoded one behind the other, just as they leave later. */
  #slab: Buffer | undefined
  #slabEnd = 0

  get length(): number {
    return this.#items.length
  }

  /** The slab to encode the next body into; its free place begins at `slabEnd`. */
  get slab(): Buffer {
    if (this.#slab === undefined || SLAB - this.#slabEnd < ROOM) {
      this.#slab = takeSlab() // a full one may still have to leave
      this.#slabEnd = 0
    }
    return this.#slab
  }

  get slabEnd(): number {
    return this.#slabEnd
  }

  /** What was encoded last, to be kept: where it is, if that is the slab. */
  keep(encoded: Encoded): Encoded {
    const { bytes, start, end, flags, length, holes, streamed } = encoded
    if (bytes !== this.#slab || start !== this.#slabEnd) return copyOf(encoded)
    this.#slabEnd = (end + 7) & ~7
    return { bytes, start, end, flags, length, descriptors: NO_DESCRIPTORS, holes, streamed, room: true }
  }

  push(item: Waiting): void {
    this.#items.push(item)
    this.#count(item, 1)
  }

  /** Takes items from the front while `fits` holds, asked before each. */
  takeWhile(fits: () => boolean, take: (item: Waiting) => void): void {
    let count = 0
    while (count < this.#items.length && fits()) {
      const item = this.#items[count++]!
      this.#count(item, -1)
      take(item)
    }
    if (count > 0) this.#items.splice(0, count)
  }

  /** All that was ever in it has left. */
  release(): void {
    if (this.#slab !== undefined) giveSlab(this.#slab)
    this.#slab = undefined
  }

  takeAll(): Waiting[] {
    const items = this.#items
    this.#items = []
    this.size = this.streamed = 0
    return items
  }

  takeRequest(id: number): Waiting | undefined {
    const at = this.#items.findIndex(item => item.kind === REQUEST && item.id === id)
    if (at < 0) return undefined
    const [item] = this.#items.splice(at, 1) as [Waiting]
    this.#count(item, -1)
    return item
  }

  #count(item: Waiting, sign: 1 | -1): void {
    this.size += sign * item.size
    if (item.encoded.streamed) this.streamed += sign
  }
}

const NO_DESCRIPTORS: Descriptor[] = []

/** The encoder's own buffers are used again. */
function copyOf({ bytes, start, end, flags, length, holes, streamed }: Encoded): Encoded {
  const copy = Buffer.from(bytes.subarray(start, end))
  const descriptors = NO_DESCRIPTORS
  return { bytes: copy, start: 0, end: end - start, flags, length, descriptors, holes, streamed, room: false }
}
