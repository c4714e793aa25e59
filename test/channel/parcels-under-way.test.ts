import { benchTest } from '../helpers/bench.ts'
import { taken } from '../helpers/raw-peer.ts'

benchTest('descriptors are never more than 253 ahead of their frames', { capacity: 1000 }, async (t, bench) => {
  const counts = [200, 100, 253, 1, 0, 252, 253]
  for (const count of counts) void bench.channel.send([...bench.files(count), 'x'.repeat(2000)])
  const heard: string[] = []
  for (let i = 0; i < 200 && heard.length < counts.length; i++) {
    await bench.hear(100)
    heard.push(...bench.frames())
    t.true(bench.ahead <= 253, `${bench.ahead}`)
  }
  t.deepEqual(
    heard,
    counts.map(count => (count === 0 ? 'message' : `message +${count}`))
  )
  t.is(bench.ahead, 0)
})

for (const count of [3, 4, 5, 100_000, 0xffffffff])
  benchTest(`3 are under way: ${count} confirmed`, {}, async (t, bench) => {
    void bench.channel.send(bench.files(1))
    void bench.channel.send(bench.files(2))
    await bench.settle()
    await bench.say(taken(count))
    t.is(bench.outcome, count > 3 ? 'ERR_PASSFD_BAD_TAKEN' : 'open')
    t.deepEqual(bench.returned, count > 3 ? ['unconfirmed 1', 'unconfirmed 2'] : [])
  })

benchTest('what has not left can not be taken', { capacity: 200 }, async (t, bench) => {
  void bench.channel.send('x'.repeat(400))
  await bench.settle(true)
  void bench.channel.send(bench.file())
  await bench.settle(true)
  bench.near.put(taken(1), [])
  await bench.settle(true)
  t.is(bench.outcome, 'ERR_PASSFD_BAD_TAKEN')
  t.deepEqual(bench.returned, ['unsent 1'])
})
