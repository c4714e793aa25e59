/**
 * A small buffer into which short bodies are copied before they are decoded. msgpackr tells short from long by where a body *ends*
 * in its buffer: behind byte 140 it reads strings through its native part and keys without its cache. At the beginning of a
 * small buffer decoding takes half to three quarters of the time.
 */
export const SHORT = 128

export const short = Buffer.allocUnsafeSlow(SHORT)
const shortWords = new Int32Array(short.buffer)

let latest: Buffer | undefined
let words: Int32Array | undefined

/** Copies at most SHORT bytes to the beginning of `short`; by words where they are aligned, as fast senders have them. */
export function copyShort(bytes: Buffer, start: number, end: number): void {
  if (bytes !== latest) {
    latest = bytes
    words = bytes.byteOffset === 0 && bytes.buffer.byteLength % 4 === 0 ? new Int32Array(bytes.buffer) : undefined
  }
  const length = end - start
  if (words !== undefined && (start & 3) === 0) {
    const first = start >> 2
    const count = (length + 3) >> 2
    for (let i = 0; i < count; i++) shortWords[i] = words[first + i]!
  } else for (let i = 0; i < length; i++) short[i] = bytes[start + i]!
}
