/** The record structures that the peer of one channel knows, and the packing of bodies that define and use them. */

import { call, NOTHING } from './codec-in-progress.ts'
import { isPlain } from './encodable.ts'
import { Encoded, type Limit, NO_DESCRIPTORS, NO_LIMIT } from './encoded.ts'
import type { Shape } from './flat-record.ts'
import { FLAT_ROOM, fits, shapeFor, writeFlat } from './flat-record.ts'
import { HEADER, RECORDS } from './frame.ts'
import { Packr, type Structures } from './msgpackr/pack.js'
import { pack } from './pack.ts'
import { FEW, roomForFew, STREAMED_RECORDS, shapeOf, tooBig } from './records.ts'
import { encodeError } from './refusal.ts'

/** The byte that stands for the first of them. */
const FIRST_ID = 0x40
/** With these a body begins that defines the structure of its value; the id follows. */
const DEFINES = [0xd4, 0x72] as const
/** So many shapes are compared with a value before msgpackr looks it up. */
const MAX_FLAT = 4
/** After so many flat records in a row a table keeps only their shapes. */
const REST_AFTER = 16
/** What `packFlat` returns if nothing is left to be packed. */
export const WRITTEN: unique symbol = Symbol('written')

const streamedPackr = new Packr({
  sequential: true,
  moreTypes: true,
  maxSharedStructures: 0,
  maxOwnStructures: STREAMED_RECORDS
})

/** What msgpackr keeps of a table. */
interface Definitions {
  readonly structures: Structures
  readonly recordIds: object[]
}

/** All tables take turns at one Packr. */
export class RecordTable {
  /** Undefined while only flat records of a few shapes are sent, because it takes 0.4 kB. It is made again from the shapes. */
  #definitions: Definitions | undefined
  #flatInARow = 0
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
    this.#definitions ??= this.#defineAgain()
    const { structures } = this.#definitions
    this.#flatInARow = 0
    packWith(this.#definitions, value, encoded, limit, given)
    if (!this.#fits(structures)) return false
    this.#learn(encoded, structures)
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
      if (this.#flatInARow < REST_AFTER && ++this.#flatInARow === REST_AFTER) this.#rest()
      return WRITTEN
    } catch (error) {
      throw encodeError(error, value)
    } finally {
      call.encoded = NOTHING
    }
  }

  /** Remembers the shape of what was packed last, if that is a record. */
  #learn({ bytes, start }: Encoded, structures: Structures): void {
    const at = start + HEADER
    const token = bytes[at] === DEFINES[0] && bytes[at + 1] === DEFINES[1] ? bytes[at + 2]! : bytes[at]!
    const keys = structures[token - FIRST_ID]
    if (keys === undefined || this.#shapes?.some(shape => shape.keys === keys)) return
    const shape = shapeFor(keys, token)
    if (shape === undefined) return
    const shapes = this.#shapes?.filter(({ keys, token }) => keys === structures[token - FIRST_ID]) ?? []
    this.#shapes = [shape, ...shapes].slice(0, MAX_FLAT)
  }

  #shapeOf(value: unknown): Shape | undefined {
    if (!isPlain(value)) return undefined
    const structures = this.#definitions?.structures
    for (const shape of this.#shapes!)
      if (fits(value, shape))
        return structures === undefined || structures[shape.token - FIRST_ID] === shape.keys ? shape : undefined
    return undefined
  }

  /** Drops the definitions, if they are those of the flat shapes and nothing else. */
  #rest(): void {
    const shapes = this.#shapes!
    const { structures } = this.#definitions! // packing with them has begun the row
    if (this.#nextId !== FIRST_ID + shapes.length || structures.length > Math.max(shapes.length, FEW)) return
    if (shapes.some(({ keys, token }) => structures[token - FIRST_ID] !== keys)) return
    for (const shape of shapes) shape.keys = shapeOf([...shape.keys], undefined)
    this.#definitions = this.#last = undefined
  }

  /** Makes the definitions as they were: the shapes in the order of their ids. */
  #defineAgain(): Definitions {
    const definitions = { structures: roomForFew<string[]>() as Structures, recordIds: ringForFew() }
    const { structures } = definitions
    for (const shape of [...(this.#shapes ?? [])].sort((a, b) => a.token - b.token)) {
      const sample = Object.fromEntries(shape.keys.map(key => [key, null]))
      again.begin(undefined)
      packWith(definitions, sample, again, NO_LIMIT, sample)
      shape.keys = structures[shape.token - FIRST_ID]!
      this.#last = shape.keys as string[]
    }
    return definitions
  }

  /** Whether what the body has defined is small enough to be kept by the peer. */
  #fits(structures: Structures): boolean {
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

/** A body that is not sent. */
const again = new Encoded()

function packWith(
  { structures, recordIds }: Definitions,
  value: unknown,
  encoded: Encoded,
  limit: Limit,
  given: unknown
): void {
  streamedPackr.structures = structures
  streamedPackr.recordIds = recordIds
  pack(streamedPackr, value, RECORDS, encoded, limit, given)
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
