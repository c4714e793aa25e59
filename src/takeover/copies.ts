/** Copies of several descriptors, for messages: all of them or none. */
import type { Descriptor } from '../descriptor/descriptor.ts'

export type Copy = (descriptor: Descriptor) => Descriptor

/** Calls `make` with a function that copies descriptors. The caller owns the copies. If it throws, it has closed all of them. */
export function copying<T>(make: (copy: Copy) => T): T {
  const copies: Descriptor[] = []
  try {
    return make(descriptor => {
      const copy = descriptor.dup()
      copies.push(copy)
      return copy
    })
  } catch (error) {
    for (const copy of copies) copy.close()
    throw error
  }
}
