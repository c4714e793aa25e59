/** What stands in a message for a slot of a MemoryPool, and the two words that its reader may say through the token. */
import type { Descriptor } from '../descriptor/descriptor.ts'

/**
 * A part of a pool's memory, lent to the receiver: a plain value for any place in a message. It is lent until the last copy of `token` is
 * closed. The token is the write end of a pipe, and the pool holds the read end.
 */
export interface Loan {
  /** The pool's name: 22 random characters. */
  readonly pool: string
  /** The position of its first byte in the pool's memory. */
  readonly offset: number
  /** Its length in bytes. */
  readonly length: number
  readonly token: Descriptor
  /** The pool's memory. The pool sends it until this reader has confirmed that it has mapped it. */
  readonly memory?: Descriptor
}

/** Written to the token by a reader that has the pool mapped: the memory need not come along any more. */
export const MAPPED = 1
/** By one that doesn't know the pool, to which the memory should have come. */
export const UNKNOWN = 2
