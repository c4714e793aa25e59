/** The value that a message carries for a slot of a MemoryPool, and the two bytes that its reader may write to the token. */
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

/** A reader writes this to the token when it has mapped the pool: the pool need not send the memory again. */
export const MAPPED = 1
/** A reader writes this if it does not know the pool, and the memory did not come with the loan. */
export const UNKNOWN = 2
