/**
 * Makes docs/vectors.json: what other implementations of docs/protocol.md check themselves against. `npm run vectors` writes it, and
 * test/vectors.test.ts compares. passfd itself writes the frames, the bodies that say so, and the conversations.
 */
import { closeSync, openSync } from 'node:fs'
import { setTimeout as nap } from 'node:timers/promises'
import { Packr } from 'msgpackr'
import { PassfdError } from '../../src/base/errors.ts'
import { SocketWire } from '../../src/channel/wire.ts'
import { Codec } from '../../src/codec/codec.ts'
import { encodeWide } from '../../src/codec/wide.ts'
import { own } from '../../src/descriptor/descriptor.ts'
import { type Channel, type ChannelOptions, connect, Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { bodyOf } from './bodies.ts'
import { encodeBy } from './codec.ts'
import { type Notation, notationOf } from './notation.ts'
import * as raw from './raw-peer.ts'

const { body, frame, places, message, request, reply, taken, goodbye, Place } = raw
const { HELLO, MESSAGE, REQUEST, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE, DEFINITIONS } = raw
const KINDS = ['hello', 'message', 'request', 'reply', 'fault', 'cancel', 'credit', 'taken', 'goodbye', 'definitions']
const plain = new Packr({ useRecords: false, mapsAsObjects: true })
const NOTHING = Buffer.alloc(0)
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const bytesOf = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')

// --- frames

export interface FrameVector {
  name?: string
  hex: string
  kind: string
  descriptors: number
  id: number
  /** Bytes to skip after the body. */
  skip: number
  records: boolean
  /** Of a request. */
  allowance?: number
  body: string
}

/** Those of them that are whole. */
export function wholeFrames(bytes: Buffer): FrameVector[] {
  let end = 0
  for (;;) {
    const next = end + 12 <= bytes.length ? end + 12 + bytes.readUInt32LE(end) + (bytes[end + 6]! & 7) : Number.NaN
    if (!(next <= bytes.length)) return framesIn(bytes.subarray(0, end))
    end = next
  }
}

/** The frames that stand one behind the other in `bytes`. */
export function framesIn(bytes: Buffer): FrameVector[] {
  const frames: FrameVector[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32LE(at)
    const flags = bytes.readUInt16LE(at + 6)
    const end = at + 12 + length + (flags & 7)
    const kind = bytes[at + 4]!
    frames.push({
      hex: hex(bytes.subarray(at, end)),
      kind: KINDS[kind]!,
      descriptors: bytes[at + 5]!,
      id: bytes.readUInt32LE(at + 8),
      skip: flags & 7,
      records: (flags & 8) !== 0,
      ...(kind === REQUEST ? { allowance: Math.min(flags >> 8, 253) } : {}),
      body: hex(bytes.subarray(at + 12, at + 12 + length))
    })
    at = end
  }
  return frames
}

function frames(): FrameVector[] {
  const text = body('four')
  const given: [name: string, bytes: Buffer][] = [
    ['the smallest hello', frame(HELLO, body({ version: 1 }))],
    ['a hello with all keys, and one that nobody knows', raw.hello({ features: [], future: [1] })],
    ['a message', message('four')],
    ['the largest header: 253 descriptors', message(places(253), 253)],
    ['a request: its reply may carry 2 descriptors', request(7, 'four', 0, 2)],
    ['a request: 255 means 253', request(0xffffffff, 'four', 0, 255)],
    ['a reply with a descriptor', reply(7, new Place(0), 1)],
    ['a fault', frame(FAULT, body({ code: 'E_NO_PATH', message: 'which file?' }), { id: 7 })],
    ['a fault with data', frame(FAULT, body({ code: 'E', message: '', data: [1] }), { id: 7 })],
    ['a cancel', frame(CANCEL, NOTHING, { id: 7 })],
    ['credit', frame(CREDIT, NOTHING, { id: 1_000_000 })],
    ['taken', taken(3)],
    ['a friendly goodbye', goodbye()],
    ['a friendly goodbye without a body', frame(GOODBYE)],
    ['a goodbye with an error', goodbye('ERR_PASSFD_BAD_ID', 'why')],
    ['a body with records', frame(MESSAGE, Buffer.concat([bytesOf('d4 72 40'), body(['a']), body(1)]), { flags: 8 })],
    [
      'definitions, of a frame that had 2 descriptors',
      frame(DEFINITIONS, Buffer.concat([bytesOf('d4 72 40'), body(['a']), body(1)]), { flags: 8, id: 2 })
    ]
  ]
  for (let skip = 1; skip <= 7; skip++)
    given.push([`${skip} to skip`, Buffer.concat([frame(MESSAGE, text, { flags: skip }), Buffer.alloc(skip, 0xee)])])
  given.push(['3 to skip after no body', Buffer.concat([frame(TAKEN, NOTHING, { flags: 3 }), Buffer.alloc(3)])])
  return given.map(([name, bytes]) => ({ name, ...framesIn(bytes)[0]! }))
}

// --- bodies

export interface BodyVector {
  name: string
  hex: string
  descriptors: number
  value: Notation
  /** passfd writes these bytes for this value, to a peer without records. */
  written: boolean
}

const codec = new Codec()

/** What passfd writes to a peer without records. */
export function written(value: unknown): Buffer {
  return bodyOf(encodeBy(codec, value, false)).bytes
}

function bodies(): BodyVector[] {
  const file = Descriptor.openSync('/dev/null')
  const other = Descriptor.openSync('/dev/null')
  const values: [name: string, value: unknown, descriptors?: number][] = [
    ['nil', null],
    ['undefined, as nil', undefined],
    ['false', false],
    ['true', true],
    ...[0, 1, 127, 128, 255, 256, 65_535, 65_536, 2 ** 31, 2 ** 32 - 1].map((n): [string, number] => [`${n}`, n]),
    ...[-1, -32, -33, -128, -129, -32_768, -32_769, -(2 ** 31)].map((n): [string, number] => [`${n}`, n]),
    ['2^32, as a float', 2 ** 32],
    ['-2^31 - 1, as a float', -(2 ** 31) - 1],
    ['2^53 - 1, as a float', 2 ** 53 - 1],
    ['a BigInt of 2^53', 2n ** 53n],
    ['a BigInt of 2^63 - 1', 2n ** 63n - 1n],
    ['a BigInt of 2^64 - 1', 2n ** 64n - 1n],
    ['a BigInt of -2^63', -(2n ** 63n)],
    ...[1.5, -0, 0.1, 1e300, 5e-324, Number.NaN, Infinity, -Infinity].map((n): [string, number] => [
      `a float: ${Object.is(n, -0) ? '-0' : n}`,
      n
    ]),
    ['an empty string', ''],
    ['ASCII', 'hello'],
    ['beyond ASCII', 'é€🌍\u0000'],
    ['a lone surrogate, replaced', '\ud800'],
    ...[31, 32, 255, 256].map((n): [string, string] => [`a string of ${n} bytes`, 'x'.repeat(n)]),
    ...[0, 3, 255, 256].map((n): [string, Buffer] => [`${n} bytes`, Buffer.alloc(n, 0xff)]),
    ['a typed array, as its bytes', Uint16Array.of(1, 2)],
    ['an empty array', []],
    ['an array of 15', Array(15).fill(0)],
    ['an array of 16', Array(16).fill(0)],
    ['a Set, as an array', new Set([1, 'a'])],
    ['an empty object', {}],
    ['an object', { a: 1, b: [true, null], '': {} }],
    ['an object of 16', Object.fromEntries(Array.from({ length: 16 }, (_, at) => [`k${at}`, at]))],
    ['a key that JavaScript must watch', JSON.parse('{"__proto__":1}')],
    [
      'a Map with keys that are no strings',
      new Map<unknown, unknown>([
        [2, 'two'],
        [-1.5, 'float'],
        [true, 'yes'],
        [null, 'nil']
      ])
    ],
    ['a Map with a key of 64 bits', new Map([[2n ** 63n, 1]])],
    ['a Date', new Date(1_700_000_000_000)],
    ['a Date with ms', new Date(1_700_000_000_123)],
    ['a Date before 1970', new Date(-1)],
    ['a Date after 2106', new Date(2 ** 32 * 1000)],
    ['the last Date', new Date(8.64e15)],
    ['a descriptor', file, 1],
    ['a descriptor in a map', { file }, 1],
    ['two descriptors', [other, { deep: [file] }], 2]
  ]
  const foreign: [name: string, bytes: string, descriptors?: number][] = [
    ['a float of 32 bits', 'ca 3f c0 00 00'],
    ['an integer in 16 bits that would fit in 7', 'cd 00 01'],
    ['an integer of 64 bits', 'cf 00 00 00 00 00 00 00 01'],
    ['2^53 + 1, of 64 bits', 'cf 00 20 00 00 00 00 00 01'],
    ['a negative one of 64 bits', 'd3 ff ff ff ff ff ff ff ff'],
    ['a positive one of 64 bits, signed', 'd3 00 00 00 00 00 00 00 05'],
    ['a positive one, signed, of 8 bits', 'd0 05'],
    ['a string with a length of 8 bits', 'd9 02 68 69'],
    ['a string with a length of 16 bits', 'da 00 02 68 69'],
    ['a string with a length of 32 bits', 'db 00 00 00 02 68 69'],
    ['bytes with a length of 16 bits', 'c5 00 01 ff'],
    ['bytes with a length of 32 bits', 'c6 00 00 00 01 ff'],
    ['an array with a length of 16 bits', 'dc 00 01 c0'],
    ['an array with a length of 32 bits', 'dd 00 00 00 01 c0'],
    ['a map with a length of 16 bits', 'de 00 01 a1 61 01'],
    ['a map with a length of 32 bits', 'df 00 00 00 01 a1 61 01'],
    ['a time in 32 bits', 'd6 ff 65 53 f1 00'],
    ['a time in 64 bits', 'd7 ff 1d 55 a9 00 65 53 f1 00'],
    ['a time in 96 bits', 'c7 0c ff 00 00 00 01 ff ff ff ff ff ff ff ff'],
    ['a descriptor, with a length', 'c7 01 46 00', 1],
    ['a descriptor, with a length of 16 bits', 'c8 00 01 46 00', 1],
    ['a descriptor, with a length of 32 bits', 'c9 00 00 00 01 46 00', 1],
    ['descriptors in another order', '93 d4 46 02 d4 46 00 d4 46 01', 3],
    ['a connection without unread bytes', 'd4 43 00', 1],
    ['a connection with two unread bytes', 'c7 03 43 00 68 69', 1],
    ['a connection with one unread byte', 'd5 43 00 68', 1],
    ['a connection and a descriptor', '92 d5 43 01 0a d4 46 00', 2],
    ['a map whose keys are no strings', '83 02 a1 61 c3 a1 62 cb 3f f8 00 00 00 00 00 00 a1 63']
  ]
  const vectors = [
    ...values.map(([name, value, descriptors = 0]): BodyVector => {
      const bytes = written(value)
      return { name, hex: hex(bytes), descriptors, value: notationOf(bytes), written: true }
    }),
    ...foreign.map(([name, text, descriptors = 0]): BodyVector => {
      const bytes = bytesOf(text)
      return { name, hex: hex(bytes), descriptors, value: notationOf(bytes), written: false }
    }),
    {
      name: '512 levels',
      hex: hex(Buffer.concat([Buffer.alloc(512, 0x91), Buffer.of(0xc0)])),
      descriptors: 0,
      value: Array.from({ length: 512 }).reduce((inner: Notation) => [inner], null),
      written: false
    }
  ]
  file.close()
  other.close()
  return vectors
}

// --- keys of maps

export interface KeysVector {
  name: string
  keys: Notation[]
  /** The map of these keys, each with nil; null: passfd refuses to send it to a peer without records. */
  hex: string | null
}

function keys(): KeysVector[] {
  const lists: [name: string, keys: [key: unknown, notation: Notation][]][] = [
    [
      'strings',
      [
        ['a', 'a'],
        ['1', '1']
      ]
    ],
    [
      'numbers',
      [
        [0, 0],
        [1.5, { float: '1.5' }],
        [-1, -1]
      ]
    ],
    [
      'nil and a boolean',
      [
        [null, null],
        [true, true]
      ]
    ],
    [
      '64 bits',
      [
        [2n ** 64n - 1n, { integer: '18446744073709551615' }],
        [-(2n ** 63n), { integer: '-9223372036854775808' }]
      ]
    ],
    [
      '1 and "1"',
      [
        [1, 1],
        ['1', '1']
      ]
    ],
    [
      'nil and "null"',
      [
        [null, null],
        ['null', 'null']
      ]
    ],
    [
      'true and "true"',
      [
        [true, true],
        ['true', 'true']
      ]
    ],
    [
      '1 and true',
      [
        [1, 1],
        [true, true]
      ]
    ],
    [
      '0 and false',
      [
        [0, 0],
        [false, false]
      ]
    ],
    [
      '2^63, as a float and as an integer',
      [
        [2 ** 63, { float: '9223372036854775808' }],
        [2n ** 63n, { integer: '9223372036854775808' }]
      ]
    ],
    ['an array', [[[1], [1]]]],
    ['bytes', [[Buffer.of(1), { bytes: '01' }]]],
    ['a time', [[new Date(0), { seconds: '0', nanoseconds: 0 }]]],
    ['a map', [[new Map(), { map: [] }]]]
  ]
  return lists.map(([name, list]) => {
    const map = new Map(list.map(([key]) => [key, null]))
    let bytes: string | null = null
    try {
      bytes = hex(written(map))
    } catch (error) {
      if (!(error instanceof PassfdError) || error.code !== 'ERR_PASSFD_ENCODE') throw error
    }
    return { name, keys: list.map(([, notation]) => notation), hex: bytes }
  })
}

// --- violations

export interface Write {
  hex: string
  /** How many descriptors go with the first byte. */
  descriptors: number
}

/** The numbers in the hello of the side under test. */
export interface Limits {
  maxMessage: number
  maxDescriptors: number
  window: number
}

export interface ViolationVector {
  name: string
  code: string
  /** What the side under test has sent before, after its hello: a request with the first free id. */
  asked: { allowance: number }[]
  limits: Limits
  writes: Write[]
  /** The violation is that nothing comes for so many seconds. */
  silence?: number
}

export const LIMITS: Limits = { maxMessage: 65_536, maxDescriptors: 3, window: 65_536 }

function violations(): ViolationVector[] {
  const hello = raw.hello({ features: [] })
  const garbage = bytesOf('d4 01 00')
  const found: ViolationVector[] = []
  interface Setting {
    descriptors?: number
    asked?: ViolationVector['asked']
    limits?: Partial<Limits>
    silence?: number
    writes?: Write[]
  }
  const add = (name: string, code: string, bytes: Buffer, setting: Setting = {}, greeting = hello): void => {
    const { descriptors = 0, asked = [], limits = {}, silence, writes } = setting
    const first = greeting.length > 0 ? [{ hex: hex(greeting), descriptors: 0 }] : []
    found.push({
      name,
      code: raw.documented(code),
      asked,
      limits: { ...LIMITS, ...limits },
      writes: [...first, ...(writes ?? [{ hex: hex(bytes), descriptors }])],
      ...(silence === undefined ? {} : { silence })
    })
  }
  const atFirst = (name: string, code: string, bytes: Buffer, setting: Setting = {}): void =>
    add(name, code, bytes, setting, NOTHING)
  const wrongBody = (name: string, code: string, content: Buffer, descriptors = 0): void =>
    add(`a body: ${name}`, code, frame(MESSAGE, content, { count: descriptors }), { descriptors })

  add('an unknown kind', 'BAD_FRAME', frame(10))
  add('the last unknown kind', 'BAD_FRAME', frame(255))
  for (const [kind, known] of [0, 8, 0xff08, 8, 0, 0, 0, 0, 0].entries())
    for (let bit = 8; bit <= 0x8000; bit *= 2)
      if ((known & bit) === 0 && [8, 16, 0x100, 0x8000].includes(bit) && kind !== HELLO)
        add(`flag 0x${bit.toString(16)} of a ${KINDS[kind]}`, 'BAD_FRAME', frame(kind, NOTHING, { flags: bit }))
  for (const kind of [CANCEL, CREDIT, TAKEN])
    add(`a ${KINDS[kind]} with a body`, 'BAD_FRAME', frame(kind, body(1), { id: 0 }))
  for (const kind of [FAULT, CANCEL, CREDIT, TAKEN, GOODBYE])
    add(
      `a ${KINDS[kind]} with a descriptor`,
      'BAD_FRAME',
      frame(kind, kind === FAULT ? body({}) : NOTHING, { count: 1 }),
      {
        descriptors: 1
      }
    )
  add('254 descriptors', 'BAD_FRAME', frame(MESSAGE, body([]), { count: 254 }))
  add('definitions without the flag of records', 'BAD_FRAME', frame(DEFINITIONS, body({ a: 1 })))
  add('a message longer than maxMessage', 'FRAME_TOO_LARGE', message('x'.repeat(98)), { limits: { maxMessage: 99 } })
  for (const kind of [MESSAGE, FAULT, GOODBYE])
    add(
      `a header of a ${KINDS[kind]} with a length of 4 GiB`,
      'FRAME_TOO_LARGE',
      frame(kind, NOTHING, { length: 0xffffffff, id: 1 })
    )
  add('a frame begun and not ended', 'FRAME_STALLED', message('x').subarray(0, -1), { silence: 30 })
  add('descriptors that no frame claims', 'FRAME_STALLED', frame(CREDIT), { descriptors: 2, silence: 30 })
  add('a message without one of its descriptors', 'DESCRIPTORS_MISSING', message(places(2), 2), { descriptors: 1 })
  add('254 descriptors ahead of their frames', 'DESCRIPTORS_AHEAD', NOTHING, {
    writes: [
      { hex: hex(message('x').subarray(0, 1)), descriptors: 253 },
      { hex: hex(message('x').subarray(1, 2)), descriptors: 1 }
    ]
  })
  add('more descriptors than maxDescriptors', 'DESCRIPTOR_COUNT', message(places(4), 4), { descriptors: 4 })
  add('a reply with more descriptors than its request allows', 'DESCRIPTOR_COUNT', reply(1, places(2), 2), {
    descriptors: 2,
    asked: [{ allowance: 1 }]
  })
  wrongBody('an index that is out of range', 'DESCRIPTOR_COUNT', body(places(2)), 1)
  wrongBody('an index twice', 'DESCRIPTOR_COUNT', body([new Place(0), new Place(0)]), 1)
  wrongBody('an index of a descriptor and of a connection', 'DESCRIPTOR_COUNT', bytesOf('92 d5 43 00 78 d4 46 00'), 1)
  wrongBody('an index that is not used', 'DESCRIPTOR_COUNT', body([]), 1)
  wrongBody('an index in a frame without descriptors', 'DESCRIPTOR_COUNT', bytesOf('d4 46 00'))
  wrongBody('a descriptor without an index', 'DESCRIPTOR_COUNT', bytesOf('c7 00 46'), 1)
  wrongBody('a descriptor with two bytes', 'DESCRIPTOR_COUNT', bytesOf('d5 46 00 00'), 1)
  wrongBody('a connection without an index', 'DESCRIPTOR_COUNT', bytesOf('c7 00 43'), 1)
  wrongBody('a time of 5 bytes', 'UNDECODABLE', bytesOf('c7 05 ff 00 00 00 00 00'))
  wrongBody('a key that is an array', 'UNDECODABLE', bytesOf('81 91 01 01'))
  wrongBody('a key that is a map', 'UNDECODABLE', bytesOf('81 80 01'))
  wrongBody('a key that is binary', 'UNDECODABLE', bytesOf('81 c4 01 ff 01'))
  wrongBody('a key that is a descriptor', 'UNDECODABLE', bytesOf('81 d4 46 00 01'), 1)
  wrongBody('empty', 'UNDECODABLE', NOTHING)
  wrongBody('ends early', 'UNDECODABLE', body('cut short').subarray(0, -1))
  wrongBody('goes on after its value', 'UNDECODABLE', Buffer.concat([body('a value'), body('another')]))
  wrongBody('the one byte that means nothing', 'UNDECODABLE', bytesOf('c1'))
  for (const [name, text] of Object.entries({
    'more elements than there are bytes': 'dd ff ff ff ff',
    'more keys than there are bytes': 'df ff ff ff ff',
    'a longer string than there is': 'db ff ff ff ff',
    'more bytes than there are': 'c6 ff ff ff ff',
    'a longer extension than there is': 'c9 ff ff ff ff 46',
    'an unknown extension': 'd4 01 00',
    'a record without records': 'd4 72 40 91 a1 61 01',
    'undefined, which needs records': 'd4 00 00',
    'a Set, which needs records': 'd4 73 00'
  }))
    wrongBody(name, 'UNDECODABLE', bytesOf(text))
  wrongBody('513 levels', 'UNDECODABLE', Buffer.concat([Buffer.alloc(513, 0x91), Buffer.of(0xc0)]))
  add('records that nobody has agreed on', 'UNDECODABLE', frame(MESSAGE, body(1), { flags: 8 }))
  add('a fault that is no map', 'UNDECODABLE', frame(FAULT, body([1]), { id: 1 }), { asked: [{ allowance: 1 }] })
  add('a goodbye that is no map', 'UNDECODABLE', frame(GOODBYE, body([1])))
  add('definitions of a frame with 254 descriptors', 'BAD_FRAME', frame(DEFINITIONS, body(1), { flags: 8, id: 254 }))
  add('an undecodable goodbye', 'UNDECODABLE', frame(GOODBYE, garbage))
  add(
    'a message without credit, in one write with one that has used it up',
    'CREDIT_EXCEEDED',
    Buffer.concat([message('x'), message('y')]),
    { limits: { window: 1 } }
  )
  add(
    'a request without credit, in one write with one that has used it up',
    'CREDIT_EXCEEDED',
    Buffer.concat([request(1, 'x'), request(2, 'y')]),
    { limits: { window: 1 } }
  )
  add('taken for what was not sent', 'BAD_TAKEN', taken(1))
  add('a reply to nothing', 'BAD_ID', reply(77, 1))
  add('a fault to nothing', 'BAD_ID', frame(FAULT, body({ code: 'E' }), { id: 77 }))
  add('a second reply', 'BAD_ID', Buffer.concat([reply(1, 'first'), reply(1, 'second')]), { asked: [{ allowance: 1 }] })
  add('a second hello', 'BAD_HELLO', hello)
  for (const [name, bytes] of Object.entries({
    'a message': message('x'),
    'a request': request(1, 'x'),
    credit: frame(CREDIT, NOTHING, { id: 1 }),
    taken: taken(0)
  }))
    atFirst(`${name} before the hello`, 'BAD_HELLO', bytes)
  atFirst('an unknown kind before the hello', 'BAD_FRAME', frame(10))
  atFirst('a hello with a descriptor', 'BAD_FRAME', frame(HELLO, body({ version: 1 }), { count: 1 }), {
    descriptors: 1
  })
  atFirst('a hello with a flag', 'BAD_FRAME', frame(HELLO, body({ version: 1 }), { flags: 8 }))
  atFirst('the header of a hello of 4,097 bytes', 'FRAME_TOO_LARGE', frame(HELLO, NOTHING, { length: 4097 }))
  atFirst('an undecodable hello', 'UNDECODABLE', frame(HELLO, garbage))
  for (const [name, value] of Object.entries({
    'a list': [1],
    'a text': 'version 1',
    'without a version': { window: 1 },
    'version 0': { version: 0 },
    'version -1': { version: -1 },
    'version 1.5': { version: 1.5 },
    'version "1"': { version: '1' },
    'a negative maxMessage': { version: 1, maxMessage: -1 },
    'maxDescriptors 1.5': { version: 1, maxDescriptors: 1.5 },
    'window 2^33': { version: 1, window: 2n ** 33n },
    'descriptorCost "1"': { version: 1, descriptorCost: '1' },
    'agent 5': { version: 1, agent: 5 },
    'features that are no list': { version: 1, features: 'records' },
    'a feature that is no text': { version: 1, features: ['records', 1] }
  }))
    atFirst(`a hello: ${name}`, 'BAD_HELLO', frame(HELLO, body(value)))
  atFirst('no whole hello', 'HANDSHAKE_TIMEOUT', raw.hello({ features: [] }).subarray(0, -1), { silence: 10 })
  return found
}

// --- conversations

export interface Step {
  from: 'passfd' | 'peer'
  hex: string
  /** For each descriptor, the byte of this step that it is attached to. */
  at: number[]
}

export interface Conversation {
  name: string
  limits: Limits
  /** What passfd's program sends by itself; it also answers each request with the value of the request. */
  sends: { kind: 'message' | 'request'; descriptors: number }[]
  /** passfd's program closes the channel when it has sent that. */
  closes: boolean
  /** passfd's program answers only after its goodbye. */
  late: boolean
  steps: Step[]
}

interface Script {
  name: string
  limits?: Partial<Limits>
  sends?: Conversation['sends']
  closes?: boolean
  late?: boolean
  /** What the peer sends, one after the other: each when passfd has sent frames of these kinds. */
  steps: { after: string; bytes: Buffer; at?: number[] }[]
}

const PEER_HELLO = raw.hello({ features: [], maxDescriptors: 253, window: 65_536, maxMessage: 65_536 })

function scripts(): Script[] {
  const example: Script = {
    name: 'a request with a descriptor, whose answer brings one back',
    steps: [
      { after: '', bytes: PEER_HELLO },
      { after: 'hello', bytes: request(7, { do: 'echo', file: new Place(0) }, 1, 1), at: [0] },
      { after: 'hello reply', bytes: Buffer.concat([taken(1), goodbye()]) }
    ]
  }
  const three = [message('none'), message([new Place(0)], 1), message(places(3), 3)]
  const offsets = (frames: Buffer[], counts: number[]): number[] => {
    let offset = 0
    return frames.flatMap((bytes, index) => {
      const at = Array<number>(counts[index]!).fill(offset)
      offset += bytes.length
      return at
    })
  }
  return [
    example,
    {
      name: 'messages with 0, 1 and 3 descriptors',
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello', bytes: Buffer.concat(three), at: offsets(three, [0, 1, 3]) },
        { after: 'hello taken', bytes: goodbye() }
      ]
    },
    {
      name: 'descriptors that are attached to an earlier frame',
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello', bytes: Buffer.concat(three), at: [0, 0, 0, 0] },
        { after: 'hello taken', bytes: goodbye() }
      ]
    },
    {
      name: 'a connection with an unread byte, and a descriptor',
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello', bytes: frame(MESSAGE, bytesOf('92 d5 43 00 78 d4 46 01'), { count: 2 }), at: [0, 0] },
        { after: 'hello taken', bytes: goodbye() }
      ]
    },
    {
      name: 'frames with 1 to 7 bytes to skip',
      steps: [
        { after: '', bytes: PEER_HELLO },
        {
          after: 'hello',
          bytes: Buffer.concat(
            Array.from({ length: 7 }, (_, index) =>
              Buffer.concat([frame(MESSAGE, body(index), { flags: index + 1 }), Buffer.alloc(index + 1, 0xff)])
            )
          )
        },
        { after: 'hello', bytes: goodbye() }
      ]
    },
    {
      name: 'passfd asks, and gets a reply with a descriptor',
      sends: [{ kind: 'request', descriptors: 1 }],
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello request', bytes: Buffer.concat([taken(1), reply(1, [new Place(0)], 1)]), at: [12] },
        { after: 'taken', bytes: goodbye() }
      ]
    },
    {
      name: 'passfd asks twice, and gets the answers in another order: a fault is one of them',
      sends: [
        { kind: 'request', descriptors: 0 },
        { kind: 'request', descriptors: 0 }
      ],
      steps: [
        { after: '', bytes: PEER_HELLO },
        {
          after: 'hello request request',
          bytes: Buffer.concat([reply(2, 'second'), frame(FAULT, body({ code: 'E_NO', message: 'no' }), { id: 1 })])
        },
        { after: 'hello', bytes: goodbye() }
      ]
    },
    {
      name: 'passfd closes: it waits for its answer, and for its descriptor to be confirmed',
      sends: [
        { kind: 'message', descriptors: 1 },
        { kind: 'request', descriptors: 0 }
      ],
      closes: true,
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello message request', bytes: reply(1, null) },
        { after: 'hello message request', bytes: taken(1) },
        { after: 'goodbye', bytes: goodbye() }
      ]
    },
    {
      name: 'goodbye comes while an answer is due, which comes after the other goodbye',
      late: true,
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello', bytes: Buffer.concat([request(3, ['last'], 0, 0), goodbye()]) }
      ]
    },
    {
      name: 'a cancel of a request that is not pending is ignored',
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello', bytes: Buffer.concat([frame(CANCEL, NOTHING, { id: 99 }), message('goes on')]) },
        { after: 'hello', bytes: frame(GOODBYE) }
      ]
    },
    {
      name: 'a message that takes the credit below 0',
      limits: { window: 40 },
      steps: [
        { after: '', bytes: PEER_HELLO },
        { after: 'hello', bytes: message('x'.repeat(100)) },
        { after: 'hello credit', bytes: Buffer.concat([message('after the credit'), goodbye()]) }
      ]
    },
    {
      name: 'the smallest hello: a peer that only sends',
      steps: [
        { after: '', bytes: frame(HELLO, body({ version: 1 })) },
        { after: 'hello', bytes: Buffer.concat([message('hi'), goodbye()]) }
      ]
    }
  ]
}

/** That of test.ts runs under ava only. */
async function until(done: () => boolean, what: string): Promise<void> {
  const end = Date.now() + 60_000
  while (!done()) {
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`)
    await nap(1)
  }
}

/** One end of a channel, spoken by hand: keeps what the other end writes. */
export class Tap {
  readonly fd: number
  said = NOTHING
  /** Where in `said` each descriptor came. */
  at: number[] = []
  ended = false
  readonly #wire: SocketWire

  constructor(fd: number) {
    this.fd = fd
    this.#wire = new SocketWire(fd)
    this.#wire.start({
      onReadable: (length, fds, first, count) => {
        const { area, headroom } = this.#wire
        for (let i = 0; i < count; i++) this.at.push(this.said.length)
        this.#wire.discard([...fds.subarray(first, first + count)], undefined)
        this.said = Buffer.concat([this.said, area.subarray(headroom, headroom + Math.max(0, length))])
        this.ended ||= length <= 0
      },
      onWritable() {}
    })
  }

  /** Whether at least one frame of each of these kinds has come; of a kind that stands there twice, two. */
  has(kinds: string): boolean {
    const came = wholeFrames(this.said).map(({ kind }) => kind)
    return kinds.split(' ').every(kind => {
      const place = came.indexOf(kind)
      if (place >= 0) came.splice(place, 1)
      return kind === '' || place >= 0
    })
  }

  write(bytes: Uint8Array, descriptors: number): void {
    const files = Array.from({ length: descriptors }, () => openSync('/dev/null', 'r'))
    const sent = native.send(this.fd, bytes, 0, bytes.length, Int32Array.from(files), 0, descriptors)
    for (const file of files) closeSync(file)
    if (sent !== bytes.length) throw new Error(`sent ${sent} of ${bytes.length} bytes`)
  }

  end(): void {
    this.#wire.end()
  }
}

/** Cuts bytes before each place at which descriptors are attached, and wherever `cut` says so. */
export function writesOf(
  bytes: Buffer,
  at: readonly number[],
  cut: (offset: number) => boolean = () => false
): [Buffer, number][] {
  const writes: [Buffer, number][] = []
  for (let from = 0; from < bytes.length; ) {
    let to = from + 1
    while (to < bytes.length && !at.includes(to) && !cut(to)) to++
    writes.push([bytes.subarray(from, to), at.filter(place => place === from).length])
    from = to
  }
  return writes
}

/** Options of a channel with these numbers in its hello. */
export function optionsOf(limits: Limits): ChannelOptions {
  return { ...limits }
}

/** passfd's end of a conversation: it sends what is to be sent, and answers requests with their own values. */
async function serve(
  channel: Channel<any, any>,
  sends: Conversation['sends'],
  closes: boolean,
  answering: Promise<void>
): Promise<void> {
  channel.serve(({ value, isRequest }) => (isRequest ? answering.then(() => value) : undefined))
  for (const { kind, descriptors } of sends) {
    const value = Array.from({ length: descriptors }, () => Descriptor.openSync('/dev/null'))
    if (kind === 'message') void channel.send(value)
    else void channel.request(value).then(closeAll, () => {})
  }
  if (closes) await channel.close()
}

function closeAll(value: unknown): void {
  if (value instanceof Descriptor) value.close()
  else if (Array.isArray(value)) value.forEach(closeAll)
}

/** Plays the peer's side to passfd, and keeps what passfd says, in steps. `cut`: where the peer's writes are split besides. */
export async function played(
  { limits = {}, sends = [], closes = false, late = false, steps }: Omit<Script, 'name'>,
  cut?: (offset: number) => boolean
): Promise<{ steps: Step[]; error: unknown }> {
  const [ours, theirs] = raw.socketpair()
  const tap = new Tap(theirs)
  const taken: Step[] = []
  let seen = 0
  let carried = 0
  const note = (): void => {
    const whole = wholeFrames(tap.said.subarray(seen)).reduce((length, { hex }) => length + hex.length / 2, 0)
    if (whole === 0) return
    const at = tap.at.slice(carried).filter(place => place < seen + whole)
    taken.push({ from: 'passfd', hex: hex(tap.said.subarray(seen, seen + whole)), at: at.map(place => place - seen) })
    seen += whole
    carried += at.length
  }
  try {
    const opening = connect<any, any>(own(ours), optionsOf({ ...LIMITS, ...limits }))
    let channel: Channel<any, any> | undefined
    for (const { after, bytes, at = [] } of steps) {
      await until(() => tap.has(after), `${after} of passfd`)
      note()
      for (const [part, descriptors] of writesOf(bytes, at, cut)) tap.write(part, descriptors)
      taken.push({ from: 'peer', hex: hex(bytes), at })
      if (channel === undefined) {
        channel = await opening
        const answering = late ? until(() => tap.has('goodbye'), 'its goodbye') : Promise.resolve()
        void serve(channel, sends, closes, answering)
      }
    }
    await until(() => tap.has('goodbye'), 'the goodbye of passfd')
    native.shutdown(theirs, 1)
    await until(() => tap.ended, 'the end')
    note()
    return { steps: taken, error: await channel!.closed }
  } finally {
    tap.end()
  }
}

async function conversations(): Promise<Conversation[]> {
  const found: Conversation[] = []
  for (const { name, ...script } of scripts()) {
    const { steps, error } = await played(script)
    if (error !== undefined) throw new Error(`${name}: ${error}`)
    const { limits = {}, sends = [], closes = false, late = false } = script
    found.push({ name, limits: { ...LIMITS, ...limits }, sends, closes, late, steps: steps.map(withoutVersion) })
  }
  return found
}

/** With another agent in passfd's hello, because that changes from release to release. */
export function withoutVersion(step: Step): Step {
  const [first, ...others] = framesIn(bytesOf(step.hex))
  if (step.from === 'peer' || first!.kind !== 'hello') return step
  const content = written({ ...plain.unpack(bytesOf(first!.body)), agent: 'passfd' })
  const skip = -(12 + content.length) & 7
  const shortened = Buffer.concat([frame(HELLO, content, { flags: skip }), Buffer.alloc(skip)])
  const by = shortened.length - first!.hex.length / 2
  return { ...step, hex: hex(shortened) + others.map(({ hex }) => hex).join(''), at: step.at.map(place => place + by) }
}

// --- records

export interface RecordVector {
  name: string
  /** The bodies are decoded in this order: definitions last. */
  hex: string
  value: RecordNotation
}

/** Beyond `Notation`: what only records have. */
export type RecordNotation =
  | Notation
  | RecordNotation[]
  | { object: [string, RecordNotation][] }
  | { set: RecordNotation[] }
  | { undefined: true }
  | { array: string; bytes: string }

/** What passfd is given, and what it stands for. */
export const RECORD_VALUES: [name: string, value: unknown, notation: RecordNotation][] = [
  [
    'a definition that lasts',
    { a: 1, b: 'x' },
    {
      object: [
        ['a', 1],
        ['b', 'x']
      ]
    }
  ],
  [
    'the same keys again: the id alone',
    { a: 2, b: 'y' },
    {
      object: [
        ['a', 2],
        ['b', 'y']
      ]
    }
  ],
  [
    'two of them, and other keys',
    [{ a: 3, b: '' }, { c: null }],
    [
      {
        object: [
          ['a', 3],
          ['b', '']
        ]
      },
      { object: [['c', null]] }
    ]
  ],
  ['integers that would be ids', [63, 64, 127, 128], [63, 64, 127, 128]],
  ['undefined', [undefined], [{ undefined: true }]],
  [
    'a Map',
    new Map([[{ a: 4, b: '' }, 'key']] as [unknown, unknown][]),
    {
      map: [
        [
          {
            object: [
              ['a', 4],
              ['b', '']
            ]
          } as never,
          'key'
        ]
      ]
    }
  ],
  ['a Set', new Set([1, 'a']), { set: [1, 'a'] }],
  ['a BigInt of more than 64 bits', 2n ** 70n, { integer: '1180591620717411303424' }],
  ['a negative one', -(2n ** 70n), { integer: '-1180591620717411303424' }],
  ['a typed array', Uint16Array.of(1, 258), { array: 'Uint16Array', bytes: '01000201' }]
]

function records(): RecordVector[] {
  const sender = new Codec()
  sender.records = true
  return RECORD_VALUES.map(([name, value, notation]) => ({
    name,
    hex: hex(bodyOf(encodeBy(sender, value, true)).bytes),
    value: notation
  }))
}

// --- takeover and store

export interface MessageVector {
  name: string
  /** What it is: a request of the candidate (or client), an answer to a request, or a message. */
  is: string
  descriptors: number
  hex: string
  value: Notation
  /** It is malformed: the request is answered by a fault with this code. */
  code?: string
}

type Given = [name: string, is: string, value: unknown, code?: string]

function messages(given: Given[]): MessageVector[] {
  return given.map(([name, is, value, code]) => {
    const files: Descriptor[] = []
    const filled = JSON.parse(JSON.stringify(value), (_, one) => {
      if (one === 'DESCRIPTOR') files.push(Descriptor.openSync('/dev/null'))
      if (typeof one === 'string' && one.startsWith('0x')) return bytesOf(one.slice(2))
      return one === 'DESCRIPTOR' ? files.at(-1) : one
    })
    try {
      const bytes = written(filled)
      return {
        name,
        is,
        descriptors: files.length,
        hex: hex(bytes),
        value: notationOf(bytes),
        ...(code === undefined ? {} : { code })
      }
    } finally {
      for (const file of files) file.close()
    }
  })
}

const D = 'DESCRIPTOR'
const PROGRAM = { pid: 4711, passfd: '0.1.0', runtime: 'node v24.0.0' }

function takeover(): MessageVector[] {
  const wrong = raw.documented('TAKEOVER_PROTOCOL')
  const begin = { do: 'begin', takeover: 1, needs: [], program: PROGRAM, life: D }
  const listener = {
    name: 'http',
    lane: 0,
    kind: 'tcp-listener',
    options: { port: 3000, host: '127.0.0.1' },
    listener: D
  }
  const offer = {
    takeover: 1,
    needs: [],
    program: PROGRAM,
    generation: 1,
    total: 1,
    listeners: [listener],
    decision: D,
    path: D,
    life: D
  }
  const { life: _, ...lifeless } = begin
  const { total: __, ...uncounted } = offer
  return messages([
    ['begin, with what must be there', 'request', { do: 'begin', takeover: 1, program: { pid: 1 }, life: D }],
    ['begin of passfd', 'request', begin],
    [
      'begin with names and a unit of systemd',
      'request',
      { ...begin, wants: ['http'], service: { unit: 'web.service', own: true } }
    ],
    ['the offer', 'answer begin', offer],
    ['the first part of an offer: there is more', 'answer begin', { ...offer, total: 2, decision: undefined }],
    ['an offer between two workers', 'answer begin', { ...offer, total: 0, listeners: [], path: undefined }],
    ['more', 'request', { do: 'more', from: 1 }],
    ['the last part', 'answer more', { listeners: [{ ...listener, lane: 1 }], decision: D }],
    ['drops', 'request', { do: 'drops', names: ['admin'] }],
    ['freeze', 'request', { do: 'freeze', accepts: { format: 2 } }],
    ['the answer to freeze', 'answer freeze', { parts: 1, bytes: 3, descriptors: 0 }],
    ['state', 'request', { do: 'state', part: 0 }],
    ['a part of the state', 'answer state', { bytes: '0xd40000', descriptors: [] }],
    ['a part with descriptors', 'answer state', { bytes: '0x92d64600000000d64601000000', descriptors: [D, D] }],
    ['wait', 'message', { do: 'wait', behind: 4712 }],
    ['left', 'message', { do: 'left', connections: 2, chain: [{ pid: 4711, connections: 1 }] }],
    ['connections', 'message', { do: 'connections', name: 'http', connections: [D, D] }],
    ['idle connections', 'message', { do: 'connections', name: 'http', connections: [D], slot: 0 }],
    ['worker', 'message', { do: 'worker', slot: 0, end: D }],
    ['status', 'request', { do: 'status' }],
    [
      'the answer to status',
      'answer status',
      { owner: PROGRAM, generation: 2, since: 1700000000000, waiting: [4712], chain: [] }
    ],
    ['no map', 'request', ['begin'], wrong],
    ['an unknown do', 'request', { do: 'beg' }, wrong],
    ['begin without life', 'request', lifeless, wrong],
    ['begin with a life that is a number', 'request', { ...begin, life: 5 }, wrong],
    ['begin of version 0', 'request', { ...begin, takeover: 0 }, wrong],
    ['begin without a program', 'request', { ...begin, program: undefined }, wrong],
    ['begin with needs that are no list', 'request', { ...begin, needs: 'all' }, wrong],
    ['begin with a name of 256 characters', 'request', { ...begin, wants: ['x'.repeat(256)] }, wrong],
    ['begin with an empty name', 'request', { ...begin, wants: [''] }, wrong],
    ['begin with a service without own', 'request', { ...begin, service: { unit: 'web.service' } }, wrong],
    ['more from -1', 'request', { do: 'more', from: -1 }, wrong],
    ['state of part 0.5', 'request', { do: 'state', part: 0.5 }, wrong],
    ['an offer without total', 'answer begin', uncounted, wrong],
    [
      'an offer whose listener is no descriptor',
      'answer begin',
      { ...offer, listeners: [{ ...listener, listener: 3 }] },
      wrong
    ],
    ['a frozen state of no part', 'answer freeze', { parts: 0, bytes: 0, descriptors: 0 }, wrong],
    ['a part of the state that is a text', 'answer state', { bytes: 'text', descriptors: [] }, wrong]
  ])
}

function store(): MessageVector[] {
  const wrong = raw.documented('STORE_REQUEST')
  const client = '0x000102030405060708090a0b0c0d0e0f'
  const shown = {
    entry: 1,
    name: 'web',
    owner: 1000,
    kinds: ['tcp-listener'],
    bytes: 2,
    uid: 1000,
    pid: 4711,
    since: 1700000000000,
    poll: false,
    keep: false
  }
  const put = { do: 'put', name: 'web', descriptors: [D] }
  return messages([
    ['hello', 'request', { do: 'hello', store: 1, client, kept: [1, 2] }],
    ['the answer to hello', 'answer hello', { store: 1, epoch: client, known: false, gone: [2], leases: [] }],
    ['kept', 'request', { do: 'kept', entries: [3] }],
    ['the answer to kept', 'answer kept', { gone: [] }],
    ['the smallest put', 'request', put],
    [
      'a put with all fields',
      'request',
      {
        ...put,
        id: 2,
        seen: 1,
        owner: 1000,
        descriptors: [D, D],
        value: '0xa26869',
        ttl: 60000,
        poll: true,
        keep: true,
        replace: true
      }
    ],
    [
      'nil means missing',
      'request',
      { ...put, id: null, owner: null, value: null, ttl: null, poll: null, keep: null, replace: null }
    ],
    ['the answer to put', 'answer put', { entry: 1 }],
    ['the answer to a repeated put', 'answer put', { entry: 1, gone: true }],
    ['take', 'request', { do: 'take', id: 3, seen: 2, name: 'web' }],
    ['an entry', 'answer take', { ...shown, descriptors: [D], value: '0xa26869' }],
    ['no entry', 'answer take', null],
    ['keep', 'request', { do: 'keep', id: 4, seen: 3, entry: 1 }],
    ['release', 'request', { do: 'release', entry: 1 }],
    ['copy', 'request', { do: 'copy', name: 'web', owner: 0 }],
    ['remove', 'request', { do: 'remove', name: 'web' }],
    ['list', 'request', { do: 'list', names: 'w*', owner: 1000, after: 7 }],
    ['the answer to list', 'answer list', { entries: [{ ...shown, ttl: 5000, leased: 4711 }], after: 1 }],
    ['watch', 'request', { do: 'watch', watch: 1, names: '*' }],
    ['the list of a watch', 'message', { watch: 1, event: 'list', entries: [shown], more: false }],
    ['an event of a watch', 'message', { watch: 1, event: 'put', entry: shown }],
    ['gone', 'message', { event: 'gone', entry: 1 }],
    ['unwatch', 'request', { do: 'unwatch', watch: 1 }],
    ['no map', 'request', 'put', wrong],
    ['an unknown do', 'request', { do: 'get' }, wrong],
    ['hello with a client of 15 bytes', 'request', { do: 'hello', store: 1, client: client.slice(0, -2) }, wrong],
    ['put without a descriptor', 'request', { ...put, descriptors: [] }, wrong],
    ['put of a number', 'request', { ...put, descriptors: [3] }, wrong],
    ['put with a value that is a text', 'request', { ...put, value: 'text' }, wrong],
    ['put with a ttl of 0', 'request', { ...put, ttl: 0 }, wrong],
    ['put with seen that is not below id', 'request', { ...put, id: 1, seen: 1 }, wrong],
    ['a name with a colon', 'request', { do: 'take', name: 'a:b' }, wrong],
    ['a name of 256 characters', 'request', { do: 'take', name: 'x'.repeat(256) }, wrong],
    ['an empty name', 'request', { do: 'take', name: '' }, wrong],
    ['a name beyond ASCII', 'request', { do: 'take', name: 'é' }, wrong],
    ['a pattern with a star in the middle', 'request', { do: 'list', names: 'a*b' }, wrong],
    ['keep of entry 0', 'request', { do: 'keep', entry: 0 }, wrong]
  ])
}

/** Bodies of a state, whose indexes have four bytes. */
export interface StateVector {
  name: string
  hex: string
  descriptors: number
}

function states(): StateVector[] {
  const made: StateVector[] = [{ name: 'no state', hex: hex(encodeWide(undefined).bytes), descriptors: 0 }]
  for (const [name, count] of [
    ['two descriptors', 2],
    ['259 descriptors', 259]
  ] as const) {
    const files = Array.from({ length: count }, () => Descriptor.openSync('/dev/null'))
    made.push({ name: `an array of ${name}`, hex: hex(encodeWide(files).bytes), descriptors: count })
    for (const file of files) file.close()
  }
  made.push({ name: 'a record', hex: hex(encodeWide([{ a: 1 }, { a: 2 }]).bytes), descriptors: 0 })
  return made
}

// --- the file

export async function vectors() {
  return {
    about:
      'Test vectors of the protocol of passfd, version 1. docs/protocol.md says what each field means. Written by `npm run vectors`.',
    version: 1,
    frames: frames(),
    bodies: bodies(),
    keys: keys(),
    violations: violations(),
    conversations: await conversations(),
    records: records(),
    takeover: takeover(),
    states: states(),
    store: store()
  }
}

/** As it stands in the file: a line for each vector. */
export function textOf(file: object): string {
  const sections = Object.entries(file).map(([name, value]) => {
    const lines = Array.isArray(value)
      ? `[\n${value.map(one => `    ${JSON.stringify(one)}`).join(',\n')}\n  ]`
      : JSON.stringify(value)
    return `  ${JSON.stringify(name)}: ${lines}`
  })
  return `{\n${sections.join(',\n')}\n}\n`
}
