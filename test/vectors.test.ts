/** docs/vectors.json is what the code says, and passfd, Python's msgpack and the peers in Python and C agree with it. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { Codec } from '../src/codec/codec.ts'
import { type Frame, FrameReader } from '../src/codec/frame.ts'
import { decodeWide } from '../src/codec/wide.ts'
import { own } from '../src/descriptor/descriptor.ts'
import { Connection, connect, Descriptor } from '../src/index.ts'
import { native } from '../src/os/native.ts'
import { readGiven, readRequest } from '../src/store/messages.ts'
import { readAsked, readFrozen, readOffer, readPart, readStatePart, readStatus } from '../src/takeover/messages.ts'
import { decodeBy } from './helpers/codec.ts'
import { inCSanitized, type Language, lacking } from './helpers/foreign-peers.ts'
import { times } from './helpers/full.ts'
import type { Notation } from './helpers/notation.ts'
import { socketPath } from './helpers/path.ts'
import { type Running, start } from './helpers/process.ts'
import { systemPython } from './helpers/programs.ts'
import { GOODBYE, HELLO, RawPeer, REQUEST, socketpair } from './helpers/raw-peer.ts'
import { test, testIf, until } from './helpers/test.ts'
import {
  type Conversation,
  type FrameVector,
  framesIn,
  type MessageVector,
  optionsOf,
  played,
  RECORD_VALUES,
  type Step,
  Tap,
  textOf,
  type ViolationVector,
  vectors,
  type Write,
  withoutVersion,
  writesOf
} from './helpers/vectors.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const text = readFileSync(`${root}docs/vectors.json`, 'utf8')
const file = JSON.parse(text) as Awaited<ReturnType<typeof vectors>>
const bytesOf = (hex: string): Buffer => Buffer.from(hex, 'hex')
const fixture = (name: string): string => `${root}test/fixtures/${name}`

test('the file is what `npm run vectors` makes, in at most 150 kB', async t => {
  const made = await vectors()
  // Which frames passfd writes together differs from run to run: see below
  t.is(textOf({ ...made, conversations: [] }), textOf({ ...file, conversations: [] }))
  t.deepEqual(
    made.conversations.map(({ steps: _, ...rest }) => rest),
    file.conversations.map(({ steps: _, ...rest }) => rest)
  )
  t.is(textOf(file), text)
  t.true(text.length <= 150_000, `${text.length}`)
})

// --- frames

test('frames: passfd reads them, split at any byte', t => {
  const area = Buffer.alloc(65_536 + 16_384)
  const whole = Buffer.concat(file.frames.map(({ hex }) => bytesOf(hex)))
  for (const piece of [1, 2, 3, 5, 7, 11, 13, whole.length]) {
    const seen: Omit<FrameVector, 'name' | 'hex'>[] = []
    const reader = new FrameReader(
      {
        onFrame({ kind, count, flags, id, bytes, start, end }: Frame) {
          const name = [
            'hello',
            'message',
            'request',
            'reply',
            'fault',
            'cancel',
            'credit',
            'taken',
            'goodbye',
            'definitions'
          ]
          seen.push({
            kind: name[kind]!,
            descriptors: count,
            id,
            skip: flags & 7,
            records: (flags & 8) !== 0,
            ...(kind === 2 ? { allowance: Math.min(flags >> 8, 253) } : {}),
            body: bytes.toString('hex', start, end)
          })
          return true
        }
      },
      area,
      65_536
    )
    for (let at = 0; at < whole.length; at += piece) {
      const part = whole.subarray(at, at + piece)
      part.copy(area, 65_536)
      reader.received(part.length)
    }
    t.deepEqual(
      seen,
      file.frames.map(({ name: _, hex: __, ...rest }) => rest)
    )
  }
})

// --- bodies

/** What passfd gives a program for a value: the rules are in docs/protocol.md. `at`: whose descriptors. */
function passfdValue(value: Notation, at: readonly Descriptor[]): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(one => passfdValue(one, at))
  if ('integer' in value) {
    const integer = BigInt(value.integer)
    return integer > 2n ** 53n || integer < -(2n ** 53n) ? integer : Number(integer)
  }
  if ('float' in value) return Number(value.float)
  if ('bytes' in value) return bytesOf(value.bytes)
  if ('descriptor' in value) return at[value.descriptor]
  if ('seconds' in value) return new Date(Number(value.seconds) * 1000 + Math.trunc(value.nanoseconds / 1e6))
  if ('map' in value) {
    const found = {}
    for (const [key, one] of value.map)
      Object.defineProperty(found, keyOf(passfdValue(key, at)), {
        value: passfdValue(one, at),
        enumerable: true,
        configurable: true,
        writable: true
      })
    return found
  }
  throw new Error('a connection')
}

const keyOf = (key: unknown): string => String(key)

/** Runs it with so many descriptors, which are closed in the end. */
function withFiles<Result>(count: number, run: (files: Descriptor[]) => Result): Result {
  const files = Array.from({ length: count }, () => Descriptor.openSync('/dev/null'))
  try {
    return run(files)
  } finally {
    for (const one of files) if (!one.closed) one.close()
  }
}

const plainOf = (hex: string, files: readonly Descriptor[]): unknown => {
  const bytes = bytesOf(hex)
  return decodeBy(new Codec(), bytes, 0, bytes.length, false, files, true)
}

test('bodies: passfd decodes them', t => {
  for (const { name, hex, descriptors, value } of file.bodies)
    withFiles(descriptors, files => {
      const decoded = plainOf(hex, files)
      if (!hex.includes('43')) return t.deepEqual(decoded, passfdValue(value, files), name)
      const connections = (Array.isArray(decoded) ? decoded : [decoded]).filter(one => one instanceof Connection)
      const notations = (Array.isArray(value) ? value : [value]) as { unread?: string }[]
      const unread = notations.flatMap(one => (one.unread === undefined ? [] : [one.unread]))
      if (unread.length === 0) return t.deepEqual(decoded, passfdValue(value, files), name)
      t.deepEqual(
        connections.map(one => one.head.toString('hex')),
        unread,
        name
      )
      for (const one of connections) one.close()
    })
})

/** Floats by their meaning, as each language prints them in its own way. */
function same(value: Notation): unknown {
  return JSON.parse(JSON.stringify(value), (key, one) => {
    if (key !== 'float') return one
    return Object.is(Number(one), -0)
      ? '-0'
      : String(
          Number(
            String(one)
              .replace(/^(-?)inf$/, '$1Infinity')
              .replace('nan', 'NaN')
          )
        )
  })
}

const hasMsgpack = spawnSync(systemPython, ['-c', 'import msgpack']).status === 0
const noMsgpack = hasMsgpack ? undefined : 'no msgpack: apt-get install python3-msgpack'
const allBodies = (): { name: string; hex: string; descriptors: number; value: Notation }[] => [
  ...file.bodies,
  ...file.takeover,
  ...file.store
]

testIf(noMsgpack, "bodies, and messages of a takeover and of the store: Python's msgpack decodes them", t => {
  const input = allBodies().map(({ hex }) => hex)
  const { stdout, stderr } = spawnSync(systemPython, ['-B', fixture('vectors.py')], { input: input.join('\n') })
  t.is(String(stderr), '')
  const lines = String(stdout).trim().split('\n')
  for (const [index, { name, value }] of allBodies().entries())
    t.deepEqual(same(JSON.parse(lines[index]!)), same(value), name)
  t.is(lines.length, allBodies().length)
})

testIf(lacking('c'), 'bodies, and messages of a takeover and of the store: the peer in C decodes them', t => {
  const input = allBodies().map(({ hex, descriptors }) => `${descriptors} ${hex}\n`)
  const { stdout, stderr } = spawnSync(inCSanitized(), ['bodies'], { input: input.join('') })
  t.is(String(stderr), '')
  const lines = String(stdout).trim().split('\n')
  for (const [index, { name, value }] of allBodies().entries())
    t.deepEqual(same(JSON.parse(lines[index]!)), same(value), name)
})

test('keys of maps: the bodies have them', t => {
  for (const { name, keys, hex } of file.keys)
    if (hex !== null)
      t.deepEqual(
        Object.keys(plainOf(hex, []) as object).sort(),
        keys.map(key => keyOf(passfdValue(key, []))).sort(),
        name
      )
  t.true(file.keys.filter(({ hex }) => hex === null).length >= 8)
})

// --- violations

const silent = ['ERR_PASSFD_FRAME_STALLED', 'ERR_PASSFD_HANDSHAKE_TIMEOUT']

function sendTo(peer: RawPeer, { hex, descriptors }: Write): Promise<void> {
  return withFiles(descriptors, files =>
    peer.sendAll(
      bytesOf(hex),
      files.map(one => one.borrow())
    )
  )
}

test('violations: passfd ends with the code, and says so in its goodbye', async t => {
  for (const { name, code, asked, limits, writes, silence } of file.violations) {
    const [ours, theirs] = socketpair()
    const peer = new RawPeer(theirs).start()
    const [first, ...others] = writes
    // Before passfd's hello the kernel may refuse descriptors
    await sendTo(peer, first!)
    const impatient =
      silence === undefined ? {} : code.includes('STALLED') ? { frameTimeout: 40 } : { handshakeTimeout: 40 }
    const opening = connect<any, any>(own(ours), { ...optionsOf(limits), ...impatient })
    opening.then(
      channel => {
        channel.on('message', () => {})
        for (const { allowance } of asked) channel.request(null, { descriptors: allowance }).catch(() => {})
      },
      () => {}
    )
    if (others.length > 0) await peer.next(asked.length > 0 ? REQUEST : HELLO)
    for (const write of others) await sendTo(peer, write)
    t.is((await peer.next(GOODBYE)).value?.code, code, name)
    await peer.ended
    peer.close()
    const error = await opening.then(
      channel => channel.closed,
      failure => failure
    )
    t.is(error.code, code, name)
  }
})

/** One process that serves channels one after the other. */
class Serving {
  readonly running: Running
  readonly path = socketPath()
  #opened: string | undefined

  constructor(language: Language) {
    this.running =
      language === 'c'
        ? start(inCSanitized(), ['serve', this.path])
        : start(systemPython, ['-B', fixture('peer_driver.py'), 'serve', this.path])
  }

  /** Connects, and gives what it prints until the channel is over. */
  async converse(
    t: ExecutionContext,
    { window, maxDescriptors, maxMessage }: ViolationVector['limits'],
    sends: string[],
    speak: (tap: Tap) => Promise<void>
  ): Promise<{ lines: string[]; said: Buffer }> {
    this.running.child.stdin!.write(`${[window, maxDescriptors, maxMessage, ...sends].join(' ')}\n`)
    const fd = native.socket(1)
    native.connect(fd, Buffer.from(this.path))
    const tap = new Tap(fd)
    try {
      await speak(tap)
      const lines: string[] = []
      do lines.push(await this.running.line())
      while (!/^(?:end|error)/.test(lines.at(-1)!))
      const opened = await this.running.line()
      this.#opened ??= opened
      t.is(opened, this.#opened, 'no descriptor is left open')
      await until(() => tap.ended, 'the end')
      return { lines, said: tap.said }
    } finally {
      tap.end()
    }
  }

  async end(t: ExecutionContext): Promise<void> {
    this.running.child.stdin!.end()
    t.deepEqual(await this.running.exit, { code: 0, signal: null, stderr: '' })
  }
}

/**
 * What the small peers do not check: texts in a hello, which they do not use; credit, which they return as soon as they have read a message;
 * in Python the levels, which msgpack limits at 1,024, and keys that can be keys there.
 */
const UNCHECKED: Record<Language, RegExp> = {
  python:
    /^a hello: (?:agent|features|a feature)|without credit|^a body: (?:513 levels|a key that is (?:binary|a descriptor))/,
  c: /^a hello: (?:agent|features|a feature)|without credit/
}

for (const language of ['python', 'c'] as const) {
  testIf(lacking(language), `violations: the peer in ${language} ends with the code`, async t => {
    const serving = new Serving(language)
    t.is(await serving.running.line(), 'listens')
    for (const { name, code, asked, limits, writes } of file.violations) {
      if (silent.includes(code) || UNCHECKED[language].test(name)) continue
      const sends = asked.map(({ allowance }) => `request,0,${allowance}`)
      const { lines, said } = await serving.converse(t, limits, sends, async tap => {
        for (const [index, { hex, descriptors }] of writes.entries()) {
          if (index > 0 && asked.length > 0) await until(() => tap.has('request'), 'the request')
          tap.write(bytesOf(hex), descriptors)
        }
      })
      t.is(lines.at(-1), `error ${code}`, name)
      const last = framesIn(said).at(-1)!
      t.is((plainOf(last.body, []) as { code: string }).code, code, name)
    }
    await serving.end(t)
  })

  testIf(
    lacking(language),
    `conversations: the peer in ${language} understands the peer's side, split at any byte`,
    async t => {
      const serving = new Serving(language)
      t.is(await serving.running.line(), 'listens')
      for (const { name, limits, sends, steps } of file.conversations) {
        const mine = steps.filter(({ from }) => from === 'peer')
        const asked = sends.map(({ kind, descriptors }) => `${kind},${descriptors},1`)
        const expected = mine
          .flatMap(({ hex }) => framesIn(bytesOf(hex)))
          .filter(({ kind }) => ['message', 'request', 'reply', 'fault'].includes(kind))
          .map(({ kind, id, descriptors }) => `${kind} ${id} ${descriptors}`)
        for (const cut of cuts(mine)) {
          const { lines } = await serving.converse(t, limits, asked, async tap => {
            for (const { hex, at } of mine) {
              for (const [part, descriptors] of writesOf(bytesOf(hex), at, cut)) tap.write(part, descriptors)
              if (asked.length > 0) await until(() => sends.every(({ kind }) => tap.has(kind)), 'what it sends')
            }
            await until(() => tap.has('goodbye'), 'its goodbye')
            native.shutdown(tap.fd, 1)
          })
          t.deepEqual(lines, [...expected, 'end'], name)
        }
      }
      await serving.end(t)
    }
  )
}

/** Whole steps, byte by byte, and at some places. */
function cuts(steps: readonly Step[]): ((offset: number) => boolean)[] {
  const longest = Math.max(...steps.map(({ hex }) => hex.length / 2))
  const places = Array.from({ length: times(3, longest) }, (_, index) => 1 + ((index * 37) % longest))
  return [() => false, () => true, ...places.map(place => (offset: number) => offset === place)]
}

// --- conversations

/** Frames whose order says something: credit and taken may be sent together, or apart. */
function essence(steps: readonly Step[]): unknown {
  const frames = steps.filter(({ from }) => from === 'passfd').flatMap(({ hex }) => framesIn(bytesOf(hex)))
  const sum = (wanted: string): number => frames.reduce((total, { kind, id }) => total + (kind === wanted ? id : 0), 0)
  const others = frames
    .filter(({ kind }) => kind !== 'credit' && kind !== 'taken')
    .map(({ hex: _, skip: __, ...rest }) => rest)
  const descriptors = steps.filter(({ from }) => from === 'passfd').reduce((total, { at }) => total + at.length, 0)
  return { others, taken: sum('taken'), descriptors }
}

test("conversations: passfd says what stands there, however the peer's side is split", async t => {
  for (const conversation of file.conversations) {
    const { name, steps, ...rest } = conversation
    for (const cut of cuts(steps.filter(({ from }) => from === 'peer')))
      t.deepEqual(
        essence((await played({ ...rest, steps: scriptOf(conversation) }, cut)).steps.map(withoutVersion)),
        essence(steps),
        name
      )
  }
})

/** The peer's steps, each with the kinds of the frames of passfd that stand before it. */
function scriptOf({ steps }: Conversation) {
  let before: string[] = []
  return steps.flatMap(({ from, hex, at }) => {
    const bytes = bytesOf(hex)
    if (from === 'peer') return [{ after: before.join(' '), bytes, at }]
    before = [...before, ...new Set(framesIn(bytes).map(({ kind }) => kind))].filter(
      (kind, place, all) => !['credit', 'taken'].includes(kind) || all.indexOf(kind) === place
    )
    return []
  })
}

// --- records, takeover, store

test('records: passfd decodes them, in their order', t => {
  const codec = new Codec()
  codec.records = true
  for (const [index, { name, hex, value }] of file.records.entries()) {
    const bytes = bytesOf(hex)
    const [, given, notation] = RECORD_VALUES[index]!
    t.deepEqual(decodeBy(codec, bytes, 0, bytes.length, true, [], true), given, name)
    t.deepEqual(value, notation, name)
  }
})

test('states: passfd decodes them', t => {
  for (const { name, hex, descriptors } of file.states)
    withFiles(descriptors, files => {
      const value = decodeWide(bytesOf(hex), files)
      if (descriptors > 0) t.deepEqual(value, files, name)
      else t.deepEqual(value, name === 'no state' ? undefined : [{ a: 1 }, { a: 2 }], name)
    })
})

const READERS: Record<string, (value: unknown) => unknown> = {
  'takeover request': readAsked,
  'takeover answer begin': readOffer,
  'takeover answer more': readPart,
  'takeover answer freeze': readFrozen,
  'takeover answer state': readStatePart,
  'takeover answer status': readStatus,
  'store request': readRequest,
  'store answer take': readGiven
}

for (const [protocol, list] of Object.entries({ takeover: file.takeover, store: file.store }) as [
  string,
  MessageVector[]
][])
  test(`messages: passfd reads those of the ${protocol}, and refuses the malformed ones`, t => {
    for (const { name, is, hex, descriptors, code } of list)
      withFiles(descriptors, files => {
        const value = plainOf(hex, files)
        const read = READERS[`${protocol} ${is}`]
        if (read === undefined) return t.is(code, undefined, name)
        if (code === undefined) t.notThrows(() => read(value), name)
        else t.throws(() => read(value), { code }, name)
      })
  })
