/** Calls of the system fail, or do less than they were asked to, in one of two processes that pass descriptors to each other. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, shareOut } from '../attack.ts'
import { Ends, problemsOf, type Result, SCENARIOS, SIDES, type Side } from '../pairs/ends.ts'
import { FUNCTIONS, LIMITS, nameOf, PARTIAL } from './functions.ts'
import { type Order, Orders } from './orders.ts'

/** How many calls fail in a row. */
const TIMES = [1, 3, 1000]
/** Of a function that a round calls very often, the first ones. */
const CALLS = 12
/** How long calls fail at most, in ms: passfd tries some of them again after a pause, and a thousand pauses are long. */
const LONGEST = 3000

interface Fault extends Order {
  readonly side: Side
}

const counts = { combinations: 0, 'calls that failed': 0, 'promises that were settled': 0, 'with an error': 0 }

export const faults: Attack = {
  promise:
    'Whatever a system call answers, no process ends, every promise is settled, and no descriptor is lost, left open or given to another receiver.',
  what: 'Each call of the shim fails with each of its errors, once, three or a thousand times in a row, or reads and writes 1, 5, 13 or 40 bytes. Then a round without faults must succeed.',
  parts: SCENARIOS,
  count: 100_000,
  sample: 120,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  const library = join(folder, 'faults.so')
  const source = fileURLToPath(new URL('faults.c', import.meta.url))
  try {
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source])
    return await shareOut(settings, chosenOf(SCENARIOS, settings), counts, (scenario, share) =>
      attackScenario(new Spoiled(scenario, library), share)
    )
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function attackScenario(
  pair: Spoiled,
  { seed, count, until, log, tell, found }: Parameters<Parameters<typeof shareOut>[3]>[1]
): Promise<void> {
  await pair.start()
  try {
    const all = await pair.faults()
    const random = new Random(seed)
    log(`${pair.scenario}: ${Math.min(count, all.length)} of ${all.length} combinations`)
    for (let turn = 0; turn < count && all.length > 0 && performance.now() < until; turn++) {
      const fault = random.draw(all)
      const spoiled = await pair.round(fault)
      tell('combinations', 1)
      tell('calls that failed', pair.hits)
      tell('promises that were settled', spoiled.outcomes.length)
      tell('with an error', spoiled.outcomes.filter(([, outcome]) => outcome !== 'ok').length)
      const after = problemsOf(await pair.round())
      const problems = [...spoiled.problems, ...after.map(each => `in the next round, ${each}`)]
      if (problems.length === 0) continue
      found(`${pair.scenario}, ${describe(fault)}: ${problems.join('; ')}`)
      await pair.close()
      await pair.start()
    }
  } finally {
    await pair.close()
  }
}

/** The two processes of a scenario, with faults.c in both. */
export class Spoiled {
  readonly scenario: string
  /** How many calls have failed in the last round by an order. */
  hits = 0
  readonly #library: string
  #ends!: Ends
  #orders!: Record<Side, Orders>

  constructor(scenario: string, library: string) {
    this.scenario = scenario
    this.#library = library
  }

  async start(): Promise<void> {
    const orders = {} as Record<Side, Orders>
    this.#ends = await Ends.start(this.scenario, (side, folder) => {
      orders[side] = new Orders(join(folder, `orders-${side}`))
      const preload = [process.env.LD_PRELOAD, this.#library].filter(Boolean).join(':')
      return { LD_PRELOAD: preload, FAULTS: orders[side].path }
    })
    this.#orders = orders
  }

  /** A round in which calls fail by the order, if there is one. */
  async round(fault?: Fault): Promise<Result> {
    let isOver = false
    const end = (): void => {
      if (isOver) return
      isOver = true
      this.hits = SIDES.reduce((sum, side) => sum + this.#orders[side].hits, 0)
      for (const side of SIDES) this.#orders[side].give(undefined)
    }
    let timer: NodeJS.Timeout | undefined
    return this.#ends.round({
      begin: () => {
        for (const side of SIDES) this.#orders[side].give(side === fault?.side ? fault : undefined)
        timer = setTimeout(end, LONGEST)
      },
      end: () => {
        clearTimeout(timer)
        end()
      }
    })
  }

  /** Everything that a round calls, with each error. */
  async faults(): Promise<Fault[]> {
    const calls = {} as Record<Side, Map<string, number>>
    await this.#ends.round({
      begin: () => {
        for (const side of SIDES) this.#orders[side].give(undefined)
      },
      end: () => {
        for (const side of SIDES) calls[side] = this.#orders[side].calls
      }
    })
    const faults: Fault[] = []
    for (const side of SIDES)
      for (const [name, count] of calls[side])
        for (let first = 1; first <= Math.min(count, CALLS); first++)
          for (const times of TIMES) {
            for (const error of FUNCTIONS[name]!) faults.push({ side, name, first, times, error, limit: 0 })
            if (!PARTIAL.includes(name)) continue
            for (const limit of LIMITS) faults.push({ side, name, first, times, error: undefined, limit })
          }
    return faults
  }

  async close(): Promise<void> {
    await this.#ends.close()
    for (const side of SIDES) this.#orders[side].close()
  }
}

function describe({ side, name, first, times, error, limit }: Fault): string {
  const how = error === undefined ? `does at most ${limit} bytes` : `fails with ${nameOf(error)}`
  return `${side}: ${name} ${how}, from call ${first} on, ${times} times`
}
