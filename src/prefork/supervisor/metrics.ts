/** Metrics of a supervisor as OpenMetrics text, by the prom-client that the user has installed. */
import nodeModule from 'node:module'
import { PassfdError } from '../../base/errors.ts'
import { ownFile } from '../../base/own-file.ts'
import type { EmptySlot } from '../control/worker-info.ts'

export interface WorkerMetrics {
  readonly slot: number
  readonly id: number
  readonly pid: number
  readonly state: string
  /** ms */
  readonly uptime: number
  /** Of its slot, as a number of restarts. */
  readonly restarts: number
  /** Undefined here and below: not known, and left out. */
  readonly connections: number | undefined
  readonly requests: number | undefined
  /** Of its event loop, in ms. */
  readonly lag: number | undefined
  /** Bytes. */
  readonly rss: number | undefined
  /** ms */
  readonly cpu: number | undefined
}

export interface MetricsSnapshot {
  readonly workers: readonly WorkerMetrics[]
  /** How many workers have ended, by code ('0') or signal ('SIGKILL'). */
  readonly exits: Readonly<Record<string, number>>
  readonly restarts: number
  /** When the supervisor was started, in ms since 1970 (`Date.now()`). */
  readonly since: number
  /** The slots without a worker. Their restarts count all the same. */
  readonly empty?: readonly Pick<EmptySlot, 'slot' | 'restarts'>[]
  /** How many workers were replaced for a limit, by its name ('rss'). Undefined: not known, and left out. */
  readonly replacements?: Readonly<Record<string, number>>
  /** The supervisor was told to stop, and its workers still serve as before. Undefined: left out. */
  readonly lameDuck?: boolean
}

/** The Content-Type of a response with the metrics. */
export const METRICS_CONTENT_TYPE = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/** States that are always reported, also with 0 workers. */
const STATES = ['starting', 'ready', 'stopping']
const WORKER = ['slot', 'id', 'pid'] as const

type Prometheus = typeof import('prom-client')
type Kind = 'Counter' | 'Gauge'
type Samples = readonly (readonly [labels: Record<string, string | number>, value: number | undefined])[]

/**
 * Resolves to a snapshot in the OpenMetrics text format, 1.0. A counter never falls while its labels exist: a replacement has another id, so
 * its counters are new ones. Rejects with `ERR_PASSFD_METRICS_MISSING` if prom-client 15 is not installed.
 */
export async function metricsOf(snapshot: MetricsSnapshot): Promise<string> {
  const prometheus = load()
  // Not the global registry, which belongs to the application
  const registry = new prometheus.Registry()
  registry.setContentType(prometheus.Registry.OPENMETRICS_CONTENT_TYPE as never)
  const add = (kind: Kind, name: string, help: string, labelNames: readonly string[], samples: Samples): void => {
    const metric = new prometheus[kind]({ name, help, labelNames, registers: [registry] })
    // A worker may report nonsense, but none of these values can be negative
    for (const [labels, value = Number.NaN] of samples)
      if (value >= 0 && value < Number.POSITIVE_INFINITY) metric.inc(labels, value)
  }
  const { workers, empty = [], exits, restarts, since, replacements, lameDuck } = snapshot
  const ofWorkers = (kind: Kind, name: string, help: string, value: (worker: WorkerMetrics) => number | undefined) =>
    add(
      kind,
      `passfd_worker_${name}`,
      help,
      WORKER,
      workers.map(worker => [{ slot: worker.slot, id: worker.id, pid: worker.pid }, value(worker)])
    )

  add(
    'Gauge',
    'passfd_supervisor_start_time_seconds',
    'When the supervisor was started, since 1970.',
    [],
    [[{}, since / 1000]]
  )
  if (lameDuck !== undefined)
    add(
      'Gauge',
      'passfd_supervisor_lame_duck',
      '1: the supervisor was told to stop, and everything still accepts.',
      [],
      [[{}, lameDuck ? 1 : 0]]
    )
  add(
    'Gauge',
    'passfd_workers',
    'Workers by state.',
    ['state'],
    [...STATES.map(state => [{ state }, 0] as const), ...workers.map(({ state }) => [{ state }, 1] as const)]
  )
  add(
    'Counter',
    'passfd_worker_exits_total',
    'Workers that have ended, by exit code or signal.',
    ['reason'],
    Object.entries(exits).map(([reason, count]) => [{ reason }, count])
  )
  add(
    'Counter',
    'passfd_restarts_total',
    'Workers started in the place of one that ended by itself.',
    [],
    [[{}, restarts]]
  )
  if (replacements !== undefined)
    add(
      'Counter',
      'passfd_limit_replacements_total',
      'Workers that were replaced because they were beyond a limit, by limit.',
      ['limit'],
      Object.entries(replacements).map(([limit, count]) => [{ limit }, count])
    )
  const slots = new Map<number, number>()
  for (const { slot, restarts: own } of [...workers, ...empty]) slots.set(slot, Math.max(own, slots.get(slot) ?? 0))
  add(
    'Counter',
    'passfd_slot_restarts_total',
    'The same, by slot.',
    ['slot'],
    [...slots].map(([slot, own]) => [{ slot }, own])
  )
  ofWorkers('Gauge', 'uptime_seconds', 'Since the worker was started.', ({ uptime }) => uptime / 1000)
  ofWorkers('Gauge', 'connections', 'Connections that the worker has open.', ({ connections }) => connections)
  ofWorkers('Counter', 'requests_total', 'Requests that the worker has answered.', ({ requests }) => requests)
  ofWorkers('Gauge', 'event_loop_lag_seconds', 'How late the event loop of the worker is.', ({ lag }) =>
    lag === undefined ? lag : lag / 1000
  )
  ofWorkers('Gauge', 'rss_bytes', 'Resident memory of the worker.', worker => worker.rss)
  ofWorkers('Counter', 'cpu_seconds_total', 'CPU time of the process of the worker.', ({ cpu }) =>
    cpu === undefined ? cpu : cpu / 1000
  )
  return registry.metrics()
}

function load(): Prometheus {
  try {
    // Not an import: a bundler would fail where this package is not installed
    const prometheus: Prometheus = nodeModule.createRequire(ownFile ?? process.execPath)('prom-client')
    if ('OPENMETRICS_CONTENT_TYPE' in prometheus.Registry) return prometheus
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code === 'MODULE_NOT_FOUND' && message.includes("'prom-client'"))
      throw new PassfdError('METRICS_MISSING', { detail: 'is not installed' }, { cause })
    throw cause
  }
  throw new PassfdError('METRICS_MISSING', { detail: 'is too old' })
}
