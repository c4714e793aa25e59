import { ArrivingDescriptors } from '../../src/channel/arriving-descriptors.ts'
import { benchTest } from '../helpers/bench.ts'
import { message } from '../helpers/raw-peer.ts'
import { test } from '../helpers/test.ts'

test('each frame takes its own, in the order of their arrival, however they came', t => {
  const arriving = new ArrivingDescriptors()
  t.deepEqual(arriving.take(0), [])
  const numbers = Int32Array.from({ length: 3000 }, (_, index) => index + 10)
  const taken: number[] = []
  for (let at = 0; at < numbers.length; at += 100) {
    arriving.push(numbers, at, 100)
    for (const count of [0, 1, 60, 38]) taken.push(...arriving.take(count))
    t.is(arriving.waiting, at / 100 + 1)
  }
  taken.push(...arriving.take(arriving.waiting))
  t.is(arriving.waiting, 0)
  t.deepEqual(taken, [...numbers])
})

benchTest('frameTimeout: descriptors whose frame does not come', { frameTimeout: 50 }, async (t, bench) => {
  bench.consume()
  await bench.say(message('whole'), 1)
  await bench.pass(100)
  t.is(bench.outcome, 'ERR_PASSFD_FRAME_STALLED')
})
