/** Values of bodies in the notation of docs/vectors.json, by a decoder that shares no code with passfd's. */

/**
 * null, booleans, strings and arrays are themselves; a number is an integer of msgpack below 2^53. Everything else is an object with one
 * meaning: see docs/protocol.md, "Test vectors".
 */
export type Notation =
  | null
  | boolean
  | number
  | string
  | Notation[]
  | { integer: string }
  | { float: string }
  | { bytes: string }
  | { map: [Notation, Notation][] }
  | { descriptor: number }
  | { connection: number; unread: string }
  | { seconds: string; nanoseconds: number }

const LARGEST = 2n ** 53n

/** The value of a well-formed body. */
export function notationOf(body: Buffer): Notation {
  let at = 0
  const number = (size: number, signed: boolean): bigint => {
    let value = 0n
    for (const byte of body.subarray(at, at + size)) value = (value << 8n) | BigInt(byte)
    at += size
    return signed ? BigInt.asIntN(8 * size, value) : value
  }
  const bytes = (length: number): Buffer => body.subarray(at, (at += length))
  const integer = (value: bigint): Notation =>
    value > -LARGEST && value < LARGEST ? Number(value) : { integer: String(value) }
  const list = (length: number): Notation[] => Array.from({ length }, item)
  const map = (length: number): Notation => ({ map: Array.from({ length }, () => [item(), item()]) })
  const float = (value: number): Notation => ({ float: Object.is(value, -0) ? '-0' : String(value) })
  const extension = (length: number): Notation => {
    const type = bytes(1).readInt8(0)
    const content = bytes(length)
    if (type === 70) return { descriptor: content[0]! }
    if (type === 67) return { connection: content[0]!, unread: content.toString('hex', 1) }
    if (type !== -1) throw new Error(`extension ${type}`)
    if (length === 4) return { seconds: String(content.readUInt32BE(0)), nanoseconds: 0 }
    if (length === 12) return { seconds: String(content.readBigInt64BE(4)), nanoseconds: content.readUInt32BE(0) }
    const both = content.readBigUInt64BE(0)
    return { seconds: String(both & (2n ** 34n - 1n)), nanoseconds: Number(both >> 34n) }
  }
  function item(): Notation {
    const first = body[at++]!
    if (first < 0x80) return first
    if (first < 0x90) return map(first & 15)
    if (first < 0xa0) return list(first & 15)
    if (first < 0xc0) return bytes(first & 31).toString()
    if (first >= 0xe0) return first - 256
    const size = (from: number): number => Number(number(1 << (first - from), false))
    if (first === 0xc0) return null
    if (first === 0xc2 || first === 0xc3) return first === 0xc3
    if (first <= 0xc6) return { bytes: bytes(size(0xc4)).toString('hex') }
    if (first <= 0xc9) return extension(size(0xc7))
    if (first === 0xca) return float(bytes(4).readFloatBE(0))
    if (first === 0xcb) return float(bytes(8).readDoubleBE(0))
    if (first <= 0xcf) return integer(number(1 << (first - 0xcc), false))
    if (first <= 0xd3) return integer(number(1 << (first - 0xd0), true))
    if (first <= 0xd8) return extension(1 << (first - 0xd4))
    if (first <= 0xdb) return bytes(size(0xd9)).toString()
    if (first <= 0xdd) return list(size(0xdb))
    return map(size(0xdd))
  }
  const value = item()
  if (at !== body.length) throw new Error(`${body.length - at} bytes are left`)
  return value
}
