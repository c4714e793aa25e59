/** By how much the figures of a row differ from one whole run to the next. */
import { median, type Range, type Result, rangeOf, rounded } from './measure.ts'

export interface Spread extends Range {
  median: number
  /** In percent of the median: half of max - min. */
  spread: number
}

export interface RowSpread {
  ours: Spread
  /** Of the ratios, by peer. */
  ratios: Record<string, Spread>
}

/** By row. */
export type Spreads = Record<string, RowSpread>

/** Of the rows and peers that each of the runs has a figure of. */
export function spreadOf(runs: readonly (readonly Result[])[]): Spreads {
  const spreads: Spreads = {}
  for (const { name } of runs[0] ?? []) {
    const all = runs.flatMap(results => results.find(result => result.name === name) ?? [])
    if (all.length < runs.length || all.some(({ ours }) => Number.isNaN(ours))) continue
    const [{ ratios: first }] = all as [Result, ...Result[]]
    const peers = Object.keys(first).filter(peer => all.every(({ ratios }) => ratios[peer] !== undefined))
    spreads[name] = {
      ours: spread(all.map(({ ours }) => ours)),
      ratios: Object.fromEntries(peers.map(peer => [peer, spread(all.map(({ ratios }) => ratios[peer]!))]))
    }
  }
  return spreads
}

function spread(values: readonly number[]): Spread {
  const range = rangeOf(values)
  const middle = median(values)
  const half = ((range.max - range.min) / 2 / Math.abs(middle)) * 100
  return { ...range, median: rounded(middle), spread: Number(half.toPrecision(3)) }
}
