/** Messages and requests that wait for credit, encoded already, in order. */
import { detachedToPlain, type Encoded } from './codec.ts'
import { PassfdError } from './errors.ts'
import { HEADER, RECORDS, REQUEST } from './frame.ts'
import type { Hello } from './hello.ts'
import type { Deferred } from './promises.ts'
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
    this.encoded = keep(encoded)
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
      this.encoded = keep(detachedToPlain(bytes, start + HEADER, end, count, holes))
      this.flags &= ~RECORDS
    }
    const { length } = this.encoded
    if (length > hello.maxMessage)
      throw new PassfdError('MESSAGE_TOO_LARGE', { size: length, whose: 'the peer', limit: hello.maxMessage })
    if (count > hello.maxDescriptors)
      throw new PassfdError('TOO_MANY_DESCRIPTORS', { count, whose: 'the peer', limit: hello.maxDescriptors })
  }
}

export class WaitingQueue {
  /** Bytes of all frames in it. */
  size = 0
  #items: Waiting[] = []

  get length(): number {
    return this.#items.length
  }

  push(item: Waiting): void {
    this.#items.push(item)
    this.size += item.size
  }

  /** Takes items from the front while `fits` holds, asked before each. */
  takeWhile(fits: () => boolean, take: (item: Waiting) => void): void {
    let count = 0
    while (count < this.#items.length && fits()) {
      const item = this.#items[count++]!
      this.size -= item.size
      take(item)
    }
    if (count > 0) this.#items.splice(0, count)
  }

  takeAll(): Waiting[] {
    const items = this.#items
    this.#items = []
    this.size = 0
    return items
  }

  takeRequest(id: number): Waiting | undefined {
    const at = this.#items.findIndex(item => item.kind === REQUEST && item.id === id)
    if (at < 0) return undefined
    const [item] = this.#items.splice(at, 1) as [Waiting]
    this.size -= item.size
    return item
  }
}

/** A copy of what was encoded, as the encoder's buffers are used again. */
function keep(encoded: Encoded): Encoded {
  const { bytes, start, end } = encoded
  return { ...encoded, bytes: Buffer.from(bytes.subarray(start, end)), start: 0, end: end - start, descriptors: [] }
}
