import type { Supervisor, SupervisorOptions } from '../../../src/prefork/index.ts'
import { isFull } from '../../helpers/full.ts'
import { allOf, command, get, KINDS, light, only, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

type Limits = NonNullable<SupervisorOptions['limits']>

/** Requests on many connections: with two workers some come to each one's queue. */
function getMany(supervisor: Supervisor): Promise<string[]> {
  return Promise.all(Array.from({ length: 24 }, () => get(supervisor)))
}

function pidOf(supervisor: Supervisor, id: number): number {
  return supervisor.workers.find(worker => worker.id === id)!.pid!
}

test('a worker whose program does not return to the event loop, or that was stopped by SIGSTOP, is hung: who waits for it gets to others, and it is replaced', async t => {
  const restart = () => ({ restart: true, delay: 0 }) as const
  // The other worker must not be silent for so long
  await supervising(t, { workers: 2, hangTimeout: 4000, restart }, async (supervisor, { of, exits, states }) => {
    const hung: unknown[] = []
    supervisor.on('state', ({ id, state }) => state === 'hung' && hung.push(id))
    await supervisor.start()
    const hangs: [number, () => void][] = [
      [1, () => command(supervisor, { order: 'hang', busy: isFull })],
      [3, () => process.kill(pidOf(supervisor, 3), 'SIGSTOP')]
    ]
    for (const [id, hang] of hangs) {
      hang()
      const answers = await getMany(supervisor)
      t.true(answers.every(answer => /^[01] \d /.test(answer) && !answer.startsWith(`0 ${id} `)))
      t.true(of(id).includes('hung'), 'some have waited for the hung one')
      await until(() => of(id).includes('exited'), 'its end')
      if (id === 1 || isFull) await only(supervisor, id === 1 ? 3 : 4, 2)
      t.deepEqual(of(id), ['starting', 'ready', 'hung', 'exited'])
    }
    t.deepEqual(exits, ['0/1 SIGKILL', '0/3 SIGKILL'])
    t.deepEqual(hung, [1, 3])
    t.is(states.filter(line => line.endsWith('hung')).length, 2)
  })
})

test('one that hangs while it stops is hung, too; hangTimeout 0: it has until its time is over', async t => {
  const entry = program(
    'const worker = await joinSupervisor(); worker.onStop(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)); await worker.ready()'
  )
  // On a slow machine the supervisor notices late
  await supervising(t, { entry, hangTimeout: 300, stopTimeout: 20_000 }, async (supervisor, { of }) => {
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'hung', 'exited'])
  })
  await supervising(
    t,
    { entry, hangTimeout: 0, stopTimeout: 700, killTimeout: 300 },
    async (supervisor, { of, exits }) => {
      let reason: string | undefined
      supervisor.on('exit', worker => {
        reason = worker.reason
      })
      await supervisor.start()
      const began = performance.now()
      await supervisor.stop()
      const passed = performance.now() - began
      t.true(passed > 990 && passed < 5000, `${passed}`)
      t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
      t.deepEqual(exits, ['0/1 SIGKILL'])
      t.regex(reason!, /^it has not stopped within 700 ms \(stopTimeout\) \(was killed/)
    }
  )
})

testInCi(
  'beyond a limit of requests, age or memory a worker is replaced, its successor first, one at a time',
  async t => {
    const cases: { options?: Partial<SupervisorOptions>; limits: Limits; push(supervisor: Supervisor): unknown }[] = [
      // So many that hardly ever one of the two gets less than four
      {
        limits: { requests: 4, jitter: 0.5 },
        push: supervisor => Promise.all([getMany(supervisor), getMany(supervisor)])
      },
      // Every successor is beyond it at once
      ...KINDS.map(kind => ({
        options: kind.options(program(kind.waits())),
        limits: { age: 1, jitter: 0 },
        push: () => {}
      })),
      {
        options: { command: [light()] },
        limits: { rss: 50e6, jitter: 0 },
        push: supervisor => {
          for (const id of [1, 2]) process.kill(pidOf(supervisor, id), 'SIGUSR1')
        }
      }
    ]
    if (isFull)
      cases.push({
        limits: { rss: 150e6, jitter: 0 },
        push: supervisor => {
          for (const slot of [0, 1]) command(supervisor, { order: 'leak', bytes: 120e6 }, slot)
        }
      })
    const replaced = cases.map(({ options, limits, push }) =>
      supervising(t, { ...options, workers: 2, limits }, async (supervisor, { states, exits, of, told }) => {
        let starting = 0
        let most = 0
        await supervisor.start()
        supervisor.on('state', ({ state, id }) => {
          if (state === 'starting') starting++
          else if (state === 'ready') starting--
          if (state === 'stopping') stopped.add(id)
          most = Math.max(most, starting)
        })
        const stopped = new Set<number>()
        t.true(supervisor.workers.every(({ rss }) => rss < (limits.rss ?? Number.POSITIVE_INFINITY)))
        await push(supervisor)
        await until(() => stopped.has(1) && stopped.has(2), `both replaced: ${JSON.stringify(limits)}`)
        await until(() => of(1).includes('exited') && of(2).includes('exited'), 'both ended')
        t.is(most, 1, 'one at a time')
        for (const slot of [0, 1]) {
          const successor = states.findIndex(line => /\/[3-9] ready/.test(line) && line.startsWith(`${slot}/`))
          const end = states.findIndex(line => line === `${slot}/${slot + 1} stopping`)
          t.true(successor >= 0 && successor < end, `${states}`)
        }
        t.true(exits.includes('0/1 0') && exits.includes('1/2 0'), `${exits}`)
        t.deepEqual(told, [])
        t.true(supervisor.workers.every(({ restarts }) => restarts === 0))
      })
    )
    await allOf(replaced)
  }
)

for (const kind of KINDS)
  test(`${kind.name}: the limit is the reason; beyond it from the start: replaced once, and told once`, async t => {
    const limits = { rss: 1e5, jitter: 0 }
    await supervising(
      t,
      { ...kind.options(program(kind.waits())), workers: 2, limits },
      async (supervisor, { states, exits }) => {
        const useless: Error[] = []
        const reasons: (string | undefined)[] = []
        supervisor.on('beyondLimit', error => useless.push(error))
        supervisor.on('state', ({ state, reason }) => state === 'stopping' && reasons.push(reason))
        await supervisor.start()
        await until(() => useless.length === 2 && exits.length === 2, 'both slots')
        await only(supervisor, 3, 4)
        for (const reason of reasons)
          t.regex(`${reason}`, /^it was beyond a limit: \d+ of 100000 bytes \(limits\.rss\)$/)
        for (const error of useless) t.like(error, { code: 'ERR_PASSFD_BEYOND_LIMIT' })
        t.regex(await supervisor.metrics(), /^passfd_limit_replacements_total\{limit="rss"\} 2$/m)
        const beats = supervisor.workers.map(({ uptime }) => uptime)
        await until(() => supervisor.workers.every(({ uptime }, index) => uptime > beats[index]! + 200), 'some beats')
        t.is(states.filter(line => line.endsWith('starting')).length, 4)
        await supervisor.reload() // tries again
        await until(() => useless.length === 4, 'told again')
      }
    )
  })

for (const kind of KINDS)
  test(`${kind.name}: a successor for a limit that does not get ready: the old one goes on, and it is told`, async t => {
    const entry = program(kind.waits())
    await supervising(
      t,
      { ...kind.options(entry), limits: { age: 400, jitter: 0 } },
      async (supervisor, { told, exits }) => {
        supervisor.on('state', ({ state }) => state === 'ready' && program(kind.fails(6), entry)) // before any limit is looked at
        await supervisor.start()
        await until(() => told.length === 1, 'that it failed')
        t.regex(told[0]!, /reloadFailed .*exited with code 6/)
        await only(supervisor, 1)
        t.deepEqual(exits, ['0/2 6'])
      }
    )
  })
