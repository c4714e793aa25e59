/** docs/grafana.json asks for metrics and labels that a supervisor has. */
import { readFileSync } from 'node:fs'
import { parser } from '@prometheus-io/lezer-promql'
import { metricsOf } from '../src/prefork/supervisor/metrics.ts'
import { test } from './helpers/test.ts'

interface Dashboard {
  panels: { id: number; title: string; gridPos: Record<'x' | 'y' | 'w' | 'h', number>; targets: Target[] }[]
  annotations: { list: { expr: string; titleFormat: string }[] }
  templating: { list: { name: string; definition?: string }[] }
}
interface Target {
  expr: string
  legendFormat: string
}
interface Metric {
  type: string
  labels: Set<string>
}

const dashboard: Dashboard = JSON.parse(readFileSync(new URL('../docs/grafana.json', import.meta.url), 'utf8'))
const targets: Target[] = [
  ...dashboard.panels.flatMap(({ targets }) => targets),
  ...dashboard.annotations.list.map(({ expr, titleFormat }) => ({ expr, legendFormat: titleFormat }))
]
/** Prometheus adds these to what it scrapes. */
const SCRAPED = ['job', 'instance']
/** Functions of counters; of a gauge they say nothing. */
const OF_COUNTERS = ['rate', 'increase']

/** By the names that Prometheus stores, as OpenMetrics text with everything in it has them. */
async function metrics(): Promise<Map<string, Metric>> {
  const worker = { slot: 0, id: 1, pid: 2, state: 'ready', uptime: 1, restarts: 1, connections: 1, requests: 1, lag: 1 }
  const text = await metricsOf({
    workers: [{ ...worker, rss: 1, cpu: 1 }],
    exits: { 1: 1 },
    restarts: 1,
    since: 1,
    replacements: { rss: 1 },
    lameDuck: true
  })
  const found = new Map<string, Metric>()
  let type = ''
  for (const line of text.split('\n')) {
    type = /^# TYPE \S+ (\w+)$/.exec(line)?.[1] ?? type
    const [, name, labels = ''] = /^(\w+)(?:\{(.*)\})? /.exec(line) ?? []
    if (name === undefined) continue
    const names = [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label!)
    found.set(name, { type, labels: new Set([...names, ...SCRAPED]) })
  }
  return found
}

interface Query {
  metrics: string[]
  labels: string[]
  /** The labels that its result has; undefined: all. */
  grouped: string[] | undefined
  functions: string[]
}

/** Reads a query with Prometheus' own grammar. Grafana replaces its variables first. */
function read(expr: string): Query {
  const text = expr.replace(/\$__(rate_interval|range)/g, '5m').replace(/\$\w+/g, '.*')
  const query: Query = { metrics: [], labels: [], grouped: undefined, functions: [] }
  parser.parse(text).iterate({
    enter: ({ type, name, from, to, node }) => {
      if (type.isError) throw new Error(`no PromQL at ${from}: ${text}`)
      const part = text.slice(from, to)
      if (name === 'Identifier') query.metrics.push(part)
      else if (name === 'FunctionIdentifier') query.functions.push(part)
      else if (name === 'LabelName') {
        query.labels.push(part)
        if (node.parent?.name === 'GroupingLabels') query.grouped = [...(query.grouped ?? []), part]
      } else if (name === 'AggregateExpr') query.grouped ??= []
    }
  })
  return query
}

test('every query is PromQL, of metrics and labels that there are, and rates are those of counters', async t => {
  const known = await metrics()
  t.is(known.get('passfd_worker_cpu_seconds_total')?.type, 'counter')
  t.true(targets.length > dashboard.panels.length)
  for (const { expr, legendFormat } of targets) {
    const query = read(expr)
    t.is(query.metrics.length, 1, expr)
    const metric = known.get(query.metrics[0]!)
    t.truthy(metric, expr)
    for (const label of query.labels) t.true(metric!.labels.has(label), `${label} in ${expr}`)
    t.is(
      query.functions.some(name => OF_COUNTERS.includes(name)),
      metric!.type === 'counter',
      expr
    )
    for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g))
      t.true(query.grouped?.includes(label!) ?? metric!.labels.has(label!), `${legendFormat} of ${expr}`)
  }
  for (const { definition } of dashboard.templating.list) {
    const [, selector, label] = /^label_values\((.*), (\w+)\)$/.exec(definition ?? '') ?? []
    if (selector === undefined) continue
    for (const name of read(selector).metrics) t.true(known.get(name)?.labels.has(label!), definition)
  }
})

test('it shows every metric, and a query that is wrong is noticed', async t => {
  const shown = new Set(targets.flatMap(({ expr }) => read(expr).metrics))
  for (const name of (await metrics()).keys()) t.true(shown.has(name), name)
  t.throws(() => read('sum by (slot (x'), { message: /^no PromQL/ })
  t.like(read('sum by (slot) (rate(a{b="c"}[$__range]))'), {
    metrics: ['a'],
    labels: ['slot', 'b'],
    grouped: ['slot'],
    functions: ['rate']
  })
})

test('the panels have ids of their own and do not overlap', t => {
  const { panels } = dashboard
  t.is(new Set(panels.map(({ id }) => id)).size, panels.length)
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, i) => `${x + (i % w)} ${y + Math.floor(i / w)}`)
  )
  t.is(new Set(cells).size, cells.length)
  t.true(panels.every(({ gridPos: { x, w } }) => x + w <= 24))
})
