/**
 * The calls of msgpackr: one value to a body, one body to a value. passfd has its own instance of msgpackr (scripts/msgpackr.mjs makes it), with
 * the extensions of the protocol only. msgpackr's pack target and extension table are globals of its module, so in a shared instance another
 * user of msgpackr could write into passfd's buffers and change the wire.
 */
import { PassfdError, propertyOf, textOf } from '../base/errors.ts'
import { MAX_DEPTH } from '../base/kernel-limits.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { call, NOTHING } from './codec-in-progress.ts'
import { checkKeys, checkSlots, isPlain, unfit } from './encodable.ts'
import { type Encoded, NO_DESCRIPTORS, NO_LIMIT } from './encoded.ts'
import { addExtensions } from './extensions.ts'
import { type Body, HEADER, RECORDS } from './frame.ts'
import { allowSteps, countSteps, KEYS_COLLIDE, tooManySteps } from './key-chains.ts'
import { type Packr, RESERVE_START_SPACE, REUSE_BUFFER_MODE, state, type Unpackr, useHooks } from './msgpackr/pack.js'
import { packerOf } from './packers.ts'
import { changed, encodeError, Refusal, tooDeep, within } from './refusal.ts'

const PACK_MODE = REUSE_BUFFER_MODE | RESERVE_START_SPACE | HEADER

/** The buffer that msgpackr packs into at the moment, if it is one of passfd's. */
let packBuffer: Buffer | undefined

/**
 * Packs a value into `encoded`, which has begun. The caller has made sure that nothing else is being encoded. `given`: what `value` stands
 * for, in an error. Throws ERR_PASSFD_ENCODE and the errors of unusable descriptors.
 */
export function pack(
  packr: Packr,
  value: unknown,
  flags: number,
  encoded: Encoded,
  limit = NO_LIMIT,
  given = value
): Encoded {
  const into = encoded.bytes
  call.encoded = encoded
  call.holeBytes = 0
  call.limit = limit
  countSteps()
  state.longest = limit.bytes
  try {
    if (packBuffer !== into) {
      packr.useBuffer(into)
      packBuffer = into
    }
    packr.position = encoded.start
    const packed = packr.pack(value, PACK_MODE)
    // It did not fit: msgpackr has gone on in a buffer of its own
    if (!Object.is(packed, into)) packBuffer = undefined
    encoded.finish(packed, packed.start, packed.end, flags)
    if (encoded.holes.length > 0) encoded.length += lengthOfHoles(encoded)
    if (flags === RECORDS && tooManySteps(encoded.length)) throw new Refusal(KEYS_COLLIDE)
    return encoded
  } catch (error) {
    packBuffer = undefined
    throw encodeError(error, given, value)
  } finally {
    call.encoded = NOTHING
    call.limit = NO_LIMIT
  }
}

/** A getter may have taken the memory of a buffer away that stands before it. */
function lengthOfHoles({ holes }: Encoded): number {
  let length = 0
  for (const { bytes } of holes) length += bytes.byteLength
  if (length !== call.holeBytes)
    throw new Refusal('changes while it is encoded: the memory of a buffer in it was transferred or made shorter')
  return length
}

/** Decodes a body. Each of `received` must be used exactly once. Throws ERR_PASSFD_UNDECODABLE, or ERR_PASSFD_DESCRIPTOR_COUNT. */
export function unpack(unpackr: Unpackr, body: Body, received: readonly Descriptor[]): unknown {
  const size = body.end - body.start
  call.arrived = received
  call.used = 0
  if (received.length > 1) call.usedOnce = new Array(received.length).fill(false)
  call.records = (body.flags & RECORDS) !== 0
  call.owned = body.owned
  allowSteps(size)
  unpackr.copyBuffers = !body.owned
  let value: unknown
  try {
    value = unpackr.unpack(body.bytes, body)
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
  if (size > MAX_DEPTH && !shallow(value, MAX_DEPTH))
    throw new PassfdError('UNDECODABLE', { detail: `it is nested deeper than ${MAX_DEPTH}` })
  return value
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

function reason(error: unknown): string {
  const text = textOf(error)
  if (propertyOf(error, 'name') === 'RangeError' && /call stack/i.test(text)) return 'it is nested too deep'
  return text.slice(0, 200)
}

/** An item takes a byte at least, so it can't be sent; to find that out at its end takes seconds if it is long and consists of holes. */
function tooLong(length: number): Refusal {
  const { bytes: limit, whose } = call.limit
  return new Refusal('', undefined, new PassfdError('MESSAGE_TOO_LARGE', { size: `more than ${length}`, whose, limit }))
}

addExtensions()
useHooks({ MAX_DEPTH, packerOf, checkSlots, checkKeys, unfit, changed, tooDeep, tooLong, within })
