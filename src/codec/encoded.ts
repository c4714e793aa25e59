/** What an encoding gives: a body, and what travels beside it. */
import type { Descriptor } from '../descriptor/descriptor.ts'
import { HEADER } from './frame.ts'

/** A place in the body, counted from its beginning in what was packed, where `bytes` belong that were not copied. */
export interface Hole {
  at: number
  bytes: Uint8Array
  /** Of `bytes` when it was encoded: they may be transferred to another owner before they have left. */
  length: number
}

/** The longest body that can be sent, and whose limit that is. */
export interface Limit {
  readonly bytes: number
  readonly whose: string
}

export const NO_LIMIT: Limit = { bytes: Number.POSITIVE_INFINITY, whose: '' }
/** The last limit of each owner. */
const limits = new Map<string, Limit>()

/** Most channels have the same limits, so they share the objects. `whose`: one of a few names. */
export function limitOf(bytes: number, whose: string): Limit {
  const last = limits.get(whose)
  if (last?.bytes === bytes) return last
  const limit = { bytes, whose }
  limits.set(whose, limit)
  return limit
}

/** Free bytes for the next body: `slab` from `slabEnd` on. To ask for `slab` may make a new one, so it is asked for first. */
export interface Space {
  readonly slab: Buffer
  readonly slabEnd: number
}

export const NO_DESCRIPTORS: Descriptor[] = []
export const NO_HOLES: Hole[] = []
const EMPTY = Buffer.alloc(0)
let scratch: Buffer | undefined

/** The caller of the encoder owns it, and uses it again for the next value: `bytes` [start, end) with HEADER bytes free in front of the body. */
export class Encoded {
  /** While the value is being encoded, the buffer that it is put into. */
  bytes: Buffer = EMPTY
  start = 0
  end = 0
  flags = 0
  /** Length of the body, holes included. */
  length = 0
  /** In the order in which the encoder met them, also if it then gave up. They are not moved. */
  descriptors: Descriptor[] = NO_DESCRIPTORS
  holes: Hole[] = NO_HOLES
  /** It uses definitions that were sent before: none of their ids may get another meaning until this is sent. */
  streamed = false
  /** It may define records that later bodies use. */
  defines = false
  /** The bytes behind it are free, up to the next multiple of 8. */
  padded = false

  /** Begins a body in `space`, or, without that, in a buffer that all share. */
  begin(space: Space | undefined): void {
    this.descriptors = NO_DESCRIPTORS
    this.bytes = space === undefined ? (scratch ??= Buffer.allocUnsafeSlow(65536)) : space.slab
    this.start = space === undefined ? 0 : (space.slabEnd + 7) & ~7
    this.holes = NO_HOLES
    this.streamed = this.defines = false
  }

  /** The body is whole: `bytes` [start, end). */
  finish(bytes: Buffer, start: number, end: number, flags: number): void {
    this.bytes = bytes
    this.start = start
    this.end = end
    this.flags = flags
    this.length = end - start - HEADER
  }
}
