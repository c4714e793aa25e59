/**
 * The dispatch policy: the supervisor accepts, many connections in one call and without an object of Node's for each, and sends them
 * on, many in one message. A worker that dies before it has taken them gives them back, and others get them.
 */
import { type Descriptor, own, take } from '../descriptor.ts'
import { Watcher } from '../loop.ts'
import { ADDRESS, FAILED, native } from '../native.ts'
import { addressOf, type Bound, closeBound, type ListenAddress } from './bound.ts'
import { type Loan, MAX_UNCONFIRMED } from './control.ts'
import { Heads } from './heads.ts'
import type { Listener, ListenerEvents } from './listener.ts'
import type { Dispatch, Route } from './options.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Connections accepted in one call. */
const ACCEPT_BATCH = 64
/** At the limit of open files accepting rests for this many ms: no event tells when there is room again. */
const ACCEPT_PAUSE = 50

type Place = WorkerProcess | 'anybody'

const accepted = new Int32Array(ACCEPT_BATCH)
const addresses = Buffer.alloc(ACCEPT_BATCH * ADDRESS)

export class DispatchedListener implements Listener {
  readonly name: string
  readonly #bound: Bound
  readonly #rule: Dispatch['dispatch']
  readonly #heads: Heads<Place> | undefined
  readonly #watcher: Watcher
  readonly #events: ListenerEvents
  /** Connections that no worker could be given yet. */
  readonly #waiting: number[] = []
  #servers: readonly WorkerProcess[] = []
  #slots = 1
  #turn = 0
  #accepting = false
  #pause: NodeJS.Timeout | undefined
  #closed = false

  constructor(bound: Bound, { dispatch, maxHead, headTimeout }: Dispatch, events: ListenerEvents) {
    this.name = bound.name
    this.#bound = bound
    this.#rule = dispatch
    this.#events = events
    if (typeof dispatch === 'function')
      this.#heads = new Heads<Place>(maxHead!, headTimeout!, {
        decide: (head, ended, address) => this.#route(dispatch, head, ended, address),
        take: (fd, place) => (place === 'anybody' ? this.#place([fd]) : this.#send(new Map([[place, [fd]]])))
      })
    this.#watcher = new Watcher(bound.descriptor.borrow(), happened => this.#accept(happened))
    this.#watcher.want(false, false)
  }

  loan(): Loan {
    return { dispatched: true }
  }

  balance(servers: readonly WorkerProcess[], slots: number): void {
    this.#servers = servers
    this.#slots = slots
    this.#resume()
  }

  giveBack(connections: readonly Descriptor[]): void {
    for (const connection of connections) this.#waiting.push(take(connection, 'the supervisor'))
    this.#resume()
  }

  address(): ListenAddress {
    return addressOf(this.#bound.descriptor.borrow())
  }

  /** What waits in the queue still goes to the workers. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#pause)
    this.#watcher.end()
    while (this.#servers.length > 0 && this.#acceptBatch() === ACCEPT_BATCH);
    this.#heads?.close()
    this.#place(this.#waiting.splice(0))
    for (const fd of this.#waiting.splice(0)) native.close(fd) // there is nobody left
    await closeBound(this.#bound)
  }

  // --- accepting

  /** Gives out what waits; accepts if somebody has room for more. */
  #resume(): void {
    if (this.#waiting.length > 0) this.#place(this.#waiting.splice(0))
    this.#want(this.#waiting.length === 0 && this.#candidates().length > 0)
  }

  #want(accepting: boolean): void {
    if (this.#accepting === accepting || this.#closed) return
    this.#accepting = accepting
    this.#watcher.want(accepting, false)
  }

  #accept(happened: number): void {
    if (!this.#accepting || this.#closed) return
    const count = this.#acceptBatch()
    if (count < 0 || (happened & FAILED) !== 0) this.#rest()
  }

  /** Returns how many, or what is wrong. */
  #acceptBatch(): number {
    const wanted = this.#heads !== undefined || this.#rule === 'address'
    const count = native.acceptMany(this.#bound.descriptor.borrow(), accepted, ACCEPT_BATCH, wanted ? addresses : null)
    if (count <= 0) return count
    if (this.#heads !== undefined) for (let i = 0; i < count; i++) this.#heads.add(accepted[i]!, addressAt(i))
    else if (this.#rule === 'address') this.#placeByAddress(count)
    else this.#place(Array.from(accepted.subarray(0, count)))
    return count
  }

  #rest(): void {
    this.#want(false)
    clearTimeout(this.#pause)
    this.#pause = setTimeout(() => this.#resume(), ACCEPT_PAUSE)
  }

  // --- choosing

  #candidates(): readonly WorkerProcess[] {
    return this.#servers.filter(server => server.unconfirmed < MAX_UNCONFIRMED)
  }

  /** To whoever's turn it is. */
  #place(fds: readonly number[]): void {
    const candidates = this.#candidates()
    const chosen = new Map<WorkerProcess, number[]>()
    for (const fd of fds) {
      const worker = this.#choose(candidates, chosen)
      if (worker === undefined) this.#waiting.push(fd)
      else push(chosen, worker, fd)
    }
    this.#send(chosen)
  }

  #choose(
    candidates: readonly WorkerProcess[],
    chosen: ReadonlyMap<WorkerProcess, readonly number[]>
  ): WorkerProcess | undefined {
    if (candidates.length === 0) return undefined
    this.#turn = (this.#turn + 1) % candidates.length
    const next = candidates[this.#turn]!
    if (this.#rule !== 'least-connections') return next
    const burden = (worker: WorkerProcess) => worker.sent + (chosen.get(worker)?.length ?? 0)
    return candidates.reduce((least, worker) => (burden(worker) < burden(least) ? worker : least), next)
  }

  #placeByAddress(count: number): void {
    const chosen = new Map<WorkerProcess, number[]>()
    const rest: number[] = []
    for (let i = 0; i < count; i++) {
      const address = addressAt(i)
      const worker = address === undefined ? undefined : this.#inSlot(hash(address) % this.#slots)
      if (worker === undefined) rest.push(accepted[i]!)
      else push(chosen, worker, accepted[i]!)
    }
    this.#send(chosen)
    this.#place(rest)
  }

  #inSlot(slot: number): WorkerProcess | undefined {
    return this.#servers.find(server => server.slot === slot && server.unconfirmed < MAX_UNCONFIRMED)
  }

  /** The worker, or 'anybody'; undefined: more bytes are wanted. */
  #route(route: Route, head: Buffer, ended: boolean, remoteAddress: string | undefined): Place | undefined {
    let answer: ReturnType<Route>
    try {
      const workers = this.#servers.map(server => server.info())
      const connection = { listener: this.name, head, ended }
      answer = route(remoteAddress === undefined ? connection : { ...connection, remoteAddress }, workers)
    } catch (error) {
      this.#events.onRouteFailed(error)
    }
    if (answer === 'more' && !ended) return undefined
    return (typeof answer === 'number' ? this.#inSlot(answer) : undefined) ?? 'anybody'
  }

  #send(chosen: ReadonlyMap<WorkerProcess, readonly number[]>): void {
    for (const [worker, fds] of chosen) {
      worker.sent += fds.length
      const room = worker.send({ type: 'connections', name: this.name, connections: fds.map(own) })
      if (worker.unconfirmed >= MAX_UNCONFIRMED) void room.then(() => this.#resume())
    }
    if (this.#waiting.length > 0) this.#want(false)
  }
}

function push(chosen: Map<WorkerProcess, number[]>, worker: WorkerProcess, fd: number): void {
  const fds = chosen.get(worker)
  if (fds === undefined) chosen.set(worker, [fd])
  else fds.push(fd)
}

function addressAt(index: number): string | undefined {
  const length = addresses[index * ADDRESS]!
  return length === 0 ? undefined : addresses.toString('latin1', index * ADDRESS + 1, index * ADDRESS + 1 + length)
}

/** FNV-1a: the same client gets to the same slot under every supervisor. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return value >>> 0
}
