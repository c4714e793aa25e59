import { waitsFor } from '../../../src/cli/command/waits.ts'
import { adminStatus, adminWorker } from '../../helpers/admin-status.ts'
import { test } from '../../helpers/test.ts'

const old = new Set([1, 2])
const [one, two] = [adminWorker({ id: 1 }), adminWorker({ id: 2, slot: 1 })]

test('a reload: what starts, what is replaced, who still has connections', t => {
  t.is(waitsFor(adminStatus([one, two]), old), '')
  t.is(
    waitsFor(adminStatus([one, two, adminWorker({ id: 3, state: 'starting' })], { size: 2 }), old),
    'worker 0 starts'
  )
  const workers = [
    adminWorker({ id: 1, state: 'stopping', connections: 1 }),
    adminWorker({ id: 3 }),
    two,
    adminWorker({ id: 4, slot: 1, state: 'starting' })
  ]
  t.is(
    waitsFor(adminStatus(workers, { size: 2 }), old),
    '1 of 2 workers new, worker 1 starts, worker 0 finishes (1 connection)'
  )
})

test('a stop, with one that hangs; of other programs the connections are not known', t => {
  const workers = [
    adminWorker({ id: 1, state: 'stopping', connections: 1200 }),
    adminWorker({ id: 2, slot: 1, pid: 12, state: 'hung' })
  ]
  t.is(waitsFor(adminStatus(workers), old), 'worker 0 finishes (1,200 connections), worker 1 (pid 12) hangs')
  t.is(waitsFor(adminStatus(workers, { foreign: true }), old), 'worker 0 finishes, worker 1 (pid 12) hangs')
})
