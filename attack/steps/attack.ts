/** One of two processes is killed at a step of its work: as it calls a function of the system. */
import { join } from 'node:path'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOutInRows } from '../attack.ts'
import { withLibrary } from '../faults/attack.ts'
import { KILL, Orders } from '../faults/orders.ts'
import { Ends, SCENARIOS, SIDES, type Side } from '../pairs/ends.ts'

/** Beside those of pairs/scenarios/. */
const OWN: Record<string, string> = { succession: '../../steps/scenarios/succession' }
const PARTS = [...SCENARIOS, ...Object.keys(OWN)].sort()
/** Between them nothing changes that another process sees. */
const UNSEEN = ['calloc', 'malloc', 'realloc', 'sbrk', 'madvise', 'mmap', 'pthread_attr_init', 'getrlimit', 'isatty']

const counts = {
  steps: 0,
  'that were not reached': 0,
  kills: 0,
  'promises that were settled': 0,
  'with an error': 0
}

export const steps: Attack = {
  promise:
    'At whichever call of the system a process is killed, every promise of the other one is settled, it leaves nothing open, and goes on with the next one. A store or a server that is being replaced is there as a whole, in one of the two.',
  what: 'One of two processes is killed as it makes a call to the C library: at each call of a round in turn. The survivor is checked, then a round with a new process must succeed.',
  needs: ['build', 'cc'],
  parts: PARTS,
  count: 20_000,
  sample: 33,
  time: 3_600_000,
  run
}

interface Step {
  readonly side: Side
  readonly name: string
  /** Which of its calls in a round, from 1 on. */
  readonly call: number
}

function run(settings: Settings): Promise<Outcome> {
  return withLibrary(library =>
    shareOutInRows(settings, chosenOf(PARTS, settings), counts, (part, share) => attackScenario(part, library, share))
  )
}

async function attackScenario(part: string, library: string, share: Share): Promise<void> {
  const { seed, count, until, log, tell, found } = share
  const pair = new Pair(part, library)
  try {
    await pair.start()
    const all = await pair.steps()
    const random = new Random(seed)
    log(`${part}: ${Math.min(count, all.length)} of ${all.length} steps`)
    for (let done = 0; done < count && all.length > 0 && performance.now() < until; done++) {
      const step = random.draw(all)
      const problems = await pair.kill(step, tell)
      tell('steps', 1)
      if (problems.length === 0) continue
      found(`${part}, ${step.side} is killed at call ${step.call} of ${step.name}: ${problems.join('; ')}`)
      await pair.close()
      await pair.start()
    }
  } finally {
    await pair.close()
  }
}

class Pair {
  readonly #part: string
  readonly #library: string
  #ends: Ends | undefined
  readonly #orders: Partial<Record<Side, Orders>> = {}

  constructor(part: string, library: string) {
    this.#part = part
    this.#library = library
  }

  async start(): Promise<void> {
    this.#ends = await Ends.start(OWN[this.#part] ?? this.#part, (side, folder) => {
      this.#orders[side]?.close()
      this.#orders[side] = new Orders(join(folder, `orders-${side}`))
      const preload = [process.env.LD_PRELOAD, this.#library].filter(Boolean).join(':')
      return { LD_PRELOAD: preload, FAULTS: this.#orders[side].path }
    })
  }

  /** All calls of a round. */
  async steps(): Promise<Step[]> {
    const steps: Step[] = []
    await this.#ends!.round({
      begin: () => {
        for (const side of SIDES) this.#orders[side]!.give(undefined)
      },
      end: () => {
        for (const side of SIDES)
          for (const [name, calls] of this.#orders[side]!.calls)
            if (!UNSEEN.includes(name)) for (let call = 1; call <= calls; call++) steps.push({ side, name, call })
      }
    })
    return steps
  }

  /** Returns what is wrong. */
  async kill({ side, name, call }: Step, tell: Share['tell']): Promise<string[]> {
    const ends = this.#ends!
    const orders = this.#orders[side]!
    let isHit = false
    const { problems, outcomes } = await ends.round({
      mayFail: true,
      begin: () => orders.give({ name, first: call, times: 1, error: KILL, limit: 0 }),
      end: async () => {
        isHit = orders.hits > 0
        orders.give(undefined)
        // The calls of `far` in prefork are those of a worker: its supervisor starts another one
        if (isHit && !this.#isWorker(side)) await ends.over(side)
      }
    })
    tell(isHit ? 'kills' : 'that were not reached', 1)
    tell('promises that were settled', outcomes.length)
    tell('with an error', outcomes.filter(([, outcome]) => outcome !== 'ok').length)
    if (!isHit || this.#isWorker(side)) return problems
    const survivor = side === 'near' ? 'far' : 'near'
    const of = problems.filter(each => each.startsWith(survivor))
    try {
      await ends.restart(side)
    } catch (error) {
      of.push(`with a new process, ${(error as Error).message}`)
    }
    return of
  }

  async close(): Promise<void> {
    await this.#ends?.close()
    for (const side of SIDES) {
      this.#orders[side]?.close()
      delete this.#orders[side]
    }
    this.#ends = undefined
  }

  #isWorker(side: Side): boolean {
    return this.#part === 'prefork' && side === 'far'
  }
}
