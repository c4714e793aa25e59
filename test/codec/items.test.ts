/** How many values a body has: the oracle counts what msgpackr decodes. */
import fc from 'fast-check'
import { Packr } from 'msgpackr'
import { CONTAINER, hasMoreValues } from '../../src/codec/items.ts'
import { times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'

const plain = new Packr({ useRecords: false, variableMapSize: true })

function countOf(value: unknown): number {
  if (Array.isArray(value)) return value.reduce((sum, one) => sum + countOf(one), CONTAINER)
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return 1
  return Object.values(value).reduce((sum: number, one) => sum + 1 + countOf(one), CONTAINER)
}

const anyPlain = fc.letrec(tie => ({
  value: fc.oneof(
    { depthSize: 'medium' },
    fc.constantFrom(null, true, false, 0, -1, -33, 127, 128, 255, 256, -129, -32_769, 65_536, 2 ** 32, -(2 ** 40), 1.5),
    fc.integer(),
    fc.double(),
    fc.string({ maxLength: 300 }),
    fc.uint8Array({ maxLength: 300 }).map(bytes => Buffer.from(bytes)),
    fc.constantFrom('x'.repeat(40_000), 'x'.repeat(70_000), Buffer.alloc(40_000), Buffer.alloc(70_000)),
    fc.constant(Array(70_000).fill(1)),
    fc.array(tie('value'), { maxLength: 20 }),
    fc.dictionary(fc.string({ maxLength: 40 }), tie('value'), { maxKeys: 20 })
  )
})).value

test('the values of any body are counted as a decoder meets them', t => {
  fc.assert(
    fc.property(anyPlain, value => {
      const body = Buffer.concat([Buffer.alloc(3), plain.pack(value), Buffer.alloc(3)])
      const [start, end] = [3, body.length - 3]
      const count = countOf(plain.unpack(body.subarray(start, end)))
      t.false(hasMoreValues(body, start, end, count))
      t.true(hasMoreValues(body, start, end, count - 1))
    }),
    { numRuns: times(200, 5000) }
  )
})

test('each byte of an extension counts', t => {
  const extensions = [
    [0xd4, 70, 1],
    [0xd5, 1, 0xdb, 0xdb],
    [0xd8, 1, ...Array(16).fill(0xc0)],
    [0xc7, 2, 1, 0xc0, 0xc0],
    [0xc8, 0, 1, 1, 0xdb],
    [0xc9, 0, 0, 0, 0, 1]
  ]
  const counts = [3, 4, 18, 4, 3, 2]
  for (const [i, bytes] of extensions.entries()) {
    const body = Buffer.from([0x92, ...bytes, 0xc0])
    t.false(hasMoreValues(body, 0, body.length, counts[i]! + CONTAINER + 1), `${i}`)
    t.true(hasMoreValues(body, 0, body.length, counts[i]! + CONTAINER), `${i}`)
  }
})

test('bytes that are no msgpack, or end too early, end the count', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(50), (bytes, most) => {
      t.is(typeof hasMoreValues(Buffer.from(bytes), 0, bytes.length, most), 'boolean')
    })
  )
})
