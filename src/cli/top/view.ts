/** What `passfd top` shows of a supervisor: its last status, and rates since the ones before. Pure. */
import type { AdminEvent, AdminStatus, AdminWorker, EmptySlot } from '../../prefork/index.ts'

export interface Sample {
  status: AdminStatus
  /** When it came, in ms of a clock that never steps. */
  at: number
  /** The time of day, in ms since 1970. */
  time: number
}

/** A worker, or an empty slot. */
export interface Row {
  slot: number
  worker: AdminWorker | undefined
  /** Of an empty slot, unless the server is of an older passfd. */
  empty: EmptySlot | undefined
  /** Requests per second; undefined: not known, as after the first sample. */
  requests: number | undefined
  /** Per cent of one core. */
  cpu: number | undefined
  history: History
}

/** The last values, the newest last. */
export interface History {
  requests: readonly number[]
  cpu: readonly number[]
  lag: readonly number[]
  rss: readonly number[]
}

export interface Totals {
  ready: number
  requests: number | undefined
  connections: number
  cpu: number | undefined
  rss: number
  restarts: number
}

export interface View {
  readonly sample: Sample
  readonly rows: readonly Row[]
  readonly totals: Totals
  /** By worker's id: what the rates are derived from. */
  readonly counters: ReadonlyMap<number, Record<'requests' | 'cpu', Counter>>
}

/** A counter when it last changed, and how fast it grows. */
interface Counter {
  value: number
  at: number
  rate: number | undefined
}

/** A worker reports once in its heartbeat, so a counter that rests for less than this time in ms has not stopped. */
const RESTS = 2500
/** How many values the history of a worker has. */
export const HISTORY = 120

/** The view after one more sample. `rests`: how long a counter may rest before its rate is 0. */
export function viewOf(previous: View | undefined, sample: Sample, rests = RESTS): View {
  const { status, at } = sample
  const before = previous !== undefined && isSame(previous.sample.status, status) ? previous : undefined
  const counters = new Map(
    status.workers.map(({ id, requests, cpu }) => {
      const old = before?.counters.get(id)
      return [id, { requests: grown(old?.requests, requests, at, rests), cpu: grown(old?.cpu, cpu, at, rests) }]
    })
  )
  const histories = new Map(before?.rows.map(({ worker, history }) => [worker?.id, history]))
  const rows = status.workers.map(worker => {
    const { slot, id, lag, rss } = worker
    const { requests, cpu } = counters.get(id)!
    const row = {
      slot,
      worker,
      empty: undefined,
      requests: requests.rate,
      cpu: cpu.rate === undefined ? undefined : cpu.rate / 10
    }
    return { ...row, history: longer(histories.get(id), { requests: row.requests ?? 0, cpu: row.cpu ?? 0, lag, rss }) }
  })
  const taken = new Set(rows.map(({ slot }) => slot))
  const empty = Array.from({ length: status.size }, (_, slot) => slot).filter(slot => !taken.has(slot))
  const all = [...rows, ...empty.map(slot => emptyRow(slot, status))].sort((a, b) => a.slot - b.slot)
  return { sample, rows: all, totals: totalsOf(status, rows), counters }
}

/** Whether both are of one supervisor. */
export function isSame(one: AdminStatus, other: AdminStatus): boolean {
  return one.pid === other.pid && one.since === other.since
}

function grown(old: Counter | undefined, value: number, at: number, rests: number): Counter {
  if (old === undefined || value < old.value) return { value, at, rate: undefined }
  if (value > old.value) return { value, at, rate: ((value - old.value) * 1000) / (at - old.at) }
  if (old.rate !== 0 && at - old.at < rests) return old
  return { value, at, rate: 0 }
}

function longer(old: History | undefined, values: Record<keyof History, number>): History {
  const add = (key: keyof History) => [...(old?.[key] ?? []), values[key]].slice(-HISTORY)
  return { requests: add('requests'), cpu: add('cpu'), lag: add('lag'), rss: add('rss') }
}

function emptyRow(slot: number, status: AdminStatus): Row {
  const history = { requests: [], cpu: [], lag: [], rss: [] }
  const empty = status.empty?.find(one => one.slot === slot)
  return { slot, worker: undefined, empty, requests: undefined, cpu: undefined, history }
}

function totalsOf({ workers, empty = [] }: AdminStatus, rows: readonly Row[]): Totals {
  const sum = (values: readonly (number | undefined)[]) =>
    values.every(value => value === undefined)
      ? undefined
      : values.reduce<number>((total, value) => total + (value ?? 0), 0)
  const restarts = new Map([...empty, ...workers].map(({ slot, restarts }) => [slot, restarts]))
  return {
    ready: workers.filter(({ state }) => state === 'ready').length,
    requests: sum(rows.map(({ requests }) => requests)),
    connections: sum(workers.map(({ connections }) => connections)) ?? 0,
    cpu: sum(rows.map(({ cpu }) => cpu)),
    rss: sum(workers.map(({ rss }) => rss)) ?? 0,
    restarts: sum([...restarts.values()]) ?? 0
  }
}

/** An event in words; undefined for one of which another event says the same. */
export function describe({ event, worker, code, signal, error, successor }: AdminEvent): string | undefined {
  if (worker !== undefined) {
    const who = `slot ${worker.slot}: process ${worker.pid ?? 'none'}`
    const why = worker.reason === undefined ? '' : `: ${worker.reason}`
    if (event === 'exit') return `${who} has ended: ${worker.reason ?? signal ?? `code ${code}`}`
    if (event === 'state' && worker.state !== 'exited') return `${who} ${STATES[worker.state]}${why}`
    return undefined
  }
  if (event === 'lameDuck') return 'the supervisor was told to stop, and everything still serves'
  if (event === 'superseded')
    return `process ${successor?.pid} serves now; the workers of this one finish their requests`
  return error?.message ?? event
}

const STATES = { starting: 'starts', ready: 'is ready', stopping: 'stops', hung: 'hangs' } as const
