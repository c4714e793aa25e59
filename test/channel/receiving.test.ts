import { benchTest } from '../helpers/bench.ts'
import { message, places } from '../helpers/raw-peer.ts'

benchTest('what has arrived in one read is confirmed together', {}, async (t, bench) => {
  bench.consume()
  await bench.say([message(places(3), 3), message('none'), message(places(2), 2)], 5)
  t.deepEqual(await bench.heard(), ['taken 5'])
})

benchTest('a frame is confirmed as a whole, not before its end', {}, async (t, bench) => {
  const bytes = message(places(2), 2)
  await bench.say(bytes.subarray(0, -1), 2)
  t.deepEqual(await bench.heard(), [])
  await bench.say(bytes.subarray(-1))
  t.deepEqual(await bench.heard(), ['taken 2'])
})
