/** Results as Markdown tables. */
import { keeps, type Range, type Result } from './measure.ts'
import { figure } from './report.ts'
import type { Spread, Spreads } from './spread.ts'

/** What was asked for and what came out; the last column is of several whole runs, if there were any. */
export function targetTable(results: readonly Result[], spreads?: Spreads): string {
  const rows = results.flatMap(({ name, unit, ours, ratios, targets, bound, better }) => {
    const verdict = (value: number, asked: number, spread: Spread | undefined): string[] => [
      `${better === 'more' ? '≥' : '≤'} ${figure(asked)}`,
      figure(value),
      keeps(value, asked, better) ? 'kept' : '**missed**',
      ...(spreads === undefined ? [] : [spread === undefined ? '' : rangeOf(spread)])
    ]
    const spread = spreads?.[name]
    const compared = Object.entries(targets).filter(([peer]) => ratios[peer] !== undefined)
    const all = compared.map(([peer, asked]) => [`× ${peer}`, ...verdict(ratios[peer]!, asked, spread?.ratios[peer])])
    if (bound !== undefined) all.push([unit, ...verdict(ours, bound, spread?.ours)])
    return all.map(cells => [`\`${name}\``, ...cells])
  })
  return table(['row', 'measured as', 'asked', 'measured', '', ...(spreads === undefined ? [] : ['all runs'])], rows)
}

/** passfd and its peers, a line each; the last column is of several whole runs, if there were any. */
export function valueTable(results: readonly Result[], spreads?: Spreads): string {
  const rows = results.flatMap(({ name, unit, ours, min, max, peers, ranges, ratios }) => {
    const spread = spreads?.[name]
    const last = (of: Spread | undefined) => (spreads === undefined ? [] : [of === undefined ? '' : rangeOf(of)])
    const theirs = Object.entries(peers).map(([peer, value]) => {
      // Results of an older bench have none
      const range = ranges?.[peer]
      const median = `${figure(value)} ${unit}${range === undefined ? '' : ` (${rangeOf(range)})`}`
      return ['', peer, median, ratios[peer] === undefined ? '–' : figure(ratios[peer]), ...last(spread?.ratios[peer])]
    })
    return [
      [`\`${name}\``, 'passfd', `${figure(ours)} ${unit} (${rangeOf({ min, max })})`, '', ...last(spread?.ours)],
      ...theirs
    ]
  })
  return table(['row', 'who', 'median', 'passfd / this', ...(spreads === undefined ? [] : ['all runs'])], rows)
}

function rangeOf({ min, max }: Range): string {
  return `${figure(min)} – ${figure(max)}`
}

/** Who serves with two workers how well: the rows of the prefork server side by side, a line for each contender. */
export function serverTable(results: readonly Result[]): string {
  const columns = [
    ['prefork-close', 'requests/s, a connection each'],
    ['prefork-close-balance', 'busiest worker, %'],
    ['prefork-keepalive', 'requests/s, kept alive'],
    ['prefork-balance', 'busiest worker, %'],
    ['prefork-dispatch-cpu', "parent's µs a connection"]
  ] as const
  const byColumn = columns.map(([row]) => {
    const result = results.find(({ name }) => name === row)
    if (result === undefined) return {}
    // Of prefork-dispatch ours is what the others call by the name of that balance
    const ours = row === 'prefork-dispatch-cpu' ? 'passfd dispatch' : 'passfd'
    return { [ours]: result.ours, ...result.peers } as Record<string, number>
  })
  const who = [...new Set(byColumn.flatMap(Object.keys))]
  const rows = who.map(name => [
    name,
    ...byColumn.map(column => (column[name] === undefined ? '–' : figure(column[name])))
  ])
  return table(['who', ...columns.map(([, title]) => title)], rows)
}

/** The rows that the README shows, and whose figures stand beside ours: process.send's, C's, net.Socket's. */
const SHOWN: readonly [row: string, what: string, peers: readonly string[]][] = [
  ['descriptors', 'descriptors with a small message each', ['process.send handle', 'C one a call', '']],
  ['messages-records', 'small messages', ['process.send', 'C one a call', 'net.Socket + msgpackr']],
  ['requests-pipelined', 'requests, 100 in flight', ['process.send', '', 'net.Socket + msgpackr']],
  ['request', 'one request at a time, both ends on a core', ['process.send', 'C epoll', 'net.Socket + msgpackr']],
  ['bulk', '1 MiB buffers', ['process.send advanced', 'C copy', 'net.Socket + msgpackr']],
  ['bulk-shared', '1 MiB in place, by `passfd/memory`', ['', 'C copy', '']]
]

export function shortTable(results: readonly Result[]): string {
  const rows = SHOWN.flatMap(([row, what, peers]) => {
    const result = results.find(({ name }) => name === row)
    if (result === undefined) return []
    const cells = peers.map(peer => result.peers[peer])
    return [[what, ...[result.ours, ...cells].map(value => (value === undefined ? '–' : short(value, result.unit)))]]
  })
  const head = ['measured between two processes', 'passfd', '`process.send`', 'C', '`net.Socket` + msgpackr']
  return table(head, rows)
}

/** 4.17 M / s, 1,500 / s, 17 µs, 3.9 GB / s. */
function short(value: number, unit: string): string {
  const [what, per] = unit.split('/')
  const two = (of: number): string => figure(Number(of.toPrecision(3)))
  if (per === undefined) return `${two(value)} ${unit}`
  if (what === 'GB') return `${two(value)} GB / s`
  return value >= 1e6 ? `${two(value / 1e6)} M / s` : `${two(value)} / s`
}

/** Aligned as the formatter of this repository's Markdown does it. */
export function table(head: string[], rows: string[][]): string {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(3, ...all.map(row => row[column]!.length)))
  const line = (cells: string[]): string => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`
  return [line(head), line(widths.map(width => '-'.repeat(width))), ...rows.map(line)].join('\n')
}
