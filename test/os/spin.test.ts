import { closeAll, connected } from '../helpers/channels.ts'
import { test } from '../helpers/test.ts'

/** How long the loop has slept, in ms, until a timer of `time` ms. Without spinning that is most of it. */
async function slept(time: number): Promise<number> {
  const before = performance.eventLoopUtilization()
  await new Promise(resolve => setTimeout(resolve, time))
  return performance.eventLoopUtilization(before).idle
}

/** The loop spins: it does not sleep at all, in one of some tries at least, as waiting for a core counts as sleep, too. */
async function spins(again: () => Promise<unknown>): Promise<boolean> {
  for (let n = 0; n < 100; n++) {
    await again()
    if ((await slept(5)) < 1) return true
  }
  return false
}

test('spin: the loop does not sleep for so long after a send or an arrival, and then it does', async t => {
  const [left, right] = await connected({ spin: 10_000 })
  t.true(await spins(() => left.send('one way')))
  t.true((await slept(40)) > 1, 'it is over')
  const answered = async (): Promise<void> => {
    const came = new Promise(resolve => left.once('message', resolve))
    await right.send('the other way')
    await came
  }
  t.true(await spins(answered))
  await closeAll(left, right)
})

test('without spin it sleeps', async t => {
  const [left, right] = await connected()
  await left.send('one way')
  t.true((await slept(20)) > 1)
  await closeAll(left, right)
})

test('while it spins, timers, immediates and other channels go on', async t => {
  const [left, right] = await connected({ spin: 10_000 }, { spin: 10_000 })
  const [otherLeft, otherRight] = await connected()
  let immediates = 0
  const count = () => {
    immediates++
    if (immediates < 100) setImmediate(count)
  }
  setImmediate(count)
  right.serve(({ value }) => value)
  otherRight.serve(({ value }) => value)
  for (let i = 0; i < 200; i++) {
    t.is(await left.request(i), i)
    if (i % 20 === 0) t.is(await otherLeft.request(i), i)
  }
  t.is(immediates, 100)
  await closeAll(left, right, otherLeft, otherRight)
})
