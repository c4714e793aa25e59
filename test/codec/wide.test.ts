/** Wide bodies: values as `structuredClone` has them, more descriptors than a message carries, and bytes that nobody of ours has made. */
import * as assert from 'node:assert'
import fc from 'fast-check'
import { PassfdError } from '../../src/base/errors.ts'
import { decodeWide, encodeWide } from '../../src/codec/wide.ts'
import { Connection } from '../../src/connection/connection.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { anyValue } from '../helpers/any-value.ts'
import { asClone, wellFormed } from '../helpers/clone.ts'
import { times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'

/** A pipe's read end, as often as wanted. */
function copies(count: number): Descriptor[] {
  const { readable, writable } = Descriptor.pipe()
  writable.close()
  return [readable, ...Array.from({ length: count - 1 }, () => readable.dup())]
}

function close(descriptors: Iterable<Descriptor>): void {
  for (const descriptor of descriptors) descriptor[Symbol.dispose]()
}

test('a value arrives as structuredClone has it, or is refused', t => {
  let passed = 0
  fc.assert(
    fc.property(anyValue, value => {
      let clone: { value: unknown } | undefined
      try {
        clone = { value: structuredClone(value) }
      } catch {
        // passfd must refuse it too
      }
      let bytes: Buffer
      try {
        ;({ bytes } = encodeWide(value))
      } catch (error) {
        assert.equal((error as PassfdError).code, 'ERR_PASSFD_ENCODE')
        return
      }
      assert.ok(clone !== undefined, 'structuredClone refuses it')
      assert.deepStrictEqual(asClone(decodeWide(Buffer.from(bytes), [])), asClone(wellFormed(clone.value)))
      passed++
    }),
    { numRuns: times(300, 20_000) }
  )
  t.true(passed > 100)
})

test('600 descriptors and 100 connections: each is where it was, and stays the sender’s', t => {
  const all = copies(700)
  const given = all.slice(0, 600)
  const connections = copies(100).map((copy, index) => new Connection(copy, Buffer.from(`head ${index}`)))
  const value = { big: Buffer.alloc(300_000, 7), given, by: new Map([['live', connections]]), last: given[0] }
  t.throws(() => encodeWide(value), { code: 'ERR_PASSFD_DESCRIPTOR_REPEATED' })
  const { last: _, ...once } = value
  const { bytes, descriptors } = encodeWide(once)
  t.is(descriptors.length, 700)
  t.true(given.every((descriptor, index) => descriptors[index] === descriptor && !descriptor.closed))
  t.true(connections.every(({ closed }) => !closed))
  const received = descriptors.map(descriptor => descriptor.dup())
  const decoded = decodeWide(bytes, received) as typeof once
  t.true(Buffer.isBuffer(decoded.big) && decoded.big.equals(value.big))
  t.true(decoded.given.every((descriptor, index) => descriptor === received[index]))
  const live = decoded.by.get('live')!
  t.deepEqual(
    live.map(({ head }) => `${head}`),
    connections.map(({ head }) => `${head}`)
  )
  for (const connection of [...live, ...connections]) connection.close()
  close([...all, ...received])
})

test('descriptors that are closed, too few, too many, or named twice', t => {
  const [gone] = copies(1) as [Descriptor]
  gone.close()
  t.throws(() => encodeWide({ gone }), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  const two = copies(2)
  const { bytes } = encodeWide(two)
  const more = copies(3)
  for (const received of [[], more.slice(0, 1), more])
    t.throws(() => decodeWide(bytes, received), { instanceOf: PassfdError })
  // The second one's index is that of the first
  const forged = Buffer.from(bytes)
  const at = forged.lastIndexOf(Buffer.from([1, 0, 0, 0]))
  forged.writeUInt32LE(0, at)
  t.throws(() => decodeWide(forged, more.slice(0, 2)), { instanceOf: PassfdError })
  forged.writeUInt32LE(0xffffffff, at)
  t.throws(() => decodeWide(forged, more.slice(0, 2)), { instanceOf: PassfdError })
  t.true(more.every(({ closed }) => !closed))
  close([...two, ...more])
})

test('hostile bytes: an error of passfd’s, and the descriptors stay the caller’s', t => {
  const all = copies(3)
  const received = copies(3)
  const connection = new Connection(all[2]!, Buffer.from('head'))
  const value = { a: [1, { b: 'text', c: new Map([[1, new Set([2n])]]) }], all: all.slice(0, 2), connection }
  const { bytes } = encodeWide(value)
  const hostile = (body: Buffer): void => {
    try {
      decodeWide(body, received)
    } catch (error) {
      assert.ok(error instanceof PassfdError, String(error))
    }
    assert.ok(received.every(({ closed }) => !closed))
  }
  for (let length = 0; length < bytes.length; length++) {
    t.throws(() => decodeWide(Buffer.from(bytes.subarray(0, length)), received), { instanceOf: PassfdError })
  }
  for (let at = 0; at < bytes.length; at++)
    for (const byte of [0, 0x7f, 0xc1, 0xc7, 0xc8, 0xd4, 0xd6, 0xd8, 0xff]) {
      const forged = Buffer.from(bytes)
      forged[at] = byte
      hostile(forged)
    }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), body => hostile(Buffer.from(body))),
    { numRuns: times(500, 50_000) }
  )
  // What has failed leaves nothing behind for the next one
  t.deepEqual(decodeWide(encodeWide([1]).bytes, []), [1])
  connection.close()
  close([...all, ...received])
})
