import { isDeepStrictEqual } from 'node:util'
import { BY_REFERENCE } from '../../src/codec/packers.ts'
import { codeOf, decode, encode, MODES, newCodec } from '../helpers/bodies.ts'
import { decodeBy, encodeBy } from '../helpers/codec.ts'
import { test } from '../helpers/test.ts'
import { asPlain, sameValue } from '../helpers/values.ts'

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
