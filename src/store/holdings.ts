/** All entries of a store. It knows neither sockets nor rules. */
import { PassfdError } from '../base/errors.ts'
import { type Descriptor, moveOutShared } from '../descriptor/descriptor.ts'
import { discard } from '../os/loop.ts'
import type { ClientState } from './client-state.ts'
import { Deadlines, now } from './deadlines.ts'
import { amountOf, Entry, type EntryFacts, type Lease } from './entry.ts'
import { checkPollable, HangUps, isConnected } from './hang-ups.ts'
import type { EntryEvent, Put, StoredEntry } from './messages.ts'
import { type Amount, type Quotas, Usage } from './quota.ts'

/** The most entries, and bytes, of one part of a list; and how many entries are looked at for it. */
const PART_ENTRIES = 100
const PART_BYTES = 65_536
const LOOKED_AT = 2000

export interface HoldingsOwner {
  /** Called after each change. The entry may be gone. */
  onEvent(event: EntryEvent, entry: Entry): void
}

export interface Part {
  readonly entries: readonly StoredEntry[]
  /** There may be more behind this number. */
  readonly after?: number
}

export class Holdings {
  readonly #owner: HoldingsOwner
  readonly #usage: Usage
  /** By owner, then by name. */
  readonly #names = new Map<number, Map<string, Entry>>()
  readonly #numbers = new Map<number, Entry>()
  /** Rising; of some the entry is gone. */
  #order: number[] = []
  readonly #deadlines = new Deadlines<Entry>(entry => this.#end(entry, 'expired'))
  readonly #hangUps = new HangUps<Entry>(entry => this.#end(entry, 'hangUp'))
  /** The number of the next entry. */
  #next = 1

  constructor(quotas: Quotas, owner: HoldingsOwner) {
    this.#usage = new Usage(quotas)
    this.#owner = owner
  }

  get next(): number {
    return this.#next
  }

  get amount(): Amount {
    return this.#usage.all
  }

  get entries(): Iterable<Entry> {
    return this.#numbers.values()
  }

  find(owner: number, name: string): Entry | undefined {
    const entry = this.#names.get(owner)?.get(name)
    if (entry === undefined || entry.lease !== undefined || !isOverdue(entry)) return entry
    this.#remove(entry, 'expired') // its timer is late
    return undefined
  }

  get(number: number): Entry | undefined {
    return this.#numbers.get(number)
  }

  /**
   * Claims the descriptors of the request, unless it throws: ERR_PASSFD_STORE_EXISTS, _LEASED, _FULL, _POLL, or the system's error. `by`: who puts it. `keeper`: has copies.
   */
  put(request: Put, owner: number, by: { uid: number; pid: number }, keeper: ClientState | undefined): Entry {
    const { name, descriptors, value, ttl, poll, replace } = request
    const before = this.find(owner, name)
    if (before !== undefined && !replace) throw failure('STORE_EXISTS', { name })
    if (before !== undefined) checkFree(before)
    this.#usage.check(by.uid, amountOf({ name, descriptors, value }), before?.amount, before?.facts.uid)
    if (poll === true) checkPollable(descriptors)
    const own = descriptors.map(descriptor => descriptor.claim())
    const entry = new Entry({
      entry: this.#next,
      name,
      owner,
      descriptors: own,
      value: value === undefined ? undefined : new Uint8Array(value), // it may be a part of a larger buffer
      ...by,
      since: Date.now(),
      deadline: ttl === undefined ? undefined : now() + ttl,
      poll: poll ?? own.some(isConnected)
    })
    try {
      if (entry.facts.poll) this.#hangUps.add(entry, own)
    } catch (error) {
      closeAll(own)
      throw error
    }
    this.#next++
    if (before !== undefined) this.#remove(before, 'replaced')
    this.#add(entry)
    if (keeper !== undefined) this.keepFor(entry, keeper)
    this.#owner.onEvent('put', entry)
    return entry
  }

  /** The client has copies of the entry, and wants to know when it is gone. */
  keepFor(entry: Entry, client: ClientState): void {
    entry.keepers.add(client)
    client.kept.add(entry.facts.entry)
  }

  /** Throws ERR_PASSFD_STORE_LEASED. */
  lease(entry: Entry, lease: Lease): void {
    checkFree(entry)
    this.#lease(entry, lease)
    this.#owner.onEvent('leased', entry)
  }

  /** The client has what it has taken. Throws ERR_PASSFD_STORE_LEASE_OVER. */
  keep(number: number, client: ClientState): void {
    const entry = this.#leasedBy(number, client)
    this.#remove(entry, 'kept')
  }

  /** The client gives back what it has taken. Throws ERR_PASSFD_STORE_LEASE_OVER. */
  release(number: number, client: ClientState): void {
    this.#release(this.#leasedBy(number, client))
  }

  /** The client is gone: what it has taken comes back. */
  releaseAll(client: ClientState): void {
    for (const number of [...client.leases]) this.#release(this.#numbers.get(number)!)
    for (const number of client.kept) this.#numbers.get(number)!.keepers.delete(client)
    client.kept.clear()
  }

  /** Throws ERR_PASSFD_STORE_LEASED. */
  remove(entry: Entry): void {
    checkFree(entry)
    this.#remove(entry, 'removed')
  }

  /** The entries behind number `after` that `shows` accepts, in the order of their numbers. */
  part(after: number, shows: (entry: Entry) => boolean): Part {
    const entries: StoredEntry[] = []
    let bytes = 0
    let at = this.#behind(after)
    const last = Math.min(this.#order.length, at + LOOKED_AT)
    for (; at < last && entries.length < PART_ENTRIES && bytes < PART_BYTES; at++) {
      const entry = this.#numbers.get(this.#order[at]!)
      if (entry === undefined || !shows(entry)) continue
      entries.push(entry.shown())
      bytes += 128 + entry.facts.name.length + entry.facts.descriptors.length * 20
    }
    return at < this.#order.length ? { entries, after: this.#order[at - 1]! } : { entries }
  }

  /** Nothing expires and nothing hangs up until `resume()`. */
  pause(): void {
    this.#deadlines.pause()
    for (const { facts } of this.#numbers.values()) this.#hangUps.remove(facts.descriptors)
  }

  /** What has ended meanwhile is removed now. */
  resume(): void {
    this.#deadlines.resume()
    for (const entry of [...this.#numbers.values()]) this.#watch(entry)
  }

  /** Takes over what another store has held. Its descriptors are moved in. `next`: as there. */
  restore(entries: readonly (EntryFacts & { lease: Lease | undefined })[], next: number): void {
    this.#next = Math.max(this.#next, next)
    for (const { lease, ...facts } of entries) {
      const entry = new Entry(facts)
      this.#next = Math.max(this.#next, facts.entry + 1)
      this.#add(entry)
      if (lease !== undefined) this.#lease(entry, lease)
      this.#watch(entry)
    }
  }

  /** Closes all that is held, and tells nobody. */
  close(): void {
    this.pause()
    for (const { facts } of this.#numbers.values()) closeAll(facts.descriptors)
    this.#numbers.clear()
    this.#names.clear()
    this.#order = []
  }

  #watch(entry: Entry): void {
    if (!entry.facts.poll) return
    try {
      this.#hangUps.add(entry, entry.facts.descriptors)
    } catch (error) {
      process.emitWarning(`passfd can't watch whether the other end of ${entry.facts.name} hangs up: ${error}`)
    }
  }

  #add(entry: Entry): void {
    const { owner, name, entry: number, uid } = entry.facts
    let names = this.#names.get(owner)
    if (names === undefined) {
      names = new Map()
      this.#names.set(owner, names)
    }
    names.set(name, entry)
    this.#numbers.set(number, entry)
    this.#order.push(number)
    this.#usage.add(uid, entry.amount)
    this.#deadlines.add(entry)
  }

  #lease(entry: Entry, lease: Lease): void {
    entry.lease = lease
    lease.client.leases.add(entry.facts.entry)
  }

  #leasedBy(number: number, client: ClientState): Entry {
    const entry = this.#numbers.get(number)
    if (entry?.lease?.client !== client) throw failure('STORE_LEASE_OVER', {})
    return entry
  }

  #release(entry: Entry): void {
    const { lease, over = isOverdue(entry) ? 'expired' : undefined } = entry
    entry.lease = undefined
    lease!.client.leases.delete(entry.facts.entry)
    if (over !== undefined) this.#remove(entry, over)
    else this.#owner.onEvent('returned', entry)
  }

  #end(entry: Entry, how: 'expired' | 'hangUp'): void {
    if (entry.lease === undefined) this.#remove(entry, how)
    else entry.over = how
  }

  #remove(entry: Entry, event: EntryEvent): void {
    const { owner, name, entry: number, uid, descriptors } = entry.facts
    const names = this.#names.get(owner)!
    names.delete(name)
    if (names.size === 0) this.#names.delete(owner)
    this.#numbers.delete(number)
    // What is gone is left out of the order when it is half of it
    if (this.#order.length > 64 && this.#numbers.size < this.#order.length / 2)
      this.#order = this.#order.filter(one => this.#numbers.has(one))
    this.#usage.remove(uid, entry.amount)
    this.#deadlines.remove(entry)
    this.#hangUps.remove(descriptors)
    entry.lease?.client.leases.delete(number)
    this.#owner.onEvent(event, entry)
    for (const keeper of entry.keepers) keeper.kept.delete(number)
    closeAll(descriptors)
  }

  /** The place of the first number behind `after`. */
  #behind(after: number): number {
    let [low, high] = [0, this.#order.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#order[middle]! <= after) low = middle + 1
      else high = middle
    }
    return low
  }
}

function isOverdue({ deadline }: Entry): boolean {
  return deadline !== undefined && deadline <= now()
}

/** Throws ERR_PASSFD_STORE_LEASED. */
export function checkFree({ facts: { name }, lease }: Entry): void {
  if (lease !== undefined) throw failure('STORE_LEASED', { name, pid: lease.pid })
}

function failure(
  key: 'STORE_EXISTS' | 'STORE_LEASED' | 'STORE_LEASE_OVER',
  data: Record<string, string | number>
): PassfdError {
  return new PassfdError(key, data, { data })
}

/** Off the loop, because close(2) may block on what a client chose. After a takeover they are closed already. */
function closeAll(descriptors: readonly Descriptor[]): void {
  discard(descriptors.filter(({ closed }) => !closed).map(descriptor => moveOutShared(descriptor, 'the store')))
}
