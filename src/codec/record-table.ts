/** The record structures that the peer of one channel knows, and the packing of bodies that define and use them. */

import { call, NOTHING } from './codec-in-progress.ts'
import { isPlain } from './encodable.ts'
import { type Encoded, type Limit, NO_DESCRIPTORS } from './encoded.ts'
import type { Shape } from './flat-record.ts'
import { FLAT_ROOM, fits, shapeFor, writeFlat } from './flat-record.ts'
import { HEADER, RECORDS } from './frame.ts'
import { Packr, type Structures } from './msgpackr/pack.js'
import { pack } from './pack.ts'
import { roomForFew, STREAMED_RECORDS, tooBig } from './records.ts'
import { encodeError } from './refusal.ts'

/** The byte that stands for the first of them. */
const FIRST_ID = 0x40
/** With these a body begins that defines the structure of its value; the id follows. */
const DEFINES = [0xd4, 0x72] as const
/** So many shapes are compared with a value before msgpackr looks it up. */
const MAX_FLAT = 4
/** What `packFlat` returns if nothing is left to be packed. */
export const WRITTEN: unique symbol = Symbol('written')

const streamedPackr = new Packr({
  sequential: true,
  moreTypes: true,
  maxSharedStructures: 0,
  maxOwnStructures: STREAMED_RECORDS
})

/** All tables take turns at one Packr. */
export class RecordTable {
  readonly #structures: Structures = roomForFew()
  readonly #recordIds = ringForFew()
  #nextId = FIRST_ID
  #last: string[] | undefined
  /** The last body has defined shapes. */
  #added = false
  /** Some of those in use, for `writeFlat`. */
  #shapes: readonly Shape[] | undefined

  /**
   * Packs a value into `encoded`; what it defines is part of this table. False: its definitions are too big for the peer to keep, and the
   * table is of no use any more, nor is it after an error.
   */
  pack(value: unknown, encoded: Encoded, limit: Limit, given: unknown): boolean {
    streamedPackr.structures = this.#structures
    streamedPackr.recordIds = this.#recordIds
    pack(streamedPackr, value, RECORDS, encoded, limit, given)
    if (!this.#fits()) return false
    this.#learn(encoded)
    encoded.streamed = true
    encoded.defines = this.#added
    return true
  }

  /**
   * Packs a flat object of a known shape and returns WRITTEN. Otherwise it returns what msgpackr is to pack: the value, or a copy, as getters
   * must be called only once.
   */
  packFlat(value: unknown, encoded: Encoded): unknown {
    const { bytes, start } = encoded
    if (this.#shapes === undefined || bytes.length - start < FLAT_ROOM) return value
    call.encoded = encoded // even to look for its shape can call what is the program's: the traps of a Proxy, a getter named constructor
    try {
      const shape = this.#shapeOf(value)
      if (shape === undefined) return value
      const end = writeFlat(value as object, shape, bytes, start + HEADER)
      if (typeof end === 'object') {
        encoded.descriptors = NO_DESCRIPTORS // msgpackr meets them again
        return end
      }
      encoded.finish(bytes, start, end, RECORDS)
      encoded.streamed = true
      return WRITTEN
    } catch (error) {
      throw encodeError(error, value)
    } finally {
      call.encoded = NOTHING
    }
  }

  /** Remembers the shape of what was packed last, if that is a record. */
  #learn({ bytes, start }: Encoded): void {
    const at = start + HEADER
    const token = bytes[at] === DEFINES[0] && bytes[at + 1] === DEFINES[1] ? bytes[at + 2]! : bytes[at]!
    const keys = this.#structures[token - FIRST_ID]
    if (keys === undefined || this.#shapes?.some(shape => shape.keys === keys)) return
    const shape = shapeFor(keys, token)
    if (shape === undefined) return
    const shapes = this.#shapes?.filter(({ keys, token }) => keys === this.#structures[token - FIRST_ID]) ?? []
    this.#shapes = [shape, ...shapes].slice(0, MAX_FLAT)
  }

  #shapeOf(value: unknown): Shape | undefined {
    if (!isPlain(value)) return undefined
    for (const shape of this.#shapes!)
      if (fits(value, shape)) return this.#structures[shape.token - FIRST_ID] === shape.keys ? shape : undefined
    return undefined
  }

  /** Whether what the body has defined is small enough to be kept by the peer. */
  #fits(): boolean {
    const structures = this.#structures
    const nextId = structures.nextId ?? FIRST_ID
    const before = this.#nextId
    const all = structures[slotBefore(before)] !== this.#last // more than there is room for: they have replaced each other
    this.#added = nextId !== before || all
    if (!this.#added) return true
    const count = all ? STREAMED_RECORDS : (nextId - before + STREAMED_RECORDS) % STREAMED_RECORDS
    for (let i = 0; i < count; i++) if (tooBig(structures[slotBefore(nextId - i)])) return false
    this.#nextId = nextId
    this.#last = structures[slotBefore(nextId)]
    return true
  }
}

/** Holds an entry that stands for nothing: it is the first to leave a full ring, and until then the array stays short. */
function ringForFew(): object[] {
  const ring: object[] = [{}, {}, {}]
  ring.length = 1
  return ring
}

/** Where the shape stands that was defined before the one that gets this id. */
function slotBefore(id: number): number {
  return (id - FIRST_ID - 1 + 2 * STREAMED_RECORDS) % STREAMED_RECORDS
}
