/** What an attack is, and what it tells. */
import { type Need, Unable } from './needs.ts'

export interface Settings {
  /** Chooses what is tried, and in which order: the same seed tries the same. */
  readonly seed: number
  /** How many things are tried, at most. */
  readonly count: number
  /** Ends the attack after so many ms, whatever it has tried by then. */
  readonly time: number
  /** Parts of the attack; none: all. */
  readonly only: readonly string[]
  /** A line for whoever watches. */
  log(line: string): void
}

export interface Outcome {
  /** What was done, and how often. */
  readonly counts: Record<string, number>
  /** Each a fault of passfd's, with what repeats it. */
  readonly found: string[]
  /** What was to be tried and was not, with the reason: the time was over, or an exception. Then the run has shown nothing about it. */
  readonly untried?: readonly string[]
  /** A table, if what was done differs: its rows have the same columns. */
  readonly rows?: readonly Row[]
}

export type Row = Record<string, string | number>

export interface Attack {
  /** What must hold. A run prints it. */
  readonly promise: string
  /** What the attack does to it. */
  readonly what: string
  /** What the machine must have. */
  readonly needs: readonly Need[]
  /** What `only` may name. */
  readonly parts: readonly string[]
  /** How many things a run tries if nobody says so; and a sample of it, as CI runs it. */
  readonly count: number
  readonly sample: number
  /** For how long, in ms, unless all is tried before. */
  readonly time: number
  run(settings: Settings): Promise<Outcome>
}

/** What one part of an attack may do, and where it reports. */
export interface Share {
  readonly seed: number
  readonly count: number
  /** A time of performance.now(). */
  readonly until: number
  log(line: string): void
  tell(what: string, more: number): void
  found(fault: string): void
}

/** The parts that are asked for. */
export function chosenOf(parts: readonly string[], { only }: Settings): readonly string[] {
  const unknown = only.filter(name => !parts.includes(name))
  if (unknown.length > 0) throw new Unable(`unknown: ${unknown.join(', ')}. There are ${parts.join(', ')}`)
  return only.length === 0 ? parts : only
}

/**
 * Shares count and time out among the parts, one after the other: what one leaves the next ones have. `counts` says what is counted, the first of it by
 * `count`. A part that throws, or has no time to try anything, is untried; the others go on.
 */
export async function shareOut(
  { seed, count, time, log }: Settings,
  parts: readonly string[],
  counts: Readonly<Record<string, number>>,
  attack: (part: string, share: Share) => Promise<void>
): Promise<Outcome> {
  const outcome = { counts: { ...counts }, found: [] as string[], untried: [] as string[] }
  const [unit] = Object.keys(counts) as [string]
  const end = performance.now() + time
  for (const [at, part] of parts.entries()) {
    const left = parts.length - at
    const before = outcome.counts[unit]!
    const share = {
      seed,
      count: Math.ceil((count - before) / left),
      until: performance.now() + (end - performance.now()) / left,
      log,
      tell(what: string, more: number) {
        outcome.counts[what]! += more
      },
      found(fault: string) {
        outcome.found.push(fault)
        log(fault)
      }
    }
    const untried = (reason: string): void => {
      outcome.untried.push(`${part}: ${reason}`)
      log(outcome.untried.at(-1)!)
    }
    try {
      await attack(part, share)
      if (share.count > 0 && outcome.counts[unit] === before) untried('nothing was tried: the time was over')
    } catch (error) {
      untried(reasonOf(error))
    }
  }
  return outcome
}

/** As `shareOut()`, and each part has a row of its own, which counts the same. */
export async function shareOutInRows(
  settings: Settings,
  parts: readonly string[],
  counts: Readonly<Record<string, number>>,
  attack: (part: string, share: Share) => Promise<void>
): Promise<Outcome> {
  const rows: Row[] = []
  const outcome = await shareOut(settings, parts, counts, async (part, share) => {
    const row: Row = { part, ...counts }
    rows.push(row)
    const tell = (what: string, more: number): void => {
      row[what] = (row[what] as number) + more
      share.tell(what, more)
    }
    await attack(part, { ...share, tell })
  })
  return { ...outcome, rows }
}

/** What a person reads of an exception. That of a fault in the attack itself has its stack. */
export function reasonOf(error: unknown): string {
  if (error instanceof Unable) return error.message
  return (error as Error | undefined)?.stack ?? String(error)
}
