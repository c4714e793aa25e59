/** Random schedules of a model, and the shortest one that breaks it. */
import fc from 'fast-check'

/** A schedule: what happens, one after the other. `n` chooses among what can happen. */
export interface Move {
  readonly do: string
  readonly n: number
}

/** A schedule as it is printed: `reload 1, run 0`. */
export function scheduleOf(text: string): Move[] {
  return text.split(', ').map(one => {
    const [name, n] = one.split(' ')
    return { do: name!, n: Number(n) }
  })
}

export interface Verdict {
  /** What is wrong; the first is the reason. */
  readonly problems: readonly string[]
  /** What has happened. */
  readonly log: readonly string[]
}

export interface Model<Settings> {
  readonly name: string
  readonly settings: fc.Arbitrary<Settings>
  /** What a schedule may do, each with its weight. */
  readonly moves: Readonly<Record<string, number>>
  /** The most moves of a schedule. */
  readonly most: number
  run(settings: Settings, schedule: readonly Move[]): Promise<Verdict>
  /** Schedules that random ones seldom come to. They run first. */
  readonly scenarios?: readonly { readonly settings: Settings; readonly schedule: readonly Move[] }[]
}

export interface Explored {
  schedules: number
  moves: number
  /** The shortest schedule that was found to break it. */
  found?: { readonly text: string; readonly problem: string; readonly moves: number; readonly shrinks: number }
}

/** So many schedules have a seed in common. */
const CHUNK = 200
/** `n` of a move is less. */
const CHOICES = 1000
/** How long the search for a shorter schedule goes on when the time is over, in ms. */
const SHRINKING = 20_000

/** Tries `count` schedules at most, until a time of performance.now(). Ends with the first that breaks the model. */
export async function explore<Settings>(
  model: Model<Settings>,
  { seed, count, until }: { readonly seed: number; readonly count: number; readonly until: number }
): Promise<Explored> {
  const explored: Explored = { schedules: 0, moves: 0 }
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0 // stacks of thousands of expected errors take a third of the time
  const { emitWarning } = process
  process.emitWarning = () => {} // they are of processes that have no descriptors left, or were killed with what they had
  try {
    await tryAll(model, { seed, count, until }, explored)
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    process.emitWarning = withoutLeaks(emitWarning)
  }
  return explored
}

/** What killed processes had may be collected later. */
function withoutLeaks(emitWarning: typeof process.emitWarning): typeof process.emitWarning {
  return ((warning: string | Error, ...args: unknown[]) => {
    if ((args[0] as { code?: string } | undefined)?.code !== 'PASSFD_LEAK')
      Reflect.apply(emitWarning, process, [warning, ...args])
  }) as typeof process.emitWarning
}

async function tryAll<Settings>(
  model: Model<Settings>,
  { seed, count, until }: { readonly seed: number; readonly count: number; readonly until: number },
  explored: Explored
): Promise<void> {
  // A move is one number, because fast-check makes and shrinks these fastest. The first move is the simplest one
  const names = Object.entries(model.moves).flatMap(([name, weight]) => Array<string>(weight).fill(name))
  const moveOf = (number: number): Move => ({ do: names[number % names.length]!, n: Math.floor(number / names.length) })
  const numbers = fc.array(fc.nat(names.length * CHOICES - 1), { maxLength: model.most, size: 'max' })
  for (const { settings, schedule } of model.scenarios ?? []) {
    explored.schedules++
    explored.moves += schedule.length
    const verdict = await model.run(settings, schedule)
    if (verdict.problems.length === 0) continue
    explored.found = foundOf(model, { settings, schedule, verdict, shrinks: 0 }, 'a scenario')
    return
  }
  for (let chunk = 0; explored.schedules < count && performance.now() < until; chunk++) {
    let verdict: Verdict | undefined
    // fast-check's own limit would leave a schedule running
    const isLate = (): boolean => performance.now() > until + (verdict === undefined ? 0 : SHRINKING)
    const property = fc.asyncProperty(model.settings, numbers, async (settings, some) => {
      if (isLate()) return
      const schedule = some.map(moveOf)
      explored.schedules++
      explored.moves += schedule.length
      const now = await model.run(settings, schedule)
      if (now.problems.length === 0) return
      verdict = now
      throw new Error(now.problems[0])
    })
    const details = await fc.check(property, {
      seed: seed * 1_000_000 + chunk,
      numRuns: Math.min(CHUNK, count - explored.schedules)
    })
    if (!details.failed || details.counterexample === null) continue
    if (verdict === undefined) {
      const thrown = details.errorInstance
      verdict = { problems: [`it throws: ${(thrown as Error)?.stack ?? thrown}`], log: [] }
    }
    const [settings, some] = details.counterexample
    const schedule = some.map(moveOf)
    const last = await model.run(settings, schedule).catch(() => undefined)
    const shown = last !== undefined && last.problems.length > 0 ? last : verdict
    const how = `seed ${seed}, after ${explored.schedules} schedules`
    explored.found = foundOf(model, { settings, schedule, verdict: shown, shrinks: details.numShrinks }, how)
    return
  }
}

interface Broken<Settings> {
  readonly settings: Settings
  readonly schedule: readonly Move[]
  readonly verdict: Verdict
  readonly shrinks: number
}

function foundOf<Settings>(
  { name }: Model<Settings>,
  { settings, schedule, verdict, shrinks }: Broken<Settings>,
  how: string
): NonNullable<Explored['found']> {
  const { problems, log } = verdict
  const lines = [
    `${name}: ${problems.join('; ')}`,
    `    settings ${JSON.stringify(settings)}`,
    `    schedule ${schedule.map(one => `${one.do} ${one.n}`).join(', ')}`,
    `    ${how}`,
    ...log.slice(-60).map(line => `      ${line}`)
  ]
  return { text: lines.join('\n'), problem: problems[0]!, moves: schedule.length, shrinks }
}
