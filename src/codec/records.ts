/** The reading of bodies with record structures, and what it keeps of them. */
import { PassfdError } from '../base/errors.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Body } from './frame.ts'
import { chainsOf } from './key-chains.ts'
import { type Structures, Unpackr } from './msgpackr/pack.js'
import { unpack } from './pack.ts'

/** What a kept record definition may hold: keys, and bytes of keys (each key counts one more). */
const MAX_RECORD_KEYS = 256
const MAX_RECORD_BYTES = 4096
/** Ids of structures that last for the channel come first, those of detached bodies after. */
export const STREAMED_RECORDS = 32
export const ALL_RECORDS = 64

/** For flagged bodies: each channel puts its structures in. */
const recordsUnpackr = new Unpackr({
  sequential: true,
  structures: [],
  int64AsType: 'bigint',
  copyBuffers: true,
  shapeOf,
  chainsOf
})

/** Decodes a flagged body that uses no definitions but its own, unless `structures` are given. */
export function unpackRecords(
  body: Body,
  received: readonly Descriptor[],
  structures: Structures = roomForFew()
): unknown {
  recordsUnpackr.structures = structures
  return unpack(recordsUnpackr, body, received)
}

/** The record structures that a peer has defined. */
export class PeerRecords {
  readonly #structures: Structures = roomForFew()
  #checked: Structures | undefined

  /** Decodes a flagged body. What it defines is kept for later ones. */
  unpack(body: Body, received: readonly Descriptor[]): unknown {
    const value = unpackRecords(body, received, this.#structures)
    if (body.end - body.start > MAX_RECORD_KEYS) this.#check()
    return value
  }

  /** Keeps what a peer makes us remember small; a body too short to hold too big a definition needs no look. */
  #check(): void {
    this.#checked ??= []
    const checked = this.#checked
    const structures = this.#structures
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

/** The length of what `roomForFew` gives. */
export const FEW = 2

/** Most peers use one or two shapes, but a push into an empty array reserves room for 17. */
export function roomForFew<T>(): (T | undefined)[] {
  return [undefined, undefined]
}

/** Whether a definition is too big to be kept. */
export function tooBig(structure: string[] | undefined): boolean {
  if (structure === undefined) return false
  // Typed arrays have a map(), so msgpackr takes them for lists of keys
  if (!Array.isArray(structure) || structure.length > MAX_RECORD_KEYS) return true
  let size = structure.length
  for (const key of structure) size += Buffer.byteLength(key)
  return size > MAX_RECORD_BYTES
}

const MAX_SHAPES = 256
const MAX_SHAPE_KEYS = 32
const MAX_SHAPE_LENGTH = 512
const shapes = new Map<string, string[]>()

/** One list of keys, with the reader compiled for it, for all channels that are sent the same. Large ones are each channel's own. */
export function shapeOf(keys: string[], secondByte: number | undefined): string[] {
  if (secondByte !== undefined)
    throw new PassfdError('UNDECODABLE', { detail: 'it defines a record whose id has two bytes' })
  if (!Array.isArray(keys) || keys.length > MAX_SHAPE_KEYS) return keys
  const name = JSON.stringify(keys)
  if (name.length > MAX_SHAPE_LENGTH) return keys
  const known = shapes.get(name)
  if (known !== undefined) return known
  if (shapes.size === MAX_SHAPES) shapes.clear() // those in use live on in their channels
  shapes.set(name, keys)
  return keys
}
