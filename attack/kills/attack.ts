/** One of two processes is killed or stopped at any moment while they pass descriptors to each other. */

import { setTimeout as nap } from 'node:timers/promises'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'
import { Ends, problemsOf, SCENARIOS, SIDES, type Side } from '../pairs/ends.ts'

/** How long a stopped process stays so, in ms. */
const STOPPED = 30

/** KILL, STOP, or a call of process.exit(). */
const HARMS = [
  [5, 'kill'],
  [2, 'stop'],
  [3, 'exit']
] as const

const counts = { rounds: 0, kills: 0, stops: 0, exits: 0, 'promises that were settled': 0, 'with an error': 0 }

export const kills: Attack = {
  promise:
    'If one process is killed or exits, every promise of the other one is settled, it leaves nothing open, and goes on with the next one. A process that was stopped for a moment loses nothing.',
  what: 'One of two processes gets KILL or STOP, or calls process.exit(), at any moment of a round. The survivor is checked, then a round with a new process must succeed.',
  needs: ['build'],
  parts: SCENARIOS,
  count: 5000,
  sample: 30,
  time: 3_600_000,
  run
}

function run(settings: Settings): Promise<Outcome> {
  return shareOut(settings, chosenOf(SCENARIOS, settings), counts, attackScenario)
}

async function attackScenario(scenario: string, { seed, count, until, log, tell, found }: Share): Promise<void> {
  const random = new Random(seed)
  let ends = await Ends.start(scenario)
  try {
    const usual = await timeOf(ends)
    log(`${scenario}: a round takes ${usual.toFixed(1)} ms`)
    for (let round = 0; round < count && performance.now() < until; round++) {
      const side = random.pick(SIDES)
      const how = random.weighted(HARMS)
      // Beyond its usual time, too: the ends of a channel are a part of it
      const moment = random.next() * usual * 1.3
      const problems =
        how === 'stop' ? await stopAt(ends, side, moment, tell) : await killAt(how, ends, side, moment, tell)
      tell('rounds', 1)
      tell(`${how}s`, 1)
      if (problems.length === 0) continue
      found(
        `${scenario}, ${how} of ${side} after ${moment.toFixed(2)} ms (round ${round} of seed ${seed}): ${problems.join('; ')}`
      )
      await ends.close()
      ends = await Ends.start(scenario)
    }
  } finally {
    await ends.close()
  }
}

async function timeOf(ends: Ends): Promise<number> {
  const times: number[] = []
  for (let turn = 0; turn < 5; turn++) {
    let begun = 0
    await ends.round({
      begin() {
        begun = performance.now()
      },
      end() {
        times.push(performance.now() - begun)
      }
    })
  }
  return times.sort((a, b) => a - b)[2]!
}

async function killAt(
  how: 'kill' | 'exit',
  ends: Ends,
  side: Side,
  moment: number,
  tell: Share['tell']
): Promise<string[]> {
  let exit: Promise<string | number | null> | undefined
  const plan = new Plan(moment, () => {
    if (how === 'exit') exit = ends.exit(side)
    else ends.signal(side, 'SIGKILL')
  })
  const { problems, outcomes } = await ends.round({
    mayFail: true,
    begin: () => plan.begin(),
    // Or the checks would take a process that is about to end for one that lives
    end: () => (plan.isDone ? ends.over(side) : undefined)
  })
  plan.end() // the round was over before
  tell('promises that were settled', outcomes.length)
  tell('with an error', outcomes.filter(([, outcome]) => outcome !== 'ok').length)
  const survivor = side === 'near' ? 'far' : 'near'
  const of = problems.filter(each => each.startsWith(survivor))
  const status = await exit
  if (status !== undefined && status !== 0) of.push(`${side} has ended with ${status}`)
  try {
    await ends.restart(side)
  } catch (error) {
    of.push(`with a new process, ${(error as Error).message}`)
  }
  return of
}

async function stopAt(ends: Ends, side: Side, moment: number, tell: Share['tell']): Promise<string[]> {
  let going = Promise.resolve()
  const plan = new Plan(moment, () => {
    ends.signal(side, 'SIGSTOP')
    going = nap(STOPPED).then(() => ends.signal(side, 'SIGCONT'))
  })
  const result = await ends.round({ begin: () => plan.begin() })
  plan.end()
  await going // the next round begins with a process that runs
  tell('promises that were settled', result.outcomes.length)
  return problemsOf(result)
}

/** Does something once, at a moment of a round that has begun, or when the round is over. More exact than a timer. */
class Plan {
  readonly #after: number
  readonly #work: () => void
  #isDone = false

  constructor(after: number, work: () => void) {
    this.#after = after
    this.#work = work
  }

  get isDone(): boolean {
    return this.#isDone
  }

  begin(): void {
    const due = performance.now() + this.#after
    const look = (): void => {
      if (performance.now() >= due) this.end()
      else if (!this.#isDone) setImmediate(look)
    }
    look()
  }

  end(): void {
    if (this.#isDone) return
    this.#isDone = true
    this.#work()
  }
}
