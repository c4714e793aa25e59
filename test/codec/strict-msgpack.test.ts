/** The plain encoding, read by a decoder that is not ours: Python's msgpack, with `strict_map_key=False` and nothing else. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { PassfdError } from '../../src/base/errors.ts'
import { encodeFault } from '../../src/channel/fault.ts'
import { Codec } from '../../src/codec/codec.ts'
import { HEADER } from '../../src/codec/frame.ts'
import { anyKey, anyValue, isRefused } from '../helpers/any-value.ts'
import { decodeBy, encodeBy } from '../helpers/codec.ts'
import { times } from '../helpers/full.ts'
import { type Running, start } from '../helpers/process.ts'
import { test, testIf } from '../helpers/test.ts'

const python = '/usr/bin/python3'
const missing = existsSync(python) ? undefined : 'python3'
const fixture = fileURLToPath(new URL('../fixtures/strict-msgpack.py', import.meta.url))

/** What the fixture says of a body. */
type Told = null | boolean | ['array', Told[]] | ['map', [Told, Told][]] | [kind: string, ...rest: (string | number)[]]

async function withPython(body: (decode: (bytes: Uint8Array) => Promise<Told>) => Promise<void>): Promise<void> {
  const running: Running = start(python, [fixture])
  try {
    await body(async bytes => {
      const head = Buffer.alloc(4)
      head.writeUInt32BE(bytes.length)
      running.child.stdin!.write(Buffer.concat([head, bytes]))
      return JSON.parse(await running.line())
    })
  } finally {
    running.child.stdin!.end()
    await running.exit
  }
}

const codec = new Codec()

/** The body in the plain encoding, or the error. */
function encoded(value: unknown): Buffer | PassfdError {
  try {
    const { bytes, start, end } = encodeBy(codec, value, true)
    return Buffer.from(bytes.subarray(start + HEADER, end))
  } catch (error) {
    if (!(error instanceof PassfdError) || error.code !== 'ERR_PASSFD_ENCODE') throw error
    return error
  }
}

/** What Python is to find. */
function expected(value: unknown): Told {
  switch (typeof value) {
    case 'boolean':
      return value
    case 'undefined':
      return null
    case 'bigint':
      return ['int', String(value)]
    case 'string':
      return ['str', Buffer.from(value.toWellFormed()).toString('hex')]
    case 'number': {
      if (Number.isInteger(value) && !Object.is(value, -0) && value >= -(2 ** 31) && value < 2 ** 32)
        return ['int', String(value)]
      const bytes = Buffer.alloc(8)
      bytes.writeDoubleBE(value)
      return ['float', bytes.toString('hex')]
    }
  }
  if (value === null) return null
  if (ArrayBuffer.isView(value))
    return ['bin', Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')]
  if (value instanceof ArrayBuffer) return ['bin', Buffer.from(value).toString('hex')]
  if (value instanceof Date) {
    const seconds = Math.floor(value.getTime() / 1000)
    return ['time', String(seconds), String((value.getTime() - seconds * 1000) * 1_000_000)]
  }
  if (Array.isArray(value)) return ['array', Array.from(value, expected)]
  if (value instanceof Set) return ['array', Array.from(value, expected)]
  const entries: Iterable<[unknown, unknown]> = value instanceof Map ? value : Object.entries(value as object)
  return ['map', Array.from(entries, ([key, item]): [Told, Told] => [expected(key), expected(item)])]
}

testIf(missing, 'what is encoded without records is what a strict decoder takes, with the same meaning', async t => {
  let refused = 0
  let taken = 0
  await withPython(async decode => {
    await fc.assert(
      fc.asyncProperty(anyValue, async value => {
        const body = encoded(value)
        if (body instanceof PassfdError) {
          refused++
          // For what it says, and at a place
          return isRefused(value, false) && /^The value can't be sent: value[ .[]/.test(body.message)
        }
        taken++
        const told = await decode(body)
        if (isDeepStrictEqual(told, expected(value))) return true
        throw new Error(`${JSON.stringify(told)} instead of ${JSON.stringify(expected(value))}`)
      }),
      { numRuns: times(150, 10_000) }
    )
  })
  t.true(taken > 50 && refused > 5, `${taken}, ${refused}`)
})

testIf(missing, 'keys of a Map: whatever passes is the same number of entries there', async t => {
  let refused = 0
  await withPython(async decode => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(anyKey, fc.nat(9)), { maxLength: 5 }), async entries => {
        const map = new Map(entries)
        const body = encoded(map)
        if (body instanceof PassfdError) {
          refused++
          return isRefused(map, false)
        }
        const told = (await decode(body)) as ['map', [Told, Told][]]
        const ours = decodeBy(codec, body, 0, body.length, false, [], false) as object
        return isDeepStrictEqual(told, expected(map)) && Object.keys(ours).length === map.size
      }),
      { numRuns: times(200, 10_000) }
    )
  })
  t.true(refused > 20, `${refused}`)
})

testIf(missing, 'the data, message and code of a fault', async t => {
  await withPython(async decode => {
    const slab = Buffer.alloc(65536)
    for (const data of [
      new Map([[{ a: 1 }, 1]]),
      new Date(Number.NaN),
      '\ud800',
      { '\udfff': ['\ud800'] },
      new Map<unknown, unknown>([
        [1, 1],
        ['1', 2]
      ]),
      10n ** 30n,
      { fine: [1] }
    ]) {
      const error = Object.assign(new Error(`${'x'.repeat(511)}🌍`), { code: 'E\ud800', data })
      const { bytes, start, end } = encodeFault(error, 65536, { slab, slabEnd: 0 })
      const told = await decode(bytes.subarray(start + HEADER, end))
      t.is((told as ['map'])[0], 'map', JSON.stringify(told))
    }
  })
})

test('which keys a Map may have towards a peer without records', t => {
  const kept: [string, unknown[]][] = [
    ['strings', ['a', '', '__proto__', '1']],
    ['numbers', [0, -1, 1.5, Number.NaN, Infinity, 2 ** 60]],
    ['BigInts of 64 bits', [2n ** 64n - 1n, -(2n ** 63n)]],
    ['booleans and null', [true, false, null]],
    ['undefined, as null', [undefined]]
  ]
  for (const [what, keys] of kept) t.true(Buffer.isBuffer(encoded(new Map(keys.map(key => [key, 1])))), what)
  const refused: [string, unknown[], RegExp][] = [
    ['an object', [{}], /value\.entries\(\)\[0\]\[0\] is a key of a Map: .*strings, numbers/],
    ['an array', ['a', [1]], /value\.entries\(\)\[1\]\[0\] is a key/],
    ['a Buffer', [Buffer.of(1)], /is a key/],
    ['a Date', [new Date(0)], /is a key/],
    ['a Map', [new Map()], /is a key/],
    ['a BigInt of more than 64 bits', [2n ** 64n], /is a BigInt of more than 64 bits/],
    ['a symbol', [Symbol('x')], /is a key/],
    ['1 and "1", one key of an object', [1, '1'], /another, "1"/],
    ['1 and 1n', [1, 1n], /another, "1"/],
    ['true and 1, equal in Python', [1, true], /another, "1"/],
    ['false and 0', [false, 0], /another, "0"/],
    ['2^63 as a number and as a BigInt', [2 ** 63, 2n ** 63n], /another/],
    ['null and undefined', [null, undefined], /another, "null"/],
    ['null and "null"', ['null', null], /another, "null"/],
    ['two lone surrogates', ['\ud800', '\ud801'], /another, "\ufffd"/]
  ]
  for (const [what, keys, message] of refused) {
    const error = encoded(new Map(keys.map(key => [key, 1])))
    if (error instanceof PassfdError) t.regex(error.message, message, what)
    else t.fail(what)
  }
})
