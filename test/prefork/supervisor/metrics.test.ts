import { execFileSync, spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Registry, register } from 'prom-client'
import {
  METRICS_CONTENT_TYPE,
  type MetricsSnapshot,
  metricsOf,
  type WorkerMetrics
} from '../../../src/prefork/supervisor/metrics.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { test, testIf } from '../../helpers/test.ts'

const python = '/usr/bin/python3'
const parser = '/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py'

function worker(more: Partial<WorkerMetrics> = {}): WorkerMetrics {
  return {
    slot: 0,
    id: 3,
    pid: 4711,
    state: 'ready',
    uptime: 1500,
    restarts: 2,
    connections: 7,
    requests: 1000,
    lag: 2.5,
    rss: 1048576,
    cpu: 12_340,
    ...more
  }
}

const snapshot: MetricsSnapshot = {
  workers: [
    worker(),
    worker({
      id: 5,
      pid: 4712,
      state: 'starting',
      restarts: 3,
      connections: undefined,
      requests: 0,
      lag: undefined,
      rss: undefined,
      cpu: undefined
    }),
    worker({ slot: 1, id: 4, pid: 4713, restarts: 0 })
  ],
  exits: { SIGKILL: 2, 1: 3, 'odd "reason"\\\n': 1 },
  restarts: 5,
  since: 1_700_000_000_500
}

test('a snapshot as OpenMetrics text', async t => {
  t.is(await metricsOf(snapshot), TEXT)
})

const TEXT = `# HELP passfd_supervisor_start_time_seconds When the supervisor was started, since 1970.
# TYPE passfd_supervisor_start_time_seconds gauge
passfd_supervisor_start_time_seconds 1700000000.5
# HELP passfd_workers Workers by state.
# TYPE passfd_workers gauge
passfd_workers{state="starting"} 1
passfd_workers{state="ready"} 2
passfd_workers{state="stopping"} 0
# HELP passfd_worker_exits Workers that have ended, by exit code or signal.
# TYPE passfd_worker_exits counter
passfd_worker_exits_total{reason="1"} 3
passfd_worker_exits_total{reason="SIGKILL"} 2
passfd_worker_exits_total{reason="odd \\"reason\\"\\\\\\n"} 1
# HELP passfd_restarts Workers started in the place of one that ended by itself.
# TYPE passfd_restarts counter
passfd_restarts_total 5
# HELP passfd_slot_restarts The same, by slot.
# TYPE passfd_slot_restarts counter
passfd_slot_restarts_total{slot="0"} 3
passfd_slot_restarts_total{slot="1"} 0
# HELP passfd_worker_uptime_seconds Since the worker was started.
# TYPE passfd_worker_uptime_seconds gauge
passfd_worker_uptime_seconds{slot="0",id="3",pid="4711"} 1.5
passfd_worker_uptime_seconds{slot="0",id="5",pid="4712"} 1.5
passfd_worker_uptime_seconds{slot="1",id="4",pid="4713"} 1.5
# HELP passfd_worker_connections Connections that the worker has open.
# TYPE passfd_worker_connections gauge
passfd_worker_connections{slot="0",id="3",pid="4711"} 7
passfd_worker_connections{slot="1",id="4",pid="4713"} 7
# HELP passfd_worker_requests Requests that the worker has answered.
# TYPE passfd_worker_requests counter
passfd_worker_requests_total{slot="0",id="3",pid="4711"} 1000
passfd_worker_requests_total{slot="0",id="5",pid="4712"} 0
passfd_worker_requests_total{slot="1",id="4",pid="4713"} 1000
# HELP passfd_worker_event_loop_lag_seconds How late the event loop of the worker is.
# TYPE passfd_worker_event_loop_lag_seconds gauge
passfd_worker_event_loop_lag_seconds{slot="0",id="3",pid="4711"} 0.0025
passfd_worker_event_loop_lag_seconds{slot="1",id="4",pid="4713"} 0.0025
# HELP passfd_worker_rss_bytes Resident memory of the worker.
# TYPE passfd_worker_rss_bytes gauge
passfd_worker_rss_bytes{slot="0",id="3",pid="4711"} 1048576
passfd_worker_rss_bytes{slot="1",id="4",pid="4713"} 1048576
# HELP passfd_worker_cpu_seconds CPU time of the process of the worker.
# TYPE passfd_worker_cpu_seconds counter
passfd_worker_cpu_seconds_total{slot="0",id="3",pid="4711"} 12.34
passfd_worker_cpu_seconds_total{slot="1",id="4",pid="4713"} 12.34
# EOF
`

const PARSE = `
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
def parsed(text):
    return [f'{family.name} {family.type} {len(family.samples)}' for family in text_string_to_metric_families(text)]
print(json.dumps([parsed(text) for text in json.load(sys.stdin)]))`

testIf(
  fs.existsSync(parser) ? undefined : `no ${parser}: apt-get install python3-prometheus-client`,
  "Prometheus' own parser takes it, of a full snapshot and of an empty one",
  async t => {
    const empty = { workers: [], exits: {}, restarts: 0, since: 0 }
    const input = JSON.stringify([await metricsOf(snapshot), await metricsOf(empty)])
    const [full, none] = JSON.parse(execFileSync(python, ['-c', PARSE], { input }).toString()) as [string[], string[]]
    t.deepEqual(full, [
      'passfd_supervisor_start_time_seconds gauge 1',
      'passfd_workers gauge 3',
      'passfd_worker_exits counter 3',
      'passfd_restarts counter 1',
      'passfd_slot_restarts counter 2',
      'passfd_worker_uptime_seconds gauge 3',
      'passfd_worker_connections gauge 2',
      'passfd_worker_requests counter 3',
      'passfd_worker_event_loop_lag_seconds gauge 2',
      'passfd_worker_rss_bytes gauge 2',
      'passfd_worker_cpu_seconds counter 2'
    ])
    t.is(none.length, 11)
  }
)

test("the program's own registry is left alone, and each call begins anew", async t => {
  const [first, second] = await Promise.all([metricsOf(snapshot), metricsOf(snapshot)])
  t.is(first, second)
  t.deepEqual(register.getMetricsAsArray(), [])
  t.is(METRICS_CONTENT_TYPE, Registry.OPENMETRICS_CONTENT_TYPE)
})

test('nonsense that a worker says of itself is left out', async t => {
  const odd = worker({ requests: -1, connections: Number.NaN, lag: Number.POSITIVE_INFINITY, rss: 'x' as never })
  const text = await metricsOf({ ...snapshot, workers: [odd] })
  for (const name of ['requests_total', 'connections', 'event_loop_lag_seconds', 'rss_bytes'])
    t.false(text.includes(`passfd_worker_${name}{`), name)
  t.true(text.includes('passfd_worker_uptime_seconds{'))
})

/** What the compiled module says where there is no node_modules, and where there is only what `prom-client` is said to be. */
function elsewhere(...clients: (string | undefined)[]): string[] {
  const folder = fs.mkdtempSync(temporaryPath('elsewhere'))
  const compiled = fileURLToPath(new URL('../../../build/src/', import.meta.url))
  for (const [place, client] of clients.entries()) {
    const own = join(folder, `${place}`)
    for (const wing of ['base', 'prefork']) fs.cpSync(join(compiled, wing), join(own, wing), { recursive: true })
    fs.writeFileSync(join(own, 'package.json'), '{"type":"module"}')
    if (client === undefined) continue
    fs.mkdirSync(join(own, 'node_modules/prom-client'), { recursive: true })
    fs.writeFileSync(join(own, 'node_modules/prom-client/index.js'), client)
  }
  const source = `for (let place = 0; place < ${clients.length}; place++) {
      const { metricsOf } = await import(\`./\${place}/prefork/supervisor/metrics.js\`)
      const snapshot = { workers: [], exits: {}, restarts: 0, since: 0 }
      await metricsOf(snapshot).catch(({ code, message }) => console.log(code, message.split('\\n')[0]))
    }`
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', source], { cwd: folder })
  if (status !== 0) throw new Error(`${status}: ${stderr}`)
  return stdout.toString().split('\n')
}

test('without prom-client 15 it says what to install; other failures are told as they are', t => {
  const missing = (detail: string) =>
    `ERR_PASSFD_METRICS_MISSING Metrics need prom-client 15, which ${detail}. Run "npm install prom-client@15" where your program is.`
  const told = elsewhere(undefined, 'exports.Registry = class {}', "require('passfd-not-there')")
  t.deepEqual(told.slice(0, 2), [missing('is not installed'), missing('is too old')])
  t.regex(told[2]!, /^MODULE_NOT_FOUND Cannot find module 'passfd-not-there'/)
  t.is(told.length, 4)
})
