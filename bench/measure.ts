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

export interface Result {
  name: string
  unit: string
  /** Medians of `runs` runs; `min` and `max` are ours. */
  ours: number
  min: number
  max: number
  peers: Record<string, number>
  /** Ours divided by the peer's: the median of each run's own ratio, so that what slows both down cancels. */
  ratios: Record<string, number>
  /** What the row asks of `ratios`, by peer, and of `ours`: least if more is better, else most. */
  targets: Record<string, number>
  bound?: number
  better: Row['better']
  runs: number
  /** How much those that lose some have lost in all runs, in what the row counts. */
  lost?: Record<string, number>
}

export const RUNS = 5
/** In ms: what a row of RUNS may take. Where that is too little for all, each has less of it to warm up and to be measured. */
const ROW = 24000
const START = 400
const WARM_UP = 1200
const MEASURED = 300

/**
 * Starts all contenders of the row, then lets each measure once, `runs` times; each round begins with another one. The first result is
 * the row's, the others those of `sides`.
 */
export async function measure(
  name: string,
  row: Row,
  runs: number,
  sides: Readonly<Record<string, SideRow>> = {}
): Promise<[Result, ...Result[]]> {
  const named = Object.entries(row.peers).filter(([, peer]) => takesPart(peer))
  const times = timesFor(named.length + 1, row.warmUp)
  const [ours, ...theirs] = (await inTurns(
    [row.ours, ...named.map(([, peer]) => peer)],
    row.placement,
    times,
    runs
  )) as [Measured[], ...Measured[][]]
  const peers = Object.fromEntries(named.map(([peer], index) => [peer, theirs[index]!]))
  const whole = resultOf(name, row, ours, peers, ({ value }) => value)
  const beside = Object.entries(sides).map(([sideName, side]) => {
    const shown = Object.entries(peers).filter(([peer]) => side.peers.includes(peer))
    return resultOf(sideName, side, ours, Object.fromEntries(shown), ({ sides }) => sides[side.side]!)
  })
  const lost: Record<string, number> = {}
  for (const [peer, measured] of Object.entries(peers)) {
    const losses = measured.flatMap(({ lost }) => lost ?? [])
    if (losses.length > 0) lost[peer] = losses.reduce((sum, loss) => sum + loss)
  }
  return [Object.keys(lost).length === 0 ? whole : { ...whole, lost }, ...beside]
}

function resultOf(
  name: string,
  { unit, better, targets, bound }: Pick<Row, 'unit' | 'better' | 'targets' | 'bound'>,
  measured: readonly Measured[],
  others: Readonly<Record<string, readonly Measured[]>>,
  figureOf: (measured: Measured) => number
): Result {
  const ours = measured.map(figureOf)
  const peers: Record<string, number> = {}
  const ratios: Record<string, number> = {}
  for (const [peer, theirs] of Object.entries(others)) {
    peers[peer] = rounded(median(theirs.map(figureOf)))
    ratios[peer] = rounded(median(ours.map((value, run) => value / figureOf(theirs[run]!))))
  }
  return {
    name,
    unit,
    ours: rounded(median(ours)),
    min: rounded(Math.min(...ours)),
    max: rounded(Math.max(...ours)),
    peers,
    ratios,
    targets: { ...targets },
    ...(bound === undefined ? {} : { bound }),
    better,
    runs: measured.length
  }
}

async function inTurns(
  all: readonly Contender[],
  placement: Placement,
  times: NodeJS.ProcessEnv,
  runs: number
): Promise<Measured[][]> {
  const contenders: Running[] = []
  try {
    // One by one, so that they don't warm up at the same time
    for (const contender of all) contenders.push(await start(contender, placement, times))
    const measured: Measured[][] = contenders.map(() => [])
    for (let run = 0; run < runs; run++)
      for (let i = 0; i < contenders.length; i++) {
        const turn = (run + i) % contenders.length
        measured[turn]!.push(await contenders[turn]!.measure())
      }
    for (const contender of contenders) await contender.end()
    return measured
  } finally {
    await Promise.all(contenders.map(contender => contender.stop()))
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
function timesFor(contenders: number, warmUp = WARM_UP): NodeJS.ProcessEnv {
  const share = Math.min(1, (ROW / contenders - START) / (warmUp + RUNS * MEASURED))
  const { BENCH_WARM_UP = `${Math.round(warmUp * share)}`, BENCH_MEASURED = `${Math.round(MEASURED * share)}` } =
    process.env
  return { BENCH_WARM_UP, BENCH_MEASURED }
}

/** Whether a value is as good as asked. */
export function keeps(value: number, asked: number, better: Row['better']): boolean {
  return better === 'more' ? value >= asked : value <= asked
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** To four digits: more than this is noise. */
function rounded(value: number): number {
  return Number(value.toPrecision(4))
}
