/**
 * A kernel in memory, under the real code of passfd: processes, sockets, pipes, listeners, descriptors, a clock. The shim's functions act on it for
 * numbers that it has made, and for what a process of it makes. So one thread runs many processes, a schedule decides whose event is next, and a
 * killed process loses its descriptors in the middle of any step, as by SIGKILL.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers'
import timersPromises from 'node:timers/promises'
import {
  EAFNOSUPPORT,
  EAGAIN,
  EBADF,
  ECONNREFUSED,
  ECONNRESET,
  EINVAL,
  EMFILE,
  ENOENT,
  EPIPE
} from '../../src/base/errno.ts'
import { KINDS, type Kind } from '../../src/descriptor/kind.ts'
import { AREA, dispatch, HEADROOM, RESULTS } from '../../src/os/loop.ts'
import {
  ADDRESS,
  CLOSED,
  native,
  READABLE,
  RESULT_BYTES,
  RESULT_DESCRIPTORS,
  RESULT_FIRST,
  RESULT_FLAGS,
  TRUNCATED,
  WRITABLE
} from '../../src/os/native.ts'

const ENOTSOCK = -88
/** Far beyond any number of the real kernel, and of its watchers. */
const FIRST = 1_000_000
const ROOM = 16_384
const CAPACITY = 65_536

let nextNumber = FIRST
let nextWatcher = FIRST
let nextPid = 10_000_000

/** What a number stands for: an open file description. */
export interface OpenFile {
  readonly kind: Kind
  /** How many numbers and messages refer to it. */
  references: number
  stream?: Stream
  pipe?: { readonly pipe: Pipe; readonly writes: boolean }
  listener?: Listener
  connection?: Connection
  edges?: Set<Listener>
  /** A file of the real kernel. */
  real?: number
}

interface Piece {
  bytes: Buffer
  passed: Passed[]
}

/** A descriptor in a message. A real one that arrives as such. */
type Passed = { readonly file: OpenFile } | { readonly real: number }

interface Stream {
  /** As its peer sees it (SO_PEERCRED). */
  readonly creator: Process
  peer: OpenFile
  pieces: Piece[]
  unread: number
  error: number
  reads: boolean
  writes: boolean
  closed: boolean
}

interface Pipe {
  bytes: number
  readers: number
  writers: number
}

export interface Listener {
  readonly port: number
  /** The server's ends of connections that wait. */
  readonly queue: OpenFile[]
  /** The process that called listen(2) last, as clients see it. */
  by: Process
  /** Lets no more in. */
  closed: boolean
  shut: boolean
  /** Of the edge-triggered sets: there are connections that they have not reported. */
  news: boolean
}

/** A client's connection: `file` is the server's end of it. */
export interface Connection {
  readonly id: number
  readonly file: OpenFile
  /** Where it waited first. */
  listener: Listener | undefined
  /** The server's end is closed. */
  closed: boolean
}

interface Entry {
  readonly file: OpenFile
  readonly process: Process
  owners: number
}

interface Watch {
  readonly id: number
  readonly fd: number
  readonly file: OpenFile
  readonly process: Process
  readonly reads: boolean
  interest: number
  target: Uint8Array | null
  at: number
  end: number
}

export interface Process {
  readonly name: string
  readonly pid: number
  dead: boolean
  /** By SIGSTOP, or in a loop that never ends. */
  stopped: boolean
  /** The most descriptors that it may have. */
  limit: number
  readonly numbers: Set<number>
  onDeath?: () => void
}

interface Timer {
  readonly process: Process
  readonly order: number
  due: number
  readonly every: number
  delay: number
  action(): void
}

/** What can happen next. */
export interface Event {
  readonly process: Process
  readonly label: string
  run(): unknown
}

const processOf = new AsyncLocalStorage<Process>()
/** As they are without any kernel of memory. */
const real = { ...native }
const {
  setTimeout: realSetTimeout,
  clearTimeout: realClearTimeout,
  setInterval: realSetInterval,
  clearInterval: realClearInterval,
  setImmediate: realSetImmediate
} = globalThis
const { setTimeout: realLater, setImmediate: realTurn } = timersPromises
const realNow = performance.now.bind(performance)

export const turn = (): Promise<void> => new Promise(resolve => void realSetImmediate(resolve))

export class Kernel {
  now = 1000
  readonly problems: string[] = []
  readonly processes: Process[] = []
  /** What is printed of a schedule that has failed. */
  readonly log: string[] = []
  /** How much of `bytes` a stream takes now: 0 is EAGAIN. */
  accepts: (bytes: number) => number = bytes => bytes
  /** Callbacks of setImmediate that processes wait for. */
  immediates = 0
  readonly #entries = new Map<number, Entry>()
  readonly #watches = new Map<number, Watch>()
  readonly #timers = new Set<Timer>()
  readonly #groups = new Map<number, Listener[]>()
  readonly #paths = new Map<string, Listener>()
  /** Numbers that wait to be closed off the loop, and other events of the kernel's. */
  #events: Event[] = []
  #ports = 10_000
  #connections = 0
  #order = 0

  // --- processes

  process(name: string): Process {
    const numbers = new Set<number>()
    const process = { name, pid: nextPid++, dead: false, stopped: false, limit: Number.POSITIVE_INFINITY, numbers }
    this.processes.push(process)
    return process
  }

  /** Calls `action` as the process. */
  run<T>(process: Process, action: () => T): T {
    return processOf.run(process, action)
  }

  /** Calls `action` as nobody of this kernel: what it makes is real. */
  outside<T>(action: () => T): T {
    return processOf.exit(action)
  }

  /** The kernel closes what it held. Code of it that still runs reaches nothing any more. */
  kill(process: Process): void {
    if (process.dead) return
    this.note(`${process.name} is killed`)
    process.dead = true
    for (const watch of this.#watches.values()) if (watch.process === process) this.#watches.delete(watch.id)
    for (const timer of this.#timers) if (timer.process === process) this.#timers.delete(timer)
    this.#events = this.#events.filter(event => event.process !== process)
    for (const number of [...process.numbers]) this.#drop(number)
    process.onDeath?.()
  }

  /** Puts an event among those that can happen. */
  later(process: Process, label: string, run: () => unknown): void {
    this.#events.push({ process, label, run })
  }

  note(line: string): void {
    if (this.log.at(-1) !== line && this.log.length < 5000) this.log.push(line)
  }

  problem(text: string): void {
    if (this.problems.length < 20) this.problems.push(text)
    this.note(`PROBLEM: ${text}`)
  }

  // --- the schedule

  /** All that can happen without time passing. */
  events(): Event[] {
    const events: Event[] = this.#events.filter(({ process }) => runs(process))
    for (const timer of this.#timers)
      if (timer.due <= this.now && runs(timer.process))
        events.push({ process: timer.process, label: `timer of ${timer.process.name}`, run: () => this.#fire(timer) })
    for (const watch of this.#watches.values()) {
      if (!runs(watch.process)) continue
      const ready = this.#ready(watch)
      if (ready !== 0)
        events.push({
          process: watch.process,
          label: `${watch.process.name}: ${watch.file.kind} ${watch.fd}`,
          run: () => this.#wake(watch)
        })
    }
    return events
  }

  /** Lets one event happen, and all that follows of it in its process. Returns false if there was none. */
  async step(which: number): Promise<boolean> {
    const events = this.events()
    if (events.length === 0) return false
    const event = events[which % events.length]!
    this.note(event.label)
    await this.happen(event)
    return true
  }

  async happen(event: Event): Promise<void> {
    const at = this.#events.indexOf(event)
    if (at >= 0) this.#events.splice(at, 1)
    try {
      processOf.run(event.process, () => void event.run())
    } catch (error) {
      // Code of a process that died in this step runs on, without its descriptors
      if (!event.process.dead) throw error
    }
    await this.drain()
  }

  async drain(): Promise<void> {
    do await turn()
    while (this.immediates > 0)
  }

  /** Moves the clock to the next timer of a process that runs, at most so far. Returns false if there is none. */
  tick(most = Number.POSITIVE_INFINITY): boolean {
    const due = this.nextTimer
    if (due === Number.POSITIVE_INFINITY || due > this.now + most) return false
    this.now = Math.max(this.now, due)
    return true
  }

  get nextTimer(): number {
    let due = Number.POSITIVE_INFINITY
    for (const timer of this.#timers) if (runs(timer.process)) due = Math.min(due, timer.due)
    return due
  }

  /** Lets happen what can, for so many ms of the clock, or until nothing can happen and `until` is true. */
  async settle(time: number, until: () => boolean = () => false, most = 20_000): Promise<boolean> {
    const end = this.now + time
    for (let steps = 0; steps < most; steps++) {
      if (await this.step(0)) continue
      if (until()) return true
      if (!this.tick(end - this.now)) return until()
    }
    this.problem('it does not come to rest')
    return false
  }

  // --- what is outside of all processes

  /** A client connects to the port: to one of its lanes. Returns undefined if it is refused. */
  connect(port: number, lane: number): Connection | undefined {
    const group = (this.#groups.get(port) ?? []).filter(one => !one.closed && !one.shut)
    if (group.length === 0) return undefined
    const listener = group[lane % group.length]!
    const id = ++this.#connections
    const file: OpenFile = { kind: 'tcp', references: 1 }
    const connection: Connection = { id, file, listener, closed: false }
    file.connection = connection
    listener.queue.push(file)
    listener.news = true
    return connection
  }

  /** Two connected sockets, as numbers of two processes. */
  pairFor(left: Process, right: Process): [left: number, right: number] {
    const [one, other] = this.#pair(left, right)
    return [this.#give(left, one), this.#give(right, other)]
  }

  /** Binds a path, and listens. Returns undefined if a process listens there. A file that is left over is replaced. */
  bindPath(process: Process, path: string): number | undefined {
    if (this.#paths.get(path)?.shut === false) return undefined
    const listener: Listener = { port: 0, queue: [], by: process, closed: false, shut: false, news: false }
    this.#paths.set(path, listener)
    return this.#give(process, { kind: 'unix-stream-listener', references: 0, listener })
  }

  /** The other end of the connection resets it, as if somebody had cut the wire. */
  cut(fd: number): boolean {
    const stream = this.file(fd)?.stream
    if (stream === undefined || isBroken(stream)) return false
    stream.reads = stream.writes = false
    return true
  }

  /** A client's end of a connection is closed, or not yet. */
  streams(process: Process): number[] {
    return [...process.numbers].filter(fd => this.#entries.get(fd)!.file.stream !== undefined)
  }

  /** A number of the process for the same file. */
  copyTo(process: Process, fd: number): number {
    const entry = this.#entries.get(fd)
    if (entry === undefined) throw new Error(`${fd} is not open`)
    return this.#give(process, entry.file)
  }

  /** The file behind a number; undefined: it is closed. */
  file(fd: number): OpenFile | undefined {
    return this.#entries.get(fd)?.file
  }

  /** The processes that have a number for the file, once for each. */
  holders(file: OpenFile): Process[] {
    return [...this.#entries.values()].filter(entry => entry.file === file).map(({ process }) => process)
  }

  /** Numbers of a process, by kind. */
  held(process: Process): string[] {
    return [...process.numbers].map(number => `${number} ${this.#entries.get(number)!.file.kind}`)
  }

  /** The listener that a number stands for. */
  listenerOf(fd: number): Listener | undefined {
    return this.file(fd)?.listener
  }

  // --- files

  #pair(left: Process, right: Process): [OpenFile, OpenFile] {
    const make = (): OpenFile => ({ kind: 'unix-stream', references: 0 })
    const ends = [make(), make()] as [OpenFile, OpenFile]
    connectStreams(left, ends[0], right, ends[1])
    return ends
  }

  #give(process: Process, file: OpenFile): number {
    const fd = nextNumber++
    file.references++
    this.#entries.set(fd, { file, process, owners: 1 })
    process.numbers.add(fd)
    return fd
  }

  /** Closes a number in the kernel. */
  #drop(fd: number): void {
    const entry = this.#entries.get(fd)
    if (entry === undefined) return
    this.#entries.delete(fd)
    entry.process.numbers.delete(fd)
    this.#forget(entry.file)
  }

  #forget(file: OpenFile): void {
    if (--file.references > 0) return
    const { stream, pipe, listener, connection } = file
    if (stream !== undefined) this.#closeStream(stream)
    else if (pipe !== undefined) pipe.pipe[pipe.writes ? 'writers' : 'readers']--
    else if (listener !== undefined) {
      listener.closed = listener.shut = true
      for (const waiting of listener.queue.splice(0)) this.#forget(waiting)
    } else if (connection !== undefined) connection.closed = true
    else if (file.real !== undefined) real.close(file.real)
  }

  #closeStream(stream: Stream): void {
    stream.closed = true
    stream.reads = stream.writes = false
    if (stream.unread > 0) stream.peer.stream!.error = ECONNRESET
    const pieces = stream.pieces
    stream.pieces = []
    stream.unread = 0
    for (const { passed } of pieces) for (const one of passed) this.#lose(one)
  }

  #lose(passed: Passed): void {
    if ('file' in passed) this.#forget(passed.file)
    else real.close(passed.real)
  }

  /** The entry of a number, for a process that lives and has it. */
  #entry(fd: number): Entry | undefined {
    const entry = this.#entries.get(fd)
    if (entry === undefined) return undefined
    const current = processOf.getStore()
    if (current !== undefined && current !== entry.process && !current.dead)
      this.problem(`${current.name} uses ${fd} of ${entry.process.name}`)
    return current?.dead === true ? undefined : entry
  }

  // --- readiness

  #ready({ file, interest, reads }: Watch): number {
    const { stream, pipe, listener, edges, connection } = file
    let ready = 0
    if (stream !== undefined) {
      if (stream.unread > 0 || stream.error !== 0 || atEnd(stream)) ready |= READABLE
      if (isBroken(stream) || stream.peer.stream!.unread < CAPACITY) ready |= WRITABLE
      if (reads) return ready & (interest | READABLE)
    } else if (pipe !== undefined) {
      if (!pipe.writes && (pipe.pipe.bytes > 0 || pipe.pipe.writers === 0)) ready = READABLE
    } else if (listener !== undefined) {
      if (listener.queue.length > 0 || listener.shut) ready = READABLE
    } else if (edges !== undefined) {
      if ([...edges].some(({ news }) => news)) ready = READABLE
    } else if (connection !== undefined) ready = WRITABLE
    return ready & interest
  }

  #wake(watch: Watch): void {
    let ready = this.#ready(watch)
    if (watch.reads && ready & READABLE) ready |= this.#receive(watch)
    dispatch(watch.id, ready)
  }

  /** As one recvmsg(2): what was written without descriptors merges, and a read ends behind the first ones. */
  #receive(watch: Watch): number {
    const stream = watch.file.stream!
    RESULTS[RESULT_DESCRIPTORS] = RESULTS[RESULT_FLAGS] = 0
    if (stream.unread === 0) {
      RESULTS[RESULT_BYTES] = stream.error
      stream.error = 0
      return READABLE
    }
    const aimed = watch.target === null ? 0 : watch.end - watch.at
    const limit = Math.min(aimed + ROOM, stream.unread)
    let passed: Passed[] = []
    let length = 0
    while (length < limit && passed.length === 0) {
      const piece = stream.pieces[0]!
      const size = Math.min(piece.bytes.length, limit - length)
      const direct = Math.max(0, Math.min(aimed - length, size))
      if (direct > 0) piece.bytes.copy(watch.target!, watch.at + length, 0, direct)
      piece.bytes.copy(AREA, HEADROOM + Math.max(0, length - aimed), direct, size)
      length += size
      ;({ passed } = piece)
      piece.passed = []
      piece.bytes = piece.bytes.subarray(size)
      if (piece.bytes.length === 0) stream.pieces.shift()
    }
    stream.unread -= length
    if (aimed > 0) watch.at += Math.min(length, aimed)
    let count = 0
    for (const one of passed) {
      if (watch.process.numbers.size >= watch.process.limit) {
        RESULTS[RESULT_FLAGS] = TRUNCATED
        this.#lose(one)
        continue
      }
      RESULTS[RESULT_FIRST + count++] = this.#arrive(watch.process, one)
    }
    RESULTS[RESULT_BYTES] = length
    RESULTS[RESULT_DESCRIPTORS] = count
    return READABLE
  }

  #arrive(process: Process, passed: Passed): number {
    if ('real' in passed) return passed.real
    const fd = this.#give(process, passed.file)
    passed.file.references--
    return fd
  }

  #fire(timer: Timer): void {
    if (timer.every > 0) timer.due = this.now + timer.every
    else this.#timers.delete(timer)
    timer.action()
  }

  // --- the shim's functions

  #write(fd: number, bytes: Buffer, numbers: Int32Array, first: number, count: number): number {
    const stream = this.#entry(fd)?.file.stream
    if (stream === undefined) return EBADF
    if (stream.error !== 0) {
      const { error } = stream
      stream.error = 0
      return error
    }
    if (isBroken(stream)) return EPIPE
    const peer = stream.peer.stream!
    const room = Math.min(bytes.length, CAPACITY - peer.unread)
    const accepted = room > 0 ? Math.min(room, this.accepts(room)) : 0
    if (accepted <= 0) return EAGAIN
    const passed: Passed[] = []
    for (let at = first; at < first + count; at++) {
      const number = numbers[at]!
      const one = this.#depart(number)
      if (typeof one === 'number') {
        for (const other of passed) this.#lose(other)
        return one
      }
      passed.push(one)
    }
    peer.pieces.push({ bytes: Buffer.from(bytes.subarray(0, accepted)), passed })
    peer.unread += accepted
    return accepted
  }

  #depart(number: number): Passed | number {
    if (number < FIRST) {
      const copy = real.dup(number)
      if (copy < 0) return copy
      // Memory becomes a file of this kernel, so that it ends with its process. Sockets are for Node, which knows only real ones
      if (KINDS[real.kind(copy)] !== 'memfd') return { real: copy }
      return { file: { kind: 'memfd', references: 1, real: copy } }
    }
    const entry = this.#entry(number)
    if (entry === undefined) return EBADF
    entry.file.references++
    return { file: entry.file }
  }

  /** A new number of the process that calls; undefined if it has too many, or is dead. */
  #open(process: Process, file: OpenFile): number {
    return process.dead || process.numbers.size >= process.limit ? EMFILE : this.#give(process, file)
  }

  #accept(process: Process, listener: Listener): [fd: number, file: OpenFile] {
    const file = listener.queue.shift()!
    if (file.connection !== undefined) file.connection.listener = undefined
    const fd = this.#give(process, file)
    file.references--
    return [fd, file]
  }

  #listen(port: number, by: Process): OpenFile {
    const group = this.#groups.get(port) ?? []
    this.#groups.set(port, group)
    const listener: Listener = { port, queue: [], by, closed: false, shut: false, news: false }
    group.push(listener)
    return { kind: 'tcp-listener', references: 0, listener }
  }

  /** For numbers of this kernel; the real functions are asked for the others. */
  readonly functions: Partial<typeof native> = {
    hold: fd => (this.#entry(fd) === undefined ? EBADF : 0),
    release: fd => {
      const entry = this.#entry(fd)
      if (entry === undefined) return EBADF
      this.problem(`${entry.process.name} releases ${fd}, which nobody here can use`)
      return 0
    },
    close: fd => {
      const entry = this.#entry(fd)
      if (entry === undefined) return this.#unknown(fd)
      if (--entry.owners === 0) this.#drop(fd)
      return 0
    },
    dup: fd => {
      const entry = this.#entry(fd)
      return entry === undefined ? EBADF : this.#open(entry.process, entry.file)
    },
    share: fd => {
      const entry = this.#entry(fd)
      if (entry === undefined) return EBADF
      entry.owners++
      return fd
    },
    separate: fd => {
      const entry = this.#entry(fd)
      if (entry === undefined) return EBADF
      if (entry.owners === 1) return fd
      const copy = this.#open(entry.process, entry.file)
      if (copy >= 0) entry.owners--
      return copy
    },
    listen: fd => {
      const entry = this.#entry(fd)
      if (entry?.file.listener === undefined) return EBADF
      entry.file.listener.by = entry.process
      return 0
    },
    accept: fd => {
      const entry = this.#entry(fd)
      const listener = entry?.file.listener
      if (entry === undefined || listener === undefined) return EBADF
      if (listener.queue.length === 0) return listener.shut ? EINVAL : EAGAIN
      if (entry.process.numbers.size >= entry.process.limit) return EMFILE
      return this.#accept(entry.process, listener)[0]
    },
    connect: (fd, name) => {
      const entry = this.#entry(fd)
      const listener = this.#paths.get(Buffer.from(name).toString())
      if (entry === undefined) return EBADF
      if (listener === undefined) return ENOENT
      if (listener.shut) return ECONNREFUSED
      const file: OpenFile = { kind: 'unix-stream', references: 1 }
      connectStreams(entry.process, entry.file, listener.by, file)
      listener.queue.push(file)
      return 0
    },
    acceptMany: (fd, fds, most, addresses) => {
      const entry = this.#entry(fd)
      const listener = entry?.file.listener
      if (entry === undefined || listener === undefined) return EBADF
      let count = 0
      while (count < most && listener.queue.length > 0) {
        if (entry.process.numbers.size >= entry.process.limit) return count > 0 ? count : EMFILE
        const [number, file] = this.#accept(entry.process, listener)
        if (addresses !== null) {
          const text = `10.0.0.${(file.connection?.id ?? 0) % 256}`
          addresses[count * ADDRESS] = text.length
          Buffer.from(text).copy(addresses, count * ADDRESS + 1)
        }
        fds[count++] = number
      }
      return count === 0 && listener.shut ? EINVAL : count
    },
    closeQueue: fd => {
      const listener = this.#entry(fd)?.file.listener
      if (listener === undefined) return EBADF
      listener.closed = true
      return 0
    },
    handshakes: () => 0,
    queued: fd => this.#entry(fd)?.file.listener?.queue.length ?? EBADF,
    quiet: () => 1000,
    sharePort: () => 0,
    kind: fd => {
      const entry = this.#entry(fd)
      return entry === undefined ? EBADF : KINDS.indexOf(entry.file.kind)
    },
    isPipe: fd => (this.#entry(fd)?.file.pipe === undefined ? 0 : 1),
    peer: (fd, out) => {
      const stream = this.#entry(fd)?.file.stream
      if (stream === undefined) return EBADF
      out[0] = stream.peer.stream!.creator.pid
      out[1] = process.geteuid!()
      out[2] = process.getegid!()
      out[3] = 0
      return 0
    },
    passRights: () => 0,
    sendBuffer: () => 0,
    shutdown: (fd, how) => {
      const file = this.#entry(fd)?.file
      if (file === undefined) return EBADF
      if (file.listener !== undefined) file.listener.shut = true
      if (file.stream === undefined) return 0
      if (how !== 1) file.stream.reads = false
      if (how !== 0) file.stream.writes = false
      return 0
    },
    statusFlags: fd => (this.#entry(fd) === undefined ? EBADF : 2),
    nonblocking: () => 0,
    passCredentials: () => 0,
    passPidfd: () => 0,
    name: () => ENOTSOCK,
    inetName: (fd, _peer, out, text) => {
      const listener = this.#entry(fd)?.file.listener
      if (listener === undefined || listener.port === 0) return EAFNOSUPPORT
      out[0] = 4
      out[1] = listener.port
      return Buffer.from('127.0.0.1').copy(text)
    },
    pending: fd => this.#entry(fd)?.file.stream?.unread ?? 0,
    send: (fd, bytes, start, end, fds, first, count) =>
      this.#write(fd, Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start), fds, first, count),
    sendVector: (fd, chunks, skip, fds, first, count) =>
      this.#write(fd, Buffer.concat(chunks).subarray(skip), fds, first, count),
    readNow: (fd, bytes, start, end) => {
      const pipe = this.#entry(fd)?.file.pipe
      if (pipe === undefined || pipe.writes) return EBADF
      const size = Math.min(end - start, pipe.pipe.bytes)
      if (size === 0) return pipe.pipe.writers === 0 ? 0 : EAGAIN
      bytes.fill(1, start, start + size)
      pipe.pipe.bytes -= size
      return size
    },
    writeNow: (fd, _bytes, start, end) => {
      const pipe = this.#entry(fd)?.file.pipe
      if (pipe === undefined || !pipe.writes) return EBADF
      if (pipe.pipe.readers === 0) return EPIPE
      pipe.pipe.bytes += end - start
      return end - start
    },
    edgeAdd: (set, fd) => {
      const edges = this.#entry(set)?.file.edges
      const listener = this.#entry(fd)?.file.listener
      if (edges === undefined || listener === undefined) return EBADF
      edges.add(listener)
      listener.news ||= listener.queue.length > 0
      return 0
    },
    edgeReady: set => {
      for (const listener of this.#entry(set)?.file.edges ?? []) listener.news = false
      return 0
    },
    map: (fd, size, writable, holder) => {
      const file = this.#entry(fd)?.file
      return file?.real === undefined ? EBADF : real.map(file.real, size, writable, holder)
    },
    seals: fd => real.seals(this.#entry(fd)?.file.real ?? -1),
    watch: (fd, reads) => {
      const entry = this.#entry(fd)
      if (entry === undefined) return EBADF
      const id = nextWatcher++
      const { file, process } = entry
      this.#watches.set(id, { id, fd, file, process, reads, interest: READABLE, target: null, at: 0, end: 0 })
      return id
    }
  }

  readonly watching: Partial<typeof native> = {
    interest: (id, events) => {
      const watch = this.#watches.get(id)
      if (watch !== undefined) watch.interest = events
      return 0
    },
    target: (id, buffer, start, end) => {
      const watch = this.#watches.get(id)
      if (watch !== undefined) Object.assign(watch, { target: buffer, at: start, end })
      return 0
    },
    spin: () => 0,
    unwatch: id => {
      this.#watches.delete(id)
      return 0
    },
    ref: () => {},
    unref: () => {}
  }

  /** What makes numbers, if a process of this kernel calls it. */
  readonly making: Partial<typeof native> = {
    socketpair: (_type, out) => {
      const process = processOf.getStore()!
      if (process.dead || process.numbers.size + 2 > process.limit) return EMFILE
      const [left, right] = this.#pair(process, process)
      out[0] = this.#give(process, left)
      out[1] = this.#give(process, right)
      return 0
    },
    pipe: out => {
      const process = processOf.getStore()!
      if (process.dead || process.numbers.size + 2 > process.limit) return EMFILE
      const pipe: Pipe = { bytes: 0, readers: 1, writers: 1 }
      out[0] = this.#give(process, { kind: 'pipe', references: 0, pipe: { pipe, writes: false } })
      out[1] = this.#give(process, { kind: 'pipe', references: 0, pipe: { pipe, writes: true } })
      return 0
    },
    memfd: (name, size) => (processOf.getStore()!.dead ? EMFILE : real.memfd(name, size)),
    socket: () => this.#open(processOf.getStore()!, { kind: 'unix-stream', references: 0 }),
    bindInet: (_udp, _host, port) => {
      const process = processOf.getStore()!
      return this.#open(process, this.#listen(port === 0 ? this.#ports++ : port, process))
    },
    edgeSet: () => this.#open(processOf.getStore()!, { kind: 'epoll', references: 0, edges: new Set() }),
    limit: () => Math.min(processOf.getStore()!.limit, 1_000_000),
    longestTurn: () => 0,
    pendingCloses: () => 0,
    isReaper: () => 0,
    diagnosis: () => EMFILE
  }

  #unknown(fd: number): number {
    const current = processOf.getStore()
    if (current !== undefined && !current.dead) this.problem(`${current.name} closes ${fd}, which is not open`)
    return EBADF
  }

  closeLater(numbers: readonly number[], tag: number): number {
    const process = this.#entries.get(numbers[0]!)?.process ?? processOf.getStore()
    if (process === undefined || process.dead) return 0
    // They are out of the table at once
    const files: OpenFile[] = []
    for (const fd of numbers) {
      const entry = this.#entry(fd)
      if (entry === undefined) this.#unknown(fd)
      else if (--entry.owners === 0) {
        entry.file.references++
        files.push(entry.file)
        this.#drop(fd)
      }
    }
    for (const file of files) this.#forget(file)
    if (tag > 0)
      this.later(process, `${process.name}: ${numbers.length} closed`, () => {
        RESULTS[RESULT_BYTES] = numbers.length
        dispatch(tag, CLOSED)
      })
    return 0
  }

  // --- the clock

  setTimer(process: Process, action: () => void, delay: number, every: boolean): object {
    const ms = Math.max(1, Math.trunc(Number(delay) || 1))
    const timer: Timer = { process, order: this.#order++, due: this.now + ms, every: every ? ms : 0, delay: ms, action }
    if (!process.dead) this.#timers.add(timer)
    const handle = {
      timer,
      ref: () => handle,
      unref: () => handle,
      hasRef: () => true,
      refresh: () => {
        timer.due = this.now + timer.delay
        if (!process.dead) this.#timers.add(timer)
        return handle
      },
      [Symbol.dispose]: () => void this.#timers.delete(timer)
    }
    return handle
  }

  clearTimer(handle: { timer: Timer }): void {
    this.#timers.delete(handle.timer)
  }

  /** So many numbers are open, and timers set, of all processes. */
  get rest(): { numbers: number; timers: number } {
    return { numbers: this.#entries.size, timers: this.#timers.size }
  }
}

function connectStreams(left: Process, one: OpenFile, right: Process, other: OpenFile): void {
  const state = { unread: 0, error: 0, reads: true, writes: true, closed: false }
  one.stream = { ...state, creator: left, peer: other, pieces: [] }
  other.stream = { ...state, creator: right, peer: one, pieces: [] }
}

function runs({ dead, stopped }: Process): boolean {
  return !dead && !stopped
}

function atEnd({ reads, unread, peer }: Stream): boolean {
  return unread === 0 && (!peer.stream!.writes || !reads)
}

function isBroken({ writes, peer }: Stream): boolean {
  return !writes || !peer.stream!.reads
}

let active: Kernel | undefined

/** The process that runs now. */
export function currentProcess(): Process | undefined {
  return processOf.getStore()
}

/** Runs `body` on a fresh kernel, which is under passfd meanwhile. */
export async function onKernel<T>(body: (kernel: Kernel) => Promise<T>): Promise<T> {
  if (active !== undefined) throw new Error('one kernel at a time')
  const kernel = new Kernel()
  active = kernel
  const restore = install(kernel)
  try {
    return await body(kernel)
  } finally {
    for (const process of kernel.processes) {
      delete process.onDeath
      kernel.kill(process)
    }
    await turn()
    restore()
    active = undefined
  }
}

function install(kernel: Kernel): () => void {
  const replaced = native as unknown as Record<string, (...args: any[]) => unknown>
  const before = { ...replaced }
  const choose =
    (whose: Partial<typeof native>, name: string, own: (first: unknown) => boolean) =>
    (...args: any[]): unknown =>
      own(args[0]) ? (whose as typeof before)[name]!(...args) : before[name]!(...args)
  for (const name of Object.keys(kernel.functions))
    replaced[name] = choose(kernel.functions, name, first => (first as number) >= FIRST)
  for (const name of Object.keys(kernel.watching))
    replaced[name] = choose(kernel.watching, name, first => (first as number) >= FIRST)
  for (const name of Object.keys(kernel.making))
    replaced[name] = choose(kernel.making, name, () => processOf.getStore() !== undefined)
  const ownOnes = (fds: Int32Array, start: number, count: number): number[] =>
    Array.from(fds.subarray(start, start + count)).filter(fd => fd >= FIRST)
  const others = (fds: Int32Array, start: number, count: number): Int32Array =>
    Int32Array.from(fds.subarray(start, start + count)).filter(fd => fd < FIRST)
  native.closeMany = (fds, start, count) => {
    const rest = others(fds, start, count)
    for (const fd of ownOnes(fds, start, count)) native.close(fd)
    return rest.length > 0 ? real.closeMany(rest, 0, rest.length) + count - rest.length : count
  }
  native.closeLater = (fds, start, count, tag) => {
    const mine = ownOnes(fds, start, count)
    const rest = others(fds, start, count)
    if (rest.length > 0) real.closeMany(rest, 0, rest.length)
    if (mine.length > 0 || (tag > 0 && processOf.getStore() !== undefined)) return kernel.closeLater(mine, tag)
    return 0
  }
  const timed =
    (every: boolean, otherwise: any) =>
    (action: (...args: any[]) => void, delay: number, ...args: any[]): any => {
      const process = processOf.getStore()
      if (process === undefined) return otherwise(action, delay, ...args)
      return kernel.setTimer(
        process,
        AsyncLocalStorage.bind(() => action(...args)),
        delay,
        every
      )
    }
  const cleared =
    (otherwise: any) =>
    (handle: any): void =>
      handle?.timer === undefined ? otherwise(handle) : kernel.clearTimer(handle)
  globalThis.setTimeout = timed(false, realSetTimeout) as typeof setTimeout
  globalThis.setInterval = timed(true, realSetInterval) as typeof setInterval
  globalThis.clearTimeout = cleared(realClearTimeout)
  globalThis.clearInterval = cleared(realClearInterval)
  const now = (): number => (processOf.getStore() === undefined ? realNow() : kernel.now)
  Object.defineProperty(performance, 'now', { value: now, configurable: true })
  timersPromises.setTimeout = ((delay?: number, value?: unknown, options: { signal?: AbortSignal } = {}) => {
    const process = processOf.getStore()
    if (process === undefined) return realLater(delay, value, options)
    return new Promise((resolve, reject) => {
      const timer = globalThis.setTimeout(() => resolve(value), delay)
      options.signal?.addEventListener('abort', () => {
        globalThis.clearTimeout(timer)
        reject(options.signal!.reason)
      })
    })
  }) as unknown as typeof timersPromises.setTimeout
  const immediate = (action: (...args: any[]) => void, ...args: any[]): any => {
    if (processOf.getStore() === undefined) return realSetImmediate(action, ...args)
    kernel.immediates++
    return realSetImmediate(() => {
      kernel.immediates--
      action(...args)
    })
  }
  globalThis.setImmediate = timers.setImmediate = immediate as typeof setImmediate
  timersPromises.setImmediate = ((value?: unknown) =>
    new Promise<unknown>(
      resolve => void immediate(() => resolve(value))
    )) as unknown as typeof timersPromises.setImmediate
  syncBuiltinESMExports()
  return () => {
    globalThis.setImmediate = timers.setImmediate = realSetImmediate
    timersPromises.setImmediate = realTurn
    Object.assign(replaced, before)
    globalThis.setTimeout = realSetTimeout
    globalThis.setInterval = realSetInterval
    globalThis.clearTimeout = realClearTimeout
    globalThis.clearInterval = realClearInterval
    delete (performance as { now?: unknown }).now
    timersPromises.setTimeout = realLater
    syncBuiltinESMExports()
  }
}
