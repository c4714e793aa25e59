import { describe, HISTORY, type Sample, type View, viewOf } from '../../../src/cli/top/view.ts'
import type { AdminWorker } from '../../../src/prefork/index.ts'
import { adminStatus, adminWorker } from '../../helpers/admin-status.ts'
import { test } from '../../helpers/test.ts'

function sample(at: number, workers: Partial<AdminWorker>[], more = {}): Sample {
  return { status: adminStatus(workers.map(adminWorker), more), at, time: 1_700_000_100_000 + at }
}

/** The view after these samples. */
function after(...samples: Sample[]): View {
  return samples.reduce<View | undefined>((view, one) => viewOf(view, one), undefined)!
}

const rates = ({ rows }: View) => rows.map(({ requests, cpu }) => [requests, cpu])

test('the first sample has no rates, the second one has', t => {
  t.deepEqual(rates(after(sample(0, [{ requests: 10, cpu: 100 }]))), [[undefined, undefined]])
  t.deepEqual(rates(after(sample(0, [{ requests: 10, cpu: 100 }]), sample(500, [{ requests: 60, cpu: 350 }]))), [
    [100, 50]
  ])
})

test('a counter that rests between two reports of its worker does not make the rate 0, and the time counts', t => {
  const counts = [0, 100, 100, 300]
  const views = counts.map((_, index) =>
    after(...counts.slice(0, index + 1).map((requests, i) => sample(i * 1000, [{ requests }])))
  )
  t.deepEqual(
    views.map(view => view.rows[0]!.requests),
    [undefined, 100, 100, 100]
  )
})

test('a worker that answers nothing has the rate 0, and its next burst is not spread over the time before', t => {
  const idle = [0, 1, 2, 3, 60].map(second => sample(second * 1000, [{ requests: 5 }]))
  t.is(after(...idle.slice(0, 3)).rows[0]!.requests, undefined)
  t.is(after(...idle.slice(0, 4)).rows[0]!.requests, 0)
  t.is(after(...idle, sample(61_000, [{ requests: 105 }])).rows[0]!.requests, 100)
  t.is(viewOf(viewOf(undefined, idle[0]!), idle[1]!, 0).rows[0]!.requests, 0, 'one picture')
})

test('a successor in a slot begins anew, and so does each worker of another supervisor', t => {
  const first = sample(0, [{ id: 1, requests: 1000 }])
  t.deepEqual(rates(after(first, sample(1000, [{ id: 2, requests: 3 }]))), [[undefined, undefined]])
  t.deepEqual(rates(after(first, sample(1000, [{ id: 1, requests: 3000 }], { pid: 4001 }))), [[undefined, undefined]])
  // Its process is another one, which has counted less
  t.is(after(first, sample(1000, [{ id: 1, requests: 3 }])).rows[0]!.requests, undefined)
})

test('totals: a slot with two workers counts its restarts once; slots without a worker are rows, too', t => {
  const workers = [
    { slot: 0, id: 1, state: 'stopping', restarts: 2, connections: 3, rss: 10 },
    { slot: 0, id: 4, state: 'ready', restarts: 2, connections: 1, rss: 20 },
    { slot: 2, id: 3, state: 'ready', restarts: 1, connections: 5, rss: 30 }
  ] as const
  const more = (requests: number) => workers.map(worker => ({ ...worker, requests, cpu: requests }))
  const view = after(sample(0, more(0), { size: 4 }), sample(1000, more(50), { size: 4 }))
  t.deepEqual(view.totals, { ready: 2, requests: 150, connections: 9, cpu: 15, rss: 60, restarts: 3 })
  t.deepEqual(
    view.rows.map(({ slot, worker }) => [slot, worker?.id]),
    [
      [0, 1],
      [0, 4],
      [1, undefined],
      [2, 3],
      [3, undefined]
    ]
  )
  t.deepEqual(after(sample(0, [])).totals, {
    ready: 0,
    requests: undefined,
    connections: 0,
    cpu: undefined,
    rss: 0,
    restarts: 0
  })
})

test('the history of a worker is limited', t => {
  const samples = Array.from({ length: HISTORY + 20 }, (_, i) => sample(i * 1000, [{ requests: i * i, lag: i }]))
  const { history } = after(...samples).rows[0]!
  t.is(history.lag.length, HISTORY)
  t.is(history.lag.at(-1), HISTORY + 19)
  t.is(history.requests.length, HISTORY)
})

test('events in words; of two that say the same, one', t => {
  const worker = adminWorker({ slot: 3, pid: 99 })
  const reason = 'it exited with code 1'
  t.is(describe({ event: 'state', worker: { ...worker, state: 'starting' } }), 'slot 3: process 99 starts')
  t.is(describe({ event: 'state', worker }), 'slot 3: process 99 is ready')
  t.is(describe({ event: 'state', worker: { ...worker, state: 'hung' } }), 'slot 3: process 99 hangs')
  t.is(
    describe({ event: 'state', worker: { ...worker, state: 'stopping', reason } }),
    `slot 3: process 99 stops: ${reason}`
  )
  t.is(
    describe({ event: 'exit', worker: { ...worker, reason }, code: 1, signal: null }),
    `slot 3: process 99 has ended: ${reason}`
  )
  t.is(describe({ event: 'exit', worker, code: null, signal: 'SIGKILL' }), 'slot 3: process 99 has ended: SIGKILL')
  t.is(describe({ event: 'exit', worker, code: 0, signal: null }), 'slot 3: process 99 has ended: code 0')
  t.is(describe({ event: 'worker', worker }), undefined)
  t.is(describe({ event: 'state', worker: { ...worker, state: 'exited' } }), undefined)
  t.is(describe({ event: 'gaveUp', error: { message: 'It dies.' } }), 'It dies.')
  t.regex(describe({ event: 'superseded', successor: { pid: 7 } })!, /^process 7 serves now/)
  t.regex(describe({ event: 'lameDuck' })!, /told to stop/)
})
