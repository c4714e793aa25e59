/** Random runs of two whole Channels over a fake wire: a scheduler, and what must hold however it chooses. */
import { setImmediate as turn } from 'node:timers/promises'
import { sessionOf } from '../../src/channel/channel.ts'
import {
  type ChannelOptions,
  channelLimits,
  type Limits,
  type Schema,
  withUnclaimed
} from '../../src/channel/options.ts'
import type { ReturnState } from '../../src/channel/session-core.ts'
import type { Descriptor } from '../../src/descriptor/descriptor.ts'
import { EBADF, FakeSocket, type Weather } from './fake-wire.ts'
import { EINVAL, type Holder, Ledger, type Side } from './ledger.ts'
import { End, type Mode } from './model-end.ts'
import { Random } from './random.ts'
import { VirtualClock } from './virtual-clock.ts'
import { other, WireMonitor } from './wire-monitor.ts'

/**
 * `calm`: all is delivered and answered before anybody closes. `closing`: close() at any time, by either or both. `hasty`: the
 * same with short time limits. `rough`: destroy(), lost connections, dead processes, failing programs, violations at any time.
 */
export type Profile = 'calm' | 'closing' | 'hasty' | 'rough'

export interface Settings {
  readonly profile: Profile
  readonly steps: number
  readonly capacity: number
  /** The biggest payload. */
  readonly bytes: number
  /** Messages with more than 60 descriptors. */
  readonly bulky: boolean
  /** How many of the descriptors the kernel refuses. */
  readonly refused: number
  readonly options: Record<Side, ChannelOptions<any>>
}

/** What goes over the wire: the descriptors `f`, each with the number `o` of its open file. */
export interface Body {
  n: number
  k: Post['kind']
  f: { d: Descriptor; o: number }[]
  /** Kind, length and content of the payload. */
  p: { t: string; l: number; v: unknown }
  x: Record<string, number>
  bad?: boolean
}

/** Something sent, and what became of it. */
export interface Post {
  readonly serial: number
  readonly from: Side
  readonly kind: 'message' | 'request' | 'reply'
  readonly value: Body
  readonly descriptors: readonly Descriptor[]
  readonly fds: readonly number[]
  /** A reply: to what. */
  readonly answers: Post | undefined
  /** Leave it alone until it was sent. */
  readonly binary: Buffer | undefined
  /** It was sent when nothing more is sent. */
  late: boolean
  /** It was sent before the other side's limits were known. */
  early: boolean
  delivered: boolean
  returned: ReturnState | undefined
  aborted: boolean
  /** A handler has returned it. */
  given: boolean
  /** Why it may come back: what the kernel says of its descriptors, or that its bytes were taken away. */
  readonly spoilt: Set<string>
  /** It has come back with this. */
  error: string | undefined
  timeout: number
  outcome: string | undefined
  /** A request without an answer: the state in which its sender learned that. */
  gaveUpIn: string | undefined
}

interface Pending {
  end: End
  label: string
}

const PROTOCOL_ERRORS = /^(ERR_PASSFD_(?!PEER|DISCONNECTED|DESTROYED)|E[A-Z]+$)/
/** The promise of a message whose bytes are gone, and what ends a channel that has sent a part of them. */
const LOST = 'ERR_PASSFD_ENCODE'

export class World {
  readonly random: Random
  readonly settings: Settings
  readonly ledger = new Ledger()
  readonly clock = new VirtualClock()
  readonly monitor = new WireMonitor(text => this.problem(text))
  readonly sockets: { left: FakeSocket; right: FakeSocket }
  readonly ends: { left: End; right: End }
  readonly posts = new Map<number, Post>()
  readonly byValue = new Map<unknown, Post>()
  serial = 0
  /** How many have come back because they can't be sent. */
  refused = 0
  /** The connection has been broken by somebody. */
  broken = false
  /** And by what no honest end does. */
  unlawful = false
  readonly #pending = new Set<Pending>()
  readonly #all: Post[] = []

  constructor(settings: Settings, random: Random) {
    this.settings = settings
    this.random = random
    this.sockets = FakeSocket.pair(this.ledger, settings.capacity)
    const weather: Weather = {
      accept: bytes =>
        random.weighted([
          [5, bytes],
          [3, random.integer(1, bytes)],
          [1, 0]
        ]),
      piece: bytes => (random.chance(0.5) ? bytes : random.integer(1, bytes)),
      crowded: () => random.chance(0.1)
    }
    for (const socket of [this.sockets.left, this.sockets.right]) {
      socket.weather = weather
      if (random.chance(0.5)) socket.closing = 0
      socket.monitor = this.monitor
    }
    this.ends = { left: this.#end('left'), right: this.#end('right') }
    this.broken = this.unlawful = settings.profile === 'hasty'
  }

  get problems(): string[] {
    return this.ledger.problems
  }

  problem(text: string): void {
    if (this.problems.length === 0) {
      for (const { side, mode, channel } of [this.ends.left, this.ends.right]) {
        const { state, requests, sending } = sessionOf(channel)
        this.note(`${side}: ${state}, consumer ${mode}, ${requests.size} requests, ${sending.backlog} bytes queued`)
      }
    }
    this.ledger.problem(text)
  }

  note(text: string): void {
    this.monitor.log.push(text)
  }

  move(post: Post, to: Holder): void {
    for (const fd of post.fds) this.ledger.pass(fd, ['app', 'lent', 'channel'], to, `${post.kind} ${post.serial}`)
  }

  register(post: Post): void {
    this.posts.set(post.serial, post)
    this.byValue.set(post.value, post)
    this.#all.push(post)
  }

  /** Every promise must settle. */
  track(
    end: End,
    label: string,
    promise: Promise<unknown>,
    kept: (value: unknown) => void = () => {},
    broken: (error: unknown) => void = () => {}
  ): void {
    const pending = { end, label: `${end.side}: ${label}` }
    this.#pending.add(pending)
    promise.then(
      value => {
        this.#pending.delete(pending)
        kept(value)
      },
      error => {
        this.#pending.delete(pending)
        broken(error)
      }
    )
  }

  /** A request was not answered with a value: was there reason? */
  refusal(end: End, post: Post, error: Error & { code?: string; remote?: { code: string } }): void {
    const { code = error.name, remote } = error
    const reasons: Record<string, boolean> = {
      ABORT_ERR: post.aborted,
      ERR_PASSFD_TIMEOUT: post.timeout > 0,
      ERR_PASSFD_CLOSED: true, // checked at the end
      ERR_PASSFD_MESSAGE_TOO_LARGE: post.early,
      ERR_PASSFD_TOO_MANY_DESCRIPTORS: post.early,
      EBADF: post.spoilt.has(code),
      EINVAL: post.spoilt.has(code),
      [LOST]: post.spoilt.has(code),
      ERR_PASSFD_REMOTE: [
        'E_MODEL',
        'Error',
        'EBADF',
        'EINVAL',
        'ERR_PASSFD_BUSY',
        'ERR_PASSFD_UNANSWERED',
        'ERR_PASSFD_TOO_MANY_DESCRIPTORS',
        'ERR_PASSFD_MESSAGE_TOO_LARGE',
        'ERR_PASSFD_QUEUE_FULL',
        'ERR_PASSFD_ENCODE',
        'ERR_PASSFD_SCHEMA'
      ].includes(remote?.code ?? '')
    }
    if (!reasons[code])
      this.problem(`${end.side}: request ${post.serial} failed: ${error.message} ${remote?.code ?? ''}`)
  }

  // --- the schedule

  async run(): Promise<void> {
    const { random, settings } = this
    for (let step = 0; step < settings.steps && this.problems.length === 0; step++) await this.#step(this.#anything())
    if (settings.profile === 'calm') {
      await this.#drain()
      this.#allDone()
      const first = random.pick([this.ends.left, this.ends.right])
      first.close()
      if (random.chance(0.5)) this.ends[other(first.side)].close()
    } else {
      const alive = [this.ends.left, this.ends.right].filter(end => !end.dead)
      if (alive.length > 0 && !alive.some(end => end.closing || end.over)) random.pick(alive).close()
    }
    await this.#drain()
    await this.#finish()
  }

  async #step(actions: Action[]): Promise<void> {
    const chosen = this.random.weighted(actions.map(action => [action.weight, action]))
    this.note(`-- ${chosen.label}`)
    chosen.run()
    await turn()
  }

  /** Goes on until nothing is left to do but new things. */
  async #drain(): Promise<void> {
    await turn()
    for (let step = 0; this.problems.length === 0; step++) {
      let actions = this.#driving()
      if (actions.length === 0) {
        await turn() // what is answered after the end comes back a turn later
        actions = this.#driving()
      }
      if (actions.length === 0) return
      if (step > 20_000) return this.problem('it never comes to rest')
      await this.#step(actions)
    }
  }

  /** What the kernel and the loop do, and what programs have begun. */
  #driving(): Action[] {
    const { random, clock } = this
    const actions: Action[] = []
    for (const end of [this.ends.left, this.ends.right]) {
      const { side, socket } = end
      const add = (weight: number, label: string, run: () => void): void =>
        void actions.push({ weight, label: `${side} ${label}`, run })
      if (end.dead) {
        if (socket.closings.length > 0) socket.closings.length = 0
        continue
      }
      if (!end.started) add(2, 'starts', () => end.start())
      if (socket.readable)
        add(10, 'reads', () =>
          socket.read(
            random.weighted([
              [1, 1],
              [4, random.magnitude(1, 4096)],
              [5, 1 << 20]
            ])
          )
        ) // prettier-ignore
      if (socket.writable) add(6, 'can write', () => socket.becomeWritable())
      if (socket.closings.length > 0) add(3, 'has closed descriptors', () => socket.finishClosing())
      if (socket.ended && !socket.closed) add(2, 'has closed its socket', () => socket.finishClose())
      for (const task of end.tasks)
        add(8 / end.tasks.length, task.label, () => {
          end.tasks.splice(end.tasks.indexOf(task), 1)
          task.run()
        })
      if (end.mode === 'nobody' && !end.finished)
        add(1, 'reads on', () => end.changeMode(random.pick<Mode>(['serve', 'iterate', 'listen'])))
      if (end.asks) add(6, 'asks', () => end.ask())
    }
    if (clock.next <= 5) actions.push({ weight: 3, label: 'time passes', run: () => clock.advance(5) })
    return actions
  }

  #anything(): Action[] {
    const { random, settings } = this
    const actions = this.#driving()
    for (const end of [this.ends.left, this.ends.right]) {
      if (end.dead || !end.started) continue
      const add = (weight: number, label: string, run: () => void): void =>
        void actions.push({ weight, label: `${end.side} ${label}`, run })
      add(5, 'sends', () => end.send())
      add(4, 'requests', () => end.request())
      if (end.controllers.length > 0) add(2, 'gives up', () => end.abort())
      if (settings.refused > 0)
        add(settings.refused * 5, 'closes a number behind the back', () => this.#closeBehind(end))
      add(0.3, 'changes its mode', () => end.changeMode(random.pick<Mode>(['nobody', 'serve', 'iterate', 'listen'])))
      if (settings.profile !== 'calm') add(0.15, 'closes', () => end.close())
      if (settings.profile === 'rough') {
        add(0.2, 'takes a buffer away', () => this.#loseBuffer(end))
        add(0.1, 'destroys', () => this.#break(() => end.destroy()))
        add(0.05, 'dies', () => this.#break(() => end.die()))
        add(0.05, 'is cut', () => this.#break(() => this.#cut()))
        if (end.socket.readable && end.socket.unread > 0)
          add(0.05, 'loses descriptors', () => this.#break(() => this.#lose(end)))
        if (this.monitor.between(end.side)) add(0.1, 'breaks the rules', () => this.#break(() => this.#violate(end)))
      }
    }
    actions.push({ weight: 0.5, label: 'time passes', run: () => this.clock.advance(random.integer(1, 100)) })
    return actions
  }

  #break(how: () => void): void {
    this.broken = true
    how()
  }

  /** A number that was moved and has not left. */
  #closeBehind({ side }: End): void {
    const { ledger } = this
    const waits = (fd: number): boolean =>
      ['channel', 'given'].includes(ledger.holder(fd)) && !ledger.left(fd) && ledger.refusal(fd) !== EBADF
    const mine = this.#all.filter(({ from, returned }) => from === side && returned === undefined)
    const waiting = mine.flatMap(({ fds }) => fds).filter(waits)
    if (waiting.length === 0) return
    const fd = this.random.pick(waiting)
    ledger.closeBehind(fd)
    for (const { fds, spoilt } of mine) if (fds.includes(fd)) spoilt.add('EBADF')
    this.note(`${side}: ${fd} is closed`)
  }

  /** Bytes that are not copied and have not left, or only in part: then the channel can't go on. */
  #loseBuffer({ side }: End): void {
    const waiting = this.#all.filter(({ from, binary }) => from === side && binary !== undefined && binary.length > 0)
    if (waiting.length === 0) return
    const post = this.random.pick(waiting)
    const { buffer } = post.binary!
    structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
    post.spoilt.add(LOST)
    this.broken = true
    this.note(`${post.serial} loses its bytes`)
  }

  #lose({ socket }: End): void {
    this.unlawful = true
    socket.read(1 << 20, this.random.integer(1, 253))
  }

  #cut(): void {
    this.sockets.left.cut()
    this.sockets.right.cut()
  }

  /** Something that no honest end writes. */
  #violate(end: End): void {
    const { random } = this
    const frame = (kind: number, count: number, flags: number, id: number, body: number[] = []): Buffer => {
      const bytes = Buffer.from([0, 0, 0, 0, kind, count, flags & 255, flags >>> 8, 0, 0, 0, 0, ...body])
      bytes.writeUInt32LE(body.length, 0)
      bytes.writeUInt32LE(id, 8)
      return bytes
    }
    const bytes = random.pick([
      frame(9, 0, 0, 0),
      frame(5, 0, 16, 0),
      frame(7, 0, 0, 100_000),
      frame(3, 0, 0, 0xfffffff0, [0xc0]),
      frame(4, 0, 0, 0xfffffff0, [0x80]),
      frame(0, 0, 0, 0, [0x80]),
      frame(1, 3, 0, 0, [0xc0]),
      frame(1, 0, 0, 0, [0xda]),
      frame(1, 0, 0, 0, [0xd4, 0x46, 0]),
      frame(2, 1, 0, 7, [0xc0]),
      frame(5, 1, 0, 0),
      frame(6, 0, 0, 5, [1])
    ])
    this.unlawful = this.monitor.off = true
    const peer = this.ends[other(end.side)]
    const count = random.chance(0.5) ? bytes[5]! : random.integer(0, 5)
    const references = Array.from({ length: count }, (_, index) => ({ object: -index - 1, received: false }))
    if (!peer.socket.ended) peer.socket.put(bytes, references)
  }

  // --- what must hold

  /** Nobody has closed: all that was sent has arrived and is answered. */
  #allDone(): void {
    if (this.problems.length > 0) return
    for (const end of [this.ends.left, this.ends.right]) {
      if (end.over) this.problem(`${end.side} is over: ${sessionOf(end.channel).error}`)
      const { limits } = end
      // Everything was consumed, but what was claimed and closed may be held back in part
      const credit = this.monitor.credit(other(end.side))
      if (credit * 2 < limits.window && (limits.window - credit) * 8 >= limits.window)
        this.problem(`${end.side} keeps credit back: ${credit} of ${limits.window}`)
      if (this.monitor[end.side].requests.size > 0) this.problem(`${end.side}: requests have no answer`)
      const { attachedAt } = this.monitor[end.side]
      if (this.monitor[other(end.side)].taken !== attachedAt.length)
        this.problem(`${end.side}: ${attachedAt.length} were sent, ${this.monitor[other(end.side)].taken} taken`)
    }
    for (const post of this.#all) {
      if (!this.posts.has(post.serial) || post.kind === 'reply') continue
      const refused = post.error !== undefined
      if (post.kind === 'message' && !post.delivered && !refused && this.ends[post.from].listensReturned)
        this.problem(`${post.serial} never came`)
      if (post.kind === 'request' && post.outcome === undefined) this.problem(`${post.serial} has no outcome`)
      if (post.outcome === 'ERR_PASSFD_CLOSED') this.problem(`${post.serial} was not answered`)
    }
    this.#nothingPending(({ label }) => !/closed|next\(\)/.test(label))
  }

  async #finish(): Promise<void> {
    const { left, right } = this.ends
    const errors = [left, right].map(end => sessionOf(end.channel).error)
    for (const [index, end] of [left, right].entries()) {
      if (this.problems.length > 0 || end.dead) continue
      if (!end.over) this.problem(`${end.side} does not end (${sessionOf(end.channel).state})`)
      const code = (errors[index] as { code?: string } | undefined)?.code
      // Last words before the other's hello was heard may be longer than it takes
      if (code === 'ERR_PASSFD_FRAME_TOO_LARGE' && this.broken && end.limits.maxMessage < 1024) continue
      if (code === LOST && this.#all.some(({ from, spoilt }) => from === end.side && spoilt.has(LOST))) continue
      if (code !== undefined && (!this.broken || (PROTOCOL_ERRORS.test(code) && !this.unlawful)))
        this.problem(`${end.side} ended with ${errors[index]}`)
    }
    const graceful = errors[0] === undefined && errors[1] === undefined && !this.broken
    if (this.problems.length === 0)
      for (const post of this.#all) if (this.posts.has(post.serial)) this.#judge(post, graceful)
    for (const end of [left, right]) {
      end.closing = true
      end.channel.destroy() // closes what nobody has read
      end.cleanUp()
    }
    while (this.#driving().length > 0 && this.problems.length === 0) await this.#step(this.#driving())
    for (const end of [left, right]) end.cleanUp()
    while (this.#driving().length > 0 && this.problems.length === 0) await this.#step(this.#driving())
    if (this.problems.length > 0) return
    this.#nothingPending(({ end }) => !end.dead)
    if (!left.dead && !right.dead && this.clock.waiting > 0) this.problem('timers are left')
    for (const line of this.ledger.rest) this.problem(`left open: ${line}`)
  }

  /** What became of one post, once all is over. */
  #judge(post: Post, graceful: boolean): void {
    const end = this.ends[post.from]
    if (end.dead) return
    const { serial, returned, delivered, fds, kind } = post
    const holders = fds.filter(fd => this.ledger.refusal(fd) !== EBADF).map(fd => this.ledger.holder(fd))
    if (returned === undefined && end.listensReturned) {
      if (holders.some(holder => holder !== 'closed'))
        this.problem(`${serial} is neither taken nor returned: ${holders}`)
      // What a handler returned and can't be sent is simply closed
      const taken = fds.every(fd => this.ledger.received(fd))
      if (!taken && !(post.given && fds.every(fd => !this.ledger.left(fd))))
        this.problem(`${serial} was closed, neither taken nor returned`)
    }
    if (delivered && (post.spoilt.has('EINVAL') || post.spoilt.has('EBADF')))
      this.problem(`${serial} was delivered, though the kernel refuses it`)
    if (returned === 'unsent' && delivered) this.problem(`${serial} was delivered, and returned as unsent`)
    if (returned === 'refused' && delivered) this.problem(`${serial} was delivered, and returned as refused`)
    if (!graceful) return
    if (fds.length > 0 && returned === undefined && !delivered && end.listensReturned && !post.given) {
      const asked = post.answers
      if (kind === 'message') this.problem(`${serial} was taken and never delivered`)
      // Given up while the other side could still be told
      if (asked?.gaveUpIn === 'open' && asked.outcome !== 'ERR_PASSFD_CLOSED')
        this.problem(`${serial} was taken, though nobody wanted it any more`)
    }
    if (returned === 'unconfirmed' && delivered) this.problem(`${serial} was delivered and not confirmed`)
    if (kind === 'request' && delivered && post.outcome === 'ERR_PASSFD_CLOSED')
      this.problem(`${serial} was delivered and never answered`)
  }

  #nothingPending(counts: (pending: Pending) => boolean): void {
    for (const pending of this.#pending) if (counts(pending)) this.problem(`never settled: ${pending.label}`)
  }

  #end(side: Side): End {
    const options = this.settings.options[side]
    const limits: Limits = channelLimits(options)
    const schema = this.random.chance(0.3) ? { schema: this.#schema(() => end) } : {}
    const end = new End(this, side, this.sockets[side], withUnclaimed(limits, limits.maxUnclaimed), schema)
    if (!this.random.chance(0.1)) end.hearReturned()
    return end
  }

  /** Settles now or later, and refuses what is marked. */
  #schema(end: () => End): Schema<any> {
    const judge = (value: unknown): { value: unknown } | { issues: { message: string }[] } =>
      (value as Body).bad ? { issues: [{ message: 'bad' }] } : { value }
    const validate = (value: unknown) =>
      this.random.chance(0.5)
        ? judge(value)
        : new Promise<any>(resolve => end().later('schema settles', () => resolve(judge(value))))
    return { '~standard': { version: 1, vendor: 'model', validate } } as Schema<any>
  }
}

interface Action {
  weight: number
  label: string
  run(): void
}

/** A value with its descriptors in it, and a payload that tells by itself whether it is whole. */
export function makeValue(
  world: World,
  end: End,
  kind: Post['kind'],
  descriptors: readonly Descriptor[],
  answers: Post | undefined
): Post {
  const { random, ledger, settings } = world
  const serial = ++world.serial
  const fds = descriptors.map(descriptor => descriptor.borrow())
  const size = random.chance(0.5) ? random.integer(0, 40) : random.magnitude(1, settings.bytes)
  const type = random.weighted([
    [4, 'none'],
    [3, 'text'],
    [3, 'bytes'],
    [1, 'floats']
  ])
  const content: Record<string, () => unknown> = {
    none: () => null,
    text: () => String.fromCharCode(97 + (serial % 26)).repeat(size),
    bytes: () => Buffer.alloc(size, serial),
    floats: () => new Float64Array(size >>> 3).fill(serial)
  }
  const v = content[type]!()
  const spoilt = new Set(fds.flatMap(fd => ({ [EBADF]: 'EBADF', [EINVAL]: 'EINVAL' })[ledger.refusal(fd)] ?? []))
  const keys = random.chance(0.4) ? random.integer(1, 40) : 1
  const value: Body = {
    n: serial,
    k: kind,
    f: descriptors.map((d, index) => ({ d, o: ledger.object(fds[index]!) })),
    p: { t: type, l: type === 'none' ? 0 : type === 'floats' ? size >>> 3 : size, v },
    x: { [`key${keys}`]: serial }
  }
  const post: Post = {
    serial,
    from: end.side,
    kind,
    value,
    descriptors,
    fds,
    answers,
    binary: type === 'bytes' && size >= 65536 ? (v as Buffer) : undefined,
    late: false,
    early: false,
    delivered: false,
    returned: undefined,
    aborted: false,
    given: false,
    spoilt,
    error: undefined,
    timeout: 0,
    outcome: undefined,
    gaveUpIn: undefined
  }
  world.register(post)
  return post
}

/** The payload is what it says it is. */
export function checkPayload(body: Body, post: Post, problem: (text: string) => void): void {
  const { t, l, v } = body.p
  const whole: Record<string, () => boolean> = {
    none: () => v === null,
    text: () => v === String.fromCharCode(97 + (post.serial % 26)).repeat(l),
    bytes: () => v instanceof Uint8Array && v.length === l && v.every(byte => byte === (post.serial & 255)),
    // A peer without records gets plain bytes
    floats: () => {
      const floats = v instanceof Float64Array ? v : new Float64Array(Uint8Array.from(v as Uint8Array).buffer)
      return floats.length === l && floats.every(float => float === post.serial)
    }
  }
  if (body.k !== post.kind || body.n !== post.serial || !whole[t]!()) problem(`${post.serial} arrives spoilt`)
  if (Object.values(body.x)[0] !== post.serial) problem(`${post.serial} has fields of another`)
}

function settingsFor(random: Random): Settings {
  const profile = random.weighted<Profile>([
    [2, 'calm'],
    [3, 'closing'],
    [1, 'hasty'],
    [3, 'rough']
  ])
  const capacity = random.magnitude(16, 300_000)
  const options = (): ChannelOptions<any> => ({
    window: random.chance(0.5) ? random.magnitude(1, 4 << 20) : random.magnitude(1, 2000),
    maxUnclaimed: random.magnitude(1, 1024),
    maxPending: random.chance(0.5) ? random.integer(1, 4) : 1024,
    maxInFlight: random.chance(0.3) ? random.integer(1, 20) : 4096,
    maxDescriptors: random.chance(0.2) ? random.integer(0, 5) : 253,
    maxMessage: random.chance(0.2) ? random.magnitude(60, 5000) : 2 << 20,
    maxQueued: random.chance(0.2) ? random.magnitude(200, 100_000) : 64 << 20,
    highWaterMark: random.chance(0.5) ? random.magnitude(1, 5000) : 262_144,
    records: random.chance(0.7),
    ...(profile === 'hasty'
      ? {
          handshakeTimeout: random.integer(0, 100),
          closeTimeout: random.integer(1, 100),
          frameTimeout: random.integer(0, 100)
        }
      : {})
  })
  return {
    profile,
    steps: random.magnitude(10, 250),
    capacity,
    bytes: Math.min(capacity * 10, random.chance(0.1) ? 200_000 : 3000),
    bulky: random.chance(0.15),
    refused: random.pick([0, 0.05, 0.3]),
    options: { left: options(), right: options() }
  }
}

export interface Run {
  problems: string[]
  log: string[]
  settings: Settings
  /** Messages that came back with an error. */
  refused: number
  /** Frames of definitions that were written in place of some of them. */
  definitions: number
}

/** One run. Returns what is wrong, with what happened before it. */
export async function runModel(seed: number): Promise<Run> {
  const random = new Random(seed)
  const settings = settingsFor(random)
  const world = new World(settings, random)
  const uninstall = world.ledger.install()
  const onRejection = (reason: unknown): void => world.problem(`unhandled rejection: ${reason}`)
  const onException = (error: Error): void => world.problem(`uncaught: ${error.stack}`)
  process.on('unhandledRejection', onRejection)
  process.on('uncaughtException', onException)
  world.clock.install()
  try {
    await world.run()
  } catch (error) {
    world.problem(`the model itself failed: ${(error as Error).stack}`)
  } finally {
    world.clock.uninstall()
    uninstall()
    process.off('unhandledRejection', onRejection)
    process.off('uncaughtException', onException)
  }
  const { log, definitions } = world.monitor
  return { problems: world.problems, log, settings, refused: world.refused, definitions }
}
