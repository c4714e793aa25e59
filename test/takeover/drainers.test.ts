/** Superseded processes that drain: who is told of, and for how long. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Drainers } from '../../src/takeover/drainers.ts'
import { test, until } from '../helpers/test.ts'

test('a process is listed until it ends, though the one that told of it has ended before', async t => {
  const oldest = spawn('cat')
  const drainers = new Drainers(() => {})
  drainers.told(1, 3, [{ pid: oldest.pid!, connections: 2 }])
  t.deepEqual(drainers.list, [
    { pid: 1, connections: 3 },
    { pid: oldest.pid!, connections: 2 }
  ])
  drainers.ended()
  t.deepEqual(drainers.list, [{ pid: oldest.pid!, connections: 2 }])
  oldest.stdin.end()
  await once(oldest, 'exit')
  await until(() => drainers.list.length === 0, 'it is not listed any more')
  drainers.close()
})

test('one that the predecessor does not name any more has ended; one that nobody can watch ends with its teller', t => {
  const changes: number[] = []
  const drainers = new Drainers(() => void changes.push(drainers.list.length))
  drainers.told(1, 1, [{ pid: process.ppid, connections: 1 }])
  drainers.told(1, 1, [])
  drainers.told(1, 1, [{ pid: 0x3fffffff, connections: 1 }])
  drainers.ended()
  drainers.ended()
  t.deepEqual(changes, [2, 1, 2, 0])
  drainers.close()
})
