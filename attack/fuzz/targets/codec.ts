/** Frames and bodies. */
import { Codec } from '../../../src/codec/codec.ts'
import { Encoded } from '../../../src/codec/encoded.ts'
import { DEFINITIONS, type Frame, FrameReader, HEADER, RECORDS, writeHeader } from '../../../src/codec/frame.ts'
import { decodeWide, encodeWide } from '../../../src/codec/wide.ts'
import { allowed, isSame, must, pack, type Target, type Targets, valueIn } from '../target.ts'

const HEADROOM = 32_768
const AREA = Buffer.alloc(HEADROOM + 65_536)
const MAX_BODY = 100_000
/** docs/protocol.md: the kinds that carry descriptors, how many, and the kinds without a body. */
const WITH_DESCRIPTORS = [1, 2, 3]
const MAX_RIGHTS = 253
const WITHOUT_BODY = [5, 6, 7]
const FRAME_ERRORS = ['ERR_PASSFD_BAD_FRAME', 'ERR_PASSFD_FRAME_TOO_LARGE']

/** What a reader makes of the input, if it comes in pieces of these lengths, again and again. */
function framesOf(input: Buffer, lengths: readonly number[]): string[] {
  const events: string[] = []
  const onFrame = ({ kind, count, flags, id, bytes, start, end }: Frame): boolean => {
    must(end <= bytes.length && start <= end, 'a body goes beyond its bytes')
    must(end - start <= MAX_BODY, `a body of ${end - start} bytes`)
    must(kind <= DEFINITIONS, `kind ${kind}`)
    must(count <= (WITH_DESCRIPTORS.includes(kind) ? MAX_RIGHTS : 0), `${count} descriptors with kind ${kind}`)
    must(end === start || !WITHOUT_BODY.includes(kind), `a body of kind ${kind}`)
    events.push(`${kind} ${count} ${flags} ${id} ${bytes.toString('latin1', start, end)}`)
    return true
  }
  const reader = new FrameReader({ onFrame }, AREA, HEADROOM)
  reader.maxBody = MAX_BODY
  try {
    for (let at = 0, turn = 0; at < input.length; turn++) {
      const piece = input.subarray(at, at + lengths[turn % lengths.length]!)
      // As the shim does: the rest of a large body goes where it belongs
      const direct = reader.target === undefined ? 0 : Math.min(piece.length, reader.targetEnd - reader.filled)
      if (direct > 0) piece.copy(reader.target!, reader.filled, 0, direct)
      piece.copy(AREA, HEADROOM, direct)
      reader.received(piece.length)
      at += piece.length
    }
    events.push(`partial: ${reader.partial}, announced: ${reader.announced}`)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !FRAME_ERRORS.includes(code)) throw error
    events.push(code)
  }
  return events
}

function frameOf(kind: number, count: number, flags: number, id: number, body: Buffer): Buffer {
  const header = Buffer.alloc(HEADER)
  writeHeader(header, 0, body.length, kind, count, flags, id)
  return Buffer.concat([header, body])
}

const frames: Target = {
  sources: /\/src\/codec\/frame\./,
  seeds() {
    const bodies = [Buffer.alloc(0), pack({ a: 1 }), Buffer.alloc(20_000, 5)]
    const single = Array.from({ length: 10 }, (_, kind) => frameOf(kind, kind % 3, 0, kind, bodies[kind % 3]!))
    return [...single, Buffer.concat(single.slice(1, 4)), Buffer.concat([single[2]!, single[6]!, single[2]!])]
  },
  attempt(input) {
    const whole = framesOf(input, [65_536])
    const first = 1 + (input[0] ?? 0)
    for (const lengths of [[1], [first, 7], [HEADER, 3]])
      must(isSame(framesOf(input, lengths), whole), `in pieces of ${lengths} it is read as something else`)
  }
}

const DECODE_ERRORS = ['ERR_PASSFD_UNDECODABLE', 'ERR_PASSFD_DESCRIPTOR_COUNT']

const VALUES = [
  { id: 1, type: 'open', path: '/tmp/a', mode: 420, wait: false },
  [1, -1, 1.5, 2n ** 60n, 'text', null, undefined, true],
  new Map<unknown, unknown>([
    [1, 'a'],
    ['b', new Set([1])]
  ]),
  { at: new Date(5), never: new Date(Number.NaN), bytes: Buffer.from('bytes'), view: Float64Array.of(1, 2) },
  { list: [[], {}, [{}]], whole: new Uint8Array(3).buffer, seen: new DataView(new ArrayBuffer(2)), big: -(2n ** 90n) },
  [{ a: 1, b: 2 }, { a: 3, b: 4 }, { a: { a: 1 } }],
  new Set<unknown>([1.5, 2n ** 70n, 'a', [1], new Map()]),
  Array.from({ length: 200 }, (_, key) => key)
]

function codecWithRecords(): Codec {
  const codec = new Codec()
  codec.records = true
  return codec
}

/** A copy of the body, without the room for its header. */
function bytesOf({ bytes, start, end }: Encoded): Buffer {
  return Buffer.from(bytes.subarray(start + HEADER, end))
}

/** What has arrived can be sent on, and arrives as the same. */
function checkAgain(value: unknown): void {
  const again = codecWithRecords()
  const encoded = again.encode(value, 'apart', new Encoded())
  const bytes = bytesOf(encoded)
  const arrived = again.decode({ bytes, start: 0, end: bytes.length, flags: encoded.flags, owned: true }, [])
  must(isSame(arrived, value), 'encoded and decoded it is something else')
}

/** The first byte says whether it uses records; the second one how many descriptors came with it. */
const bodies: Target = {
  sources: /\/src\/codec\/(?!frame|lent-bodies|key-chains)/,
  seeds: () =>
    VALUES.flatMap(value => {
      const flagged = (['next', 'apart'] as const).map(timing =>
        codecWithRecords().encode(value, timing, new Encoded())
      )
      const plain = new Codec().encode([1, 'a', { b: [null] }], 'apart', new Encoded())
      return [
        ...flagged.map(encoded => Buffer.concat([Buffer.of(1, 0), bytesOf(encoded)])),
        Buffer.concat([Buffer.of(0, 0), bytesOf(plain)])
      ]
    }),
  attempt(input) {
    if (input.length < 2) return
    const flags = input[0]! & 1 ? RECORDS : 0
    const codec = codecWithRecords()
    codec.maxValues = 100_000
    const body = { bytes: input, start: 2, end: input.length, flags, owned: true }
    allowed(DECODE_ERRORS, () => new Codec().learn({ ...body, flags: 0 }, input[1]! % 254))
    const decoded = allowed(DECODE_ERRORS, () => ({ value: codec.decode(body, []) }))
    if (decoded !== undefined) checkAgain(decoded.value)
  }
}

/** A state of a takeover. */
const wide: Target = {
  sources: /\/src\/codec\/(wide|pack|records|extensions)\./,
  seeds: () => VALUES.map(value => encodeWide(value).bytes),
  attempt(input) {
    const decoded = allowed(DECODE_ERRORS, () => ({ value: decodeWide(input, []) }))
    if (decoded === undefined) return
    const { bytes } = encodeWide(decoded.value)
    must(isSame(decodeWide(bytes, []), decoded.value), 'encoded and decoded it is something else')
  }
}

/** Many bodies of one peer, one after the other: a byte of flags, two of length, the body. What one defines the next ones use. */
const sequences: Target = {
  sources: /\/src\/codec\/(records|record-table|pack|codec)\./,
  seeds() {
    const codec = codecWithRecords()
    const shapes = Array.from({ length: 40 }, (_, at) => ({ [`a${at % 34}`]: at, b: at }))
    const parts = [...VALUES, ...VALUES, ...shapes].map(value => part(codec.encode(value, 'next', new Encoded())))
    return [Buffer.concat(parts.slice(0, 5)), Buffer.concat(parts.slice(0, 20)), Buffer.concat(parts.slice(16))]
  },
  attempt(input) {
    const codec = codecWithRecords()
    for (let at = 0; at + 3 <= input.length; ) {
      const start = at + 3
      const end = Math.min(input.length, start + input.readUInt16LE(at + 1))
      const body = { bytes: input, start, end, flags: input[at]! & 1 ? RECORDS : 0, owned: false }
      const decoded = allowed(DECODE_ERRORS, () => ({ value: codec.decode(body, []) }))
      if (decoded === undefined) return // the channel ends
      at = end
    }
  }
}

function part(encoded: Encoded): Buffer {
  const bytes = bytesOf(encoded)
  const head = Buffer.of(encoded.flags === RECORDS ? 1 : 0, 0, 0)
  head.writeUInt16LE(bytes.length, 1)
  return Buffer.concat([head, bytes])
}

/** A list of objects: all are sent on one channel, in each of the ways that bodies can be written, and each arrives as it was. */
const flat: Target = {
  sources: /\/src\/codec\/(flat-record|record-table|packers|encodable|pack)\./,
  seeds: () => [
    pack([
      { a: 1, b: 'text', c: true },
      { a: 2, b: 'other', c: false },
      { a: -1, b: 'é', c: null },
      { a: 1.5, b: 'x'.repeat(70), c: 300 }
    ]),
    pack(Array.from({ length: 20 }, (_, at) => ({ id: at * 1000, name: `n${at}` }))),
    pack([{ a: 1 }, { a: [1] }, { a: 2 }, { b: 1 }, { a: 3 }, { c: 1 }, { d: 1 }, { e: 1 }, { f: 1 }, { a: 4 }])
  ],
  attempt(input) {
    const list = valueIn(input)?.value
    if (!Array.isArray(list)) return
    const [sender, receiver] = [codecWithRecords(), codecWithRecords()]
    const slab = Buffer.allocUnsafe(16_384)
    for (const [at, value] of list.slice(0, 64).entries()) {
      const timing = at % 5 === 4 ? 'later' : 'next'
      const encoded = allowed(['ERR_PASSFD_ENCODE'], () =>
        sender.encode(value, timing, new Encoded(), { slab, slabEnd: 0 })
      )
      if (encoded === undefined) return
      const bytes = wholeOf(encoded)
      const body = { bytes, start: 0, end: bytes.length, flags: encoded.flags, owned: true }
      must(isSame(receiver.decode(body, []), value), `as number ${at} it arrives as something else`)
    }
  }
}

function wholeOf(encoded: Encoded): Buffer {
  const parts: Uint8Array[] = []
  const body = bytesOf(encoded)
  let from = 0
  for (const { at, bytes } of encoded.holes) {
    parts.push(body.subarray(from, at), bytes)
    from = at
  }
  return Buffer.concat([...parts, body.subarray(from)])
}

export const codecTargets: Targets = { bodies, flat, frames, sequences, wide }
