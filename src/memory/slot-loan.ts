/** What stands in a message for a slot of a MemoryPool, and the two words that its reader may say through the token. */
import type { Descriptor } from '../descriptor/descriptor.ts'

/**
 * A part of a pool's memory, lent to whoever receives this: a plain value that can stand anywhere in a message. It is lent until the
 * last copy of `token` is closed, however that comes about: the token is the write end of a pipe, whose read end the pool has.
 */
export interface Loan {
  /** The pool's name: 22 random characters. */
  readonly pool: string
  /** Where it begins in the pool's memory, in bytes. */
  readonly offset: number
  /** In bytes. */
  readonly length: number
  readonly token: Descriptor
  /** The pool's memory, as long as this reader has not said that it has mapped it. */
  readonly memory?: Descriptor
}

/** Written to the token by a reader that has the pool mapped: the memory need not come along any more. */
export const MAPPED = 1
/** By one that doesn't know the pool, to which the memory should have come. */
export const UNKNOWN = 2
