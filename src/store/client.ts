/** `connectStore()` and `StoreClient`: puts descriptors into a store, and gets them back. */
import { EventEmitter } from 'node:events'
import { AsyncContext } from '../base/async-context.ts'
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkOwnCopy, checkPathText, checkType, invalid } from '../base/check.ts'
import { asError, PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { time } from '../base/timers.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { decodeKept, encodeKept } from '../codec/kept-value.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { userIdOf } from '../os/account.ts'
import { Changes, type StoreChange } from './changes.ts'
import { now } from './deadlines.ts'
import { type LeaseOwner, StoreLease } from './lease.ts'
import { Link, type LinkAddress, type LinkOptions, type Welcome } from './link.ts'
import { type Given, MAX_DESCRIPTORS, MAX_VALUE, readGiven, type StoredEntry, type Told } from './messages.ts'
import { checkName, checkPattern } from './names.ts'

export interface StoreClientOptions {
  /** Decides whether a process may be the store. Default: a process of the same user, or root. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** How long a request waits while the store can't be reached, in ms: then it rejects with ERR_PASSFD_STORE_UNREACHABLE. Default 30,000; 0: for ever. */
  reconnectTimeout?: number
  /** Ends the attempt to connect, with Node's AbortError. */
  signal?: AbortSignal
}

export interface NamedOptions {
  /** Whose name it is: a user's number or name in /etc/passwd. Default: this process's user. The store's rules decide. */
  owner?: number | string
}

export interface PutOptions extends NamedOptions {
  /** A value beside the descriptors: what standard msgpack has, without Descriptors; at most 65,536 bytes. */
  value?: unknown
  /** The store removes the entry after so many ms. Default: never. */
  ttl?: number
  /** Whether the store removes the entry when the other end hangs up. Default: true for connected sockets only, because a pipe may hold unread bytes. */
  poll?: boolean
  /** Keeps a copy in this client, which puts it again if the store is lost. Default false: then the store's death is the entry's. */
  keep?: boolean
  /** Replaces an entry of this name. Default false: that is ERR_PASSFD_STORE_EXISTS. */
  replace?: boolean
}

export interface SelectOptions extends NamedOptions {
  /** A name, or the beginning of names and a `*`. Default: every name. `owner`: default every user whose names this process may read. */
  names?: string
}

export interface WatchOptions extends SelectOptions {
  /** Ends the iteration. */
  signal?: AbortSignal
}

/** What `copy()` gives. */
export interface StoredCopy extends Omit<StoredEntry, 'ttl' | 'leased'> {
  readonly ttl?: number
  /** Duplicates, which the caller owns. */
  readonly descriptors: readonly Descriptor[]
  /** The first of them. */
  readonly descriptor: Descriptor
  readonly value: unknown
}

export interface StoreClientEvents {
  /** Connected again. `lost`: the store was lost with everything in it, and what was put with `keep` is being put again. */
  reconnected: [how: { lost: boolean }]
  /** An entry that was put with `keep` is gone from the store: taken, removed, replaced, expired or hung up. Its copies here are closed. */
  gone: [entry: { name: string; owner: number | undefined }]
  /** What was put with `keep` could not be put again. Its copies are closed. Without a listener it is a process warning. */
  lost: [entry: { name: string; owner: number | undefined }, error: Error]
}

const OPTIONS = {
  authorize: 'method',
  reconnectTimeout: true,
  signal: true
} as const satisfies KnownOptions<StoreClientOptions>
const NAMED = { owner: true } as const satisfies KnownOptions<NamedOptions>
const PUT = {
  owner: true,
  value: true,
  ttl: true,
  poll: true,
  keep: true,
  replace: true
} as const satisfies KnownOptions<PutOptions>
const SELECT = { owner: true, names: true } as const satisfies KnownOptions<SelectOptions>
const WATCH = { ...SELECT, signal: true } as const satisfies KnownOptions<WatchOptions>
/** How long `obtain()` waits for another process that has bound an address and has not put it yet, in ms. */
const OBTAIN = 2000
const OBTAIN_PAUSE = 20

/** A put that is repeated if the store is lost. */
interface Kept {
  readonly name: string
  readonly owner: number | undefined
  descriptors: readonly Descriptor[]
  readonly fields: object
  /** In ms of `now()`. */
  readonly deadline: number | undefined
  /** Undefined: it is being put. */
  entry: number | undefined
  /** Other clients may have copies of it, too, and put it again. */
  readonly isShared: boolean
}

interface PutAnswer {
  entry: number
  gone?: boolean
}

/**
 * Connects to a store. The client connects again by itself when the store is replaced or started again, and repeats what was not answered; a request is done
 * once. Rejects as `connect()`.
 */
export async function connectStore(address: LinkAddress, options: StoreClientOptions = {}): Promise<StoreClient> {
  const { authorize, reconnectTimeout, signal } = readOptions(options, OPTIONS)
  checkType(authorize, 'authorize', 'a function', value => typeof value === 'function')
  checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
  const path = typeof address === 'string' ? address : (address as { path?: unknown } | null)?.path
  if (typeof path === 'string') checkPathText(path, 'address')
  const client = makeClient(address, {
    authorize,
    reconnectTimeout: time(reconnectTimeout, 'options.reconnectTimeout', 30_000, 0),
    signal
  })
  try {
    await open(client)
  } catch (error) {
    await client.close()
    throw error
  }
  return client
}

let makeClient: (address: LinkAddress, options: LinkOptions) => StoreClient
let open: (client: StoreClient) => Promise<void>

/** A client of a store. It keeps the process running only while a request or a watch is under way. */
export class StoreClient extends EventEmitter<StoreClientEvents> implements AsyncDisposable {
  readonly #link: Link
  readonly #context = new AsyncContext('PASSFD_STORE_CLIENT')
  readonly #kept = new Set<Kept>()
  readonly #leases = new Set<StoreLease>()
  readonly #watches = new Map<number, { changes: Changes; request: object }>()
  readonly #leaseOwner: LeaseOwner
  #nextWatch = 1
  /** How many puts with `keep` wait for their answers, and numbers of entries that are gone and were not known. */
  #putting = 0
  readonly #goneEarly = new Set<number>()

  private constructor(address: LinkAddress, options: LinkOptions) {
    super()
    markUncloneable(this)
    this.#link = new Link(address, options, {
      kept: () => [...this.#kept].flatMap(({ entry }) => entry ?? []),
      connected: (welcome, how) => this.#connected(welcome, how),
      onTold: told => this.#onTold(told)
    })
    this.#leaseOwner = {
      keep: lease => this.#settleLease('keep', lease),
      release: lease => this.#settleLease('release', lease),
      over: lease => void this.#leases.delete(lease),
      putBack: (given, descriptors) => this.#putBack(given, descriptors)
    }
  }

  /** The store's process; undefined while it can't be reached. */
  get peer(): Peer | undefined {
    return this.#link.peer
  }

  /**
   * Puts descriptors into the store under a name, and moves them: when the promise resolves, the store has them, and this process's Descriptors
   * are closed.
   *
   * If it rejects, they are still the caller's. Rejects with ERR_PASSFD_STORE_EXISTS, _FULL, _DENIED, _LEASED, _POLL, _UNREACHABLE, _UNKNOWN; throws misuse.
   */
  async put(
    name: string,
    descriptors: Descriptor | readonly Descriptor[],
    options: PutOptions = {}
  ): Promise<{ entry: number }> {
    return this.#putNamed(name, descriptors, options, false)
  }

  async #putNamed(
    name: string,
    descriptors: Descriptor | readonly Descriptor[],
    options: PutOptions,
    isShared: boolean
  ): Promise<{ entry: number }> {
    checkName(name)
    const given = descriptorsOf(descriptors)
    const { owner, keep = false, ttl, value, poll, replace = false } = readOptions(options, PUT)
    for (const [option, flag] of Object.entries({ poll, keep, replace }))
      checkType(flag, option, 'true or false', one => typeof one === 'boolean')
    if (ttl !== undefined) checkInteger(ttl, 'options.ttl', 1, Number.MAX_SAFE_INTEGER)
    const kept = {
      name,
      owner: ownerOf(owner),
      fields: {
        ...(value === undefined ? {} : { value: encodedValue(value) }),
        ...(poll === undefined ? {} : { poll }),
        replace,
        keep
      },
      deadline: ttl === undefined ? undefined : now() + ttl,
      isShared
    }
    const copies = duplicates(given)
    try {
      const entry = await this.#putFirst({ ...kept, descriptors: copies, entry: undefined }, keep)
      for (const descriptor of given) descriptor[Symbol.dispose]()
      return { entry }
    } catch (error) {
      closeAll(copies)
      throw error
    }
  }

  async #putFirst(put: Kept, keep: boolean): Promise<number> {
    if (!keep) {
      const { entry } = (await this.#put(put)) as PutAnswer
      closeAll(put.descriptors)
      return entry
    }
    this.#kept.add(put)
    try {
      const answer = await this.#putKept(put)
      return answer.entry
    } catch (error) {
      this.#kept.delete(put)
      throw error
    }
  }

  /** That the entry is gone may be told before the answer is handled here. */
  async #putKept(put: Kept): Promise<PutAnswer> {
    this.#putting++
    try {
      const answer = (await this.#put(put)) as PutAnswer
      put.entry = answer.entry
      if (answer.gone === true || this.#goneEarly.has(answer.entry)) this.#gone(answer.entry)
      return answer
    } finally {
      if (--this.#putting === 0) this.#goneEarly.clear()
    }
  }

  /**
   * Takes an entry out of the store: a lease.
   *
   * The caller owns the descriptors, and calls `keep()` when it can use them; if this process ends before that, or calls `release()`, the entry
   * is in the store again. Resolves to undefined if there is no entry of this name.
   *
   * Rejects with ERR_PASSFD_STORE_LEASED if another process has taken it, _DENIED, _UNREACHABLE.
   */
  async take(name: string, options: NamedOptions = {}): Promise<StoreLease | undefined> {
    const given = readGiven(
      await this.#link.change(id => ({ do: 'take', ...id, ...named(name, options) }), MAX_DESCRIPTORS)
    )
    if (given === undefined) return undefined
    const lease = new StoreLease(given, this.#leaseOwner)
    this.#leases.add(lease)
    try {
      lease.read(keptValue(given))
      return lease
    } catch (error) {
      await lease.release().catch(() => {})
      throw error
    }
  }

  /** Duplicates the descriptors of an entry, which stays in the store. Resolves to undefined if there is none of this name. Rejects as `take()`. */
  async copy(name: string, options: NamedOptions = {}): Promise<StoredCopy | undefined> {
    const given = readGiven(await this.#link.ask({ do: 'copy', ...named(name, options) }, MAX_DESCRIPTORS))
    if (given === undefined) return undefined
    try {
      const { leased: _, ...entry } = given
      return { ...entry, descriptor: given.descriptors[0]!, value: keptValue(given) }
    } catch (error) {
      closeAll(given.descriptors)
      throw error
    }
  }

  /**
   * Resolves to a descriptor of the entry, which the caller owns: a copy of what the store has under this name, else of what `make` returns,
   * which is put.
   *
   * So several processes that start at once share one listener, and a killed one finds it again. `keep` is on unless the options say otherwise.
   *
   * Rejects as `copy()` and `put()`, and with the error of `make`.
   */
  async obtain(
    name: string,
    make: () => Descriptor | Promise<Descriptor>,
    options: Omit<PutOptions, 'replace'> = {}
  ): Promise<Descriptor> {
    if (typeof make !== 'function') throw invalid('make', 'a function', make)
    const { owner, keep = true } = options
    const whose = owner === undefined ? {} : { owner }
    for (const began = performance.now(); ; ) {
      const found = readGiven(await this.#link.ask({ do: 'copy', ...named(name, whose) }, MAX_DESCRIPTORS))
      if (found !== undefined) {
        const [descriptor, ...further] = found.descriptors
        try {
          if (keep) await this.#keepFound(found, ownerOf(owner))
          return descriptor!
        } catch (error) {
          descriptor![Symbol.dispose]()
          throw error
        } finally {
          closeAll(further)
        }
      }
      let made: Descriptor
      try {
        made = await make()
      } catch (error) {
        // Another process has bound it, and is about to put it
        const { code } = asError(error) as NodeJS.ErrnoException
        if (code !== 'EADDRINUSE' || performance.now() - began > OBTAIN) throw error
        await new Promise(resolve => setTimeout(resolve, OBTAIN_PAUSE))
        continue
      }
      try {
        const copy = made.dup()
        try {
          await this.#putNamed(name, copy, { keep: true, ...options }, true)
        } catch (error) {
          copy[Symbol.dispose]()
          throw error
        }
        return made
      } catch (error) {
        made[Symbol.dispose]()
        if ((error as { code?: string }).code !== 'ERR_PASSFD_STORE_EXISTS') throw error
      }
    }
  }

  /** Keeps copies of an entry that another client has put. The descriptors stay the caller's. */
  async #keepFound({ entry, name, descriptors, value, ttl, poll }: Given, owner: number | undefined): Promise<void> {
    if ([...this.#kept].some(kept => kept.entry === entry)) return
    const kept: Kept = {
      name,
      owner,
      descriptors: duplicates(descriptors),
      fields: { ...(value === undefined || value === null ? {} : { value }), poll, replace: false, keep: true },
      deadline: ttl === undefined || ttl === null ? undefined : now() + ttl,
      entry,
      isShared: true
    }
    this.#kept.add(kept)
    if (!(await this.#isThere(kept))) this.#drop(kept)
  }

  /** Whether the store has the entry, and will tell this client when it is gone. False for one that another user has put. */
  async #isThere(kept: Kept): Promise<boolean> {
    try {
      // Another store may have other entries with these numbers; what was lost is put again
      const request = () => ({ do: 'kept', entries: kept.entry === undefined ? [] : [kept.entry] })
      const { gone } = (await this.#link.ask(request)) as { gone: number[] }
      return gone.length === 0
    } catch (error) {
      this.#drop(kept)
      throw error
    }
  }

  /** Resolves to all entries that match, in the order in which they were put. */
  async list(options: SelectOptions = {}): Promise<StoredEntry[]> {
    const request = selected(readOptions(options, SELECT))
    const entries: StoredEntry[] = []
    for (let after: number | undefined = 0; after !== undefined; ) {
      const part = (await this.#link.ask({ do: 'list', ...request, after })) as {
        entries: StoredEntry[]
        after?: number
      }
      entries.push(...part.entries)
      after = part.after ?? undefined
    }
    return entries
  }

  /** Removes an entry, and the store closes its descriptors. Resolves to false if there is none of this name. Rejects as `take()`. */
  async remove(name: string, options: NamedOptions = {}): Promise<boolean> {
    return (await this.#link.change(id => ({ do: 'remove', ...id, ...named(name, options) }))) === true
  }

  /**
   * Iterates over what happens to entries. First comes `{ event: 'list', entries }` with all that match, and again after each reconnect and whenever this program reads
   * too slowly: what came before is void then. `break` ends it.
   */
  watch(options: WatchOptions = {}): AsyncIterableIterator<StoreChange> {
    const { signal, ...select } = readOptions(options, WATCH)
    checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
    const selection = selected(select)
    let watch = 0
    const changes = new Changes(signal, {
      again: () => {
        this.#unwatch(watch)
        watch = this.#watch(changes, selection)
      },
      ended: () => {
        this.#unwatch(watch)
        this.#link.release()
      }
    })
    this.#link.hold()
    watch = this.#watch(changes, selection)
    if (signal?.aborted) changes.end()
    return changes
  }

  /** Gives up the copies of what was put with `keep` under this name; the store goes on holding it. Returns whether there were any. */
  forget(name: string, options: NamedOptions = {}): boolean {
    checkName(name)
    const owner = ownerOf(readOptions(options, NAMED).owner)
    const found = [...this.#kept].filter(one => one.name === name && one.owner === owner)
    for (const kept of found) this.#drop(kept)
    return found.length > 0
  }

  /** Ends the connection. What was taken and not kept is in the store again; copies of what was put with `keep` are closed. */
  async close(): Promise<void> {
    for (const { changes } of [...this.#watches.values()]) changes.end()
    for (const kept of this.#kept) closeAll(kept.descriptors)
    this.#kept.clear()
    await this.#link.close()
    this.#context.end()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // --- requests

  /** A new number each time, so that messages of an earlier watch are not taken for those of this one. */
  #watch(changes: Changes, selection: object): number {
    const watch = this.#nextWatch++
    const request = { do: 'watch', watch, ...selection }
    this.#watches.set(watch, { changes, request })
    this.#link.ask(request).catch(error => changes.end(asError(error)))
    return watch
  }

  #unwatch(watch: number): void {
    if (this.#watches.delete(watch)) this.#link.ask({ do: 'unwatch', watch }).catch(() => {})
  }

  #put({ name, owner, descriptors, fields, deadline }: Kept): Promise<unknown> {
    return this.#link.change(id => {
      const left = deadline === undefined ? undefined : Math.max(1, Math.round(deadline - now()))
      return {
        do: 'put',
        ...id,
        name,
        ...(owner === undefined ? {} : { owner }),
        descriptors: duplicates(descriptors),
        ...fields,
        ...(left === undefined ? {} : { ttl: left })
      }
    })
  }

  async #settleLease(what: 'keep' | 'release', lease: StoreLease): Promise<void> {
    await this.#link.change(id => {
      // The store that has lost it can't be asked any more
      lease.checkNotOver()
      return { do: what, ...id, entry: lease.entry }
    })
  }

  /** What was leased from a store that was lost. A client with copies may have put it again already. */
  async #putBack({ name, owner, value, poll, ttl }: Given, descriptors: readonly Descriptor[]): Promise<void> {
    const fields = { ...(value === undefined ? {} : { value }), poll, replace: false, keep: false }
    const deadline = ttl === undefined ? undefined : now() + ttl
    try {
      await this.#put({ name, owner, descriptors, fields, deadline, entry: undefined, isShared: false })
    } catch (error) {
      if ((error as { code?: string }).code !== 'ERR_PASSFD_STORE_EXISTS') throw error
    } finally {
      closeAll(descriptors)
    }
  }

  // --- what the store says

  #connected({ gone, leases }: Welcome, { isLost, died }: { isLost: boolean; died: boolean }): void {
    const left = new Set(leases)
    for (const lease of [...this.#leases]) {
      if (isLost) lease.storeWasLost(died)
      else if (!left.has(lease.entry)) lease.isOver()
    }
    if (isLost) {
      // What is being put is repeated by the link
      for (const kept of [...this.#kept]) if (kept.entry !== undefined) void this.#putAgain(kept)
    } else for (const number of gone) this.#gone(number)
    for (const { request, changes } of this.#watches.values()) {
      changes.restart()
      this.#link.ask(request).catch(error => changes.end(asError(error)))
    }
    this.#emit('reconnected', { lost: isLost })
  }

  async #putAgain(kept: Kept): Promise<void> {
    const { name, owner, deadline } = kept
    kept.entry = undefined
    if (deadline !== undefined && deadline <= now()) {
      this.#drop(kept)
      return
    }
    try {
      await this.#putKept(kept)
    } catch (thrown) {
      const error = asError(thrown)
      if (!this.#kept.has(kept)) return
      if (kept.isShared && (await this.#isPutByAnother(kept, error))) return
      this.#drop(kept)
      if (!this.#emit('lost', { name, owner }, error))
        process.emitWarning(`${name} could not be put into the store again: ${error.message}`)
    }
  }

  /** Another client has put again what both have: this one keeps what is there. */
  async #isPutByAnother(kept: Kept, { code }: NodeJS.ErrnoException): Promise<boolean> {
    if (code !== 'ERR_PASSFD_STORE_EXISTS') return false
    const { name, owner } = kept
    try {
      const whose = owner === undefined ? {} : { owner }
      const found = readGiven(await this.#link.ask({ do: 'copy', name, ...whose }, MAX_DESCRIPTORS))
      if (!this.#kept.has(kept)) closeAll(found?.descriptors ?? [])
      else if (found !== undefined) {
        closeAll(kept.descriptors)
        kept.descriptors = found.descriptors
        kept.entry = found.entry
      }
      const isGone = this.#kept.has(kept) && !(found !== undefined && (await this.#isThere(kept)))
      // It may be told meanwhile
      if (isGone && this.#kept.has(kept)) {
        this.#drop(kept)
        this.#emit('gone', { name, owner })
      }
      return true
    } catch {
      return !this.#kept.has(kept)
    }
  }

  #onTold(told: Told): void {
    if (told.event === 'gone') this.#gone(told.entry)
    else this.#watches.get(told.watch)?.changes.push(told)
  }

  #gone(number: number): void {
    const kept = [...this.#kept].find(({ entry }) => entry === number)
    if (kept !== undefined) {
      this.#drop(kept)
      this.#emit('gone', { name: kept.name, owner: kept.owner })
    } else if (this.#putting > 0) this.#goneEarly.add(number)
  }

  #drop(kept: Kept): void {
    this.#kept.delete(kept)
    closeAll(kept.descriptors)
  }

  /** Nothing that a listener throws disturbs the client. */
  #emit<Name extends keyof StoreClientEvents>(name: Name, ...values: StoreClientEvents[Name]): boolean {
    return this.#context.tell(this, name, ...values)
  }

  static {
    makeClient = (address, options) => new StoreClient(address, options)
    open = client => client.#link.open()
  }
}
mark(StoreClient, 'StoreClient')

function descriptorsOf(given: Descriptor | readonly Descriptor[]): readonly Descriptor[] {
  checkOwnCopy(given, 'descriptors', 'a Descriptor of this copy of passfd')
  const list = given instanceof Descriptor ? [given] : given
  const isList = Array.isArray(list) && list.every(one => one instanceof Descriptor)
  if (!isList || list.length === 0 || list.length > MAX_DESCRIPTORS)
    throw invalid('descriptors', `a Descriptor, or a list of 1 to ${MAX_DESCRIPTORS}`, given)
  return [...list]
}

/** Throws the error that says what took a descriptor, and makes none then. */
function duplicates(descriptors: readonly Descriptor[]): Descriptor[] {
  const copies: Descriptor[] = []
  try {
    for (const descriptor of descriptors) copies.push(descriptor.dup())
    return copies
  } catch (error) {
    closeAll(copies)
    throw error
  }
}

function encodedValue(value: unknown): Buffer {
  const bytes = encodeKept(value)
  if (bytes.length <= MAX_VALUE) return bytes
  throw new PassfdError('STORE_FULL', { what: `${bytes.length} bytes of a value`, limit: MAX_VALUE })
}

function keptValue({ value }: Given): unknown {
  return value === undefined || value === null ? undefined : decodeKept(value)
}

function named(name: string, options: NamedOptions): { name: string; owner?: number } {
  checkName(name)
  const owner = ownerOf(readOptions(options, NAMED).owner)
  return { name, ...(owner === undefined ? {} : { owner }) }
}

function selected({ names, owner }: SelectOptions): { names?: string; owner?: number } {
  const uid = ownerOf(owner)
  return {
    ...(names === undefined ? {} : { names: checkPattern(names, 'options.names') }),
    ...(uid === undefined ? {} : { owner: uid })
  }
}

function ownerOf(owner: number | string | undefined): number | undefined {
  return owner === undefined ? undefined : userIdOf(owner, 'options.owner')
}

function closeAll(descriptors: readonly Descriptor[]): void {
  for (const descriptor of descriptors) descriptor[Symbol.dispose]()
}
