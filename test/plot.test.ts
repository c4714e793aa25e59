import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Result } from '../bench/measure.ts'
import { serverTable, shortTable, targetTable, valueTable } from '../bench/tables.ts'
import { temporaryPath } from './helpers/path.ts'
import { start } from './helpers/process.ts'
import { test, testFull } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

const result = (name: string, ours: number, peers: Record<string, number>, more = {}) => ({
  name,
  unit: 'things',
  ours,
  min: ours,
  max: ours,
  peers,
  ratios: Object.fromEntries(Object.entries(peers).map(([peer, value]) => [peer, ours / value])),
  targets: {},
  better: 'less',
  runs: 5,
  ...more
})

const results = [
  result(
    'descriptors',
    400_000,
    { 'C one a call': 200_000, usocket: 1000 },
    { better: 'more', targets: { usocket: 500 } }
  ),
  result('request', 12, { 'C epoll': 8 }, { targets: { 'C epoll': 1.4 } }),
  result('growth-channels', 1500, { '1 channel': 1000, '10 channels': 1000, '100 channels': 1200 }),
  result('prefork-close', 15_000, { 'passfd dispatch': 13_000, pm2: 7500 }, { better: 'more' }),
  result('prefork-balance', 52, { pm2: 51 }, { bound: 58 }),
  result('prefork-dispatch-cpu', 5, { pm2: 50, 'net.Server + send': 40 }),
  result('fairness', 900, { 'without <the> & flood': 90 }, { bound: 2000 })
]

async function plot(): Promise<Record<string, string>> {
  const above = temporaryPath()
  const folder = join(above, 'docs')
  mkdirSync(folder, { recursive: true })
  cpSync(join(root, 'README.md'), join(above, 'README.md'))
  cpSync(join(root, 'docs/performance.md'), join(folder, 'performance.md'))
  const source = join(folder, 'results.json')
  const failed = { ...result('bulk', 1, { 'C copy': 2 }), ours: null, ratios: {} }
  const conditions = {
    date: '2030-04-05T10:00:00.000Z',
    load: 0,
    busy: 0,
    kernel: { governor: 'fast' },
    costs: { pageFault: 500 }
  }
  writeFileSync(source, JSON.stringify({ machine: 'a machine', conditions, results: [...results, failed] }))
  const { code, stderr } = await start(process.execPath, [
    // Not as it is compiled: what draws is found beside the source
    ...['--import', import.meta.resolve('tsx'), join(root, 'bench/plot.ts')],
    source,
    folder
  ]).exit
  if (code !== 0) throw new Error(stderr)
  const files = [join(above, 'README.md'), ...readdirSync(folder).map(file => join(folder, file))]
  return Object.fromEntries(files.map(file => [basename(file), readFileSync(file, 'utf8')]))
}

/** The bench's results have more of each, which the tables leave alone. */
const rows = results as Result[]

test('the tables: what was asked for, and who serves how well', t => {
  const targets = targetTable(rows)
  t.regex(targets, /\| `descriptors` +\| × usocket +\| ≥ 500 +\| 400 +\| \*\*missed\*\* +\|/)
  t.regex(targets, /\| `fairness` +\| things +\| ≤ 2,000 +\| 900 +\| kept +\|/)
  t.regex(serverTable(rows), /\| passfd dispatch +\| 13,000 +\| – +\| – +\| – +\| 5 +\|/)
  t.regex(
    shortTable(rows),
    /\| descriptors with a small message each +\| 400,000 things +\| – +\| 200,000 things +\| – +\|/
  )
})

test('the tables of several whole runs say how much these differ', t => {
  const of = (min: number, max: number) => ({ min, max, median: min, spread: 10 })
  const spread = { request: { ours: of(11, 14), ratios: { 'C epoll': of(1.25, 1.75) } } }
  t.regex(
    targetTable(rows, spread),
    /\| `request` +\| × C epoll +\| ≤ 1\.4 +\| 1\.5 +\| \*\*missed\*\* +\| 1\.25 – 1\.75 \|/
  )
  const values = valueTable(rows, spread)
  t.regex(values, /\| `request` +\| passfd +\| 12 things \(12 – 12\) +\| +\| 11 – 14 +\|/)
  t.regex(values, /\| C epoll +\| 8 things +\| 1\.5 +\| 1\.25 – 1\.75 +\|/)
  const ranged = [{ ...rows[1]!, ranges: { 'C epoll': { min: 7, max: 9 } } }]
  t.regex(valueTable(ranged), /\| C epoll +\| 8 things \(7 – 9\) +\| 1\.5 +\|\n?$/)
})

testFull('bench:plot draws what was measured, always the same, and fills in the tables', async t => {
  const files = await plot()
  t.deepEqual(Object.keys(files).sort(), [
    'README.md',
    'growth.svg',
    'performance.md',
    'prefork.svg',
    'results.json',
    'round-trips.svg',
    'throughput.svg'
  ])
  for (const [file, text] of Object.entries(files).filter(([file]) => file.endsWith('.svg'))) {
    t.regex(text, /^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"[\s\S]*<\/svg>\n$/, file)
    t.notRegex(text, /NaN|undefined|<script|<image/, file)
    const open = [...text.matchAll(/<(\w+)[^>]*(?<!\/)>/g)].map(([, name]) => name).sort()
    t.deepEqual(open, [...text.matchAll(/<\/(\w+)>/g)].map(([, name]) => name).sort(), `${file}: tags are closed`)
  }
  t.regex(files['throughput.svg']!, /200,000 {2}\(passfd 2 ×\)/)
  t.regex(files['throughput.svg']!, /one a message \(more is better; logarithmic\)</)
  t.regex(files['round-trips.svg']!, /one core, µs \(less is better\)</)
  const page = files['performance.md']!
  t.regex(page, /Measured on 2030-04-05 on: a machine\.\n\nGovernor fast\.\n\nA page fault 500 ns\.\n/)
  t.regex(page, /\| `descriptors` +\| × usocket +\| ≥ 500 +\| 400 +\| \*\*missed\*\* +\|/)
  t.regex(page, /\| `request` +\| × C epoll +\| ≤ 1\.4 +\| 1\.5 +\| \*\*missed\*\* +\|/)
  t.regex(page, /\| `fairness` +\| things +\| ≤ 2,000 +\| 900 +\| kept +\|/)
  t.regex(page, /!\[.+\]\(prefork\.svg\)/)
  t.regex(page, /\| passfd +\| 15,000 +\| – +\| – +\| 52 +\| – +\|/)
  t.regex(page, /\| passfd dispatch +\| 13,000 +\| – +\| – +\| – +\| 5 +\|/)
  t.regex(page, /\| pm2 +\| 7,500 +\| – +\| – +\| 51 +\| 50 +\|/)
  t.regex(page, /\| net\.Server \+ send +\| – +\| – +\| – +\| – +\| 40 +\|/)
  t.regex(
    files['README.md']!,
    /\| descriptors with a small message each +\| 400,000 things +\| – +\| 200,000 things +\| – +\|/
  )
  t.deepEqual(await plot(), files)
})
