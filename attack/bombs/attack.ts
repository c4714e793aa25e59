/** Bodies that cost the decoder as much CPU time and memory for each byte as can be found. */
import { setImmediate as turn } from 'node:timers/promises'
import { Codec } from '../../src/codec/codec.ts'
import { RECORDS } from '../../src/codec/frame.ts'
import { hashOf } from '../../src/codec/key-chains.ts'
import { decodeWide } from '../../src/codec/wide.ts'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'

/** How long a body is, in bytes. */
const SIZE = 1 << 18
/** What a body may cost: so many times the CPU time of JSON.parse() for the worst text of the same length, measured beside it. */
const MOST_TIMES = 16
/** Bytes of memory that a byte of a body may take: an empty Map takes 192. */
const MOST_MEMORY = 256
/** So often a body that seems to cost too much is decoded again: the least time counts. */
const AGAIN = 4
/** Of the worst bodies so many are changed further. */
const KEPT = 8

/** The ways in which a body is decoded. */
const DECODERS: Record<string, (body: Buffer) => unknown> = {
  plain: body => codec().decode({ bytes: body, start: 0, end: body.length, flags: 0, owned: true }, []),
  records: body => codec().decode({ bytes: body, start: 0, end: body.length, flags: RECORDS, owned: true }, []),
  shared: body => codec().decode({ bytes: body, start: 0, end: body.length, flags: RECORDS, owned: false }, []),
  wide: body => decodeWide(body, [])
}

const counts = { bodies: 0, 'that were decoded': 0 }

export const bombs: Attack = {
  promise: `No body of a message takes more than ${MOST_TIMES} times the CPU time of JSON.parse() for as many bytes, or ${MOST_MEMORY} times its own memory.`,
  what: 'Bodies are made of parts that are known to cost much, and those that cost most are changed further.',
  needs: [],
  parts: Object.keys(DECODERS),
  count: 4000,
  sample: 200,
  time: 1_200_000,
  run
}

function run(settings: Settings): Promise<Outcome> {
  return shareOut(settings, chosenOf(Object.keys(DECODERS), settings), counts, async (name, share) =>
    attackDecoder(name, DECODERS[name]!, share)
  )
}

function codec(): Codec {
  const made = new Codec()
  made.records = true
  return made
}

/** A body: this, and then parts again and again, each of which may have a number in it that differs. */
type Recipe = readonly number[]

/** Each makes one value. `n` differs in each. */
const PARTS: readonly ((n: number) => Buffer)[] = [
  () => Buffer.of(0x80),
  () => Buffer.of(0x90),
  () => Buffer.of(0xc0),
  () => Buffer.of(0x81, 1, 1),
  () => Buffer.of(0x81, 0xc0, 1),
  () => Buffer.of(0x81, 0xa0, 0x80),
  n => Buffer.concat([Buffer.of(0x81), text(n), Buffer.of(1)]),
  n => Buffer.concat([Buffer.of(0x82), text(n), Buffer.of(1), text(n + 1), Buffer.of(0x80)]),
  n => Buffer.concat([Buffer.of(0x81), integer(n * 7919), Buffer.of(1)]),
  n => Buffer.concat([Buffer.of(0x81), double(n + 0.5), Buffer.of(1)]),
  n => Buffer.concat([Buffer.of(0x81), Buffer.from('\xa9__proto__', 'latin1'), integer(n)]),
  n =>
    Buffer.concat([
      Buffer.of(0x8f),
      ...Array.from({ length: 15 }, (_, at) => [text(15 * n + at), Buffer.of(1)]).flat()
    ]),
  n => text(n),
  n => Buffer.concat([Buffer.of(0xa2), Buffer.of(0xc3, 0x80 | (n & 63))]),
  () => Buffer.of(0xa3, 0xed, 0xa0, 0x80),
  () => Buffer.of(0xa1, 0xff),
  n => integer(n * 4096),
  n => integer(colliding(n)),
  n => double(n / 7),
  () => Buffer.of(0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
  () => Buffer.of(0xc4, 0),
  () => Buffer.of(0xc4, 1, 1),
  () => Buffer.of(0xd4, 0xff, 0),
  n => Buffer.concat([Buffer.of(0xd6, 0xff), integer(n).subarray(1)]),
  () => Buffer.of(0xd4, 0, 0),
  () => Buffer.of(0xd4, 0x42, 1),
  () => Buffer.of(0xc7, 9, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9),
  () => Buffer.of(0xd4, 0x73, 0, 0x90),
  () => Buffer.of(0xd4, 0x73, 0, 0x91, 1),
  () => Buffer.of(0xd5, 0x74, 0, 1),
  () => Buffer.of(0xd5, 0x74, 17, 1),
  () => Buffer.of(0xd5, 0x74, 16, 1),
  () => Buffer.of(0xc7, 9, 0x74, 8, 1, 2, 3, 4, 5, 6, 7, 8),
  () => Buffer.of(0xd4, 0x72, 0x60, 0x90),
  n => Buffer.concat([Buffer.of(0xd4, 0x72, 0x60 + (n & 31), 0x91), text(n), Buffer.of(1)]),
  n => Buffer.concat([Buffer.of(0xd4, 0x72, 0x41, 0x92), text(n), text(n + 1), Buffer.of(1, 0x80)]),
  () => Buffer.of(0xd4, 0x72, 0x60, 0x90, ...Array(50).fill(0x60)),
  () => Buffer.of(...Array(400).fill(0x91), 1)
]
const MAP = [0xdf, 0xdd]

const collisions: number[] = []

/** One of 20,000 integers that V8 puts into few chains of a Map or Set. */
function colliding(n: number): number {
  for (let key = 0; collisions.length < 20_000; key++) if ((hashOf(key) & 0xfff) === 0) collisions.push(key)
  return collisions[n % collisions.length]!
}

function text(n: number): Buffer {
  const characters = Buffer.from(n.toString(36))
  return Buffer.concat([Buffer.of(0xa0 | characters.length), characters])
}

function integer(n: number): Buffer {
  const bytes = Buffer.of(0xce, 0, 0, 0, 0)
  bytes.writeUInt32BE(n % 2 ** 32, 1)
  return bytes
}

function double(n: number): Buffer {
  const bytes = Buffer.alloc(9, 0xcb)
  bytes.writeDoubleBE(n, 1)
  return bytes
}

/** The first number of a recipe chooses what holds the parts: an array, a map, a Set, or the parts nested. */
function bodyOf([form = 0, ...parts]: Recipe): Buffer {
  const pieces: Buffer[] = []
  let [size, values] = [0, 0]
  for (let n = 1; size < SIZE; n++)
    for (const part of parts) {
      const piece = PARTS[part]!(n)
      pieces.push(piece)
      size += piece.length
      values += part === PARTS.length - 2 ? 51 : 1
    }
  const head = Buffer.of(MAP[form === 1 ? 0 : 1]!, 0, 0, 0, 0)
  head.writeUInt32BE(form === 1 ? values >> 1 : values, 1)
  return Buffer.concat([...(form === 2 ? [Buffer.of(0xd4, 0x73, 0)] : []), head, ...pieces])
}

const JSON_TEXT = (() => {
  const parts: string[] = []
  for (let [size, n] = [0, 1]; size < SIZE; n++) {
    const part = `{"${n.toString(36)}":1}`
    parts.push(part)
    size += part.length + 1
  }
  return `[${parts}]`
})()

/** The CPU time in ms. What is made stays until the caller has measured its memory. */
function timeOf(work: () => unknown): { time: number; made: unknown; isDecoded: boolean } {
  const begun = process.cpuUsage()
  let made: unknown
  let isDecoded = true
  try {
    made = work()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ERR_PASSFD_UNDECODABLE' && code !== 'ERR_PASSFD_DESCRIPTOR_COUNT') throw error
    isDecoded = false
  }
  const { user, system } = process.cpuUsage(begun)
  return { time: (user + system) / 1000, made, isDecoded }
}

function leastOf(times: number, work: () => unknown): number {
  return Math.min(...Array.from({ length: times }, () => timeOf(work).time))
}

/** Each part by itself in an array, and the numbers as keys. */
const KEYS = PARTS.findIndex((_, part) => part > 0 && PARTS[part]!(1)[0] === 0xce)
const FIRST: readonly Recipe[] = [...PARTS.map((_, part) => [0, part]), [1, KEYS + 1], [2, KEYS + 1], [2, KEYS]]

async function attackDecoder(
  name: string,
  decode: (body: Buffer) => unknown,
  { seed, count, until, log, tell, found }: Share
): Promise<void> {
  const random = new Random(seed)
  const worst: { recipe: Recipe; times: number }[] = []
  let reference = Number.POSITIVE_INFINITY
  let memory = 0
  for (let number = 0; number < count && performance.now() < until; number++) {
    await turn() // for a signal
    // The least of all turns would be of a moment at which nobody else used the memory's bandwidth
    if (number % 20 === 0) reference = leastOf(AGAIN, () => JSON.parse(JSON_TEXT))
    const recipe = number < FIRST.length ? FIRST[number]! : changed(worst, random)
    const body = bodyOf(recipe)
    const before = process.memoryUsage()
    const { made, isDecoded, ...first } = timeOf(() => decode(body))
    const after = process.memoryUsage()
    // If there was a collection meanwhile it is less
    const used = (after.heapUsed + after.external - before.heapUsed - before.external) / body.length
    let time = first.time
    const most = () => (MOST_TIMES * reference * body.length) / SIZE
    for (let again = 0; time > most() && again < AGAIN; again++) {
      time = Math.min(time, timeOf(() => decode(body)).time)
      reference = Math.max(
        reference,
        leastOf(2, () => JSON.parse(JSON_TEXT))
      )
    }
    void made
    tell('bodies', 1)
    if (isDecoded) tell('that were decoded', 1)
    memory = Math.max(memory, used)
    worst.push({ recipe, times: (time * SIZE) / body.length / reference })
    worst.sort((one, other) => other.times - one.times).splice(KEPT)
    if (time > most())
      found(`${name}: ${recipe} takes ${time.toFixed(0)} ms of CPU time, JSON.parse() ${reference.toFixed(0)} ms`)
    if (used > MOST_MEMORY) found(`${name}: ${recipe} takes ${used.toFixed(0)} bytes of memory for each of its own`)
  }
  const [most] = worst
  if (most === undefined) return
  const perMiB = (reference * 2 ** 20) / SIZE
  log(
    `${name}: at most ${most.times.toFixed(1)} times JSON.parse() (${(most.times * perMiB).toFixed(0)} and ${perMiB.toFixed(0)} ms for a MiB), by ${most.recipe}; ${memory.toFixed(0)} bytes of memory for each byte`
  )
}

function changed(worst: readonly { readonly recipe: Recipe }[], random: Random): Recipe {
  const any = (): number => random.integer(0, PARTS.length - 1)
  const [form = 0, ...parts] = random.pick(worst).recipe
  if (random.chance(0.2)) return [random.integer(0, 2), ...parts]
  if (random.chance(0.3)) return [form, any()]
  if (parts.length > 1 && random.chance(0.3)) return [form, ...parts.slice(1)]
  return [form, ...parts.slice(0, 3), any()]
}
