/**
 * Many live connections, between two programs with one channel. The channel is the real one, over the kernel in memory, which decides when its messages go on;
 * the connections are real sockets, because `take()`, `toSocket()` and `injectInto()` are about those of Node. Every byte that a client has written is read
 * once and in order, by whoever has the connection then.
 */
import { readdirSync, readlinkSync, readSync, writeSync } from 'node:fs'
import net, { Socket } from 'node:net'
import fc from 'fast-check'
import type { Channel } from '../../src/channel/channel.ts'
import { connect } from '../../src/channel/connect.ts'
import type { Message } from '../../src/channel/message.ts'
import type { ChannelOptions } from '../../src/channel/options.ts'
import type { Returned } from '../../src/channel/returned.ts'
import { Connection } from '../../src/connection/connection.ts'
import { own } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'
import { Random } from '../../test/helpers/random.ts'
import type { Model, Move, Verdict } from './explore.ts'
import { type Kernel, onKernel, type Process, turn } from './kernel.ts'

const MOVES = {
  run: 50,
  open: 8,
  clientWrites: 12,
  programWrites: 6,
  programReads: 10,
  clientReads: 6,
  clientEnds: 2,
  clientCloses: 1,
  take: 14,
  abort: 3,
  send: 14,
  request: 8,
  convert: 8,
  close: 3,
  claim: 2,
  loop: 6,
  slow: 2,
  fast: 1,
  tick: 2,
  endChannel: 1,
  cut: 1
}

interface Settings {
  readonly maxInFlight: number
  readonly maxUnclaimed: number
  readonly window: number
  /** Whether the programs listen for 'returned'. */
  readonly hears: boolean
  readonly seed: number
}

/** What may be refused. Then nothing has moved. */
const REFUSALS = [
  'ERR_PASSFD_CHANNEL_CLOSED',
  'ERR_PASSFD_QUEUE_FULL',
  'ERR_PASSFD_TOO_MANY_DESCRIPTORS',
  'ERR_PASSFD_TOO_MANY_REQUESTS',
  'ERR_PASSFD_MESSAGE_TOO_LARGE'
]
/** What the program does with a connection that arrives. */
const POLICIES = ['keep', 'keep', 'socket', 'inject', 'ignore', 'throw', 'back'] as const
type Policy = (typeof POLICIES)[number]

export const connections: Model<Settings> = {
  name: 'connections',
  moves: MOVES,
  most: 80,
  settings: fc.record({
    maxInFlight: fc.constantFrom(4096, 4096, 2),
    maxUnclaimed: fc.constantFrom(1024, 1024, 2),
    window: fc.constantFrom(4 << 20, 4 << 20, 2000),
    hears: fc.boolean(),
    seed: fc.nat()
  }),
  run: (settings, schedule) => onKernel(kernel => new World(kernel, settings).run(schedule))
}

interface Side {
  readonly process: Process
  readonly channel: Channel
  readonly server: net.Server
}

/** One connection: its client, and the one of all objects for its other end that may be used. */
class Live {
  readonly id: number
  readonly client: number
  /** Where it is. `channel`: moved, and not yet arrived or returned. `taking`: a `take()` has not settled. */
  at: 'socket' | 'taking' | 'connection' | 'channel' | 'closed' = 'socket'
  side: Side
  socket: Socket | undefined
  connection: Connection | undefined
  taking: AbortController | undefined
  /** Bytes: each is the number of those before it. */
  written = 0
  read = 0
  answered = 0
  heard = 0
  /** The client has closed its end, or half of it; and what it has seen of the other end. */
  clientOpen = true
  clientWrites = true
  sawEnd = false
  /** A copy came back by 'returned' that the peer may have, too. */
  ambiguous = false
  /** All objects that have stood for it. */
  readonly sockets = new Set<Socket>()
  readonly connections = new Set<Connection>()

  constructor(id: number, client: number, side: Side) {
    this.id = id
    this.client = client
    this.side = side
  }
}

class World {
  readonly kernel: Kernel
  readonly settings: Settings
  readonly random: Random
  readonly lives: Live[] = []
  #sides!: [Side, Side]
  readonly #before = openSockets()

  constructor(kernel: Kernel, settings: Settings) {
    this.kernel = kernel
    this.settings = settings
    this.random = new Random(settings.seed)
  }

  async run(schedule: readonly Move[]): Promise<Verdict> {
    const { kernel } = this
    const onRejection = (error: unknown): void =>
      kernel.problem(`unhandled rejection: ${(error as Error)?.stack ?? error}`)
    process.on('unhandledRejection', onRejection)
    try {
      await this.#begin()
      for (const move of schedule) {
        if (kernel.problems.length > 0) break
        await this.#move(move)
        this.#check()
      }
      if (kernel.problems.length === 0) await this.#rest()
    } finally {
      for (const live of this.lives) {
        if (live.clientOpen) this.#closeClient(live)
        for (const socket of live.sockets) socket.destroy()
        for (const connection of live.connections) connection[Symbol.dispose]()
      }
      for (const { server } of this.#sides ?? []) server.close()
      for (let turns = 0; turns < 4; turns++) await turn()
      if (kernel.problems.length > 0) for (const fd of this.#left()) closeAll(fd)
      process.off('unhandledRejection', onRejection)
    }
    return { problems: kernel.problems, log: kernel.log }
  }

  async #begin(): Promise<void> {
    const { kernel } = this
    const { maxInFlight, maxUnclaimed, window } = this.settings
    const options = {
      maxInFlight,
      maxUnclaimed,
      window,
      authorize: () => true,
      closeTimeout: 2000
    } satisfies ChannelOptions
    const processes = [kernel.process('left'), kernel.process('right')] as const
    const ends = kernel.pairFor(...processes)
    const opening = ends.map((fd, at) => kernel.run(processes[at]!, () => connect(own(fd), options)))
    const channels = Promise.all(opening)
    let ready = false
    void channels.then(() => {
      ready = true
    })
    await kernel.drain()
    await kernel.settle(10_000, () => ready)
    const [left, right] = await channels
    this.#sides = [left!, right!].map((channel, at) => ({
      process: processes[at]!,
      channel,
      server: net.createServer({ pauseOnConnect: true })
    })) as [Side, Side]
    for (const side of this.#sides) kernel.run(side.process, () => this.#serve(side))
  }

  #serve(side: Side): void {
    side.channel.serve(message => this.#arrive(side, message), { onError: () => {} })
    if (this.settings.hears) side.channel.on('returned', returned => this.#back(side, returned))
  }

  // --- what the schedule does

  async #move({ do: what, n }: Move): Promise<void> {
    const { kernel } = this
    const which = (at?: Live['at']): Live | undefined => {
      const some = this.lives.filter(live => at === undefined || live.at === at)
      return some[n % Math.max(1, some.length)]
    }
    if (what !== 'run') kernel.note(`- ${what} ${n}`)
    if (what === 'run') await kernel.step(n)
    else if (what === 'open') this.#open(this.#sides[n % 2]!)
    else if (what === 'loop') await turn()
    else if (what === 'tick') kernel.tick(5000)
    else if (what === 'slow') kernel.accepts = bytes => this.random.integer(0, bytes)
    else if (what === 'fast') kernel.accepts = bytes => bytes
    else if (what === 'clientWrites') this.#clientWrites(which(), 1 + (n % 50))
    else if (what === 'clientReads') this.#clientReads(which())
    else if (what === 'clientEnds') this.#clientEnds(which())
    else if (what === 'clientCloses') this.#closeClient(which())
    else if (what === 'programReads') this.#programReads(which('socket'), n)
    else if (what === 'programWrites') this.#programWrites(which('socket'), 1 + (n % 50))
    else if (what === 'take') this.#take(which('socket'), n)
    else if (what === 'abort') which('taking')?.taking?.abort()
    else if (what === 'send' || what === 'request') this.#send(which('connection'), what, n)
    else if (what === 'convert') this.#convert(which('connection'), n % 2 === 0)
    else if (what === 'close') this.#close(which(n % 3 === 0 ? 'socket' : 'connection'))
    else if (what === 'claim') which('connection')?.connection?.claim()
    else if (n % 4 === 0 && what === 'endChannel') this.#endChannel(this.#sides[n % 2]!, n)
    else if (n % 4 === 0 && what === 'cut') kernel.cut(kernel.streams(this.#sides[n % 2]!.process)[0] ?? -1)
    await kernel.drain()
  }

  #open(side: Side): void {
    const numbers = new Int32Array(2)
    if (this.kernel.outside(() => native.socketpair(1, numbers)) < 0) throw new Error('no socketpair')
    const live = new Live(this.lives.length, numbers[0]!, side)
    native.nonblocking(numbers[0]!, true)
    native.release(numbers[0]!)
    native.release(numbers[1]!)
    this.lives.push(live)
    this.#hasSocket(live, side, new Socket({ fd: numbers[1]!, allowHalfOpen: true }))
  }

  #hasSocket(live: Live, side: Side, socket: Socket): void {
    Object.assign(live, { at: 'socket', side, socket, connection: undefined })
    live.sockets.add(socket)
    socket.on('error', () => {})
    socket.on('readable', () => {})
  }

  #hasConnection(live: Live, side: Side, connection: Connection): void {
    Object.assign(live, { at: 'connection', side, connection, socket: undefined })
    live.connections.add(connection)
  }

  #clientWrites(live: Live | undefined, count: number): void {
    if (live === undefined || !live.clientOpen || !live.clientWrites) return
    try {
      live.written += writeSync(live.client, sequence(live.written, count))
    } catch (error) {
      this.#atClient(live, error as NodeJS.ErrnoException)
    }
  }

  #clientReads(live: Live | undefined): void {
    if (live === undefined || !live.clientOpen) return
    const room = Buffer.alloc(4096)
    try {
      for (;;) {
        const count = readSync(live.client, room, 0, room.length, null)
        if (count === 0) {
          live.sawEnd = true
          return
        }
        live.heard = this.#verify(live, 'the client reads', room.subarray(0, count), live.heard, live.answered)
      }
    } catch (error) {
      this.#atClient(live, error as NodeJS.ErrnoException)
    }
  }

  /** The client sees that the other end is closed. */
  #atClient(live: Live, { code }: NodeJS.ErrnoException): void {
    if (code === 'EPIPE' || code === 'ECONNRESET') live.sawEnd = true
    else if (code !== 'EAGAIN') this.kernel.problem(`the client of ${live.id} meets ${code}`)
  }

  #clientEnds(live: Live | undefined): void {
    if (live?.clientOpen !== true) return
    live.clientWrites = false
    native.shutdown(live.client, 1)
  }

  #closeClient(live: Live | undefined): void {
    if (live?.clientOpen !== true) return
    live.clientOpen = false
    native.hold(live.client)
    native.close(live.client)
  }

  #programReads(live: Live | undefined, n: number): void {
    const available = live?.socket?.readableLength ?? 0
    if (live === undefined || available === 0) return
    const bytes = live.socket!.read(1 + (n % available)) as Buffer | null
    if (bytes !== null) live.read = this.#verify(live, 'the program reads', bytes, live.read, live.written)
  }

  #programWrites(live: Live | undefined, count: number): void {
    const socket = live?.socket
    if (live === undefined || socket === undefined || socket.destroyed || !socket.writable) return
    socket.write(sequence(live.answered, count))
    live.answered += count
  }

  #verify(live: Live, what: string, bytes: Uint8Array, from: number, most: number): number {
    if (!sequence(from, bytes.length).equals(bytes))
      this.kernel.problem(`${what} bytes of ${live.id} that are not the next ones`)
    if (from + bytes.length > most) this.kernel.problem(`${what} more bytes of ${live.id} than were written`)
    return from + bytes.length
  }

  #take(live: Live | undefined, n: number): void {
    const socket = live?.socket
    if (live === undefined || socket === undefined || socket.destroyed) return
    const { side } = live
    const controller = new AbortController()
    const { kernel } = this
    // Some of what the program has read it has not used
    const head =
      n % 3 === 0 && socket.readableLength > 0 ? (socket.read(1 + (n % socket.readableLength)) as Buffer) : undefined
    let taking: Promise<Connection>
    try {
      taking = kernel.run(side.process, () =>
        Connection.take(socket, { signal: controller.signal, ...(head === undefined ? {} : { head }) })
      )
    } catch (error) {
      if (head !== undefined) socket.unshift(head)
      if ((error as NodeJS.ErrnoException).code !== 'ERR_PASSFD_CONNECTION_SOURCE')
        kernel.problem(`take() of ${live.id} throws ${error}`)
      return
    }
    live.at = 'taking'
    live.taking = controller
    taking.then(
      connection => {
        kernel.note(`${live.id} is taken`)
        this.#hasConnection(live, side, connection)
      },
      error => {
        kernel.note(`${live.id} is not taken: ${error.code ?? error.name}`)
        live.at = 'socket'
        if (error.name === 'AbortError') {
          if (socket.destroyed) kernel.problem(`${live.id} is lost by an aborted take()`)
          if (head !== undefined) socket.unshift(head)
        } else if (head !== undefined) socket.destroy()
      }
    )
  }

  #send(live: Live | undefined, how: 'send' | 'request', n: number): void {
    const connection = live?.connection
    if (live === undefined || connection === undefined || connection.closed) return
    const { side } = live
    const policies = how === 'request' ? POLICIES : POLICIES.filter(one => one !== 'back')
    const value = { id: live.id, policy: policies[n % policies.length]!, connection }
    live.at = 'channel'
    live.connection = undefined
    try {
      this.kernel.run(side.process, () => {
        if (how === 'send') void side.channel.send(value)
        else this.#request(side, live, value)
      })
    } catch (error) {
      live.at = 'connection'
      live.connection = connection
      if (!REFUSALS.includes((error as NodeJS.ErrnoException).code ?? ''))
        this.kernel.problem(`${how}() of ${live.id} throws ${error}`)
      else if (connection.closed) this.kernel.problem(`${how}() of ${live.id} is refused, and has moved it`)
    }
  }

  #request(side: Side, live: Live, value: unknown): void {
    side.channel.request(value, { timeout: this.random.chance(0.2) ? 100 : 0 }).then(
      answer => {
        const { connection } = (answer ?? {}) as { connection?: Connection }
        if (connection === undefined) return
        if (live.at !== 'channel' && !live.ambiguous) this.kernel.problem(`${live.id} comes back, and is ${live.at}`)
        if (live.at === 'channel') this.#hasConnection(live, side, connection)
        else connection.close()
      },
      () => {}
    )
  }

  #convert(live: Live | undefined, injects: boolean): void {
    const connection = live?.connection
    if (live === undefined || connection === undefined || connection.closed) return
    const { side } = live
    try {
      const socket = injects
        ? this.kernel.outside(() => connection.injectInto(side.server))
        : connection.toSocket({ allowHalfOpen: true })
      this.#hasSocket(live, side, socket)
    } catch (error) {
      this.kernel.problem(`${live.id} can't be converted: ${error}`)
    }
  }

  #close(live: Live | undefined): void {
    if (live === undefined) return
    if (live.at === 'socket') live.socket!.destroy()
    else if (live.at === 'connection' && !live.connection!.closed)
      this.kernel.run(live.side.process, () => live.connection!.close())
    else return
    live.at = 'closed'
    live.socket = live.connection = undefined
  }

  #endChannel(side: Side, n: number): void {
    this.kernel.run(side.process, () => {
      if (n % 8 === 0) side.channel.destroy()
      else void side.channel.close()
    })
  }

  // --- what the programs do

  #arrive(side: Side, message: Message): unknown {
    const { id, policy, connection } = message.value as { id: number; policy: Policy; connection: Connection }
    const live = this.lives[id]!
    this.kernel.note(`${id} arrives: ${policy}`)
    live.connections.add(connection)
    if (live.at !== 'channel' || live.side === side) {
      if (!live.ambiguous) this.kernel.problem(`${id} arrives, and is ${live.at}`)
      return undefined // the program that has it back goes on with it
    }
    if (policy === 'throw' || policy === 'ignore') {
      live.at = 'closed' // by the channel
      if (policy === 'throw') throw new Error('the program does not want it')
      return undefined
    }
    if (policy === 'back') {
      live.side = side
      return { connection }
    }
    if (policy === 'keep') {
      connection.claim()
      Object.assign(live, { at: 'connection', side, connection })
    } else {
      Object.assign(live, { at: 'connection', side, connection })
      this.#convert(live, policy === 'inject')
    }
    return undefined
  }

  #back(side: Side, returned: Returned): void {
    const { id, connection } = returned.value as { id?: number; connection: Connection }
    const live = this.lives.find(one => one.id === id || one.connections.has(connection))
    if (live === undefined) {
      this.kernel.problem('something comes back that nobody has sent')
      return
    }
    this.kernel.note(`${live.id} comes back: ${returned.state}`)
    if (returned.state === 'unconfirmed') live.ambiguous = true
    if (live.at !== 'channel') {
      if (!live.ambiguous) this.kernel.problem(`${live.id} comes back, and is ${live.at}`)
      return
    }
    returned.claim()
    this.#hasConnection(live, side, connection)
  }

  // --- what must hold

  #check(): void {
    const { kernel } = this
    for (const live of this.lives) {
      const { id, at, connection, socket, connections, sockets, ambiguous } = live
      this.#clientReads(live)
      if (at === 'connection' && connection!.closed) kernel.problem(`${id} is the program's, and closed`)
      const open = [...[...connections].filter(one => !one.closed), ...[...sockets].filter(one => !one.destroyed)]
      const lent = at === 'channel' || at === 'closed' // until a scope is over
      if (open.length > (ambiguous || lent ? 2 : 1)) kernel.problem(`${id} has ${open.length} owners`)
      const alive =
        at === 'connection' || at === 'taking' || (at === 'socket' && !socket!.destroyed && socket!.writable)
      if (live.sawEnd && live.clientOpen && alive && !(socket?.errored ?? false))
        kernel.problem(`${id} is ${at}, and its client sees the end`)
    }
  }

  /** When all messages have arrived: each connection has an owner who can use it, or is closed. */
  async #rest(): Promise<void> {
    const { kernel } = this
    kernel.note('- rest')
    kernel.accepts = bytes => bytes
    await kernel.settle(20_000, () => this.lives.every(({ at }) => at !== 'channel' && at !== 'taking'))
    for (let turns = 0; turns < 3; turns++) await turn()
    await kernel.settle(20_000, () => true)
    this.#check()
    for (const live of this.lives) await this.#restOf(live)
    if (kernel.problems.length > 0) return
    for (const live of this.lives) this.#closeClient(live)
    for (const { process, channel, server } of this.#sides) {
      kernel.run(process, () => channel.destroy())
      server.close()
    }
    await kernel.drain()
    await kernel.settle(20_000)
    for (let turns = 0; turns < 4; turns++) await turn()
    const left = this.#left()
    if (left.length > 0) kernel.problem(`${left.length} sockets are left open`)
    for (const { process } of this.#sides)
      if (process.numbers.size > 0) kernel.problem(`${process.name} has ${kernel.held(process)}`)
  }

  async #restOf(live: Live): Promise<void> {
    const { kernel } = this
    const { id, side } = live
    if (live.at === 'taking') {
      live.taking!.abort()
      await kernel.drain()
    }
    if (live.at === 'channel') {
      // It was sent into a channel that has ended, and nobody listened: passfd has closed it
      live.at = 'closed'
      if (this.settings.hears && !this.#isOver) kernel.problem(`${id} neither arrives nor comes back`)
    }
    if (live.at === 'connection') this.#convert(live, false)
    const { socket } = live
    if (live.at === 'socket' && socket !== undefined && !socket.destroyed) {
      for (let turns = 0; turns < 200 && live.read < live.written && !socket.destroyed; turns++) {
        await turn()
        this.#programReads(live, live.socket!.readableLength - 1)
      }
      if (live.read < live.written && !socket.destroyed && live.clientOpen)
        kernel.problem(`${live.written - live.read} bytes of ${id} do not arrive`)
      socket.destroy()
      await turn()
      this.#clientReads(live)
    }
    for (let turns = 0; turns < 20 && live.clientOpen && !live.sawEnd; turns++) {
      await turn()
      this.#clientReads(live)
    }
    if (live.clientOpen && !live.sawEnd)
      kernel.problem(`${id} is ${live.at} in ${side.process.name}, and somebody has it open`)
  }

  #left(): number[] {
    return openSockets().filter(fd => !this.#before.includes(fd))
  }

  get #isOver(): boolean {
    return this.#sides.some(({ process }) => process.numbers.size === 0)
  }
}

/** Bytes of which each is the number of those before it. */
function sequence(from: number, count: number): Buffer {
  return Buffer.from(Array.from({ length: count }, (_, at) => (from + at) % 251))
}

/** The sockets of this process: passfd and Node open other things when they need them first. */
function openSockets(): number[] {
  return readdirSync('/proc/self/fd').filter(isSocket).map(Number)
}

/** Closes what a mistake has left open, for each of its owners. */
function closeAll(fd: number): void {
  native.hold(fd)
  while (native.close(fd) >= 0);
}

function isSocket(fd: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')
  } catch {
    return false // that of the folder itself
  }
}
