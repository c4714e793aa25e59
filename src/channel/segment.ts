/** `Segment`: adjacent bytes of the outgoing stream that stand in one buffer. */

export class Segment {
  bytes: Uint8Array
  start: number
  end: number
  /** The slab returns to the pool after this segment. */
  retires: boolean
  sent: (() => void) | undefined
  /** The bytes belong to the application, and its promise waits until they have left. */
  borrowed: boolean

  constructor(bytes: Uint8Array, start: number, end: number, borrowed = false, sent?: () => void) {
    this.bytes = bytes
    this.start = start
    this.end = end
    this.retires = false
    this.borrowed = borrowed
    this.sent = sent
  }

  /** Replaces the application's bytes by zeros. */
  blank(): void {
    const size = this.end - this.start
    this.bytes = new Uint8Array(size)
    this.start = 0
    this.end = size
    this.borrowed = false
  }
}
