import { inspect, isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { Packr } from 'msgpackr'
import { Codec } from '../../src/codec/codec.ts'
import type { Encoded } from '../../src/codec/encoded.ts'
import { HEADER } from '../../src/codec/frame.ts'
import { file } from '../helpers/channels.ts'
import { codePoint } from '../helpers/code-point.ts'
import { decodeBy, encodeBy } from '../helpers/codec.ts'
import { times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'

/** With these bytes the definition of a structure begins. */
const DEFINES = Buffer.of(0xd4, 0x72)
const slab = Buffer.alloc(65536)

function newCodec(): Codec {
  const codec = new Codec()
  codec.records = true
  return codec
}

/** What a channel's encoder writes, anywhere in its slab. */
function written(codec: Codec, value: unknown, position = 0): Buffer {
  const { bytes, start, end } = encodeBy(codec, value, true, slab, position)
  return Buffer.from(bytes.subarray(start + HEADER, end))
}

/** The same by msgpackr alone: another instance of it, as they share a buffer. */
class Reference {
  readonly #packr = new Packr({
    sequential: true,
    moreTypes: true,
    maxSharedStructures: 0,
    maxOwnStructures: 32
  } as object)

  written(value: unknown): Buffer {
    return Buffer.from(this.#packr.pack(value))
  }
}

const text = fc.oneof(
  fc.string({ unit: 'grapheme-ascii', maxLength: 70 }),
  fc.string({ unit: codePoint, maxLength: 20 }),
  fc.constantFrom(
    '',
    'x'.repeat(31),
    'x'.repeat(32),
    'x'.repeat(63),
    'x'.repeat(64),
    '\x7f',
    '\x80',
    `${'x'.repeat(40)}é`
  )
)
const EDGES = [
  0,
  -0,
  0x1f,
  0x20,
  0x3f,
  0x40,
  0x7f,
  0x80,
  0xff,
  0x100,
  0xffff,
  0x10000,
  0x7fffffff,
  0x80000000,
  0xffffffff,
  2 ** 32
]
const number = fc.oneof(
  fc.constantFrom(...EDGES, ...EDGES.map(edge => -edge), ...EDGES.map(edge => -edge - 1), 1.5, Number.NaN, Infinity),
  fc.integer({ min: -300, max: 300 }),
  fc.maxSafeInteger(),
  fc.double()
)
const flat = fc.oneof(text, number, fc.boolean(), fc.constant(null))
const other = fc.oneof(
  fc.constant(undefined),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.array(number, { maxLength: 3 }),
  fc.date({ noInvalidDate: true }),
  fc.record({ inner: text }, { noNullPrototype: true })
)
const item = fc.oneof({ weight: 40, arbitrary: flat }, { weight: 1, arbitrary: other })
const key = fc.oneof(
  fc.constantFrom('id', 'type', 'path', 'constructor', 'hasOwnProperty', 'then', '7', 'é', ''),
  fc.string({ maxLength: 3 })
)
const object = fc.oneof(
  fc.record({ id: item, type: item, path: item }, { requiredKeys: ['id', 'type'], noNullPrototype: true }),
  fc.record({ id: item, name: item }, { noNullPrototype: true }),
  fc.dictionary(
    key.filter(name => !['__proto__', 'toJSON'].includes(name)),
    item,
    { maxKeys: 30, noNullPrototype: true }
  )
)

/** -0 is an integer for msgpackr, and a lone surrogate three bytes that are not UTF-8. */
function isOtherThere(item: unknown): boolean {
  if (typeof item === 'string') return !item.isWellFormed()
  return Object.is(item, -0) || (typeof item === 'object' && item !== null && Object.values(item).some(isOtherThere))
}

test('near the end of a buffer', t => {
  const codec = newCodec()
  const value = Object.fromEntries(Array.from({ length: 24 }, (_, index) => [`key${index}`, 'x'.repeat(63)]))
  // msgpackr forgets its shapes after some thousand: then the next bodies define this one anew, at whatever place that happens
  written(codec, value, slab.length - 64)
  let definitions = 0
  for (let position = slab.length - 4096; position < slab.length - 8; position += 64) {
    slab.fill(0)
    const receiver = newCodec()
    const bytes = written(codec, value, position)
    if (bytes.subarray(0, 2).equals(DEFINES)) {
      definitions++
      continue
    }
    t.is(bytes.length, 1 + 24 * 65)
    const all = Buffer.concat([
      Buffer.from([0xd4, 0x72, 0x40]),
      new Packr({ useRecords: false }).pack(Object.keys(value)),
      bytes.subarray(1)
    ])
    t.deepEqual(decodeBy(receiver, all, 0, all.length, true, [], true), value)
  }
  t.true(definitions <= 3, `${definitions}`)
})

test('what it writes is what msgpackr writes, byte for byte', t => {
  let known = 0
  const property = fc.property(fc.array(fc.tuple(object, fc.nat(60000)), { minLength: 20, maxLength: 60 }), values => {
    const codec = newCodec()
    const reference = new Reference()
    const receivers = [newCodec(), newCodec()] as const
    for (const [value, position] of values) {
      const both = [written(codec, value, position), reference.written(value)] as const
      const [bytes, expected] = both.map((body, index) =>
        decodeBy(receivers[index]!, body, 0, body.length, true, [], true)
      )
      if (!isDeepStrictEqual(bytes, value)) throw new Error(`${inspect(bytes)} instead of ${inspect(value)}`)
      if (isOtherThere(value)) continue
      if (!isDeepStrictEqual(bytes, expected)) throw new Error(`${inspect(bytes)} instead of ${inspect(expected)}`)
      // Once in ten thousand shapes msgpackr begins anew: then a definition stands in one of them, and later ids differ, those of parts too
      const hasParts = Object.values(value).some(item => typeof item === 'object' && item !== null)
      if (hasParts || both.some(body => body.includes(DEFINES))) continue
      known++
      if (!both[0].subarray(1).equals(both[1].subarray(1)))
        throw new Error(`${both[0].toString('hex')} instead of ${both[1].toString('hex')}`)
    }
  })
  fc.assert(property, { numRuns: times(100, 200) })
  t.true(known > 1000, `${known}`)
})

test('shapes whose ids get another meaning', t => {
  const codec = newCodec()
  const receiver = newCodec()
  for (let round = 0; round < 4; round++)
    for (let shape = 0; shape < 40; shape += round + 1)
      for (let again = 0; again < 3; again++) {
        const value = { [`key${shape}`]: again, round }
        const bytes = written(codec, value)
        t.deepEqual(decodeBy(receiver, bytes, 0, bytes.length, true, [], true), value)
      }
})

test('a shape whose id was given to another one behind its back', t => {
  const codec = newCodec()
  const receiver = newCodec()
  const pass = (value: unknown): unknown => {
    const bytes = written(codec, value)
    return decodeBy(receiver, bytes, 0, bytes.length, true, [], true)
  }
  const others = Array.from({ length: 31 }, (_, index) => ({ [`key${index}`]: index }))
  for (const value of [
    { mine: 1 },
    { mine: 2 },
    others,
    { mine: 3 },
    [...others, { another: 1 }],
    { mine: 4 },
    { mine: 5 }
  ])
    t.deepEqual(pass(value), value)
})

test('getters are called once, whether or not all can be written', t => {
  const codec = newCodec()
  let latest: Encoded | undefined
  for (const last of ['short', 'long'.repeat(100), [1], undefined, 'é'])
    for (let again = 0; again < 3; again++) {
      const calls: string[] = []
      const value = {
        get first() {
          calls.push('first')
          return 1
        },
        get last() {
          calls.push('last')
          return last
        },
        get behind() {
          calls.push('behind')
          return 2
        }
      }
      const receiver = newCodec()
      if (latest !== undefined) codec.forget(latest)
      const encoded = encodeBy(again === 0 ? newCodec() : codec, value, true, slab)
      if (again > 0) latest = encoded
      const bytes = Buffer.from(encoded.bytes.subarray(encoded.start + HEADER, encoded.end))
      t.deepEqual(calls, ['first', 'last', 'behind'])
      if (bytes[0] === 0xd4)
        t.deepEqual(decodeBy(receiver, bytes, 0, bytes.length, true, [], true), { first: 1, last, behind: 2 })
    }
})

test('a getter that deletes a key behind it, or throws, or sends', t => {
  const codec = newCodec()
  const receiver = newCodec()
  const pass = (value: unknown): unknown => {
    const bytes = written(codec, value)
    return decodeBy(receiver, bytes, 0, bytes.length, true, [], true)
  }
  const shape = (first: () => unknown): Record<string, unknown> =>
    Object.defineProperties({} as Record<string, unknown>, {
      first: { enumerable: true, configurable: true, get: first },
      second: { enumerable: true, configurable: true, value: 2 }
    })
  t.deepEqual(pass({ first: 1, second: 2 }), { first: 1, second: 2 })
  const deleting = shape(() => {
    delete deleting.second
    return 1
  })
  const changes = { code: 'ERR_PASSFD_ENCODE', message: /value changes while it is encoded/ }
  t.throws(() => pass(deleting), changes)
  t.deepEqual(pass({ first: 1, second: 2, third: 3 }), { first: 1, second: 2, third: 3 })
  const skipping = Object.assign(
    shape(() => {
      delete skipping.second
      return 1
    }),
    { third: 3 }
  )
  t.throws(() => pass(skipping), changes)
  const later = Object.assign(
    shape(() => {
      delete later.second
      return [1] // what is no flat value
    }),
    { third: 3 }
  )
  t.throws(() => pass(later), changes)
  const cause = new Error('no')
  const error = t.throws(() =>
    pass(
      shape(() => {
        throw cause
      })
    )
  )
  t.like(error, { code: 'ERR_PASSFD_ENCODE', cause })
  t.regex(error!.message, /value\.first can't be read: no/)
  t.throws(() => pass(shape(() => written(codec, { first: 3, second: 4 }))), { code: 'ERR_PASSFD_ENCODE' })
  t.deepEqual(pass({ first: 5, second: 6 }), { first: 5, second: 6 })
})

test('traps of a Proxy, and a getter named constructor, send nothing in the middle', t => {
  const codec = newCodec()
  const receiver = newCodec()
  const errors: unknown[] = []
  const encode = (value: unknown): unknown => {
    const bytes = written(codec, value)
    return decodeBy(receiver, bytes, 0, bytes.length, true, [], true)
  }
  const nested = (): void => {
    errors.push(t.throws(() => written(codec, { first: 3, second: 4 }))!)
  }
  t.deepEqual(encode({ first: 1, second: 2 }), { first: 1, second: 2 })
  const proxy = new Proxy(
    { first: 5, second: 6 },
    {
      ownKeys(target) {
        nested()
        return Reflect.ownKeys(target)
      }
    }
  )
  t.deepEqual(encode(proxy), { first: 5, second: 6 })
  let calls = 0
  const named = {
    first: 7,
    get constructor() {
      nested()
      return calls++ === 0 ? Object : 8
    }
  }
  t.throws(() => encode(named), { code: 'ERR_PASSFD_ENCODE', message: /value\.constructor is a function/ })
  t.deepEqual(encode(named), { first: 7, constructor: 8 })
  t.deepEqual(encode({ first: 9, second: 10 }), { first: 9, second: 10 })
  t.true(errors.length > 2)
  for (const error of errors) t.like(error, { code: 'ERR_PASSFD_ENCODE' })
})

test('inherited keys are not its own', t => {
  const codec = newCodec()
  const reference = new Reference()
  written(codec, { first: 1, second: 2 })
  reference.written({ first: 1, second: 2 })
  const value = Object.assign(Object.create({ second: 2, constructor: Object }), { first: 1 })
  t.deepEqual(written(codec, value), reference.written(value))
})

test('descriptors are collected, and closed ones refused', t => {
  const codec = newCodec()
  const receiver = newCodec()
  for (let round = 0; round < 3; round++) {
    const files = [file(), file()] as const
    const { bytes, start, end, descriptors } = encodeBy(
      codec,
      { id: round, one: files[0], two: files[1] },
      true,
      slab,
      0
    )
    t.deepEqual(descriptors, [...files])
    t.deepEqual(decodeBy(receiver, bytes, start + HEADER, end, true, files, false), {
      id: round,
      one: files[0],
      two: files[1]
    })
    const repeated = { id: round, one: files[0], two: files[0] }
    t.throws(() => encodeBy(codec, repeated, true, slab, 0), { code: 'ERR_PASSFD_DESCRIPTOR_REPEATED' })
    for (const descriptor of files) descriptor.close()
    encodeBy(codec, { id: 1, one: null, two: null }, true, slab, 0)
    t.throws(() => encodeBy(codec, { id: 1, one: 2, two: files[0] }, true, slab, 0), {
      code: 'ERR_PASSFD_DESCRIPTOR_CLOSED'
    })
  }
  // One that was collected before something that can't be written here is collected once
  const kept = file()
  for (let round = 0; round < 3; round++)
    t.deepEqual(encodeBy(codec, { id: 1, one: kept, two: [2] }, true, slab, 0).descriptors, [kept])
  kept.close()
})

test('msgpackr forgets its shapes again and again: known ones are defined anew, and all arrive', t => {
  const codec = newCodec()
  const receiver = newCodec()
  let definitions = 0
  for (let n = 0; n < 25_000; n++) {
    const value = n % 2 === 0 ? { id: n, name: 'x' } : { [`key${n}`]: n }
    const bytes = written(codec, value)
    if (n % 2 === 0 && bytes.subarray(0, 2).equals(DEFINES)) definitions++
    if (!isDeepStrictEqual(decodeBy(receiver, bytes, 0, bytes.length, true, [], true), value)) t.fail(`${n}`)
  }
  // Once for each 31 others at the latest
  t.true(definitions > 1 && definitions < 1000, `${definitions}`)
})
