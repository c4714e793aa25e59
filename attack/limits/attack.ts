/** Something that passfd needs of the system is taken from one of two processes while they pass descriptors to each other: open files, memory, threads, a disk, /proc, time. */
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'
import { Ends, problemsOf, type Result, SCENARIOS, SIDES, type Side } from '../pairs/ends.ts'
import { Ground, Tools } from './ground.ts'
import { HARMS, type HarmName, harmOf, type Taken } from './harms.ts'

/** For how long it is missing at most, in ms: passfd tries some calls again after a pause, and many pauses are long. */
const LONGEST = 2500
/** A stopped process stays so for more than a minute now and then; else as long, in ms. */
const FREEZES = { usual: [50, 1500, 3000], longest: 75_000, chance: 0.02 }
/** What Node prints when it ends a process that gets no memory. */
const NODE_ENDS =
  /out of memory|allocation failed|FATAL ERROR|Fatal error|bad_alloc|std::system_error|Assertion .* failed/i
/** What preload.c prints: the innermost frames first. */
const FAULT = 'this process is ended by\n'
const LIBRARIES = /\/(preload\.so|libc\.so|libc-|ld-|libpthread)/
/** Users that nobody else has: the kernel counts some things by user. */
const FIRST_USER = 610_000
/** What takes half a minute and a GB of the kernel's memory: only if it is named. */
const EXPENSIVE: readonly string[] = ['watches']

const counts = {
  rounds: 0,
  'with something missing': 0,
  'promises that were settled': 0,
  'settled with an error': 0,
  'processes that Node ended': 0
}

export const limits: Attack = {
  promise:
    'Whatever the system refuses, passfd ends no process, settles every promise, by an error with a code if it must, and loses no descriptor. When the system gives it again, all works again.',
  what: 'One of two processes gets no more open files, descriptors in flight, memory or threads; the disk is full or read-only; /tmp, /proc, /dev or /sys is missing; the clock jumps; a process is stopped, for a minute at most. Then a round without a limit must succeed.',
  needs: ['root', 'build', 'cc', 'nsenter', 'setpriv'],
  parts: [...SCENARIOS, ...Object.keys(HARMS)],
  count: 5000,
  sample: 60,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const chosen = chosenOf(limits.parts, settings)
  const some = <Name extends string>(all: readonly Name[]): Name[] => {
    const named = settings.only.length === 0 ? [] : all.filter(name => chosen.includes(name))
    return named.length > 0 ? named : all.filter(name => !EXPENSIVE.includes(name))
  }
  const harms = some(Object.keys(HARMS) as HarmName[])
  const tools = new Tools()
  try {
    return await shareOut(settings, some(SCENARIOS), counts, (scenario, share) =>
      attackScenario(scenario, harms, tools, share)
    )
  } finally {
    tools.close()
  }
}

async function attackScenario(scenario: string, harms: HarmName[], tools: Tools, share: Share): Promise<void> {
  const { seed, count, until, log, tell, found } = share
  const random = new Random(seed * 100 + SCENARIOS.indexOf(scenario)) // a sample has other harms in each
  const pair = new Limited(scenario, tools, random)
  await pair.start()
  try {
    log(`${scenario}: a round takes ${pair.usual.toFixed(1)} ms`)
    // Each harm before one comes again
    let left: HarmName[] = []
    for (let round = 0; round < count && performance.now() < until; round++) {
      if (left.length === 0) left = [...harms]
      const name = random.draw(left)
      const side = scenario === 'prefork' ? 'near' : random.pick(SIDES) // its processes are all on one side
      const { what, problems, outcomes, ended, isMissing } = await pair.round(name, side)
      tell('rounds', 1)
      if (isMissing) tell('with something missing', 1)
      tell('promises that were settled', outcomes.length)
      tell('settled with an error', outcomes.filter(([, outcome]) => outcome !== 'ok').length)
      if (ended) tell('processes that Node ended', 1)
      if (problems.length === 0) continue
      found(`${scenario}, ${name} of ${side}: ${what} (round ${round} of seed ${seed}): ${problems.join('; ')}`)
      await pair.close()
      await pair.start()
    }
  } finally {
    await pair.close()
  }
}

interface Spoiled extends Result {
  readonly what: string
  /** Or the round was over before. */
  readonly isMissing: boolean
}

interface Survived extends Spoiled {
  /** By Node, which got no memory or no watch. */
  readonly ended: boolean
}

/** The two processes of a scenario, on ground that can be taken from them. */
class Limited {
  readonly #scenario: string
  readonly #tools: Tools
  readonly #random: Random
  /** How long a round takes, in ms. */
  usual = 0
  #ground!: Ground
  #ends!: Ends

  constructor(scenario: string, tools: Tools, random: Random) {
    this.#scenario = scenario
    this.#tools = tools
    this.#random = random
  }

  async start(): Promise<void> {
    this.#ground = await Ground.make(this.#tools, FIRST_USER + (process.pid % 10_000))
    const { folder, command, environment } = this.#ground
    try {
      this.#ends = await Ends.start(this.#scenario, () => environment, { folder, command })
    } catch (error) {
      this.#ground.close()
      throw error
    }
    const times: number[] = []
    let begun = 0
    for (let turn = 0; turn < 5; turn++)
      await this.#ends.round({
        begin() {
          begun = performance.now()
        },
        end() {
          times.push(performance.now() - begun)
        }
      })
    this.usual = times.sort((a, b) => a - b)[2]!
  }

  async close(): Promise<void> {
    await this.#ends.close()
    this.#ground.close()
  }

  /** A round in which something is missing, and one in which nothing is. */
  async round(name: HarmName, side: Side): Promise<Survived> {
    const { isHarmless = false, endsNode = false } = harmOf(name)
    const result = await this.#limited(name, side)
    const problems = isHarmless ? problemsOf(result) : result.problems
    if (!this.#ends.ended(side)) {
      const after = problemsOf(await this.#ends.round())
      problems.push(...after.map(each => `in the next round, ${each}`))
    }
    if (!this.#ends.ended(side)) return { ...result, problems, ended: false }
    const survivor = side === 'near' ? 'far' : 'near'
    const ends = problems.filter(each => each.includes(`${side}: its process has ended`))
    const ended = endsNode && ends.length > 0 && ends.every(isByNode)
    // What fails because its peer has ended is no problem of the survivor's
    const left = ended ? problems.filter(each => each.startsWith(survivor)) : problems
    try {
      await this.#ends.restart(side)
    } catch (error) {
      left.push(`with a new process, ${(error as Error).message}`)
    }
    return { ...result, problems: left, ended }
  }

  async #limited(name: HarmName, side: Side): Promise<Spoiled> {
    const random = this.#random
    const freeze = random.chance(FREEZES.chance) ? FREEZES.longest : random.pick(FREEZES.usual)
    // Of its own: a round that is over before the harm draws nothing, and the rounds after it must not depend on that
    const own = new Random(random.integer(0, 2 ** 31))
    const moment = random.chance(0.5) ? 0 : random.next() * this.usual
    const longest = name === 'freeze' ? freeze : random.chance(0.3) ? random.next() * 40 : LONGEST
    let taken: Promise<Taken | undefined> | undefined
    let timer: NodeJS.Timeout | undefined
    let lifted: Promise<void> | undefined
    let isLifted = (): void => {}
    const over = new Promise<void>(resolve => {
      isLifted = resolve
    })
    const take = (): void => {
      timer = undefined
      taken = harmOf(name).take({ ground: this.#ground, ends: this.#ends, side, random: own, freeze })
      timer = setTimeout(lift, longest)
    }
    const lift = (): void => {
      lifted ??= (async () => {
        clearTimeout(timer)
        await (await taken)?.lift()
        isLifted()
      })()
    }
    const result = await this.#ends.round({
      mayFail: harmOf(name).isHarmless !== true,
      async begin() {
        if (moment > 0) timer = setTimeout(take, moment)
        else {
          take()
          await taken
        }
      },
      async end() {
        if (name === 'freeze' && taken !== undefined) await over
        lift()
        await lifted
      }
    })
    const what = (await taken)?.what
    return {
      ...result,
      what: `${what}, after ${moment.toFixed(2)} ms, for ${longest.toFixed(0)} ms at most`,
      isMissing: what !== undefined
    }
  }
}

/** Whether Node has ended the process, and not passfd. */
function isByNode(problem: string): boolean {
  if (NODE_ENDS.test(problem)) return true
  const [, frames] = problem.split(FAULT)
  const innermost = frames?.split('\n').find(frame => frame !== '' && !LIBRARIES.test(frame))
  return innermost !== undefined && !innermost.includes('passfd.node')
}
