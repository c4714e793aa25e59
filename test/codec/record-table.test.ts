import { isDeepStrictEqual } from 'node:util'
import type { Timing } from '../../src/codec/codec.ts'
import { Encoded } from '../../src/codec/encoded.ts'
import { HEADER } from '../../src/codec/frame.ts'
import { encodePlain } from '../../src/codec/plain.ts'
import { type Body, bodyOf, codeOf, decode, encode, MODES, newCodec, objectOf, UNDECODABLE } from '../helpers/bodies.ts'
import { asClone } from '../helpers/clone.ts'
import { Random } from '../helpers/random.ts'
import { test } from '../helpers/test.ts'

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

test('after a row of flat records the table is made again as it was', t => {
  const sender = newCodec(true)
  const receiver = newCodec(true)
  const send = (value: unknown) => {
    const body = encode(sender, 'streamed', value)
    t.deepEqual(decode(receiver, body), value)
    return definedIds(body)
  }
  const row = (make: (id: number) => object) => {
    for (let id = 0; id < 40; id++) send(make(id))
  }
  t.deepEqual(send({ id: 0 }), [0])
  t.deepEqual(send({ b: 0, a: '' }), [1])
  row(id => ({ id }))
  t.deepEqual(send({ id: [0] }), [], 'the shape keeps its id')
  row(id => ({ b: id, a: 'x' }))
  t.deepEqual(send({ a: 0, id: { id: 0 } }), [2], 'a new one gets the next')
  row(id => ({ id }))
  t.deepEqual(send([{ a: 1, id: 2 }, { b: 1, a: 2 }, { id: 1 }]), [], 'all are known')
  // More shapes than ids, with rows in between: some replace others
  for (let round = 0; round < 100; round++) {
    row(id => ({ id }))
    send({ [`key${round % 40}`]: [round] })
    row(id => ({ [`key${round % 3}`]: id }))
  }
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

test('random rows of flat records, other values, failures, and bodies that overtake waiting ones', t => {
  for (let seed = 1; seed <= 150; seed++) randomSequence(new Random(seed), `seed ${seed}`)
  t.pass()
})

const KEYS = ['id', 'a', 'b', 'c', '0', '7', '10', 'constructor', 'toJSON', 'length', '__proto__', 'é', '', '-1', '1.5']

/** One channel: most bodies arrive at once; some wait, meanwhile others overtake them; some are never sent. */
function randomSequence(random: Random, name: string): void {
  const sender = newCodec(true)
  const receiver = newCodec(true)
  const slab = Buffer.alloc(65536)
  const waiting: { body: Body; streamed: boolean; expected: unknown }[] = []
  const shapes = Array.from({ length: random.pick([2, 4, 6, 40]) }, (_, index) => randomShape(random, index))
  const flat = () =>
    random.pick([random.integer(-70_000, 70_000), 'x'.repeat(random.integer(0, 63)), null, true, 0.5, -0])
  const record = (item: () => unknown) => withKeys(random.pick(shapes), item)
  const nested = () =>
    random.pick([flat, () => record(flat), () => [record(flat), record(flat)], () => 'é'.repeat(9)])()
  const pack = (value: unknown, timing: Timing) => sender.encode(value, timing, new Encoded(), { slab, slabEnd: 0 })
  const arrives = (body: Body, expected: unknown) => {
    if (!isDeepStrictEqual(asClone(decode(receiver, body)), expected)) throw new Error(`${name}: another value arrives`)
  }
  let row = 0
  for (let step = 0; step < 150; step++) {
    if (row === 0 && random.chance(0.1)) row = random.integer(10, 40)
    const value = row > 0 ? record(flat) : random.pick([record, nested])(nested)
    row = Math.max(0, row - 1)
    const expected = asClone(structuredClone(value))
    const timing = waiting.some(({ streamed }) => streamed) ? 'later' : 'next'
    const what = random.weighted([
      [12, 'sent'],
      [2, 'waits'],
      [2, 'goes on'],
      [1, 'forgotten'],
      [1, 'fails']
    ] as const)
    if (what === 'sent') arrives(bodyOf(pack(value, timing)), expected)
    else if (what === 'forgotten') sender.forget(pack(value, timing))
    else if (what === 'fails') codeOf(() => pack([value, { ...record(flat), no: () => {} }], timing))
    else if (what === 'waits') {
      const encoded = pack(value, 'later')
      waiting.push({ body: bodyOf(encoded), streamed: encoded.streamed, expected })
    } else for (const item of waiting.splice(0, random.integer(0, 4))) arrives(item.body, item.expected)
  }
}

function randomShape(random: Random, index: number): string[] {
  if (random.chance(0.03)) return Object.keys(objectOf(random.pick([25, 33, 257]), 5))
  const own = random.chance(0.5)
  return Array.from({ length: random.integer(0, 4) }, (_, at) => (own ? `${index}_${at}` : random.pick(KEYS)))
}

function withKeys(keys: readonly string[], item: () => unknown): object {
  const record = {}
  for (const key of keys)
    Object.defineProperty(record, key, { value: item(), writable: true, enumerable: true, configurable: true })
  return record
}
