import { EventEmitter } from 'node:events'
import { createRequire } from 'node:module'
import * as net from 'node:net'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import * as theirs from 'msgpackr'
import { PassfdError } from '../../src/base/errors.ts'
import { Codec } from '../../src/codec/codec.ts'
import type { Encoded } from '../../src/codec/encoded.ts'
import { HEADER, RECORDS } from '../../src/codec/frame.ts'
import { BY_REFERENCE } from '../../src/codec/packers.ts'
import { decodePlain, detachedToPlain, encodePlain } from '../../src/codec/plain.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { closeAll, connected, nextMessage } from '../helpers/channels.ts'
import { bodyIn, decodeBy, encodeBy } from '../helpers/codec.ts'
import { isFull, times } from '../helpers/full.ts'
import { start, startFixture } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'
import { asPlain, headsIn, place, plainValue, richValue, sameValue, shapedValue } from '../helpers/values.ts'

type Mode = 'plain' | 'streamed' | 'detached'
const MODES: readonly Mode[] = ['plain', 'streamed', 'detached']
const UNDECODABLE = 'ERR_PASSFD_UNDECODABLE'
const DESCRIPTOR_COUNT = 'ERR_PASSFD_DESCRIPTOR_COUNT'

interface Body {
  bytes: Buffer
  flagged: boolean
  descriptors: Descriptor[]
  holes: number
}

function newCodec(records: boolean): Codec {
  const codec = new Codec()
  codec.records = records
  return codec
}

/** A copy of what was encoded, as it stands on the wire: without header, binary values in their places. */
function bodyOf({ bytes, start, end, flags, length, descriptors, holes }: Encoded): Body {
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
function decode(codec: Codec, { bytes, flagged, descriptors }: Body, own = false): unknown {
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
function encode(codec: Codec, mode: Mode, value: unknown, slab?: Buffer, position?: number): Body {
  codec.records = mode !== 'plain'
  return bodyOf(encodeBy(codec, value, mode === 'streamed', slab, position))
}

/** The code of what it throws. */
function codeOf(body: () => unknown): string | undefined {
  try {
    body()
    return undefined
  } catch (error) {
    if (!(error instanceof PassfdError)) throw error
    return error.code
  }
}

function withPool(size: number, body: (pool: readonly Descriptor[]) => void): void {
  const pool = Array.from({ length: size }, () => Descriptor.openSync('/dev/null'))
  try {
    body(pool)
  } finally {
    for (const descriptor of pool) descriptor.close()
  }
}

// --- round trips

for (const mode of MODES) {
  test(`any value arrives as it was: ${mode}`, t => {
    const slab = Buffer.allocUnsafeSlow(65536)
    const sender = newCodec(mode !== 'plain')
    const receiver = newCodec(mode !== 'plain')
    let withDescriptors = 0
    let withHeads = 0
    withPool(8, pool => {
      fc.assert(
        fc.property(
          mode === 'plain' ? plainValue : richValue,
          fc.option(fc.nat(65536), { nil: undefined }),
          fc.boolean(),
          (given, position, own) => {
            const value = place(given, pool)
            const body = encode(sender, mode, value, position === undefined ? undefined : slab, position)
            if (body.flagged !== (mode !== 'plain')) return false
            withDescriptors += body.descriptors.length
            withHeads += headsIn(value).length
            return sameValue(decode(receiver, body, own), mode === 'plain' ? asPlain(value) : value)
          }
        ),
        { numRuns: times(100, 400) }
      )
    })
    t.true(withDescriptors > 0, 'Descriptors were among them')
    t.true(withHeads > 0, 'and Connections')
  })
}

test('streamed and detached bodies, some late, some never sent, decode in their order', t => {
  const one = fc.record({
    value: shapedValue,
    how: fc.constantFrom('streamed', 'streamed', 'detached', 'late', 'failed', 'forgotten', 'plain'),
    late: fc.nat(5)
  })
  let late = 0
  fc.assert(
    fc.property(fc.array(one, { maxLength: 60 }), fc.boolean(), (steps, otherChannel) => {
      const sender = newCodec(true)
      const receiver = newCodec(true)
      const other = newCodec(true)
      const waiting: { body: Body; value: unknown; due: number }[] = []
      const arrives = (body: Body, value: unknown): boolean => isDeepStrictEqual(decode(receiver, body), value)
      return steps.every(({ value, how, late: steps }, at) => {
        if (otherChannel) encode(other, at % 2 ? 'streamed' : 'detached', { [`other${at}`]: value })
        for (const item of waiting.splice(0)) {
          if (item.due > at) waiting.push(item)
          else if (!arrives(item.body, item.value)) return false
        }
        if (how === 'late') {
          // Encoded now, waiting for credit while others pass it
          waiting.push({ body: encode(sender, 'detached', value), value, due: at + 1 + steps })
          late++
          return true
        }
        if (how === 'failed') return codeOf(() => encodeBy(sender, [value, () => {}], true)) === 'ERR_PASSFD_ENCODE'
        if (how === 'forgotten') {
          sender.forget(encodeBy(sender, value, true))
          return true
        }
        if (how === 'plain') {
          const { bytes, start, end } = encodePlain(value)
          const body = Buffer.from(bytes.subarray(start + HEADER, end))
          return isDeepStrictEqual(decodeBy(receiver, body, 0, body.length, false, [], false), value)
        }
        return arrives(encode(sender, how as Mode, value), value)
      })
    }),
    { numRuns: times(75, 300) }
  )
  t.true(late > 0)
})

test('more shapes than there are ids, in one body and over many', t => {
  for (const mode of MODES) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    for (const count of [31, 32, 33, 63, 64, 65, 200]) {
      const value = Array.from({ length: count * 3 }, (_, i) => ({
        [`key${i % count}`]: i,
        common: { [`n${i % 7}`]: i }
      }))
      for (let again = 0; again < 3; again++) {
        if (!isDeepStrictEqual(decode(receiver, encode(sender, mode, value)), value))
          t.fail(`${mode}, ${count} in one body`)
      }
      for (const item of value) {
        if (!isDeepStrictEqual(decode(receiver, encode(sender, mode, item)), item)) t.fail(`${mode}, ${count} in many`)
      }
    }
  }
})

test('channels share encoder and decoder, and keep their shapes apart', t => {
  const ends = Array.from({ length: 5 }, () => ({ sender: newCodec(true), receiver: newCodec(true) }))
  for (let round = 0; round < 200; round++) {
    for (const [index, { sender, receiver }] of ends.entries()) {
      // More shapes than ids, in another order for each; every one of them comes again
      const key = `key${(round * (index + 3)) % 41}`
      const value = { id: round, [key]: { [`inner${(round * 7 + index) % 5}`]: [index] } }
      t.deepEqual(decode(receiver, encode(sender, 'streamed', value)), value)
      if (round % 50 === 49) t.throws(() => encode(sender, 'streamed', { [`new${round}`]: () => {} }))
    }
  }
  const [first, second] = ends as [(typeof ends)[0], (typeof ends)[0]]
  const body = encode(first.sender, 'streamed', { only: 1 })
  decode(first.receiver, body)
  const next = encode(first.sender, 'streamed', { only: 2 })
  t.deepEqual(decode(first.receiver, next), { only: 2 })
  t.is(
    codeOf(() => decode(newCodec(true), next)),
    UNDECODABLE,
    'what one has defined no other knows'
  )
  t.deepEqual(decode(second.receiver, body), { only: 1 })
})

test('a record id of two bytes is refused, and spoils the shape for nobody', t => {
  const keys = encodePlain(['once', 'twice'])
  const names = keys.bytes.subarray(keys.start + HEADER, keys.end)
  const long = Buffer.concat([Buffer.from([0xd5, 0x72, 0x40, 0]), names, Buffer.from([1, 2])])
  t.is(
    codeOf(() => decode(newCodec(true), { bytes: long, flagged: true, descriptors: [], holes: 0 })),
    UNDECODABLE
  )
  const value = { once: 1, twice: 2 }
  const sender = newCodec(true)
  const receiver = newCodec(true)
  for (let i = 0; i < 10; i++) t.deepEqual(decode(receiver, encode(sender, 'streamed', value)), value)
})

/** Ids of the record structures that a body defines (it must hold nothing else that looks like that). */
function definedIds({ bytes }: Body): number[] {
  const ids: number[] = []
  for (let at = 0; (at = bytes.indexOf(Buffer.from([0xd4, 0x72]), at)) >= 0; at += 3) ids.push(bytes[at + 2]! & 0x3f)
  return ids
}

function objectOf(keys: number, length: number): Record<string, number> {
  const names = Array.from({ length: keys }, (_, i) => String(i).padStart(length, 'k'))
  return Object.fromEntries(names.map((name, i) => [name, i & 63]))
}

test('a shape is kept up to 256 keys and 4 KiB of them, counting one more for each', t => {
  const cases: [what: string, value: Record<string, number>, kept: boolean][] = [
    ['255 keys', objectOf(255, 3), true],
    ['256 keys', objectOf(256, 3), true],
    ['257 keys', objectOf(257, 3), false],
    ['4095 bytes', objectOf(1, 4094), true],
    ['4096 bytes', objectOf(1, 4095), true],
    ['4097 bytes', objectOf(1, 4096), false],
    ['4096 bytes in two bytes a letter', { ['é'.repeat(2047)]: 1 }, true],
    ['4097 bytes in two bytes a letter', { ['é'.repeat(2048)]: 1 }, false],
    ['128 keys of 32 bytes', objectOf(128, 31), true],
    ['128 keys of 33 bytes', objectOf(128, 32), false],
    ['5,000 keys', objectOf(5000, 10), false]
  ]
  for (const [what, value, kept] of cases) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    decode(receiver, encode(sender, 'streamed', { first: 1 }))
    const body = encode(sender, 'streamed', value)
    t.deepEqual(decode(receiver, body), value, what)
    t.deepEqual(
      definedIds(body).map(id => id < 32),
      [kept],
      `${what}: its id is one of those that last`
    )
    for (const item of [{ first: 2 }, value, { second: 3 }, value]) {
      t.deepEqual(decode(receiver, encode(sender, 'streamed', item)), item, `after ${what}`)
    }
    const again = encode(sender, 'streamed', value)
    t.is(again.bytes.length < body.bytes.length, kept, `${what}: the next body need not define it`)
    t.deepEqual(decode(receiver, again), value)
  }
})

test('a shape too big to keep is seen among as many others as there are ids', t => {
  for (const others of [30, 31, 32, 63, 64]) {
    for (const at of [0, 15, others]) {
      const sender = newCodec(true)
      const receiver = newCodec(true)
      decode(receiver, encode(sender, 'streamed', { first: 1 }))
      const value: object[] = Array.from({ length: others }, (_, i) => ({ [`o${i}`]: i }))
      value.splice(at, 0, objectOf(300, 4))
      for (const item of [value, { first: 2 }, value]) {
        t.deepEqual(decode(receiver, encode(sender, 'streamed', item)), item, `${others} others, at ${at}`)
      }
    }
  }
})

test('keys that mean something to JavaScript or to msgpackr are keys like others', t => {
  const names = ['__keys__', 'hasOwnProperty', 'constructor', 'length', 'then', 'map', 'toString', 'valueOf', '', '0']
  const objects = names.flatMap(name => [
    { a: 1, [name]: 2 },
    { a: 1 },
    { [name]: { [name]: 3 } },
    {},
    { [name]: 4, b: 5 }
  ])
  objects.push({ a: 1, toJSON: 2 } as never)
  // What stands beside __keys__ is looked up in an array, if that is
  for (const name of ['map', 'length', 'a'])
    objects.push({ a: 1, __keys__: 2, [name]: 3 }, { b: 1 }, { b: 1, __keys__: 2, [name]: 3 })
  for (const mode of MODES) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    // In every order of two
    for (const first of objects) {
      for (const second of objects) {
        for (const value of [first, second, [first, second, first]]) {
          if (!isDeepStrictEqual(decode(receiver, encode(sender, mode, value)), value))
            t.fail(`${mode}: ${JSON.stringify(first)}, ${JSON.stringify(second)}`)
        }
      }
    }
    // Among more others than there are ids
    const many = [{ a: 1, __keys__: 2 }, ...Array.from({ length: 40 }, (_, i) => ({ [`k${i}`]: i })), { a: 1 }]
    t.deepEqual(decode(receiver, encode(sender, mode, many)), many)
    t.deepEqual(decode(receiver, encode(sender, mode, { a: 2 })), { a: 2 } as never)
  }
})

test('__proto__ is an own key, never a prototype', t => {
  const given = JSON.parse('{"__proto__": {"polluted": true}, "a": {"__proto__": 1}}')
  for (const mode of MODES) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    for (let again = 0; again < 5; again++) {
      const value = decode(receiver, encode(sender, mode, given)) as Record<string, unknown>
      t.is(Object.getPrototypeOf(value), Object.prototype)
      t.is(value.polluted, undefined)
      t.deepEqual(Object.keys(value), ['__proto__', 'a'])
      t.true(isDeepStrictEqual(value, given))
    }
  }
  t.is(({} as Record<string, unknown>).polluted, undefined)
})

test('numbers, dates and strings at their edges', t => {
  const powers = Array.from({ length: 64 }, (_, i) => 2 ** i).flatMap(power => [power - 1, power, -power, -power - 1])
  const values = [
    ...powers,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    Number.MIN_VALUE,
    Number.MAX_VALUE,
    0.1,
    new Date(0),
    new Date(-1),
    new Date(999),
    new Date(8.64e15),
    new Date(-8.64e15),
    new Date(2 ** 32 * 1000 - 1),
    new Date(2 ** 32 * 1000),
    '\ufeffstarts with a byte order mark',
    `\ufeff${'x'.repeat(100)}`,
    `${'x'.repeat(100)}\u0000`,
    '🌍'.repeat(70)
  ]
  for (const mode of MODES) {
    for (const value of values) {
      const sender = newCodec(true)
      const receiver = newCodec(true)
      if (!isDeepStrictEqual(decode(receiver, encode(sender, mode, value)), value)) t.fail(`${mode}: ${String(value)}`)
    }
    const codec = newCodec(mode !== 'plain')
    const never = new Date(Number.NaN)
    if (mode === 'plain') t.throws(() => encode(codec, mode, [never]), { message: /value\[0\] is an invalid Date/ })
    else t.true(Number.isNaN((decode(codec, encode(codec, mode, never)) as Date).getTime()))
    // A lone surrogate can't be UTF-8
    t.deepEqual(decode(codec, encode(codec, mode, ['\ud800', 'after'])), ['\ufffd', 'after'])
  }
})

test('BigInts of any size keep their type and value with records, and 64 bits without', t => {
  const values = [
    1n,
    2n ** 53n,
    2n ** 63n - 1n,
    2n ** 63n,
    2n ** 64n - 1n,
    2n ** 64n,
    2n ** 127n,
    2n ** 512n,
    2n ** 66000n
  ]
  for (const value of values.flatMap(value => [value, -value, -value - 1n, value + 1n])) {
    for (const mode of ['streamed', 'detached'] as const) {
      const codec = newCodec(true)
      t.is(decode(codec, encode(codec, mode, value)), value)
    }
    const codec = newCodec(false)
    const fits = value >= -(2n ** 63n) && value < 2n ** 64n
    if (fits) t.is(decode(codec, encode(codec, 'plain', value)), asPlain(value))
    else
      t.is(
        codeOf(() => encodeBy(codec, value, true)),
        'ERR_PASSFD_ENCODE'
      )
  }
})

// --- binary values that are not copied

test('binary values from 64 KiB on are referred to, smaller ones are copied', t => {
  for (const mode of MODES) {
    for (const [length, holes] of [
      [BY_REFERENCE - 1, 0],
      [BY_REFERENCE, 1],
      [BY_REFERENCE + 1, 1]
    ] as const) {
      const codec = newCodec(mode !== 'plain')
      const bytes = Buffer.alloc(length, 1)
      const encoded = encodeBy(codec, { a: 1, bytes, b: 2 }, mode === 'streamed')
      t.is(encoded.holes.length, holes, `${mode}, ${length}`)
      if (holes > 0) {
        t.is(encoded.holes[0]!.bytes.buffer, bytes.buffer)
        t.true(encoded.end - encoded.start < 1000)
      }
      t.is(encoded.length > length, true)
    }
  }
})

test('several of them, in slabs at any place and in buffers that had to grow', t => {
  const slab = Buffer.allocUnsafeSlow(65536)
  const bytes = Buffer.from(Array.from({ length: BY_REFERENCE + 100 }, (_, i) => i))
  const value = {
    first: bytes,
    text: 'x'.repeat(3000),
    view: new Float64Array(BY_REFERENCE / 8 + 1).fill(1.5),
    part: bytes.subarray(50),
    data: new DataView(bytes.buffer, bytes.byteOffset + 3, BY_REFERENCE),
    end: [bytes, { last: bytes.subarray(100) }]
  }
  for (const mode of MODES) {
    for (const position of [0, 1, 7, 8, 4000, 60_000, 61_000, 62_000, 63_000, 65_000, 65_536]) {
      const sender = newCodec(mode !== 'plain')
      const receiver = newCodec(mode !== 'plain')
      for (const own of [false, true]) {
        const body = encode(sender, mode, value, slab, position)
        t.is(body.holes, 6)
        t.true(
          sameValue(decode(receiver, body, own), mode === 'plain' ? asPlain(value) : value),
          `${mode} at ${position}`
        )
      }
    }
  }
})

test('what has its buffer to itself gets views of it, what has not gets copies', t => {
  const codec = newCodec(true)
  const value = { buffer: Buffer.from('abc'), view: new Uint8Array([1, 2]), floats: new Float32Array([1, 2]) }
  const body = encode(codec, 'detached', value)
  const shared = decodeBy(codec, body.bytes, 0, body.bytes.length, true, [], false) as typeof value
  const owned = decodeBy(codec, body.bytes, 0, body.bytes.length, true, [], true) as typeof value
  const whole: unknown = body.bytes.buffer
  t.false([shared.buffer, shared.view, shared.floats].some(({ buffer }) => buffer === whole))
  t.true(owned.buffer.buffer === whole && owned.view.buffer === whole)
  body.bytes.fill(0)
  t.true(isDeepStrictEqual(shared, value))
})

// --- what can't be sent

test('what lives in this process, or has no meaning elsewhere, is refused, and the codec goes on', t => {
  const circular: Record<string, unknown> = { a: 1 }
  circular.self = circular
  const circularArray: unknown[] = []
  circularArray.push(circularArray)
  const circularMap = new Map<unknown, unknown>()
  circularMap.set('self', circularMap)
  const socket = new net.Socket()
  const refused: [what: string, value: unknown, sentence: RegExp][] = [
    ['RegExp', /x/, /RegExp/],
    ['Error', new Error('x'), /Error/],
    ['TypeError', new TypeError('x'), /Error/],
    ['PassfdError', new PassfdError('CONSUMED'), /Error/],
    ['an Error with toJSON', Object.assign(new Error('x'), { toJSON: () => 1 }), /Error/],
    ['function', () => {}, /function/],
    ['class', class {}, /function/],
    ['Promise', Promise.resolve(), /Promise/],
    ['socket', socket, /alive/],
    ['server', net.createServer(), /alive/],
    ['EventEmitter', new EventEmitter(), /alive/],
    ['symbol', Symbol('x'), /symbol/],
    ['circular object', circular, /refers to itself/],
    ['circular array', circularArray, /refers to itself/],
    ['circular Map', circularMap, /refers to itself/],
    [
      'a getter that throws',
      {
        get a() {
          throw new Error('my own')
        }
      },
      /my own/
    ],
    [
      'a toJSON that throws',
      new (class {
        toJSON() {
          throw new Error('my own')
        }
      })(),
      /my own/
    ]
  ]
  for (const mode of MODES) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    for (const [what, value, sentence] of refused) {
      for (const wrapped of [value, [value], { deep: { er: value } }, new Map([['x', value]]), new Set([value])]) {
        sender.records = mode !== 'plain'
        const error = t.throws(() => encodeBy(sender, { unseen: 1, shape: wrapped }, mode === 'streamed'), {
          code: 'ERR_PASSFD_ENCODE'
        })
        t.regex(error!.message, sentence, `${mode}, ${what}`)
      }
      // Definitions of what failed are assumed by nobody
      for (const good of [{ unseen: 2, shape: 3 }, { shape: 4 }, [{ deep: 1 }, { er: 2 }]]) {
        t.deepEqual(decode(receiver, encode(sender, mode, good)), good, `${mode} after ${what}`)
      }
    }
  }
  socket.destroy()
})

/** A value of that many levels of each kind; the innermost is a number. */
const NESTINGS: Record<string, (inner: unknown) => unknown> = {
  array: inner => [inner],
  object: inner => ({ a: inner }),
  Map: inner => new Map([['a', inner]]),
  'Map key': inner => new Map([[inner, 1]]),
  Set: inner => new Set([inner]),
  mixed: inner => [{ a: inner }]
}

function nested(kind: string, depth: number): unknown {
  let value: unknown = 1
  let levels = kind === 'mixed' ? depth >> 1 : depth
  if (kind === 'mixed' && depth % 2 === 1) value = [value]
  while (levels-- > 0) value = NESTINGS[kind]!(value)
  return value
}

test('values are nested 512 deep at most', t => {
  for (const mode of MODES) {
    for (const kind of Object.keys(NESTINGS)) {
      if (mode === 'plain' && kind === 'Map key') continue
      const codec = newCodec(true)
      for (const depth of [511, 512]) {
        const value = nested(kind, depth)
        const body = encode(codec, mode, value)
        const expected = mode === 'plain' ? asPlain(value) : value
        t.true(isDeepStrictEqual(decode(codec, body), expected), `${mode}, ${kind}, ${depth}`)
      }
      for (const depth of [513, 514, 2000, 100_000]) {
        t.is(
          codeOf(() => encode(codec, mode, nested(kind, depth))),
          'ERR_PASSFD_ENCODE',
          `${mode}, ${kind}, ${depth}`
        )
      }
      t.deepEqual(decode(codec, encode(codec, mode, { a: 1, b: 2 })), { a: 1, b: 2 })
    }
  }
})

/** Bodies as a hostile peer writes them, nested by repeating a prefix. */
const DEEP_BODIES: [what: string, flagged: boolean, first: number[], level: number[], last: number[]][] = [
  ['arrays', false, [], [0x91], [1]],
  ['maps', false, [], [0x81, 0xa1, 0x61], [1]],
  ['arrays', true, [], [0x91], [1]],
  ['maps', true, [], [0x81, 0xa1, 0x61], [1]],
  ['map keys', true, [], [0x81], [1, ...Array.from({ length: 20 }, () => 1)]],
  ['sets', true, [], [0xd4, 0x73, 0, 0x91], [1]],
  ['records', true, [0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61], [0x40], [1]],
  ['definitions', true, [], [0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61], [1]],
  ['keys of definitions', true, [], [0xd4, 0x72, 0x41], [0x91, 0xa1, 0x61, 1]]
]

test('bodies nested deeper are undecodable, whatever nests, however deep, and leave nothing behind', t => {
  const reference = newCodec(true)
  const sender = newCodec(true)
  const check = (what: string): void => {
    const value = { reference: what, list: [1, 'two', { three: 3 }] }
    t.deepEqual(decode(reference, encode(sender, 'streamed', value)), value, what)
    t.deepEqual(decode(reference, encode(sender, 'plain', value)), value, what)
  }
  for (const [what, flagged, first, level, last] of DEEP_BODIES) {
    const body = (depth: number): Body => ({
      bytes: Buffer.concat([Buffer.from(first), ...Array<Buffer>(depth).fill(Buffer.from(level)), Buffer.from(last)]),
      flagged,
      descriptors: [],
      holes: 0
    })
    if (what !== 'map keys' && what !== 'keys of definitions') {
      const within = first.length > 0 ? 511 : 512
      t.is(
        codeOf(() => decode(newCodec(true), body(within))),
        undefined,
        `${what}, as deep as is allowed`
      )
      t.is(
        codeOf(() => decode(newCodec(true), body(within + 1))),
        UNDECODABLE,
        `${what}, one deeper`
      )
    }
    for (const depth of [600, 5000, 100_000]) {
      t.is(
        codeOf(() => decode(newCodec(true), body(depth))),
        UNDECODABLE,
        `${what}, ${depth}`
      )
      check(what)
    }
  }
})

test('an encode inside an encode is refused, and the outer one is not disturbed', t => {
  for (const mode of MODES) {
    const sender = newCodec(true)
    const other = newCodec(true)
    const receiver = newCodec(true)
    for (const inner of [
      () => encodeBy(sender, { b: 1 }, true),
      () => encodeBy(other, [1], false),
      () => encodePlain({})
    ]) {
      let seen: unknown
      const value = (rethrow: boolean) => ({
        before: { x: 1 },
        get reentrant() {
          try {
            inner()
          } catch (error) {
            seen = error
            if (rethrow) throw error
          }
          return 'survived'
        },
        after: [{ y: 2 }]
      })
      t.is(
        codeOf(() => encode(sender, mode, value(true))),
        'ERR_PASSFD_ENCODE'
      )
      t.regex((seen as Error).message, /a getter or toJSON\(\) inside it sends a message itself/)
      seen = undefined
      const body = encode(sender, mode, value(false))
      t.is((seen as PassfdError).code, 'ERR_PASSFD_ENCODE')
      t.deepEqual(decode(receiver, body), { before: { x: 1 }, reentrant: 'survived', after: [{ y: 2 }] })
    }
  }
})

test('a send from a getter is refused, and the message with it arrives if the getter goes on', async t => {
  const [left, right] = await connected()
  const message = nextMessage(right)
  let refused: unknown
  void left.send({
    get answer() {
      try {
        void left.send('inside')
      } catch (error) {
        refused = error
      }
      return 42
    }
  })
  t.is((refused as PassfdError).code, 'ERR_PASSFD_ENCODE')
  t.deepEqual((await message).value, { answer: 42 })
  await closeAll(left, right)
})

// --- descriptors in bodies

const decodeHex = (hex: string, count: number, flagged = true): (() => unknown) => {
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

test('each descriptor that came is used exactly once, by an index that exists', t => {
  for (const flagged of [true, false]) {
    const code = (hex: string, count: number): string | undefined => codeOf(decodeHex(hex, count, flagged))
    t.is(code('d44600', 1), undefined)
    t.is(code('92 d44601 d44600', 2), undefined, 'in any order')
    t.is(code('c7014600', 1), undefined, 'in the longer form')
    for (const [hex, count, what] of [
      ['d44600', 0, 'none came'],
      ['d44601', 1, 'out of range'],
      ['d446ff', 1, 'out of range'],
      ['92 d44600 d44602', 2, 'one out of range'],
      ['92 d44600 d44600', 1, 'the only one twice'],
      ['92 d44601 d44601', 2, 'one of two twice'],
      ['93 d44600 d44601 d44600', 2, 'one of two again'],
      ['01', 1, 'the only one unused'],
      ['d44600', 2, 'one of two unused'],
      ['d5460000', 1, 'an index of two bytes'],
      ['c7004600', 1, 'an index of no byte']
    ] as const) {
      const outcome = code(hex, count)
      t.true(outcome === DESCRIPTOR_COUNT || (hex.startsWith('c700') && outcome === UNDECODABLE), `${what}: ${outcome}`)
    }
  }
})

test('253 descriptors are told apart', t => {
  withPool(253, pool => {
    for (const mode of MODES) {
      const codec = newCodec(true)
      const body = encode(codec, mode, { list: pool.toReversed() })
      t.deepEqual(body.descriptors.length, 253)
      const { list } = decode(codec, body) as { list: Descriptor[] }
      t.true(list.every((descriptor, i) => descriptor === pool[252 - i]))
    }
  })
})

test('more descriptors than a frame may have are refused', t => {
  withPool(256, pool => {
    for (const mode of MODES) {
      const codec = newCodec(true)
      codec.records = mode !== 'plain'
      const count = (length: number): string | undefined =>
        codeOf(() => encodeBy(codec, pool.slice(0, length), mode === 'streamed'))
      t.is(count(255), 'ERR_PASSFD_TOO_MANY_DESCRIPTORS')
      t.is(count(256), 'ERR_PASSFD_TOO_MANY_DESCRIPTORS')
    }
  })
})

test('a closed or repeated Descriptor is refused, and encoding moves nothing', t => {
  const open = Descriptor.openSync('/dev/null')
  const closed = Descriptor.openSync('/dev/null')
  closed.close()
  for (const mode of MODES) {
    const codec = newCodec(mode !== 'plain')
    const code = (value: unknown): string | undefined => codeOf(() => encodeBy(codec, value, mode === 'streamed'))
    t.is(code([open, closed]), 'ERR_PASSFD_DESCRIPTOR_CLOSED')
    t.is(code([open, { again: open }]), 'ERR_PASSFD_DESCRIPTOR_REPEATED')
    t.is(code([open, () => {}]), 'ERR_PASSFD_ENCODE')
    t.is(code([open]), undefined)
    t.false(open.closed)
  }
  open.close()
})

// --- what a peer may not send

test('an unflagged body holds standard msgpack and nothing else', t => {
  const refused: [what: string, hex: string][] = [
    ['a record', 'd4 72 40 91 a1 61 01'],
    ['a record of two bytes', 'd5 72 40 00 91 a1 61 01'],
    ['undefined', 'd4 00 00'],
    ['a BigInt', 'd7 42 0102030405060708'],
    ['a long BigInt', 'c7 09 42 010203040506070809'],
    ['a bundle of strings', 'd6 62 00000000 a0 a0'],
    ['an Error', 'd4 65 00 93 a5 4572726f72 a1 78 c0'],
    ['an id', 'd6 69 00000001 01'],
    ['a pointer', 'd6 70 00000001'],
    ['a RegExp', 'd4 78 00 92 a1 78 a0'],
    ['a Set', 'd4 73 00 91 01'],
    ['a typed array', 'c7 03 74 01 0102'],
    ['an ArrayBuffer', 'c7 03 74 10 0102'],
    ['an unknown extension', 'd4 05 00'],
    ['an unknown extension', 'c7 02 7f 0000'],
    ['the byte that msgpack does not use', 'c1'],
    ['nothing', ''],
    ['two values', '01 01']
  ]
  for (const [what, hex] of refused) {
    t.is(codeOf(decodeHex(hex, 0, false)), UNDECODABLE, what)
    t.is(codeOf(decodeHex(`91 ${hex}`, 0, false)), UNDECODABLE, `${what}, inside`)
  }
  t.deepEqual(decodeHex('92 40 7f', 0, false)(), [0x40, 0x7f], 'numbers that are ids in other bodies')
})

test("a flagged body holds none of msgpackr's types that stand for code or identity", t => {
  for (const [what, hex] of [
    ['an Error', 'd4 65 00 93 a5 4572726f72 a1 78 c0'],
    ['a RegExp', 'd4 78 00 92 a1 78 a0'],
    ['an id', 'd6 69 00000001 01'],
    ['a pointer', 'd6 70 00000001'],
    ['a bundle of strings', 'd6 62 00000000 a0 a0'],
    ['a typed array of an unknown kind', 'c7 03 74 0b 0102'],
    ['a typed array of odd length', 'c7 04 74 03 010203'],
    ['a typed array without a kind', 'c7 00 74'],
    ['a BigInt of no bytes', 'c7 00 42'],
    ['a Set of a number', 'd4 73 00 01'],
    ['an id beyond the table', 'd5 72 40 01 91 a1 61 01'],
    ['a negative id', 'd5 72 01 01 91 a1 61 01'],
    ['an id that stands for two bytes', '92 d5 72 40 00 91 a1 61 01 40 01 01'],
    ['keys that are a number', 'd4 72 40 01 01'],
    ['keys that are a string', 'd4 72 40 a1 61 01'],
    ['keys that are objects', 'd4 72 40 91 80 01'],
    ['the byte that msgpack does not use', '91 c1'],
    ['nothing', '']
  ] as const)
    t.is(codeOf(decodeHex(hex, 0)), UNDECODABLE, what)
})

test('records are refused where they were not agreed on', t => {
  const { bytes } = encode(newCodec(true), 'streamed', { a: 1 })
  t.is(
    codeOf(() => decodeBy(newCodec(false), bytes, 0, bytes.length, true, [], false)),
    UNDECODABLE
  )
  t.is(
    codeOf(() => decodeBy(newCodec(false), Buffer.from([1]), 0, 1, true, [], false)),
    UNDECODABLE
  )
})

/** A record definition whose list of keys is written by hand, in a body long enough to be looked at. */
function definition(id: number, keys: Buffer, values: Buffer): Body {
  const bytes = Buffer.concat([
    Buffer.from([0x92, 0xc5, 1, 0]),
    Buffer.alloc(256),
    Buffer.from([0xd4, 0x72, 0x40 + id]),
    keys,
    values
  ])
  return { bytes, flagged: true, descriptors: [], holes: 0 }
}

test('a definition with too many keys, too long ones, or keys that are no list is not kept', t => {
  const list = (count: number, key: Buffer): Buffer =>
    Buffer.concat([Buffer.from([0xdc, count >>> 8, count & 255]), ...Array<Buffer>(count).fill(key)])
  const text = (length: number): Buffer =>
    Buffer.concat([Buffer.from([0xda, length >>> 8, length & 255]), Buffer.alloc(length, 'k')])
  const cases: [what: string, keys: Buffer, count: number, allowed: boolean][] = [
    ['256 keys', list(256, text(1)), 256, true],
    ['257 keys', list(257, text(1)), 257, false],
    ['4096 bytes', list(1, text(4095)), 1, true],
    ['4097 bytes', list(1, text(4096)), 1, false],
    ['bytes', Buffer.from([0xc4, 2, 65, 66]), 2, false],
    ['a typed array', Buffer.from([0xc7, 3, 0x74, 1, 65, 66]), 2, false]
  ]
  for (const [what, keys, count, allowed] of cases) {
    const values = Buffer.alloc(count, 1)
    t.is(
      codeOf(() => decode(newCodec(true), definition(0, keys, values))),
      allowed ? undefined : UNDECODABLE,
      what
    )
    // What detached bodies define is theirs alone: too big, it is only not kept
    const codec = newCodec(true)
    t.is(
      codeOf(() => decode(codec, definition(32, keys, values))),
      undefined,
      `${what}, detached`
    )
    const use: Body = { bytes: Buffer.concat([Buffer.from([0x60]), values]), flagged: true, descriptors: [], holes: 0 }
    t.is(
      codeOf(() => decode(codec, use)),
      allowed ? undefined : UNDECODABLE,
      `${what}, used by a later body`
    )
  }
})

test('keys that are no list, in a body too short to be looked at, break nothing later', t => {
  const codec = newCodec(true)
  codeOf(() =>
    decode(codec, {
      bytes: Buffer.from('d47240c4024142 0101'.replace(' ', ''), 'hex'),
      flagged: true,
      descriptors: [],
      holes: 0
    })
  )
  t.is(
    codeOf(() => decode(codec, definition(1, Buffer.from([0x91, 0xa1, 0x61]), Buffer.from([1])))),
    UNDECODABLE
  )
})

/** How many functions are compiled while `body` runs. */
function compiledBy(body: () => void): number {
  const original = globalThis.Function
  let count = 0
  globalThis.Function = new Proxy(original, {
    construct: (target, args) => {
      count++
      return Reflect.construct(target, args)
    }
  })
  try {
    body()
  } finally {
    globalThis.Function = original
  }
  return count
}

test('a reader is compiled for a shape that is used often, once, and for no other', t => {
  const sender = newCodec(true)
  const receiver = newCodec(true)
  const counts = Array.from({ length: 200 }, (_, index) =>
    compiledBy(() => {
      decode(receiver, encode(sender, 'streamed', { 'a shape that is used here alone': index }))
    })
  )
  t.is(
    counts.reduce((all, count) => all + count),
    1
  )
  t.true(counts.indexOf(1) >= 60)
})

test('a hostile body makes us compile a reader for each 64 bytes of it at most', t => {
  const definition = (key: string): Buffer =>
    Buffer.concat([Buffer.from([0xd4, 0x72, 0x40, 0x91, 0xa0 | key.length]), Buffer.from(key), Buffer.from([1])])
  const bodyOf = (count: number, uses: number, keys: (index: number) => Buffer, use: number[]): Buffer => {
    const parts = Array.from({ length: count }, (_, index) =>
      Buffer.concat([keys(index), ...Array<Buffer>(uses).fill(Buffer.from(use))])
    )
    const head = Buffer.from([0xdd, 0, 0, 0, 0])
    head.writeUInt32BE(count * (uses + 1), 1)
    return Buffer.concat([head, ...parts])
  }
  const empty = Buffer.from([0xd4, 0x72, 0x40, 0x90])
  const wide = (index: number): Buffer =>
    Buffer.concat([
      Buffer.from([0xd4, 0x72, 0x40, 0xdc, 0, 33]),
      ...Array.from({ length: 33 }, (_, key) =>
        Buffer.from(`\xa6${index % 10}-${String(key).padStart(4, '0')}`, 'latin1')
      ),
      Buffer.alloc(33)
    ])
  const cases: [what: string, body: Buffer, compiled: number][] = [
    ['one key, four uses', bodyOf(2000, 3, index => definition(`four ${index}`), [0x40, 1]), 0],
    ['one key, 60 uses', bodyOf(300, 59, index => definition(`sixty ${index}`), [0x40, 1]), 0],
    ['one key, 100 uses', bodyOf(300, 99, index => definition(`hundred ${index}`), [0x40, 1]), 300],
    ['no key at all', bodyOf(2000, 99, () => empty, [0x40]), 1],
    ['the same key', bodyOf(2000, 3, () => definition('the same key'), [0x40, 1]), 1],
    ['33 keys, which are not kept by shape', bodyOf(50, 9, wide, [0x40, ...Array<number>(33).fill(0)]), 0],
    ['33 keys, 100 uses', bodyOf(20, 99, wide, [0x40, ...Array<number>(33).fill(0)]), 20]
  ]
  for (const [what, bytes, compiled] of cases) {
    const count = compiledBy(() => decode(newCodec(true), { bytes, flagged: true, descriptors: [], holes: 0 }, true))
    t.is(count, compiled, `${what}: ${count}`)
    t.true(count <= bytes.length / 64, `${what}: ${count} for ${bytes.length} bytes`)
  }
})

test('hostile definitions keep a bounded memory', async t => {
  const fixture = fileURLToPath(new URL('../fixtures/hostile-records.mjs', import.meta.url))
  const { line, exit } = start(process.execPath, ['--expose-gc', '--no-compilation-cache', fixture])
  const kept = JSON.parse(await line()) as Record<string, number>
  t.is((await exit).code, 0)
  t.deepEqual(Object.keys(kept), ['next to long strings', 'many keys', 'detached', 'two-byte ids'])
  for (const [what, bytes] of Object.entries(kept)) t.true(bytes < 6 * 1048576, `${what}: ${bytes} bytes`)
})

// --- anything at all from a peer

/** Bodies of every kind, to be broken. */
function samples(pool: readonly Descriptor[]): { body: Body; value: unknown }[] {
  const values: [value: unknown, plain: boolean][] = [
    [{ name: 'access.log', count: 3, list: [1, -1, 300, 70_000, 1.5], flag: true, none: null }, true],
    [{ file: pool[0], more: [pool[1], { deep: pool[2] }] }, true],
    [[pool[0]], true],
    [{ when: new Date(1e12), date: new Date(-5), text: 'é'.repeat(40), long: 'x'.repeat(70) }, true],
    [{ bytes: Buffer.from('abcdef'), more: Buffer.alloc(20, 7) }, true],
    [Array.from({ length: 20 }, (_, i) => ({ [`k${i}`]: i })), false],
    [Array.from({ length: 6 }, (_, i) => ({ id: i, tags: ['a', 'b'] })), false],
    [
      new Map<unknown, unknown>([
        [1, 'one'],
        ['two', new Set([1, 2, { three: 3 }])],
        [{ four: 4 }, undefined]
      ]),
      false
    ],
    [
      [
        2n ** 70n,
        -5n,
        2n ** 64n - 1n,
        new Float64Array([1, 2]),
        new Uint16Array([1, 2, 3]),
        new DataView(new ArrayBuffer(4))
      ],
      false
    ],
    [{ ...objectOf(17, 3), buffer: new ArrayBuffer(3) }, false]
  ]
  return values.flatMap(([value, plain]) =>
    MODES.filter(mode => plain || mode !== 'plain').map(mode => ({
      body: encode(newCodec(true), mode, value),
      value: mode === 'plain' ? asPlain(value) : value
    }))
  )
}

test('a body with any byte changed, removed or added, or cut anywhere, decodes or is refused by code', t => {
  const reference = newCodec(true)
  const sender = newCodec(true)
  const expected = { reference: 1, list: ['two', { three: 3n }], again: [{ four: 4 }, { four: 4 }] }
  decode(reference, encode(sender, 'streamed', expected))
  const good = encode(sender, 'streamed', expected)
  const goodPlain = encode(sender, 'plain', { plain: 'reference', list: [1, 2] })
  const outcomes = new Map<string, number>()
  let slowest = 0
  const attempt = (body: Body, bytes: Buffer): void => {
    for (const [flagged, own] of [
      [body.flagged, false],
      [body.flagged, true],
      [!body.flagged, false]
    ] as const) {
      const codec = newCodec(true)
      const began = process.cpuUsage()
      let outcome: string
      try {
        decode(codec, { ...body, bytes, flagged }, own)
        outcome = 'decoded'
      } catch (error) {
        outcome = error instanceof PassfdError ? error.code : String((error as Error).stack)
      }
      slowest = Math.max(slowest, process.cpuUsage(began).user)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      if (![UNDECODABLE, DESCRIPTOR_COUNT, 'decoded'].includes(outcome)) t.fail(`${bytes.toString('hex')}: ${outcome}`)
    }
    if (!isDeepStrictEqual(decode(reference, good), expected)) t.fail(`${bytes.toString('hex')} broke another codec`)
    if (!isDeepStrictEqual(decode(reference, goodPlain), { plain: 'reference', list: [1, 2] })) t.fail('plain')
  }
  withPool(3, pool => {
    for (const { body, value } of samples(pool)) {
      const { bytes } = body
      for (let at = 0; at < bytes.length; at++) {
        attempt(body, bytes.subarray(0, at))
        const changes = [0x00, 0xff, bytes[at]! ^ 1, bytes[at]! ^ 0x40, 0xc1, 0xdf]
        // A normal run takes the two that turn up most kinds of nonsense, and one of the others, by turns
        for (const change of isFull ? changes : [0xc1, 0xdf, changes[at % 4]!]) {
          const changed = Buffer.from(bytes)
          changed[at] = change
          attempt(body, changed)
        }
        attempt(body, Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]))
        attempt(body, Buffer.concat([bytes.subarray(0, at), Buffer.from([0xd4, 0x72]), bytes.subarray(at)]))
        if (!sameValue(decode(newCodec(true), body), value)) t.fail(`${bytes.toString('hex')}, after byte ${at}`)
      }
    }
  })
  t.deepEqual([...outcomes.keys()].sort(), [DESCRIPTOR_COUNT, UNDECODABLE, 'decoded'])
  t.true(slowest < 1_000_000, `the slowest took ${slowest} µs`)
})

test('any bytes at all decode or are refused by code, in a codec in use', t => {
  const tokens = fc.constantFrom(
    ...[
      0xd4, 0x72, 0x40, 0x41, 0x60, 0x91, 0x92, 0xa1, 0x61, 0x81, 0xc4, 0xc7, 0xc8, 0x74, 0x73, 0x42, 0x46, 0xd5, 0xd6,
      0xdc, 0xdd, 0xde
    ]
  )
  const bytes = fc.array(fc.oneof(tokens, fc.nat(255)), { maxLength: 60 }).map(list => Buffer.from(list))
  fc.assert(
    fc.property(
      fc.array(fc.tuple(bytes, fc.boolean(), fc.boolean()), { maxLength: 6 }),
      fc.boolean(),
      (bodies, long) => {
        const codec = newCodec(true)
        const independent = newCodec(true)
        decode(codec, encode(newCodec(true), 'streamed', [{ a: 1, b: 2 }, { c: 3 }]))
        for (const [given, flagged, own] of bodies) {
          // Long enough for the definitions to be looked at
          const bytes = long ? Buffer.concat([Buffer.from([0x92, 0xc5, 1, 0]), Buffer.alloc(256), given]) : given
          const code = codeOf(() => decode(codec, { bytes, flagged, descriptors: [], holes: 0 }, own))
          if (code !== undefined && code !== UNDECODABLE && code !== DESCRIPTOR_COUNT) return false
        }
        const value = { independent: [1, { a: 1 }] }
        return isDeepStrictEqual(decode(independent, encode(newCodec(true), 'streamed', value)), value)
      }
    ),
    { numRuns: times(300, 3000) }
  )
  t.pass()
})

test('lengths that the body does not have are refused at once', t => {
  for (const hex of [
    'dd ffffffff',
    'df ffffffff',
    'db ffffffff',
    'c6 ffffffff',
    'c9 ffffffff 74',
    'dc ffff',
    'de ffff',
    'd9 ff',
    'c4 ff',
    'd4 72 40 dd ffffffff',
    `${'dd 0000ffff'.repeat(200)}`
  ]) {
    const began = process.cpuUsage()
    t.is(codeOf(decodeHex(hex, 0)), UNDECODABLE, hex)
    t.true(process.cpuUsage(began).user < 500_000, hex)
  }
})

// --- the other entry points

test('a detached body becomes a plain one, its descriptors and binary values with it', t => {
  withPool(8, pool => {
    fc.assert(
      fc.property(plainValue, given => {
        const value = place(given, pool)
        const sender = newCodec(true)
        const encoded = encodeBy(sender, value, false)
        const { start, end, holes } = encoded
        const descriptors = encoded.descriptors
        // As the session keeps what waits
        const bytes = Buffer.from(encoded.bytes.subarray(start, end))
        const plain = bodyOf(detachedToPlain(bytes.subarray(HEADER), descriptors.length, holes))
        return !plain.flagged && sameValue(decode(newCodec(false), { ...plain, descriptors }), asPlain(value))
      }),
      { numRuns: times(50, 200) }
    )
  })
  t.pass()
})

test('small maps for hello, fault and goodbye are plain', t => {
  const encoded = encodePlain({ version: 1, features: ['records'] })
  const { bytes, flagged } = bodyOf(encoded)
  t.false(flagged)
  t.deepEqual(decodePlain(bodyIn(bytes, 0, bytes.length)), { version: 1, features: ['records'] })
  t.is(decodePlain(bodyIn(bytes, 5, 5)), undefined, 'no body')
  t.is(
    codeOf(() => decodePlain(bodyIn(Buffer.from([0xd4, 0x46, 0]), 0, 3))),
    DESCRIPTOR_COUNT
  )
})

test('strings of every length arrive as UTF-8 has them, wherever they stand, also at a byte order mark and in keys', t => {
  const texts = ['a', 'é', '€', '😀', '\ufeff', '\0', '\x7f', '\u0080', '\uffff']
  for (const mode of MODES) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    for (let length = 0; length < 300; length += length < 80 ? 1 : 37) {
      for (const text of texts) {
        const string = text.repeat(length)
        const mixed = `${text}${'b'.repeat(length)}${text}`
        const value = { string, list: [mixed, string], [`key ${string}`]: 1, '': { [mixed]: string } }
        if (!isDeepStrictEqual(decode(receiver, encode(sender, mode, value)), value))
          t.fail(`${mode}: ${length} × ${text}`)
      }
    }
  }
  t.pass()
})

test('what is no UTF-8 becomes what TextDecoder makes of it, at every length of a string', t => {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  const codec = newCodec(true)
  const header = (length: number): number[] =>
    length < 32 ? [0xa0 | length] : length < 256 ? [0xd9, length] : [0xda, length >> 8, length & 255]
  const bytes = fc.array(
    fc.oneof(fc.constantFrom(0x61, 0x80, 0xbf, 0xc0, 0xc3, 0xe2, 0x82, 0xac, 0xed, 0xf0, 0xf4, 0xff), fc.nat(255)),
    { maxLength: 300, size: 'max' }
  )
  fc.assert(
    fc.property(
      bytes,
      bytes.map(list => list.slice(0, 31)),
      (list, key) => {
        const body = Buffer.from([0x82, ...header(key.length), ...key, ...header(list.length), ...list, 0xa1, 0x7a, 1])
        const expected = { [decoder.decode(Uint8Array.from(key))]: decoder.decode(Uint8Array.from(list)), z: 1 }
        const names = Object.keys(expected)
        if (names.length < 2) return
        t.deepEqual(decode(codec, { bytes: body, flagged: false, descriptors: [], holes: 0 }), expected)
      }
    ),
    { numRuns: times(75, 300) }
  )
})

// --- trap 40

const require = createRequire(import.meta.url)
const required = require('msgpackr') as typeof theirs
const THEIRS = [
  ['import', theirs],
  ['require', required]
] as const

/** Another user of msgpackr, with habits of their own. */
class Foreign {
  readonly value: unknown
  constructor(value: unknown) {
    this.value = value
  }
}

for (const [how, module] of THEIRS) {
  test(`trap 40: another user of msgpackr (${how}) and we don't see each other`, t => {
    // They use our number for something else, and a buffer of their own
    module.addExtension({
      Class: Foreign,
      type: 70,
      pack: () => Buffer.from([1, 2]),
      unpack: () => new Foreign('theirs')
    } as never)
    const packr = new module.Packr({ structures: [] } as never)
    const buffer = Buffer.alloc(8192)
    ;(packr as unknown as { useBuffer(buffer: Buffer): void }).useBuffer(buffer)
    const theirValue = { foreign: new Foreign(1), list: [{ x: 1 }, { x: 2 }], text: 'theirs' }
    const check = (): void => {
      const packed = packr.pack(theirValue)
      const unpacked = packr.unpack(packed) as typeof theirValue
      t.true(unpacked.foreign instanceof Foreign)
      t.deepEqual(unpacked.list, theirValue.list)
      t.deepEqual(module.unpack(module.pack(theirValue.list)), theirValue.list)
    }
    const descriptor = Descriptor.openSync('/dev/null')
    for (const mode of MODES) {
      const sender = newCodec(true)
      const receiver = newCodec(true)
      const slab = Buffer.alloc(65536)
      for (let i = 0; i < 20; i++) {
        check()
        // Between our calls, and inside one
        const value = {
          i,
          file: descriptor,
          get inside() {
            check()
            return 'inside'
          },
          toJSON: undefined
        }
        const body = encode(sender, mode, value, slab, i * 100)
        const packed = packr.pack(theirValue) // must not land in our slab
        t.is(packed.buffer === slab.buffer, false)
        check()
        const { file, ...rest } = decode(receiver, body) as typeof value
        t.is(file, descriptor)
        t.deepEqual(rest as unknown, { i, inside: 'inside', toJSON: mode === 'plain' ? null : undefined })
      }
    }
    // Our Descriptor means nothing to them, theirs nothing to us
    t.throws(() => module.pack({ descriptor }), { code: 'ERR_PASSFD_ENCODE' })
    descriptor.close()
    const codec = newCodec(true)
    t.deepEqual(decode(codec, encode(codec, 'streamed', new Foreign(1))), { value: 1 })
  })
}

test('trap 40: a program that loaded msgpackr before us keeps its own', async t => {
  const { line, exit } = startFixture('msgpackr-first')
  t.deepEqual(JSON.parse(await line()), {
    same: true,
    theirs: 'theirs',
    ours: 'file',
    message: { a: 1, list: [{ b: 2 }] }
  })
  t.is((await exit).code, 0)
})

test('trap 40: what was queued is not packed over, whoever packs before it leaves', async t => {
  const [left, right] = await connected()
  const values = Array.from({ length: 50 }, (_, i) => ({ number: i, text: `message ${i}`, [`only${i % 40}`]: i }))
  const received: unknown[] = []
  const all = new Promise<void>(resolve => {
    right.on('message', ({ value }) => {
      received.push(value)
      if (received.length === values.length) resolve()
    })
  })
  for (const value of values) {
    void left.send(value)
    for (const [, module] of THEIRS) module.pack({ overwrites: 'x'.repeat(100), list: Array(50).fill({ y: 1 }) })
  }
  await all
  t.deepEqual(received, values)
  await closeAll(left, right)
})

test('trap 40: received Buffers are copies that the next read does not overwrite', async t => {
  const [left, right] = await connected()
  const received: Buffer[] = []
  const all = new Promise<void>(resolve => {
    right.on('message', ({ value }) => {
      received.push((value as { bytes: Buffer }).bytes)
      if (received.length === 40) resolve()
    })
  })
  const sizes = [1, 100, 5000, 40_000, 70_000]
  for (let i = 0; i < 40; i++) await left.send({ bytes: Buffer.alloc(sizes[i % 5]!, i) })
  await all
  t.true(received.every((bytes, i) => bytes.length === sizes[i % 5] && bytes.every(byte => byte === i)))
  await closeAll(left, right)
})

test('trap 40: a message that could not be packed misnames no field of a later one', async t => {
  const [left, right] = await connected()
  const received: unknown[] = []
  const all = new Promise<void>(resolve => {
    right.on('message', ({ value }) => {
      received.push(value)
      if (received.length === 6) resolve()
    })
  })
  const sent: unknown[] = []
  const send = (value: unknown): void => {
    void left.send(value)
    sent.push(value)
  }
  send({ a: 1 })
  t.throws(() => left.send([{ b: 1 }, { c: 1 }, () => {}]), { code: 'ERR_PASSFD_ENCODE' })
  send({ d: 2 })
  send({ b: 3 })
  // Packed, but over a limit: its definitions don't leave either
  t.throws(() => left.send([{ e: 1 }, { f: 1 }, Buffer.alloc(3 << 20)]), { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' })
  send({ f: 4 })
  send({ e: 5 })
  send({ a: 6 })
  await all
  t.deepEqual(received, sent)
  await closeAll(left, right)
})

test('timestamps: the three forms of the standard, and no others', t => {
  const decode = (hex: string) => decodePlain(bodyIn(Buffer.from(hex, 'hex'), 0, hex.length / 2))
  t.deepEqual(decode('d6ff00000001'), new Date(1000))
  t.deepEqual(decode('d7ff773594000000000a'), new Date(10_500))
  t.deepEqual(decode('c70cff1dcd6500ffffffffffffffff'), new Date(-500))
  t.deepEqual(decode('d7ff0000000100000000'), new Date(2 ** 32 * 1000))
  for (const hex of ['c703ff000000', 'd5ff0000', 'c700ff'])
    t.throws(() => decode(hex), { code: 'ERR_PASSFD_UNDECODABLE' })
})
