/** Binary values that are not copied, and that the program takes away before they have left. */
import { PassfdError } from '../base/errors.ts'

/** The program has transferred or detached the buffer before it has left. */
export function isLost({ bytes, length }: { readonly bytes: Uint8Array; readonly length: number }): boolean {
  return bytes.byteLength < length
}

export function lostError(): PassfdError {
  return new PassfdError('ENCODE', {
    detail:
      'a buffer in it was transferred or detached before it had left: leave it alone until the promise of the call has settled'
  })
}
