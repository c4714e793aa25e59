/** Arbitrary values that a channel can carry, and how to compare what came of them. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { Connection, connectionOf, descriptorOf } from '../../src/connection/connection.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { codePoint } from './code-point.ts'

/** Stands in a generated value where `place` puts a Descriptor. */
const PLACE = Symbol('place')

/** The same for a Connection, and the bytes that it has. */
class ConnectionPlace {
  readonly head: Buffer
  constructor(head: Buffer) {
    this.head = head
  }
}

const VIEWS = [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array
] as const

/** Names that an encoder or decoder might trip over. */
const AWKWARD_KEYS = [
  '',
  '__keys__',
  'hasOwnProperty',
  'length',
  'then',
  'map',
  'constructor',
  'a b',
  '\u0000',
  'é',
  '0',
  '7'
]
const key = fc
  .oneof(
    { weight: 6, arbitrary: fc.string({ maxLength: 6 }) },
    { weight: 2, arbitrary: fc.string({ unit: codePoint, maxLength: 40 }) },
    { weight: 2, arbitrary: fc.constantFrom(...AWKWARD_KEYS) }
  )
  .filter(name => name !== '__proto__' && name !== 'toJSON')

const number = fc.oneof(
  fc.integer({ min: -200, max: 300 }),
  fc.maxSafeInteger(),
  fc.integer({ min: -0x80000000, max: 0xffffffff }),
  fc.double().map(value => (value === 0 ? 0 : value)) // -0 arrives as 0
)

/** Strings on both sides of every length that has a header of its own, ASCII and not. */
const string = fc.oneof(
  { weight: 5, arbitrary: fc.string({ unit: codePoint, maxLength: 80 }) },
  {
    weight: 2,
    arbitrary: fc
      .record({
        length: fc.constantFrom(15, 16, 31, 32, 63, 64, 65, 139, 255, 256, 4096, 65535, 65536),
        first: fc.constantFrom('', 'é', '\ufeff', '🌍', '\u2028'),
        unit: fc.constantFrom('x', 'ü', '語')
      })
      .map(({ length, first, unit }) => first + unit.repeat(length - first.length))
  }
)

const byteLength = fc.oneof(
  { weight: 8, arbitrary: fc.nat(300) },
  { weight: 1, arbitrary: fc.integer({ min: 65520, max: 65544 }) },
  { weight: 1, arbitrary: fc.constantFrom(254, 255, 256, 70_000, 131_072) }
)
const bytes = fc
  .record({ length: byteLength, seed: fc.nat(255), offset: fc.nat(3) })
  .map(({ length, seed, offset }) => {
    const all = new Uint8Array(length + offset * 8)
    for (let i = 0; i < all.length; i++) all[i] = i * 7 + seed
    return all.subarray(offset * 8)
  })
const buffer = bytes.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength))
const view = fc.tuple(bytes, fc.constantFrom(...VIEWS)).map(([{ buffer, byteOffset, byteLength }, View]) => {
  const made = new View(buffer as ArrayBuffer, byteOffset, Math.floor(byteLength / View.BYTES_PER_ELEMENT))
  // NaNs of other bits are equal to none
  return made instanceof Float32Array || made instanceof Float64Array ? made.map(Math.fround).map(finite) : made
})
const connection = buffer.map(head => new ConnectionPlace(head))
const arrayBuffer = bytes.map(given => given.slice().buffer)
const dataView = bytes.map(
  ({ buffer, byteOffset, byteLength }) => new DataView(buffer as ArrayBuffer, byteOffset, byteLength)
)
const date = fc.oneof(
  fc.date({ noInvalidDate: true }),
  fc.date({ noInvalidDate: true, min: new Date(0), max: new Date(2 ** 33 * 1000) })
)
const simple = [number, string, fc.boolean(), fc.constant(null), fc.constant(undefined), date, buffer] as const

/** Everything that is kept as it is towards a peer that knows records. Descriptors are put in by `place`. */
export const richValue: fc.Arbitrary<unknown> = fc.letrec(tie => {
  const small = { maxLength: 4 }
  const any = tie('any')
  return {
    any: fc.oneof(
      { maxDepth: 4, withCrossShrink: true },
      ...simple,
      fc.constant(PLACE),
      connection,
      fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }),
      fc.bigInt({ min: -(2n ** 700n), max: 2n ** 700n }),
      view,
      arrayBuffer,
      dataView,
      fc.array(any, small),
      fc.dictionary(key, any, { maxKeys: 5, noNullPrototype: true }),
      fc.uniqueArray(fc.tuple(any, any), { ...small, selector: ([key]) => key }).map(pairs => new Map(pairs)),
      fc.array(any, small).map(items => new Set(items))
    )
  }
}).any

/** What standard msgpack can carry, and what it arrives as: see `asPlain`. */
export const plainValue: fc.Arbitrary<unknown> = fc.letrec(tie => {
  const small = { maxLength: 4 }
  const any = tie('any')
  return {
    any: fc.oneof(
      { maxDepth: 4, withCrossShrink: true },
      ...simple,
      fc.constant(PLACE),
      connection,
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
      view,
      arrayBuffer,
      dataView,
      fc.array(any, small),
      fc.dictionary(key, any, { maxKeys: 5, noNullPrototype: true }),
      fc.uniqueArray(fc.tuple(key, any), { ...small, selector: ([key]) => key }).map(pairs => new Map(pairs)),
      fc.array(any, small).map(items => new Set(items))
    )
  }
}).any

/** A shape of few values, for bodies whose structures matter and whose contents don't. */
export const shapedValue: fc.Arbitrary<unknown> = fc.letrec(tie => ({
  object: fc.dictionary(
    fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom(...'abcdefgh') },
      { weight: 1, arbitrary: fc.constant('__keys__') }
    ),
    fc.oneof({ maxDepth: 3, withCrossShrink: true }, fc.nat(200), tie('object')),
    { maxKeys: 4, noNullPrototype: true }
  )
})).object

/** The value with a Descriptor of `pool`, or a Connection of one, in each place; takes no more than there are. */
export function place(value: unknown, pool: readonly Descriptor[]): unknown {
  let next = 0
  return map(value, item => {
    if (item === PLACE) return pool[next++] ?? null
    if (!(item instanceof ConnectionPlace)) return item
    const descriptor = pool[next++]
    return descriptor === undefined ? null : connectionOf(descriptor, item.head)
  })
}

/** What a value arrives as after standard msgpack: no undefined, Map, Set, or typed arrays, and small BigInts as numbers. */
export function asPlain(value: unknown): unknown {
  if (value === undefined) return null
  if (typeof value === 'bigint') return value >= -(2n ** 53n) && value <= 2n ** 53n ? Number(value) : value
  if (value instanceof ArrayBuffer) return Buffer.from(value)
  if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  if (value instanceof Set) return Array.from(value, asPlain)
  if (value instanceof Map) return asPlain(Object.fromEntries(value))
  if (Array.isArray(value)) return value.map(asPlain)
  if (isPlainObject(value))
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, asPlain(item)]))
  return value
}

/** Equal in every type and value, with the same Descriptors in the same places, and Connections of them with the same bytes. */
export function sameValue(left: unknown, right: unknown): boolean {
  if (!isDeepStrictEqual(left, right)) return false
  const [ours, theirs] = [descriptorsIn(left), descriptorsIn(right)]
  if (ours.length !== theirs.length || !ours.every((descriptor, i) => descriptor === theirs[i])) return false
  const [heads, others] = [headsIn(left), headsIn(right)]
  return heads.length === others.length && heads.every((head, i) => head.equals(others[i]!))
}

export function descriptorsIn(value: unknown): Descriptor[] {
  const found: Descriptor[] = []
  map(value, item => {
    if (item instanceof Descriptor) found.push(item)
    else if (item instanceof Connection) found.push(descriptorOf(item))
    return item
  })
  return found
}

export function headsIn(value: unknown): Buffer[] {
  const found: Buffer[] = []
  map(value, item => {
    if (item instanceof Connection) found.push(item.head)
    return item
  })
  return found
}

function map(value: unknown, change: (item: unknown) => unknown): unknown {
  if (Array.isArray(value)) return value.map(item => map(item, change))
  if (value instanceof Map) return new Map(Array.from(value, ([name, item]) => [map(name, change), map(item, change)]))
  if (value instanceof Set) return new Set(Array.from(value, item => map(item, change)))
  if (isPlainObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, map(item, change)]))
  }
  return change(value)
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}

function finite(value: number): number {
  return Number.isNaN(value) || value === 0 ? 1 : value
}
