import fc from 'fast-check'
import { MAX_RIGHTS } from '../../src/base/kernel-limits.ts'
import * as frame from '../../src/codec/frame.ts'
import { times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'

interface Frame {
  kind: number
  count: number
  flags: number
  id: number
  body: Buffer
}

const HEADROOM = 65536
const AREA = 32768
const LARGE = 16384
const KINDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, frame.DEFINITIONS]
const CARRIERS = [frame.MESSAGE, frame.REQUEST, frame.REPLY]
/** Kinds whose body may use records. */
const RECORDED = [...CARRIERS, frame.DEFINITIONS]
const BODILESS = [frame.CANCEL, frame.CREDIT, frame.TAKEN]

/** A frame as the wire's table describes it, written without the code under test. */
function bytesOf({ kind, count, flags, id, body }: Frame): Buffer {
  const header = Buffer.alloc(12)
  header.writeUInt32LE(body.length, 0)
  header.writeUInt8(kind, 4)
  header.writeUInt8(count, 5)
  header.writeUInt16LE(flags, 6)
  header.writeUInt32LE(id, 8)
  return Buffer.concat([header, body, Buffer.alloc(flags & 7, 0xee)])
}

/** What a body of this length holds: every byte tells its place, so a shifted body is seen. */
function pattern(length: number, seed: number): Buffer {
  const body = Buffer.allocUnsafe(length)
  for (let i = 0; i < length; i++) body[i] = (i * 31 + (i >>> 8) * 7 + seed) & 0xff
  return body
}

/** A reader, and the way the wire feeds it: into its target first, what is left over into the area. */
function driver(maxBody = 1 << 20, accepts: (got: Frame) => boolean = () => true) {
  const area = Buffer.alloc(HEADROOM + AREA)
  const frames: Frame[] = []
  const owned: { bytes: Buffer; copy: Buffer }[] = []
  const reader = new frame.FrameReader(
    {
      onFrame({ kind, count, flags, id, bytes, start, end, owned: own }) {
        const body = Buffer.from(bytes.subarray(start, end))
        frames.push({ kind, count, flags, id, body })
        if (own) owned.push({ bytes: bytes.subarray(start, end), copy: body })
        return accepts(frames[frames.length - 1]!)
      }
    },
    area,
    HEADROOM
  )
  reader.maxBody = maxBody
  /** One read of at most this much; returns what it took. */
  const feed = (bytes: Buffer): number => {
    const { target, filled, targetEnd } = reader
    const direct = target === undefined ? 0 : Math.min(bytes.length, targetEnd - filled)
    if (target !== undefined) bytes.copy(target, filled, 0, direct)
    const rest = bytes.copy(area, HEADROOM, direct, Math.min(bytes.length, direct + AREA))
    reader.received(direct + rest)
    return direct + rest
  }
  /** Everything, in reads that end at the cuts (and where the area is full). */
  const feedAll = (stream: Buffer, cuts: readonly number[] = [], after: (at: number) => void = () => {}): void => {
    let at = 0
    for (const cut of [...cuts, stream.length]) {
      while (at < cut) {
        at += feed(stream.subarray(at, cut))
        after(at)
      }
    }
  }
  return { reader, frames, owned, feed, feedAll }
}

function same(got: readonly Frame[], expected: readonly Frame[]): boolean {
  return (
    got.length === expected.length &&
    got.every((each, i) => {
      const { kind, count, flags, id, body } = expected[i]!
      return (
        each.kind === kind && each.count === count && each.flags === flags && each.id === id && each.body.equals(body)
      )
    })
  )
}

const skip = fc.integer({ min: 0, max: 7 })
const bodyLength = fc.oneof(
  { weight: 5, arbitrary: fc.integer({ min: 0, max: 300 }) },
  { weight: 2, arbitrary: fc.integer({ min: LARGE - 20, max: LARGE + 20 }) },
  { weight: 2, arbitrary: fc.integer({ min: 65500, max: 65560 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 200_000 }) }
)
const anyFrame: fc.Arbitrary<Frame> = fc
  .record({
    kind: fc.constantFrom(...KINDS),
    count: fc.integer({ min: 0, max: MAX_RIGHTS }),
    records: fc.boolean(),
    allowance: fc.integer({ min: 0, max: 255 }),
    skip,
    id: fc.integer({ min: 0, max: 0xffffffff }),
    length: bodyLength,
    seed: fc.nat(255)
  })
  .map(({ kind, count, records, allowance, skip, id, length, seed }) => ({
    kind,
    count: CARRIERS.includes(kind) ? count : 0,
    flags:
      skip |
      (records && RECORDED.includes(kind) ? frame.RECORDS : 0) |
      (kind === frame.REQUEST ? allowance << frame.ALLOWANCE_SHIFT : 0),
    id,
    body: BODILESS.includes(kind) ? Buffer.alloc(0) : pattern(length, seed)
  }))

test('writeHeader writes the twelve bytes of the wire table', t => {
  fc.assert(
    fc.property(anyFrame, fc.nat(40), (each, at) => {
      const { kind, count, flags, id, body } = each
      const bytes = Buffer.alloc(at + 12 + 8, 0x55)
      frame.writeHeader(bytes, at, body.length, kind, count, flags, id)
      const expected = Buffer.alloc(at + 12 + 8, 0x55)
      bytesOf({ ...each, body }).copy(expected, at, 0, 12)
      return bytes.equals(expected)
    })
  )
  const bytes = Buffer.alloc(12)
  frame.writeHeader(bytes, 0, 0xfedcba98, frame.REQUEST, 253, 0xfe0f, 0xffffffff)
  t.is(bytes.toString('hex'), '98badcfe' + '02' + 'fd' + '0ffe' + 'ffffffff')
})

test('any frames, split and coalesced anyhow, come out as they went in', t => {
  let large = 0
  let readsIntoTargets = 0
  fc.assert(
    fc.property(
      fc.array(anyFrame, { maxLength: 8 }),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 }),
      (frames, places) => {
        const stream = Buffer.concat(frames.map(bytesOf))
        const cuts = places.map(place => Math.floor(place * stream.length)).sort((a, b) => a - b)
        const { reader, frames: got, owned, feedAll } = driver()
        feedAll(stream, cuts, () => {
          if (reader.target !== undefined) readsIntoTargets++
        })
        large += owned.length
        return (
          same(got, frames) &&
          !reader.partial &&
          reader.announced === 0 &&
          reader.target === undefined &&
          // Nobody has touched a body that was given away
          owned.every(({ bytes, copy }) => bytes.equals(copy))
        )
      }
    ),
    { numRuns: 300 }
  )
  t.true(large > 20 && readsIntoTargets > 20, 'the large-body path was taken')
})

test('frames split near every boundary of a header come out as they went in', () => {
  fc.assert(
    fc.property(
      fc.array(anyFrame, { minLength: 1, maxLength: 4 }),
      fc.array(fc.integer({ min: -14, max: 14 })),
      (frames, near) => {
        const parts = frames.map(bytesOf)
        const cuts: number[] = []
        let at = 0
        for (const part of parts) {
          at += part.length
          for (const offset of near) cuts.push(at + offset)
        }
        const stream = Buffer.concat(parts)
        const { frames: got, feedAll } = driver()
        feedAll(
          stream,
          cuts.filter(cut => cut > 0 && cut < stream.length).sort((a, b) => a - b)
        )
        return same(got, frames)
      }
    ),
    { numRuns: times(100, 200) }
  )
})

/** One of each kind, with and without descriptors, skips and flags. */
const SMALL: Frame[] = [
  { kind: frame.HELLO, count: 0, flags: 0, id: 0, body: pattern(3, 1) },
  { kind: frame.MESSAGE, count: 2, flags: 5 | frame.RECORDS, id: 0, body: pattern(7, 2) },
  { kind: frame.REQUEST, count: 253, flags: 0xff00 | 3, id: 0xffffffff, body: pattern(1, 3) },
  { kind: frame.REPLY, count: 1, flags: 0, id: 7, body: pattern(0, 4) },
  { kind: frame.FAULT, count: 0, flags: 7, id: 8, body: pattern(2, 5) },
  { kind: frame.CANCEL, count: 0, flags: 4, id: 9, body: pattern(0, 6) },
  { kind: frame.CREDIT, count: 0, flags: 0, id: 4096, body: pattern(0, 7) },
  { kind: frame.TAKEN, count: 0, flags: 1, id: 253, body: pattern(0, 8) },
  { kind: frame.GOODBYE, count: 0, flags: 0, id: 0, body: pattern(1, 9) }
]

test('a small stream is split at every byte, at every pair of bytes, and byte by byte', t => {
  const stream = Buffer.concat(SMALL.map(bytesOf))
  for (let first = 0; first <= stream.length; first++) {
    // A normal run takes every third pair, and over three first bytes all second ones
    for (let second = first; second <= stream.length; second += times(3, 1)) {
      const { frames, feedAll } = driver()
      feedAll(stream, [first, second])
      if (!same(frames, SMALL)) t.fail(`split at ${first} and ${second}`)
    }
  }
  const { frames, feedAll } = driver()
  feedAll(
    stream,
    Array.from({ length: stream.length }, (_, i) => i)
  )
  t.true(same(frames, SMALL))
})

test('a large body is split at every byte of its ends', t => {
  const frames: Frame[] = [
    { kind: frame.MESSAGE, count: 3, flags: 6, id: 0, body: pattern(LARGE, 1) },
    { kind: frame.REPLY, count: 0, flags: 0, id: 1, body: pattern(2, 2) }
  ]
  const stream = Buffer.concat(frames.map(bytesOf))
  const [first] = frames.map(bytesOf) as [Buffer]
  const edges = [
    ...Array.from({ length: 40 }, (_, i) => i),
    ...Array.from({ length: stream.length - LARGE }, (_, i) => LARGE + i)
  ]
  for (const cut of edges) {
    const { frames: got, owned, feedAll } = driver()
    feedAll(stream, [cut])
    if (!same(got, frames)) t.fail(`split at ${cut}`)
    t.is(owned.length, cut >= 12 && cut < first.length ? 1 : 0, `split at ${cut}: owned`)
  }
})

test('partial and announced tell of the frame in progress, whatever has come of it', t => {
  const frames = [...SMALL, { kind: frame.REQUEST, count: 17, flags: 2, id: 1, body: pattern(LARGE + 1, 1) }]
  const stream = Buffer.concat(frames.map(bytesOf))
  const begins: number[] = []
  for (let at = 0, i = 0; i < frames.length; at += bytesOf(frames[i]!).length, i++) begins.push(at)
  const { reader, feedAll } = driver()
  t.false(reader.partial)
  const cuts = Array.from({ length: stream.length }, (_, i) => i).filter(i => i < 400 || i % 997 === 0)
  feedAll(stream, cuts, at => {
    const index = begins.findLastIndex(begin => begin <= at)
    const into = at === stream.length ? 0 : at - begins[index]!
    if (reader.partial !== into > 0) t.fail(`partial is ${reader.partial} at ${at}`)
    const announced = into > 5 ? frames[index]!.count : 0
    if (reader.announced !== announced) t.fail(`announced is ${reader.announced} at ${at}, not ${announced}`)
  })
  t.false(reader.partial)
})

test('a sink that returns false gets nothing more of that read', t => {
  const { frames, feedAll } = driver(1 << 20, ({ kind }) => kind !== frame.REPLY)
  feedAll(Buffer.concat(SMALL.map(bytesOf)))
  t.deepEqual(
    frames.map(({ kind }) => kind),
    [frame.HELLO, frame.MESSAGE, frame.REQUEST, frame.REPLY]
  )
})

test('a sink that returns false for a large body gets nothing more of that read', t => {
  const large = bytesOf({ kind: frame.MESSAGE, count: 0, flags: 0, id: 0, body: pattern(LARGE, 1) })
  const { frames, feedAll } = driver(1 << 20, () => false)
  feedAll(Buffer.concat([large, bytesOf(SMALL[1]!)]), [20])
  t.deepEqual(
    frames.map(({ body }) => body.length),
    [LARGE]
  )
})

test('frames before a violation in the same read are delivered', t => {
  const good = SMALL.map(bytesOf)
  const { frames, feedAll } = driver()
  t.throws(() => feedAll(Buffer.concat([...good, bytesOf({ ...SMALL[0]!, kind: 10 }), ...good])), {
    code: 'ERR_PASSFD_BAD_FRAME'
  })
  t.true(same(frames, SMALL))
})

/** Feeds a header, whole and byte by byte, and gives the code of the error. */
function violation(header: Partial<Omit<Frame, 'body'>> & { length?: number }, maxBody = 100): string | undefined {
  const { kind = frame.MESSAGE, count = 0, flags = 0, id = 0, length = 0 } = header
  const bytes = Buffer.alloc(12)
  frame.writeHeader(bytes, 0, length, kind, count, flags, id)
  const outcomes = [[], Array.from({ length: 12 }, (_, i) => i)].map(cuts => {
    const { feedAll } = driver(maxBody)
    try {
      feedAll(bytes, cuts)
      return undefined
    } catch (error) {
      return (error as NodeJS.ErrnoException).code
    }
  })
  if (outcomes[0] !== outcomes[1]) throw new Error(`whole: ${outcomes[0]}; byte by byte: ${outcomes[1]}`)
  return outcomes[0]
}

test('an unknown kind is a violation', t => {
  for (const kind of KINDS) t.is(violation({ kind }), undefined, `kind ${kind}`)
  for (let kind = 10; kind < 256; kind++) t.is(violation({ kind }), 'ERR_PASSFD_BAD_FRAME', `kind ${kind}`)
})

test('every flag bit that a kind does not have is a violation', t => {
  for (const kind of KINDS) {
    for (let bit = 0; bit < 16; bit++) {
      const known =
        bit < 3 || (bit === 3 && RECORDED.includes(kind)) || (bit >= frame.ALLOWANCE_SHIFT && kind === frame.REQUEST)
      t.is(violation({ kind, flags: 1 << bit }), known ? undefined : 'ERR_PASSFD_BAD_FRAME', `kind ${kind}, bit ${bit}`)
    }
  }
})

test('descriptors on a kind that carries none, or more than 253, are a violation', t => {
  for (const kind of KINDS) {
    for (const count of [0, 1, 2, 252, 253, 254, 255]) {
      const allowed = count === 0 || (CARRIERS.includes(kind) && count <= 253)
      t.is(violation({ kind, count }), allowed ? undefined : 'ERR_PASSFD_BAD_FRAME', `kind ${kind}, ${count}`)
    }
  }
})

test('a body on a kind that has none is a violation', t => {
  for (const kind of KINDS) {
    t.is(violation({ kind, length: 1 }), BODILESS.includes(kind) ? 'ERR_PASSFD_BAD_FRAME' : undefined, `kind ${kind}`)
    t.is(violation({ kind, length: 0 }), undefined, `kind ${kind}, empty`)
  }
})

test('a body longer than maxBody is a violation as soon as its header is there', t => {
  for (const limit of [0, 1, 100, frame.MAX_HELLO, LARGE, 200_000, 0xfffffffe]) {
    for (const kind of KINDS.filter(kind => !BODILESS.includes(kind))) {
      if (limit > 0 && limit < 1e6) t.is(violation({ kind, length: limit - 1 }, limit), undefined)
      if (limit < 1e6) t.is(violation({ kind, length: limit }, limit), undefined)
      t.is(violation({ kind, length: limit + 1 }, limit), 'ERR_PASSFD_FRAME_TOO_LARGE')
    }
  }
  t.is(
    violation({ length: 0xffffffff }, 0x7fffffff),
    'ERR_PASSFD_FRAME_TOO_LARGE',
    'a length above 2^31 is no negative'
  )
})

test('before anything is known of the peer the limit is that of a hello', t => {
  const reader = new frame.FrameReader({ onFrame: () => true }, Buffer.alloc(20), 10)
  t.is(reader.maxBody, 4096)
})

test('any bytes at all give frames or a violation, and nothing else', () => {
  const codes = ['ERR_PASSFD_BAD_FRAME', 'ERR_PASSFD_FRAME_TOO_LARGE']
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom(...SMALL.map(bytesOf)), fc.uint8Array({ maxLength: 30 })), { maxLength: 10 }),
      fc.array(fc.nat(200)),
      (parts, places) => {
        const stream = Buffer.concat(parts)
        const cuts = places.map(place => Math.min(place, stream.length)).sort((a, b) => a - b)
        const outcomes = [[], cuts].map(cuts => {
          const { frames, feedAll } = driver(100_000)
          try {
            feedAll(stream, cuts)
            return { frames, code: undefined }
          } catch (error) {
            return { frames, code: (error as NodeJS.ErrnoException).code }
          }
        })
        const [whole, split] = outcomes as [(typeof outcomes)[0], (typeof outcomes)[0]]
        return (
          (whole.code === undefined || codes.includes(whole.code)) &&
          split.code === whole.code &&
          same(split.frames, whole.frames)
        )
      }
    ),
    { numRuns: times(200, 500) }
  )
})

test('the limit of the moment counts: raising it between two frames of one read is obeyed', t => {
  const frames: Frame[] = [SMALL[0]!, { kind: frame.MESSAGE, count: 0, flags: 0, id: 0, body: pattern(5000, 1) }]
  const {
    reader,
    frames: got,
    feedAll
  } = driver(4096, ({ kind }) => {
    if (kind === frame.HELLO) reader.maxBody = 5000
    return true
  })
  feedAll(Buffer.concat(frames.map(bytesOf)))
  t.true(same(got, frames))
})
