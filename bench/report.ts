/** The results for people. */
import { keeps, OURS, type Range, type Result, type Row, type SideRow } from './measure.ts'
import type { Spreads } from './spread.ts'

export function heading(name: string, { what, unit, better }: Row | SideRow, { placement }: Row): string {
  return `${name}: ${what} (${unit}, ${better} is better; ${placement})`
}

export function table(result: Result): string {
  const { unit, ours, min, max, peers, ranges, ratios, ratioRanges, targets, bound, better, lost, failed } = result
  const lines: string[] = []
  if (!Number.isNaN(ours)) {
    const notes = [`${range({ min, max })} ${unit}`]
    if (bound !== undefined) notes.push(verdict(ours, bound, better))
    lines.push(line(OURS, figure(ours), [...notes, ...placed(OURS, result)].join(', ')))
  }
  for (const [peer, value] of Object.entries(peers)) {
    const notes = [range(ranges[peer]!)]
    if (ratios[peer] !== undefined) notes.push(`passfd / this = ${ratios[peer]} (${range(ratioRanges[peer]!)})`)
    if (result.ratioIntervals?.[peer] !== undefined) notes.push(`98 % interval ${range(result.ratioIntervals[peer])}`)
    const target = targets[peer]
    if (target !== undefined && ratios[peer] !== undefined) notes.push(verdict(ratios[peer], target, better))
    if (lost?.[peer] !== undefined) notes.push(`lost ${figure(lost[peer])}`)
    lines.push(line(peer, figure(value), [...notes, ...placed(peer, result)].join(', ')))
  }
  for (const [who, reason] of Object.entries(failed ?? {})) lines.push(line(who, 'failed', firstLine(reason)))
  return `${lines.join('\n')}\n`
}

/** Of each row by how much its figures differ from run to run. */
export function spreadTable(spreads: Spreads, runs: number): string {
  const lines = Object.entries(spreads).flatMap(([name, { ours, ratios }]) => [
    `${name}: passfd ${percents(ours.spread)}`,
    ...Object.entries(ratios).map(([peer, { min, max, spread }]) =>
      line(`× ${peer}`, `${figure(min)} – ${figure(max)}`, percents(spread))
    )
  ])
  return [
    `Spread of the medians of ${runs} whole runs: half of the largest less the smallest, of their median`,
    ...lines
  ].join('\n')
}

function placed(who: string, { sameCore }: Result): string[] {
  return sameCore?.[who] === undefined ? [] : [`${figure(sameCore[who])} % of the time on one core`]
}

function percents(spread: number): string {
  return `± ${figure(spread)} %`
}

function range({ min, max }: Range): string {
  return `${figure(min)} – ${figure(max)}`
}

function verdict(value: number, asked: number, better: Row['better']): string {
  const bound = `bound ${better === 'more' ? '≥' : '≤'} ${figure(asked)}`
  return `${bound}, ${keeps(value, asked, better) ? 'kept' : 'missed'}`
}

function line(who: string, value: string, rest: string): string {
  return `  ${who.padEnd(26)}${value.padStart(12)}  ${rest}`
}

/** What it has said last: its error, not the command. */
function firstLine(reason: string): string {
  const lines = reason.split('\n').filter(text => text.trim() !== '')
  return lines.find((text, index) => index > 0 && /Error|: /.test(text))?.trim() ?? lines[0] ?? ''
}

export function figure(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 100 ? 2 : 0 })
}
