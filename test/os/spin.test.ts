import { Watcher } from '../../src/os/loop.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
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

test('more channels than are read directly, with descriptors, large bodies and ends in between', async t => {
  const spin = { spin: 10_000 }
  const pairs = await Promise.all(Array.from({ length: 7 }, () => connected(spin, spin)))
  const large = Buffer.alloc(300_000, 7)
  for (const [, right] of pairs)
    right.serve(({ value }) => {
      value.file?.close()
      return { id: value.id, large: value.large }
    })
  for (let round = 0; round < 20; round++) {
    const answers = pairs.map(([left], at) =>
      left.request<any>({
        id: round * at,
        ...(at % 3 === 0 ? { file: file() } : {}),
        ...(at % 3 === 1 ? { large } : {})
      })
    )
    for (const [at, answer] of (await Promise.all(answers)).entries()) {
      t.is(answer.id, round * at)
      if (at % 3 === 1) t.true(large.equals(answer.large))
    }
    // The ids of watchers that end while the loop spins are used again
    if (round % 5 === 4) await closeAll(...pairs.shift()!)
  }
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  t.is(await left.request('not spinning'), 'not spinning')
  await closeAll(left, right, ...pairs.flat())
})

test('a handler that ends its channel while the loop spins', async t => {
  const spin = { spin: 10_000 }
  for (let round = 0; round < 20; round++) {
    const [left, right] = await connected(spin, spin)
    right.serve(() => right.destroy())
    const error = await t.throwsAsync(left.request(round))
    t.like(error, { code: 'ERR_PASSFD_CLOSED' })
    await left.closed
  }
})

test('what is not read by the shim is not read by spinning either', async t => {
  const [left, right] = await connected({ spin: 10_000 })
  const out = new Int32Array(2)
  t.is(native.socketpair(1, out), 0)
  const [ours, theirs] = [...out] as [number, number]
  let reported = 0
  const watcher = new Watcher(ours, () => {
    reported++
    watcher.want(false, false)
  })
  const id = native.watch(theirs, false)
  t.is(native.spin(id, 10_000), 0)
  t.is(native.spin(1_000_000, 10_000), 0, 'an id that there is not')
  t.is(native.send(theirs, Buffer.from('kept'), 0, 4, new Int32Array(0), 0, 0), 4)
  await left.send('spin')
  while (reported === 0) await new Promise(resolve => setImmediate(resolve))
  t.is(native.pending(ours), 4)
  watcher.end()
  native.unwatch(id)
  native.close(ours)
  native.close(theirs)
  await closeAll(left, right)
})
