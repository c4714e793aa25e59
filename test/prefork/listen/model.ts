/**
 * Random schedules of a dispatched listener: the real supervisor's side and the real memory, with modelled workers, clients and queue of the kernel.
 * Before each step of the supervisor that others can see, workers take steps, so each order of the two can come up.
 */
import { readSync, writeSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { AsyncContext } from '../../../src/base/async-context.ts'
import { Descriptor, moveOut } from '../../../src/descriptor/descriptor.ts'
import { native } from '../../../src/os/native.ts'
import type { UsedPermits } from '../../../src/prefork/control/accept-counts.ts'
import { MAX_PERMITS } from '../../../src/prefork/control/control.ts'
import { DispatchedListener } from '../../../src/prefork/listen/dispatched-listener.ts'
import { Random } from '../../helpers/random.ts'
import { type Memories, ModelWorker, type World } from './model-worker.ts'

const EAGAIN = -11
/** Steps after which a schedule that should have come to rest is a failure. */
const MOST_STEPS = 5000

export interface Weather {
  readonly listeners: number
  readonly workers: number
  readonly clients: number
  readonly rule: 'round-robin' | 'least-connections'
  /** Workers are suspended, and their programs block: for a while, or to the end. */
  readonly stops: boolean
  readonly kills: boolean
  /** Workers are at their limit of open files for a while. */
  readonly exhausts: boolean
  /** Another program accepts from the listener. */
  readonly foreign: boolean
  /** Workers stop serving the listener, and serve it again. */
  readonly leaves: boolean
  /** The kernel does not report the length of the queue. */
  readonly uncounted: boolean
  /** One worker is of a release without the memory. */
  readonly old: boolean
  /** One worker cannot map the memory, and its supervisor does not know. */
  readonly unmapped: boolean
  /** One worker writes anything into its memory, and handles no order. */
  readonly hostile: boolean
}

export function weatherOf(random: Random): Weather {
  const rarely = (): boolean => random.chance(0.25)
  return {
    listeners: random.chance(0.3) ? 2 : 1,
    workers: random.integer(2, 3),
    clients: random.integer(1, random.chance(0.1) ? 200 : 12),
    rule: random.chance(0.5) ? 'round-robin' : 'least-connections',
    stops: random.chance(0.6),
    kills: rarely(),
    exhausts: rarely(),
    foreign: rarely(),
    leaves: rarely(),
    uncounted: random.chance(0.1),
    old: rarely(),
    unmapped: rarely(),
    hostile: random.chance(0.15)
  }
}

/** A listener, and the kernel's part of it. */
interface Lane {
  readonly name: string
  readonly listener: DispatchedListener
  readonly fd: number
  readonly set: number
  /** A byte in `set` stands for an event of the edge-triggered set. */
  readonly writer: Descriptor
  queue: number
  toCome: number
  news: boolean
}

export class Schedule implements World {
  readonly weather: Weather
  readonly workers: ModelWorker[]
  /** What is wrong. */
  failure: string | undefined
  #isIn = false
  #steps = 0
  readonly #random: Random
  readonly #lanes: Lane[] = []
  readonly #timers = new Set<() => void>()
  readonly #restore: () => void
  readonly #context = new AsyncContext('MODEL')

  constructor(seed: number, memories: Memories, weather?: Weather) {
    this.#random = new Random(seed)
    this.weather = weather ?? weatherOf(this.#random)
    memories.renew()
    this.#restore = this.#replaceSystem()
    for (let i = 0; i < this.weather.listeners; i++) this.#lanes.push(this.#lane(memories.name()))
    this.workers = Array.from({ length: this.weather.workers }, (_, slot) => {
      const { hostile, old, unmapped } = this.weather
      const memory = slot === 0 && old ? undefined : memories.of(slot, slot === 1 && hostile)
      return new ModelWorker(this, slot, memory, { hostile: slot === 1 && hostile, counts: slot !== 0 || !unmapped })
    })
  }

  #lane(name: string): Lane {
    const [reader, writer] = Descriptor.socketpair()
    const set = moveOut(reader, 'the model')
    native.edgeSet = () => set
    const [descriptor, other] = Descriptor.socketpair()
    other.close()
    const events = { onRouteFailed: () => {}, onAcceptError: () => {}, context: this.#context }
    const bound = { name, descriptor, own: false, backlog: undefined, file: undefined, closesAtOnce: true }
    const listener = new DispatchedListener(bound, { dispatch: this.weather.rule }, events)
    const counts = { queue: 0, toCome: this.weather.clients, news: false }
    return { name, listener, fd: descriptor.borrow(), set, writer, ...counts }
  }

  get blocks(): boolean {
    return this.weather.stops
  }

  /** Runs it to its end. Returns what is wrong, or undefined. */
  async run(): Promise<string | undefined> {
    try {
      this.#balance()
      const steps = this.#random.integer(5, 150)
      for (let i = 0; i < steps; i++) await this.#step()
      for (const lane of this.#lanes) while (lane.toCome > 0) this.#arrive(lane)
      await this.#comeToRest()
      this.#check('at rest')
      for (const worker of this.workers) if (worker.hostile) worker.killed = true
      for (const worker of this.workers) worker.suspended = worker.blocked = false
      if (!this.workers.every(({ serves }) => serves)) this.#bury(true)
      await this.#comeToRest()
      this.#check('after all')
      return this.failure
    } finally {
      for (const { listener, writer } of this.#lanes) {
        listener.release(() => {})
        writer.close()
      }
      this.#context.end()
      this.#restore()
    }
  }

  /** A connection leaves the queue. */
  accept(name: string): boolean {
    const lane = this.#lanes.find(one => one.name === name)!
    if (lane.queue === 0) return false
    lane.queue--
    return true
  }

  /** The worker counts. Before each of its writes others take steps. Returns whether it may send its message later. */
  add(used: UsedPermits, place: number, count: number): boolean {
    const { add, exchange } = Atomics
    const before = <Result>(write: (words: any, index: number, value: any) => Result): typeof write => {
      return (...args) => {
        while (!this.#isIn && this.#random.chance(0.5)) this.#readMessage()
        return write(...args)
      }
    }
    Object.assign(Atomics, { add: before(add), exchange: before(exchange) })
    try {
      return !used.add(place, count)
    } finally {
      Object.assign(Atomics, { add, exchange })
    }
  }

  /** What others do before the next step of the supervisor. */
  others(): void {
    while (this.#isIn && this.#random.chance(0.45)) {
      if (this.#random.chance(0.2)) this.#arrive(this.#random.pick(this.#lanes))
      else this.#random.pick(this.workers).step(this, this.#random)
    }
  }

  #arrive(lane: Lane): void {
    if (lane.toCome === 0) return
    lane.toCome--
    lane.queue++
    if (!lane.news) writeSync(lane.writer.borrow(), 'x')
    lane.news = true
  }

  async #step(): Promise<void> {
    const random = this.#random
    const { stops, kills, exhausts, foreign, leaves } = this.weather
    const worker = random.pick(this.workers)
    const choice = random.weighted([
      [6, 'work'],
      [2, 'arrive'],
      [3, 'message'],
      [2, 'wake'],
      [stops ? 0.5 : 0, 'stop'],
      [stops ? 0.5 : 0, 'continue'],
      [kills ? 0.1 : 0, 'kill'],
      [kills ? 0.5 : 0, 'bury'],
      [exhausts ? 0.3 : 0, 'exhaust'],
      [foreign ? 0.2 : 0, 'foreign'],
      [leaves ? 0.3 : 0, 'leave'],
      [1, 'timer']
    ] as const)
    if (choice === 'work') worker.step(this, random)
    else if (choice === 'arrive') this.#arrive(random.pick(this.#lanes))
    else if (choice === 'message') this.#readMessage()
    else if (choice === 'wake') await this.#wake()
    else if (choice === 'stop') worker.suspended = true
    else if (choice === 'continue') worker.suspended = worker.blocked = false
    else if (choice === 'kill') worker.killed = true
    else if (choice === 'bury') this.#bury()
    else if (choice === 'exhaust') worker.exhausted = !worker.exhausted
    else if (choice === 'foreign') this.accept(random.pick(this.#lanes).name)
    else if (choice === 'leave') {
      worker.serves = !worker.serves
      this.#balance()
    } else if (choice === 'timer') this.#fire()
  }

  /** The supervisor does something. */
  #enter(what: () => void): void {
    this.#isIn = true
    try {
      what()
    } finally {
      this.#isIn = false
    }
  }

  #readMessage(): void {
    const senders = this.workers.filter(({ messages }) => messages.length > 0)
    if (senders.length === 0) return
    const worker = this.#random.pick(senders)
    const message = worker.messages.shift()!
    worker.sent -= message.count - message.taken
    const lane = this.#lanes.find(({ name }) => name === message.name)!
    this.#enter(() => lane.listener.accepted(worker.recipient, message))
  }

  async #wake(): Promise<void> {
    this.#isIn = true
    for (let i = 0; i < 2; i++) await turn()
    this.#isIn = false
  }

  #fire(): void {
    const [timer] = this.#timers
    if (timer === undefined) return
    this.#timers.delete(timer)
    this.#enter(timer)
  }

  /** The supervisor notices what has ended. `serve`: all others serve again. */
  #bury(serve = false): void {
    for (const worker of this.workers) {
      worker.ended ||= worker.killed
      worker.serves ||= serve
    }
    this.#balance()
  }

  #balance(): void {
    const servers = this.workers.filter(({ ended, serves }) => !ended && serves)
    const recipients = servers.map(({ recipient }) => recipient)
    for (const { listener } of this.#lanes) this.#enter(() => listener.balance(recipients, this.workers.length))
  }

  /** Until nobody has anything to do. */
  async #comeToRest(): Promise<void> {
    for (const worker of this.workers) worker.exhausted = false // else one would try again and again
    if (this.workers.some(({ killed, ended }) => killed && !ended)) this.#bury()
    for (let quiet = 0; quiet < 3; quiet++) {
      await this.#wake()
      for (; this.#timers.size > 0; this.#fire()) this.#count()
      const hostile = this.workers.find(worker => worker.hostile)
      for (let i = 0; i < 5; i++) hostile?.step(this, this.#random)
      for (;;) {
        this.#count()
        const busy = this.workers.filter(worker => !worker.hostile && !worker.rests)
        if (busy.length > 0) this.#random.pick(busy).step(this, this.#random)
        else if (this.workers.some(({ messages }) => messages.length > 0)) this.#readMessage()
        else break
        quiet = 0
      }
    }
  }

  #count(): void {
    if (++this.#steps > MOST_STEPS) throw new Error('it does not come to rest')
  }

  #check(when: string): void {
    const { exhausts, foreign, leaves, kills, hostile, uncounted, rule } = this.weather
    const free = this.workers.filter(({ runs, serves, hostile }) => runs && serves && !hostile)
    if (free.length === 0) return
    const kept = this.workers.filter(worker => worker.serves && !worker.killed && !free.includes(worker))
    for (const { name, queue } of this.#lanes) {
      const most = uncounted ? 0 : kept.reduce((sum, { open }) => sum + (open.get(name) ?? 0), 0)
      if (queue > most) this.failure ??= `${when}: ${queue} wait, busy workers have ${most}, and a worker is idle`
    }
    if (exhausts || foreign || leaves || kills || hostile || uncounted) return
    const wasted = this.workers.reduce((sum, worker) => sum + worker.wasted, 0)
    if (wasted > 0) this.failure ??= `${when}: ${wasted} permits too many`
    for (const { name } of this.#lanes) {
      const told = this.workers.map(worker => worker.told.get(name) ?? 0)
      const isFull = told.some(count => count >= MAX_PERMITS)
      if (rule === 'round-robin' && !isFull && Math.max(...told) - Math.min(...told) > 1)
        this.failure ??= `${when}: not in turn (${told})`
    }
  }

  #replaceSystem(): () => void {
    const originals = {
      edgeSet: native.edgeSet,
      edgeAdd: native.edgeAdd,
      edgeReady: native.edgeReady,
      queued: native.queued
    }
    const { setTimeout, clearTimeout } = globalThis
    native.edgeAdd = () => 0
    native.edgeReady = set => {
      const lane = this.#lanes.find(one => one.set === set)!
      if (lane.news) readSync(set, Buffer.alloc(1))
      lane.news = false
      return 1
    }
    native.queued = fd => {
      this.others()
      const { queue } = this.#lanes.find(one => one.fd === fd)!
      return this.weather.uncounted && queue > 0 ? EAGAIN : queue
    }
    globalThis.setTimeout = ((action: () => void) => {
      this.#timers.add(action)
      return action
    }) as never
    globalThis.clearTimeout = (timer => {
      if (!this.#timers.delete(timer as never)) clearTimeout(timer)
    }) as typeof clearTimeout
    return () => {
      Object.assign(native, originals)
      Object.assign(globalThis, { setTimeout, clearTimeout })
    }
  }
}
