/** What becomes of values, compared with what `structuredClone` makes of them; and what is refused, by name, place and remedy. */
import * as assert from 'node:assert'
import * as crypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import * as net from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import * as vm from 'node:vm'
import { MessageChannel } from 'node:worker_threads'
import fc from 'fast-check'
import { PassfdError } from '../../src/base/errors.ts'
import { Codec } from '../../src/codec/codec.ts'
import { HEADER, RECORDS } from '../../src/codec/frame.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { anyValue } from '../helpers/any-value.ts'
import { closeAll, connected } from '../helpers/channels.ts'
import { asClone, wellFormed } from '../helpers/clone.ts'
import { decodeBy, encodeBy } from '../helpers/codec.ts'
import { times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'

type Mode = 'plain' | 'streamed' | 'detached' | 'slab'
const MODES: readonly Mode[] = ['plain', 'streamed', 'detached', 'slab']
const slab = Buffer.alloc(65536)

/** One end that encodes and one that decodes. */
class Ends {
  readonly #sender = new Codec()
  readonly #receiver = new Codec()

  pass(value: unknown, mode: Mode): unknown {
    this.#sender.records = this.#receiver.records = mode !== 'plain'
    const { bytes, start, end, flags, holes } =
      mode === 'slab'
        ? encodeBy(this.#sender, value, true, slab, 0)
        : encodeBy(this.#sender, value, mode === 'streamed')
    assert.equal(holes.length, 0)
    const body = Buffer.from(bytes.subarray(start + HEADER, end))
    return decodeBy(this.#receiver, body, 0, body.length, flags === RECORDS, [], false)
  }

  refusal(value: unknown, mode: Mode): string {
    try {
      this.pass(value, mode)
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_PASSFD_ENCODE') return error.message
      throw error
    }
    return 'it passed'
  }
}

/** What both make of it is the same, or we refuse it; what structuredClone refuses we refuse. Gives whether it has passed. */
function compare(ends: Ends, value: unknown, mode: Mode): boolean {
  let clone: unknown
  let refused = false
  try {
    clone = structuredClone(value)
  } catch {
    refused = true
  }
  const message = ends.refusal(value, mode)
  if (message !== 'it passed') {
    assert.match(message, /^The value can't be sent: value/)
    return false
  }
  if (refused) throw new Error('structuredClone refuses it')
  assert.deepStrictEqual(asClone(ends.pass(value, mode)), asClone(wellFormed(clone)))
  return true
}

test('process.env arrives with what is in it', t => {
  const ends = new Ends()
  for (const mode of MODES)
    t.deepEqual(ends.pass({ env: process.env }, mode), { env: { ...structuredClone(process.env) } })
})

const realm = vm.createContext({})
const inRealm = (source: string): unknown => vm.runInContext(`(${source})`, realm)

/** Of another realm, as `vm`, Jest and Vitest's vm pools make them. */
const FOREIGN = [
  'new Map([["a", new Map([[1, 2]])]])',
  'new Set([1, { a: 1 }])',
  'new Date(1e12)',
  'new Date(NaN)',
  'Uint8Array.of(1, 2, 3)',
  ...['Int8', 'Uint8Clamped', 'Int16', 'Uint16', 'Int32', 'Uint32', 'Float32', 'Float64'].map(
    name => `${name}Array.of(1, 2, 3)`
  ),
  'BigInt64Array.of(1n, -2n)',
  'BigUint64Array.of(1n)',
  'new DataView(Uint8Array.of(1, 2, 3).buffer, 1)',
  'Uint8Array.of(1, 2, 3).buffer',
  '({ a: { b: [1, { c: 2 }] } })',
  '[1, [2], , 3]',
  'Object.create(null, { a: { value: 1, enumerable: true } })',
  'new (class extends Map {})([[1, 2]])',
  'new (class extends Array {})(1, 2, 3)',
  'new (class extends Uint8Array {})([1, 2])',
  'new (class Point { x = 1 })()',
  '-0'
]

test('values of another realm are what they are here', t => {
  const ends = new Ends()
  for (const mode of MODES.filter(mode => mode !== 'plain'))
    for (const source of FOREIGN) {
      const value = inRealm(source)
      for (const each of [value, { a: value }, [value], new Map([[value, value]]), new Set([value])])
        t.true(compare(ends, each, mode), source)
    }
})

/** Whatever their prototype says, and whatever they say of themselves. */
const DISGUISED: [what: string, make: () => unknown][] = [
  ['a Map without a prototype', () => Object.setPrototypeOf(new Map([[1, 2]]), null)],
  ['a Map with that of an array', () => Object.setPrototypeOf(new Map([[1, 2]]), Array.prototype)],
  ['a Map with that of an object', () => Object.setPrototypeOf(new Map([[1, 2]]), Object.prototype)],
  ['a Map with a size of its own', () => Object.defineProperty(new Map([[1, 2]]), 'size', { value: 7 })],
  ['a Map that iterates over others', () => Object.assign(new Map([[1, 2]]), { [Symbol.iterator]: () => [].values() })],
  ['a Map with a constructor of its own', () => Object.assign(new Map([[1, 2]]), { constructor: Object })],
  ['a Set that iterates over others', () => Object.assign(new Set([1]), { [Symbol.iterator]: () => [].values() })],
  ['a Date with a time of its own', () => Object.assign(new Date(5), { getTime: () => 7 })],
  ['a Date with that of an object', () => Object.setPrototypeOf(new Date(5), Object.prototype)],
  ['a typed array with that of an object', () => Object.setPrototypeOf(Uint8Array.of(1, 2), Object.prototype)],
  ['a typed array with that of another', () => Object.setPrototypeOf(Uint8Array.of(1, 2), Float64Array.prototype)],
  ['one with a length of its own', () => Object.defineProperty(Uint8Array.of(1, 2), 'byteLength', { value: 9 })],
  ['an array that has none', () => Object.setPrototypeOf([1, 2], null)],
  ['an object with a constructor', () => ({ constructor: 1 })],
  ['one whose constructor is that of a Map', () => Object.defineProperty({ a: 1 }, 'constructor', { value: Map })],
  ['one whose constructor is that of an array', () => Object.defineProperty({ a: 1 }, 'constructor', { value: Array })],
  ['one that only looks like a Map', () => Object.create(Map.prototype)],
  ['one with its own hasOwnProperty', () => ({ hasOwnProperty: 1, a: 1 })],
  [
    'one whose hasOwnProperty denies all',
    () => Object.defineProperty({ a: 1 }, 'hasOwnProperty', { value: () => false })
  ],
  ['ArrayBuffer with a length of its own', () => Object.defineProperty(new ArrayBuffer(3), 'byteLength', { value: 1 })],
  ['arguments', () => inRealm('(function () { return arguments })(1, 2)')],
  [
    'symbol keys, getters, hidden keys',
    () => ({
      [Symbol('a')]: 1,
      get b() {
        return [2]
      },
      ...Object.defineProperty({}, 'c', { value: 3 })
    })
  ],
  ['an own __proto__', () => JSON.parse('{"__proto__":{"polluted":1},"__proto_":2,"a":{"__proto__":[1]}}')],
  ['-0', () => [-0, { a: -0 }, new Map([['a', -0]]), new Float64Array([-0])]]
]

test('what they are is told by their slots, not by constructors, prototypes or properties', t => {
  for (const mode of MODES.filter(mode => mode !== 'plain'))
    for (const [what, make] of DISGUISED) {
      const ends = new Ends()
      // More than once: compiled readers, flat shapes
      for (let again = 0; again < 5; again++) {
        const value = make()
        if (again === 4 && mode === 'slab') compare(ends, { a: 1 }, mode)
        t.notThrows(() => compare(ends, value, mode), `${what}, ${mode}`)
      }
    }
  t.is(({} as { polluted?: unknown }).polluted, undefined)
})

test('any value: deep-equal to its clone, or refused; what structuredClone refuses we refuse', t => {
  let passed = 0
  const ends = new Ends()
  const property = fc.property(anyValue, fc.constantFrom<Mode>('streamed', 'detached', 'slab'), (value, mode) => {
    if (compare(ends, value, mode)) passed++
  })
  fc.assert(property, { numRuns: times(200, 20_000) })
  t.true(passed > 100, `${passed}`)
})

const transferred = <T extends ArrayBufferView>(view: T): T => {
  structuredClone(view, { transfer: [view.buffer as ArrayBuffer] })
  return view
}
const shortened = (View: typeof Uint8Array | typeof DataView): unknown => {
  const buffer = new (ArrayBuffer as any)(8, { maxByteLength: 16 })
  const view = new (View as typeof Uint8Array)(buffer, 4, 4)
  buffer.resize(4)
  return view
}

/** What has no form, with what the error says besides its place. */
const REFUSED: [what: string, make: () => unknown, says: RegExp][] = [
  ['SharedArrayBuffer', () => new SharedArrayBuffer(4), /a SharedArrayBuffer: send a copy/],
  ['Blob', () => new Blob(['a']), /a Blob: send await it.arrayBuffer/],
  ['Headers', () => new Headers({ a: '1' }), /a Headers: send \[...it\]/],
  ['URLSearchParams', () => new URLSearchParams('a=1'), /a URLSearchParams: send/],
  ['URL', () => new URL('http://a/'), /a URL: send its href/],
  ['FormData', () => new FormData(), /a FormData/],
  ['AbortSignal', () => new AbortController().signal, /an AbortSignal/],
  ['AbortController', () => new AbortController(), /an AbortController/],
  ['Event', () => new Event('a'), /an Event/],
  ['EventTarget', () => new EventTarget(), /an EventTarget/],
  ['Request', () => new Request('http://a/'), /a Request/],
  ['ReadableStream', () => new ReadableStream(), /a ReadableStream: send a Descriptor/],
  ['TextEncoder', () => new TextEncoder(), /a TextEncoder/],
  ['Intl.NumberFormat', () => new Intl.NumberFormat(), /a NumberFormat/],
  ['generator', () => (function* () {})(), /a Generator: send/],
  ['async generator', () => (async function* () {})(), /a Generator|an AsyncGenerator/],
  ['iterator of a Map', () => new Map().entries(), /a Map Iterator/],
  ['iterator of an array', () => [].values(), /an Array Iterator/],
  ['boxed number', () => Object(1), /a boxed primitive: send its valueOf/],
  ['boxed string', () => Object('ab'), /a boxed primitive/],
  ['boxed BigInt', () => Object(1n), /a boxed primitive/],
  ['WeakMap', () => new WeakMap(), /a WeakMap: its contents/],
  ['WeakSet', () => new WeakSet(), /a WeakSet/],
  ['WeakRef', () => new WeakRef({}), /a WeakRef/],
  ['FinalizationRegistry', () => new FinalizationRegistry(() => {}), /a FinalizationRegistry/],
  ['Promise', () => Promise.resolve(1), /a Promise: await it first/],
  ['Error', () => new TypeError('a'), /an Error: send its code and message/],
  ['RegExp', () => /a/g, /a RegExp: send its source/],
  ['DOMException', () => new DOMException('a'), /a DOMException|an Error/],
  ['KeyObject', () => crypto.createSecretKey(Buffer.alloc(8)), /a SecretKeyObject: send what its export|a KeyObject/],
  [
    'WebAssembly.Module',
    () => new (globalThis as any).WebAssembly.Module(Buffer.from('0061736d01000000', 'hex')),
    /a Module: send the bytes/
  ],
  ['vm.Script', () => new vm.Script('1'), /is a Script, an object of Node itself/],
  [
    'one that inherits from it',
    () => Object.assign(new (class Mine extends vm.Script {})('1'), { a: 1 }),
    /is a Mine, an object of Node itself/
  ],
  ['namespace', () => net, /is a function|module namespace/],
  ['function', () => () => {}, /is a function/],
  ['symbol', () => Symbol('a'), /is a symbol/],
  ['Proxy of a Map', () => new Proxy(new Map(), {}), /a Map|Proxy of a Map/],
  ['Proxy of a Date', () => new Proxy(new Date(), {}), /is a Proxy of a Date: send what it stands for/],
  ['Proxy of a Promise', () => new Proxy(Promise.resolve(), {}), /Promise/],
  [
    'revoked Proxy',
    () => {
      const { proxy, revoke } = Proxy.revocable({}, {})
      revoke()
      return proxy
    },
    /can't be read: .*revoked/
  ],
  [
    'class with private state only',
    () =>
      new (class Secret {
        #a = 1
        get() {
          return this.#a
        }
      })(),
    /a Secret without properties of its own/
  ],
  [
    'net.Socket',
    () => new net.Socket(),
    /alive in this process \(a Socket\): send Descriptor.from\(it\), or await Connection.take\(it\)/
  ],
  ['net.Server', () => net.createServer(), /alive in this process \(a Server\): send Descriptor.from\(it\)/],
  ['view of a transferred buffer', () => transferred(new Uint8Array(4)), /has lost its memory/],
  ['DataView of a transferred buffer', () => transferred(new DataView(new ArrayBuffer(4))), /has lost its memory/],
  ['transferred ArrayBuffer', () => transferred(new Uint8Array(4)).buffer, /has lost its memory/],
  ['view of a shortened buffer', () => shortened(Uint8Array), /has lost its memory/],
  ['DataView of a shortened buffer', () => shortened(DataView), /has lost its memory/],
  ['Error of another realm', () => inRealm('new Error("a")'), /an Error/],
  ['RegExp of another realm', () => inRealm('/a/'), /a RegExp/],
  ['Promise of another realm', () => inRealm('Promise.resolve()'), /a Promise/],
  ['boxed number of another realm', () => inRealm('new Number(1)'), /a boxed primitive/],
  ['generator of another realm', () => inRealm('(function*(){})()'), /a Generator/],
  ['arguments of another realm', () => inRealm('(function(){return arguments})(1)'), /an Arguments object/]
]

test('what has no form is refused by name, place and remedy, wherever it stands', t => {
  for (const mode of MODES) {
    const ends = new Ends()
    for (const [what, make, says] of REFUSED) {
      const value = make()
      const places: [unknown, string][] = [
        [value, 'value '],
        [{ users: [0, 1, { when: value }] }, 'value.users[2].when '],
        [new Map([['a', value]]), 'value.get("a") '],
        [new Set([1, value]), 'value.values()[1] '],
        [{ 'a b': [value] }, 'value["a b"][0] ']
      ]
      for (const [each, place] of places) {
        const message = ends.refusal(each, mode)
        t.true(message.startsWith(`The value can't be sent: ${place}`), `${what}, ${mode}: ${message}`)
        t.regex(message, says, `${what}, ${mode}`)
      }
    }
    t.deepEqual(ends.pass({ users: [1] }, mode), { users: [1] }, 'and others pass')
  }
})

test('a FileHandle, a CryptoKey, a MessagePort', async t => {
  const ends = new Ends()
  const handle = await open('/dev/null')
  const { port1, port2 } = new MessageChannel()
  const key = await crypto.webcrypto.subtle.generateKey({ name: 'HMAC', hash: 'SHA-256' }, true, ['sign'])
  for (const mode of MODES) {
    t.regex(
      ends.refusal({ file: handle }, mode),
      /value\.file is alive in this process \(a FileHandle\): send Descriptor\.from\(it\)/
    )
    t.regex(ends.refusal([port1], mode), /value\[0\] is a MessagePort/)
    t.regex(ends.refusal([key], mode), /value\[0\] is a CryptoKey: export it/)
  }
  port1.close()
  port2.close()
  await handle.close()
})

test('classes of a program are none of Node, whatever constructors they name', t => {
  class Bound {
    x = 1
  }
  Bound.prototype.constructor = Bound.bind(null)
  class Silent {
    static get name(): string {
      throw new Error('asked for its name')
    }
    x = 1
  }
  class Numbered {
    static name = 7 as never
    x = 1
  }
  const listLike = Object.assign(Object.create([]), { x: 1 })
  for (const mode of MODES)
    for (const value of [new Bound(), new Silent(), new Numbered(), listLike])
      t.deepEqual(new Ends().pass(value, mode), { x: 1 })
})

test('keys that a toJSON() gives count as what they are sent as', t => {
  class Id {
    readonly #number: number
    constructor(number: number) {
      this.#number = number
    }
    toJSON(): bigint {
      return (BigInt(this.#number) << 64n) + 5n // all of the same hash in V8
    }
  }
  const ids = Array.from({ length: 3000 }, (_, number) => new Id(number))
  for (const mode of ['streamed', 'detached', 'slab'] as const)
    for (const value of [new Set(ids), new Map(ids.map(id => [id, 1]))])
      t.regex(new Ends().refusal({ value }, mode), /too many numbers or bigints that have the same hash/)
})

test('cycles are told with both ends, shared references arrive twice', t => {
  const object: Record<string, unknown> = { a: 1 }
  object.self = object
  const array: unknown[] = [[]]
  ;(array[0] as unknown[]).push(array)
  const deep = { list: [{ owner: new Map<string, unknown>() }] }
  deep.list[0]!.owner.set('x', deep.list)
  const set = new Set<unknown>()
  set.add({ set })
  for (const mode of MODES) {
    const ends = new Ends()
    ends.pass({ a: 1, self: 2 }, mode) // a flat shape
    const twice = { a: 1, self: 2 }
    for (const [value, says] of [
      [
        object,
        /value\.self refers to itself: it is value again|value\.self\.self refers to itself: it is value\.self again/
      ],
      [array, /value\[0\]\[0\] refers to itself: it is value again/],
      [deep, /value\.list\[0\]\.owner\.get\("x"\) refers to itself: it is value\.list again/],
      [set, /value\.values\(\)\[0\]\.set refers to itself: it is value again/]
    ] as const)
      t.regex(ends.refusal(value, mode), says)
    t.deepEqual(ends.pass([twice, twice], mode), [twice, twice])
  }
})

/** Values that change while they are looked at. */
const CHANGING: [what: string, make: () => unknown][] = [
  [
    'a getter deletes a later key',
    () => {
      const it = {
        get a() {
          delete (it as any).b
          return 1
        },
        b: 2,
        c: 3
      }
      return it
    }
  ],
  [
    'a getter deletes an earlier key',
    () => {
      const it = {
        a: 1,
        get b() {
          delete (it as any).a
          return 1
        },
        c: 3
      }
      return it
    }
  ],
  [
    'a getter adds a key',
    () => {
      const it: any = {
        get a() {
          it.z = 1
          return 1
        },
        b: 2
      }
      return it
    }
  ],
  [
    'a getter replaces a key',
    () => {
      const it: any = {
        get a() {
          delete it.b
          it.c = 1
          return 1
        },
        b: 2
      }
      return it
    }
  ],
  [
    'a getter deletes and adds the same',
    () => {
      const it: any = {
        get a() {
          delete it.b
          it.b = 5
          return 1
        },
        b: 2
      }
      return it
    }
  ],
  [
    'a getter deletes a key that is inherited, too',
    () => {
      const it: any = {
        get a() {
          delete it.toString
          return 1
        },
        toString: 2
      }
      return it
    }
  ],
  [
    'a getter adds to its Map',
    () => {
      const map = new Map<unknown, unknown>()
      map.set(1, {
        get a() {
          map.set(2, 3)
          return 1
        }
      })
      return map
    }
  ],
  [
    'a getter clears its Map',
    () => {
      const map = new Map<unknown, unknown>([[0, 0]])
      map
        .set(1, {
          get a() {
            map.clear()
            return 1
          }
        })
        .set(2, 2)
      return map
    }
  ],
  [
    'a getter adds to its Set',
    () => {
      const set = new Set<unknown>()
      set.add({
        get a() {
          set.add(2)
          return 1
        }
      })
      return set
    }
  ],
  [
    'a getter empties its Set',
    () => {
      const set = new Set<unknown>([1])
      set
        .add({
          get a() {
            set.clear()
            return 1
          }
        })
        .add(3)
      return set
    }
  ],
  [
    'a getter adds to its array',
    () => {
      const list: unknown[] = [1]
      list.push({
        get a() {
          list.push(2)
          return 1
        }
      })
      return list
    }
  ],
  [
    'a getter shortens its array',
    () => {
      const list: unknown[] = []
      list.push(
        {
          get a() {
            list.length = 1
            return 1
          }
        },
        2,
        3
      )
      return list
    }
  ],
  [
    'a getter shrinks a buffer behind it',
    () => {
      const buffer = new (ArrayBuffer as any)(64, { maxByteLength: 64 })
      return [
        {
          get a() {
            buffer.resize(8)
            return 1
          }
        },
        new Uint8Array(buffer)
      ]
    }
  ],
  [
    'a getter shrinks a large buffer before it',
    () => {
      const buffer = new (ArrayBuffer as any)(70_000, { maxByteLength: 70_000 })
      return [
        new Uint8Array(buffer),
        {
          get a() {
            buffer.resize(8)
            return 1
          }
        }
      ]
    }
  ],
  [
    'a getter transfers a buffer behind it',
    () => {
      const view = new Uint8Array(64)
      return [
        {
          get a() {
            transferred(view)
            return 1
          }
        },
        view
      ]
    }
  ],
  [
    'an array whose length is a lie',
    () => new Proxy([1, 2], { get: (target, name) => (name === 'length' ? 1.5 : Reflect.get(target, name)) })
  ],
  [
    'an array that gets shorter',
    () => {
      let length = 3
      return new Proxy([1, 2, 3], { get: (target, name) => (name === 'length' ? length-- : Reflect.get(target, name)) })
    }
  ],
  [
    'keys that differ each time',
    () => {
      let turn = 0
      return new Proxy({ a: 1, b: 2 } as Record<string, number>, { ownKeys: () => (turn++ % 2 ? ['a'] : ['a', 'b']) })
    }
  ],
  [
    'keys in another order each time',
    () => {
      let turn = 0
      return new Proxy({ a: 1, b: 2 }, { ownKeys: () => (turn++ % 2 ? ['b', 'a'] : ['a', 'b']) })
    }
  ],
  [
    'other keys of the same number',
    () => {
      let turn = 0
      const target = { a: 1, b: 2, c: 3 }
      return new Proxy(target, {
        ownKeys: () => (turn++ % 2 ? ['c', 'b'] : ['a', 'b']),
        getOwnPropertyDescriptor: (_, name) => ({ value: target[name as 'a'], enumerable: true, configurable: true })
      })
    }
  ]
]

test('a value that changes while it is encoded is sent as it was at some time, or refused; the channel goes on', t => {
  for (const mode of MODES) {
    for (const [what, make] of CHANGING) {
      const ends = new Ends()
      const before = { a: 1, b: 2, c: 3 }
      for (const wrap of [(value: unknown) => value, (value: unknown) => ({ in: [value] })]) {
        // Decoding throws if the body is malformed
        const message = ends.refusal(wrap(make()), mode)
        t.true(message === 'it passed' || message.startsWith("The value can't be sent: value"), `${what}, ${mode}`)
        if (message === 'it passed' && mode !== 'plain' && !/Proxy|length|keys/.test(what))
          assert.deepStrictEqual(asClone(ends.pass(wrap(make()), mode)), asClone(structuredClone(wrap(make()))), what)
        t.deepEqual(ends.pass(before, mode), before)
        t.deepEqual(ends.pass({ b: 1, a: 2 }, mode), { b: 1, a: 2 })
      }
    }
  }
})

test('a large buffer that a getter takes away is refused, with its descriptor still here', t => {
  const codec = new Codec()
  const file = Descriptor.openSync('/dev/null')
  for (const records of [true, false]) {
    codec.records = records
    const large = new Uint8Array(70_000)
    const value = {
      file,
      large,
      get last() {
        transferred(large)
        return 1
      }
    }
    t.throws(() => encodeBy(codec, value, true), { code: 'ERR_PASSFD_ENCODE', message: /memory of a buffer/ })
    t.false(file.closed)
  }
  file.close()
})

test('lone surrogates arrive as U+FFFD, in strings and keys of every length; keys that would be equal are refused', t => {
  for (const mode of MODES) {
    const ends = new Ends()
    for (const length of [1, 31, 32, 62, 63, 64, 255, 256, 70_000])
      for (const lone of ['\ud800', '\udfff'])
        for (const text of [
          lone + 'x'.repeat(length - 1),
          'x'.repeat(length - 1) + lone,
          'é'.repeat(length - 1) + lone
        ]) {
          const value = { text, [text]: [text] }
          const formed = text.toWellFormed()
          t.true(isDeepStrictEqual(ends.pass(value, mode), { text: formed, [formed]: [formed] }), `${length}`)
          const other = `${text.slice(0, -1)}\udc01`
          if (other.toWellFormed() !== text.toWellFormed() || other === text) continue
          t.regex(ends.refusal({ [text]: 1, [other]: 2 }, mode), /value .*the same/, `${length}`)
          t.not(
            ends.refusal(
              new Map([
                [text, 1],
                [other, 2]
              ]),
              mode
            ),
            'it passed'
          )
          if (mode !== 'plain') t.regex(ends.refusal({ a: new Set([text, other]) }, mode), /value\.a .*the same/)
        }
  }
})

test("the guide's table of values: each row", t => {
  const guide = readFileSync(new URL('../../docs/guide/values.md', import.meta.url), 'utf8')
  const start = guide.indexOf('\n## Values\n')
  const section = guide.slice(start, guide.indexOf('\n## ', start + 1))
  const rows = section
    .split('\n')
    .filter(line => line.startsWith('| `'))
    .map(line =>
      line
        .slice(2, -1)
        .split(' | ')
        .map(cell => cell.trim())
    )
  t.true(rows.length > 30)
  const made = (cell: string): unknown => {
    const [, source] = /^`(.*)`$/.exec(cell)!
    return vm.runInThisContext(`(${source})`)
  }
  const check = (cell: string, given: string, pass: (value: unknown) => unknown, what: string): void => {
    if (cell === 'refused') {
      t.throws(() => pass(made(given)), { any: true }, what)
      return
    }
    const expected = cell === 'the same' ? made(given) : made(cell)
    t.notThrows(() => assert.deepStrictEqual(pass(made(given)), expected), what)
  }
  for (const [value, arrives, plain, clone] of rows as [string, string, string, string][]) {
    for (const mode of MODES)
      check(mode === 'plain' ? plain : arrives, value, given => new Ends().pass(given, mode), `${value}, ${mode}`)
    check(clone, value, structuredClone, `${value}, structuredClone`)
  }
})

test('what hides behind another prototype and has keys arrives as these keys, as the guide says', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  const hiding = (value: object, prototype: object | null): object =>
    Object.assign(Object.setPrototypeOf(value, prototype), { key: 1 })
  const makers = [() => Promise.resolve(1), () => new WeakMap(), () => new SharedArrayBuffer(1), () => [].values()]
  for (const prototype of [null, class Own {}.prototype, Object.prototype])
    for (const make of prototype === Object.prototype ? [...makers, () => new Map(), () => new Date(5)] : makers)
      t.deepEqual(await left.request(hiding(make(), prototype)), { key: 1 })
  t.deepEqual(await left.request(hiding(new Map([[1, 2]]), null)), new Map([[1, 2]]))
  await closeAll(left, right)
})
