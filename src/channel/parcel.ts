/** `Parcel`: descriptors and buffers of the program that are under way. */
import type { Deferred } from '../base/deferred.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'

/** A buffer of the program in the stream: its length, and where it ends. */
export interface BorrowedBytes {
  readonly bytes: Uint8Array
  readonly length: number
  readonly until: number
}

const NO_BORROWED: readonly BorrowedBytes[] = []

/** A message with descriptors, or with binary values that are not copied, from its queueing until the peer has taken them or they come back. */
export class Parcel {
  readonly fds: readonly number[]
  readonly descriptors: readonly Descriptor[]
  readonly value: unknown
  /** The request that this is the reply to, or -1. */
  readonly replyTo: number
  /** The peer cancelled that request before it took these. */
  cancelled = false
  /** Its frame's place in the stream of bytes. */
  start = 0
  end = 0
  taken = 0
  /** What the session takes back if the kernel refuses to pass the descriptors. */
  kind = 0
  id = 0
  cost = 0
  /** Its body may define records that later bodies use. */
  defines = false
  /** Its binary values that are not copied. */
  holes: readonly BorrowedBytes[] = NO_BORROWED
  /** If it has such values: resolves when they are not read any more, rejects when the message will not be sent. */
  sent: Deferred | undefined
  /** The request that a serve handler has answered with it. */
  answer: object | undefined
  /** The reason why it comes back while the channel goes on: the kernel or the peer's hello has refused it, or a binary value was detached. */
  error: Error | undefined

  constructor(fds: readonly number[], descriptors: readonly Descriptor[], value: unknown, replyTo: number) {
    this.fds = fds
    this.descriptors = descriptors
    this.value = value
    this.replyTo = replyTo
  }
}
