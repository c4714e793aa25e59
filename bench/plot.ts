/**
 * `npm run bench:plot [-- RESULTS [FOLDER]]`: turns what `npm run -s bench -- --json` has printed (default docs/bench.json) into the
 * plots and the tables of FOLDER/performance.md (default docs) and of the README beside FOLDER: everything between two markers is
 * written anew.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fillIn } from '../scripts/fill-in.mjs'
import { describeConditions } from './conditions.ts'
import { install } from './packages.ts'
import type { Panel } from './plots.ts'
import type { Report } from './run.ts'
import { serverTable, shortTable, targetTable, valueTable } from './tables.ts'

/** Results of an older bench have less. */
type Published = Pick<Report, 'machine' | 'results'> & Partial<Report>

const missing = install()
if (missing !== undefined) throw new Error(`vega: ${missing}`)
const { bars, growth, points } = await import('./plots.ts')

const docs = fileURLToPath(new URL('../docs', import.meta.url))
const [source = join(docs, 'bench.json'), folder = docs] = process.argv.slice(2)
const { machine, results: all, conditions, quick, spread, runs } = JSON.parse(readFileSync(source, 'utf8')) as Published
if (quick) throw new Error(`${source} is of --quick, whose figures are too uncertain to be published`)
// What passfd has failed in has no figure of its own
const results = all.filter(({ ours }) => ours !== null)
const byName = new Map(results.map(result => [result.name, result]))

await plot('throughput.svg', points, [
  ['descriptors', 'descriptors a second, one a message'],
  ['messages-records', 'small messages a second'],
  ['requests-pipelined', 'requests a second, 100 in flight']
])
await plot('round-trips.svg', bars, [
  ['request', 'a request and its reply, both ends on one core, µs'],
  ['request-two-cores', 'a core for each, which sleeps meanwhile, µs'],
  ['request-spin', 'with the option spin, µs'],
  ['request-descriptor', 'with one descriptor, one core, µs']
])
await plot('bulk.svg', bars, [
  ['bulk', '1 MiB Buffers, GB/s'],
  ['bulk-shared', '1 MiB in shared memory, GB/s']
])
await plot('memory.svg', bars, [['memory-channel', 'resident bytes an open channel']])
await plot('growth.svg', growth, [['growth-channels', 'CPU time a message, both ends, ns']])
const servers = await plot('prefork.svg', bars, [
  ['prefork-close', 'HTTP, a connection for each request, requests/s'],
  ['prefork-keepalive', 'HTTP, connections kept alive, requests/s'],
  ['dispatch-bare', 'connections passed on to workers that close them, a second']
])
fill('performance.md', {
  machine: aboutTheRun(),
  targets: targetTable(results, spread),
  layers: values(...results.flatMap(({ name }) => (name.startsWith('layer-') ? [name] : []))),
  spin: values('request-unpinned', 'request-two-cores', 'request-spin'),
  raw: values('stream', 'datagrams'),
  memory: values('memory-channel', 'memory-flat'),
  growth: values('growth-channels', 'growth-descriptors'),
  fairness: values('fairness'),
  take: values('take', 'take-alone', 'take-inject'),
  store: values('store'),
  takeover: values('takeover', 'takeover-queued', 'takeover-p99'),
  prefork: serverTable(results),
  dispatch: values('prefork-dispatch', 'prefork-dispatch-cpu', 'dispatch-bare', 'dispatch-bare-cpu'),
  reload: values('prefork-reload', 'prefork-reload-slowest', 'prefork-reload-time'),
  worker: values('worker-cpu', 'worker-cpu-keepalive'),
  workers: values('prefork-many', 'prefork-many-cpu', 'prefork-many-all', 'growth-workers-rate', 'growth-workers'),
  serve: values('serve', 'serve-keepalive'),
  websockets: values('websockets', 'websockets-p99', 'websockets-memory'),
  ...(servers ? { 'prefork plot': '![Servers with two workers](prefork.svg)' } : {})
})
fill('../README.md', { bench: shortTable(results) })

/** The machine, the date and what the figures depend on; and how often all was measured. */
function aboutTheRun(): string {
  if (conditions === undefined) return `Measured on: ${machine}.`
  const lines = describeConditions(conditions).split('\n')
  const several = `The figures are of the last of ${runs} whole runs; the column *all runs* has the smallest and the largest median of all.`
  return [
    `Measured on ${conditions.date.slice(0, 10)} on: ${machine}.`,
    ...lines.map(line => `${line[0]!.toUpperCase()}${line.slice(1)}.`),
    ...(spread === undefined ? [] : [several])
  ].join('\n\n')
}

function values(...names: string[]): string {
  const measured = names.flatMap(name => byName.get(name) ?? [])
  return measured.length === 0 ? '_Not measured in this run._' : valueTable(measured, spread)
}

/** Rows that were not measured are left out; false if that is all of them. */
async function plot(
  file: string,
  draw: (panels: Panel[]) => Promise<string>,
  rows: [string, string][]
): Promise<boolean> {
  const panels = rows.flatMap(([name, title]) => {
    const result = byName.get(name)
    return result === undefined ? [] : [{ title, result }]
  })
  if (panels.length === 0) return false
  writeFileSync(join(folder, file), await draw(panels))
  return true
}

function fill(file: string, parts: Record<string, string>): void {
  const path = join(folder, file)
  if (existsSync(path)) fillIn(path, parts)
}
