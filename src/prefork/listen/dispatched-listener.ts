/**
 * The dispatch policy: the supervisor decides which worker gets a connection.
 *
 * - For round-robin and least-connections it counts the waiting connections, and tells workers how many to accept. Meanwhile only the kernel has
 *   them, so a killed supervisor loses none.
 * - To choose by address or first bytes it must accept: many connections in one call, sent on in one message. If a worker dies before it has
 *   taken them, they come back, and other workers get them. It also accepts for workers of old releases, which can't be told to accept.
 */

import { EINVAL } from '../../base/errno.ts'
import { systemError } from '../../base/errors.ts'
import { MAX_RIGHTS } from '../../base/kernel-limits.ts'
import { type Descriptor, moveOut, own } from '../../descriptor/descriptor.ts'
import { ACCEPT_BATCH, ACCEPT_PAUSE, Acceptor, type Outcome } from '../../os/acceptor.ts'
import { ADDRESS, native } from '../../os/native.ts'
import { addressOf, type Bound, closeBound, type ListenAddress } from '../../serving/bound-socket.ts'
import { endListeners } from '../../serving/last-accept.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import { areCounted, type Dispatch, type Route } from '../balance.ts'
import { type Accepted, MAX_PERMITS, MAX_UNCONFIRMED } from '../control/control.ts'
import { AcceptPermits } from './accept-permits.ts'
import { FirstBytes } from './first-bytes.ts'
import type { Ending, Listener, ListenerEvents } from './listener.ts'
import type { Recipient } from './recipient.ts'

type Place = Recipient | 'anybody'

/** The connections that one worker is sent, or is told to accept. */
interface Share {
  readonly worker: Recipient
  /** How many more it may get. */
  room: number
  /** How many it gets. */
  count: number
  readonly fds: number[]
}

/** It looks again if a worker has counted meanwhile, so often at most: a worker that changes its count all the time must not keep it. */
const MOST_LOOKS = 8
const accepted = new Int32Array(ACCEPT_BATCH)
const addresses = Buffer.alloc(ACCEPT_BATCH * ADDRESS)

export class DispatchedListener implements Listener {
  readonly name: string
  readonly closesAtOnce: boolean
  readonly #bound: Bound
  readonly #rule: Dispatch['dispatch']
  readonly #firstBytes: FirstBytes<Place> | undefined
  /** Undefined: this process accepts all connections. */
  readonly #permits: AcceptPermits | undefined
  readonly #acceptor: Acceptor | undefined
  /** Further lanes of a predecessor. This process accepts from them, because closing a lane resets the connections in its queue. */
  readonly #further: { readonly descriptor: Descriptor; acceptor: Acceptor | undefined }[]
  readonly #events: ListenerEvents
  /** Accepted connections that no worker had room for. */
  readonly #waiting: number[] = []
  #servers: readonly Recipient[] = []
  #slots = 1
  #turn = 0
  #accepting = false
  #pause: NodeJS.Timeout | undefined
  /** Workers that could not accept, each with the timer of its next try. */
  readonly #unable = new Map<Recipient, NodeJS.Timeout>()
  /** Processes whose failure to accept was reported. Undefined stands for this process. */
  readonly #exhausted = new Set<Recipient | undefined>()
  /** From now on it accepts only connections that already wait. */
  #ending = false
  #closed = false

  /** `further` is moved in, if it does not throw. */
  constructor(
    bound: Bound,
    { dispatch, maxHead, headTimeout }: Dispatch,
    events: ListenerEvents,
    further: readonly Descriptor[] = []
  ) {
    this.#further = further.map(descriptor => ({ descriptor, acceptor: undefined }))
    this.name = bound.name
    this.closesAtOnce = bound.closesAtOnce
    this.#bound = bound
    this.#rule = dispatch
    this.#events = events
    if (typeof dispatch === 'function')
      this.#firstBytes = new FirstBytes<Place>(maxHead!, headTimeout!, {
        decide: (head, ended, address) => this.#route(dispatch, head, ended, address),
        take: (fd, place) => this.#give(fd, place)
      })
    const fd = bound.descriptor.borrow()
    if (areCounted({ dispatch })) {
      this.#permits = new AcceptPermits(bound.name, fd, () => {
        if (this.#accepting) this.#tellToAccept()
      })
      return
    }
    try {
      this.#acceptor = new Acceptor(fd, {
        accept: () => this.#acceptBatch(fd),
        onExhausted: error => this.#events.onAcceptError(error, this.name)
      })
    } catch (error) {
      this.#firstBytes?.close()
      throw error
    }
  }

  grant(): ListenerGrant {
    return { dispatched: true, listener: this.#bound.descriptor.dup(), own: this.#bound.own }
  }

  balance(servers: readonly Recipient[], slots: number): void {
    this.#servers = servers
    this.#slots = slots
    this.#permits?.forgetAllBut(servers)
    for (const worker of this.#exhausted) if (worker?.ended === true) this.#exhausted.delete(worker)
    this.#resume()
  }

  accepted(worker: Recipient, { count, taken, error = 0 }: Accepted): void {
    if (this.#permits === undefined || this.#ending) return
    this.#permits.confirm(worker, count)
    if (taken > 0) this.#exhausted.delete(worker)
    if (error < 0) {
      this.#cannotAccept(error, worker)
      clearTimeout(this.#unable.get(worker))
      const retry = setTimeout(() => {
        this.#unable.delete(worker)
        this.#resume()
      }, ACCEPT_PAUSE)
      this.#unable.set(worker, retry)
    }
    this.#resume()
  }

  workerIsFree(): void {
    this.#resume()
  }

  giveBack(connections: readonly Descriptor[]): void {
    for (const connection of connections) this.#waiting.push(moveOut(connection, 'the supervisor'))
    this.#resume()
  }

  address(): ListenAddress {
    return addressOf(this.#bound.descriptor.borrow())
  }

  sockets(): readonly Descriptor[] {
    return [this.#bound.descriptor, ...this.#further.map(({ descriptor }) => descriptor)]
  }

  offered(): void {}

  begin(): void {
    for (const lane of this.#further) {
      const fd = lane.descriptor.borrow()
      lane.acceptor ??= new Acceptor(fd, {
        accept: () => this.#acceptBatch(fd),
        onExhausted: error => this.#events.onAcceptError(error, this.name)
      })
      lane.acceptor.want(this.#accepting)
    }
  }

  /** Its workers still get the connections that this process has accepted. */
  release(give: (connections: readonly number[]) => void): void {
    if (this.#ending) return
    this.#endAccepting()
    this.#closed = true
    this.#giveRest(give)
    for (const socket of this.sockets()) socket.close()
  }

  #endAccepting(): void {
    this.#ending = true
    clearTimeout(this.#pause)
    for (const retry of this.#unable.values()) clearTimeout(retry)
    this.#acceptor?.end()
    this.#permits?.end()
    for (const { acceptor } of this.#further) acceptor?.end()
  }

  #giveRest(give: (connections: readonly number[]) => void): void {
    this.#firstBytes?.close()
    this.#place(this.#waiting.splice(0))
    // No worker is ready, but workers that stop on their own still serve connections that they are sent
    const rest = this.#waiting.splice(0)
    if (rest.length > 0) give(rest)
  }

  /** The workers still get the queued connections, each up to twice as many as otherwise. */
  async close({ exclusive, served, give }: Ending): Promise<void> {
    if (this.#ending) return
    this.#endAccepting()
    const fds = this.sockets().map(socket => socket.borrow())
    await closeBound(this.#bound, async () => {
      if (served && exclusive && this.#bound.own) await endListeners(fds, fd => this.#acceptAll(fd))
      this.#closed = true
      if (served) for (const fd of fds) this.#acceptAll(fd)
      this.#giveRest(give)
    })
    for (const { descriptor } of this.#further) descriptor.close()
  }

  // --- accepting

  /** Gives out the waiting connections, and accepts more if some worker has taken all that it was sent. */
  #resume(): void {
    if (this.#waiting.length > 0) this.#place(this.#waiting.splice(0))
    const wanted = this.#waiting.length === 0 && this.#isAwaited()
    if (wanted && this.#permits !== undefined) this.#tellToAccept()
    else this.#want(wanted)
  }

  /**
   * Whether some worker has taken all that it was given. Until then new connections wait in the kernel, and later leave in one message:
   * accepting each as it comes would wake this process and a worker for each one. No client waits while a worker is idle.
   */
  #isAwaited(): boolean {
    const permits = this.#permits
    return this.#servers.some(
      worker =>
        !worker.unreachable &&
        (permits !== undefined && worker.knowsAccept ? permits.of(worker) === 0 : worker.unconfirmed === 0)
    )
  }

  #want(accepting: boolean): void {
    if (this.#accepting === accepting || this.#ending) return
    this.#accepting = accepting
    this.#acceptor?.want(accepting)
    this.#permits?.want(accepting)
    for (const { acceptor } of this.#further) acceptor?.want(accepting)
  }

  /** Tells workers to accept the waiting connections that no worker was told to accept yet. Some worker wants more. */
  #tellToAccept(): void {
    if (this.#ending) return
    const permits = this.#permits!
    for (let looks = 0; looks < MOST_LOOKS; looks++) {
      this.#giveOut(permits)
      if (!this.#accepting || permits.areCertain()) return
    }
  }

  #giveOut(permits: AcceptPermits): void {
    let waiting = permits.countWaiting()
    if (waiting === 0) {
      this.#want(true)
      return
    }
    const shares = this.#shares().map(share => ({ ...share, room: this.#permitsFor(share) }))
    let able = shares.filter(({ room }) => room > 0)
    if (waiting === undefined) {
      // The number is unknown, so each idle worker accepts one, whatever other workers were told
      able = able.filter(({ worker }) => (worker.knowsAccept ? permits.of(worker) : worker.unconfirmed) === 0)
      waiting = able.length
      for (const share of able) share.room = 1
    }
    for (; waiting > 0; waiting--) {
      const share = this.#choose(able)
      if (share === undefined) break
      share.count++
      share.room--
    }
    let rests = false
    for (const share of able) rests = !this.#permit(share) || rests
    if (!rests) this.#want(waiting === 0 && this.#isAwaited())
  }

  #permitsFor({ worker, room }: Share): number {
    if (this.#unable.has(worker)) return 0
    return worker.knowsAccept ? MAX_PERMITS - this.#permits!.unused(worker) : Math.min(room, ACCEPT_BATCH)
  }

  /** Returns false if this process had to accept, and rests because it can't. */
  #permit(share: Share): boolean {
    const { worker, count } = share
    if (count === 0) return true
    if (worker.knowsAccept) {
      this.#permits!.add(worker, count)
      worker.accept(this.name, count)
      return true
    }
    const taken = native.acceptMany(this.#bound.descriptor.borrow(), accepted, count, null)
    if (taken < 0) {
      this.#cannotAccept(taken)
      this.#rest()
    }
    if (taken > 0) {
      this.#exhausted.delete(undefined)
      this.#send([{ ...share, fds: Array.from(accepted.subarray(0, taken)) }])
    }
    return taken >= 0
  }

  /** Accepts all connections that wait in a lane now. Returns false if some are left. */
  #acceptAll(fd: number): boolean {
    for (;;) {
      const { count, error } = this.#acceptBatch(fd)
      // EINVAL: the listener was shut down, so its queue is empty
      if (count === 0) return error === 0 || error === EINVAL
    }
  }

  #acceptBatch(lane: number): Outcome {
    const wanted = this.#firstBytes !== undefined || this.#rule === 'address'
    const count = native.acceptMany(lane, accepted, ACCEPT_BATCH, wanted ? addresses : null)
    if (count <= 0) return { count: 0, error: count }
    const fds = Array.from(accepted.subarray(0, count))
    if (!wanted) this.#place(fds)
    else {
      const from = fds.map((_, index) => addressAt(index)) // all at once: a route function may cause the next accept, which overwrites `addresses`
      if (this.#firstBytes === undefined) this.#placeByAddress(fds, from)
      else for (let i = 0; i < count; i++) this.#firstBytes.add(fds[i]!, from[i])
    }
    return { count, error: 0 }
  }

  /** Emits the event once for each process, until that process has accepted a connection. */
  #cannotAccept(errno: number, worker?: Recipient): void {
    if (this.#exhausted.has(worker)) return
    this.#exhausted.add(worker)
    this.#events.onAcceptError(systemError(errno, 'accept4'), this.name)
  }

  #rest(): void {
    if (this.#ending) return
    this.#want(false)
    clearTimeout(this.#pause)
    this.#pause = setTimeout(() => this.#resume(), ACCEPT_PAUSE)
  }

  // --- choosing

  /** Returns how many more connections a worker may be sent. */
  #roomOf(worker: Recipient): number {
    return (this.#closed ? 2 : 1) * MAX_UNCONFIRMED - worker.unconfirmed
  }

  #shares(): Share[] {
    const shares: Share[] = []
    for (const worker of this.#servers) {
      if (worker.ended || worker.unreachable) continue
      const room = this.#roomOf(worker)
      if (room > 0) shares.push({ worker, room, count: 0, fds: [] })
    }
    return shares
  }

  /** Gives the connection to the next worker in turn. */
  #place(fds: readonly number[], shares = this.#shares()): void {
    for (const fd of fds) {
      const share = this.#choose(shares)
      if (share !== undefined) add(share, fd)
      else this.#waiting.push(fd)
    }
    this.#send(shares)
  }

  #choose(shares: readonly Share[]): Share | undefined {
    let chosen: Share | undefined
    for (let i = 0; i < shares.length; i++) {
      this.#turn = (this.#turn + 1) % shares.length
      const share = shares[this.#turn]!
      if (share.room === 0) continue
      if (this.#rule !== 'least-connections') return share
      if (chosen === undefined || burden(share) < burden(chosen)) chosen = share
    }
    if (chosen !== undefined) this.#turn = shares.indexOf(chosen) // the next search begins behind it, so equal workers take turns
    return chosen
  }

  #placeByAddress(fds: readonly number[], from: readonly (string | undefined)[]): void {
    const shares = this.#shares()
    const rest: number[] = []
    for (const [index, fd] of fds.entries()) {
      const address = from[index]
      const slot = address === undefined ? -1 : hash(address) % this.#slots
      const share = shares.find(({ worker, room }) => worker.slot === slot && room > 0)
      if (share === undefined) rest.push(fd)
      else add(share, fd)
    }
    this.#place(rest, shares)
  }

  /** Returns the worker, or 'anybody'. Undefined: the route function wants more bytes. */
  #route(route: Route, head: Buffer, ended: boolean, remoteAddress: string | undefined): Place | undefined {
    let answer: ReturnType<Route>
    try {
      const workers = this.#servers.map(server => server.info())
      const connection = { listener: this.name, head, ended }
      const asked = remoteAddress === undefined ? connection : { ...connection, remoteAddress }
      answer = this.#events.context.run(() => route(asked, workers))
    } catch (error) {
      this.#events.onRouteFailed(error)
    }
    if (answer === 'more' && !ended) return undefined
    return this.#servers.find(({ slot }) => slot === answer) ?? 'anybody'
  }

  #give(fd: number, place: Place): void {
    const shares = this.#shares()
    const share = shares.find(({ worker }) => worker === place)
    if (share === undefined) this.#place([fd], shares)
    else {
      add(share, fd)
      this.#send([share])
    }
  }

  #send(shares: readonly Share[]): void {
    for (const { worker, fds, room } of shares) {
      if (fds.length === 0) continue
      worker.sent += fds.length
      for (let at = 0; at < fds.length; at += MAX_RIGHTS) {
        const connections = fds.slice(at, at + MAX_RIGHTS).map(own)
        const sent = worker.send({ type: 'connections', name: this.name, connections })
        if (room === 0 && at + MAX_RIGHTS >= fds.length) void sent.then(() => this.#resume())
      }
    }
    if (this.#waiting.length > 0 || !this.#isAwaited()) this.#want(false)
  }
}

function add(share: Share, fd: number): void {
  share.fds.push(fd)
  share.count++
  share.room--
}

function burden({ worker, count }: Share): number {
  return worker.sent + count
}

function addressAt(index: number): string | undefined {
  const length = addresses[index * ADDRESS]!
  return length === 0 ? undefined : addresses.toString('latin1', index * ADDRESS + 1, index * ADDRESS + 1 + length)
}

/** FNV-1a, so that every supervisor sends a client to the same slot. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return value >>> 0
}
