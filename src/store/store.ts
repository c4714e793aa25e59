/** `openStore()` and `Store`: a holder of descriptors by name. */
import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { setTimeout as later } from 'node:timers/promises'
import { AsyncContext } from '../base/async-context.ts'
import { deferred } from '../base/deferred.ts'
import { abortError, asError, type Failure, PassfdError } from '../base/errors.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { type Channel, sessionOf } from '../channel/channel.ts'
import type { Message } from '../channel/message.ts'
import { type ChannelServer, type listen, listenOwn } from '../channel/server.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { type Report, type Seat, takeOver } from '../takeover/index.ts'
import { warnOf } from '../takeover/place.ts'
import { ClientState } from './client-state.ts'
import type { Entry, EntryFacts } from './entry.ts'
import { checkFree, Holdings } from './holdings.ts'
import {
  badRequest,
  type EntryEvent,
  type Given,
  isBloated,
  MAX_REQUEST,
  MAX_VALUES,
  type Put,
  type Request,
  readRequest,
  type Told,
  VERSION
} from './messages.ts'
import { matches } from './names.ts'
import { type OpenStoreOptions, type StoreAddress, type StoreSettings, storeSettings } from './options.ts'
import { Records } from './records.ts'
import type { Right } from './rules.ts'
import { clientOf, entryOf, readState, type State, stateOfClient, stateOfEntry } from './state.ts'
import { Turns } from './turns.ts'
import { Watch } from './watch.ts'
import { Watches } from './watches.ts'

/** How long a takeover may keep clients waiting, in ms: 10,000 descriptors take half a second. */
const TAKEOVER = 20_000
/** The time to the next try to listen, in ms. */
const AGAIN = 50
/** What it takes to write a message to a channel of its own (sendmsg(2)), in ms. */
const WRITE = 0.02
/** The name of the store's socket among the listeners of a takeover. */
const LISTENER = 'store'
/** What a client may have sent and the store has not begun to do: bytes, and requests. */
const WINDOW = 131_072
const MAX_PENDING = 256

export interface StoreEvents {
  /** Another process has this store now, with all that it holds. This one answers no more. */
  superseded: [successor: Peer]
  /** A peer was refused: see ServerEvents. */
  refused: [peer: Peer, error: Failure]
  /** The kernel gives the store no connection (limit of open files): see ServerEvents. Without a listener it is a process warning. */
  acceptError: [error: Failure]
  /** What a takeover could not do. Without a listener it is a process warning. */
  report: [report: Report]
}

/** What a store holds, in numbers. */
export interface StoreStatus {
  readonly names: number
  readonly descriptors: number
  /** Of all names and values. */
  readonly bytes: number
  readonly clients: number
}

type StoreListenAddress = Parameters<typeof listen>[0]

/** A client's channel. */
interface Session {
  readonly channel: Channel<unknown, Told>
  readonly uid: number
  state: ClientState
  readonly watches: Map<number, Watch>
  /** In the order of their handshakes. */
  readonly number: number
  ended: boolean
  /** The client has a newer channel: nothing that came on this one is done any more. */
  replaced: boolean
  /** It has made a request. */
  begun: boolean
}

/** Requests wait while the state is given to a successor. */
interface Frozen {
  readonly waiting: { perform(): void; fail(error: Error): void }[]
  readonly left: Session[]
  /** Answers that have not arrived meanwhile. */
  readonly returned: (() => void)[]
}

/**
 * Opens a store, and resolves when it answers clients.
 *
 * With `takeover` it takes the place of the process that has this store, with all that it holds; if that is not there, it is empty.
 *
 * Rejects with the system's error (EADDRINUSE, EACCES, …), ERR_PASSFD_INVALID_ARGUMENT, ERR_PASSFD_ACTIVATED_…, an AbortError, or as
 * `takeOver()`. The store of the predecessor goes on then.
 */
export async function openStore(address: StoreAddress, options: OpenStoreOptions = {}): Promise<Store> {
  const store = makeStore(storeSettings(address, options))
  await open(store)
  return store
}

let makeStore: (settings: StoreSettings) => Store
let open: (store: Store) => Promise<void>

/** A holder of descriptors: the result of `openStore()`. It keeps the process running until `close()`, or until a successor has it. */
export class Store extends EventEmitter<StoreEvents> implements AsyncDisposable {
  readonly #settings: StoreSettings
  readonly #holdings: Holdings
  readonly #watches: Watches
  /** By user: descriptors of answers that may be under way. */
  readonly #onTheWay = new Map<number, number>()
  readonly #turns = new Turns()
  readonly #context = new AsyncContext('PASSFD_STORE')
  readonly #ended = deferred()
  #nextSession = 1
  readonly #sessions = new Map<Channel<any, any>, Session>()
  readonly #records: Records
  #epoch: Buffer = randomBytes(16)
  #server: ChannelServer<unknown, Told> | undefined
  #seat: Seat<State> | undefined
  #frozen: Frozen | undefined
  #isSuperseded = false
  #closing: Promise<void> | undefined

  private constructor(settings: StoreSettings) {
    super()
    markUncloneable(this)
    this.#settings = settings
    this.#holdings = new Holdings(settings.quotas, { onEvent: (event, entry) => this.#onEvent(event, entry) })
    this.#watches = new Watches((uid, owner) => settings.rules.allowSome('read', uid, owner))
    this.#records = new Records({
      isFrozen: () => this.#frozen !== undefined,
      releaseAll: state => this.#holdings.releaseAll(state)
    })
  }

  /** What it holds now. */
  get status(): StoreStatus {
    return { ...this.#holdings.amount, clients: this.#sessions.size }
  }

  /** The process that had this store before; undefined: there was none. */
  get predecessor(): Peer | undefined {
    return this.#seat?.predecessor
  }

  /** Whether another process has this store now. */
  get superseded(): boolean {
    return this.#isSuperseded
  }

  /** Resolves when the store is closed, or a successor has it and every client was told. */
  get ended(): Promise<void> {
    return this.#ended.promise
  }

  /** Closes the store, and all that it holds. After a takeover it waits until every client was told. Never rejects. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // --- its life

  async #open(): Promise<void> {
    const { address, takeover, signal } = this.#settings
    if (takeover === undefined) {
      if (signal?.aborted) throw abortError(signal)
      const { path, activated, ...file } = address as { path?: string; activated?: string }
      const where = { ...(path === undefined ? {} : { path }), ...(activated === undefined ? {} : { activated }) }
      await this.#listen(where as StoreListenAddress, file)
      return
    }
    const seat = await takeOver<State>({
      path: takeover,
      listeners: { [LISTENER]: address },
      signals: false,
      exit: false,
      freezeTimeout: TAKEOVER,
      inheritTimeout: TAKEOVER,
      ...(signal === undefined ? {} : { signal })
    })
    this.#seat = seat
    seat.on('report', report => this.#report(report))
    seat.on('superseded', successor => this.#letGo(successor))
    let listener: Descriptor | undefined
    try {
      const given = await seat.inherit({ accepts: { version: VERSION } })
      const state = given === undefined ? undefined : readState(given)
      listener = seat.descriptor(LISTENER) // now, so that the seat does not miss a server of it
      await seat.ready({ freeze: () => this.#freeze(), thaw: () => this.#thaw() })
      if (state !== undefined) this.#restore(state)
    } catch (error) {
      listener?.[Symbol.dispose]()
      await seat[Symbol.asyncDispose]()
      throw error
    }
    // This process has everything now, so it does not give up
    for (let isReported = false; this.#closing === undefined; isReported = true) {
      try {
        await this.#listen(listener ?? seat.descriptor(LISTENER), {})
        return
      } catch (error) {
        listener = undefined // closed
        if (!isReported)
          this.#report({ code: 'path', message: `The store can't answer yet: ${asError(error).message}` })
        await later(AGAIN)
      }
    }
    listener?.[Symbol.dispose]()
  }

  async #listen(address: StoreListenAddress, more: object): Promise<void> {
    const { maxConnections, maxConnectionsPerUser, maxUnclaimedTotal, authorize } = this.#settings
    const limits = {
      authorize,
      maxConnections,
      maxConnectionsPerUser,
      maxUnclaimedTotal,
      window: WINDOW,
      maxMessage: MAX_REQUEST,
      maxPending: MAX_PENDING,
      records: false
    }
    const server = await listenOwn<unknown, Told>(address, { ...more, ...limits }, MAX_VALUES)
    this.#server = server
    server.on('acceptError', error => {
      if (!this.#emit('acceptError', error)) process.emitWarning(error)
    })
    server.on('refused', (peer, error) => this.#emit('refused', peer, error))
    server.on('channel', channel => this.#sessionOf(channel))
    server.serve(message => this.#serve(message), {
      concurrency: 1, // in order, and the rest waits within the window
      onError: () => {}
    })
    void server.closed.then(() => this.close())
  }

  async #close(): Promise<void> {
    const isOwner = !this.#isSuperseded
    if (isOwner) this.#freezeRequests()
    this.#refuseWaiting()
    for (const session of this.#sessions.values()) this.#endWatches(session)
    await this.#server?.close()
    this.#records.close()
    if (isOwner) await this.#seat?.stop()
    else await this.#seat?.ended
    this.#holdings.close()
    this.#ended.resolve()
    this.#context.end()
  }

  // --- takeover

  #freezeRequests(): void {
    this.#frozen ??= { waiting: [], left: [], returned: [] }
  }

  #freeze(): State {
    this.#freezeRequests()
    this.#holdings.pause()
    return {
      version: VERSION,
      epoch: this.#epoch,
      next: this.#holdings.next,
      entries: [...this.#holdings.entries].map(stateOfEntry),
      clients: [...this.#records.all.values()].map(stateOfClient)
    }
  }

  #thaw(): void {
    const frozen = this.#frozen
    this.#frozen = undefined
    this.#holdings.resume()
    for (const comeBack of frozen?.returned ?? []) comeBack()
    for (const session of frozen?.left ?? []) this.#left(session)
    for (const { perform } of frozen?.waiting ?? []) perform()
  }

  #restore({ epoch, next, entries, clients }: State): void {
    this.#epoch = Buffer.from(epoch)
    const states = clients.map(clientOf)
    for (const state of states) this.#records.add(state)
    this.#holdings.restore(
      entries.map(entry => entryOf(entry, this.#records.all)),
      next
    )
    for (const state of states) this.#records.await(state)
  }

  #letGo(successor: Peer): void {
    this.#isSuperseded = true
    this.#freezeRequests()
    this.#emit('superseded', successor)
    void this.close()
  }

  #refuseWaiting(): void {
    for (const { fail } of this.#frozen?.waiting.splice(0) ?? []) fail(new PassfdError('STORE_MOVED'))
  }

  // --- clients

  #sessionOf(channel: Channel<unknown, Told>): Session {
    let session = this.#sessions.get(channel)
    if (session === undefined) {
      const { uid } = channel.peer
      session = {
        channel,
        uid,
        state: anonymous(uid, channel),
        watches: new Map(),
        number: this.#nextSession++,
        ended: false,
        replaced: false,
        begun: false
      }
      this.#sessions.set(channel, session)
      const ended = session
      void channel.closed.then(() => this.#leave(ended))
      channel.on('returned', ({ value }) => {
        if (this.#frozen === undefined) this.#comeBack(value, ended)
        else this.#frozen.returned.push(() => this.#comeBack(value, ended))
      })
    }
    return session
  }

  #leave(session: Session): void {
    session.ended = true
    this.#sessions.delete(session.channel)
    this.#endWatches(session)
    if (this.#frozen === undefined) this.#left(session)
    else this.#frozen.left.push(session)
  }

  #left({ state, channel }: Session): void {
    if (state.channel !== channel) return
    state.channel = undefined
    this.#holdings.releaseAll(state)
    if (state.key !== undefined) this.#records.remember(state)
  }

  // --- requests

  #serve(message: Message<unknown>): unknown {
    const session = this.#sessionOf(message.channel)
    if (!message.isRequest) {
      session.channel.destroy(badRequest('it is no request'))
      return undefined
    }
    const { uid } = session
    if (this.#frozen === undefined && this.#turns.isFree(uid) && !this.#isCrowded(uid))
      return this.#turns.now(uid, () => this.#answer(message, session))
    return new Promise((resolve, fail) => {
      const perform = (): void => {
        try {
          resolve(this.#answer(message, session))
        } catch (error) {
          fail(error)
        }
      }
      const begin = (): void =>
        this.#turns.later(uid, () => {
          if (this.#closing !== undefined) fail(new PassfdError('STORE_MOVED'))
          else if (this.#frozen !== undefined) this.#frozen.waiting.push({ perform, fail })
          else if (this.#isCrowded(uid)) setTimeout(begin, AGAIN).unref()
          else perform()
        })
      begin()
    })
  }

  /**
   * Whether the clients of a user have not confirmed so many descriptors that its requests wait. The kernel counts what is under way for the store's user, and
   * refuses at the limit of open files (ETOOMANYREFS, unix(7)): a client that does not read must not use that up for all.
   */
  #isCrowded(uid: number): boolean {
    if ((this.#onTheWay.get(uid) ?? 0) < this.#settings.maxOnTheWay) return false
    let count = 0
    for (const session of this.#sessions.values())
      if (session.uid === uid) count += sessionOf(session.channel).custody.out
    if (count === 0) this.#onTheWay.delete(uid)
    else this.#onTheWay.set(uid, count)
    return count >= this.#settings.maxOnTheWay
  }

  /** Counts what an answer carries, until `#isCrowded()` counts what of that is confirmed. */
  #give(entry: Entry, { uid }: Session): Given {
    this.#onTheWay.set(uid, (this.#onTheWay.get(uid) ?? 0) + entry.facts.descriptors.length)
    return entry.given()
  }

  /** Resolves when the client reads its answers: the next request of its channel waits until then. */
  #answer(message: Message<unknown>, session: Session): Promise<void> {
    // What it takes to decode is not measured
    if (isBloated(message.value)) this.#turns.charge(session.uid)
    const answer = this.#perform(message, session)
    try {
      return message.reply(answer)
    } catch (error) {
      this.#comeBack(answer, session)
      closeAll(answer)
      throw error
    }
  }

  #perform(message: Message<unknown>, session: Session): unknown {
    const request = this.#read(message, session)
    // Nobody would get the answer. What was to be put is put
    if (session.replaced || (session.ended && request.do !== 'put')) throw new PassfdError('STORE_MOVED')
    if (request.do === 'hello') return this.#hello(request, session)
    session.begun = true
    const isNumbered = 'id' in request && request.id !== undefined && session.state.key !== undefined
    if (!isNumbered) return this.#do(request, session)
    const { state } = session
    const { id, seen } = request as { id: number; seen: number }
    state.forget(seen)
    if (id <= state.seen) throw badRequest(`id ${id} was seen`)
    const before = state.doneBefore(id)
    if (before !== undefined)
      return request.do === 'put' ? this.#putBefore(request, before.result, state) : before.result
    const result = this.#do(request, session)
    // A take is known by its lease
    if (request.do !== 'take') state.note({ id, result })
    return result
  }

  #read(message: Message<unknown>, { uid }: Session): Request {
    try {
      return readRequest(message.value)
    } catch (error) {
      this.#turns.charge(uid)
      throw error
    }
  }

  #do(request: Exclude<Request, { do: 'hello' }>, session: Session): unknown {
    const { state, channel } = session
    switch (request.do) {
      case 'put':
        return this.#put(request, session)
      case 'take': {
        const entry = this.#find(['read', 'write'], request, state)
        if (entry === undefined) return null
        const isRepeated = request.id !== undefined && entry.lease?.client === state && entry.lease.id === request.id
        if (!isRepeated) this.#holdings.lease(entry, { client: state, id: request.id, pid: channel.peer.pid })
        try {
          return this.#give(entry, session)
        } catch (error) {
          if (!isRepeated) this.#holdings.release(entry.facts.entry, state)
          throw error
        }
      }
      case 'copy': {
        const entry = this.#find(['read'], request, state)
        if (entry === undefined) return null
        checkFree(entry)
        return this.#give(entry, session)
      }
      case 'kept':
        return { gone: this.#notKept(request.entries, state) }
      case 'keep':
        this.#holdings.keep(request.entry, state)
        return null
      case 'release':
        this.#holdings.release(request.entry, state)
        return null
      case 'remove': {
        const entry = this.#find(['write'], request, state)
        if (entry !== undefined) this.#holdings.remove(entry)
        return entry !== undefined
      }
      case 'list':
        return this.#holdings.part(request.after, this.#shown(request, state))
      case 'watch':
        this.#watch(request, session)
        return null
      default:
        this.#unwatch(request.watch, session)
        return null
    }
  }

  #put(request: Put, { state, channel, ended }: Session): { entry: number } {
    const { owner = state.uid, name } = request
    this.#check('write', state.uid, owner, name)
    const by = { uid: state.uid, pid: channel.peer.pid }
    const keeper = request.keep && !ended ? state : undefined
    return { entry: this.#holdings.put(request, owner, by, keeper).facts.entry }
  }

  /** The answer to a put that was done: the client has not known the number of the entry until now. */
  #putBefore({ keep }: Put, result: unknown, state: ClientState): unknown {
    const answer = result as { entry: number } | null | boolean
    if (typeof answer !== 'object' || answer === null) throw badRequest('id is that of another request')
    const entry = this.#holdings.get(answer.entry)
    if (entry === undefined) return { ...answer, gone: true }
    if (keep) this.#holdings.keepFor(entry, state)
    return answer
  }

  #hello({ store, client, kept }: Request & { do: 'hello' }, session: Session): unknown {
    if (store < VERSION) throw badRequest('store is no version from 1 on')
    if (session.begun || session.state.key !== undefined) throw badRequest('hello is not the first request')
    const known = this.#records.all.get(client)
    const { uid } = session.state
    if (known !== undefined && known.uid !== uid) throw badRequest('client is the number of another client')
    const current = known?.channel === undefined ? undefined : this.#sessions.get(known.channel)
    if (current !== undefined && current.number > session.number) {
      this.#replace(session)
      throw new PassfdError('STORE_MOVED')
    }
    if (current !== undefined) this.#replace(current)
    const state = known ?? new ClientState(uid, client)
    state.channel = session.channel
    this.#records.add(state)
    session.state = state
    const gone = this.#notKept(kept, state)
    return { store: VERSION, epoch: this.#epoch, known: known !== undefined, gone, leases: [...state.leases] }
  }

  /** The client has copies of these entries. Returns those that are not there, or are another user's. */
  #notKept(kept: readonly number[], state: ClientState): number[] {
    return kept.filter(number => {
      const entry = this.#holdings.get(number)
      const isMine = entry !== undefined && entry.facts.uid === state.uid
      if (isMine) this.#holdings.keepFor(entry, state)
      return !isMine
    })
  }

  /** Ends an older channel of a client at once. What is unread there is not done. */
  #replace(session: Session): void {
    session.state = anonymous(session.uid, session.channel)
    session.replaced = true
    this.#endWatches(session)
    session.channel.destroy()
  }

  #endWatches(session: Session): void {
    for (const number of [...session.watches.keys()]) this.#unwatch(number, session)
  }

  #watch({ watch: number, ...selection }: Request & { do: 'watch' }, session: Session): void {
    const { watches, state, channel, uid } = session
    if (watches.has(number)) throw badRequest(`watch ${number} is there`)
    this.#watches.checkRoom(uid, watches.size)
    const watch = new Watch(number, {
      part: (after, shown) => this.#holdings.part(after, shown),
      shows: this.#shown(selection, state),
      send: told => {
        this.#turns.charge(uid, WRITE) // it leaves at the end of the turn of the loop
        return send(channel, told)
      },
      later: work => this.#turns.later(uid, work)
    })
    watches.set(number, watch)
    this.#watches.add(uid, watch)
  }

  #unwatch(number: number, { watches, uid }: Session): void {
    const watch = watches.get(number)
    if (watch === undefined) return
    watches.delete(number)
    this.#watches.end(uid, watch)
  }

  /** The entries that a client selects and may read. Throws ERR_PASSFD_STORE_DENIED if it may read nothing of the owner that it names. */
  #shown(
    { names, owner }: { names: string | undefined; owner: number | undefined },
    { uid }: ClientState
  ): (entry: { readonly facts: EntryFacts }) => boolean {
    const { rules } = this.#settings
    if (owner !== undefined && !rules.allowSome('read', uid, owner)) throw denied('read', uid, owner, names ?? '*')
    return ({ facts }) =>
      (owner === undefined || facts.owner === owner) &&
      (names === undefined || matches(names, facts.name)) &&
      rules.allow('read', uid, facts.owner, facts.name)
  }

  #find(
    rights: readonly Right[],
    { owner: given, name }: { owner: number | undefined; name: string },
    { uid }: ClientState
  ): Entry | undefined {
    const owner = given ?? uid
    for (const right of rights) this.#check(right, uid, owner, name)
    return this.#holdings.find(owner, name)
  }

  #check(right: Right, uid: number, owner: number, name: string): void {
    if (!this.#settings.rules.allow(right, uid, owner, name)) throw denied(right, uid, owner, name)
  }

  /** An answer has not arrived. */
  #comeBack(value: unknown, { state }: Session): void {
    const { entry: number } = (value ?? {}) as { entry?: unknown }
    const entry = typeof number === 'number' ? this.#holdings.get(number) : undefined
    if (entry?.lease?.client === state && (value as { descriptors?: unknown }).descriptors !== undefined)
      this.#holdings.release(entry.facts.entry, state)
  }

  #onEvent(event: EntryEvent, entry: Entry): void {
    this.#watches.onEvent(event, entry)
    if (event === 'put' || event === 'leased' || event === 'returned') return
    for (const { channel } of entry.keepers)
      if (channel !== undefined) void send(channel, { event: 'gone', entry: entry.facts.entry })
  }

  // --- its program

  #report(report: Report): void {
    if (!this.#emit('report', report)) warnOf(report)
  }

  /** Nothing that a listener throws disturbs the store. */
  #emit<Name extends keyof StoreEvents>(name: Name, ...values: StoreEvents[Name]): boolean {
    return this.#context.tell(this, name, ...values)
  }

  static {
    makeStore = settings => new Store(settings)
    open = store => store.#open()
  }
}
mark(Store, 'Store')

/** Closes the descriptors of an answer that was not sent. */
function closeAll(answer: unknown): void {
  const { descriptors = [] } = (answer ?? {}) as { descriptors?: readonly Descriptor[] }
  for (const descriptor of descriptors) descriptor[Symbol.dispose]()
}

function anonymous(uid: number, channel: Channel<unknown, Told>): ClientState {
  const state = new ClientState(uid, undefined)
  state.channel = channel
  return state
}

/** Resolves when the queue is short again, or the channel has ended. A client that can't be told ends: when it connects again, it learns what it has missed. */
async function send(channel: Channel<unknown, Told>, told: Told): Promise<void> {
  try {
    await channel.send(told)
  } catch (error) {
    channel.destroy(asError(error))
  }
}

function denied(right: Right, uid: number, owner: number, name: string): PassfdError {
  const data = { right, uid, owner, name }
  return new PassfdError('STORE_DENIED', data, { data })
}
