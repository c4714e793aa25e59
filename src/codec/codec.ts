/**
 * Values to bodies and back, by msgpackr. Three encodings, all of which a msgpackr decoder understands:
 *
 * - *plain*: standard msgpack; unflagged; for any peer.
 * - *streamed* (flag RECORDS): objects as record structures, ids 0-31, which are valid for the rest of the channel. Only for a body
 *   whose place in the stream is final.
 * - *detached* (flag RECORDS): the same types, but each body defines the structures that it uses, ids 32-63, for itself alone. For bodies
 *   that wait for credit or may overtake one that waits (not for flat ones of a known shape), and for structures that are too big to keep.
 */

import { PassfdError } from '../base/errors.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { refuseNested } from './codec-in-progress.ts'
import { type Encoded, type Limit, NO_LIMIT, type Space } from './encoded.ts'
import { type Body, RECORDS } from './frame.ts'
import { CONTAINER, hasMoreValues } from './items.ts'
import { Packr } from './msgpackr/pack.js'
import { pack } from './pack.ts'
import { placeholdersFor } from './placeholders.ts'
import { plainPackr, unpackPlain } from './plain.ts'
import { RecordTable, WRITTEN } from './record-table.ts'
import { ALL_RECORDS, PeerRecords, STREAMED_RECORDS } from './records.ts'

/** When a body leaves, which decides what record structures it may use; without records all are plain. */
export type Timing =
  /** Its place in the stream is final: it may define structures that last. */
  | 'next'
  /** It waits, or may overtake one that does: a flat one uses structures that were sent, and none defines any that lasts. */
  | 'later'
  /** It may never leave, so it defines what it uses. */
  | 'apart'
  /** As above, before the peer's hello, when it is unknown whether the peer accepts records. */
  | 'early'

/** For bodies that define what they use. */
export const detachedPackr = new Packr({
  useRecords: true,
  moreTypes: true,
  structures: [],
  maxSharedStructures: STREAMED_RECORDS,
  maxOwnStructures: ALL_RECORDS - STREAMED_RECORDS,
  shouldShareStructure: () => false
})

/** One channel's encodings: its record tables live here. */
export class Codec {
  /** Both hellos have listed the feature `records`. */
  records = false
  /** The longest body that can be sent. Only arrays that exceed it by themselves are refused here. */
  limit: Limit = NO_LIMIT
  /** The most values of a received body, at every depth; undefined: no limit. */
  maxValues: number | undefined
  #table: RecordTable | undefined
  #peerRecords: PeerRecords | undefined

  /**
   * Encodes a value into `encoded`: in `space` if it fits there, else in a buffer of its own. Descriptors are collected, not moved. Throws
   * ERR_PASSFD_ENCODE and the errors of unusable descriptors; called by a getter of a value that is being encoded it changes nothing.
   */
  encode(value: unknown, timing: Timing, encoded: Encoded, space?: Space): Encoded {
    refuseNested()
    encoded.begin(space)
    const { limit } = this
    if (!this.records && timing !== 'early') return pack(plainPackr, value, 0, encoded, limit)
    const given = value
    if (timing === 'next') this.#table ??= new RecordTable()
    const table = this.#table
    if (table !== undefined && (timing === 'next' || timing === 'later')) {
      // Not other bodies that wait, because msgpackr reports its definitions only afterwards, and each getter is called once
      if (space !== undefined) value = table.packFlat(value, encoded)
      if (value === WRITTEN) return encoded
      if (timing === 'next') {
        if (this.#packStreamed(table, value, encoded, given)) return encoded
        encoded.begin(space)
      }
    }
    return pack(detachedPackr, value, RECORDS, encoded, limit, given)
  }

  /** False: its definitions are too big to be kept, and it has to be packed again. */
  #packStreamed(table: RecordTable, value: unknown, encoded: Encoded, given: unknown): boolean {
    let kept = false
    try {
      kept = table.pack(value, encoded, this.limit, given)
    } finally {
      if (!kept) this.#table = undefined // definitions may be in it that are never sent
    }
    return kept
  }

  /** The body will not be sent after all: nor will the record definitions in it. */
  forget({ defines }: Encoded): void {
    if (defines) this.#table = undefined
  }

  /** Decodes the body of a frame whose `count` descriptors never came, for its record definitions only. */
  learn(body: Body, count: number): void {
    this.decode(body, placeholdersFor(count))
  }

  /**
   * Decodes a body. Each of `received` must be used exactly once. If the message owns the buffer, binary values may be views of it.
   * Throws ERR_PASSFD_UNDECODABLE, or ERR_PASSFD_DESCRIPTOR_COUNT when the indexes are wrong.
   */
  decode(body: Body, received: readonly Descriptor[]): unknown {
    const flagged = (body.flags & RECORDS) !== 0
    if (flagged && !this.records)
      throw new PassfdError('UNDECODABLE', { detail: 'it uses records, which were not agreed on' })
    if (body.start === body.end) throw new PassfdError('UNDECODABLE', { detail: 'it is empty' })
    const { maxValues } = this
    if (
      maxValues !== undefined &&
      (body.end - body.start) * CONTAINER > maxValues &&
      hasMoreValues(body.bytes, body.start, body.end, maxValues)
    )
      throw new PassfdError('UNDECODABLE', { detail: `it has more than ${maxValues} values` })
    if (!flagged) return unpackPlain(body, received)
    this.#peerRecords ??= new PeerRecords()
    return this.#peerRecords.unpack(body, received)
  }
}
