/** The memory into which streams read. */

/** The most bytes that one read gives. */
export const READ_BLOCK = 65536
/** A read of more bytes than this gets the block itself, and the next read a new block. Fewer bytes are copied out of it. */
const COPIED = READ_BLOCK / 2

/** One block for all streams of a thread. A program that keeps what it has received keeps less than twice its bytes. */
export const readBlock = {
  /** Read into it, and call `take` before anything else can. */
  memory: Buffer.allocUnsafeSlow(READ_BLOCK),

  /** Returns its first `length` bytes. They are the caller's. */
  take(length: number): Buffer {
    const { memory } = this
    if (length <= COPIED) return Buffer.from(memory.subarray(0, length))
    this.memory = Buffer.allocUnsafeSlow(READ_BLOCK)
    return length === READ_BLOCK ? memory : memory.subarray(0, length)
  }
}
