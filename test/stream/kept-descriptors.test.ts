import { KeptDescriptors } from '../../src/stream/kept-descriptors.ts'
import { test } from '../helpers/test.ts'

test('they are taken in order, up to a position', t => {
  const kept = new KeptDescriptors()
  t.deepEqual(kept.take(10), [])
  kept.add(0, [5, 6])
  kept.add(4, [7])
  kept.add(9, [8])
  t.is(kept.count, 4)
  t.deepEqual([kept.nextAfter(-1), kept.nextAfter(0), kept.nextAfter(9)], [0, 4, Number.POSITIVE_INFINITY])
  t.deepEqual(kept.take(5), [5, 6, 7])
  t.is(kept.count, 1)
  t.deepEqual(kept.take(9), [])
  t.deepEqual(kept.take(Number.POSITIVE_INFINITY), [8])
  t.is(kept.count, 0)
})
