/** The results for people. */
import { keeps, type Result, type Row, type SideRow } from './measure.ts'

export function heading(name: string, { what, unit, better }: Row | SideRow, { placement }: Row): string {
  return `${name}: ${what} (${unit}, ${better} is better; ${placement})`
}

export function table({ unit, ours, min, max, peers, ratios, targets, bound, better, lost }: Result): string {
  const range = `${figure(min)} – ${figure(max)} ${unit}`
  const lines = [line('passfd', ours, bound === undefined ? range : `${range}, ${verdict(ours, bound, better)}`)]
  for (const [peer, value] of Object.entries(peers)) {
    const notes = [`passfd / this = ${ratios[peer]}`]
    const target = targets[peer]
    if (target !== undefined) notes.push(verdict(ratios[peer]!, target, better))
    if (lost?.[peer] !== undefined) notes.push(`lost ${figure(lost[peer])}`)
    lines.push(line(peer, value, notes.join(', ')))
  }
  return `${lines.join('\n')}\n`
}

function verdict(value: number, asked: number, better: Row['better']): string {
  const bound = `bound ${better === 'more' ? '≥' : '≤'} ${figure(asked)}`
  return `${bound}, ${keeps(value, asked, better) ? 'kept' : 'missed'}`
}

function line(who: string, value: number, rest: string): string {
  return `  ${who.padEnd(26)}${figure(value).padStart(12)}  ${rest}`
}

export function figure(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 100 ? 2 : 0 })
}
