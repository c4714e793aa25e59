import type { WorkerProcess } from '../../../src/prefork/supervisor/worker-process.ts'
import { Workers } from '../../../src/prefork/supervisor/workers.ts'
import { test } from '../../helpers/test.ts'

const SERVES = { uses: new Map([['web', { adopts: true }]]), state: 'ready', ended: false, unreachable: false }

function workers(...some: Partial<WorkerProcess>[]): { workers: Workers; all: WorkerProcess[] } {
  const all = some.map(one => ({ ...SERVES, ...one }) as unknown as WorkerProcess)
  const workers = new Workers(true)
  for (const worker of all) workers.add(worker)
  return { workers, all }
}

test('a worker that has lost its control channel gets no connection by message, whether it is ready or stops', t => {
  for (const state of ['ready', 'stopping'] as const) {
    const { workers: some, all } = workers({ state, unreachable: true }, { state })
    t.deepEqual(some.servers('web'), [all[1]])
    t.true(some.isServed('web'))
  }
})

test('a worker that stops gets connections only if none is ready', t => {
  const { workers: some, all } = workers({ state: 'stopping' }, {}, { uses: new Map() })
  t.deepEqual(some.servers('web'), [all[1]])
  some.delete(all[1]!)
  t.deepEqual(some.servers('web'), [all[0]])
})

test('a ready worker that has lost its control channel gets no new connection', t => {
  const { workers: some, all } = workers({ unreachable: true, replaced: false }, { replaced: false })
  t.deepEqual(some.ready(), [all[1]])
})
