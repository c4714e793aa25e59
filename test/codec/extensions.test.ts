import { codeOf, decode, decodeHex, encode, newCodec, UNDECODABLE } from '../helpers/bodies.ts'
import { test } from '../helpers/test.ts'

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

test('bigints of every length arrive as they were sent', t => {
  for (let bits = 0; bits < 200; bits++)
    for (const near of [-1n, 0n, 1n])
      for (const sign of [1n, -1n]) {
        const value = sign * (2n ** BigInt(bits) + near)
        t.is(roundTrip(value), value)
      }
})

test('a BigInt may have more bytes than it needs', t => {
  t.is(decodeHex('d5 42 ff 80', 0)(), -128n)
  t.is(decodeHex('c7 06 42 ffffffffff80', 0)(), -128n)
  t.is(decodeHex('c7 07 42 ffffffffffff80', 0)(), -128n)
  t.is(decodeHex('c7 06 42 7fffffffffff', 0)(), 2n ** 47n - 1n)
})

test('each form of a timestamp is read, wherever it stands', t => {
  const times = [
    0,
    1,
    999,
    2 ** 32 * 1000 - 1,
    2 ** 32 * 1000,
    2 ** 34 * 1000 - 1,
    2 ** 34 * 1000,
    -1,
    -8.64e15,
    8.64e15
  ]
  for (const time of times) t.deepEqual(roundTrip(['ab', new Date(time), 1]), ['ab', new Date(time), 1])
  t.is(String(roundTrip(new Date(Number.NaN))), 'Invalid Date')
})

function roundTrip(value: unknown): unknown {
  const codec = newCodec(true)
  return decode(codec, encode(codec, 'detached', value))
}
