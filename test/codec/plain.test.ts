import fc from 'fast-check'
import { HEADER } from '../../src/codec/frame.ts'
import { decodePlain, detachedToPlain, encodePlain } from '../../src/codec/plain.ts'
import {
  bodyOf,
  codeOf,
  DESCRIPTOR_COUNT,
  decode,
  decodeHex,
  newCodec,
  UNDECODABLE,
  withPool
} from '../helpers/bodies.ts'
import { bodyIn, encodeBy } from '../helpers/codec.ts'
import { times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'
import { asPlain, place, plainValue, sameValue } from '../helpers/values.ts'

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

test('timestamps: the three forms of the standard, and no others', t => {
  const decode = (hex: string) => decodePlain(bodyIn(Buffer.from(hex, 'hex'), 0, hex.length / 2))
  t.deepEqual(decode('d6ff00000001'), new Date(1000))
  t.deepEqual(decode('d7ff773594000000000a'), new Date(10_500))
  t.deepEqual(decode('c70cff1dcd6500ffffffffffffffff'), new Date(-500))
  t.deepEqual(decode('d7ff0000000100000000'), new Date(2 ** 32 * 1000))
  for (const hex of ['c703ff000000', 'd5ff0000', 'c700ff'])
    t.throws(() => decode(hex), { code: 'ERR_PASSFD_UNDECODABLE' })
})
