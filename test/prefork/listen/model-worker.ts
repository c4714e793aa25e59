/** A worker of random schedules: see model.ts. */
import { native } from '../../../src/os/native.ts'
import { AcceptCounts, UsedPermits } from '../../../src/prefork/control/accept-counts.ts'
import type { Accepted } from '../../../src/prefork/control/control.ts'
import type { Recipient } from '../../../src/prefork/listen/recipient.ts'
import type { Random } from '../../helpers/random.ts'

const EMFILE = -24

/** What a worker sees of its schedule. */
export interface World {
  /** Programs block when they are given a connection, now and then. */
  readonly blocks: boolean
  /** Others take steps before the next one of the supervisor. */
  others(): void
  /** A connection leaves the listener's queue. Returns false if there is none. */
  accept(name: string): boolean
  /** The worker counts. Before each of its writes others take steps. Returns whether it may send its message later. */
  add(used: UsedPermits, place: number, count: number): boolean
}

/** Both sides of a worker's memory, and its words. */
export type Memory = [AcceptCounts, UsedPermits, Int32Array]

/** The memory of worker `slot`, which schedules share: each has listeners with names of their own. */
export class Memories {
  readonly #made: Memory[] = []
  #names = 0

  name(): string {
    this.#names++
    return `lines ${this.#names}`
  }

  /** Call it before each schedule. There are 512 places. */
  renew(): void {
    if (this.#names % 400 < 2) this.#made.length = 0
  }

  /** `fresh`: for a worker that writes anything into it. */
  of(slot: number, fresh: boolean): Memory {
    const found = this.#made[slot]
    if (found !== undefined && !fresh) return found
    const [counts, memory] = AcceptCounts.create()
    const holder: ArrayBuffer[] = []
    if (native.map(memory.borrow(), 4096, true, holder) < 0) throw new Error('mmap')
    const made: Memory = [counts, new UsedPermits(memory), new Int32Array(holder[0]!)]
    if (!fresh) this.#made[slot] = made
    return made
  }
}

interface Order {
  readonly name: string
  readonly count: number
  readonly place: number | undefined
}

/** As `SupervisedOrigin` handles orders: in steps, between which anything may happen. */
export class ModelWorker {
  readonly orders: Order[] = []
  readonly messages: Accepted[] = []
  /** By listener: permits that it was given, and those of them that it has not counted (or confirmed, if it has no memory). */
  readonly told = new Map<string, number>()
  readonly open = new Map<string, number>()
  /** Permits for which there was no connection. */
  wasted = 0
  suspended = false
  blocked = false
  killed = false
  exhausted = false
  serves = true
  ended = false
  sent = 0
  #order: (Order & { taken: number; error: number }) | undefined
  #accepted = false
  #isCounting = false
  readonly #unconfirmed = new Map<string, number>()
  #turnsLeft = 0
  readonly slot: number
  readonly hostile: boolean
  readonly #memory: Memory | undefined
  readonly #counts: boolean
  readonly recipient: Recipient

  /** `counts`: it has mapped the memory. */
  constructor(
    world: World,
    slot: number,
    memory: Memory | undefined,
    { hostile, counts }: { hostile: boolean; counts: boolean }
  ) {
    this.slot = slot
    this.hostile = hostile
    this.#memory = memory
    this.#counts = counts && memory !== undefined
    const worker = this
    this.recipient = {
      slot,
      uses: new Map(),
      get sent() {
        return worker.sent
      },
      unconfirmed: 0,
      knowsAccept: true,
      get ended() {
        return worker.ended
      },
      unusedPermits: name => {
        world.others()
        return worker.#memory?.[0].unused(name)
      },
      wantMessage: name => {
        world.others()
        worker.#memory?.[0].wantMessage(name)
      },
      accept: (name, count) => {
        world.others()
        worker.sent += count
        add(worker.told, name, count)
        add(worker.open, name, count)
        worker.orders.push({ name, count, place: worker.#memory?.[0].tell(name, count) })
        world.others()
      }
    } as Partial<Recipient> as Recipient
  }

  get runs(): boolean {
    return !this.killed && !this.suspended && !this.blocked
  }

  get rests(): boolean {
    return !this.runs || (this.orders.length === 0 && this.#order === undefined && this.#turnsLeft === 0)
  }

  /** Takes one step. */
  step(world: World, random: Random): void {
    if (!this.runs || this.#isCounting) return
    if (this.hostile) this.#scribble(random)
    else if (this.#order !== undefined) this.#goOn(world, random)
    else if (this.orders.length > 0 && (this.#turnsLeft === 0 || random.chance(0.5)))
      this.#order = { ...this.orders.shift()!, taken: 0, error: 0 }
    else if (this.#turnsLeft > 0 && --this.#turnsLeft === 0)
      for (const name of this.#unconfirmed.keys()) this.#confirm(name, 0, 0)
  }

  #goOn(world: World, random: Random): void {
    const order = this.#order!
    if (!this.#accepted) {
      if (order.taken < order.count && !this.exhausted && world.accept(order.name)) order.taken++
      else {
        if (this.exhausted && order.taken < order.count) order.error = EMFILE
        this.#accepted = true
      }
      return
    }
    const { name, place, count, taken, error } = order
    this.#isCounting = true
    const later = this.#counts && world.add(this.#memory![1], place!, count) && taken === count
    this.#isCounting = false
    if (this.#counts) add(this.open, name, -count)
    if (later) {
      add(this.#unconfirmed, name, count)
      this.#turnsLeft = 2
    } else this.#confirm(name, count, taken, error)
    this.wasted += count - taken
    this.#order = undefined
    this.#accepted = false
    if (taken > 0 && world.blocks && random.chance(0.3)) this.blocked = true // its program
  }

  #confirm(name: string, count: number, taken: number, error = 0): void {
    const before = this.#unconfirmed.get(name) ?? 0
    this.#unconfirmed.delete(name)
    if (!this.#counts) add(this.open, name, -count)
    const sum = { count: before + count, taken: before + taken }
    this.messages.push({ type: 'accepted', name, ...sum, ...(error < 0 && { error }) })
  }

  #scribble(random: Random): void {
    const words = this.#memory?.[2]
    if (words === undefined || this.told.size === 0) return
    const [name, told] = random.pick([...this.told])
    const value = random.pick([0, 1, -1, told, told - 1, random.integer(-(2 ** 31), 2 ** 31 - 1)])
    for (let place = 0; place < words.length / 2; place++) Atomics.store(words, 2 * place, value)
    if (random.chance(0.1)) {
      const count = random.integer(0, 100)
      this.messages.push({ type: 'accepted', name, count, taken: random.integer(0, count) })
    }
  }
}

function add(counts: Map<string, number>, name: string, count: number): void {
  counts.set(name, (counts.get(name) ?? 0) + count)
}
