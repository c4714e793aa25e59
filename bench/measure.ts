/** Runs contenders in turns and takes medians, so that a slow minute of the machine is shared by all. */
import { type Running, start } from './process.ts'

/**
 * A program that measures one workload between itself and the far end it starts: it warms up, prints "ready", and then a value for each
 * line on its stdin, until that ends. It fails when anything is lost or left open.
 */
export interface Contender {
  command: readonly string[]
}

/** Where the two ends run: on a core each, on one core together, or wherever the kernel likes. */
export type Placement = 'two cores' | 'one core' | 'unpinned'

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
}

/** Starts all contenders of the row, then lets each measure once, `runs` times; each round begins with another one. */
export async function measure(name: string, row: Row, runs: number): Promise<Result> {
  const contenders: Running[] = []
  for (const contender of [row.ours, ...Object.values(row.peers)])
    contenders.push(await start(contender, row.placement)) // one by one, so that they don't warm up at the same time
  const values: number[][] = contenders.map(() => [])
  for (let run = 0; run < runs; run++)
    for (let i = 0; i < contenders.length; i++) {
      const turn = (run + i) % contenders.length
      values[turn]!.push(await contenders[turn]!.measure())
    }
  for (const contender of contenders) await contender.end()
  const [ours, ...theirs] = values as [number[], ...number[][]]
  const peers: Record<string, number> = {}
  const ratios: Record<string, number> = {}
  for (const [index, peer] of Object.keys(row.peers).entries()) {
    peers[peer] = rounded(median(theirs[index]!))
    ratios[peer] = rounded(median(ours.map((value, run) => value / theirs[index]![run]!)))
  }
  return {
    name,
    unit: row.unit,
    ours: rounded(median(ours)),
    min: rounded(Math.min(...ours)),
    max: rounded(Math.max(...ours)),
    peers,
    ratios,
    targets: { ...row.targets },
    ...(row.bound === undefined ? {} : { bound: row.bound }),
    better: row.better,
    runs
  }
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
