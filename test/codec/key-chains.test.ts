/** Numbers and bigints that V8 puts into one chain of a hash table: what they may cost us, and what is never refused for it. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { Codec } from '../../src/codec/codec.ts'
import { HEADER } from '../../src/codec/frame.ts'
import { hashOf } from '../../src/codec/key-chains.ts'
import { decodeBy, encodeBy } from '../helpers/codec.ts'
import { isFull, times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'

const MASK = (1n << 64n) - 1n

/** V8's ComputeLongHash, written with bigints. */
function longHash(key: bigint): number {
  let hash = key
  hash = (~hash + (hash << 18n)) & MASK
  hash ^= hash >> 31n
  hash = (hash * 21n) & MASK
  hash ^= hash >> 11n
  hash = (hash + (hash << 6n)) & MASK
  hash ^= hash >> 22n
  return Number(hash & 0x3fffffffn)
}

/** V8's ComputeUnseededHash, written with bigints. */
function integerHash(key: number): number {
  const mask = 0xffffffffn
  let hash = BigInt(key >>> 0)
  hash = (~hash + (hash << 15n)) & mask
  hash ^= hash >> 12n
  hash = (hash + (hash << 2n)) & mask
  hash ^= hash >> 4n
  hash = (hash * 2057n) & mask
  hash ^= hash >> 16n
  return Number(hash & 0x3fffffffn)
}

/** The first `count` keys of a sequence that V8 puts into few chains. */
function colliding<T extends number | bigint>(count: number, make: (index: number) => T, mask = 0xfff): T[] {
  const found: T[] = []
  for (let i = 0; found.length < count; i++) {
    const key = make(i)
    if ((hashOf(key) & mask) === 0) found.push(key)
  }
  return found
}

function bodyOf(value: unknown): Buffer {
  const codec = new Codec()
  codec.records = true
  const { bytes, start, end } = encodeBy(codec, value, true)
  return Buffer.from(bytes.subarray(start + HEADER, end))
}

function decode(body: Buffer): unknown {
  const codec = new Codec()
  codec.records = true
  return decodeBy(codec, body, 0, body.length, true, [], true)
}

/** What a hostile peer sends: it does not look at the keys. */
function hostile(kind: 'Map' | 'Set', keys: readonly (number | bigint)[]): Buffer {
  const whole = bodyOf(keys) // array 16 or 32, then the keys
  const from = keys.length < 0x10000 ? 3 : 5
  const head = Buffer.alloc(5)
  head[0] = kind === 'Set' ? 0xdd : 0xdf
  head.writeUInt32BE(keys.length, 1)
  if (kind === 'Set') return Buffer.concat([Buffer.from([0xd4, 0x73, 0]), head, whole.subarray(from)])
  return Buffer.concat([head, ...keys.flatMap(key => [bodyOf(key), Buffer.from([1])])])
}

const SEQUENCES: [name: string, make: (index: number) => number | bigint][] = [
  ['integers', index => index * 3],
  ['fractions', index => index + 0.5],
  ['negative integers', index => -index - 1],
  ['numbers beyond 32 bits', index => 2 ** 33 + index * 7],
  ['bigints', index => BigInt(index) * 7919n],
  ['long bigints', index => (1n << 70n) + BigInt(index)]
]

test('its hash is the one of V8, as written down with bigints', t => {
  const bytes = new DataView(new ArrayBuffer(8))
  fc.assert(
    fc.property(fc.double({ noNaN: true }), value => {
      bytes.setFloat64(0, value)
      t.is(hashOf(value), (value | 0) === value ? integerHash(value) : longHash(bytes.getBigUint64(0)))
    })
  )
  fc.assert(fc.property(fc.integer(), value => t.is(hashOf(value), integerHash(value))))
  fc.assert(
    fc.property(fc.bigInt(-(1n << 200n), 1n << 200n), value => {
      t.is(hashOf(value), longHash((value < 0n ? -value : value) & MASK))
    })
  )
})

for (const [name, make] of isFull ? SEQUENCES : SEQUENCES.slice(0, 2)) {
  test(`a Map or Set of many ${name} arrives; one of chosen ones is refused at both ends`, t => {
    const many = Array.from({ length: times(4000, 20_000) }, (_, index) => make(index))
    for (const value of [new Set(many), new Map(many.map(key => [key, 1]))])
      t.true(isDeepStrictEqual(decode(bodyOf(value)), value))
    const chosen = colliding(3000, make)
    for (const kind of ['Map', 'Set'] as const) {
      t.throws(() => decode(hostile(kind, chosen)), { code: 'ERR_PASSFD_UNDECODABLE', message: /the same hash/ })
      const value = kind === 'Set' ? new Set(chosen) : new Map(chosen.map(key => [key, { key }]))
      t.throws(() => bodyOf({ value }), { code: 'ERR_PASSFD_ENCODE', message: /the same hash; send an array/ })
      t.true(isDeepStrictEqual(decode(bodyOf([...value])), [...value]), 'an array of them arrives')
      const few = chosen.slice(0, 1000)
      const some = kind === 'Set' ? new Set(few) : new Map(few.map(key => [key, 1]))
      t.true(isDeepStrictEqual(decode(bodyOf(some)), some), 'so few cost little')
    }
  })
}

test('bigints that differ in their high bits alone are chosen ones', t => {
  const prefixes = Array.from({ length: 3000 }, (_, index) => BigInt(index + 1) << 64n)
  t.throws(() => bodyOf(new Set(prefixes)), { code: 'ERR_PASSFD_ENCODE' })
  t.throws(() => decode(hostile('Set', prefixes)), { code: 'ERR_PASSFD_UNDECODABLE' })
  const some = new Set(prefixes.slice(0, 1000))
  t.true(isDeepStrictEqual(decode(bodyOf(some)), some))
})

test('what several collections of a body cost is added up, however they are nested', t => {
  const chosen = colliding(1000, index => index)
  const one = hostile('Map', chosen)
  t.is((decode(one) as Map<number, number>).size, 1000)
  const list = Buffer.concat([Buffer.from([0x98]), ...Array(8).fill(one)])
  t.throws(() => decode(list), { code: 'ERR_PASSFD_UNDECODABLE' })
  const last = one.length - 1
  const nested = Buffer.concat([...Array(8).fill(one.subarray(0, last)), Buffer.from([1])])
  t.throws(() => decode(nested), { code: 'ERR_PASSFD_UNDECODABLE' })
  t.throws(() => bodyOf(Array.from({ length: 8 }, () => new Set(chosen))), { code: 'ERR_PASSFD_ENCODE' })
  // Each body has its own allowance
  for (let i = 0; i < 8; i++) t.is((decode(one) as Map<number, number>).size, 1000)
})

test('a Set is an array of items on the wire, and nothing else that has items', t => {
  for (const items of ['a3616263', '8101 01', 'd4730091 01', 'd5740101', 'c0'])
    t.throws(() => decode(Buffer.from(`d47300${items.replaceAll(' ', '')}`, 'hex')), { code: 'ERR_PASSFD_UNDECODABLE' })
  t.deepEqual(decode(Buffer.from('d473009101', 'hex')), new Set([1]))
})

test('towards a peer without records such a Map is an object: there is nothing to refuse', t => {
  const codec = new Codec()
  t.notThrows(() => encodeBy(codec, new Map(colliding(3000, index => index).map(key => [key, 1])), true))
})

if (isFull) {
  test('chosen keys are slow in this version of Node: what is guarded against is there', t => {
    const clock = (keys: readonly unknown[]): number => {
      const before = process.cpuUsage()
      for (let i = 0; i < 3; i++) new Set(keys)
      const { user, system } = process.cpuUsage(before)
      return user + system
    }
    for (const [name, make] of SEQUENCES) {
      const chosen = colliding(4000, make)
      const others = Array.from({ length: 4000 }, (_, index) => make(index))
      t.true(clock(chosen) > 3 * clock(others), name)
    }
  })
}
