import { benchTest, credit } from '../helpers/bench.ts'
import { hello } from '../helpers/raw-peer.ts'

benchTest('a request that waits for credit is withdrawn, not cancelled', { hello: { window: 0 } }, async (t, bench) => {
  const controller = new AbortController()
  const asked = bench.ask([bench.file()], { signal: controller.signal })
  controller.abort()
  await bench.settle()
  t.is(asked.outcome, 'ABORT_ERR')
  t.deepEqual(bench.returned, ['unsent 1'])
  await bench.say(credit(1000))
  t.deepEqual(await bench.heard(), [])
})

benchTest(
  'a withdrawn request lets a waiting sender go on',
  { hello: { window: 0 }, highWaterMark: 100 },
  async (t, bench) => {
    const controller = new AbortController()
    bench.ask('x'.repeat(200), { signal: controller.signal })
    let sent = false
    void bench.channel.send('small').then(() => {
      sent = true
    })
    await bench.settle()
    t.false(sent)
    controller.abort()
    await bench.settle()
    t.true(sent)
  }
)

benchTest(
  'early messages over the limits of the peer come back, in order before what follows',
  { hello: null },
  async (t, bench) => {
    const { channel } = bench
    const values: unknown[] = []
    let again = true
    channel.on('returned', ({ value }) => {
      values.push((value as unknown[])[0])
      if (again) void channel.send(['last'])
      again = false
    })
    const big = channel.send(['big', 'x'.repeat(100), bench.file()])
    void channel.send(['second'])
    void channel.send(['many', ...bench.files(3)])
    void channel.send(['huge', 'x'.repeat(100)])
    const asked = bench.ask(['asked', 'x'.repeat(100)])
    await bench.say(hello({ maxMessage: 50, maxDescriptors: 2 }))
    t.deepEqual(values, ['big', 'many', 'huge'])
    t.is(asked.outcome, 'ERR_PASSFD_MESSAGE_TOO_LARGE')
    await big
    await bench.heard()
    t.deepEqual(
      bench.bodies.slice(1).map(value => (value as unknown[])[0]),
      ['second', 'last']
    )
  }
)

benchTest(
  'early messages that come back let a waiting sender go on',
  { hello: null, highWaterMark: 10 },
  async (t, bench) => {
    let sent = false
    void bench.channel.send('x'.repeat(100)).then(() => {
      sent = true
    })
    await bench.say(hello({ maxMessage: 50 }))
    t.true(sent)
  }
)

benchTest(
  'early binaries that are not copied reach a peer without records as plain bytes',
  { hello: null },
  async (t, bench) => {
    const bytes = Buffer.alloc(70_000, 1)
    let sent = false
    void bench.channel.send(['text', bytes, new Uint16Array([1, 2])]).then(() => {
      sent = true
    })
    await bench.settle()
    t.false(sent)
    await bench.say(hello())
    t.true(sent)
    await bench.heard()
    t.deepEqual(bench.bodies[1], ['text', bytes, Buffer.from([1, 0, 2, 0])])
  }
)
