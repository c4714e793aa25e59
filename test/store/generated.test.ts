import { spawnSync } from 'node:child_process'
import { readdirSync, readlinkSync } from 'node:fs'
import fc from 'fast-check'
import { Descriptor } from '../../src/index.ts'
import { connectStore, type StoreClient, type StoreLease } from '../../src/store/index.ts'
import { isInCi, times } from '../helpers/full.ts'
import { systemPython } from '../helpers/programs.ts'
import { NOBODY, publicDirectory } from '../helpers/public.ts'
import { Holder, type Identity, identity, PythonClient } from '../helpers/stores.ts'
import { testIf, until } from '../helpers/test.ts'

const hasMsgpack = spawnSync(systemPython, ['-c', 'import msgpack']).status === 0
const isRoot = process.getuid!() === 0
const reason = hasMsgpack
  ? isRoot
    ? undefined
    : 'only root can become another user'
  : 'no msgpack: apt-get install python3-msgpack'

const directory = publicDirectory()
let paths = 0

const NAMES = ['a', 'b', 'c']
/** Two clients of root here, and one of another user in Python. */
const CLIENTS = 3
const PYTHON = 2

const client = fc.nat(CLIENTS - 1)
const name = fc.constantFrom(...NAMES)
/** Whose names: one's own, or those of the other user. */
const other = fc.boolean()
const named = { client, name, other }
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('put' as const),
      ...named,
      count: fc.integer({ min: 1, max: 3 }),
      keep: fc.boolean(),
      replace: fc.boolean()
    })
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('take' as const), ...named }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('keep' as const, 'release' as const), ...named }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('copy' as const, 'remove' as const), ...named }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('expire' as const), ...named, leased: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('end' as const, 'kill' as const), client }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('replaceStore' as const),
      client,
      under: fc.constantFrom('', 'put', 'keep')
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('burst' as const), client, replaceStore: fc.boolean() })
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('killStore' as const), client, under: fc.constantFrom('', 'put', 'keep') })
  }
)
type Step = typeof step extends fc.Arbitrary<infer One> ? One : never

interface Entry {
  readonly owner: number
  readonly name: string
  readonly files: readonly Identity[]
  readonly value: number
  /** The client that has copies. */
  keeper: Side | undefined
  lease: Lease | undefined
}

interface Lease {
  readonly entry: Entry
  /** Undefined: Python has it. */
  readonly lease: StoreLease | undefined
}

/** A client, as the tests use it: in this process or in Python. */
interface Side {
  readonly uid: number
  readonly leases: Map<string, Lease>
  readonly ours?: StoreClient
  readonly python?: PythonClient
}

type Outcome = { files: Identity[]; value?: unknown } | { code: string } | { is: unknown }

/** The code of its failure. */
const code = async (work: Promise<unknown>): Promise<{ code: string } | undefined> =>
  work.then(
    () => undefined,
    error => ({ code: error.code })
  )

/** A step that takes for ever says which it was. */
async function inTime(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('it takes longer than 40 s')), 40_000)
  })
  await Promise.race([work, limit]).finally(() => clearTimeout(timer))
}

/** The real store with its clients, and what it should hold. */
class World {
  readonly #path = `${directory}/${++paths}`
  readonly #sides: Side[] = []
  readonly #entries = new Map<string, Entry>()
  readonly log: string[] = []
  #store!: Holder
  /** Predecessors: Python says goodbye only when it is asked for something again. */
  readonly #ending: Promise<void>[] = []
  #value = 0
  /** Entries that clients could not put again. */
  #lost: string[] = []

  async open(): Promise<void> {
    this.#store = await Holder.open(this.#path, {}, 0o666)
    for (let index = 0; index < CLIENTS; index++) this.#sides.push(await this.#side(index))
  }

  async close(): Promise<void> {
    for (const side of this.#sides) await this.#end(side, false)
    await this.#store.close()
    await Promise.all(this.#ending)
  }

  async #side(index: number): Promise<Side> {
    if (index === PYTHON) {
      const python = new PythonClient(this.#path, { uid: NOBODY, gid: NOBODY })
      await python.do({ do: 'list' })
      return { uid: NOBODY, leases: new Map(), python }
    }
    const ours = await connectStore(this.#path)
    ours.on('lost', ({ name }, error) => void this.#lost.push(`${name}: ${error.message}`))
    return { uid: 0, leases: new Map(), ours }
  }

  // --- one step, and what it should lead to

  async do(step: Step): Promise<void> {
    this.log.push(JSON.stringify(step))
    await inTime(this.#do(step))
  }

  async #do(step: Step): Promise<void> {
    const side = this.#sides[step.client]!
    switch (step.do) {
      case 'put':
        return this.#same(await this.#put(side, step), step)
      case 'take':
        return this.#same(await this.#take(side, step), step)
      case 'keep':
      case 'release':
        await this.#settle(side, step)
        return
      case 'copy':
      case 'remove':
        return this.#same(await this.#simple(side, step), step)
      case 'expire':
        return this.#expire(side, step)
      case 'end':
      case 'kill':
        await this.#end(side, step.do === 'kill' && side.python !== undefined)
        this.#sides[step.client] = await this.#side(step.client)
        break
      case 'replaceStore': {
        const done = this.#under(side, step.under)
        this.#store = await this.#replaced()
        await done()
        // The leases of a client that ends before it has connected again come back after 10 s only
        await this.#reachAll()
        break
      }
      case 'burst':
        await this.#burst(step.replaceStore)
        break
      case 'killStore':
        await this.#killStore(side, step.under)
    }
    await this.#compare()
  }

  #same({ found, expected }: { found: Outcome; expected: Outcome }, step: Step): void {
    const [one, two] = [JSON.stringify(found), JSON.stringify(expected)]
    if (one !== two) throw new Error(`${JSON.stringify(step)}: ${one}, not ${two}`)
  }

  #owner({ uid }: Side, other: boolean): number {
    return other ? NOBODY - uid : uid
  }

  /** What root may not do to others, everybody may do to its own. */
  #denied(side: Side, other: boolean): boolean {
    return other && side.uid !== 0
  }

  async #put(
    side: Side,
    {
      name,
      other,
      count,
      keep,
      replace
    }: { name: string; other: boolean; count: number; keep: boolean; replace: boolean }
  ): Promise<{ found: Outcome; expected: Outcome }> {
    const owner = this.#owner(side, other)
    const key = `${owner}/${name}`
    const before = this.#entries.get(key)
    const value = ++this.#value
    let found: Outcome
    let files: Identity[]
    if (side.python !== undefined) {
      const literal = `${value}`
      const answer = await side.python.fails({
        do: 'put',
        name,
        count,
        keep,
        replace,
        literal,
        ...(other ? { owner } : {})
      })
      found = answer.code === undefined ? { files: answer.is.files } : { code: answer.code }
      files = answer.is?.files ?? []
    } else {
      const given = Array.from({ length: count }, () => Descriptor.memfd('ours'))
      files = given.map(identity)
      found = (await code(side.ours!.put(name, given, { value, keep, replace, owner }))) ?? { files }
      if (given.some(({ closed }) => closed !== !('code' in found)))
        throw new Error('a descriptor was not moved, or lost')
      for (const one of given) one[Symbol.dispose]()
    }
    const fault = this.#denied(side, other)
      ? 'DENIED'
      : before !== undefined && !replace
        ? 'EXISTS'
        : before?.lease !== undefined
          ? 'LEASED'
          : undefined
    if (fault !== undefined) return { found, expected: { code: `ERR_PASSFD_STORE_${fault}` } }
    this.#entries.delete(key) // the new one is the last of the list
    this.#entries.set(key, { owner, name, files, value, keeper: keep ? side : undefined, lease: undefined })
    return { found, expected: { files } }
  }

  async #take(
    side: Side,
    { name, other }: { name: string; other: boolean }
  ): Promise<{ found: Outcome; expected: Outcome }> {
    const owner = this.#owner(side, other)
    const entry = this.#entries.get(`${owner}/${name}`)
    let found: Outcome
    let lease: StoreLease | undefined
    if (side.python !== undefined) {
      const answer = await side.python.fails({ do: 'take', name, ...(other ? { owner } : {}) })
      found = shown(answer)
    } else
      found = await side.ours!.take(name, { owner }).then(
        one => {
          lease = one
          return one === undefined ? { is: null } : { files: one.descriptors.map(identity), value: one.value }
        },
        error => ({ code: error.code })
      )
    const expected = this.#expected(side, other, entry)
    if ('files' in expected) {
      const key = `${owner}/${name}`
      closeAll(side.leases.get(key)) // of a store that was lost
      entry!.lease = { entry: entry!, lease }
      side.leases.set(key, entry!.lease)
    }
    return { found, expected }
  }

  #expected(side: Side, other: boolean, entry: Entry | undefined): Outcome {
    if (this.#denied(side, other)) return { code: 'ERR_PASSFD_STORE_DENIED' }
    if (entry === undefined) return { is: null }
    if (entry.lease !== undefined) return { code: 'ERR_PASSFD_STORE_LEASED' }
    return { files: [...entry.files], value: entry.value }
  }

  /** Keeps or releases what the side has taken under this name, if it has. */
  async #settle(
    side: Side,
    { do: what, name, other }: { do: 'keep' | 'release'; name: string; other: boolean }
  ): Promise<void> {
    const key = `${this.#owner(side, other)}/${name}`
    const held = side.leases.get(key)
    if (held === undefined) return
    side.leases.delete(key)
    const isOwn = held.entry.lease !== held // the store that has leased it was lost
    if (side.python !== undefined) await side.python.do({ do: what, name })
    else {
      const failure = await code(held.lease![what]())
      if (failure !== undefined) throw new Error(`${what} of ${key}: ${failure.code}`)
      for (const one of held.lease!.descriptors) one[Symbol.dispose]()
    }
    if (isOwn) {
      // Here release() puts it into the new store
      if (what === 'release' && side.ours !== undefined && !this.#entries.has(key))
        this.#entries.set(key, { ...held.entry, keeper: undefined, lease: undefined })
      return
    }
    held.entry.lease = undefined
    if (what === 'keep') this.#entries.delete(key)
  }

  async #simple(
    side: Side,
    { do: what, name, other }: { do: 'copy' | 'remove'; name: string; other: boolean }
  ): Promise<{ found: Outcome; expected: Outcome }> {
    const owner = this.#owner(side, other)
    const key = `${owner}/${name}`
    const entry = this.#entries.get(key)
    let found: Outcome
    if (side.python !== undefined)
      found = shown(await side.python.fails({ do: what, name, ...(other ? { owner } : {}) }))
    else if (what === 'remove')
      found = await side.ours!.remove(name, { owner }).then(
        is => ({ is }),
        error => ({ code: error.code })
      )
    else
      found = await side.ours!.copy(name, { owner }).then(
        one => {
          if (one === undefined) return { is: null }
          const files = one.descriptors.map(identity)
          for (const each of one.descriptors) each.close()
          return { files, value: one.value }
        },
        error => ({ code: error.code })
      )
    const expected = this.#expected(side, other, entry)
    if (what === 'copy' || 'code' in expected) return { found, expected }
    this.#entries.delete(key)
    return { found, expected: { is: entry !== undefined } }
  }

  /** An entry expires, also while it is leased. */
  async #expire(side: Side, { name, leased }: { name: string; leased: boolean }): Promise<void> {
    const [watcher] = this.#sides
    const short = `short-${name}`
    const clock = 'clock'
    const changes = watcher!.ours!.watch({ names: '*', owner: 0 })
    await changes.next()
    const putter = side.ours ?? watcher!.ours!
    await putter.put(short, Descriptor.memfd('ours'), { ttl: 60, replace: true })
    const lease = leased ? await putter.take(short) : undefined
    await putter.put(clock, Descriptor.memfd('ours'), { ttl: 90 })
    const events: string[] = []
    for await (const change of changes) {
      if (change.event === 'list') continue
      events.push(`${change.event} ${change.entry.name}`)
      if (change.event === 'expired' && change.entry.name === clock) break
    }
    if (lease === undefined) return
    // It was expired already if this process had waited for a core for so long
    const before = events.includes(`expired ${short}`)
    if (before) throw new Error(`a leased entry has expired: ${events}`)
    await lease.release()
    if ((await putter.copy(short)) !== undefined) throw new Error('what has expired while it was leased is there again')
  }

  /** All clients put and take at once, also while the store is replaced. */
  async #burst(replaceStore: boolean): Promise<void> {
    const race = `race${++this.#value}`
    const sides = this.#sides.filter(({ ours }) => ours !== undefined)
    await sides[0]!.ours!.put(race, Descriptor.memfd('ours'))
    const python = this.#sides[PYTHON]!.python!
    python.ask({ do: 'traffic', name: 'traffic', times: 10 })
    const done = Promise.all([
      ...sides.map(({ ours }, index) => burst(ours!, `burst${index}`)),
      Promise.all(sides.map(({ ours }) => ours!.take(race).catch(({ code }) => code as string)))
    ])
    if (replaceStore) this.#store = await this.#replaced()
    const taken = (await done).at(-1) as (StoreLease | string)[]
    const leases = taken.filter(one => typeof one === 'object')
    if (leases.length !== 1 || !taken.includes('ERR_PASSFD_STORE_LEASED'))
      throw new Error(`one name was taken by ${taken}`)
    await leases[0]!.keep()
    leases[0]!.descriptor.close()
    for (let answer = await python.answer(); ; answer = await python.answer()) {
      if (answer.at !== undefined) continue
      if (answer.is?.wrong !== 0) throw new Error(`Python: ${JSON.stringify(answer)}`)
      break
    }
    if (replaceStore) await this.#reachAll()
  }

  async #end(side: Side, kill: boolean): Promise<void> {
    for (const held of side.leases.values()) {
      if (held.entry.lease === held) held.entry.lease = undefined
      closeAll(held)
    }
    for (const entry of this.#entries.values()) if (entry.keeper === side) entry.keeper = undefined
    if (side.ours !== undefined) await side.ours.close()
    else if (kill) await side.python!.kill()
    else await side.python!.close()
  }

  /** What is under way while the store goes. */
  #under(side: Side, what: string): () => Promise<void> {
    if (what === 'put') {
      const done = this.#put(side, { name: `under${this.#value}`, other: false, count: 2, keep: true, replace: false })
      return async () => this.#same(await done, { do: 'put' } as Step)
    }
    const [held] = side.leases.keys()
    if (what !== 'keep' || held === undefined) return async () => {}
    const [owner, name] = held.split('/') as [string, string]
    const done = this.#settle(side, { do: 'keep', name, other: Number(owner) !== side.uid })
    return () => done
  }

  async #replaced(): Promise<Holder> {
    const successor = await Holder.open(this.#path, {}, 0o666)
    await this.#store.says('superseded')
    this.#ending.push(this.#store.ended())
    return successor
  }

  async #reachAll(): Promise<void> {
    for (const { ours, python } of this.#sides) await (ours?.list() ?? python!.do({ do: 'list' }))
  }

  async #killStore(side: Side, what: string): Promise<void> {
    // Whatever the store had to say is read
    await this.#reachAll()
    process.kill(this.#store.pid, 'SIGSTOP')
    for (const [key, entry] of [...this.#entries]) {
      entry.lease = undefined
      if (entry.keeper === undefined) this.#entries.delete(key)
    }
    const done = this.#under(side, what)
    await this.#store.kill()
    this.#store = await Holder.open(this.#path, {}, 0o666)
    await done()
    // Python connects again when it is asked for something
    await this.#reachAll()
    const [{ ours }] = this.#sides as [Side]
    const names = new Set(this.#entries.keys())
    for (let found = new Set<string>(); found.size < names.size; )
      found = new Set((await ours!.list()).map(({ owner, name }) => `${owner}/${name}`).filter(one => names.has(one)))
    // In which order they were put again is not known
    const order = (await ours!.list()).map(({ owner, name }) => `${owner}/${name}`)
    const before = new Map(this.#entries)
    this.#entries.clear()
    for (const key of order) this.#entries.set(key, before.get(key)!)
  }

  // --- all that is there

  async #compare(): Promise<void> {
    const [{ ours }] = this.#sides as [Side]
    const found = (await ours!.list())
      .filter(({ name }) => name !== 'clock' && !name.startsWith('short'))
      .map(
        ({ owner, name, kinds, leased }) => `${owner}/${name} ${kinds.length}${leased === undefined ? '' : ' leased'}`
      )
    const expected = [...this.#entries].map(
      ([key, { files, lease }]) => `${key} ${files.length}${lease === undefined ? '' : ' leased'}`
    )
    if (`${found}` !== `${expected}`) throw new Error(`there is ${found}, not ${expected}`)
    const count = [...this.#entries.values()].reduce((sum, { files }) => sum + files.length, 0)
    await until(() => this.#open() === count, `the store has ${this.#open()} files open, not ${count}`, 10)
    if (this.#lost.length > 0) throw new Error(`not put again: ${this.#lost}`)
  }

  #open(): number {
    const directory = `/proc/${this.#store.pid}/fd`
    return readdirSync(directory).filter(fd => {
      try {
        return /memfd:(ours|python)/.test(readlinkSync(`${directory}/${fd}`))
      } catch {
        return false
      }
    }).length
  }
}

/** Puts many at once, and takes them at once: each has its own descriptor and value. */
async function burst(client: StoreClient, prefix: string): Promise<void> {
  const files = Array.from({ length: 20 }, () => Descriptor.memfd('ours'))
  const identities = files.map(file => `${identity(file)}`)
  const one = async (file: Descriptor, index: number): Promise<void> => {
    await client.put(`${prefix}-${index}`, file, { value: index, keep: index % 3 === 0 })
    const lease = (await client.take(`${prefix}-${index}`))!
    if (`${identity(lease.descriptor)}` !== identities[index] || lease.value !== index)
      throw new Error(`${prefix}-${index} has the descriptor or the value of another one`)
    if (index % 2 === 0) {
      await lease.release()
      const again = (await client.take(`${prefix}-${index}`))!
      if (`${identity(again.descriptor)}` !== identities[index]) throw new Error('another descriptor after the release')
      await again.keep()
      again.descriptor.close()
    } else {
      await lease.keep()
      lease.descriptor.close()
    }
  }
  await Promise.all(files.map(one))
}

function closeAll(held: Lease | undefined): void {
  for (const one of held?.lease?.descriptors ?? []) one[Symbol.dispose]()
}

function shown({ is, code }: { is?: any; code?: string }): Outcome {
  if (code !== undefined) return { code }
  if (is === null || typeof is === 'boolean') return { is }
  return { files: is.files, value: Number(is.value) }
}

testIf(reason, 'random sequences of all that clients and stores do', async t => {
  let takeovers = 0
  let kills = 0
  let steps = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), async sequence => {
      const world = new World()
      await world.open()
      try {
        for (const one of sequence) {
          await world.do(one)
          steps++
          if (one.do === 'replaceStore') takeovers++
          if (one.do === 'killStore') kills++
        }
      } catch (error) {
        throw new Error(`${(error as Error).message}, after\n${world.log.join('\n')}`, { cause: error })
      } finally {
        await world.close()
      }
    }),
    {
      numRuns: isInCi ? times(6, 60) : 3,
      endOnFailure: true,
      includeErrorInReport: true
    }
  )
  t.log(`${steps} steps, ${takeovers} takeovers, ${kills} kills`)
})
