/** Changes bytes at random, in the ways that have found most faults in parsers: American Fuzzy Lop's, in a shorter list. */
import type { Random } from '../../test/helpers/random.ts'

const BYTES = [0, 1, 0x7f, 0x80, 0xff, 0xc0, 0xc1, 0xd4, 0xdc, 0xdf, 0xc7, 0xc9, 0x20, 0x0a, 0x3d]
const NUMBERS = [0, 1, 0x7f, 0xff, 0x100, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0xffffffff]
const LONGEST = 4096

type Change = (bytes: Buffer, random: Random, others: readonly Buffer[]) => Buffer

function below(random: Random, limit: number): number {
  return random.integer(0, limit - 1)
}

const changes: Change[] = [
  // One bit
  (bytes, random) => {
    const at = below(random, bytes.length)
    bytes[at] = bytes[at]! ^ (1 << below(random, 8))
    return bytes
  },
  // One byte
  (bytes, random) => {
    bytes[below(random, bytes.length)] = below(random, 256)
    return bytes
  },
  (bytes, random) => {
    bytes[below(random, bytes.length)] = BYTES[below(random, BYTES.length)]!
    return bytes
  },
  // A little more or less
  (bytes, random) => {
    const at = below(random, bytes.length)
    bytes[at] = bytes[at]! + below(random, 9) - 4
    return bytes
  },
  // A number of two or four bytes, in both orders
  (bytes, random) => {
    const size = random.chance(0.5) ? 2 : 4
    if (bytes.length < size) return bytes
    const at = below(random, bytes.length - size + 1)
    const number = NUMBERS[below(random, NUMBERS.length)]! & (2 ** (8 * size) - 1)
    if (random.chance(0.5)) bytes.writeUIntLE(number >>> 0, at, size)
    else bytes.writeUIntBE(number >>> 0, at, size)
    return bytes
  },
  // Some bytes less
  (bytes, random) => {
    const at = below(random, bytes.length)
    const end = at + 1 + below(random, Math.min(16, bytes.length - at))
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)])
  },
  // Some bytes again
  (bytes, random) => {
    const at = below(random, bytes.length)
    const end = at + 1 + below(random, Math.min(64, bytes.length - at))
    return Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)])
  },
  // New bytes
  (bytes, random) => {
    const at = below(random, bytes.length + 1)
    const fresh = Buffer.from(Array.from({ length: 1 + below(random, 8) }, () => below(random, 256)))
    return Buffer.concat([bytes.subarray(0, at), fresh, bytes.subarray(at)])
  },
  // The beginning of one, the end of another one
  (bytes, random, others) => {
    const other = others[below(random, others.length)]!
    return Buffer.concat([bytes.subarray(0, below(random, bytes.length)), other.subarray(below(random, other.length))])
  },
  // The end is missing
  (bytes, random) => bytes.subarray(0, below(random, bytes.length))
]

/** One of `others`, changed once or some times. */
export function mutant(others: readonly Buffer[], random: Random): Buffer {
  let bytes = Buffer.from(others[below(random, others.length)]!)
  const count = 1 + below(random, random.chance(0.1) ? 24 : 4)
  for (let turn = 0; turn < count; turn++) {
    if (bytes.length === 0) return Buffer.of(below(random, 256))
    bytes = changes[below(random, changes.length)]!(bytes, random, others) as typeof bytes
  }
  return bytes.subarray(0, LONGEST)
}
