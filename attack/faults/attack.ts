/** Calls of the system fail, or do less than they were asked to, in one of two processes that pass descriptors to each other. */
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOutInRows } from '../attack.ts'
import { compile } from '../needs.ts'
import { Ends, problemsOf, type Result, SCENARIOS, SIDES, type Side } from '../pairs/ends.ts'
import { FUNCTIONS, LIMITS, nameOf, PARTIAL } from './functions.ts'
import { type Order, Orders } from './orders.ts'
import { sitesOf } from './sites.ts'

/** Scenarios of one process, each of many variants: every function of the shim, and every one that opens something. */
const ALONE: Record<string, string> = { shim: '../../faults/shim', openers: '../../faults/openers' }
const PARTS = [...Object.keys(ALONE), ...SCENARIOS]
/** How many calls fail in a row. */
const TIMES = [1, 3, 1000]
/** The same, of a variant, which calls a function a few times. */
const TIMES_OF_VARIANT = [1, 1000]
/** Of a function that a round calls very often, the first ones. Of a variant, all. */
const CALLS = 12
/** How long calls fail at most, in ms: passfd tries some of them again after a pause, and a thousand pauses are long. */
const LONGEST = 3000
/** So many pairs of processes at a time: some rounds only wait. */
const LANES = availableParallelism() + 1
/** To start one more costs as much as some rounds. */
const WORTH_A_LANE = 50
const SHIM = process.env.PASSFD_SHIM ?? here('../../native/build/Release/passfd.node')

export interface Fault extends Order {
  readonly side: Side
  readonly variant?: string | undefined
}

const counts = {
  combinations: 0,
  'that met no call': 0,
  'calls that failed': 0,
  'promises that were settled': 0,
  'with an error': 0
}

export const faults: Attack = {
  promise:
    'Whatever a system call answers, no process ends, every promise is settled, and no descriptor is lost, left open or given to another receiver.',
  what: 'Each call of the shim to the C library fails with each of its errors, also for want of memory, once, three or a thousand times in a row, or reads and writes 1, 5, 13 or 40 bytes. Then a round without faults must succeed.',
  needs: ['root', 'build', 'cc', 'objdump'],
  parts: PARTS,
  count: 100_000,
  sample: 120,
  time: 3_600_000,
  run
}

function here(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url))
}

/** Builds faults.c for as long as `use` needs it. */
export async function withLibrary<T>(use: (library: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  const library = join(folder, 'faults.so')
  try {
    compile(['-shared', '-fPIC', '-O1', '-Wall', '-o', library, here('faults.c')])
    return await use(library)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function run(settings: Settings): Promise<Outcome> {
  const hits: Sites = new Map()
  const outcome = await withLibrary(library =>
    shareOutInRows(settings, chosenOf(PARTS, settings), counts, (part, share) =>
      attackScenario(part, library, share, hits)
    )
  )
  // A call through a pointer is in no listing, but was counted
  const sites = new Map([...hits.keys()].map(at => [at, { name: 'a call through a pointer', within: '?' }]))
  for (const [at, site] of sitesOf(SHIM)) sites.set(at, site)
  const left = [...sites].filter(([at]) => (hits.get(at) ?? 0) === 0)
  for (const [at, { name, within }] of left)
    settings.log(
      `${name} in ${within}, 0x${at.toString(16)}, has not failed${hits.has(at) ? '' : ', and was not called'}`
    )
  Object.assign(outcome.counts, {
    'places of the shim that make such calls': sites.size,
    'of them have failed': sites.size - left.length
  })
  return outcome
}

/** By place in the shim: how many of its calls have failed. */
type Sites = Map<number, number>

async function attackScenario(part: string, library: string, share: Share, hits: Sites): Promise<void> {
  const lanes: Spoiled[] = []
  try {
    const first = new Spoiled(part, library)
    lanes.push(first)
    await first.start()
    const all = await first.faults()
    const count = Math.min(share.count, all.length)
    const random = new Random(share.seed)
    const chosen = Array.from({ length: count }, () => random.draw(all))
    share.log(`${part}: ${count} of ${count + all.length} combinations`)
    while (lanes.length < Math.min(LANES, count / WORTH_A_LANE)) lanes.push(new Spoiled(part, library))
    await Promise.all(
      lanes.map(async lane => {
        if (lane !== first) await lane.start()
        for (;;) {
          const fault = performance.now() < share.until ? chosen.shift() : undefined
          if (fault === undefined) break
          await tryOne(lane, fault, share)
        }
      })
    )
  } finally {
    for (const lane of lanes) {
      await lane.close()
      for (const [at, count] of lane.sites) hits.set(at, (hits.get(at) ?? 0) + count)
    }
  }
}

/** A round with a fault, and one without; new processes if that has found something. */
export async function tryOne(
  pair: Spoiled,
  fault: Fault,
  { tell, found }: Pick<Share, 'tell' | 'found'>
): Promise<void> {
  const spoiled = await pair.round(fault)
  tell('combinations', 1)
  if (pair.hits === 0) tell('that met no call', 1)
  tell('calls that failed', pair.hits)
  tell('promises that were settled', spoiled.outcomes.length)
  tell('with an error', spoiled.outcomes.filter(([, outcome]) => outcome !== 'ok').length)
  const problems = [...spoiled.problems, ...(fault.variant === undefined ? [] : strangersOf(spoiled, fault, pair.hits))]
  for (const each of problemsOf(await pair.round({ variant: fault.variant })))
    problems.push(`in the next round, ${each}`)
  if (problems.length === 0) return
  found(`${pair.scenario}, ${describe(fault)}: ${problems.join('; ')}`)
  await pair.close()
  await pair.start()
}

/** Where one call fails, its error is what the program gets, if it gets any. */
function strangersOf({ outcomes }: Result, { error }: Fault, hits: number): string[] {
  return outcomes
    .filter(([, outcome]) => outcome !== 'ok')
    .filter(
      ([, outcome, errno]) =>
        hits === 0 || !(errno === -(error ?? 0) || outcome === nameOf(error ?? 0) || UNKNOWN.test(outcome))
    )
    .map(([what, outcome, errno]) => `${what} fails with ${outcome} (${errno})`)
}
/** What a descriptor is open on can't be found out without the call that fails. */
const UNKNOWN = /^ERR_PASSFD_(DESCRIPTOR_KIND|MEMORY_KIND|LOAN_INVALID)$/

/** The two processes of a scenario, with faults.c in both. */
export class Spoiled {
  readonly scenario: string
  /** How many calls have failed in the last round by an order. */
  hits = 0
  /** Counted when it is closed. */
  readonly sites: Sites = new Map()
  readonly #library: string
  readonly #environment: NodeJS.ProcessEnv
  #ends: Ends | undefined
  #orders: Partial<Record<Side, Orders>> = {}

  /** `environment` is added to that of both processes. */
  constructor(scenario: string, library: string, environment: NodeJS.ProcessEnv = {}) {
    this.scenario = scenario
    this.#library = library
    this.#environment = environment
  }

  async start(): Promise<void> {
    this.#ends = await Ends.start(ALONE[this.scenario] ?? this.scenario, (side, folder) => {
      this.#orders[side] = new Orders(join(folder, `orders-${side}`))
      const preload = [process.env.LD_PRELOAD, this.#library].filter(Boolean).join(':')
      return { ...this.#environment, LD_PRELOAD: preload, FAULTS: this.#orders[side].path }
    })
  }

  /** A round in which calls fail by the order, if there is one. */
  round(fault?: Fault | Pick<Fault, 'variant'>): Promise<Result> {
    return this.#round(fault !== undefined && 'side' in fault ? fault : undefined, fault?.variant, () => {})
  }

  /** Everything that a round calls, with each error. */
  async faults(): Promise<Fault[]> {
    const faults: Fault[] = []
    for (const variant of this.#ends!.variants ?? [undefined]) {
      const calls: Partial<Record<Side, Map<string, number>>> = {}
      const result = await this.#round(undefined, variant, () => {
        for (const side of SIDES) calls[side] = this.#orders[side]!.calls
      })
      const problems = problemsOf(result)
      if (problems.length > 0) throw new Error(`${this.scenario}, ${variant}: ${problems.join('; ')}`)
      for (const side of SIDES) faults.push(...faultsOf(side, variant, calls[side]!))
    }
    return faults
  }

  async close(): Promise<void> {
    this.#count()
    await this.#ends?.close()
    for (const side of SIDES) this.#orders[side]?.close()
    this.#ends = undefined
    this.#orders = {}
  }

  async #round(fault: Fault | undefined, variant: string | undefined, counted: () => void): Promise<Result> {
    let isOver = false
    const end = (): void => {
      if (isOver) return
      isOver = true
      counted()
      this.hits = SIDES.reduce((sum, side) => sum + this.#orders[side]!.hits, 0)
      for (const side of SIDES) this.#orders[side]!.give(undefined)
    }
    let timer: NodeJS.Timeout | undefined
    return this.#ends!.round({
      mayFail: fault !== undefined,
      ...(variant === undefined ? {} : { variant }),
      begin: () => {
        for (const side of SIDES) this.#orders[side]!.give(side === fault?.side ? fault : undefined)
        timer = setTimeout(end, LONGEST)
      },
      end: () => {
        clearTimeout(timer)
        end()
      }
    })
  }

  #count(): void {
    for (const side of SIDES)
      for (const [at, hits] of this.#orders[side]?.sites ?? []) this.sites.set(at, (this.sites.get(at) ?? 0) + hits)
  }
}

function faultsOf(side: Side, variant: string | undefined, calls: Map<string, number>): Fault[] {
  const faults: Fault[] = []
  for (const [name, count] of calls)
    for (let first = 1; first <= (variant === undefined ? Math.min(count, CALLS) : count); first++)
      for (const times of variant === undefined ? TIMES : TIMES_OF_VARIANT) {
        for (const error of FUNCTIONS[name]!) faults.push({ side, variant, name, first, times, error, limit: 0 })
        if (!PARTIAL.includes(name) || variant !== undefined) continue
        for (const limit of LIMITS) faults.push({ side, variant, name, first, times, error: undefined, limit })
      }
  return faults
}

function describe({ side, variant, name, first, times, error, limit }: Fault): string {
  const how = error === undefined ? `does at most ${limit} bytes` : `fails with ${nameOf(error)}`
  return `${variant ?? side}: ${name} ${how}, from call ${first} on, ${times} times`
}
