/** What a client sends to a server: recorded from a real one, changed, and sent again by a process that keeps to no rule. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as nap, setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { EAGAIN } from '../../src/base/errno.ts'
import { checked } from '../../src/base/errors.ts'
import { MESSAGE_FIRST, MESSAGE_PLACE, native, RESULT_BYTES, RESULT_DESCRIPTORS } from '../../src/os/native.ts'
import type { Random } from '../../test/helpers/random.ts'
import { mutant } from '../fuzz/mutate.ts'
import { Ends, type Side } from '../pairs/ends.ts'

/** One sendmsg(2). */
export interface Segment {
  readonly bytes: Buffer
  /** How many descriptors leave with it. */
  readonly count: number
}

/** Types of sockets, as in socket(2). */
export type SocketType = 1 | 2 | 5

const EPERM = -1
/** The longest read. */
const AREA = Buffer.alloc(65_536)
const RESULTS = new Int32Array(MESSAGE_FIRST + 512)
const NAME = Buffer.alloc(108)
const NO_NUMBERS = new Int32Array(0)
const PROGRAM = fileURLToPath(new URL('../pairs/end.mjs', import.meta.url))
/** The most descriptors of a sendmsg(2), unix(7). */
const MOST = 253
const LONGEST = 400_000

/** Reads once. Undefined: nothing is there. No bytes: the end. The caller closes the numbers. */
export function receive(fd: number, type: SocketType): { bytes: Buffer; fds: number[]; place: number } | undefined {
  const length =
    type === 1
      ? native.receivePlaced(fd, AREA, 0, AREA.length, RESULTS)
      : native.receiveMessage(fd, AREA, 0, AREA.length, RESULTS, NAME, false)
  if (length === EAGAIN) return undefined
  const fds =
    length < 0 ? [] : Array.from(RESULTS.subarray(MESSAGE_FIRST, MESSAGE_FIRST + RESULTS[RESULT_DESCRIPTORS]!))
  const count = Math.max(0, length < 0 ? 0 : Math.min(RESULTS[RESULT_BYTES]!, length))
  return { bytes: Buffer.from(AREA.subarray(0, count)), fds, place: type === 1 ? RESULTS[MESSAGE_PLACE]! : 0 }
}

/** Sends a segment with these descriptors. Returns whether it has left within some turns of the loop. */
export async function send(fd: number, type: SocketType, bytes: Buffer, fds: readonly number[]): Promise<boolean> {
  const numbers = Int32Array.from(fds)
  for (let at = 0, turns = 0; turns < 200; turns++) {
    const count = at === 0 ? numbers.length : 0
    const sent =
      type === 1
        ? native.send(fd, bytes, at, bytes.length, count === 0 ? NO_NUMBERS : numbers, 0, count)
        : native.sendMessage(fd, bytes, 0, bytes.length, numbers, 0, count, null)
    if (sent >= 0) at += sent
    if ((sent >= 0 && at >= bytes.length) || (sent >= 0 && type !== 1)) return true
    if (sent < 0 && sent !== EAGAIN && sent !== EPERM) return false
    // The server takes descriptors when it has accepted the connection (SO_PASSRIGHTS, Linux 6.16)
    await (sent === EPERM ? nap(1) : turn())
  }
  return false
}

/** Lets the near end of a scenario go through a round with its far end, and notes what it sends at the socket of this name. */
export async function recorded(scenario: string, socket: string, type: SocketType): Promise<Segment[][]> {
  const folders = [0, 1].map(() => mkdtempSync(join(tmpdir(), 'passfd-attack-'))) as [string, string]
  const listener = checked(native.socket(type), 'socket')
  checked(native.bind(listener, Buffer.from(join(folders[1], socket)), 0o600), 'bind')
  checked(native.listen(listener, 50), 'listen')
  const ends: ChildProcess[] = []
  const conversations: Segment[][] = []
  let isOver = false
  const start = async (side: string, folder: string): Promise<void> => {
    const child = fork(PROGRAM, [scenario, side, folder], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      execArgv: []
    })
    ends.push(child)
    await once(child, 'message')
  }
  const relay = async (): Promise<void> => {
    const pairs: { from: number; to: number; notes: Segment[] | undefined; ended: boolean }[] = []
    while (!isOver) {
      const client = native.accept(listener)
      if (client >= 0) {
        const server = checked(native.socket(type), 'socket')
        checked(native.connect(server, Buffer.from(join(folders[0], socket))), 'connect')
        const notes: Segment[] = []
        conversations.push(notes)
        pairs.push(
          { from: client, to: server, notes, ended: false },
          { from: server, to: client, notes: undefined, ended: false }
        )
      }
      for (const pair of pairs) {
        const read = pair.ended ? undefined : receive(pair.from, type)
        if (read === undefined) continue
        const { bytes, fds, place } = read
        pair.ended = bytes.length === 0 && fds.length === 0
        if (pair.ended) native.shutdown(pair.to, 1)
        for (const [part, numbers] of [
          [bytes.subarray(0, fds.length > 0 ? place : bytes.length), []],
          [bytes.subarray(fds.length > 0 ? place : bytes.length), fds]
        ] as const) {
          if (part.length === 0) continue
          pair.notes?.push({ bytes: Buffer.from(part), count: numbers.length })
          await send(pair.to, type, Buffer.from(part), numbers)
        }
        for (const number of fds) native.close(number)
      }
      await turn()
    }
    for (const { from } of pairs) native.close(from)
  }
  const relaying = relay()
  try {
    await start('far', folders[0])
    await start('near', folders[1])
    const ask = async (child: ChildProcess, command: string): Promise<void> => {
      const answer = once(child, 'message')
      child.send({ command, given: {} })
      await answer
    }
    for (const child of ends) await ask(child, 'prepare')
    await ask(ends[1]!, 'run')
    for (const child of ends) await ask(child, 'finish')
  } finally {
    isOver = true
    await relaying
    native.close(listener)
    for (const child of ends) child.kill('SIGKILL')
    for (const folder of folders) rmSync(folder, { recursive: true })
  }
  return conversations.filter(notes => notes.length > 0)
}

/** Lets both ends of a scenario go through a round. Returns what passfd sends in the programs whose path ends so, on one side: by process and socket, or by the number `fd`. */
export async function noted(scenario: string, side: Side, program: string, fd?: number): Promise<Segment[][]> {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  const NOTES = join(folder, 'notes')
  const NODE_OPTIONS = `--import ${new URL('notes.mjs', import.meta.url)}`
  const NOTES_FD = fd === undefined ? {} : { NOTES_FD: `${fd}` }
  try {
    const ends = await Ends.start(scenario, one =>
      one === side ? { NODE_OPTIONS, NOTES, NOTES_IN: program, ...NOTES_FD } : {}
    )
    await ends.close()
    const conversations = new Map<string, Segment[]>()
    for (const line of readFileSync(NOTES, 'utf8').trim().split('\n')) {
      const note = JSON.parse(line) as { process: number; fd: number; sent: string; count: number }
      const key = `${note.process} ${note.fd}`
      const segment = { bytes: Buffer.from(note.sent, 'base64'), count: note.count }
      conversations.set(key, [...(conversations.get(key) ?? []), segment])
    }
    return [...conversations.values()]
  } finally {
    rmSync(folder, { recursive: true })
  }
}

type Change = (segments: Segment[], at: number, random: Random) => Segment[]

const others = (segments: readonly Segment[]): Buffer[] => segments.map(({ bytes }) => bytes)

const CHANGES: Change[] = [
  // Other bytes, as many or not
  (segments, at, random) => {
    const { bytes, count } = segments[at]!
    const head = mutant([bytes.subarray(0, 2000), ...others(segments).map(one => one.subarray(0, 2000))], random)
    return replaced(segments, at, { bytes: Buffer.concat([head, bytes.subarray(2000)]), count })
  },
  (segments, at, random) => {
    const bytes = Buffer.from(segments[at]!.bytes)
    bytes[random.integer(0, Math.min(bytes.length, 40) - 1)] = random.integer(0, 255)
    return replaced(segments, at, { bytes, count: segments[at]!.count })
  },
  // Fewer descriptors, more, or very many
  (segments, at) => replaced(segments, at, { ...segments[at]!, count: Math.max(0, segments[at]!.count - 1) }),
  (segments, at, random) =>
    replaced(segments, at, { ...segments[at]!, count: segments[at]!.count + random.integer(1, 3) }),
  (segments, at, random) => replaced(segments, at, { ...segments[at]!, count: random.pick([MOST, MOST - 1, 100]) }),
  // In two parts: the descriptors come with one of them
  (segments, at, random) => {
    const { bytes, count } = segments[at]!
    if (bytes.length < 2) return segments
    const cut = random.integer(1, bytes.length - 1)
    const early = random.integer(0, count)
    return replaced(
      segments,
      at,
      { bytes: bytes.subarray(0, cut), count: early },
      { bytes: bytes.subarray(cut), count: count - early }
    )
  },
  // It is missing, comes twice, or earlier
  (segments, at) => replaced(segments, at),
  (segments, at) => replaced(segments, at, segments[at]!, segments[at]!),
  (segments, at, random) => {
    const [one] = segments.splice(at, 1)
    segments.splice(random.integer(0, segments.length), 0, one!)
    return segments
  },
  // The end comes in the midst of it
  (segments, at, random) => {
    const { bytes, count } = segments[at]!
    return [...segments.slice(0, at), { bytes: bytes.subarray(0, random.integer(1, bytes.length)), count }]
  }
]

function replaced(segments: readonly Segment[], at: number, ...by: Segment[]): Segment[] {
  return [...segments.slice(0, at), ...by, ...segments.slice(at + 1)]
}

/** One of the conversations, changed once or some times. */
export function changed(conversations: readonly (readonly Segment[])[], random: Random): Segment[] {
  let segments = [...random.pick(conversations)]
  for (let count = random.integer(1, 3); count > 0 && segments.length > 0; count--) {
    // Mostly what comes early, as the first fault is the last one that is read
    const at = Math.floor(random.next() ** 2 * segments.length)
    segments = random.pick(CHANGES)(segments, at, random)
  }
  return segments.filter(({ bytes }) => bytes.length > 0 && bytes.length < LONGEST)
}
