/**
 * Wide bodies: any number of descriptors, for values that are cut into parts of several messages. The encoding is the detached one of codec.ts, but
 * indexes of extensions 70 and 67 have four bytes, little-endian.
 */
import type { Descriptor } from '../descriptor/descriptor.ts'
import { detachedPackr } from './codec.ts'
import { call, refuseNested } from './codec-in-progress.ts'
import { Encoded } from './encoded.ts'
import { HEADER, RECORDS } from './frame.ts'
import { pack } from './pack.ts'
import { unpackRecords } from './records.ts'

export interface Wide {
  readonly bytes: Buffer
  /** In the order of their indexes. They are not moved. */
  readonly descriptors: readonly Descriptor[]
}

/** Throws ERR_PASSFD_ENCODE, and the errors of unusable descriptors. */
export function encodeWide(value: unknown): Wide {
  refuseNested()
  const descriptors = new Set<Descriptor>()
  const encoded = new Encoded()
  encoded.begin(undefined)
  call.wide = descriptors
  try {
    pack(detachedPackr, value, RECORDS, encoded)
    return { bytes: withHoles(encoded), descriptors: [...descriptors] }
  } finally {
    call.wide = undefined
  }
}

/** Each of `received` must be used exactly once. Throws ERR_PASSFD_UNDECODABLE, ERR_PASSFD_DESCRIPTOR_COUNT. */
export function decodeWide(bytes: Buffer, received: readonly Descriptor[]): unknown {
  call.wide = new Set()
  try {
    return unpackRecords({ bytes, start: 0, end: bytes.length, flags: RECORDS, owned: true }, received)
  } finally {
    call.wide = undefined
  }
}

/** A copy of the body, with the bytes that were left out. */
export function withHoles({ bytes, start, end, holes }: Encoded): Buffer {
  const body = bytes.subarray(start + HEADER, end)
  const parts: Uint8Array[] = []
  let from = 0
  for (const { at, bytes: hole } of holes) {
    parts.push(body.subarray(from, at), hole)
    from = at
  }
  return Buffer.concat([...parts, body.subarray(from)])
}
