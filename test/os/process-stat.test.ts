/** Files of /proc: whole, whatever their size. */
import { readFileSync } from 'node:fs'
import { readProc, statOf } from '../../src/os/process-stat.ts'
import { test } from '../helpers/test.ts'

/** Of proc_pid_maps(5). */
const MAPPING = /^[0-9a-f]+-[0-9a-f]+ [rwxsp-]{4} [0-9a-f]{8} [0-9a-f:]+ \d+ *[^\n]*$/

test('a file is read whole, also if it is long', t => {
  const lines = readProc(process.pid, 'maps')!.split('\n')
  const expected = readFileSync('/proc/self/maps', 'latin1').split('\n')
  t.true(lines.join('\n').length > 8192, 'it does not fit into the shared buffer')
  t.is(lines[0], expected[0])
  t.deepEqual(lines.slice(-2), expected.slice(-2))
  for (const line of lines.slice(0, -1)) t.regex(line, MAPPING)
})

test('a short one has nothing of the one before', t => {
  readProc('self', 'maps')
  t.is(readProc('self', 'comm'), readFileSync('/proc/self/comm', 'latin1'))
  t.is(readProc('self', 'cmdline'), readFileSync('/proc/self/cmdline', 'latin1'))
})

test('this process and its parent; a process that is not there', t => {
  t.like(statOf(process.pid), { pid: process.pid, lives: true, parent: process.ppid })
  t.is(statOf(2 ** 22 + 1), undefined) // beyond the largest pid (proc_sys_kernel(5))
  t.is(readProc(process.pid, 'no-such-file'), undefined)
  t.is(readProc(process.pid, 'task'), undefined, 'a folder')
})
