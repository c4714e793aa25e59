/** Standard msgpack, which every peer understands: hello, fault and goodbye, and all bodies for a peer without records. */
import type { Descriptor } from '../descriptor/descriptor.ts'
import { refuseNested } from './codec-in-progress.ts'
import { Encoded, type Hole, NO_DESCRIPTORS, NO_LIMIT, type Space } from './encoded.ts'
import { type Body, RECORDS } from './frame.ts'
import { chainsOf } from './key-chains.ts'
import { isLost, lostError } from './lost-bytes.ts'
import { Packr, type Structures, Unpackr } from './msgpackr/pack.js'
import { pack, unpack } from './pack.ts'
import { placeholdersFor } from './placeholders.ts'
import { shapeOf, unpackRecords } from './records.ts'

export const plainPackr = new Packr({
  useRecords: false,
  moreTypes: false,
  encodeUndefinedAsNil: true,
  variableMapSize: true
})
const plainUnpackr = new Unpackr({
  useRecords: false,
  mapsAsObjects: true,
  int64AsType: 'auto',
  copyBuffers: true,
  shapeOf,
  chainsOf
})
// An unflagged body that defines a record structure fails here, since nothing can be added
plainUnpackr.structures = Object.freeze([]) as unknown as Structures

/** A small map for hello, fault and goodbye. */
export function encodePlain(value: unknown, space?: Space, limit = NO_LIMIT): Encoded {
  refuseNested()
  const encoded = new Encoded()
  encoded.begin(space)
  return pack(plainPackr, value, 0, encoded, limit)
}

/** Decodes a hello, fault or goodbye. */
export function decodePlain(body: Body): unknown {
  return body.start === body.end ? undefined : unpackPlain(body, NO_DESCRIPTORS)
}

/** Decodes an unflagged body. */
export function unpackPlain(body: Body, received: readonly Descriptor[]): unknown {
  return unpack(plainUnpackr, body, received)
}

/** Encodes the body of a detached encoding anew, as plain msgpack, for a peer that turned out not to know records. `holes`: what it left out. */
export function detachedToPlain(body: Buffer, count: number, holes: readonly Hole[]): Encoded {
  const whole = holes.length === 0 ? body : fillHoles(body, holes)
  const range = { bytes: whole, start: 0, end: whole.length, flags: RECORDS, owned: true }
  const value = unpackRecords(range, placeholdersFor(count))
  refuseNested()
  const encoded = new Encoded()
  encoded.begin(undefined)
  return pack(plainPackr, value, 0, encoded) // its length is checked afterwards
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
