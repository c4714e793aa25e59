/**
 * Values to bodies and back, by msgpackr. Three encodings, all of which a msgpackr decoder understands:
 *
 * - *plain*: standard msgpack; unflagged; for any peer.
 * - *streamed* (flag RECORDS): objects as sequential record structures, ids 0-31, which last for the channel. Only for a body
 *   whose place in the stream is final.
 * - *detached* (flag RECORDS): the same types, but every body defines the structures it uses, ids 32-63, and
 *   nothing of it lasts. For bodies that wait or may overtake one that does, unless they are flat and of a shape that was sent before,
 *   and for those whose structures are too big to keep.
 */

import { PassfdError, propertyOf, textOf } from '../base/errors.ts'
import { MAX_DEPTH } from '../base/kernel-limits.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { FLAT_ROOM, fits, type Shape, shapeFor, takeInstead, writeFlat } from './flat-record.ts'
import { HEADER, RECORDS } from './frame.ts'
import { allowSteps, chainsOf, countSteps, KEYS_COLLIDE, tooManySteps } from './key-chains.ts'
import { isLost, lostError } from './lost-bytes.ts'
import {
  call,
  EMPTY,
  type Hole,
  NO_DESCRIPTORS,
  NO_HOLES,
  NO_LIMIT,
  Packr,
  Place,
  RESERVE_START_SPACE,
  REUSE_BUFFER_MODE,
  type Structures,
  shapeOf,
  state,
  Unpackr
} from './packers.ts'
import { encodeError, Refusal } from './refusal.ts'

/** What a kept record definition may hold: keys, and bytes of keys (each key counts one more). */
const MAX_RECORD_KEYS = 256
const MAX_RECORD_BYTES = 4096
/** Ids of structures that last for the channel come first, those of detached bodies after. */
const STREAMED_RECORDS = 32
/** The byte that stands for the first of them. */
const FIRST_ID = 0x40
/** With these a body begins that defines the structure of its value; the id follows. */
const DEFINES = [0xd4, 0x72] as const
/** So many shapes are compared with a value before msgpackr looks it up. */
const MAX_FLAT = 4
const ALL_RECORDS = 64

export { BY_REFERENCE, type Hole } from './packers.ts'

/** The outcome of `encode`, valid until the next: `bytes` [start, end) with HEADER bytes free in front of the body. */
export interface Encoded {
  bytes: Buffer
  start: number
  end: number
  flags: number
  /** Length of the body, holes included. */
  length: number
  descriptors: Descriptor[]
  holes: Hole[]
  /** It uses definitions that were sent before: none of their ids may get another meaning until this is sent. */
  streamed: boolean
  /** The bytes behind it are free, up to the next multiple of 8. */
  room: boolean
}

const PACK_MODE = REUSE_BUFFER_MODE | RESERVE_START_SPACE | HEADER

let encoding = false
/** What the last encoding met, also if it failed. */
let collected: readonly Descriptor[] = NO_DESCRIPTORS
/** The buffer that msgpackr packs into at the moment, if it is one of ours. */
let attached: Buffer | undefined
let scratch: Buffer | undefined

const outcome: Encoded = {
  bytes: EMPTY,
  start: 0,
  end: 0,
  flags: 0,
  length: 0,
  descriptors: NO_DESCRIPTORS,
  holes: NO_HOLES,
  streamed: false,
  room: false
}
const range = { start: 0, end: 0 }

const plainPackr = new Packr({
  useRecords: false,
  moreTypes: false,
  encodeUndefinedAsNil: true,
  variableMapSize: true
})
const detachedPackr = new Packr({
  useRecords: true,
  moreTypes: true,
  structures: [],
  maxSharedStructures: STREAMED_RECORDS,
  maxOwnStructures: ALL_RECORDS - STREAMED_RECORDS,
  shouldShareStructure: () => false
})

const plainUnpackr = new Unpackr({
  useRecords: false,
  mapsAsObjects: true,
  int64AsType: 'auto',
  copyBuffers: true,
  shapeOf,
  chainsOf
})
const streamedPackr = new Packr({
  sequential: true,
  moreTypes: true,
  maxSharedStructures: 0,
  maxOwnStructures: STREAMED_RECORDS
})
/** For flagged bodies: each channel puts its structures in. */
const recordsUnpackr = new Unpackr({
  sequential: true,
  structures: [],
  int64AsType: 'bigint',
  copyBuffers: true,
  shapeOf,
  chainsOf
})
// An unflagged body that defines a record structure fails here, since nothing can be added
plainUnpackr.structures = Object.freeze([]) as unknown as Structures

/** One channel's encodings: its record tables live here. */
export class Codec {
  /** Both hellos have listed the feature `records`. */
  records = false
  /** The longest body that can be sent. Only arrays that exceed it by themselves are refused here. */
  limit = NO_LIMIT
  #table: EncodingTable | undefined
  #structures: Structures | undefined
  #checked: Structures | undefined

  /**
   * Encodes a value into `slab` from `position` on if it fits there, else into a buffer of its own. `final`: the body's place in
   * the stream is settled. Descriptors are collected, not moved. Throws ERR_PASSFD_ENCODE and the errors of unusable descriptors.
   */
  encode(value: unknown, final: boolean, slab?: Buffer, position = 0): Encoded {
    call.limit = this.limit
    if (!this.records) return pack(plainPackr, value, 0, slab, position)
    if (!final) return pack(detachedPackr, value, RECORDS, slab, position)
    this.#table ??= new EncodingTable()
    const table = this.#table
    const given = value
    if (slab !== undefined) {
      if (table.packFlat(value, slab, position)) return outcome
      value = takeInstead(value)
    }
    try {
      pack(table.begin(), value, RECORDS, slab, position, given)
    } catch (error) {
      this.#table = undefined // definitions may be in it that were never sent
      throw error
    }
    if (!table.fits()) {
      this.#table = undefined
      call.limit = this.limit
      return pack(detachedPackr, value, RECORDS, slab, position, given)
    }
    table.learn()
    outcome.streamed = true
    return outcome
  }

  /**
   * The same for a body that waits, or that may overtake one that does: a flat one uses the definitions that were sent, and none adds any.
   * Not others, as msgpackr tells only afterwards what it has defined, and getters are called once.
   */
  encodeKnown(value: unknown, slab: Buffer, position: number): Encoded {
    if (!this.records || this.#table === undefined) return this.encode(value, false, slab, position)
    if (this.#table.packFlat(value, slab, position)) return outcome
    call.limit = this.limit
    return pack(detachedPackr, takeInstead(value), RECORDS, slab, position, value)
  }

  /** Whether the body that was just encoded may define records that later ones use. */
  get defines(): boolean {
    return outcome.streamed && this.#table?.added === true
  }

  /** Decodes the body of a frame whose `count` descriptors never came, for its record definitions only. */
  learn(bytes: Buffer, start: number, end: number, count: number): void {
    this.decode(bytes, start, end, true, placesFor(count), false)
  }

  /** The body that was just encoded will not be sent after all: nor will the record definitions in it. */
  forget(): void {
    if (this.#table?.added) this.#table = undefined
  }

  /**
   * Decodes a body. Each of `received` must be used exactly once. `own`: the buffer is the message's alone, so binary values may be views of it.
   * Throws ERR_PASSFD_UNDECODABLE, or ERR_PASSFD_DESCRIPTOR_COUNT when the indexes are wrong.
   */
  decode(
    bytes: Buffer,
    start: number,
    end: number,
    flagged: boolean,
    received: readonly Descriptor[],
    own: boolean
  ): unknown {
    if (flagged && !this.records)
      throw new PassfdError('UNDECODABLE', { detail: 'it uses records, which were not agreed on' })
    if (start === end) throw new PassfdError('UNDECODABLE', { detail: 'it is empty' })
    if (!flagged) return unpack(plainUnpackr, bytes, start, end, false, received, own)
    this.#structures ??= roomForFew()
    recordsUnpackr.structures = this.#structures
    const value = unpack(recordsUnpackr, bytes, start, end, true, received, own)
    if (end - start > MAX_RECORD_KEYS) this.#checkStructures(this.#structures)
    return value
  }

  /** Keeps what a peer makes us remember small; a body too short to hold too big a definition needs no look. */
  #checkStructures(structures: Structures): void {
    this.#checked ??= []
    const checked = this.#checked
    for (let id = 0; id < ALL_RECORDS; id++) {
      const structure = structures[id]
      if (structure === checked[id]) continue
      if (tooBig(structure)) {
        if (id < STREAMED_RECORDS)
          throw new PassfdError('UNDECODABLE', { detail: 'it defines a record with too many keys' })
        structures[id] = undefined
      } else checked[id] = structure
    }
  }
}

/** What stands for descriptors that are not here. */
function placesFor(count: number): Descriptor[] {
  return Array.from({ length: count }, (_, index) => new Place(index)) as unknown as Descriptor[]
}

/** Re-encodes the body of a detached encoding as plain msgpack, for a peer that turned out not to know records. */
export function detachedToPlain(
  bytes: Buffer,
  start: number,
  end: number,
  count: number,
  missing: readonly Hole[]
): Encoded {
  const places = placesFor(count)
  const whole = missing.length === 0 ? bytes.subarray(start, end) : fillHoles(bytes.subarray(start, end), missing)
  recordsUnpackr.structures = roomForFew()
  const value = unpack(recordsUnpackr, whole, 0, whole.length, true, places, true)
  call.limit = NO_LIMIT // it is checked afterwards
  return pack(plainPackr, value, 0)
}

function fillHoles(body: Buffer, missing: readonly Hole[]): Buffer {
  if (missing.some(isLost)) throw lostError()
  const parts: Uint8Array[] = []
  let from = 0
  for (const { at, bytes } of missing) {
    parts.push(body.subarray(from, at), bytes)
    from = at
  }
  return Buffer.concat([...parts, body.subarray(from)])
}

/** True inside getters and toJSON() of a value that is being encoded: nothing else can be encoded then. */
export function isEncoding(): boolean {
  return encoding
}

/** Getters and toJSON() of a value can't send another one: they are called in the middle of the outgoing buffer. */
export function refuseNested(): void {
  if (encoding) throw new PassfdError('ENCODE', { detail: 'a getter or toJSON() inside it sends a message itself' })
}

/** The Descriptors that the last encoding has met, in its order; if it failed, those before the reason. */
export function takeMet(): readonly Descriptor[] {
  const found = collected
  collected = NO_DESCRIPTORS
  return found
}

/** A small map for hello, fault and goodbye: always plain. */
export function encodePlain(value: unknown, slab?: Buffer, position = 0, limit = NO_LIMIT): Encoded {
  call.limit = limit
  return pack(plainPackr, value, 0, slab, position)
}

/** Decodes a hello, fault or goodbye. */
export function decodePlain(bytes: Buffer, start: number, end: number): unknown {
  return start === end ? undefined : unpack(plainUnpackr, bytes, start, end, false, NO_DESCRIPTORS, false)
}

/** `given`: what `value` stands for, in an error. */
function pack(
  packr: Packr,
  value: unknown,
  flags: number,
  slab?: Buffer,
  position = 0,
  given: unknown = value
): Encoded {
  refuseNested()
  const into = slab ?? (scratch ??= Buffer.allocUnsafeSlow(65536))
  encoding = true
  call.descriptors = NO_DESCRIPTORS
  call.holes = NO_HOLES
  call.holeBytes = 0
  countSteps()
  call.target = into
  state.longest = call.limit.bytes
  call.frameStart = (position + 7) & ~7
  try {
    if (attached !== into) {
      packr.useBuffer(into)
      attached = into
    }
    packr.position = position
    const packed = packr.pack(value, PACK_MODE)
    const { start, end } = packed
    // It did not fit: msgpackr has gone on in a buffer of its own
    if (!Object.is(packed, into)) attached = undefined
    outcome.bytes = packed
    outcome.start = start
    outcome.end = end
    outcome.flags = flags
    outcome.length = end - start - HEADER
    outcome.descriptors = call.descriptors
    outcome.holes = call.holes
    outcome.streamed = false
    if (call.holes.length > 0) outcome.length += lengthOfHoles()
    if (flags === RECORDS && tooManySteps(outcome.length)) throw new Refusal(KEYS_COLLIDE)
    return outcome
  } catch (error) {
    attached = undefined
    throw encodeError(error, given, value)
  } finally {
    encoding = false
    call.limit = NO_LIMIT
    collected = call.descriptors
  }
}

/** A getter may have taken the memory of a buffer away that stands before it. */
function lengthOfHoles(): number {
  let length = 0
  for (const { bytes } of call.holes) length += bytes.byteLength
  if (length !== call.holeBytes)
    throw new Refusal('changes while it is encoded: the memory of a buffer in it was transferred or made shorter')
  return length
}

function unpack(
  unpackr: Unpackr,
  bytes: Buffer,
  start: number,
  end: number,
  flagged: boolean,
  received: readonly Descriptor[],
  own: boolean
): unknown {
  call.arrived = received
  call.used = 0
  if (received.length > 1) call.usedOnce = new Array(received.length).fill(false)
  call.records = flagged
  call.owned = own
  allowSteps(end - start)
  unpackr.copyBuffers = !own
  range.start = start
  range.end = end
  let value: unknown
  try {
    value = unpackr.unpack(bytes, range)
  } catch (error) {
    throw error instanceof PassfdError
      ? error
      : new PassfdError('UNDECODABLE', { detail: reason(error) }, { cause: error })
  } finally {
    call.arrived = NO_DESCRIPTORS
  }
  if (call.used !== received.length)
    throw new PassfdError('DESCRIPTOR_COUNT', {
      detail: `${received.length} came with the frame, ${call.used} stand in the body`
    })
  if (end - start > MAX_DEPTH && !shallow(value, MAX_DEPTH))
    throw new PassfdError('UNDECODABLE', { detail: `it is nested deeper than ${MAX_DEPTH}` })
  return value
}

/** The shapes that one channel's peer has been told of. All tables take turns at one Packr. */
class EncodingTable {
  readonly #structures: Structures = roomForFew()
  readonly #recordIds = shortRing()
  #nextId = FIRST_ID
  #last: string[] | undefined
  /** The last body has defined shapes. */
  added = false
  /** Some of those in use, for `writeFlat`. */
  #shapes: readonly Shape[] | undefined

  /** The Packr for the next body, which must be packed now. */
  begin(): Packr {
    streamedPackr.structures = this.#structures
    streamedPackr.recordIds = this.#recordIds
    return streamedPackr
  }

  /** Packs a flat object of a known shape. If false, `takeInstead()` is to be packed by msgpackr. */
  packFlat(value: unknown, into: Buffer, position: number): boolean {
    const start = (position + 7) & ~7
    if (this.#shapes === undefined || into.length - start < FLAT_ROOM) return false
    refuseNested()
    encoding = true // even to look for its shape can call what is the program's: the traps of a Proxy, a getter named constructor
    call.descriptors = NO_DESCRIPTORS
    try {
      const shape = this.#shapeOf(value)
      if (shape === undefined) return false
      const end = writeFlat(value as object, shape, into, start + HEADER)
      if (end < 0) return false
      outcome.bytes = into
      outcome.start = start
      outcome.end = end
      outcome.flags = RECORDS
      outcome.length = end - start - HEADER
      outcome.descriptors = call.descriptors
      outcome.holes = NO_HOLES
      outcome.streamed = true
      this.added = false
      return true
    } catch (error) {
      throw encodeError(error, value)
    } finally {
      encoding = false
      collected = call.descriptors
    }
  }

  /** Remembers the shape of what was packed last, if that is a record. */
  learn(): void {
    const { bytes, start } = outcome
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
  fits(): boolean {
    const structures = this.#structures
    const nextId = structures.nextId ?? FIRST_ID
    const before = this.#nextId
    const all = structures[slotBefore(before)] !== this.#last // more than there is room for: they have replaced each other
    this.added = nextId !== before || all
    if (!this.added) return true
    const count = all ? STREAMED_RECORDS : (nextId - before + STREAMED_RECORDS) % STREAMED_RECORDS
    for (let i = 0; i < count; i++) if (tooBig(structures[slotBefore(nextId - i)])) return false
    this.#nextId = nextId
    this.#last = structures[slotBefore(nextId)]
    return true
  }
}

/** Holds an entry that stands for nothing: it is the first to leave a full ring, and until then the array stays short. */
function shortRing(): object[] {
  const ring: object[] = [{}, {}, {}]
  ring.length = 1
  return ring
}

/** Where the shape stands that was defined before the one that gets this id. */
function slotBefore(id: number): number {
  return (id - FIRST_ID - 1 + 2 * STREAMED_RECORDS) % STREAMED_RECORDS
}

/** Most peers know a shape or two: what is pushed into an empty array makes room for 17. */
function roomForFew<T>(): (T | undefined)[] {
  return [undefined, undefined]
}

function tooBig(structure: string[] | undefined): boolean {
  if (structure === undefined) return false
  // Typed arrays have a map(), so msgpackr takes them for lists of keys
  if (!Array.isArray(structure) || structure.length > MAX_RECORD_KEYS) return true
  let size = structure.length
  for (const key of structure) size += Buffer.byteLength(key)
  return size > MAX_RECORD_BYTES
}

/** True if nothing in a decoded value stands deeper than `depth`. Only what holds other values counts, as for the encoder. */
function shallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  if (Array.isArray(value)) {
    if (depth === 0) return false
    for (const item of value) if (!shallow(item, depth - 1)) return false
  } else if (value instanceof Map) {
    if (depth === 0) return false
    for (const [key, item] of value) if (!shallow(key, depth - 1) || !shallow(item, depth - 1)) return false
  } else if (value instanceof Set) {
    if (depth === 0) return false
    for (const item of value) if (!shallow(item, depth - 1)) return false
  } else if (isPlain(value)) {
    if (depth === 0) return false
    for (const key in value) if (!shallow((value as Record<string, unknown>)[key], depth - 1)) return false
  }
  return true
}

/** What is written as a record: an object with the prototype of a plain one, whatever its slots. */
function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}

function reason(error: unknown): string {
  const text = textOf(error)
  if (propertyOf(error, 'name') === 'RangeError' && /call stack/i.test(text)) return 'it is nested too deep'
  return text.slice(0, 200)
}
