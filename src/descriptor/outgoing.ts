/** Checks a write or packet with descriptors, and moves these. Misuse throws and moves nothing. */
import { isUint8Array } from '../base/brand.ts'
import { bufferOf } from '../base/bytes.ts'
import { describe } from '../base/check.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { native } from '../os/native.ts'
import {
  assertOpen,
  Descriptor,
  forgetIfClosed,
  isDescription,
  isForeign,
  moveAllOut,
  restoreNumber
} from './descriptor.ts'

/** Numbers that the sender owns. `foreign`: some came from a peer, so closing them may take long. */
export interface Cargo {
  readonly fds: number[]
  readonly foreign: boolean
  /**
   * Called if the kernel refuses to pass one of the numbers. Then the bytes are not sent either, and the stream goes on. The callee owns the
   * numbers from then on.
   */
  onRefused?: (errno: number) => void
}

/** Copies the bytes into a buffer that no other code holds. `count` descriptors need at least `least` bytes. */
export function checkCount(bytes: unknown, count: number, least = 1): Buffer {
  if (!(typeof bytes === 'string' || isUint8Array(bytes)))
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'bytes',
      expected: 'a Uint8Array or a string',
      actual: describe(bytes)
    })
  if (count > MAX_RIGHTS) throw new PassfdError('TOO_MANY_RIGHTS', { count, limit: MAX_RIGHTS })
  const chunk = typeof bytes === 'string' ? Buffer.from(bytes) : bufferOf('bytes', bytes)
  if (chunk.length < least && count > 0) throw new PassfdError('EMPTY_WRITE')
  return chunk
}

/** Takes the numbers out of the Descriptors. `own`: the token of the socket's own Descriptor, which is never sent. */
export function cargoOf(descriptors: readonly Descriptor[], by: string, own: object | undefined): Cargo {
  for (const [index, descriptor] of descriptors.entries()) {
    if (!(descriptor instanceof Descriptor))
      throw new PassfdError('INVALID_ARGUMENT', {
        what: `descriptors[${index}]`,
        expected: 'a Descriptor',
        actual: describe(descriptor)
      })
    assertOpen(descriptor)
    if (own !== undefined && isDescription(descriptor, own)) throw new PassfdError('OWN_SOCKET')
  }
  if (new Set(descriptors).size < descriptors.length) throw new PassfdError('DESCRIPTOR_REPEATED')
  const foreign = descriptors.some(isForeign)
  return { fds: moveAllOut(descriptors, by), foreign }
}

/**
 * Puts the numbers back into their Descriptors, which the caller then owns again. A Descriptor whose number other code has closed counts as
 * closed.
 */
export function handBack(descriptors: readonly Descriptor[], fds: readonly number[]): void {
  for (const [index, descriptor] of descriptors.entries()) {
    const fd = fds[index]!
    if (!forgetIfClosed(descriptor, fd)) restoreNumber(descriptor, fd, undefined)
  }
}

/** Duplicates of all numbers, or of none. */
export function copiesOf(fds: readonly number[]): number[] {
  const copies: number[] = []
  try {
    for (const fd of fds) copies.push(checked(native.dup(fd), 'dup', String(fd)))
  } catch (error) {
    native.closeMany(Int32Array.from(copies), 0, copies.length)
    throw error
  }
  return copies
}
