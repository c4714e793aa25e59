import fc from 'fast-check'
import {
  type Death,
  type RestartOptions,
  type RestartPolicy,
  restartPolicy
} from '../../../src/prefork/launch/restart.ts'
import { test } from '../../helpers/test.ts'

const invalid = { code: 'ERR_PASSFD_INVALID_ARGUMENT' }

function death(at: number, more: Partial<Death> = {}): Death {
  return { booted: true, uptime: 1, slot: 0, at, ...more }
}

function delayOf(policy: RestartPolicy, deaths: readonly Death[], now = deaths.at(-1)?.at ?? 0): number {
  const decision = policy(deaths, now)
  return decision.restart ? decision.delay : Number.POSITIVE_INFINITY
}

test('a slot whose workers die early waits twice as long each time, up to the limit', t => {
  const deaths = Array.from({ length: 12 }, (_, index) => death(index * 1000))
  const delays = deaths.map((_, index) => delayOf(restartPolicy(), deaths.slice(0, index + 1)))
  t.deepEqual(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000])
})

test('a worker that was ready and lived is replaced at once, and what was before is forgotten', t => {
  const policy = restartPolicy({ stableAfter: 5000 })
  const early = [death(0), death(1000), death(2000)]
  t.is(delayOf(policy, [...early, death(9000, { uptime: 5000 })]), 0)
  t.is(delayOf(policy, [...early, death(9000, { uptime: 4999 })]), 800)
  t.is(delayOf(policy, [...early, death(9000, { uptime: 5000 }), death(9100)]), 100)
  t.is(delayOf(policy, [death(9000, { uptime: 60_000, booted: false })]), 100, 'it never was ready')
})

test('one slot does not wait for what happens in another', t => {
  const others = Array.from({ length: 20 }, (_, index) => death(index * 100, { slot: 1 }))
  t.is(delayOf(restartPolicy(), [...others, death(2000)]), 100)
  t.is(delayOf(restartPolicy(), [death(0), ...others, death(2000)]), 200)
})

test('it gives up a slot whose workers die before they are ready, ten times in a row', t => {
  const failures = Array.from({ length: 10 }, (_, at) => death(at, { booted: false }))
  const policy = restartPolicy()
  for (let count = 1; count < 10; count++) t.true(policy(failures.slice(0, count), 0).restart, `${count}`)
  t.deepEqual(policy(failures, 10), {
    restart: false,
    reason: '10 workers in a row ended before they were ready (maxBootFailures)'
  })
  t.true(policy(failures.slice(1), 10).restart)
  t.true(policy([...failures.slice(0, 9), { ...failures[9]!, slot: 1 }], 10).restart, "another slot's")
  t.false(policy([...failures.slice(0, 9), death(9, { slot: 1, uptime: 10_000 }), failures[9]!], 10).restart)
  t.true(policy([...failures.slice(0, 9), death(9, { uptime: 10_000 }), failures[9]!], 10).restart, 'one lived')
  t.false(policy([...failures.slice(0, 9), death(9), failures[9]!], 10).restart, 'one was ready, and died at once')
  t.true(policy([...failures.slice(0, 9), death(10)], 10).restart, 'this one did get ready')
  t.true(restartPolicy({ maxBootFailures: 0 })(failures, 10).restart)
  t.false(restartPolicy({ maxBootFailures: 1 })(failures.slice(0, 1), 10).restart)
})

test('after a long quiet what was before is forgotten', t => {
  const before = Array.from({ length: 9 }, (_, index) => death(index, { booted: false }))
  const after = death(300_009, { booted: false })
  t.is(delayOf(restartPolicy(), [...before, after]), 100)
  t.is(delayOf(restartPolicy(), [...before, { ...after, at: 300_008 }]), Number.POSITIVE_INFINITY)
  t.is(delayOf(restartPolicy({ window: 0 }), [...before, after]), Number.POSITIVE_INFINITY)
  t.is(delayOf(restartPolicy({ window: 0, maxBootFailures: 0 }), [...before, after]), 30_000)
})

test('the delay counts from the death, whenever the question comes', t => {
  for (const [now, delay] of [
    [1000, 100],
    [1099, 1],
    [1100, 0],
    [9999, 0],
    [999, 100],
    [Number.NaN, 100]
  ] as const)
    t.is(delayOf(restartPolicy(), [death(1000)], now), delay, `${now}`)
})

test('without any death there is nothing to wait for', t => {
  t.deepEqual(restartPolicy()([], 0), { restart: true, delay: 0 })
})

test('options are checked', t => {
  const ranges = {
    initialDelay: [1, 0x7fffffff],
    maxDelay: [100, 0x7fffffff],
    stableAfter: [1, 0x7fffffff],
    maxBootFailures: [0, 16],
    window: [0, 0x7fffffff]
  } as const
  for (const [name, [min, max]] of Object.entries(ranges)) {
    for (const value of [min, max, undefined]) t.notThrows(() => restartPolicy({ [name]: value } as RestartOptions))
    for (const value of [min - 1, max + 1, min + 0.5, `${min}`, null, Number.NaN])
      t.throws(() => restartPolicy({ [name]: value } as RestartOptions), {
        ...invalid,
        message: new RegExp(`options\\.${name} `)
      })
  }
  for (const options of [null, 7, 'x']) t.throws(() => restartPolicy(options as never), invalid)
  t.is(delayOf(restartPolicy({ initialDelay: 60_000 }), [death(0), death(1)]), 60_000, 'the limit is no less')
})

const anyDeaths = fc.array(
  fc.record({
    booted: fc.boolean(),
    uptime: fc.oneof(fc.double({ min: 0, max: 60_000 }), fc.constantFrom(0, Number.NaN, Number.POSITIVE_INFINITY)),
    slot: fc.nat(7),
    at: fc.oneof(fc.double({ min: 0, max: 1e7, noNaN: true }), fc.constantFrom(Number.NaN, -1))
  }),
  { maxLength: 100 }
)
const anyOptions = fc.record({
  initialDelay: fc.integer({ min: 1, max: 5000 }),
  maxDelay: fc.integer({ min: 5000, max: 100_000 }),
  stableAfter: fc.integer({ min: 1, max: 100_000 }),
  maxBootFailures: fc.nat(16),
  window: fc.nat(1_000_000)
})

test('whatever it is told, it decides the same twice, and a delay is a number from 0 to the limit', t => {
  fc.assert(
    fc.property(anyDeaths, anyOptions, fc.double(), (deaths, options, now) => {
      const given = structuredClone(deaths)
      const decision = restartPolicy(options)(deaths, now)
      t.deepEqual(restartPolicy(options)(given, now), decision)
      t.deepEqual(deaths, given)
      if (decision.restart) t.true(decision.delay >= 0 && decision.delay <= options.maxDelay)
      else t.true(decision.reason.length > 0 && options.maxBootFailures > 0 && deaths.at(-1)?.booted === false)
    })
  )
  t.pass()
})

test('a slot never waits less after one early death more, and never after a stable one', t => {
  fc.assert(
    fc.property(anyOptions, fc.integer({ min: 1, max: 40 }), (options, count) => {
      const policy = restartPolicy({ ...options, window: 0, maxBootFailures: 0 })
      const deaths = Array.from({ length: count }, (_, index) => death(index, { uptime: 0 }))
      const delays = deaths.map((_, index) => delayOf(policy, deaths.slice(0, index + 1)))
      t.deepEqual(
        delays,
        delays.toSorted((a, b) => a - b)
      )
      t.is(delays[0], options.initialDelay)
      t.is(delayOf(policy, [...deaths, death(count, { uptime: options.stableAfter })]), 0)
    })
  )
})

/** Slots whose workers live as long as `lives` says, for `duration` ms: when each worker was started, and why it was given up. */
function simulate(
  policy: RestartPolicy,
  slots: number,
  duration: number,
  lives: (slot: number, at: number) => { uptime: number; booted: boolean }
): { starts: { at: number; slot: number }[]; gaveUp: string | undefined } {
  const starts: { at: number; slot: number }[] = []
  const deaths: Death[] = []
  const alive = Array.from({ length: slots }, (_, slot) => ({ slot, at: 0 }))
  while (alive.length > 0) {
    // Each entry is a start; its death is decided on in the order of time
    const next = alive
      .map(start => ({ start, ...(plans.get(start) ?? plan(start)) }))
      .reduce((first, other) => (other.end < first.end ? other : first))
    alive.splice(alive.indexOf(next.start), 1)
    if (next.start.at > duration) continue
    starts.push(next.start)
    deaths.push({ slot: next.start.slot, at: next.end, uptime: next.end - next.start.at, booted: next.booted })
    if (deaths.length > Math.max(100, 16 * slots)) deaths.shift()
    const decision = policy(deaths, next.end)
    if (!decision.restart) return { starts, gaveUp: decision.reason }
    alive.push({ slot: next.start.slot, at: next.end + decision.delay })
  }
  return { starts, gaveUp: undefined }

  function plan(start: { slot: number; at: number }): { end: number; booted: boolean } {
    const { uptime, booted } = lives(start.slot, start.at)
    const made = { end: start.at + uptime, booted }
    plans.set(start, made)
    return made
  }
}

const plans = new WeakMap<object, { end: number; booted: boolean }>()

/** The most starts within any `width` ms. */
function densest(starts: readonly { at: number }[], width: number): number {
  const times = starts.map(({ at }) => at).sort((a, b) => a - b)
  let most = 0
  for (let first = 0, last = 0; last < times.length; last++) {
    while (times[last]! - times[first]! > width) first++
    most = Math.max(most, last - first + 1)
  }
  return most
}

test('trap 35: a slot whose workers crash at boot is given up after ten starts, in less than a minute', t => {
  const { starts, gaveUp } = simulate(restartPolicy(), 1, 3_600_000, () => ({ uptime: 50, booted: false }))
  t.is(gaveUp, '10 workers in a row ended before they were ready (maxBootFailures)')
  t.is(starts.length, 10)
  t.true(starts[9]!.at > 50_000 && starts[9]!.at < 60_000)
})

test('trap 35: what keeps eight slots from starting for half a minute does not end them', t => {
  const lives = (_: number, at: number) =>
    at < 30_000 ? { uptime: 50, booted: false } : { uptime: 3_600_000, booted: true }
  t.is(simulate(restartPolicy(), 8, 3_600_000, lives).gaveUp, undefined)
})

test('trap 35: eight slots whose workers crash right after they were ready are started less and less often', t => {
  const { starts, gaveUp } = simulate(restartPolicy(), 8, 3_600_000, () => ({ uptime: 50, booted: true }))
  t.is(gaveUp, undefined)
  t.is(densest(starts, 1000), 8 * 4, 'at 0, 150, 400 and 850 ms')
  const lastHalf = starts.filter(({ at }) => at > 1_800_000)
  t.true(densest(lastHalf, 29_000) <= 8)
  t.true(lastHalf.length >= 8 * 59, 'and it goes on trying')
})

test('trap 35: many slots back off as one does', t => {
  const { starts } = simulate(restartPolicy(), 64, 600_000, () => ({ uptime: 50, booted: true }))
  t.true(
    densest(
      starts.filter(({ at }) => at > 100_000),
      29_000
    ) <= 64
  )
})

test('trap 35: however long workers live, the starts within any time are bounded', t => {
  const uptime = fc.oneof(fc.double({ min: 0, max: 100, noNaN: true }), fc.double({ min: 0, max: 20_000, noNaN: true }))
  const life = fc.record({ uptime, booted: fc.boolean() })
  fc.assert(
    fc.property(fc.array(life, { minLength: 1, maxLength: 40 }), fc.integer({ min: 1, max: 6 }), (lives, slots) => {
      let turn = 0
      const policy = restartPolicy({ maxBootFailures: 0 })
      const { starts } = simulate(policy, slots, 100_000, () => lives[turn++ % lives.length]!)
      for (let slot = 0; slot < slots; slot++) {
        const own = starts.filter(start => start.slot === slot)
        // One that was there, one in place of a stable one, and then after 100, 200, 400, … ms
        for (const width of [50, 1000, 9000])
          t.true(densest(own, width) <= 2 + Math.log2(width / 100 + 2), `${densest(own, width)} in ${width} ms`)
      }
    }),
    { numRuns: 50 }
  )
})
