/**
 * Every interleaving of clients of a store, of the store and of its successors, with kills, lost channels and limits that are over at any time.
 * docs/store-protocol.md says what the sides do; the takeover itself (test/takeover/model.ts) is a few steps here. There is one name, and each put has a
 * descriptor of its own.
 */

/** What happens without fault; a limit that is over; a fault. */
type Kind = 'step' | 'time' | 'fault'

/** What a client's program does, one after the other. `end`: it keeps or releases what it has taken. */
export type Action = 'put' | 'putKeep' | 'replace' | 'remove' | 'take' | 'end' | 'keep' | 'copy'

export interface Limits {
  /** One program for each client. */
  programs: Action[][]
  /** Processes of the store: the first, its successors, and those that start after a crash. */
  stores: number
  /** So many attempts of a takeover. */
  takeovers: number
  killStores: number
  killClients: number
  /** Channels that end although both sides live. The side that ends it knows that; the other one may hear it in a goodbye. */
  losses: number
  /** Such ends without any goodbye. */
  silent: number
  /** Entries whose time to live is over. */
  expiries: number
  /** Limits of 10 s that are over for a client that is away. In the end such a limit is over in any case. */
  absences: number
  /** So many requests of a client may be under way. */
  window: number
}

/** Changes of the rules that the model must find fault with. */
export interface Mutation {
  /** The state has no results. */
  noResultsInState?: boolean
  /** The state has no leases. */
  noLeasesInState?: boolean
  /** The state has no `seen`. */
  noSeenInState?: boolean
  /** The store forgets the results when it freezes. */
  forgetsAtFreeze?: boolean
  /** The store closes its copies when it answers `take`. */
  closesAtTake?: boolean
  /** The client repeats a request with a new id. */
  repeatsWithoutIds?: boolean
  /** `hello` leaves older channels of the client open. */
  olderChannelsLive?: boolean
  /** The store does what it is asked, also if the client has the answer by its own account. */
  ignoresSeen?: boolean
  /** The end of an older channel gives the leases back. */
  olderEndCounts?: boolean
  /** A `hello` that comes late on an older channel counts. */
  olderHelloCounts?: boolean
  /** A put that is answered again does not say that its entry is gone. */
  noGoneAtRepeat?: boolean
  /** `hello` says nothing of entries that are gone. */
  noGoneAtHello?: boolean
  /** The client repeats its requests also if the store does not know it any more. */
  repeatsToStranger?: boolean
  /** `leases` in the answer to `hello` also decides about what the client is just keeping. */
  helloDecides?: boolean
  /** After a crash whatever was leased is the client's own. */
  ownsAlways?: boolean
  /** After a crash a client also owns what it was keeping when the store did not know the lease any more. */
  ownsDoubted?: boolean
  /** A channel without an answer to hello that ends is the death of the store for a client. */
  triesCount?: boolean
  /** The store forgets a client when its channel ends. */
  forgetsAtEnd?: boolean
  /** A frozen store answers. */
  frozenAnswers?: boolean
  /** A frozen store sees channels end. */
  frozenSeesEnds?: boolean
  /** A store that has been replaced does what it is asked. */
  movedAnswers?: boolean
  /** The successor answers before its mark. */
  earlyAnswers?: boolean
  /** The state is read before the freeze. */
  readsBeforeFreeze?: boolean
  /** A successor without the state keeps the epoch. */
  sameEpoch?: boolean
  /** The store does not record the result of `keep`. */
  keepNotRecorded?: boolean
  /** The leases of a client that never comes back stay. */
  leasesStay?: boolean
}

export interface Found {
  states: number
  steps: number
  /** All states were seen. */
  complete: boolean
  violation?: string
  /** The shortest way to it. */
  trace?: string[]
}

type Result = ['entry', number] | ['taken', number, number] | ['nil'] | ['true'] | ['false'] | ['fault', string]
type Asked = 'put' | 'take' | 'keep' | 'release' | 'remove' | 'copy'

interface Request {
  do: Asked
  id: number
  seen: number
  /** Of a put. */
  d?: number
  keep?: true
  replace?: true
  /** Of keep and release. */
  entry?: number
}

type Up = { hello: number[] } | Request
type Down =
  | { hello: number; known: boolean; gone: number[]; leases: number[] }
  | { id: number; is: Result }
  | { id: number; moved: true }
  | { gone: number }
  | { bye: true | 'cut' }

interface Entry {
  n: number
  d: number
  /** The client that has copies. */
  keeper?: number
  lease?: { client: number; id: number }
  /** Its time was over while it was leased. */
  over?: true
}

/** What a store has in its memory, and gives to its successor. */
interface Memory {
  epoch: number
  next: number
  entries: Entry[]
  clients: ({ seen: number; done: [number, Result][] } | null)[]
}

interface Store {
  role: 'off' | 'owner' | 'frozen' | 'superseded' | 'candidate' | 'won' | 'dead'
  memory?: Memory
  /** Clients that have no channel here, and whose time runs. */
  away: number[]
}

interface Channel {
  client: number
  store: number
  up: Up[]
  down: Down[]
  /** The ends that are open. */
  c: boolean
  s: boolean
  /** The store has read its hello. */
  greeted: boolean
}

type Pending = Omit<Request, 'seen'> & {
  /** Of the model: it has been done since the last crash. */
  done?: true
  /** A keep of a lease that the store does not know: done, or over. */
  doubted?: true
}

interface Client {
  alive: boolean
  /** `greeting`: it waits for the answer to hello. */
  phase: 'off' | 'greeting' | 'open'
  at: number
  id: number
  epoch: number
  pending: Pending[]
  /** Taken, and not kept: entry, descriptor. */
  held: [number, number][]
  owns: number[]
  /** Of what it has put with keep: entry, descriptor. */
  copies: [number, number][]
  /** `gone` of entries that it does not know yet. */
  early: number[]
  /** How its last channel ended: `cut` by itself or with a goodbye; `late`: 10 s ago. */
  ended?: 'cut' | 'late'
  /** Of the model: it had to expect that its leases end. */
  hurt?: true
}

/** Of the model, for each descriptor: where it is. `lost`: with a crash. */
interface Fate {
  is: 'out' | 'store' | 'kept' | 'removed' | 'replaced' | 'expired' | 'lost'
  by?: number
  /** Two may have it: a crash, and a client with a copy. */
  excused?: true
}

export interface World {
  stores: Store[]
  channels: Channel[]
  clients: Client[]
  fates: Fate[]
  epochs: number
  left: {
    kills: number
    clientKills: number
    losses: number
    silent: number
    expiries: number
    absences: number
    takeovers: number
  }
}

const NOTHING: Limits = {
  programs: [],
  stores: 2,
  takeovers: 0,
  killStores: 0,
  killClients: 0,
  losses: 0,
  silent: 0,
  expiries: 0,
  absences: 0,
  window: 1
}

export function explore(given: Partial<Limits>, mutation: Mutation = {}, most = Number.POSITIVE_INFINITY): Found {
  const limits = { ...NOTHING, ...given }
  const worlds = [JSON.stringify(first(limits))]
  const index = new Map([[worlds[0]!, 0]])
  const from = [-1]
  const labels = ['start']
  const good: number[] = []
  // Edges on which a world gets on by itself: time passes only where nothing else happens
  const froms: number[] = []
  const tos: number[] = []
  let steps = 0
  const trace = (at: number, last: string): string[] => {
    const lines = [last]
    for (let one = at; one > 0; one = from[one]!) lines.push(labels[one]!)
    return lines.reverse()
  }
  let at = 0
  for (; at < worlds.length && at < most; at++) {
    const timed: number[] = []
    let goesOn = false
    let found: Found | undefined
    new Step(worlds[at]!, limits, mutation, (world, label, kind, violation) => {
      steps++
      if (violation !== undefined)
        found ??= { states: worlds.length, steps, complete: false, violation, trace: trace(at, label) }
      let to = index.get(world)
      if (to === undefined) {
        to = worlds.length
        index.set(world, to)
        worlds.push(world)
        from.push(at)
        labels.push(label)
      }
      if (kind === 'step') {
        goesOn = true
        froms.push(at)
        tos.push(to)
      } else if (kind === 'time') timed.push(to)
    }).all()
    if (found !== undefined) return found
    if (goesOn) continue
    for (const to of timed) {
      froms.push(at)
      tos.push(to)
    }
    const wrong = quiet(JSON.parse(worlds[at]!), limits)
    if (wrong === undefined) good.push(at)
    else if (timed.length === 0)
      return {
        states: worlds.length,
        steps,
        complete: false,
        violation: wrong,
        trace: trace(at, '(nothing more happens)')
      }
  }
  const complete = at === worlds.length
  // What was not looked at any more may become quiet
  for (let one = at; one < worlds.length; one++) good.push(one)
  const stuck = reachedFrom(worlds.length, froms, tos, good)
  if (stuck === undefined) return { states: worlds.length, steps, complete }
  return { states: worlds.length, steps, complete, violation: 'it never gets quiet', trace: trace(stuck, '(for ever)') }
}

/** The first world from which no good one is reached. */
function reachedFrom(count: number, froms: number[], tos: number[], good: number[]): number | undefined {
  const reaches = new Uint8Array(count)
  const head = new Int32Array(count).fill(-1)
  const next = new Int32Array(froms.length)
  for (let edge = 0; edge < froms.length; edge++) {
    next[edge] = head[tos[edge]!]!
    head[tos[edge]!] = edge
  }
  for (const one of good) reaches[one] = 1
  for (let to = good.pop(); to !== undefined; to = good.pop())
    for (let edge = head[to]!; edge >= 0; edge = next[edge]!) {
      const one = froms[edge]!
      if (reaches[one] === 1) continue
      reaches[one] = 1
      good.push(one)
    }
  const stuck = reaches.indexOf(0)
  return stuck < 0 ? undefined : stuck
}

function first({ programs, stores, ...budget }: Limits): World {
  return {
    stores: Array.from({ length: stores }, (_, index) =>
      index === 0 ? { role: 'owner', memory: emptyMemory(1, programs.length), away: [] } : { role: 'off', away: [] }
    ),
    channels: [],
    clients: programs.map(() => ({
      alive: true,
      phase: 'off',
      at: 0,
      id: 1,
      epoch: 0,
      pending: [],
      held: [],
      owns: [],
      copies: [],
      early: []
    })),
    fates: [],
    epochs: 1,
    left: {
      kills: budget.killStores,
      clientKills: budget.killClients,
      losses: budget.losses,
      silent: budget.silent,
      expiries: budget.expiries,
      absences: budget.absences,
      takeovers: budget.takeovers
    }
  }
}

function emptyMemory(epoch: number, clients: number): Memory {
  return { epoch, next: 1, entries: [], clients: Array.from({ length: clients }, () => null) }
}

/** The store whose memory counts: a frozen predecessor until the successor has marked. */
function authority({ stores }: World): Memory | undefined {
  return stores.find(({ role }) => role === 'owner' || role === 'frozen')?.memory
}

/** What must hold when nothing more happens by itself. */
function quiet(world: World, { programs }: Limits): string | undefined {
  const { stores, clients, channels } = world
  const owner = stores.find(({ role }) => role === 'owner')
  if (owner === undefined) return stores.every(({ role }) => role === 'dead') ? undefined : 'nobody serves'
  const { entries } = owner.memory!
  for (const [i, client] of clients.entries()) {
    if (!client.alive) continue
    if (client.pending.length > 0) return `a request of ${i} is never answered`
    if (client.phase !== 'open' || client.at < programs[i]!.length) return `${i} does not get on`
    for (const [n, d] of client.copies)
      if (!entries.some(entry => entry.n === n && entry.d === d)) return `${i} has a copy of an entry that is gone`
  }
  for (const { lease, n } of entries) {
    if (lease === undefined) continue
    const { alive, held } = clients[lease.client]!
    if (!alive) return 'a dead client has a lease'
    if (!held.some(([one]) => one === n)) return 'a client has a lease and does not know it'
  }
  return channels.every(({ up, down }) => up.length === 0 && down.length === 0) ? undefined : 'a message is never read'
}

type Emit = (world: string, label: string, kind: Kind, violation: string | undefined) => void

/** All that can happen in one world. */
class Step {
  readonly #text: string
  readonly #limits: Limits
  readonly #mutation: Mutation
  readonly #emit: Emit
  #world!: World
  #violation: string | undefined

  constructor(text: string, limits: Limits, mutation: Mutation, emit: Emit) {
    this.#text = text
    this.#limits = limits
    this.#mutation = mutation
    this.#emit = emit
  }

  all(): void {
    const world = JSON.parse(this.#text) as World
    for (const i of world.stores.keys()) this.#store(i, world)
    for (const [k, channel] of world.channels.entries()) this.#channel(k, channel, world)
    for (const [i, client] of world.clients.entries()) if (client.alive) this.#client(i, client, world)
  }

  #make(label: string, kind: Kind, change: (world: World) => void): void {
    this.#world = JSON.parse(this.#text)
    this.#violation = undefined
    change(this.#world)
    // The order stays: it is that in which channels were accepted
    this.#world.channels = this.#world.channels.filter(({ c, s }) => c || s)
    this.#check()
    this.#emit(JSON.stringify(this.#world), label, kind, this.#violation)
  }

  #bad(what: string): void {
    this.#violation ??= what
  }

  // --- processes of the store

  #store(i: number, { stores, left, clients }: World): void {
    const { role, memory, away } = stores[i]!
    const candidate = stores.findIndex(one => one.role === 'candidate' || one.role === 'won')
    const owner = stores.findIndex(one => one.role === 'owner' || one.role === 'frozen')
    if (role === 'dead') return
    if (left.kills > 0 && role !== 'off')
      for (const stuck of role === 'candidate' || role === 'won' ? [false] : [false, true])
        this.#make(`store ${i} is killed${stuck ? ' with its answers' : ''}`, 'fault', now => {
          now.left.kills--
          this.#end(i, stuck)
        })
    if (role === 'off') {
      if (owner < 0 && candidate < 0) this.#make(`store ${i} starts anew`, 'step', () => this.#anew(i))
      else if (owner >= 0 && candidate < 0 && stores[owner]!.role === 'owner' && left.takeovers > 0)
        this.#make(`store ${i} wants to take over`, 'time', now => {
          now.left.takeovers--
          now.stores[i]!.role = 'candidate'
          if (this.#mutation.readsBeforeFreeze) now.stores[i]!.memory = structuredClone(now.stores[owner]!.memory!)
        })
    }
    if (role === 'owner') {
      if (candidate >= 0)
        this.#make(`store ${i} freezes`, 'step', now => {
          now.stores[i]!.role = 'frozen'
          if (this.#mutation.forgetsAtFreeze) for (const one of now.stores[i]!.memory!.clients) if (one) one.done = []
        })
      for (const client of away) {
        const leases = memory!.entries.some(({ lease }) => lease?.client === client)
        const spare = left.absences > 0
        const forEver = !clients[client]!.alive && leases
        if ((spare || forEver) && !(this.#mutation.leasesStay && forEver))
          this.#make(`store ${i} forgets client ${client} after 10 s`, 'time', now => {
            if (spare) now.left.absences--
            this.#forget(i, client)
            const one = now.clients[client]!
            one.hurt = true
            one.ended = 'late'
          })
      }
      if (left.expiries > 0)
        for (const [at, { n, over }] of memory!.entries.entries())
          if (over === undefined)
            this.#make(`entry ${n} expires`, 'fault', now => {
              now.left.expiries--
              const entry = now.stores[i]!.memory!.entries[at]!
              if (entry.lease === undefined) this.#drop(i, entry, 'expired')
              else entry.over = true
            })
    }
    if (role === 'frozen' && candidate < 0) this.#make(`store ${i} rolls back`, 'step', () => this.#rollBack(i))
    if (role === 'frozen' && candidate >= 0 && stores[candidate]!.role === 'candidate')
      this.#make(`the limit of store ${i} is over: it rolls back`, 'time', now => {
        now.stores[candidate] = { role: 'off', away: [] }
        this.#rollBack(i)
      })
    if (role === 'candidate') {
      const frozen = owner >= 0 && stores[owner]!.role === 'frozen'
      if (frozen && memory === undefined)
        this.#make(`store ${i} has the state`, 'step', now => {
          now.stores[i]!.memory = this.#state(now.stores[owner]!.memory!)
        })
      if (memory !== undefined && (frozen || owner < 0))
        this.#make(`store ${i} commits`, 'step', now => {
          now.stores[i]!.role = 'won'
        })
      else if (owner < 0)
        this.#make(`store ${i} commits without the state`, 'step', now => {
          now.stores[i]!.role = 'off'
          this.#anew(i)
        })
    }
    if (role === 'won')
      this.#make(`store ${i} marks`, 'step', now => {
        const own = now.stores[i]!
        own.role = 'owner'
        if (owner >= 0) now.stores[owner]!.role = 'superseded'
        this.#allAway(i)
      })
    if (role === 'superseded')
      this.#make(`store ${i} reads the mark, says moved and ends`, 'step', now => {
        for (const channel of now.channels) {
          if (channel.store !== i || !channel.s) continue
          for (const one of channel.up)
            if ('do' in one) {
              if (this.#mutation.movedAnswers) this.#answer(i, channel, one)
              else channel.down.push({ id: one.id, moved: true })
            }
          channel.down.push({ bye: true })
        }
        this.#end(i, false)
      })
  }

  /** All that the successor gets. */
  #state(memory: Memory): Memory {
    const copy = structuredClone(memory)
    if (this.#mutation.noResultsInState) for (const one of copy.clients) if (one) one.done = []
    if (this.#mutation.noSeenInState) for (const one of copy.clients) if (one) one.seen = 0
    if (this.#mutation.noLeasesInState) for (const one of copy.entries) delete one.lease
    return copy
  }

  #end(i: number, stuck: boolean): void {
    this.#world.stores[i] = { role: 'dead', away: [] }
    for (const channel of this.#world.channels) {
      if (channel.store !== i) continue
      channel.s = false
      channel.up = []
      // A goodbye with a code has left before the leases came back
      if (stuck) channel.down = channel.down.filter(one => 'bye' in one && one.bye === 'cut')
    }
  }

  #anew(i: number): void {
    const { stores, clients, fates } = this.#world
    const epoch = this.#mutation.sameEpoch ? this.#world.epochs : ++this.#world.epochs
    stores[i] = { role: 'owner', memory: emptyMemory(epoch, clients.length), away: [] }
    for (const fate of fates) if (fate.is === 'store') fate.is = 'lost'
    for (const client of clients) {
      client.hurt = true
      for (const [, d] of client.copies) fates[d]!.excused = true
      for (const one of client.pending) {
        delete one.done
        if (one.do === 'put') fates[one.d!]!.excused = true
      }
    }
  }

  #rollBack(i: number): void {
    this.#world.stores[i]!.role = 'owner'
  }

  #allAway(i: number): void {
    const { memory } = this.#world.stores[i]!
    const clients = new Set<number>()
    for (const [client, one] of memory!.clients.entries()) if (one) clients.add(client)
    for (const { lease } of memory!.entries) if (lease) clients.add(lease.client)
    this.#world.stores[i]!.away = [...clients].sort()
  }

  #forget(i: number, client: number): void {
    const store = this.#world.stores[i]!
    store.away = store.away.filter(one => one !== client)
    store.memory!.clients[client] = null
    this.#leasesBack(i, client)
  }

  #leasesBack(i: number, client: number): void {
    for (const entry of [...this.#world.stores[i]!.memory!.entries]) {
      if (entry.lease?.client !== client) continue
      delete entry.lease
      if (entry.over) this.#drop(i, entry, 'expired')
    }
  }

  /** An entry ends. */
  #drop(i: number, entry: Entry, is: Fate['is'], by?: number): void {
    const { memory } = this.#world.stores[i]!
    memory!.entries = memory!.entries.filter(one => one !== entry)
    const fate = this.#world.fates[entry.d]!
    fate.is = is
    if (by !== undefined) fate.by = by
    if (entry.keeper !== undefined) this.#currentOf(i, entry.keeper)?.down.push({ gone: entry.n })
  }

  /** The channel on which the store reaches the client. */
  #currentOf(i: number, client: number): Channel | undefined {
    return this.#world.channels.findLast(one => one.store === i && one.client === client && one.s && one.greeted)
  }

  // --- what a store reads

  #channel(k: number, channel: Channel, { stores, clients, left }: World): void {
    const { store: i, client, c, s, up, down } = channel
    if (s && this.#reads(stores[i]!, c)) {
      if (up.length > 0)
        this.#make(`store ${i} reads ${show(up[0]!)} of ${client}`, 'step', now => this.#read(i, now.channels[k]!))
      else if (!c)
        this.#make(`store ${i} sees a channel of ${client} end`, 'step', now => this.#ended(i, now.channels[k]!))
    }
    if (c && s && clients[client]!.alive) {
      if (left.losses > 0) {
        this.#make(`client ${client} loses its channel`, 'fault', now => {
          now.left.losses--
          const one = now.channels[k]!
          one.c = false
          one.down = []
          this.#without(now.clients[client]!, true)
        })
        this.#make(`store ${i} ends the channel of ${client} by a goodbye`, 'fault', now => {
          now.left.losses--
          this.#cut(i, now.channels[k]!, true)
        })
      }
      if (left.silent > 0)
        this.#make(`store ${i} loses the channel of ${client}`, 'fault', now => {
          now.left.silent--
          this.#cut(i, now.channels[k]!, false)
        })
    }
    if (!c) return
    if (down.length > 0)
      this.#make(`client ${client} reads ${show(down[0]!)}`, 'step', now => {
        const own = now.channels[k]!
        this.#receive(client, now.clients[client]!, own, own.down.shift()!)
      })
    else if (!s)
      this.#make(`client ${client} sees its channel end`, 'step', now => {
        now.channels[k]!.c = false
        this.#without(now.clients[client]!, false)
      })
  }

  #reads({ role }: Store, clientLives: boolean): boolean {
    if (role === 'owner') return true
    if (role === 'frozen')
      return this.#mutation.frozenAnswers === true || (this.#mutation.frozenSeesEnds === true && !clientLives)
    return role === 'won' && this.#mutation.earlyAnswers === true
  }

  #cut(i: number, channel: Channel, bye: boolean): void {
    if (bye) channel.down.push({ bye: 'cut' })
    this.#world.clients[channel.client]!.hurt = true
    // A frozen store does not see it yet
    if (this.#reads(this.#world.stores[i]!, false)) this.#ended(i, channel)
    channel.s = false
    channel.up = []
  }

  #read(i: number, channel: Channel): void {
    const message = channel.up.shift()!
    if ('hello' in message) this.#hello(i, channel, message.hello)
    else this.#answer(i, channel, message)
  }

  #hello(i: number, channel: Channel, kept: number[]): void {
    const { channels, stores } = this.#world
    const { memory } = stores[i]!
    const { client } = channel
    const others = channels.filter(one => one !== channel && one.store === i && one.client === client && one.s)
    const newer = others.filter(one => channels.indexOf(one) > channels.indexOf(channel) && one.greeted)
    if (newer.length > 0 && !this.#mutation.olderHelloCounts) {
      channel.s = false
      channel.up = []
      return
    }
    for (const one of others) {
      // One that was accepted later has its own hello to come
      const older = channels.indexOf(one) < channels.indexOf(channel) || newer.includes(one)
      if (!older || this.#mutation.olderChannelsLive) continue
      one.s = false
      one.up = []
    }
    channel.greeted = true
    stores[i]!.away = stores[i]!.away.filter(one => one !== client)
    const known = memory!.clients[client] !== null
    memory!.clients[client] ??= { seen: 0, done: [] }
    const gone = kept.filter(n => !memory!.entries.some(entry => entry.n === n && entry.keeper === client))
    const leases = memory!.entries.filter(({ lease }) => lease?.client === client).map(({ n }) => n)
    channel.down.push({ hello: memory!.epoch, known, gone: this.#mutation.noGoneAtHello ? [] : gone, leases })
  }

  #answer(i: number, channel: Channel, request: Request): unknown {
    const { memory } = this.#world.stores[i]!
    const { client } = channel
    const { id, seen } = request
    memory!.clients[client] ??= { seen: 0, done: [] }
    const own = memory!.clients[client]
    const reply = (is: Result): unknown => channel.down.push({ id, is })
    if (request.do === 'copy') return reply(this.#do(i, client, request))
    if (seen > own.seen) {
      own.seen = seen
      own.done = own.done.filter(([one]) => one > seen)
    }
    if (id <= own.seen && !this.#mutation.ignoresSeen) return reply(['fault', 'settled'])
    const before = own.done.find(([one]) => one === id)
    if (before !== undefined) {
      const [, is] = before
      reply(is)
      const gone = is[0] === 'entry' && !memory!.entries.some(({ n }) => n === is[1])
      if (gone && request.keep && !this.#mutation.noGoneAtRepeat) channel.down.push({ gone: is[1] as number })
      return
    }
    const leased = memory!.entries.find(({ lease }) => lease?.client === client && lease.id === id)
    if (leased !== undefined) return reply(['taken', leased.n, leased.d])
    const is = this.#do(i, client, request)
    this.#ghost(client, request, is)
    reply(is)
    const recorded = is[0] !== 'taken' && !(this.#mutation.keepNotRecorded && request.do === 'keep')
    if (recorded) own.done.push([id, is])
  }

  /** Of the model: what happens at most once. */
  #ghost(client: number, { do: what, id }: Request, is: Result): void {
    if (is[0] === 'fault') return
    const { alive, pending } = this.#world.clients[client]!
    const one = pending.find(each => each.id === id)
    if (one === undefined) {
      if (alive) this.#bad(`a ${what} of ${client} is done after its answer was read`)
      return
    }
    if (one.done && what !== 'take') this.#bad(`a ${what} of ${client} is done twice`)
    one.done = true
  }

  #do(i: number, client: number, request: Request): Result {
    const { memory } = this.#world.stores[i]!
    const { fates } = this.#world
    const [there] = memory!.entries
    switch (request.do) {
      case 'put': {
        if (there !== undefined && !request.replace) return ['fault', 'exists']
        if (there?.lease !== undefined) return ['fault', 'leased']
        if (there !== undefined) this.#drop(i, there, 'replaced')
        const entry: Entry = { n: memory!.next++, d: request.d! }
        if (request.keep) entry.keeper = client
        memory!.entries.push(entry)
        const fate = fates[request.d!]!
        if (fate.is === 'kept' && !fate.excused)
          this.#bad(`descriptor ${request.d} is stored after ${fate.by} has kept it`)
        if (fate.is !== 'kept') fate.is = 'store'
        return ['entry', entry.n]
      }
      case 'take': {
        if (there === undefined) return ['nil']
        if (there.lease !== undefined) return ['fault', 'leased']
        there.lease = { client, id: request.id }
        if (this.#mutation.closesAtTake) memory!.entries = []
        return ['taken', there.n, there.d]
      }
      case 'keep':
      case 'release': {
        const entry = memory!.entries.find(({ n, lease }) => n === request.entry && lease?.client === client)
        if (entry === undefined) return ['fault', 'over']
        if (request.do === 'keep') this.#drop(i, entry, 'kept', client)
        else {
          delete entry.lease
          if (entry.over) this.#drop(i, entry, 'expired')
        }
        return ['nil']
      }
      case 'remove': {
        if (there === undefined) return ['false']
        if (there.lease !== undefined) return ['fault', 'leased']
        this.#drop(i, there, 'removed')
        return ['true']
      }
      case 'copy':
        if (there === undefined) return ['nil']
        return there.lease === undefined ? ['true'] : ['fault', 'leased']
    }
  }

  #ended(i: number, channel: Channel): void {
    const { client } = channel
    const current = this.#currentOf(i, client) === channel
    channel.s = false
    if (!channel.greeted || !(current || this.#mutation.olderEndCounts)) return
    this.#leasesBack(i, client)
    if (!current) return
    const { away } = this.#world.stores[i]!
    if (this.#mutation.forgetsAtEnd) this.#forget(i, client)
    else if (!away.includes(client)) {
      away.push(client)
      away.sort()
    }
  }

  // --- a client

  #client(i: number, client: Client, { stores, left }: World): void {
    const { phase, pending } = client
    if (left.clientKills > 0)
      this.#make(`client ${i} is killed`, 'fault', now => {
        now.left.clientKills--
        this.#killed(i)
      })
    // A successor accepts before its mark
    const owner = stores.findLastIndex(({ role }) => role === 'owner' || role === 'won')
    if (phase === 'off' && owner >= 0)
      this.#make(`client ${i} connects to store ${owner}`, 'step', now => {
        const own = now.clients[i]!
        own.phase = 'greeting'
        const kept = own.copies.map(([n]) => n)
        now.channels.push({
          client: i,
          store: owner,
          up: [{ hello: kept }],
          down: [],
          c: true,
          s: true,
          greeted: false
        })
      })
    const action = this.#limits.programs[i]![client.at]
    if (phase !== 'open' || action === undefined || pending.length >= this.#limits.window) return
    const ask = (what: Omit<Request, 'id' | 'seen'>): void =>
      this.#make(
        `client ${i} sends ${what.do}${client.held.length > 0 && what.entry ? ` ${what.entry}` : ''}`,
        'step',
        now => {
          const own = now.clients[i]!
          own.at++
          if (what.do === 'put') {
            what = { ...what, d: now.fates.length }
            now.fates.push({ is: 'out' })
          }
          own.pending.push({ ...what, id: own.id++ })
          this.#send(i, own.pending.at(-1)!)
        }
      )
    if (action === 'put') ask({ do: 'put' })
    if (action === 'putKeep') ask({ do: 'put', keep: true })
    if (action === 'replace') ask({ do: 'put', keep: true, replace: true })
    if (action === 'remove' || action === 'take' || action === 'copy') ask({ do: action })
    if (action !== 'end' && action !== 'keep') return
    if (pending.some(({ do: what }) => what === 'take')) return
    const [held] = client.held
    if (held === undefined) this.#make(`client ${i} has nothing to keep`, 'step', now => void now.clients[i]!.at++)
    else {
      if (pending.length > 0) return
      ask({ do: 'keep', entry: held[0] })
      if (action === 'end') ask({ do: 'release', entry: held[0] })
    }
  }

  #send(i: number, { done: _, doubted: __, ...request }: Pending): void {
    const { pending, id } = this.#world.clients[i]!
    const seen = Math.min(id, ...pending.map(one => one.id)) - 1
    const channel = this.#world.channels.find(one => one.client === i && one.c)!
    if (channel.s) channel.up.push({ ...request, seen })
  }

  #killed(i: number): void {
    const client = this.#world.clients[i]!
    Object.assign(client, { alive: false, phase: 'off', pending: [], held: [], owns: [], copies: [], early: [] })
    delete client.hurt
    for (const one of this.#world.channels)
      if (one.client === i) {
        one.c = false
        one.down = []
      }
    for (const fate of this.#world.fates) if (fate.is === 'kept' && fate.by === i) fate.is = 'lost'
  }

  /** Its channel is over. */
  #without(client: Client, cut: boolean): void {
    const wasOpen = client.phase === 'open'
    client.phase = 'off'
    if (cut) client.hurt = true
    if (client.ended === 'late') return
    if (cut) client.ended = 'cut'
    // How a try to connect has ended says nothing of the leases
    else if (wasOpen || this.#mutation.triesCount) delete client.ended
  }

  #receive(i: number, client: Client, channel: Channel, message: Down): unknown {
    if ('bye' in message) {
      channel.c = false
      this.#without(client, message.bye === 'cut')
      client.ended ??= 'cut'
      return undefined
    }
    if ('hello' in message) return this.#greeted(i, client, channel, message)
    if ('gone' in message) {
      const before = client.copies.length
      client.copies = client.copies.filter(([n]) => n !== message.gone)
      if (client.copies.length === before && client.pending.some(({ do: what }) => what === 'put'))
        client.early.push(message.gone)
      return undefined
    }
    if ('moved' in message) return undefined
    const at = client.pending.findIndex(({ id }) => id === message.id)
    if (at < 0) return this.#bad(`${i} gets an answer that it did not ask for`)
    const [one] = client.pending.splice(at, 1)
    if (message.is[0] === 'taken' && this.#isFresh(channel)) delete client.hurt
    this.#settled(i, client, one!, message.is)
    if (!client.pending.some(({ do: what }) => what === 'put')) client.early = []
  }

  /** Of the model: what is read there did not wait for a long time. */
  #isFresh({ s, store }: Channel): boolean {
    return s && this.#world.stores[store]!.role !== 'superseded'
  }

  #settled(i: number, client: Client, request: Pending, is: Result): unknown {
    const { fates } = this.#world
    if (is[0] === 'fault' && is[1] === 'settled') return this.#bad(`a ${request.do} of ${i} is refused as settled`)
    if (request.do === 'put' && request.keep && is[0] === 'entry' && !client.early.includes(is[1]))
      client.copies.push([is[1], request.d!])
    if (request.do === 'take' && is[0] === 'taken') client.held.push([is[1], is[2]])
    if (request.do !== 'keep' && request.do !== 'release') return
    const [[, d]] = client.held.splice(
      client.held.findIndex(([n]) => n === request.entry),
      1
    ) as [[number, number]]
    const { is: fate, by } = fates[d]!
    if (is[0] === 'fault') {
      if (fate === 'kept' && by === i) this.#bad(`${i} has kept descriptor ${d} and hears that it has not`)
      if (!client.hurt) this.#bad(`${i} has lost its lease for no reason`)
    } else if (request.do === 'keep') {
      if (fate !== 'kept' || by !== i)
        if (!fates[d]!.excused) this.#bad(`${i} hears that it has kept descriptor ${d}, which is ${fate}`)
      client.owns.push(d)
    }
  }

  #greeted(
    i: number,
    client: Client,
    channel: Channel,
    { hello, known, gone, leases }: Extract<Down, { known: boolean }>
  ): void {
    const { epoch } = client
    client.epoch = hello
    client.phase = 'open'
    if (epoch !== 0 && epoch !== hello) this.#crashed(client)
    else {
      client.copies = client.copies.filter(([n]) => !gone.includes(n))
      if (epoch !== 0 && !known && !this.#mutation.repeatsToStranger) {
        // Perhaps they are done
        if (client.ended !== 'late') this.#bad(`the store has forgotten ${i} for no reason`)
        for (const { do: what, entry } of client.pending)
          if (what === 'keep' || what === 'release') client.held = client.held.filter(([n]) => n !== entry)
        client.pending = []
        client.early = []
      }
      for (const [n] of [...client.held]) if (!leases.includes(n)) this.#leaseOver(i, client, n)
    }
    if (this.#isFresh(channel)) delete client.ended
    if (this.#mutation.repeatsWithoutIds) for (const one of client.pending) one.id = client.id++
    for (const one of client.pending) this.#send(i, one)
  }

  /** It is not among the leases that the store knows of: over, or settled by a request whose answer was lost. */
  #leaseOver(i: number, client: Client, n: number): void {
    const settles = ({ do: what, entry }: Pending): boolean => (what === 'keep' || what === 'release') && entry === n
    if (client.pending.some(settles)) {
      if (!this.#mutation.helloDecides) {
        if (!this.#mutation.ownsDoubted) for (const one of client.pending) if (settles(one)) one.doubted = true
        return
      }
      client.pending = client.pending.filter(one => !settles(one))
    }
    const [[, d]] = client.held.splice(
      client.held.findIndex(([one]) => one === n),
      1
    ) as [[number, number]]
    const { is, by } = this.#world.fates[d]!
    if (is === 'kept' && by === i) this.#bad(`${i} has kept descriptor ${d} and hears that it has not`)
    else if (!client.hurt) this.#bad(`${i} has lost its lease for no reason`)
  }

  /** The store was lost with everything in it. */
  #crashed(client: Client): void {
    const owns = this.#mutation.ownsAlways || client.ended === undefined
    // Of a keep without an answer nobody can tell any more whether it was done
    const released = new Set(
      client.pending.filter(({ do: what, doubted }) => what === 'release' || doubted).map(({ entry }) => entry)
    )
    client.pending = client.pending.filter(({ do: what }) => what !== 'keep' && what !== 'release')
    if (owns) for (const [n, d] of client.held) if (!released.has(n)) client.owns.push(d)
    client.held = []
    client.early = []
    for (const [, d] of client.copies) client.pending.push({ do: 'put', keep: true, d, id: client.id++ })
    client.copies = []
  }

  // --- what must hold in every world

  #check(): void {
    const { fates, clients } = this.#world
    const memory = authority(this.#world)
    for (const [d, { is, by, excused }] of fates.entries()) {
      if (excused) continue
      const owners = new Set<string>()
      for (const [i, { owns }] of clients.entries()) if (owns.includes(d)) owners.add(`client ${i}`)
      if (is === 'kept') owners.add(`client ${by}`)
      if (memory?.entries.some(entry => entry.d === d)) owners.add('the store')
      if (owners.size > 1) this.#bad(`descriptor ${d} has two owners: ${[...owners].join(' and ')}`)
      if (is === 'store' && memory !== undefined && !memory.entries.some(entry => entry.d === d))
        this.#bad(`descriptor ${d} has vanished`)
    }
  }
}

function show(message: Up | Down): string {
  if ('do' in message) return `${message.do}#${message.id}`
  if ('is' in message) return `${message.is.join(' ')} for #${message.id}`
  if ('moved' in message) return `moved for #${message.id}`
  if ('gone' in message && !('hello' in message)) return `gone ${message.gone}`
  if ('bye' in message) return 'goodbye'
  return 'hello'
}
