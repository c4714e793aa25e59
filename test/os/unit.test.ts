import { spawnSync } from 'node:child_process'
import { unitOf } from '../../src/os/unit.ts'
import { test } from '../helpers/test.ts'

test('the unit of a process, as its control groups have it', t => {
  const own = unitOf(process.pid)
  t.true(own === undefined || /\.(service|scope)$/.test(own))
  const { stdout } = spawnSync('cat', [`/proc/${process.pid}/cgroup`], { encoding: 'utf8' })
  t.is(own === undefined, !/\/[^/]+\.(service|scope)/.test(stdout))
  t.is(unitOf(process.ppid), unitOf(process.ppid))
  t.is(unitOf(0x7fffffff), undefined)
})
