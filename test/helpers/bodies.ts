/** Bodies as they stand on the wire, encoded in each of the three ways, and decoded as the wire does. */
import { PassfdError } from '../../src/base/errors.ts'
import { Codec } from '../../src/codec/codec.ts'
import type { Encoded } from '../../src/codec/encoded.ts'
import { HEADER, RECORDS } from '../../src/codec/frame.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { decodeBy, encodeBy } from './codec.ts'

export type Mode = 'plain' | 'streamed' | 'detached'
export const MODES: readonly Mode[] = ['plain', 'streamed', 'detached']
export const UNDECODABLE = 'ERR_PASSFD_UNDECODABLE'
export const DESCRIPTOR_COUNT = 'ERR_PASSFD_DESCRIPTOR_COUNT'

export interface Body {
  bytes: Buffer
  flagged: boolean
  descriptors: Descriptor[]
  holes: number
}

export function newCodec(records: boolean): Codec {
  const codec = new Codec()
  codec.records = records
  return codec
}

/** A copy of what was encoded, as it stands on the wire: without header, binary values in their places. */
export function bodyOf({ bytes, start, end, flags, length, descriptors, holes }: Encoded): Body {
  const packed = Buffer.from(bytes.subarray(start + HEADER, end))
  const parts: Uint8Array[] = []
  let from = 0
  for (const { at, bytes: hole } of holes) {
    parts.push(packed.subarray(from, at), hole)
    from = at
  }
  const body = Buffer.concat([...parts, packed.subarray(from)])
  if (body.length !== length) throw new Error(`length is ${length}, the body has ${body.length}`)
  return { bytes: body, flagged: flags === RECORDS, descriptors, holes: holes.length }
}

const area = Buffer.alloc(1 << 20)

/**
 * Decodes as the wire does. Not `own`: from the middle of a buffer of which the next read makes something else;
 * the bytes behind the body look like the beginning of a long string.
 */
export function decode(codec: Codec, { bytes, flagged, descriptors }: Body, own = false): unknown {
  if (own) return decodeBy(codec, bytes, 0, bytes.length, flagged, descriptors, true)
  const at = 65536 - (bytes.length % 4096)
  if (at + bytes.length + 8 > area.length) throw new Error('the area is too small')
  bytes.copy(area, at)
  area.fill(0xdb, at + bytes.length, at + bytes.length + 8)
  try {
    return decodeBy(codec, area, at, at + bytes.length, flagged, descriptors, false)
  } finally {
    area.fill(0x5a, at, at + bytes.length + 8)
  }
}

/** Encodes in one of the three ways. */
export function encode(codec: Codec, mode: Mode, value: unknown, slab?: Buffer, position?: number): Body {
  codec.records = mode !== 'plain'
  return bodyOf(encodeBy(codec, value, mode === 'streamed', slab, position))
}

/** The code of what it throws. */
export function codeOf(body: () => unknown): string | undefined {
  try {
    body()
    return undefined
  } catch (error) {
    if (!(error instanceof PassfdError)) throw error
    return error.code
  }
}

export function withPool(size: number, body: (pool: readonly Descriptor[]) => void): void {
  const pool = Array.from({ length: size }, () => Descriptor.openSync('/dev/null'))
  try {
    body(pool)
  } finally {
    for (const descriptor of pool) descriptor.close()
  }
}

export function objectOf(keys: number, length: number): Record<string, number> {
  const names = Array.from({ length: keys }, (_, i) => String(i).padStart(length, 'k'))
  return Object.fromEntries(names.map((name, i) => [name, i & 63]))
}

export const decodeHex = (hex: string, count: number, flagged = true): (() => unknown) => {
  return () => {
    const pool = Array.from({ length: count }, () => Descriptor.openSync('/dev/null'))
    try {
      const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex')
      return decodeBy(newCodec(true), bytes, 0, bytes.length, flagged, pool, false)
    } finally {
      for (const descriptor of pool) descriptor.close()
    }
  }
}
