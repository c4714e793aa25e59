/**
 * A supervisor with workers: the real `Supervisor` and all that it is made of, the real worker's side (`SupervisedOrigin`, `ServedListeners`, `Worker`), and the
 * control channels between them. Each worker is a process of the kernel in memory. Its program takes connections by `receive()`, serves each for a while,
 * and gives the others to its replacement, if the settings say so.
 */
import childProcess, { type ChildProcess } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { syncBuiltinESMExports } from 'node:module'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { connect, connectOwn } from '../../src/channel/connect.ts'
import { type Descriptor, own } from '../../src/descriptor/descriptor.ts'
import type { Balance } from '../../src/prefork/balance.ts'
import {
  type FromSupervisor,
  type FromWorker,
  LEAST,
  MAX_UNCONFIRMED,
  NEWEST,
  type Welcome
} from '../../src/prefork/control/control.ts'
import { Supervisor } from '../../src/prefork/supervisor/supervisor.ts'
import { SupervisedOrigin } from '../../src/prefork/worker/supervised-origin.ts'
import { Worker } from '../../src/prefork/worker/worker.ts'
import { ServedListeners } from '../../src/serving/served-listeners.ts'
import { Random } from '../../test/helpers/random.ts'
import { type Model, type Move, scheduleOf, type Verdict } from './explore.ts'
import { type Connection, type Kernel, onKernel, type Process } from './kernel.ts'

const ENTRY = fileURLToPath(import.meta.url)
const LONG = 120_000
const LISTENER = 'web'

const MOVES = {
  run: 60,
  client: 12,
  finish: 8,
  tick: 8,
  reload: 2,
  scale: 2,
  kill: 2,
  hang: 1,
  continue: 2,
  term: 1,
  fail: 1,
  slow: 1,
  exhaust: 1,
  relieve: 1
}

interface Settings {
  readonly workers: number
  readonly balance: 'per-worker' | 'shared' | 'round-robin' | 'least-connections' | 'address'
  readonly handsOver: boolean
  /** `die`: the supervisor's process is killed, and only that. */
  readonly end: 'stop' | 'kill' | 'die'
  /** It ends in the midst of all that happens. */
  readonly atOnce?: boolean
  readonly seed: number
}

/** What may become of `start()`, `reload()` and `scale()`. */
const REFUSALS = [
  'ERR_PASSFD_WORKER_NOT_READY',
  'ERR_PASSFD_SUPERVISOR_STOPPED',
  'ERR_PASSFD_SUPERVISOR_STATE',
  'ERR_PASSFD_WORKERS_DIE',
  'EMFILE'
]

export const supervisor: Model<Settings> = {
  name: 'supervisor',
  moves: MOVES,
  most: 80,
  settings: fc.record({
    workers: fc.integer({ min: 1, max: 3 }),
    balance: fc.constantFrom('per-worker', 'shared', 'round-robin', 'least-connections', 'address'),
    handsOver: fc.boolean(),
    end: fc.constantFrom('stop', 'stop', 'kill', 'die'),
    atOnce: fc.boolean(),
    seed: fc.nat()
  }),
  run: (settings, schedule) => onKernel(kernel => new World(kernel, settings).run(schedule)),
  scenarios: [
    {
      // A stop in the midst of a reload, whose new worker has lost its control channel and whose old one has not taken all yet
      settings: { workers: 1, balance: 'address', handsOver: true, end: 'stop', atOnce: true, seed: 0 },
      schedule: scheduleOf(
        'reload 914, hang 954, run 0, client 846, run 0, run 367, exhaust 43, client 491, run 653, run 0, run 0, run 0, run 0, run 0, run 0, run 0'
      )
    },
    {
      // A stop in the midst of a reload, whose new worker has lost its control channel
      settings: { workers: 1, balance: 'address', handsOver: true, end: 'stop', atOnce: true, seed: 0 },
      schedule: scheduleOf(
        'reload 914, hang 954, run 0, run 0, run 367, exhaust 43, run 0, run 0, run 0, run 0, run 0, run 0'
      )
    },
    {
      // The supervisor dies with the worker that was to inherit, and the one that gives has stopped accepting for that
      settings: { workers: 1, balance: 'per-worker', handsOver: true, end: 'die', atOnce: true, seed: 0 },
      schedule: scheduleOf('reload 583, run 0, run 0, run 0, run 0, run 0, run 0, run 0, run 0, kill 269')
    },
    {
      // A stop, while a worker without descriptors has not taken what it was sent
      settings: { workers: 1, balance: 'address', handsOver: false, end: 'stop', atOnce: true, seed: 0 },
      schedule: scheduleOf(
        'exhaust 852, reload 619, run 0, run 0, run 0, client 424, run 0, run 0, run 0, run 0, run 0, run 0, run 0, run 0, run 0'
      )
    },
    {
      // A worker gets TERM while it inherits, and its supervisor tells it to accept
      settings: { workers: 1, balance: 'round-robin', handsOver: true, end: 'stop', seed: 0 },
      schedule: scheduleOf(
        'reload 183, run 0, run 421, run 368, run 0, run 0, run 0, run 0, kill 844, term 146, run 2, run 0, run 254, client 109, run 449'
      )
    },
    {
      // The supervisor has sent a connection to a worker that is killed before it reads that
      settings: { workers: 1, balance: 'address', handsOver: false, end: 'stop', seed: 0 },
      schedule: ['client', 'run', 'kill', ...Array<string>(40).fill('run')].map(name => ({ do: name, n: 0 }))
    }
  ]
}

/** A client's connection, and who has it. */
interface Client {
  readonly connection: Connection
  /** The worker whose program has it. */
  owner: Program | undefined
  /** The program has answered it. */
  served: boolean
  /** A process that had a descriptor of it was killed. */
  excused: boolean
  /** How often a program got it from its listener. */
  accepted: number
}

class World {
  readonly kernel: Kernel
  readonly settings: Settings
  readonly random: Random
  readonly clients: Client[] = []
  readonly programs: Program[] = []
  /** So many of the next workers fail to start. */
  fails = 0
  readonly #process: Process
  #nobodyServes = false
  #supervisor!: Supervisor
  #port = 0
  #pids = 20_000_000

  constructor(kernel: Kernel, settings: Settings) {
    this.kernel = kernel
    this.settings = settings
    this.random = new Random(settings.seed)
    this.#process = kernel.process('supervisor')
  }

  async run(schedule: readonly Move[]): Promise<Verdict> {
    const { kernel } = this
    const restore = this.#replaceSystem()
    try {
      await this.#start()
      for (const move of schedule) {
        if (kernel.problems.length > 0) break
        await this.#move(move)
        this.#check()
      }
      if (kernel.problems.length === 0) await (this.settings.atOnce === true ? this.#goOn() : this.#rest())
      if (kernel.problems.length === 0) await this.#end()
    } finally {
      restore()
    }
    return { problems: kernel.problems, log: kernel.log }
  }

  #replaceSystem(): () => void {
    const onRejection = (error: unknown): void => {
      // A killed supervisor's code runs on, and all its numbers are closed
      if (this.#process.dead && (error as NodeJS.ErrnoException)?.code === 'EBADF') return
      this.kernel.problem(`unhandled rejection: ${(error as Error)?.stack ?? error}`)
    }
    const { spawn } = childProcess
    const { ppid } = process
    const parent = Object.getOwnPropertyDescriptor(process, 'ppid')!
    // Of a worker: the kernel gives it another parent when the supervisor has ended
    Object.defineProperty(process, 'ppid', { configurable: true, get: () => (this.#process.dead ? 1 : ppid) })
    const before = new Map(process.eventNames().map(name => [name, process.rawListeners(name)]))
    const warnings = process.emitWarning
    process.emitWarning = (warning: string | Error) => this.kernel.note(`warning: ${warning}`)
    childProcess.spawn = ((_file: string, _args: string[], { stdio }: { stdio: number[] }) =>
      this.#spawn(stdio.at(-2)!, stdio.at(-1)!)) as unknown as typeof spawn
    syncBuiltinESMExports()
    process.on('unhandledRejection', onRejection)
    return () => {
      childProcess.spawn = spawn
      Object.defineProperty(process, 'ppid', parent)
      process.emitWarning = warnings
      syncBuiltinESMExports()
      process.off('unhandledRejection', onRejection)
      // Each worker listens for uncaught exceptions of its process
      for (const name of process.eventNames())
        for (const listener of process.rawListeners(name))
          if (before.get(name)?.includes(listener) !== true) process.off(name, listener as () => void)
    }
  }

  async #start(): Promise<void> {
    const { workers, balance } = this.settings
    const dispatch = ['round-robin', 'least-connections', 'address'].includes(balance)
    this.kernel.run(this.#process, () => {
      this.#supervisor = new Supervisor({
        entry: ENTRY,
        listeners: { [LISTENER]: { port: 0 } },
        workers,
        balance: (dispatch ? { dispatch: balance } : balance) as Balance,
        spawn: { leaveGroup: true, execArgv: [], stdio: 'ignore' },
        restart: () => ({ restart: true, delay: 100 })
      })
      for (const event of ['gaveUp', 'reloadFailed', 'crashLoop', 'acceptError'] as const)
        this.#supervisor.on(event, () => {})
      this.#expect('start()', this.#supervisor.start())
    })
    await this.kernel.drain()
    await this.kernel.settle(LONG, () => this.#supervisor.phase !== 'starting')
    const address = this.#supervisor.address(LISTENER)
    this.#port = (address as { port: number }).port
    if (this.#supervisor.phase !== 'running') this.kernel.problem(`it is ${this.#supervisor.phase} after its start`)
  }

  #expect(what: string, promise: Promise<void>): void {
    promise.then(
      () => this.kernel.note(`${what} is done`),
      error => {
        this.kernel.note(`${what} has failed: ${error.code} ${error.message}`)
        if (!REFUSALS.includes(error.code)) this.kernel.problem(`${what} rejects with ${error.stack ?? error}`)
      }
    )
  }

  async #move({ do: what, n }: Move): Promise<void> {
    const { kernel } = this
    const living = this.programs.filter(({ process }) => !process.dead)
    const program = living[n % Math.max(1, living.length)]
    if (what !== 'run') kernel.note(`- ${what} ${n} (${program?.process.name})`)
    if (what === 'run') await kernel.step(n)
    else if (what === 'tick') kernel.tick()
    else if (what === 'client') this.#connect(n)
    else if (what === 'reload') this.#command('reload()', () => this.#supervisor.reload())
    else if (what === 'scale') this.#command('scale()', () => this.#supervisor.scale(1 + (n % 4)))
    else if (what === 'slow') kernel.accepts = bytes => (n % 2 === 0 ? bytes : this.random.integer(0, bytes))
    else if (what === 'fail') this.fails = 1
    else if (program !== undefined) {
      const { process } = program
      if (what === 'finish') program.finishOne(n)
      else if (what === 'kill') program.signal('SIGKILL')
      else if (what === 'term') program.signal('SIGTERM')
      else if (what === 'hang') process.stopped = true
      else if (what === 'continue') for (const one of living) one.process.stopped = false
      else if (what === 'exhaust') process.limit = process.numbers.size + (n % 6)
      else if (what === 'relieve') for (const one of living) one.process.limit = Number.POSITIVE_INFINITY
    }
    await kernel.drain()
  }

  #command(what: string, command: () => Promise<void>): void {
    this.kernel.run(this.#process, () => this.#expect(what, command()))
  }

  #connect(lane: number): void {
    const connection = this.kernel.connect(this.#port, lane)
    if (connection === undefined) {
      if (this.#supervisor.phase === 'running') this.kernel.problem('a client is refused while the supervisor runs')
      return
    }
    this.clients.push({ connection, owner: undefined, served: false, excused: this.#nobodyServes, accepted: 0 })
  }

  // --- the processes of workers

  #spawn(control: number, application: number): ChildProcess {
    const program = new Program(this, this.programs.length, ++this.#pids)
    this.programs.push(program)
    program.begin(this.kernel.copyTo(program.process, control), this.kernel.copyTo(program.process, application))
    return program.child as unknown as ChildProcess
  }

  /** Something of the supervisor's process happens: it hears of the end of a child. */
  tell(label: string, what: () => void): void {
    this.kernel.later(this.#process, label, what)
  }

  clientOf(connection: Descriptor): Client | undefined {
    const file = this.kernel.file(connection.borrow())
    return this.clients.find(client => client.connection.file === file)
  }

  /** The process ends with everything that it has. `excused`: it was killed, or has failed. */
  ends(process: Process, excused: boolean): void {
    if (excused)
      // Or its program has had it, and the confirmation may be on its way: then the copy comes back
      for (const client of this.clients)
        if (client.owner?.process === process || this.kernel.holders(client.connection.file).includes(process))
          client.excused = true
    this.kernel.kill(process)
    // They waited in a lane of which no other process had a copy. The supervisor has one of each
    if (excused && this.#process.dead) for (const client of this.clients) client.excused ||= client.connection.closed
  }

  // --- what must hold

  #check(): void {
    for (const client of this.clients) {
      const { connection, owner, served, excused, accepted } = client
      const { id } = connection
      // The copy of a killed worker's connection may come back, if the confirmation was on its way
      if (accepted > 1 && !excused) this.kernel.problem(`the connection ${id} was given to programs ${accepted} times`)
      if (connection.closed && !served && !excused)
        this.kernel.problem(
          `the connection ${id} is lost${owner === undefined ? '' : `, which ${owner.process.name} had`}, and nobody who had it was killed`
        )
      if (owner !== undefined && !served && !connection.closed && !owner.process.dead && !owner.has(client))
        this.kernel.problem(`${owner.process.name} owns the connection ${id}, and does not have it`)
    }
  }

  #relieve(): void {
    this.fails = 0
    this.kernel.accepts = bytes => bytes
    for (const { process } of this.programs) process.limit = Number.POSITIVE_INFINITY
  }

  /** Nothing is missing any more, and the next thing that happens is the stop. Without a worker that can serve, it loses those who wait. */
  async #goOn(): Promise<void> {
    this.kernel.note('- at once')
    this.#relieve()
    for (const { process } of this.programs) process.stopped = false
    const ready = this.#supervisor.workers.filter(({ state }) => state === 'ready').map(({ pid }) => pid)
    if (this.programs.some(({ serves, child }) => serves && ready.includes(child.pid))) return
    this.kernel.note('- nobody serves')
    for (const client of this.clients) client.excused = true
    this.#nobodyServes = true
  }

  /** When all goes on: each client has one worker, and each slot, too. */
  async #rest(): Promise<void> {
    const { kernel } = this
    kernel.note('- rest')
    // A worker that hangs stays so, until the supervisor finds that out
    this.#relieve()
    await kernel.settle(LONG, () => this.#isQuiet)
    this.#check()
    if (!this.#isQuiet) {
      const { workers, size, phase } = this.#supervisor
      kernel.problem(
        `it does not come to rest: ${phase}, ${size} workers: ${JSON.stringify(workers.map(({ slot, state }) => [slot, state]))}; not served: ${this.#waiting}`
      )
      return
    }
    for (const { connection, owner, served } of this.clients) {
      if (served || connection.closed) continue
      const holders = kernel.holders(connection.file)
      if (holders.length !== 1 || holders[0] !== owner?.process)
        kernel.problem(
          `the connection ${connection.id} of ${owner?.process.name} is held by ${holders.map(({ name }) => name)}`
        )
    }
  }

  get #waiting(): number[] {
    const waiting = this.clients.filter(
      ({ owner, served, connection }) => owner === undefined && !served && !connection.closed
    )
    return waiting.map(({ connection }) => connection.id)
  }

  get #isQuiet(): boolean {
    const { workers, size, phase } = this.#supervisor
    if (phase !== 'running' || this.programs.some(program => program.isUnable)) return false
    if (workers.length !== size || !workers.every(({ slot, state }, index) => slot === index && state === 'ready'))
      return false
    // The copies of what workers have taken are closed
    const connections = this.kernel.held(this.#process).filter(line => line.endsWith(' tcp'))
    return this.#waiting.length === 0 && connections.length === 0
  }

  async #end(): Promise<void> {
    const { kernel } = this
    kernel.note(`- ${this.settings.end}`)
    const kills = this.settings.end === 'kill'
    for (let more = this.random.integer(0, 3); more > 0; more--) this.#connect(this.random.integer(0, 9))
    if (this.settings.end === 'die') {
      await this.#die()
      return
    }
    let done = false
    kernel.run(this.#process, () => {
      const ended = kills ? this.#supervisor.kill() : this.#supervisor.stop()
      void ended.then(() => {
        done = true
      })
    })
    await kernel.drain()
    await kernel.settle(LONG, () => done)
    if (!done) kernel.problem(`${this.settings.end}() does not end`)
    // By KILL the listeners end with those that wait there
    if (!kills) this.#check()
    await kernel.settle(2000)
    const left = this.programs.filter(({ process }) => !process.dead)
    if (left.length > 0) kernel.problem(`${left.map(({ process }) => process.name)} live on`)
    const held = kernel.held(this.#process)
    if (held.length > 0) kernel.problem(`the supervisor has stopped, and has ${held.slice(0, 20)}`)
  }

  /** Its workers serve those who wait, and end. */
  async #die(): Promise<void> {
    const { kernel } = this
    this.ends(this.#process, true)
    // They may wait in the lane of a worker that somebody has told to end
    if (this.programs.some(({ process, hasTerm }) => hasTerm && !process.dead))
      for (const client of this.clients) client.excused ||= client.owner === undefined
    await kernel.drain()
    await kernel.settle(LONG, () => this.programs.every(({ process }) => process.dead))
    this.#check()
    const left = this.programs.filter(({ process }) => !process.dead)
    if (left.length > 0) kernel.problem(`${left.map(({ process }) => process.name)} live on without their supervisor`)
  }
}

/** What has no code in this process besides its program: the child of the supervisor. */
class Child extends EventEmitter {
  readonly pid: number
  readonly stdio = []
  readonly #program: Program

  constructor(program: Program, pid: number) {
    super()
    this.pid = pid
    this.#program = program
  }

  kill(signal: NodeJS.Signals): boolean {
    this.#program.signal(signal)
    return true
  }

  ref(): void {}

  unref(): void {}
}

class Program {
  readonly process: Process
  readonly child: Child
  /** Its supervisor can't reach it any more, and replaces it soon. */
  isCutOff = false
  readonly #world: World
  #worker: Worker | undefined
  readonly #open = new Map<Client, Descriptor>()
  /** What it has frozen for its replacement. */
  #frozen: Descriptor[] | undefined
  #finished = (): void => {}
  #stops = false
  #isReady = false
  hasTerm = false

  constructor(world: World, index: number, pid: number) {
    this.#world = world
    this.process = world.kernel.process(`w${index}`)
    this.child = new Child(this, pid)
  }

  /** It serves, and nobody has told it to end. */
  get serves(): boolean {
    return this.#isReady && !this.hasTerm && !this.process.dead && !this.isCutOff
  }

  /** It lives, and can't be told to serve. */
  get isUnable(): boolean {
    return !this.process.dead && (this.process.stopped || this.isCutOff)
  }

  has(client: Client): boolean {
    return this.#open.has(client) || this.#frozen !== undefined
  }

  begin(control: number, application: number): void {
    const { kernel } = this.#world
    kernel.later(this.process, `${this.process.name} boots`, () => {
      if (this.#world.fails > 0) {
        this.#world.fails--
        this.#exit(1)
        return
      }
      this.#boot(control, application).catch(error => {
        if (this.process.dead) return
        kernel.note(`${this.process.name} fails: ${error.code} ${error.message}`)
        this.#exit(1)
      })
    })
  }

  /** As joinSupervisor() and a program do. */
  async #boot(control: number, application: number): Promise<void> {
    const authorize = (): boolean => true
    const line = await connectOwn<FromSupervisor, FromWorker>(own(control), {
      authorize,
      maxUnclaimed: 4 * MAX_UNCONFIRMED,
      requestTimeout: 30_000
    })
    line.once('close', () => {
      this.isCutOff = true
    })
    const channel = await connect(own(application), { authorize })
    const join = { type: 'join', version: LEAST, newest: NEWEST, debugPort: 9229 } as const
    const welcome = await line.request<Welcome>(join, { descriptors: 253 })
    // The parent of this process lives, and so does the supervisor
    const origin = new SupervisedOrigin(welcome, process.ppid, line, channel.unref())
    origin.exit = code => this.#exit(Number(code))
    const listeners = new ServedListeners(origin)
    const worker = new Worker(origin, listeners)
    const end = worker.end.bind(worker)
    // Code of a process that has exited does not run on
    worker.end = how => (this.process.dead ? new Promise(() => {}) : end(how))
    origin.begin(worker, listeners)
    this.#worker = worker
    worker.onStop(() => this.#finishAll())
    if (this.#world.settings.handsOver) {
      worker.handOver({ freeze: () => this.#freeze(), thaw: () => this.#thaw() })
      worker.onInherit<{ connections: Descriptor[] }>(({ connections }) => {
        for (const connection of connections) this.#take(connection)
      })
    }
    await worker.receive(LISTENER, connection => {
      const client = this.#take(connection)
      if (client !== undefined) client.accepted++
    })
    await worker.ready()
    this.#isReady = true
  }

  #take(connection: Descriptor): Client | undefined {
    if (this.process.dead) return undefined
    const client = this.#world.clientOf(connection)
    if (client === undefined) {
      this.#world.kernel.problem(`${this.process.name} gets a connection that nobody has made`)
      return undefined
    }
    const { owner } = client
    if (owner !== undefined && !owner.process.dead && owner.#open.has(client))
      this.#world.kernel.problem(
        `${owner.process.name} and ${this.process.name} have the connection ${client.connection.id}`
      )
    client.owner = this
    this.#open.set(client, connection)
    if (this.#stops) this.#world.kernel.later(this.process, `${this.process.name} finishes`, () => this.#finish(client))
    return client
  }

  #freeze(): { connections: Descriptor[] } {
    this.#frozen = [...this.#open.values()]
    for (const client of this.#open.keys()) client.owner = undefined
    this.#open.clear()
    return { connections: this.#frozen }
  }

  #thaw(): void {
    const frozen = this.#frozen!
    this.#frozen = undefined
    for (const connection of frozen) this.#take(connection)
  }

  finishOne(n: number): void {
    const clients = [...this.#open.keys()]
    const client = clients[n % Math.max(1, clients.length)]
    if (client !== undefined && !this.process.stopped) this.#world.kernel.run(this.process, () => this.#finish(client))
  }

  #finish(client: Client): void {
    const connection = this.#open.get(client)
    if (connection === undefined || this.process.dead) return
    this.#open.delete(client)
    client.served = true
    connection.close()
    if (this.#open.size === 0) this.#finished()
  }

  /** Its stop: one answer after the other, whenever the schedule lets it. */
  #finishAll(): Promise<void> {
    this.#stops = true
    for (const client of this.#open.keys())
      this.#world.kernel.later(this.process, `${this.process.name} finishes`, () => this.#finish(client))
    if (this.#open.size === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.#finished = resolve
    })
  }

  #exit(code: number): void {
    if (this.process.dead) return
    this.#world.kernel.note(`${this.process.name} exits with ${code}`)
    this.#world.ends(this.process, code !== 0)
    this.#world.tell(`${this.process.name} has exited`, () => this.child.emit('exit', code, null))
  }

  signal(signal: NodeJS.Signals): void {
    if (this.process.dead) return
    if (signal === 'SIGKILL' || this.#worker === undefined) {
      this.#world.ends(this.process, true)
      this.#world.tell(`${this.process.name} was killed`, () => this.child.emit('exit', null, signal))
    } else {
      this.hasTerm = true
      this.#world.kernel.later(this.process, `${this.process.name} gets ${signal}`, () =>
        this.#worker!.end({ last: false, told: false, signal: true })
      )
    }
  }
}
