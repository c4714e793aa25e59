/** Reads a program's bytes by their internal slots, for any realm, prototype and accessors of a view. */
import { bytesOf } from './brand.ts'
import { PassfdError } from './errors.ts'

/** A Buffer on the very bytes of a view. `what`: how the error calls it. Throws ERR_PASSFD_INVALID_ARGUMENT if its memory was taken away. */
export function bufferOf(what: string, view: ArrayBufferView): Buffer {
  let bytes: Uint8Array
  try {
    bytes = bytesOf(view)
  } catch (cause) {
    const actual = 'a view of an ArrayBuffer that was transferred to another owner, or made too short for it'
    throw new PassfdError('INVALID_ARGUMENT', { what, expected: 'bytes', actual }, { cause })
  }
  return Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength)
}
