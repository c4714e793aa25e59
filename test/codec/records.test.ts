import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { type Body, codeOf, decode, encode, MODES, newCodec, UNDECODABLE } from '../helpers/bodies.ts'
import { decodeBy } from '../helpers/codec.ts'
import { start } from '../helpers/process.ts'
import { test, testInCi } from '../helpers/test.ts'

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

testInCi('hostile definitions keep a bounded memory', async t => {
  const fixture = fileURLToPath(new URL('../fixtures/hostile-records.mjs', import.meta.url))
  const { line, exit } = start(process.execPath, ['--expose-gc', '--no-compilation-cache', fixture])
  const kept = JSON.parse(await line()) as Record<string, number>
  t.is((await exit).code, 0)
  t.deepEqual(Object.keys(kept), ['next to long strings', 'many keys', 'detached', 'two-byte ids'])
  for (const [what, bytes] of Object.entries(kept)) t.true(bytes < 6 * 1048576, `${what}: ${bytes} bytes`)
})
