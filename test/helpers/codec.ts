/** Bodies in tests: each encoding has an outcome of its own, and what is decoded stands in no frame. */
import type { Codec, Timing } from '../../src/codec/codec.ts'
import { Encoded } from '../../src/codec/encoded.ts'
import { type Body, RECORDS } from '../../src/codec/frame.ts'
import type { Descriptor } from '../../src/descriptor/descriptor.ts'

/** `final`: the body's place in the stream is settled. It is encoded into `slab` from `position` on, if there is one. */
export function encodeBy(codec: Codec, value: unknown, final: boolean, slab?: Buffer, position = 0): Encoded {
  const timing: Timing = final ? 'next' : 'apart'
  return codec.encode(value, timing, new Encoded(), slab === undefined ? undefined : { slab, slabEnd: position })
}

/** The body `bytes` [start, end). */
export function bodyIn(bytes: Buffer, start: number, end: number, flagged = false, owned = false): Body {
  return { bytes, start, end, flags: flagged ? RECORDS : 0, owned }
}

/** `owned`: binary values may be views of it. */
export function decodeBy(
  codec: Codec,
  bytes: Buffer,
  start: number,
  end: number,
  flagged: boolean,
  received: readonly Descriptor[],
  owned: boolean
): unknown {
  return codec.decode(bodyIn(bytes, start, end, flagged, owned), received)
}
