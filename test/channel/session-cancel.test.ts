import { benchTest, cancel } from '../helpers/bench.ts'
import { body, FAULT, frame, Place, places, REPLY, reply, request, taken } from '../helpers/raw-peer.ts'

benchTest(
  'an answer to a cancelled request is confirmed and closed, and returns no credit',
  { window: 1, maxUnclaimed: 10 },
  async (t, bench) => {
    const controller = new AbortController()
    const asked = bench.ask('ask', { signal: controller.signal, descriptors: 2 })
    await bench.settle()
    controller.abort()
    t.deepEqual(await bench.heard(), ['request 1', 'cancel 1'])
    await bench.say(reply(1, places(2), 2), 2)
    t.is(asked.outcome, 'ABORT_ERR')
    t.deepEqual(await bench.heard(), ['taken 2'])
    await bench.say(reply(1, 'again'))
    t.is(bench.outcome, 'ERR_PASSFD_BAD_ID')
  }
)

benchTest(
  'the same when its body defines records',
  { window: 1, maxUnclaimed: 10, hello: { features: ['records'] } },
  async (t, bench) => {
    const controller = new AbortController()
    bench.ask('ask', { signal: controller.signal })
    const second = bench.ask('ask')
    await bench.settle()
    controller.abort()
    t.deepEqual(await bench.heard(), ['request 1', 'request 2', 'cancel 1'])
    // A record structure 0x40 with the keys ['f'], then one that uses it
    const defines = Buffer.from([0xd4, 0x72, 0x40, 0x91, 0xa1, 0x66, 0xd4, 0x46, 0])
    await bench.say(frame(REPLY, defines, { id: 1, count: 1, flags: 8 }), 1)
    t.deepEqual(await bench.heard(), ['taken 1'])
    await bench.say(frame(REPLY, Buffer.from([0x40, 7]), { id: 2, flags: 8 }))
    t.deepEqual(second.outcome, { f: 7 })
  }
)

benchTest('a cancelled request is not answered by us with descriptors', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say(request(3, 'ask'))
  const { signal } = messages[0]!
  t.false(signal.aborted)
  await bench.say(cancel(3))
  t.true(signal.aborted)
  t.is(signal.reason.code, 'ERR_PASSFD_CANCELLED')
  await messages[0]!.reply(bench.file())
  t.deepEqual(bench.returned, ['refused 1'])
  t.deepEqual((await bench.heard()).slice(-1), ['fault 3 CANCELLED'])
})

benchTest('a cancel that comes before the answer is confirmed: it comes back then', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say(request(3, 'ask', 0, 3))
  await messages[0]!.reply(bench.files(3))
  t.true((await bench.heard()).includes('reply 3 +3'))
  await bench.say(cancel(3))
  t.deepEqual(bench.returned, [])
  await bench.say(taken(2))
  t.deepEqual(bench.returned, [])
  await bench.say(taken(1))
  t.deepEqual(bench.returned, ['refused 3'])
})

benchTest('a cancel that comes after it, or for an unknown id, is ignored', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say(request(3, 'ask'))
  await messages[0]!.reply(bench.file())
  await bench.say([taken(1), cancel(3), cancel(4), cancel(0)])
  t.is(bench.outcome, 'open')
  t.deepEqual(bench.returned, [])
})

benchTest('a cancel refuses the answer to its own id only', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say([request(0, 'ask'), request(1, 'ask', 0, 2), request(2, 'ask', 0, 3)])
  for (const [index, each] of messages.entries()) await each.reply(bench.files(index + 1))
  await bench.say([cancel(1), taken(6)])
  t.deepEqual(bench.returned, ['refused 2'])
})

benchTest('an id is free again when it is answered, and 0 is one like any other', {}, async (t, bench) => {
  const messages = bench.consume()
  for (let round = 0; round < 2; round++) {
    await bench.say(request(0, 'ask'))
    await messages[round]!.reply('yes')
    t.is((await bench.heard()).filter(text => text === 'reply 0').length, 1)
  }
  await bench.say([request(0, 'ask'), request(0, 'ask')])
  t.is(bench.outcome, 'ERR_PASSFD_BAD_ID')
})

for (const [name, bytes, code] of [
  ['a reply to nothing', reply(9, 'what'), 'BAD_ID'],
  ['a fault for nothing', frame(FAULT, body({ code: 'E' }), { id: 9 }), 'BAD_ID'],
  ['a reply with more descriptors than its request allows', reply(1, places(3), 3), 'DESCRIPTOR_COUNT'],
  ['a reply that can not be decoded', frame(REPLY, Buffer.of(0xda), { id: 1, count: 2 }), 'UNDECODABLE']
] as const)
  benchTest(`${name} is a violation`, {}, async (t, bench) => {
    const asked = bench.ask('ask', { descriptors: 2 })
    await bench.settle()
    await bench.say(bytes, bytes[5]!)
    t.is(bench.outcome, `ERR_PASSFD_${code}`)
    t.is(asked.outcome, 'ERR_PASSFD_CLOSED')
    t.deepEqual(await bench.heard(), ['request 1', `goodbye ${code}`])
  })

benchTest(
  'maxPending: one more request is answered with a fault, its descriptors closed, its cost returned',
  { maxPending: 2, window: 1 },
  async (t, bench) => {
    const messages = bench.consume()
    const say = async (id: number): Promise<string[]> => {
      await bench.say(request(id, new Place(0), 1), 1) // costs 12 + 3, and 1 for its descriptor
      return (await bench.heard()).sort()
    }
    t.deepEqual(await say(1), ['credit 1', 'credit 15', 'taken 1'])
    t.deepEqual(await say(2), ['credit 1', 'credit 15', 'taken 1'])
    t.deepEqual(await say(3), ['credit 1', 'credit 15', 'fault 3 BUSY', 'taken 1'])
    t.is(messages.length, 2)
    await messages[0]!.reply()
    await say(4)
    t.is(messages.length, 3)
  }
)

benchTest(
  'requestTimeout: the peer is told, and the place is kept until it answers',
  { maxPending: 1 },
  async (t, bench) => {
    const asked = bench.ask('ask', { timeout: 50 })
    await bench.pass(49)
    t.is(asked.outcome, 'open')
    await bench.pass(2)
    t.is(asked.outcome, 'ERR_PASSFD_TIMEOUT')
    t.deepEqual(await bench.heard(), ['request 1', 'cancel 1'])
    t.throws(() => bench.channel.request('more'), { code: 'ERR_PASSFD_TOO_MANY_REQUESTS' })
    await bench.say(reply(1, 'late'))
    t.is(bench.ask().outcome, 'open')
  }
)

benchTest('requestTimeout: each has its own', {}, async (t, bench) => {
  const asked = [30, 10, 20].map(timeout => bench.ask(timeout, { timeout }))
  for (const [ms, open] of [
    [9, 3],
    [2, 2],
    [10, 1],
    [10, 0]
  ] as const) {
    // prettier-ignore
    await bench.pass(ms)
    t.is(asked.filter(({ outcome }) => outcome === 'open').length, open)
  }
})
