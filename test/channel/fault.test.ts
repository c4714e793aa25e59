import { benchTest } from '../helpers/bench.ts'
import { request } from '../helpers/raw-peer.ts'

for (const limit of [0, 1, 7, 20, 80, 4096])
  benchTest(
    `a fault fits a peer that takes bodies of ${limit} bytes`,
    { hello: { maxMessage: limit } },
    async (t, bench) => {
      const messages = bench.consume()
      await bench.say(request(1, 'ask'))
      await messages[0]!.fail(Object.assign(new Error('x'.repeat(50)), { code: 'E_LONG', data: 'y'.repeat(200) }))
      await bench.heard()
      const [length, text] = bench.lengths.at(-1)!
      t.true(length <= Math.max(1, limit), `${text} takes ${length}`)
      t.is(text, limit >= 20 ? 'fault 1 E_LONG' : 'fault 1')
    }
  )

for (const limit of [0, 7, 20, 80, 4096])
  benchTest(
    `last words fit a peer that takes bodies of ${limit} bytes`,
    { hello: { maxMessage: limit } },
    async (t, bench) => {
      bench.channel.destroy(Object.assign(new Error('x'.repeat(50)), { code: 'E_LONG' }))
      t.deepEqual(await bench.heard(), limit >= 20 ? ['goodbye E_LONG'] : [])
      t.true((bench.lengths.at(-1)?.[0] ?? 0) <= Math.max(limit, 200))
    }
  )
