/** Every violation of the protocol that a peer can make: the table in docs/protocol.md, and mutations of valid traffic. */
import { closeSync, fstatSync, openSync, statSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import fc from 'fast-check'
import { Packr } from 'msgpackr'
import { errorCodes } from '../../src/base/errors.ts'
import { own } from '../../src/descriptor/descriptor.ts'
import { type Channel, type ChannelOptions, connect, Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { times } from '../helpers/full.ts'
import {
  body,
  CANCEL,
  CREDIT,
  DEFINITIONS,
  deafPair,
  documented,
  FAULT,
  frame,
  GOODBYE,
  goodbye,
  HELLO,
  hello,
  MESSAGE,
  message,
  Place,
  places,
  RawPeer,
  REPLY,
  REQUEST,
  rawPair,
  reply,
  request,
  socketpair,
  TAKEN,
  taken
} from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const codeOf = async (channel: Channel): Promise<string | undefined> =>
  ((await channel.closed) as NodeJS.ErrnoException | undefined)?.code

/** Fails unless the peer is told this code, as the last thing, and the channel ends with it. */
async function assertViolation(t: ExecutionContext, channel: Channel, peer: RawPeer, name: string): Promise<void> {
  t.is((await peer.next(GOODBYE)).value.code, documented(name))
  await peer.ended
  t.deepEqual(peer.rest(), [], 'a goodbye with a code is final')
  t.is(await codeOf(channel), documented(name))
  peer.close()
}

interface Violation {
  what: string
  code: string
  bytes: Buffer
  /** Descriptors that are sent with it. */
  descriptors?: number
  options?: ChannelOptions
  /** It is none after our own goodbye: what comes then is not looked into. */
  notAfterGoodbye?: true
}

const nothing = Buffer.alloc(0)
/** An unknown extension. */
const garbage = Buffer.of(0xd4, 1, 0)
const nested = (depth: number): Buffer => Buffer.concat([Buffer.alloc(depth, 0x91), Buffer.of(0xc0)])
const undecodable: [what: string, body: Buffer][] = [
  ['is empty', nothing],
  ['ends early', body('cut short').subarray(0, -1)],
  ['goes on after its value', Buffer.concat([body('a value'), body('another')])],
  ['claims more elements than there is room for', Buffer.of(0xdd, 0xff, 0xff, 0xff, 0xff)],
  ['claims more keys than there is room for', Buffer.of(0xdf, 0xff, 0xff, 0xff, 0xff)],
  ['claims a longer string than there is', Buffer.of(0xdb, 0xff, 0xff, 0xff, 0xff)],
  ['claims more bytes than there are', Buffer.of(0xc6, 0xff, 0xff, 0xff, 0xff)],
  ['claims a longer extension than there is', Buffer.of(0xc9, 0xff, 0xff, 0xff, 0xff, 70)],
  ['is nested deeper than 512', nested(513)],
  ['is nested deeper than any stack', nested(1_000_000)],
  ['holds an unknown extension', garbage],
  ['defines a record that was not agreed on', Buffer.concat([Buffer.of(0xd4, 0x72, 0x40), body(['a']), body(1)])],
  ...[0x00, 0x42, 0x62, 0x65, 0x69, 0x70, 0x73, 0x74, 0x78].map((type): [string, Buffer] => [
    `holds the extension 0x${type.toString(16)} of msgpackr's own`,
    Buffer.of(0xd4, type, 0x01)
  ])
]

const small = { maxMessage: 99 }
const impatient = { frameTimeout: 30 }

/** A frame that only says that it is long. */
const long = (kind: number, length: number): Buffer => frame(kind, nothing, { length })

const violations: Violation[] = [
  { what: 'an unknown kind', code: 'BAD_FRAME', bytes: frame(10) },
  { what: 'definitions without records', code: 'BAD_FRAME', bytes: frame(DEFINITIONS, body({ a: 1 })) },
  {
    what: 'definitions with a descriptor',
    code: 'BAD_FRAME',
    bytes: frame(DEFINITIONS, body({ a: 1 }), { count: 1, flags: 8 }),
    descriptors: 1
  },
  { what: 'the last unknown kind', code: 'BAD_FRAME', bytes: frame(255) },
  { what: 'a cancel with a body', code: 'BAD_FRAME', bytes: frame(CANCEL, body(1)) },
  { what: 'a credit with a body', code: 'BAD_FRAME', bytes: frame(CREDIT, body(1), { id: 1 }) },
  { what: 'a taken with a body', code: 'BAD_FRAME', bytes: frame(TAKEN, body(1)) },
  { what: '254 descriptors', code: 'BAD_FRAME', bytes: frame(MESSAGE, body([]), { count: 254 }), descriptors: 200 },
  { what: 'a second hello', code: 'BAD_HELLO', bytes: hello() },
  { what: 'too long a message', code: 'FRAME_TOO_LARGE', bytes: message('x'.repeat(98)), options: small },
  { what: 'too long a reply', code: 'FRAME_TOO_LARGE', bytes: long(REPLY, 100), options: small },
  { what: 'too long a fault', code: 'FRAME_TOO_LARGE', bytes: long(FAULT, 100), options: small },
  { what: 'too long a goodbye', code: 'FRAME_TOO_LARGE', bytes: long(GOODBYE, 100), options: small },
  { what: 'the longest frame there is', code: 'FRAME_TOO_LARGE', bytes: long(MESSAGE, 0xffffffff) },
  {
    what: 'a frame begun and not ended',
    code: 'FRAME_STALLED',
    bytes: message('x').subarray(0, -1),
    descriptors: 2,
    options: impatient
  },
  { what: 'a header begun and not ended', code: 'FRAME_STALLED', bytes: Buffer.of(1), options: impatient },
  {
    what: 'descriptors that no frame claims',
    code: 'FRAME_STALLED',
    bytes: frame(CREDIT),
    descriptors: 2,
    options: impatient
  },
  {
    what: 'a message without one of its descriptors',
    code: 'DESCRIPTORS_MISSING',
    bytes: message(places(2), 2),
    descriptors: 1
  },
  {
    what: 'an index that no descriptor has',
    code: 'DESCRIPTOR_COUNT',
    bytes: message(places(2), 1),
    descriptors: 1,
    notAfterGoodbye: true
  },
  {
    what: 'a connection with an index that no descriptor has',
    code: 'DESCRIPTOR_COUNT',
    bytes: frame(MESSAGE, Buffer.of(0xc7, 3, 67, 1, 120, 121), { count: 1 }),
    descriptors: 1,
    notAfterGoodbye: true
  },
  {
    what: 'a connection without a descriptor',
    code: 'DESCRIPTOR_COUNT',
    bytes: frame(MESSAGE, Buffer.of(0xd4, 67, 0)),
    notAfterGoodbye: true
  },
  {
    what: 'a connection without even an index',
    code: 'DESCRIPTOR_COUNT',
    bytes: frame(MESSAGE, Buffer.of(0xc7, 0, 67), { count: 1 }),
    descriptors: 1,
    notAfterGoodbye: true
  },
  {
    what: 'a connection and a descriptor with the same index',
    code: 'DESCRIPTOR_COUNT',
    bytes: frame(MESSAGE, Buffer.of(0x92, 0xd5, 67, 0, 120, 0xd4, 70, 0), { count: 2 }),
    descriptors: 2,
    notAfterGoodbye: true
  },
  {
    what: 'a connection twice',
    code: 'DESCRIPTOR_COUNT',
    bytes: frame(MESSAGE, Buffer.of(0x92, 0xd4, 67, 0, 0xd4, 67, 0), { count: 1 }),
    descriptors: 1,
    notAfterGoodbye: true
  },
  {
    what: 'a descriptor that no index names',
    code: 'DESCRIPTOR_COUNT',
    bytes: message([], 1),
    descriptors: 1,
    notAfterGoodbye: true
  },
  {
    what: 'more descriptors than are taken',
    code: 'DESCRIPTOR_COUNT',
    bytes: message(places(3), 3),
    descriptors: 3,
    options: { maxDescriptors: 2 }
  },
  { what: 'more taken than was sent', code: 'BAD_TAKEN', bytes: taken(1) },
  { what: 'a reply to nothing', code: 'BAD_ID', bytes: reply(77, places(2), 2), descriptors: 2 },
  { what: 'a fault to nothing', code: 'BAD_ID', bytes: frame(FAULT, body({ code: 'E' }), { id: 77 }) },
  { what: 'an undecodable goodbye', code: 'UNDECODABLE', bytes: frame(GOODBYE, garbage) },
  { what: 'records that were not agreed on', code: 'UNDECODABLE', bytes: frame(MESSAGE, body(1), { flags: 8 }) },
  ...[HELLO, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE].map((kind): Violation => {
    const bytes = frame(kind, kind === HELLO || kind === FAULT ? body({}) : nothing, { count: 1 })
    return { what: `a descriptor with a frame of kind ${kind}`, code: 'BAD_FRAME', bytes, descriptors: 1 }
  }),
  ...undecodable.map(([what, content]): Violation => {
    return { what: `a body that ${what}`, code: 'UNDECODABLE', bytes: frame(MESSAGE, content), notAfterGoodbye: true }
  })
]

for (const { what, code, bytes, descriptors = 0, options, notAfterGoodbye } of violations) {
  test(`${what}: ${code}, after what was complete has been delivered and confirmed`, async t => {
    const { channel, peer } = await rawPair(options)
    const file = openSync('/etc/passwd', 'r')
    const seen: unknown[] = []
    channel.on('message', ({ isRequest, descriptors }) => {
      seen.push(isRequest, ...descriptors.map(descriptor => fstatSync(descriptor.borrow()).ino))
    })
    const good = Buffer.concat([message(places(1), 1), request(5, 'no descriptor')])
    await peer.sendAll(Buffer.concat([good, bytes]), Array(1 + descriptors).fill(file))
    t.is((await peer.next(TAKEN, GOODBYE)).id, 1, 'taken comes first')
    await assertViolation(t, channel, peer, code)
    t.deepEqual(seen, [false, statSync('/etc/passwd').ino, true])
    closeSync(file)
  })

  if (!notAfterGoodbye)
    test(`${what} after our own goodbye: answered by closing alone`, async t => {
      const { channel, peer } = await rawPair(options)
      const file = openSync('/etc/passwd', 'r')
      void channel.close()
      t.deepEqual((await peer.next(GOODBYE)).value, {})
      await peer.sendAll(bytes, Array(descriptors).fill(file))
      await peer.ended
      t.deepEqual(peer.rest(), [])
      t.is(await codeOf(channel), documented(code))
      peer.close()
      closeSync(file)
    })
}

test('every flag that a kind does not have: BAD_FRAME', async t => {
  const skip = 0b111
  const known = [0, 8, 0xff08, 8, 0, 0, 0, 0, 0]
  for (const [kind, flags] of known.entries())
    for (let bit = 1; bit <= 0x8000; bit *= 2) {
      if ((flags | skip) & bit) continue
      const { channel, peer } = await rawPair()
      peer.send(frame(kind, nothing, { flags: bit }))
      await assertViolation(t, channel, peer, 'BAD_FRAME')
    }
})

test('a body as long as maxMessage, and no longer', async t => {
  for (const length of [98, 99, 100]) {
    const { channel, peer } = await rawPair({ maxMessage: 99 })
    channel.on('message', ({ value }) => void channel.send(value))
    const bytes = frame(MESSAGE, Buffer.concat([Buffer.of(0xd9, length - 2), Buffer.alloc(length - 2, 'x')]))
    peer.send(bytes)
    if (length > 99) await assertViolation(t, channel, peer, 'FRAME_TOO_LARGE')
    else t.is((await peer.next(MESSAGE)).value.length, length - 2)
    peer.close()
    await channel.closed
  }
})

test('nesting of 512, and no deeper', async t => {
  for (const depth of [511, 512, 513]) {
    const { channel, peer } = await rawPair()
    channel.on('message', () => void channel.send('delivered'))
    peer.send(frame(MESSAGE, nested(depth)))
    if (depth > 512) await assertViolation(t, channel, peer, 'UNDECODABLE')
    else t.is((await peer.next(MESSAGE)).value, 'delivered')
    peer.close()
    await channel.closed
  }
})

test('a key __proto__ reaches no prototype', async t => {
  const { channel, peer } = await rawPair()
  const seen: object[] = []
  channel.on('message', ({ value }) => seen.push(value as object))
  const key = Buffer.concat([Buffer.of(0x81), body('__proto__'), body({ polluted: true })])
  peer.send(frame(MESSAGE, key))
  await until(() => seen.length === 1, 'the message')
  t.is(Object.getPrototypeOf(seen[0]), Object.prototype)
  t.false('polluted' in {})
  peer.close()
  await channel.closed
})

test('a message without credit: CREDIT_EXCEEDED; one that takes the credit below 0 is none', async t => {
  for (const [kind, bytes] of [
    [MESSAGE, message(places(1), 1)],
    [REQUEST, request(9, places(1), 1)]
  ] as const) {
    const { channel, peer } = await rawPair({ window: 100 })
    const file = openSync('/dev/null', 'r')
    peer.send(Buffer.concat([message('x'.repeat(500)), bytes]), [file])
    await assertViolation(t, channel, peer, 'CREDIT_EXCEEDED')
    for await (const { value } of channel) t.is((value as string).length, 500, `before the frame of kind ${kind}`)
    closeSync(file)
  }
})

test('a request whose id is pending: BAD_ID, cancelled or not', async t => {
  for (const cancelled of [false, true]) {
    const { channel, peer } = await rawPair()
    const file = openSync('/dev/null', 'r')
    channel.serve(() => new Promise(() => {}))
    const cancel = cancelled ? frame(CANCEL, nothing, { id: 5 }) : nothing
    const again = request(5, places(1), 1)
    peer.send(Buffer.concat([request(5, 'first'), request(0, 'another'), cancel, again]), [file])
    await assertViolation(t, channel, peer, 'BAD_ID')
    closeSync(file)
  }
})

test('a second answer to a request: BAD_ID; the first one counts', async t => {
  for (const second of [reply(1, 'second'), frame(FAULT, body({}), { id: 1 })]) {
    const { channel, peer } = await rawPair()
    const answer = channel.request('?')
    t.is((await peer.next(REQUEST)).id, 1)
    peer.send(Buffer.concat([reply(1, 'first'), second]))
    await assertViolation(t, channel, peer, 'BAD_ID')
    t.is(await answer, 'first')
  }
})

test('a reply with more descriptors than its request allows: DESCRIPTOR_COUNT, and the request fails', async t => {
  const { channel, peer } = await rawPair()
  const file = openSync('/dev/null', 'r')
  const answer = channel.request('?', { descriptors: 1 })
  const { id } = await peer.next(REQUEST)
  peer.send(reply(id, places(2), 2), [file, file])
  await assertViolation(t, channel, peer, 'DESCRIPTOR_COUNT')
  await t.throwsAsync(answer, { code: documented('CLOSED') })
  closeSync(file)
})

test('an undecodable reply or fault: UNDECODABLE, and the request fails', async t => {
  for (const kind of [REPLY, FAULT]) {
    const { channel, peer } = await rawPair()
    const answer = channel.request('?')
    const { id } = await peer.next(REQUEST)
    peer.send(frame(kind, garbage, { id }))
    await assertViolation(t, channel, peer, 'UNDECODABLE')
    await t.throwsAsync(answer, { code: documented('CLOSED') })
  }
})

test('taken for more than has left: BAD_TAKEN; what is really under way comes back', async t => {
  const { channel, peer } = await rawPair({}, { window: 1 })
  const states: string[] = []
  channel.on('returned', ({ state }) => states.push(state))
  void channel.send([Descriptor.openSync('/dev/null')])
  void channel.send([Descriptor.openSync('/dev/null')]) // waits for credit
  await peer.next(MESSAGE)
  peer.send(taken(2))
  await assertViolation(t, channel, peer, 'BAD_TAKEN')
  t.deepEqual(states, ['unconfirmed', 'unsent'])
})

for (const [what, bytes] of [
  ['a message', message('late')],
  ['a request', request(3, 'late')],
  ['a cancel', frame(CANCEL)],
  ['credit', frame(CREDIT, nothing, { id: 1 })],
  ['a second goodbye', goodbye()],
  ['a second hello', hello()]
] as const)
  test(`${what} after the peer's goodbye: closed with an error, after what was complete has been confirmed`, async t => {
    const { channel, peer } = await rawPair()
    const file = openSync('/dev/null', 'r')
    const seen: number[] = []
    channel.on('message', ({ descriptors }) => seen.push(descriptors.length))
    const answer = channel.request<Descriptor>('?')
    const { id } = await peer.next(REQUEST)
    const last = reply(id, new Place(0), 1)
    peer.send(Buffer.concat([message(places(1), 1), goodbye(), last, bytes]), [file, file])
    t.is((await peer.next(TAKEN, GOODBYE)).id, 1, 'of the message')
    t.deepEqual((await peer.next(TAKEN, GOODBYE)).value, {}, 'our own goodbye')
    t.is((await peer.next(TAKEN, GOODBYE)).id, 1, 'of the reply')
    await peer.ended
    t.deepEqual(peer.rest(), [])
    t.is(await codeOf(channel), documented('BAD_FRAME'))
    t.deepEqual(seen, [1])
    const descriptor = await answer
    descriptor.close()
    peer.close()
    closeSync(file)
  })

test('a goodbye with a code is the end, and its sender hears nothing more', async t => {
  const { channel, peer } = await rawPair()
  const answer = channel.request('?')
  await peer.next(REQUEST)
  peer.send(Buffer.concat([goodbye('ERR_OF_ITS_OWN', 'a reason'), Buffer.alloc(100, 0xff)]))
  await peer.ended
  t.deepEqual(peer.rest(), [])
  const error = (await channel.closed) as NodeJS.ErrnoException & { remote: object }
  t.is(error.code, documented('PEER'))
  t.deepEqual(error.remote, { code: 'ERR_OF_ITS_OWN', message: 'a reason' })
  await t.throwsAsync(answer, { code: documented('CLOSED') })
  peer.close()
})

test('an end without a goodbye is an error, between frames and inside one', async t => {
  for (const bytes of [nothing, message('whole'), message('a part').subarray(0, -2)]) {
    const { channel, peer } = await rawPair()
    channel.on('message', () => {})
    if (bytes.length > 0) peer.send(bytes)
    peer.shutdown()
    await peer.ended
    t.is(await codeOf(channel), documented('DISCONNECTED'))
    peer.close()
  }
})

// --- before the channel is open

const helloOf = (fields: object): Buffer => frame(HELLO, body(fields))
const long4096 = (length: number): Buffer => {
  const start = body({ version: 1, agent: 'x'.repeat(4000) })
  return frame(HELLO, body({ version: 1, agent: 'x'.repeat(4000 + length - start.length) }))
}
const greetings: [what: string, code: string, bytes: Buffer, descriptors?: number][] = [
  ['a message first', 'BAD_HELLO', message(places(1), 1), 1],
  ['credit first', 'BAD_HELLO', frame(CREDIT, nothing, { id: 1 })],
  ['taken first', 'BAD_HELLO', taken(1)],
  ['an unknown kind first', 'BAD_FRAME', frame(10)],
  ['definitions first', 'BAD_HELLO', frame(DEFINITIONS, body({ a: 1 }))],
  ['a hello with a descriptor', 'BAD_FRAME', frame(HELLO, body({ version: 1 }), { count: 1 }), 1],
  ['a hello with a flag', 'BAD_FRAME', frame(HELLO, body({ version: 1 }), { flags: 8 })],
  ['a hello of 4,097 bytes', 'FRAME_TOO_LARGE', long4096(4097)],
  ['a first message of 4,097 bytes', 'FRAME_TOO_LARGE', long(MESSAGE, 4097)],
  ['an empty hello', 'BAD_HELLO', frame(HELLO)],
  ['an undecodable hello', 'UNDECODABLE', frame(HELLO, garbage)],
  ['a hello that is a list', 'BAD_HELLO', frame(HELLO, body([1]))],
  ['a hello that is a text', 'BAD_HELLO', frame(HELLO, body('version 1'))],
  ['a hello without a version', 'BAD_HELLO', helloOf({ window: 1 })],
  ...[0, -1, 1.5, '1', null, 2 ** 40].map((version): [string, string, Buffer] => [
    `a hello of version ${JSON.stringify(version)}`,
    'BAD_HELLO',
    helloOf({ version })
  ]),
  ...Object.entries({
    maxMessage: -1,
    maxDescriptors: 1.5,
    window: 2 ** 33,
    descriptorCost: '1',
    agent: 5,
    features: 'records'
  }).map(([key, value]): [string, string, Buffer] => [
    `a hello with a wrong ${key}`,
    'BAD_HELLO',
    helloOf({ version: 1, [key]: value })
  ]),
  ['a hello with a wrong feature', 'BAD_HELLO', helloOf({ version: 1, features: ['records', 1] })],
  ['no hello', 'HANDSHAKE_TIMEOUT', hello().subarray(0, -1)]
]

for (const [what, code, bytes, descriptors = 0] of greetings)
  test(`${what}: ${code}`, async t => {
    const [ours, theirs] = socketpair()
    const peer = new RawPeer(theirs)
    const file = openSync('/dev/null', 'r')
    peer.send(bytes, Array(descriptors).fill(file))
    const options = code === 'HANDSHAKE_TIMEOUT' ? { handshakeTimeout: 50 } : {}
    await t.throwsAsync(connect(own(ours), options), { code: documented(code) })
    peer.start()
    t.is((await peer.next(GOODBYE)).value.code, documented(code))
    await peer.ended
    peer.close()
    closeSync(file)
  })

test('hellos that are none: the smallest, the longest, and those of the future', async t => {
  for (const bytes of [
    helloOf({ version: 1 }),
    long4096(4096),
    helloOf({ version: 7, windows: 3, features: ['telepathy'] })
  ]) {
    const [ours, theirs] = socketpair()
    const peer = new RawPeer(theirs)
    peer.send(bytes)
    const channel = await connect(own(ours))
    peer.start()
    peer.send(goodbye())
    await peer.next(GOODBYE)
    peer.shutdown()
    t.is(await channel.closed, undefined)
    peer.close()
  }
})

test('a request that allows 255 descriptors is answered with no more than the protocol has', async t => {
  const { channel, peer } = await rawPair({ maxDescriptors: 253 })
  channel.serve(() => Array.from({ length: 254 }, () => Descriptor.openSync('/dev/null')))
  peer.send(request(1, 'all', 0, 255))
  const fault = await peer.next(FAULT)
  t.is(fault.value.code, documented('TOO_MANY_DESCRIPTORS'))
  channel.destroy()
  await peer.ended
  peer.close()
})

test('a goodbye first is a refusal, with its reason or without; an end first is none', async t => {
  for (const [bytes, code] of [
    [goodbye('ERR_PASSFD_UNAUTHORIZED', 'not you'), 'PEER'],
    [goodbye(), 'REFUSED'],
    [nothing, 'DISCONNECTED']
  ] as const) {
    const [ours, theirs] = socketpair()
    const peer = new RawPeer(theirs)
    if (bytes.length > 0) peer.send(bytes)
    peer.shutdown()
    await t.throwsAsync(connect(own(ours)), { code: documented(code) })
    peer.close()
  }
})

// --- mutations

const DESCRIPTORS_AT_MOST = 3

/** A frame of valid traffic and how many descriptors go with it; or a value to be sent as records. */
interface Step {
  bytes?: Buffer
  record?: unknown
  descriptors: number
}

const descriptors = fc.nat(DESCRIPTORS_AT_MOST)
const control = (kind: number, id: number, content: Buffer = nothing): Step => {
  return { bytes: frame(kind, content, { id }), descriptors: 0 }
}
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fc.jsonValue(), descriptors).map(([value, count]): Step => {
    return { bytes: message({ value, files: places(count) }, count), descriptors: count }
  }),
  fc.tuple(fc.jsonValue(), descriptors, fc.nat(20)).map(([value, count, id]): Step => {
    return { bytes: request(id, { value, files: places(count) }, count, 2), descriptors: count }
  }),
  fc.tuple(fc.constantFrom(1, 2, 3), fc.nat(1)).map(([id, count]): Step => {
    return { bytes: reply(id, places(count), count), descriptors: count }
  }),
  fc.constantFrom(1, 2, 3).map(id => control(FAULT, id, body({ code: 'E', message: 'm' }))),
  fc.nat(20).map(id => control(CANCEL, id)),
  fc.nat(1000).map(id => control(CREDIT, id)),
  fc.nat(1).map(id => control(TAKEN, id)),
  fc.tuple(fc.jsonValue(), fc.uint8Array({ maxLength: 40 })).map(([value, bytes]): Step => {
    return { record: { value, bytes, set: new Set([1n]) }, descriptors: 0 }
  })
)

type Mutation = { at: number; how: 'flip' | 'set' | 'insert' | 'remove' | 'copy'; byte: number }

const mutation: fc.Arbitrary<Mutation> = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
  how: fc.constantFrom('flip', 'set', 'insert', 'remove', 'copy'),
  byte: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 7, 8, 9, 253, 255))
})

function mutate(bytes: Buffer, mutations: Mutation[]): Buffer {
  for (const { at, how, byte } of mutations) {
    const index = Math.floor(at * bytes.length)
    const [before, rest] = [bytes.subarray(0, index), bytes.subarray(index)]
    if (how === 'flip') bytes = Buffer.concat([before, Buffer.of(rest[0]! ^ (1 << (byte & 7))), rest.subarray(1)])
    else if (how === 'set') bytes = Buffer.concat([before, Buffer.of(byte), rest.subarray(1)])
    else if (how === 'insert') bytes = Buffer.concat([before, Buffer.of(byte), rest])
    else if (how === 'remove') bytes = Buffer.concat([before, rest.subarray(1 + (byte & 15))])
    else bytes = Buffer.concat([before, rest.subarray(0, byte), rest])
  }
  return bytes
}

interface Session {
  steps: Step[]
  /** Whether the peer says goodbye before it goes. */
  friendly: boolean
  mutations: Mutation[]
  /** How many descriptors more or fewer go with the traffic than it says. */
  extra: number
  cuts: number[]
  features: string[]
}

const session: fc.Arbitrary<Session> = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 12 }),
  friendly: fc.boolean(),
  mutations: fc.array(mutation, { maxLength: 4 }),
  extra: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: -2, max: 5 }) }),
  cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 4 }),
  features: fc.constantFrom([], ['records'])
})

function closeIn(value: unknown): void {
  if (value instanceof Descriptor) value[Symbol.dispose]()
  else if (typeof value === 'object' && value !== null) for (const item of Object.values(value)) closeIn(item)
}

/** What a channel that asks, sends and answers ends with when its peer says this and goes. */
async function endOf(given: Session, file: number): Promise<string | undefined> {
  const { friendly, mutations, extra, cuts, features } = given
  const { channel, peer } = await deafPair({ window: 4000 }, { features, window: 4000 })
  channel.serve(({ isRequest }) => (isRequest ? [Descriptor.openSync('/dev/null')] : undefined))
  for (let i = 0; i < 3; i++) channel.request('?').then(closeIn, () => {})
  void channel.send(Descriptor.openSync('/dev/null'))
  peer.start()
  const records = new Packr({ sequential: true })
  const steps = given.steps.filter(({ bytes }) => bytes !== undefined || features.length > 0)
  const frames = steps.map(({ bytes, record }) => bytes ?? frame(MESSAGE, records.pack(record), { flags: 8 }))
  const bytes = mutate(Buffer.concat([...frames, friendly ? goodbye() : nothing]), mutations)
  const count = steps.reduce((sum, step) => sum + step.descriptors, extra)
  const edges = [...cuts.map(cut => Math.floor(cut * bytes.length)).sort((a, b) => a - b), bytes.length]
  let left: number[] = Array(Math.max(0, count)).fill(file)
  for (const [index, edge] of edges.entries()) {
    const start = index === 0 ? 0 : edges[index - 1]!
    if (edge === start) continue
    try {
      await peer.sendAll(bytes.subarray(start, edge), left)
    } catch {
      break // the channel has ended by now
    }
    left = []
    await turn()
  }
  peer.shutdown()
  let ended = false
  void channel.closed.then(() => {
    ended = true
  })
  await until(() => ended, 'the end of the channel')
  peer.close()
  return codeOf(channel)
}

test('valid traffic, mutated: ends with a documented code or has no effect, and leaves nothing behind', async t => {
  const file = openSync('/dev/null', 'r')
  const held = native.held()
  const ends = new Map<string, number>()
  const property = fc.asyncProperty(session, async given => {
    const code = (await endOf(given, file)) ?? 'no error'
    if (code !== 'no error' && !errorCodes.includes(code as never)) throw new Error(`${code} is not documented`)
    await until(() => native.held() === held, 'every descriptor closed')
    ends.set(code, (ends.get(code) ?? 0) + 1)
  })
  // Always the same ones, since a test that fails now and then helps nobody; PASSFD_FUZZ=1 tries new ones
  const chosen = process.env.PASSFD_FUZZ === undefined ? { seed: 20, numRuns: times(80, 600) } : { numRuns: 20_000 }
  await fc.assert(property, { ...chosen, endOnFailure: true })
  t.log(Object.fromEntries(ends))
  t.true(ends.size > 5, 'many different ends')
  closeSync(file)
})
