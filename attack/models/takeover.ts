/**
 * Up to four processes that take over from each other: the real owner, successor, state machines, pipes and state of `src/takeover`, over the real channel. In
 * place of a Seat each has a program that says at every moment who may use the state, and who accepts.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import fc from 'fast-check'
import { Descriptor, own } from '../../src/descriptor/descriptor.ts'
import { Acceptor, acceptBatch } from '../../src/os/acceptor.ts'
import { native } from '../../src/os/native.ts'
import { apply } from '../../src/takeover/apply.ts'
import type { Offered } from '../../src/takeover/messages.ts'
import { type FreezeContext, Owner, type OwnerHooks } from '../../src/takeover/owner.ts'
import { Life } from '../../src/takeover/pipes.ts'
import { GivenState, LockedState } from '../../src/takeover/state.ts'
import type { TakeoverStep } from '../../src/takeover/steps.ts'
import type { Succession } from '../../src/takeover/succession.ts'
import { Random } from '../../test/helpers/random.ts'
import type { Model, Move, Verdict } from './explore.ts'
import { currentProcess, type Kernel, onKernel, type Process } from './kernel.ts'

const PATH = '/takeover'
const STEPS = 'passfd:takeover:step'
/** Nothing that happens by itself takes longer, in ms. */
const LONG = 200_000

interface Settings {
  readonly processes: number
  readonly listeners: number
  /** Descriptors in the state; undefined: there is no state. */
  readonly state: number | null
  readonly busy: 'wait' | 'refuse'
  readonly seed: number
}

const MOVES = {
  run: 60,
  tick: 8,
  start: 8,
  use: 4,
  client: 3,
  killAt: 4,
  kill: 1,
  stop: 4,
  continue: 2,
  lose: 1,
  throw: 1,
  giveUp: 1,
  exhaust: 1,
  relieve: 1,
  slow: 1
}

/** What the program gives to its successor. */
interface State {
  count: number
  descriptors: Descriptor[]
}

export const takeover: Model<Settings> = {
  name: 'takeover',
  moves: MOVES,
  most: 100,
  settings: fc.record({
    processes: fc.integer({ min: 2, max: 4 }),
    listeners: fc.constantFrom<number[]>(...Array(18).fill(1), 3, 241),
    state: fc.constantFrom<(number | null)[]>(...Array(5).fill(null), ...Array(14).fill(2), 254),
    busy: fc.constantFrom('wait', 'wait', 'refuse'),
    seed: fc.nat()
  }),
  run: (settings, schedule) => onKernel(kernel => new World(kernel, settings).run(schedule)),
  scenarios: [
    // p0 is stopped between the mark of its successor, p1, and its look at that; and wakes when p2 has superseded p1
    scenario(start(1), ...runs(9), { do: 'stop', n: 0 }, start(2), ...runs(5), { do: 'run', n: 1 }, ...runs(60)),
    // p1 is killed between the byte and the mark, and the limits of p0 are over before p0 looks
    scenario({ do: 'killAt', n: 13 }, start(1), ...runs(8), ...waits(2), ...runs(40)),
    // p1 is stopped when the last part of the state is on its way, until the limits of p0 are over
    scenario(start(1), ...runs(7), { do: 'stop', n: 1 }, ...waits(2), { do: 'continue', n: 1 }, ...runs(40)),
    // Their channel ends when a part of the state is on its way
    scenario(start(1), ...runs(5), { do: 'lose', n: 0 }, ...runs(40))
  ]
}

function scenario(...schedule: Move[]): { settings: Settings; schedule: Move[] } {
  return { settings: { processes: 3, listeners: 1, state: 2, busy: 'wait', seed: 0 }, schedule }
}

function start(n: number): Move {
  return { do: 'start', n }
}

function waits(times: number): Move[] {
  return Array.from({ length: times }, () => [{ do: 'tick', n: 0 }, ...runs(1)]).flat()
}

function runs(times: number): Move[] {
  return Array.from({ length: times }, () => ({ do: 'run', n: 0 }))
}

class World {
  readonly kernel: Kernel
  readonly settings: Settings
  readonly programs: Program[]
  readonly random: Random
  /** What the state has counted, by whoever used it last. */
  truth: number | undefined
  port = 0
  /** Processes that are killed just before one of their next steps. */
  readonly doomed = new Map<Process, number>()
  readonly clients: { readonly id: number; readonly closed: () => boolean; served: boolean }[] = []
  #kills = 0
  #exhausted = false

  constructor(kernel: Kernel, settings: Settings) {
    this.kernel = kernel
    this.settings = settings
    this.random = new Random(settings.seed)
    this.programs = Array.from({ length: settings.processes }, (_, index) => new Program(this, `p${index}`))
  }

  async run(schedule: readonly Move[]): Promise<Verdict> {
    const { kernel } = this
    const onStep = (message: unknown): void => this.#atStep(message as TakeoverStep)
    const onRejection = (error: unknown): void => {
      if (this.#kills === 0) kernel.problem(`unhandled rejection: ${(error as Error)?.stack}`)
    }
    subscribe(STEPS, onStep)
    process.on('unhandledRejection', onRejection)
    try {
      this.programs[0]!.found()
      await kernel.drain()
      for (const move of schedule) {
        await this.#move(move)
        this.#check()
        if (kernel.problems.length > 0) break
      }
      if (kernel.problems.length === 0) await this.#rest()
    } finally {
      unsubscribe(STEPS, onStep)
      process.off('unhandledRejection', onRejection)
    }
    return { problems: kernel.problems, log: kernel.log }
  }

  async #move({ do: what, n }: Move): Promise<void> {
    const { kernel, programs } = this
    const program = programs[n % programs.length]!
    const { process } = program
    const alive = !process.dead
    if (what !== 'run') kernel.note(`- ${what} ${process.name}`)
    if (what === 'run') await kernel.step(n)
    else if (what === 'tick') kernel.tick()
    else if (what === 'start') program.start()
    else if (what === 'use') program.use()
    else if (what === 'client') this.#connect(n)
    else if (what === 'kill' && alive) this.kill(program)
    else if (what === 'killAt' && alive) this.doomed.set(process, 1 + (n % 7))
    else if (what === 'stop' && alive) process.stopped = true
    else if (what === 'continue') process.stopped = false
    else if (what === 'lose') this.#lose(program, n)
    else if (what === 'throw') program.throws = true
    else if (what === 'giveUp') program.giveUp()
    else if (what === 'exhaust' && alive) {
      this.#exhausted = true
      process.limit = process.numbers.size + (n % 12)
    } else if (what === 'relieve') process.limit = Number.POSITIVE_INFINITY
    else if (what === 'slow') kernel.accepts = bytes => (n % 3 === 0 ? bytes : this.random.integer(0, bytes))
    await kernel.drain()
  }

  kill(program: Program): void {
    this.#kills++
    // Whoever has it, or a copy of it, may go on with it
    const others = this.programs.some(one => one !== program && !one.process.dead && one.hasState)
    if (program.hasState && !others) this.truth = undefined
    this.kernel.kill(program.process)
  }

  #lose(program: Program, n: number): void {
    const streams = this.kernel.streams(program.process)
    const fd = streams[n % Math.max(1, streams.length)]
    if (fd !== undefined) this.kernel.cut(fd)
  }

  #atStep({ step }: TakeoverStep): void {
    const process = currentProcess()
    const program = this.programs.find(one => one.process === process)
    if (process === undefined || program === undefined || process.dead) return
    this.kernel.note(`${process.name} is about to ${step}`)
    const left = this.doomed.get(process)
    if (left === undefined) return
    this.doomed.set(process, left - 1)
    if (left > 1) return
    this.doomed.delete(process)
    this.kill(program)
  }

  #connect(lane: number): void {
    if (this.port === 0) return
    const connection = this.kernel.connect(this.port, lane)
    if (connection === undefined) return
    this.clients.push({ id: connection.id, closed: () => connection.closed, served: false })
  }

  served(id: number): void {
    const client = this.clients.find(one => one.id === id)!
    if (client.served) this.kernel.problem(`the connection ${id} is served twice`)
    client.served = true
  }

  // --- what must hold

  /** In every step. */
  #check(): void {
    const { kernel } = this
    const living = this.programs.filter(({ process }) => !process.dead)
    const using = living.filter(({ uses }) => uses)
    if (using.length > 1) kernel.problem(`${using.map(({ name }) => name)} use the state`)
    const owners = living.filter(({ role, isMarked }) => role === 'owner' && !isMarked)
    if (owners.length > 1) kernel.problem(`${owners.map(({ name }) => name)} own`)
    for (const { name, uses, state } of living)
      if (uses && this.truth !== undefined && state!.count !== this.truth)
        kernel.problem(`${name} uses a state that has counted ${state!.count}, not ${this.truth}`)
    if (this.#kills > 0 || this.#exhausted) return
    if (!living.some(({ holdsAll }) => holdsAll)) kernel.problem('nobody has the listeners, and nobody was killed')
    if (this.settings.state !== null && !living.some(({ hasState }) => hasState))
      kernel.problem('the state is lost, and nobody was killed')
    const lost = this.clients.find(({ closed, served }) => closed() && !served)
    if (lost !== undefined) kernel.problem(`the connection ${lost.id} is lost, and nobody was killed`)
  }

  /** When all goes on, and nothing more happens by itself. */
  async #rest(): Promise<void> {
    const { kernel } = this
    kernel.note('- rest')
    this.doomed.clear()
    kernel.accepts = bytes => bytes
    for (const program of this.programs) {
      program.process.stopped = program.throws = false
      program.process.limit = Number.POSITIVE_INFINITY
    }
    await kernel.settle(LONG, () => this.#isQuiet)
    this.#check()
    const living = this.programs.filter(({ process }) => !process.dead)
    const busy = living.filter(({ role }) => role === 'candidate' || role === 'superseded')
    if (busy.length > 0) kernel.problem(`${busy.map(({ name, role }) => `${name} is ${role}`)} for ever`)
    const [owner, ...others] = living.filter(({ role }) => role === 'owner')
    if (others.length > 0) kernel.problem(`${others.map(({ name }) => name)} own, too`)
    if (owner === undefined) {
      if (this.#kills === 0 && !this.#exhausted) kernel.problem('nobody owns, and nobody was killed')
    } else {
      if (!owner.accepts) kernel.problem(`${owner.name} owns and does not accept`)
      if (this.settings.state !== null && !owner.uses) kernel.problem(`${owner.name} owns and does not use its state`)
      const waits = this.clients.find(({ closed, served }) => !closed() && !served)
      if (waits !== undefined) kernel.problem(`the connection ${waits.id} is never served`)
      const expected = owner.numbers
      const held = kernel.held(owner.process)
      if (!expected.includes(held.length))
        kernel.problem(`${owner.name} owns ${expected} descriptors, and has ${held.length}: ${held.slice(0, 20)}`)
    }
    for (const one of living) {
      if (one === owner) continue
      const held = kernel.held(one.process)
      if (held.length > 0) kernel.problem(`${one.name} is ${one.role} and has ${held.slice(0, 20)}`)
    }
    if (owner !== undefined && kernel.problems.length === 0) await this.#oneMore(living)
  }

  get #isQuiet(): boolean {
    if (this.clients.some(({ closed, served }) => !closed() && !served)) return false
    return this.programs.every(
      ({ process, role, numbers }) =>
        process.dead ||
        (role === 'idle' && process.numbers.size === 0) ||
        (role === 'owner' && numbers.includes(process.numbers.size))
    )
  }

  /** The next takeover works. */
  async #oneMore(living: readonly Program[]): Promise<void> {
    const next = living.find(({ role }) => role === 'idle')
    if (next === undefined) return
    this.kernel.note('- one more')
    next.start()
    await this.kernel.drain()
    await this.kernel.settle(LONG, () => this.#isQuiet)
    this.#check()
    if (next.role !== 'owner') this.kernel.problem(`the next takeover fails: ${next.name} is ${next.role}: ${next.why}`)
  }
}

class Program {
  readonly process: Process
  readonly name: string
  role: 'idle' | 'candidate' | 'owner' | 'superseded' = 'idle'
  /** Whose state it uses now. */
  uses = false
  state: State | undefined
  /** The next thing that may throw does. */
  throws = false
  why = ''
  readonly #world: World
  #listeners: Offered[] = []
  /** Copies of listeners from which it does not accept now. */
  readonly #reserved: Descriptor[] = []
  #acceptors: { readonly descriptor: Descriptor; readonly acceptor: Acceptor }[] = []
  #life: Life | undefined
  #given: GivenState | undefined
  #locked: LockedState | undefined
  #succession: Succession | undefined
  #generation = 1
  #marked: Process | undefined

  constructor(world: World, name: string) {
    this.#world = world
    this.name = name
    this.process = world.kernel.process(name)
  }

  get accepts(): boolean {
    return this.#acceptors.length > 0
  }

  get holdsAll(): boolean {
    return this.#listeners.length > 0 || (this.#succession?.listeners.length ?? 0) > 0
  }

  /** It has the state, or a copy that it may use if all others end. */
  get hasState(): boolean {
    return this.state !== undefined || this.#given !== undefined || this.#locked !== undefined
  }

  /** Its successor has written the mark, and it has not read that yet. */
  get isMarked(): boolean {
    return this.#marked !== undefined
  }

  /** How many descriptors an owner at rest has. */
  get numbers(): readonly number[] {
    // The listeners, twice; the path, twice; both ends of its life pipe
    const numbers = 2 * this.#world.settings.listeners + 4 + (this.state?.descriptors.length ?? 0)
    // From the first offer on an owner that was a successor has another life pipe
    return [numbers, numbers + 2]
  }

  #as(action: () => unknown): void {
    if (!this.process.dead) this.#world.kernel.run(this.process, () => void action())
  }

  /** The first owner: nobody was there. */
  found(): void {
    this.#as(() => this.#found())
  }

  #found(): boolean {
    const world = this.#world
    const path = world.kernel.bindPath(this.process, PATH)
    if (path === undefined) return false
    this.#generation = 1
    this.process.limit = Number.POSITIVE_INFINITY // what a first owner does then is the program's business
    for (let lane = 0; lane < world.settings.listeners; lane++) {
      const fd = native.bindInet(false, '127.0.0.1', 0, 511, 0)
      const options = {}
      this.#listeners.push({ name: `l${lane}`, lane: 0, kind: 'tcp-listener', options, listener: own(fd) })
    }
    const { port } = world.kernel.listenerOf(this.#listeners[0]!.listener.borrow())!
    world.port = port
    world.truth = world.settings.state === null ? undefined : 0
    if (world.settings.state !== null) {
      const descriptors = Array.from({ length: world.settings.state }, () => {
        const { readable, writable } = Descriptor.pipe()
        writable.close()
        return readable
      })
      this.state = { count: 0, descriptors }
      this.uses = true
    }
    this.#attach()
    this.role = 'owner'
    this.#begin(own(path), new Life())
    return true
  }

  #attach(): void {
    for (const { listener } of this.#listeners) {
      const descriptor = this.#reserved.shift() ?? listener.dup()
      try {
        const acceptor = this.#acceptorOf(descriptor.borrow())
        acceptor.want(true)
        this.#acceptors.push({ descriptor, acceptor })
      } catch (error) {
        descriptor.close()
        throw error
      }
    }
  }

  #acceptorOf(fd: number): Acceptor {
    const world = this.#world
    const take = (connection: number): void => {
      world.served(world.kernel.file(connection)!.connection!.id)
      native.close(connection)
    }
    return new Acceptor(fd, { accept: () => acceptBatch(fd, take), onExhausted: () => {} })
  }

  #detach(): void {
    this.#suspend()
    for (const copy of this.#reserved.splice(0)) copy.close()
  }

  /** As a Seat does: a later `#attach()` needs no descriptor. */
  #suspend(): void {
    for (const { descriptor, acceptor } of this.#acceptors.splice(0)) {
      acceptor.end()
      this.#reserved.push(descriptor)
    }
  }

  #begin(path: Descriptor, life: Life, listening = path.dup()): void {
    this.#life = life
    const { busy } = this.#world.settings
    const { accepting } = Owner.begin(
      {
        path,
        program: { pid: this.process.pid, passfd: '', runtime: '' },
        generation: this.#generation,
        limits: { attemptTimeout: 120_000, freezeTimeout: 5000, busy },
        hooks: this.#hooks,
        authorize: undefined,
        chain: () => []
      },
      life,
      listening
    )
    void accepting.catch(error => {
      if (!this.process.dead && this.process.limit === Number.POSITIVE_INFINITY)
        this.#world.kernel.problem(`${this.name} can't serve the path: ${error}`)
    })
  }

  readonly #hooks: OwnerHooks = {
    offer: () => this.#listeners.map(one => ({ ...one, listener: one.listener.dup() })),
    drops: () => {},
    freeze: async (_context: FreezeContext) => {
      this.#mayThrow('freeze')
      this.#suspend()
      this.uses = false
      const given = new GivenState(this.state)
      this.#given = given
      return given.parts
    },
    rollBack: ({ frozen }) => {
      if (this.process.dead) return
      if (frozen) this.uses = this.state !== undefined
      this.#given = undefined
      if (!this.accepts) this.#attach()
    },
    letGo: (_peer, to) => {
      if (this.process.dead) return
      if (this.#marked === undefined)
        this.#world.kernel.problem(`${this.name} lets go, and nobody has written the mark`)
      this.#marked = undefined
      this.role = 'superseded'
      this.uses = false
      this.#detach()
      for (const { listener } of this.#listeners.splice(0)) listener.close()
      // Without a freeze it has no copies
      if (this.#given !== undefined) this.#given.close()
      else for (const one of this.state?.descriptors ?? []) one.close()
      this.#given = undefined
      this.state = undefined
      to.left(0, [])
      void to.end().then(() => {
        this.#life!.end()
        if (this.process.dead) return
        this.role = 'idle'
      })
    },
    report: () => {}
  }

  #mayThrow(what: string): void {
    if (!this.throws) return
    this.throws = false
    throw new Error(`${what} has failed`)
  }

  /** It takes over, from whoever there is. */
  start(): void {
    if (this.role !== 'idle' || this.process.dead) return
    this.role = 'candidate'
    this.#as(() =>
      this.#takeOver().catch(error => {
        if (this.process.dead) return
        this.why = `${error.code} ${error.message}`
        this.#world.kernel.note(`${this.name} gives up: ${this.why}`)
        this.#succession = undefined
        this.role = 'idle'
      })
    )
  }

  async #takeOver(): Promise<void> {
    const { settings } = this.#world
    const limits = { turnTimeout: 60_000, inheritTimeout: 10_000, graceTimeout: 2000 }
    const program = { pid: this.process.pid, passfd: '', runtime: '' }
    const succession = await apply({
      path: PATH,
      program,
      wants: undefined,
      limits,
      authorize: undefined,
      signal: undefined
    })
    if (this.process.dead) return
    if (succession === undefined) {
      this.role = 'idle'
      if (this.#world.kernel.run(this.process, () => this.#found())) this.role = 'owner'
      return
    }
    this.#succession = succession
    let listening: Descriptor | undefined
    try {
      if (settings.state !== null) {
        const parts = await succession.inherit('any')
        if (parts !== undefined) this.#locked = new LockedState(parts)
      }
      if (this.process.dead) return
      listening = succession.path.dup()
      listening.borrow() // as a Place does: without descriptors the predecessor serves on
      succession.commit(() => {
        this.#mayThrow('attach')
        this.#listeners = succession.moveListeners()
        this.#generation = succession.generation
        this.#attach()
        this.#begin(succession.path, succession.life, listening)
      })
    } catch (error) {
      listening?.[Symbol.dispose]()
      succession.giveUp()
      this.#detach()
      for (const { listener } of this.#listeners.splice(0)) listener.close()
      this.#locked?.close()
      this.#locked = undefined
      throw error
    }
    if (this.process.dead) return
    this.#becomeOwner(succession)
  }

  #becomeOwner(succession: Succession): void {
    const world = this.#world
    const other = world.programs.find(one => one !== this && !one.process.dead && one.hasState && !one.isMarked)
    // Its pid may be that of an owner before, which listened when this process connected
    const predecessor = world.programs.find(
      one => one.role === 'owner' && !one.process.dead && one.#generation === this.#generation - 1
    )
    if (predecessor !== undefined) predecessor.#marked = this.process
    this.#succession = undefined
    this.role = 'owner'
    succession.listenTo({ onLeft: () => {}, onConnections: () => {}, onWorker: () => {}, onEnd: () => {} })
    if (world.settings.state === null) return
    this.#locked?.unlock()
    const state = this.#locked?.value as State | undefined
    this.#locked = undefined
    // The state has died with the predecessor
    if (state === undefined && other !== undefined)
      world.kernel.problem(`${this.name} begins afresh, and ${other.name} has the state`)
    this.state = state ?? { count: 0, descriptors: [] }
    world.truth ??= this.state.count
    this.uses = true
  }

  use(): void {
    if (!this.uses || this.process.dead || this.process.stopped || this.state === undefined) return
    this.state.count++
    this.#world.truth = this.state.count
  }

  giveUp(): void {
    const succession = this.#succession
    if (succession !== undefined && !this.process.dead) this.#as(() => succession.giveUp())
  }
}
