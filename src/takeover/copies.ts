/** Copies of several descriptors, for messages: all of them or none. */
import type { Descriptor } from '../descriptor/descriptor.ts'

export type Copy = (descriptor: Descriptor) => Descriptor

/** What is made with copies, which the caller owns: all of them, or it throws and none is left open. */
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
