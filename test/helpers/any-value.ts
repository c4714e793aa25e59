/** Values of every kind that a program may hold, with what is wrong about some of them. */
import fc from 'fast-check'
import { codePoint } from './code-point.ts'

const views = [Int8Array, Uint8Array, Uint16Array, Float64Array, BigInt64Array] as const

const surrogate = fc.constantFrom('\ud800', '\udfff', 'a\ud800b', `${'x'.repeat(70)}\ud9ab`, '\udc00\ud800', '語\ud800')
export const anyString: fc.Arbitrary<string> = fc.oneof(
  { weight: 4, arbitrary: fc.string({ unit: codePoint, maxLength: 20 }) },
  { weight: 1, arbitrary: surrogate },
  { weight: 1, arbitrary: fc.constantFrom('', 'x'.repeat(31), 'é'.repeat(32), '🌍'.repeat(64), 'x'.repeat(65536)) }
)
const number = fc.oneof(
  fc.integer({ min: -300, max: 70_000 }),
  fc.double(),
  fc.constantFrom(0, -0, 2 ** 31, 2 ** 32, -(2 ** 31) - 1, 2 ** 53, Number.NaN, Infinity, -Infinity)
)
const bigint = fc.oneof(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }), fc.constantFrom(2n ** 64n, -(2n ** 90n)))
const date = fc.date({ noInvalidDate: false })
const binary = fc
  .tuple(fc.uint8Array({ maxLength: 40 }), fc.constantFrom('buffer', 'array', 'data', ...views))
  .map(([bytes, kind]) => {
    const copy = bytes.slice()
    if (kind === 'buffer') return Buffer.from(bytes)
    if (kind === 'array') return copy.buffer
    if (kind === 'data') return new DataView(copy.buffer)
    const View = kind as typeof Uint8Array
    return new View(copy.buffer, 0, Math.floor(copy.length / View.BYTES_PER_ELEMENT))
  })
const key = fc.oneof(
  { weight: 6, arbitrary: fc.string({ maxLength: 3 }) },
  { weight: 1, arbitrary: anyString },
  {
    weight: 2,
    arbitrary: fc.constantFrom('__proto__', '__proto_', 'constructor', 'toJSON', 'length', '0', 'hasOwnProperty')
  }
)

/** An object with these own keys, also if one of them is `__proto__`. */
function objectOf(entries: [string, unknown][], bare: boolean): object {
  const object = bare ? Object.create(null) : {}
  for (const [name, value] of entries)
    Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true })
  return object
}

const simple = fc.oneof(
  number,
  anyString,
  fc.boolean(),
  fc.constant(null),
  fc.constant(undefined),
  bigint,
  date,
  binary
)

/** Keys of Maps, also those that no plain encoding has, and such as are easily equal. */
export const anyKey: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 6, arbitrary: fc.string({ maxLength: 3 }) },
  {
    weight: 3,
    arbitrary: fc.constantFrom<unknown>(
      0,
      1,
      '0',
      '1',
      1n,
      0n,
      true,
      false,
      'true',
      null,
      'null',
      undefined,
      Number.NaN,
      'NaN',
      1.5,
      '1.5',
      2 ** 63,
      2n ** 63n
    )
  },
  { weight: 2, arbitrary: simple },
  { weight: 1, arbitrary: fc.constantFrom({}, [], [1]).map(structuredClone) }
)

export const anyValue: fc.Arbitrary<unknown> = fc.letrec(tie => ({
  any: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    { weight: 5, arbitrary: simple },
    { weight: 2, arbitrary: fc.array(tie('any'), { maxLength: 4 }) },
    {
      weight: 3,
      arbitrary: fc
        .tuple(fc.array(fc.tuple(key, tie('any')), { maxLength: 4 }), fc.boolean())
        .map(([entries, bare]) => objectOf(entries, bare))
    },
    { weight: 1, arbitrary: fc.array(fc.tuple(anyKey, tie('any')), { maxLength: 3 }).map(entries => new Map(entries)) },
    { weight: 1, arbitrary: fc.array(tie('any'), { maxLength: 4 }).map(items => new Set(items)) }
  )
})).any

/** Whether there is a reason not to send it: by another walk than the encoder's. `rich`: with records. */
export function isRefused(value: unknown, rich: boolean): boolean {
  if (typeof value === 'symbol' || typeof value === 'function') return true
  if (typeof value === 'bigint') return !rich && (value < -(2n ** 63n) || value >= 2n ** 64n)
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || value instanceof ArrayBuffer)
    return false
  if (value instanceof Date) return !rich && Number.isNaN(value.getTime())
  if (Array.isArray(value)) return value.some(item => isRefused(item, rich))
  if (value instanceof Set) {
    const items = [...value]
    return items.some(item => isRefused(item, rich)) || (rich && collide(items.map(wellFormed)))
  }
  if (value instanceof Map) {
    const keys = [...value.keys()]
    if ([...keys, ...value.values()].some(item => isRefused(item, rich))) return true
    if (rich) return collide(keys.map(wellFormed))
    if (keys.some(each => typeof each === 'object' && each !== null)) return true
    // As a dict of Python has them, and as an object of JavaScript
    return collide(keys.map(asNumber)) || collide(keys.map(each => String(wellFormed(each ?? null))))
  }
  return collide(Object.keys(value).map(wellFormed)) || Object.values(value).some(item => isRefused(item, rich))
}

function collide(items: unknown[]): boolean {
  return new Set(items).size < items.length
}

function wellFormed(item: unknown): unknown {
  return typeof item === 'string' ? item.toWellFormed() : item
}

function asNumber(item: unknown): unknown {
  if (typeof item === 'boolean') return BigInt(item)
  if (typeof item === 'number' && Number.isInteger(item)) return BigInt(item)
  return wellFormed(item ?? null)
}
