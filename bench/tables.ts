/** Results as Markdown tables. */
import { keeps, type Result } from './measure.ts'
import { figure } from './report.ts'

/** What was asked for and what came out. */
export function targetTable(results: readonly Result[]): string {
  const rows = results.flatMap(({ name, unit, ours, ratios, targets, bound, better }) => {
    const verdict = (value: number, asked: number): string[] => [
      `${better === 'more' ? '≥' : '≤'} ${figure(asked)}`,
      figure(value),
      keeps(value, asked, better) ? 'kept' : '**missed**'
    ]
    const compared = Object.entries(targets).filter(([peer]) => ratios[peer] !== undefined)
    const all = compared.map(([peer, asked]) => [`× ${peer}`, ...verdict(ratios[peer]!, asked)])
    if (bound !== undefined) all.push([unit, ...verdict(ours, bound)])
    return all.map(cells => [`\`${name}\``, ...cells])
  })
  return table(['row', 'measured as', 'asked', 'measured', ''], rows)
}

/** passfd and its peers, a line each. */
export function valueTable(results: readonly Result[]): string {
  const rows = results.flatMap(({ name, unit, ours, min, max, peers, ratios }) => [
    [`\`${name}\``, 'passfd', `${figure(ours)} ${unit} (${figure(min)} – ${figure(max)})`, ''],
    ...Object.entries(peers).map(([peer, value]) => ['', peer, `${figure(value)} ${unit}`, figure(ratios[peer]!)])
  ])
  return table(['row', 'who', 'median', 'passfd / this'], rows)
}

/** Aligned as the formatter of this repository's Markdown does it. */
function table(head: string[], rows: string[][]): string {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(3, ...all.map(row => row[column]!.length)))
  const line = (cells: string[]): string => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`
  return [line(head), line(widths.map(width => '-'.repeat(width))), ...rows.map(line)].join('\n')
}
