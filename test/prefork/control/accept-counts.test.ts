/** The memory in which a worker counts the permits that it has used. */
import { ftruncateSync } from 'node:fs'
import { Descriptor } from '../../../src/index.ts'
import { AcceptCounts, UsedPermits } from '../../../src/prefork/control/accept-counts.ts'
import { patched } from '../../helpers/channels.ts'
import { test } from '../../helpers/test.ts'

const EMFILE = -24
const ENOTSUP = -95

test('the worker counts, and the supervisor reads it at once; each listener has a place of its own', t => {
  const [counts, memory] = AcceptCounts.create()
  t.is(counts.unused('a'), undefined)
  const a = counts.tell('a', 3)!
  const b = counts.tell('b', 5)!
  t.not(a, b)
  const used = new UsedPermits(memory)
  t.true(memory.closed)
  t.deepEqual([counts.unused('a'), counts.unused('b')], [3, 5])
  used.add(a, 2)
  t.deepEqual([counts.unused('a'), counts.unused('b')], [1, 5])
  t.is(counts.tell('a', 10), a)
  used.add(a, 11)
  used.add(b, 5)
  t.deepEqual([counts.unused('a'), counts.unused('b')], [0, 0])
})

test('the supervisor asks for a message at once: for one listener, once', t => {
  const [counts, memory] = AcceptCounts.create()
  counts.wantMessage('a')
  const [a, b] = [counts.tell('a', 9)!, counts.tell('b', 9)!]
  const used = new UsedPermits(memory)
  t.false(used.add(a, 1))
  counts.wantMessage('a')
  t.deepEqual([used.add(b, 1), used.add(a, 1), used.add(a, 1)], [false, true, false])
  t.deepEqual([counts.unused('a'), counts.unused('b')], [6, 8])
})

test('after 2³² permits it still counts; what a worker writes too much is never less than 0', t => {
  const [counts, memory] = AcceptCounts.create()
  const place = counts.tell('a', 2 ** 32 - 1)!
  const used = new UsedPermits(memory)
  used.add(place, 2 ** 31 - 1)
  used.add(place, 2 ** 31 - 1)
  t.is(counts.unused('a'), 1)
  counts.tell('a', 4)
  used.add(place, 3)
  t.is(counts.unused('a'), 2)
  used.add(place, 3)
  t.is(counts.unused('a'), 2 ** 32 - 1)
})

test('a worker can not truncate the memory: reading it would end the supervisor', t => {
  const [counts, memory] = AcceptCounts.create()
  counts.tell('a', 3)
  for (const size of [0, 100, 8192]) t.throws(() => ftruncateSync(memory.borrow(), size), { code: 'EPERM' })
  t.is(counts.unused('a'), 3)
  memory.close()
})

test('there are 512 places; a listener without one is not counted', t => {
  const [counts, memory] = AcceptCounts.create()
  for (let i = 0; i < 512; i++) t.is(counts.tell(`${i}`, 1), i)
  t.is(counts.tell('one more', 1), undefined)
  t.is(counts.unused('one more'), undefined)
  t.is(counts.tell('7', 1), 7)
  t.is(counts.unused('7'), 2)
  memory.close()
})

test('nothing is left open if there is no descriptor, or the memory cannot be mapped', async t => {
  await patched(
    'memfd',
    () => () => EMFILE,
    () => void t.throws(() => AcceptCounts.create(), { code: 'EMFILE' })
  )
  const [, memory] = AcceptCounts.create()
  await patched(
    'map',
    () => () => ENOTSUP,
    () => {
      t.throws(() => AcceptCounts.create(), { code: 'ENOTSUP' })
      t.throws(() => new UsedPermits(memory), { code: 'ENOTSUP' })
    }
  )
  t.true(memory.closed)
  const file = Descriptor.openSync('/dev/null')
  t.throws(() => new UsedPermits(file), { code: 'EINVAL' })
  t.true(file.closed)
})
