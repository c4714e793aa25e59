import type { Message } from '../../src/channel/message.ts'
import { benchTest, credit } from '../helpers/bench.ts'
import { message, Place, request } from '../helpers/raw-peer.ts'

// A message that is just a descriptor costs 12 + 3 and what the descriptor costs

for (const over of [-1, 0, 1])
  benchTest(
    `a message needs credit above 0: with ${over} left`,
    { hello: { window: 20 + over, descriptorCost: 5 } },
    async (t, bench) => {
      void bench.channel.send(bench.file())
      void bench.channel.send(bench.file())
      t.deepEqual(await bench.heard(), over > 0 ? ['message +1', 'message +1'] : ['message +1'])
      if (over < 0) await bench.say(credit(-over))
      t.deepEqual(await bench.heard(), [])
      await bench.say(credit(1))
      t.deepEqual(await bench.heard(), over > 0 ? [] : ['message +1'])
    }
  )

for (const over of [-1, 0, 1])
  benchTest(`the peer needs credit above 0: with ${over} left`, { window: 100, maxUnclaimed: 2 }, async (t, bench) => {
    await bench.say(message('x'.repeat(22 - over))) // 12 + 1 and these; the descriptor below costs 50
    await bench.say(message(new Place(0), 1), 1)
    t.is(bench.outcome, 'open')
    await bench.say(request(1, 'more'))
    t.is(bench.outcome, over > 0 ? 'open' : 'ERR_PASSFD_CREDIT_EXCEEDED')
  })

benchTest('what nobody has read returns no credit', { window: 1 }, async (t, bench) => {
  await bench.say(message(new Place(0), 1), 1)
  t.deepEqual(await bench.heard(), ['taken 1'])
  bench.consume()
  t.deepEqual(await bench.heard(), ['credit 15', 'credit 1'])
})

for (const [name, keep] of [
  ['claimed', (descriptor: any) => descriptor.claim()],
  ['detached', (descriptor: any) => descriptor.detach()]
] as const)
  benchTest(`the cost of a descriptor returns when it is ${name}`, { window: 1 }, async (t, bench) => {
    bench.channel.on('message', ({ descriptors: [descriptor] }) => {
      const kept = keep(descriptor)
      setImmediate(() => {
        if (typeof kept === 'object') kept.close()
        else bench.ledger.pass(kept, ['released'], 'closed', 'the program closes')
      })
    })
    await bench.say(message(new Place(0), 1), 1)
    t.deepEqual(await bench.heard(), ['taken 1', 'credit 16'])
  })

benchTest('it does not return while the descriptor is lent', { window: 1 }, async (t, bench) => {
  const iterator = bench.channel[Symbol.asyncIterator]()
  const first = iterator.next()
  await bench.say(message([new Place(0), new Place(1)], 2), 2)
  t.deepEqual(await bench.heard(), ['taken 2', 'credit 19'])
  const { descriptors } = (await first).value as Message
  descriptors[0]!.close()
  t.deepEqual(await bench.heard(), ['credit 1'])
  void iterator.next()
  t.deepEqual(await bench.heard(), ['credit 1'])
  t.true(descriptors[1]!.closed)
})

benchTest(
  'credit returns in large pieces while the peer has enough',
  { window: 160, maxUnclaimed: 160 },
  async (t, bench) => {
    bench.consume()
    await bench.say(message('12345')) // 18 of 160
    t.deepEqual(await bench.heard(), [])
    await bench.say(message('12345'))
    t.deepEqual(await bench.heard(), ['credit 36'])
  }
)

benchTest('and in small ones when it has little left', { window: 160, maxUnclaimed: 2 }, async (t, bench) => {
  const iterator = bench.channel[Symbol.asyncIterator]()
  void iterator.next()
  await bench.say(message(new Place(0), 1), 1) // 15 return, the descriptor's 80 don't yet
  t.deepEqual(await bench.heard(), ['taken 1', 'credit 15'])
  await iterator.return!()
})

benchTest(
  'a peer that does not read gets no credit, and all of it when it does',
  { window: 1, highWaterMark: 10, capacity: 50 },
  async (t, bench) => {
    bench.consume()
    void bench.channel.send('x'.repeat(100))
    await bench.settle(true)
    bench.near.put(message('one'), [])
    await bench.settle(true)
    t.deepEqual(await bench.heard(), ['message', 'credit 16'])
  }
)

benchTest(
  'credit held back behind the high-water mark is not forgotten',
  { window: 1, highWaterMark: 1 },
  async (t, bench) => {
    bench.channel.on('message', () => void bench.channel.send('something in the same turn'))
    await bench.say(message('one'))
    t.deepEqual(await bench.heard(), ['message', 'credit 16'])
  }
)

benchTest(
  'a queue that never empties lets confirmations and credit through',
  { window: 1, capacity: 4096 },
  async (t, bench) => {
    bench.consume()
    await bench.say(message(new Place(0), 1), 1)
    await bench.heard()
    void bench.channel.send(Buffer.alloc(6000))
    await bench.settle(true)
    bench.near.put(message(new Place(0), 1), [{ object: -1, received: false }])
    const seen: string[] = []
    for (let i = 0; i < 20; i++) {
      void bench.channel.send(Buffer.alloc(6000)) // more than the peer reads
      await bench.hear(4096)
      seen.push(...bench.frames())
    }
    t.true(seen.includes('taken 1'), seen.join())
    t.true(seen.includes('credit 15'), seen.join())
  }
)
