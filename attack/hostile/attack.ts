/** A process that keeps to no rule connects to a server, beside a client that does. */
import { join } from 'node:path'
import { setTimeout as nap } from 'node:timers/promises'
import { Unpackr } from 'msgpackr'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'
import { Ends, problemsOf } from '../pairs/ends.ts'
import { type Connection, connectedTo, deskOf, Given, questions } from './connections.ts'
import { changed, noted, receive, recorded, type Segment, type SocketType, send } from './traffic.ts'

interface Part {
  /** Of pairs/scenarios/. Default: the part's name. */
  readonly scenario?: string
  /** The socket of the far end, in the folder. */
  readonly socket: string
  readonly type: SocketType
  /** It speaks passfd's frames. */
  readonly frames: boolean
  readonly atOnce?: number
  /** What real clients send. Default: what passes a relay. */
  conversations?(scenario: string, socket: string, type: SocketType, folder: string): Promise<Segment[][]>
  /** Where clients connect; default: at the socket. */
  nameOf?(folder: string): Buffer
  /** The far end's own processes give connections to who listens at the socket. */
  readonly isGiven?: boolean
}

const PARTS: Record<string, Part> = {
  admin: { scenario: '../../hostile/scenarios/admin', socket: 'admin', type: 1, frames: true },
  channel: { socket: 'socket', type: 1, frames: true },
  control: {
    scenario: '../../hostile/scenarios/control',
    socket: 'hands',
    type: 1,
    frames: true,
    atOnce: 2,
    conversations: scenario => noted(scenario, 'far', 'worker.mjs', 3),
    isGiven: true
  },
  connection: { socket: 'socket', type: 1, frames: true },
  datagrams: {
    socket: 'socket',
    type: 2,
    frames: false,
    conversations: scenario => noted(scenario, 'near', 'end.mjs')
  },
  desk: {
    scenario: '../../hostile/scenarios/desk',
    socket: 'desk',
    type: 5,
    frames: false,
    conversations: async (_scenario, _socket, _type, folder) => questions(folder),
    nameOf: folder => Buffer.from(`\0${deskOf(folder).name}`)
  },
  memory: { socket: 'socket', type: 1, frames: true },
  packets: { socket: 'socket', type: 5, frames: false },
  store: { socket: 'socket', type: 1, frames: true },
  stream: { socket: 'socket', type: 1, frames: false },
  systemd: { socket: 'notify', type: 2, frames: false, conversations: scenario => noted(scenario, 'near', 'end.mjs') },
  takeover: { socket: 'seat', type: 1, frames: true }
}
/** So many hostile connections come in a round of the other client. */
const AT_ONCE = 10
/** How long one stays when it has sent all, in ms, unless the server ends it. */
const STAYS = 20
/** The programs of the far ends write into what they are sent. */
const ENVIRONMENT = (): NodeJS.ProcessEnv => ({ HOSTILE: '1' })
const HEADER = 12
const GOODBYE = 8

const counts = { connections: 0, 'ended by a code': 0, 'descriptors sent': 0, rounds: 0 }
type Count = keyof typeof counts

export const hostile: Attack = {
  promise:
    'Whatever a peer sends, with whatever descriptors, the server lives and serves others meanwhile, and nothing that the peer has sent stays open.',
  what: 'The traffic of real clients is recorded and sent again with other bytes, other counts and kinds of descriptors, in other pieces, twice, in part or in another order.',
  needs: ['build'],
  parts: Object.keys(PARTS),
  count: 20_000,
  sample: 280,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const pool = await descriptors()
  try {
    return await shareOut(settings, chosenOf(Object.keys(PARTS), settings), counts, (part, share) =>
      attackPart(part, pool, share)
    )
  } finally {
    for (const one of pool) one.close()
  }
}

/** Of all kinds. None blocks a server that writes into it. */
async function descriptors(): Promise<Descriptor[]> {
  const { readable, writable } = Descriptor.pipe()
  const listening = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const all = [
    readable,
    writable,
    listening,
    ...Descriptor.socketpair(),
    ...Descriptor.socketpair({ type: 'dgram' }),
    Descriptor.memfd('hostile', { size: 8192 }),
    await Descriptor.open('/dev/null'),
    await Descriptor.open('/')
  ]
  for (const one of all) native.nonblocking(one.borrow(), true)
  return all
}

async function attackPart(
  part: string,
  pool: readonly Descriptor[],
  { seed, count, until, log, tell, found }: Share
): Promise<void> {
  const {
    scenario = part,
    socket,
    type,
    frames,
    atOnce = AT_ONCE,
    conversations: recordedBy = recorded,
    ...rest
  } = PARTS[part]!
  const random = new Random(seed)
  let ends = await Ends.start(scenario, ENVIRONMENT)
  const conversations = await recordedBy(scenario, socket, type, ends.folder)
  const segments = conversations.flat()
  log(
    `${part}: ${conversations.length} conversations of ${segments.length} pieces with ${segments.reduce((sum, one) => sum + one.count, 0)} descriptors`
  )
  let given = rest.isGiven === true ? new Given(join(ends.folder, socket)) : undefined
  try {
    for (let done = 0; done < count && performance.now() < until; done += atOnce) {
      const all = Array.from({ length: Math.min(atOnce, count - done) }, () => changed(conversations, random))
      const { folder } = ends
      const name = rest.nameOf?.(folder) ?? Buffer.from(join(folder, socket))
      const open = (): Promise<Connection> | Connection => given?.next() ?? connectedTo(name, type)
      let attacks: Promise<void>[] = []
      const result = await ends.round({
        begin: () => {
          attacks = all.map(one =>
            converse(open, type, frames, one, pool, random, tell as (what: Count, more: number) => void)
          )
        },
        end: async () => void (await Promise.all(attacks))
      })
      tell('rounds', 1)
      tell('connections', all.length)
      const problems = problemsOf(result)
      if (problems.length === 0) continue
      found(`${part} (connections ${done} to ${done + all.length} of seed ${seed}): ${problems.join('; ')}`)
      given?.close()
      await ends.close()
      ends = await Ends.start(scenario, ENVIRONMENT)
      given &&= new Given(join(ends.folder, socket))
    }
  } finally {
    given?.close()
    await ends.close()
  }
}

/** Sends all, as far as the server takes it, and leaves. */
async function converse(
  open: () => Promise<Connection> | Connection,
  type: SocketType,
  frames: boolean,
  segments: readonly Segment[],
  pool: readonly Descriptor[],
  random: Random,
  tell: (what: Count, more: number) => void
): Promise<void> {
  const { fd, isOpen, close } = await open()
  const parts: Buffer[] = []
  let ended = !isOpen
  const read = (): void => {
    for (
      let some = ended ? undefined : receive(fd, type);
      some !== undefined;
      some = ended ? undefined : receive(fd, type)
    ) {
      for (const number of some.fds) native.close(number)
      ended = some.bytes.length === 0
      parts.push(some.bytes)
    }
  }
  for (const { bytes, count } of segments) {
    if (ended) break
    // Never its own end of the connection: then the server itself keeps that open, as a peer can that does not leave
    const numbers = Array.from({ length: count }, () => random.pick(pool).borrow())
    if (!(await send(fd, type, bytes, numbers))) break
    tell('descriptors sent', count)
    if (random.chance(0.3)) read()
  }
  if (random.chance(0.3)) native.shutdown(fd, 1)
  for (const due = performance.now() + STAYS; !ended && performance.now() < due; ) {
    read()
    if (!ended) await nap(2)
  }
  close()
  if (frames && endsWithCode(Buffer.concat(parts))) tell('ended by a code', 1)
}

const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true })

/** Whether a frame is a goodbye with an error of passfd. */
function endsWithCode(bytes: Buffer): boolean {
  for (let at = 0; at + HEADER <= bytes.length; ) {
    const length = bytes.readUInt32LE(at)
    const end = at + HEADER + length
    if (bytes[at + 4] === GOODBYE && end <= bytes.length && length > 0) {
      const { code } = unpackr.unpack(bytes.subarray(at + HEADER, end)) as { code?: string }
      return code !== undefined && /^ERR_PASSFD_/.test(code)
    }
    at = end + (bytes[at + 6]! & 7)
  }
  return false
}
