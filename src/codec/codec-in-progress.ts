/**
 * The one body that is being encoded or decoded on this thread. msgpackr calls packers and extensions without a context, so they find it here.
 * It is set when the call begins and reset when it ends.
 */
import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { assertOpen, type Descriptor } from '../descriptor/descriptor.ts'
import { Encoded, NO_DESCRIPTORS, NO_LIMIT } from './encoded.ts'
import { HEADER } from './frame.ts'
import { Refusal } from './refusal.ts'

/** What the packers find when nothing is being encoded. */
export const NOTHING = new Encoded()

export const call = {
  /** The outcome of the encoding in progress, or NOTHING between the calls. */
  encoded: NOTHING,
  /** How many bytes its holes had when they were left. */
  holeBytes: 0,
  /** The longest body that can be sent. */
  limit: NO_LIMIT,
  /** Decoding: what came with the frame, and how much of it the body has used. */
  arrived: NO_DESCRIPTORS as readonly Descriptor[],
  used: 0,
  usedOnce: [] as boolean[],
  /** The body is flagged: further types are allowed. */
  records: false,
  /** Binary values may be views of the body. */
  owned: false,
  /** Encoding and decoding: indexes of descriptors have four bytes (see wide.ts), and this knows those that were met. */
  wide: undefined as Set<Descriptor> | undefined
}

/** True inside getters and toJSON() of a value that is being encoded: nothing else can be encoded then. */
export function isEncoding(): boolean {
  return call.encoded !== NOTHING
}

/** Getters and toJSON() of a value can't send another one: they are called in the middle of the outgoing buffer. */
export function refuseNested(): void {
  if (isEncoding()) throw new PassfdError('ENCODE', { detail: 'a getter or toJSON() inside it sends a message itself' })
}

/** Gives a descriptor its index in the body. Throws a Refusal if it can't be sent, or not again. */
export function collect(descriptor: Descriptor): number {
  const { encoded } = call
  try {
    assertOpen(descriptor)
    if (call.wide !== undefined) return collectWide(call.wide, descriptor)
    if (encoded.descriptors.length === 0) {
      encoded.descriptors = [descriptor] // most often the only one: what is pushed into an empty array makes room for 17
      return 0
    }
    if (encoded.descriptors.includes(descriptor)) throw new PassfdError('DESCRIPTOR_REPEATED')
    if (encoded.descriptors.length > MAX_RIGHTS)
      throw new PassfdError('TOO_MANY_DESCRIPTORS', {
        count: `more than ${MAX_RIGHTS}`,
        whose: 'the protocol (SCM_MAX_FD, unix(7))',
        limit: MAX_RIGHTS
      })
  } catch (error) {
    throw new Refusal('', undefined, error as PassfdError)
  }
  return encoded.descriptors.push(descriptor) - 1
}

function collectWide(met: Set<Descriptor>, descriptor: Descriptor): number {
  if (met.has(descriptor)) throw new PassfdError('DESCRIPTOR_REPEATED')
  met.add(descriptor)
  return met.size - 1
}

/** Leaves `bytes` out of the body: they belong at `into[at]`. */
export function leaveHole(into: Buffer, at: number, bytes: Uint8Array): void {
  const { encoded } = call
  if (encoded.holes.length === 0) encoded.holes = []
  // msgpackr allocates a buffer of its own when passfd's is full; the frame then begins at its first byte
  const frameStart = into === encoded.bytes ? encoded.start : 0
  encoded.holes.push({ at: at - frameStart - HEADER, bytes, length: bytes.byteLength })
  call.holeBytes += bytes.byteLength
}

/** Returns the descriptor of an index, which is used by that. */
export function arrivedAt(index: number): Descriptor {
  const { arrived, usedOnce } = call
  const descriptor = arrived[index]
  if (descriptor === undefined) refuseIndex(index)
  if (arrived.length === 1 ? call.used > 0 : usedOnce[index])
    throw new PassfdError('DESCRIPTOR_COUNT', { detail: `index ${index} is used twice` })
  usedOnce[index] = true
  call.used++
  return descriptor
}

export function refuseIndex(index: number | undefined): never {
  throw new PassfdError('DESCRIPTOR_COUNT', { detail: `index ${index ?? 'none'} of ${call.arrived.length}` })
}
