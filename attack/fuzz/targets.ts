/** What is fuzzed: everything that reads bytes or values of another process. */
import { isDeepStrictEqual } from 'node:util'
import { Packr, Unpackr } from 'msgpackr'
import { Codec } from '../../src/codec/codec.ts'
import { Encoded } from '../../src/codec/encoded.ts'
import { type Frame, FrameReader, HEADER, RECORDS, writeHeader } from '../../src/codec/frame.ts'
import { isBloated, readRequest } from '../../src/store/messages.ts'
import { isName, isPattern, matches } from '../../src/store/names.ts'
import { MAX_NOTIFICATION, parseNotification } from '../../src/systemd/notification.ts'
import { readAsked, readFrozen, readOffer, readPart, readStatePart, readStatus } from '../../src/takeover/messages.ts'

export interface Target {
  /** The sources whose coverage shows that an input is new. */
  readonly sources: RegExp
  /** Where to begin. */
  seeds(): Buffer[]
  /** Throws if an input does what it must not do. */
  attempt(input: Buffer): void
}

/** Runs what may fail by an error of passfd's with one of these codes only. Undefined: it has failed. */
function allowed<Result>(codes: readonly string[], work: () => Result): Result | undefined {
  try {
    return work()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !codes.includes(code)) throw error
    return undefined
  }
}

function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(what)
}

const packr = new Packr({ useRecords: false })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true })
const pack = (value: unknown): Buffer => Buffer.from(packr.pack(value))
const packed = (...values: unknown[]): Buffer[] => values.map(pack)

/** The value in an input of MessagePack; none if another library can't read it either. */
function valueIn(input: Buffer): { value: unknown } | undefined {
  try {
    return { value: unpackr.unpack(input) }
  } catch {
    return undefined
  }
}

// --- frames

const HEADROOM = 32_768
const AREA = Buffer.alloc(HEADROOM + 65_536)
const MAX_BODY = 100_000
const FRAME_ERRORS = ['ERR_PASSFD_BAD_FRAME', 'ERR_PASSFD_FRAME_TOO_LARGE']

/** What a reader makes of the input, if it comes in pieces of these lengths, again and again. */
function framesOf(input: Buffer, lengths: readonly number[]): string[] {
  const events: string[] = []
  const onFrame = ({ kind, count, flags, id, bytes, start, end }: Frame): boolean => {
    must(end <= bytes.length && start <= end, 'a body goes beyond its bytes')
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
      must(isDeepStrictEqual(framesOf(input, lengths), whole), `in pieces of ${lengths} it is read as something else`)
  }
}

// --- bodies

const DECODE_ERRORS = ['ERR_PASSFD_UNDECODABLE', 'ERR_PASSFD_DESCRIPTOR_COUNT']

/** The first byte says whether it uses records; the second one how many descriptors came with it. */
const bodies: Target = {
  sources: /\/src\/codec\//,
  seeds() {
    const values = [
      { id: 1, type: 'open', path: '/tmp/a', mode: 420, wait: false },
      [1, -1, 1.5, 2n ** 60n, 'text', null, undefined, true],
      new Map<unknown, unknown>([
        [1, 'a'],
        ['b', new Set([1])]
      ]),
      { at: new Date(5), bytes: Buffer.from('bytes'), view: Float64Array.of(1, 2), list: [[], {}, [{}]] },
      [{ a: 1, b: 2 }, { a: 3, b: 4 }, { a: { a: 1 } }]
    ]
    return values.flatMap(value => {
      const withRecords = new Codec()
      withRecords.records = true
      const flagged = (['next', 'apart'] as const).map(timing => withRecords.encode(value, timing, new Encoded()))
      const plain = new Codec().encode([1, 'a', { b: [null] }], 'apart', new Encoded())
      return [
        ...flagged.map(encoded => Buffer.concat([Buffer.of(1, 0), bytesOf(encoded)])),
        Buffer.concat([Buffer.of(0, 0), bytesOf(plain)])
      ]
    })
  },
  attempt(input) {
    if (input.length < 2) return
    const flags = input[0]! & 1 ? RECORDS : 0
    const codec = new Codec()
    codec.records = true
    codec.maxValues = 100_000
    const body = { bytes: input, start: 2, end: input.length, flags, owned: true }
    allowed(DECODE_ERRORS, () => new Codec().learn({ ...body, flags: 0 }, input[1]! % 254))
    const decoded = allowed(DECODE_ERRORS, () => ({ value: codec.decode(body, []) }))
    if (decoded === undefined) return
    // What has arrived can be sent on, and arrives as the same
    const again = new Codec()
    again.records = true
    const encoded = again.encode(decoded.value, 'apart', new Encoded())
    const bytes = bytesOf(encoded)
    const value = again.decode({ bytes, start: 0, end: bytes.length, flags: encoded.flags, owned: true }, [])
    must(isDeepStrictEqual(value, decoded.value), 'encoded and decoded it is something else')
  }
}

/** A copy of the body, without the room for its header. */
function bytesOf({ bytes, start, end }: Encoded): Buffer {
  return Buffer.from(bytes.subarray(start + HEADER, end))
}

// --- values of peers

const program = { pid: 1, passfd: '0.1.0', runtime: 'v20' }
const takeover: Target = {
  sources: /\/src\/takeover\/messages\./,
  seeds: () =>
    packed(
      { do: 'begin', takeover: 1, needs: ['a'], program, wants: ['http'], service: { unit: 'a.service', own: true } },
      { do: 'more', from: 0 },
      { do: 'drops', names: ['a', 'b'] },
      { do: 'freeze', accepts: { a: 1 } },
      { do: 'state', part: 0 },
      { do: 'status' },
      { owner: program, generation: 1, since: 0, waiting: [1, 2], chain: [{ pid: 1, connections: 2 }] },
      {
        listeners: [{ name: 'a', lane: 0, kind: 'tcp-listener', options: {} }],
        takeover: 1,
        needs: [],
        program,
        generation: 1,
        total: 1
      },
      { parts: 1, bytes: 0, descriptors: 0 },
      { bytes: Buffer.alloc(3), descriptors: [] }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    for (const read of [readAsked, readStatus, readOffer, readPart, readFrozen, readStatePart])
      allowed(['ERR_PASSFD_TAKEOVER_PROTOCOL'], () => read(found.value))
  }
}

const store: Target = {
  sources: /\/src\/store\/(messages|names)\./,
  seeds: () =>
    packed(
      { do: 'hello', store: 1, client: Buffer.alloc(16), kept: [{ entry: 1, name: 'a' }] },
      { do: 'kept', entries: [{ entry: 1 }] },
      {
        do: 'put',
        name: 'a',
        descriptors: [],
        value: Buffer.alloc(3),
        ttl: 1000,
        poll: 'hup',
        replace: true,
        request: 1
      },
      { do: 'take', name: 'a', owner: 0 },
      { do: 'list', names: 'a*' },
      { do: 'watch', names: '*' },
      { do: 'remove', name: 'a' }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    isBloated(found.value)
    allowed(['ERR_PASSFD_STORE_REQUEST'], () => readRequest(found.value))
  }
}

/** A pattern, a zero byte, a name. */
const patterns: Target = {
  sources: /\/src\/store\/names\./,
  seeds: () =>
    ['a\0a', 'web.*\0web.main', '*a*b*c*\0xaxbxcx', '*\0', 'a*a*a*a*a*a*a*b\0aaaaaaaaaaaaaaaaaaaaaaaaaaaa'].map(text =>
      Buffer.from(text)
    ),
  attempt(input) {
    const [pattern, name] = input.toString('latin1').split('\0')
    if (!isPattern(pattern) || !isName(name)) return
    const oracle = new RegExp(`^${pattern.split('*').map(escaped).join('[^]*')}$`)
    if (pattern.split('*').length > 4)
      matches(pattern, name) // the oracle itself would take too long
    else must(matches(pattern, name) === oracle.test(name), `${pattern} and ${name}: ${matches(pattern, name)}`)
  }
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
}

const notifications: Target = {
  sources: /\/src\/systemd\/notification\./,
  seeds: () =>
    [
      'READY=1\nSTATUS=three of four\nMAINPID=12',
      'X_A=\nX_B=a=b\n\n=c',
      'RELOADING=1\nMONOTONIC_USEC=5',
      '\xff=\xfe\nERRNO=5'
    ].map(text => Buffer.from(text, 'latin1')),
  attempt(input) {
    const fields = parseNotification(input)
    const lines = input.subarray(0, MAX_NOTIFICATION).toString().split('\n')
    must(fields.size <= 64, `${fields.size} fields`)
    for (const [name, value] of fields) {
      must(/^[A-Z][A-Z0-9_]*$/.test(name), `a field ${JSON.stringify(name)}`)
      must(!/[\0-\x1f\x7f-\x9f]/.test(value), `a control character in ${name}`)
      must(
        lines.find(line => line.startsWith(`${name}=`))!.length === name.length + 1 + value.length,
        `${name} has another value`
      )
    }
  }
}

export const TARGETS: Record<string, Target> = { bodies, frames, notifications, patterns, store, takeover }
