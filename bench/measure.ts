/** Runs contenders in turns and takes medians, so that a slow minute of the machine is shared by all. */
import { type Measured, type Running, start } from './process.ts'

/**
 * A program that measures one workload between itself and the far end it starts: it warms up, prints "ready", and then a value for each
 * line on its stdin, until that ends; `value lost` if it is known to lose some, and `name=value` for what else it has measured
 * meanwhile. It fails when anything else is lost or left open.
 */
export interface Contender {
  command: readonly string[]
  /** Why it can't take part here, and what to do about that. */
  missing?(): string | undefined
}

/** Where its processes run: both ends on a core each, on one core together, all of many on two, or wherever the kernel likes. */
export type Placement = 'two cores' | 'one core' | 'sharing two cores' | 'unpinned'

export interface Row {
  /** One sentence: what is measured. */
  what: string
  unit: string
  better: 'more' | 'less'
  placement: Placement
  ours: Contender
  /** By the names that the results have. */
  peers: Readonly<Record<string, Contender>>
  /** The ratio to reach, by peer: at least this if more is better, at most this if less is. */
  targets?: Readonly<Record<string, number>>
  /** What our own value must keep to, in `unit`: likewise. */
  bound?: number
  /** In ms: how long each warms up, if there is time. Default 1,200. */
  warmUp?: number
  /** How many runs it needs, if not RUNS: fewer if they are long, more if it is of CPU time. */
  runs?: number
}

/** What the contenders of another row say besides, in the same runs. */
export interface SideRow extends Pick<Row, 'what' | 'unit' | 'better' | 'targets' | 'bound'> {
  /** The name of that row. */
  of: string
  /** By which name they say it. */
  side: string
  /** Who of them is shown. */
  peers: readonly string[]
}

export interface Range {
  min: number
  max: number
}

export interface Result {
  name: string
  unit: string
  /** Medians of `runs` runs; `min` and `max` are ours. NaN, in JSON null, if ours has failed. */
  ours: number
  min: number
  max: number
  /** Medians, and what they are medians of, of the peers that have not failed. */
  peers: Record<string, number>
  ranges: Record<string, Range>
  /** Ours divided by the peer's: the median of each run's own ratio, so that what slows both down cancels. */
  ratios: Record<string, number>
  ratioRanges: Record<string, Range>
  /** In which the median of all possible runs lies with a probability of 98 %, of a row with CPU_RUNS. */
  ratioIntervals?: Record<string, Range>
  /** What the row asks of `ratios`, by peer, and of `ours`: least if more is better, else most. */
  targets: Record<string, number>
  bound?: number
  better: Row['better']
  runs: number
  /** How much those that lose some have lost in all runs, in what the row counts. */
  lost?: Record<string, number>
  /** Why contenders have failed: ours is called `passfd`. They have no figures. */
  failed?: Record<string, string>
  /** For how much of the time both ends of a contender were on one core, in percent, where the kernel chooses: medians. */
  sameCore?: Record<string, number>
}

/** How much time there is. */
export interface Effort {
  /** Of each contender, unless its row has asked for another number, and `rowsChoose`. */
  runs: number
  rowsChoose: boolean
  /** In ms: what a row of `runs` may take. Where that is too little for all, each has less of it to warm up and to be measured. */
  row: number
  warmUp: number
  measured: number
  /** Only those peers that a target names; the first one if there is none. */
  fewPeers: boolean
  /** What else contenders are told by the environment: how many of something. */
  environment: NodeJS.ProcessEnv
}

export const RUNS = 5
/** Of CPU time, which nothing counts exactly, and of several processes on two cores, which the kernel places: both differ by a tenth from run to run. */
export const CPU_RUNS = 10
const WARM_UP = 1200
export const WHOLE: Effort = {
  runs: RUNS,
  rowsChoose: true,
  row: 20000,
  warmUp: WARM_UP,
  measured: 300,
  fewPeers: false,
  environment: {}
}
export const QUICK: Effort = {
  runs: 3,
  rowsChoose: false,
  row: 4000,
  warmUp: 400,
  measured: 100,
  fewPeers: true,
  environment: { BENCH_CHANNELS: '1000', BENCH_MILLION: '250000' }
}
/** In ms: from the start of a contender until it begins to warm up. */
const START = 400
/** A contender has at least so much of its time, also in a row of many. */
const LEAST_SHARE = 0.25
export const OURS = 'passfd'

/**
 * Starts all contenders of the row, then lets each measure once, `runs` times; each round begins with another one. The first result is
 * the row's, the others those of `sides`. A contender that fails has its reason in `failed`; the others are measured all the same.
 */
export async function measure(
  name: string,
  row: Row,
  effort: Effort,
  sides: Readonly<Record<string, SideRow>> = {}
): Promise<[Result, ...Result[]]> {
  const named = Object.entries(chosenPeers(row, sides, effort)).filter(([, peer]) => takesPart(peer))
  const runs = effort.rowsChoose ? (row.runs ?? effort.runs) : effort.runs
  const all = await inTurns(
    [row.ours, ...named.map(([, peer]) => peer)],
    row.placement,
    timesFor(named.length + 1, effort, runs, row.warmUp),
    runs
  )
  const [ours, ...theirs] = all as [Outcome, ...Outcome[]]
  const failed = Object.fromEntries(
    [[OURS, ours] as const, ...named.map(([peer], index) => [peer, theirs[index]!] as const)].flatMap(
      ([who, outcome]) => (Array.isArray(outcome) ? [] : [[who, outcome.message]])
    )
  )
  const peers = Object.fromEntries(
    named.flatMap(([peer], index) => {
      const outcome = theirs[index]!
      return Array.isArray(outcome) ? [[peer, outcome]] : []
    })
  )
  const own = Array.isArray(ours) ? ours : []
  const whole = resultOf(name, row, own, peers, runs, ({ value }) => value)
  const beside = Object.entries(sides).map(([sideName, side]) => {
    const shown = Object.entries(peers).filter(([peer]) => side.peers.includes(peer))
    return resultOf(sideName, side, own, Object.fromEntries(shown), runs, ({ sides }) => sides[side.side] ?? Number.NaN)
  })
  const lost: Record<string, number> = {}
  const sameCore: Record<string, number> = {}
  for (const [peer, measured] of Object.entries({ ...(own.length > 0 ? { [OURS]: own } : {}), ...peers })) {
    const losses = measured.flatMap(({ lost }) => lost ?? [])
    if (losses.length > 0 && peer !== OURS) lost[peer] = losses.reduce((sum, loss) => sum + loss)
    const shares = measured.flatMap(({ sameCore }) => sameCore ?? [])
    if (shares.length > 0) sameCore[peer] = rounded(median(shares))
  }
  return [
    {
      ...whole,
      ...(isEmpty(lost) ? {} : { lost }),
      ...(isEmpty(failed) ? {} : { failed }),
      ...(isEmpty(sameCore) ? {} : { sameCore })
    },
    ...beside
  ]
}

/** All, or as few as `effort` asks for. */
function chosenPeers(
  { peers, targets }: Row,
  sides: Readonly<Record<string, SideRow>>,
  { fewPeers }: Effort
): Row['peers'] {
  if (!fewPeers) return peers
  const asked = new Set(
    [targets, ...Object.values(sides).map(side => side.targets)].flatMap(of => Object.keys(of ?? {}))
  )
  const all = Object.entries(peers)
  const some = all.filter(([peer]) => asked.has(peer))
  return Object.fromEntries(some.length > 0 ? some : all.slice(0, 1))
}

function resultOf(
  name: string,
  { unit, better, targets, bound }: Pick<Row, 'unit' | 'better' | 'targets' | 'bound'>,
  measured: readonly Measured[],
  others: Readonly<Record<string, readonly Measured[]>>,
  runs: number,
  figureOf: (measured: Measured) => number
): Result {
  const ours = measured.map(figureOf)
  const peers: Record<string, number> = {}
  const ranges: Record<string, Range> = {}
  const ratios: Record<string, number> = {}
  const ratioRanges: Record<string, Range> = {}
  const ratioIntervals: Record<string, Range> = {}
  for (const [peer, theirs] of Object.entries(others)) {
    const values = theirs.map(figureOf)
    peers[peer] = rounded(median(values))
    ranges[peer] = rangeOf(values)
    // Of nothing there is no ratio
    if (ours.length === 0 || values.includes(0)) continue
    const own = ours.map((value, run) => value / values[run]!)
    ratios[peer] = rounded(median(own))
    ratioRanges[peer] = rangeOf(own)
    // By the binomial distribution; it presumes nothing of that of the values
    if (runs === CPU_RUNS) ratioIntervals[peer] = rangeOf(own.toSorted((a, b) => a - b).slice(1, -1))
  }
  return {
    name,
    unit,
    ours: ours.length === 0 ? Number.NaN : rounded(median(ours)),
    ...(ours.length === 0 ? { min: Number.NaN, max: Number.NaN } : rangeOf(ours)),
    peers,
    ranges,
    ratios,
    ratioRanges,
    ...(isEmpty(ratioIntervals) ? {} : { ratioIntervals }),
    targets: { ...targets },
    ...(bound === undefined ? {} : { bound }),
    better,
    runs
  }
}

/** What a contender has measured, or why it has failed. */
type Outcome = Measured[] | Error

async function inTurns(
  all: readonly Contender[],
  placement: Placement,
  times: NodeJS.ProcessEnv,
  runs: number
): Promise<Outcome[]> {
  const contenders: (Running | undefined)[] = []
  const outcomes: Outcome[] = all.map(() => [])
  /** A contender that fails takes no further part. */
  const attempt = async (index: number, step: () => Promise<void>) => {
    try {
      if (Array.isArray(outcomes[index])) await step()
    } catch (error) {
      outcomes[index] = error as Error
      await contenders[index]?.stop()
    }
  }
  try {
    // One by one, so that they don't warm up at the same time
    for (const [index, contender] of all.entries())
      await attempt(index, async () => {
        contenders[index] = await start(contender, placement, times)
      })
    for (let run = 0; run < runs; run++)
      for (let i = 0; i < all.length; i++) {
        const turn = (run + i) % all.length
        await attempt(turn, async () => {
          const measured = await contenders[turn]!.measure()
          ;(outcomes[turn] as Measured[]).push(measured)
        })
      }
    for (const index of all.keys()) await attempt(index, () => contenders[index]!.end())
    return outcomes
  } finally {
    await Promise.all(contenders.map(contender => contender?.stop()))
  }
}

const told = new Set<string>()

/** Who can't is left out; one line on stderr tells, once. */
export function takesPart({ missing }: Contender): boolean {
  const reason = missing?.()
  if (reason === undefined) return true
  if (!told.has(reason)) console.error(`left out: ${reason}`)
  told.add(reason)
  return false
}

/** What workload.mjs and floor.c are told by the environment, in ms, unless whoever runs the bench has told them already. */
function timesFor(contenders: number, effort: Effort, runs: number, rowWarmUp = WARM_UP): NodeJS.ProcessEnv {
  const { row, measured } = effort
  const warmUp = (rowWarmUp / WARM_UP) * effort.warmUp
  const share = Math.min(1, Math.max(LEAST_SHARE, (row / contenders - START) / (warmUp + runs * measured)))
  const { BENCH_WARM_UP = `${Math.round(warmUp * share)}`, BENCH_MEASURED = `${Math.round(measured * share)}` } =
    process.env
  return { ...effort.environment, BENCH_WARM_UP, BENCH_MEASURED }
}

/** Whether a value is as good as asked. */
export function keeps(value: number, asked: number, better: Row['better']): boolean {
  return better === 'more' ? value >= asked : value <= asked
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export function rangeOf(values: readonly number[]): Range {
  return { min: rounded(Math.min(...values)), max: rounded(Math.max(...values)) }
}

function isEmpty(named: object): boolean {
  return Object.keys(named).length === 0
}

/** To four digits: more than this is noise. */
export function rounded(value: number): number {
  return Number(value.toPrecision(4))
}
