import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpu, rss } from '../../../src/prefork/launch/procfs.ts'
import { start } from '../../helpers/process.ts'
import { zombies } from '../../helpers/processes.ts'
import { test } from '../../helpers/test.ts'

const pageSize = Number(execFileSync('getconf', ['PAGESIZE']).toString())

test('resident memory in bytes', async t => {
  const own = rss(process.pid)!
  t.is(own % pageSize, 0)
  t.true(Math.abs(own - process.memoryUsage.rss()) < 16 * 1048576)

  const script = 'data = bytearray(b"x") * (50 << 20); print("has", flush=True); input()'
  const large = start('/usr/bin/python3', ['-c', script])
  t.is(await large.line(), 'has')
  const size = rss(large.child.pid!)!
  t.true(size > 50 * 1048576 && size < 90 * 1048576, `${size}`)
  large.child.stdin!.end('\n')
  await large.exit
})

test('CPU time in ms', t => {
  const before = process.cpuUsage()
  const own = cpu(process.pid)!
  const after = process.cpuUsage()
  const inMs = ({ user, system }: NodeJS.CpuUsage) => (user + system) / 1000
  // The kernel divides it into user and system time, each in steps of 10 ms
  t.true(own > inMs(before) - 30 && own < inMs(after) + 10, `${inMs(before)} ${own} ${inMs(after)}`)
  t.is(cpu(0x7fffffff), undefined)
})

test('a process that has ended has none, reaped or not', async t => {
  const { child, line, exit } = start('/usr/bin/python3', ['-c', ZOMBIE])
  const zombie = Number(await line())
  t.deepEqual(zombies(child.pid!), [zombie])
  t.is(rss(zombie), undefined)
  child.stdin!.end()
  await exit
  t.is(rss(zombie), undefined)
  t.is(rss(0x7fffffff), undefined)
})

/** A parent whose child has ended, until stdin ends. */
const ZOMBIE = `
import os, sys
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(pid, flush=True)
sys.stdin.read()
os.waitpid(pid, 0)`

test('children that Node has waited for are no zombies', async t => {
  const children = Array.from({ length: 5 }, () => spawn('true', { stdio: 'ignore' }))
  await Promise.all(children.map(child => once(child, 'exit')))
  t.deepEqual(zombies(process.pid), [])
})
