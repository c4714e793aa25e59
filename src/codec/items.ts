/** How many values a body of msgpack has, at every depth: each costs the decoder time and memory, however few bytes it has. */

/** Bytes behind the first one, for the types 0xc0 to 0xdb; of `bin`, `ext` and `str` those of their length. */
const BEHIND = [
  ...[0, 0, 0, 0], // nil, unused, false, true
  ...[1, 2, 4, 1, 2, 4], // bin, ext
  ...[4, 8, 1, 2, 4, 8, 1, 2, 4, 8], // float, uint, int
  ...[2, 3, 5, 9, 17], // fixext
  ...[1, 2, 4] // str
]
/** What an array or a map counts. */
export const CONTAINER = 32
const FIRST_MAP = 0x80
const FIRST_STR = 0xa0
const NIL = 0xc0
const BIN8 = 0xc4
const EXT8 = 0xc7
const EXT32 = 0xc9
const FIXEXT1 = 0xd4
const FIXEXT16 = 0xd8
const STR8 = 0xd9
const STR32 = 0xdb
const ARRAY16 = 0xdc
const MAP32 = 0xdf

/**
 * Whether a body has more values than `most`. It looks at no more than that, and at no bytes outside [start, end). What is no msgpack the decoder refuses.
 * An array or a map counts as `CONTAINER` values, because it takes as much memory. Each byte in an extension counts, because its bytes may be values.
 */
export function hasMoreValues(bytes: Buffer, start: number, end: number, most: number): boolean {
  let count = 0
  for (let at = start; at < end; ) {
    if (++count > most) return true
    const type = bytes[at++]!
    if (type >= FIRST_MAP && type < FIRST_STR) count += CONTAINER - 1
    else if (type >= FIRST_STR && type < NIL) at += type & 0x1f
    else if (type >= FIXEXT1 && type <= FIXEXT16) {
      at += BEHIND[type - NIL]!
      count += BEHIND[type - NIL]!
    } else if (type >= NIL && type <= STR32) {
      const behind = BEHIND[type - NIL]!
      const isExt = type >= EXT8 && type <= EXT32
      if (isExt || (type >= BIN8 && type < EXT8) || type >= STR8) {
        if (at + behind > end) return false
        const length = bytes.readUIntBE(at, behind) + (isExt ? 1 : 0)
        at += length
        if (isExt) count += length
      }
      at += behind
    } else if (type >= ARRAY16 && type <= MAP32) {
      at += (type & 1) === 0 ? 2 : 4
      count += CONTAINER - 1
    }
  }
  return count > most
}
