import type { Supervisor } from '../../../src/prefork/index.ts'
import { allOf, command, get, only, program, supervising, WAITS } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

/** Requests on many connections: with two workers some come to each one's queue. */
function getMany(supervisor: Supervisor): Promise<string[]> {
  return Promise.all(Array.from({ length: 24 }, () => get(supervisor)))
}

function pidOf(supervisor: Supervisor, id: number): number {
  return supervisor.workers.find(worker => worker.id === id)!.pid!
}

for (const [how, hang] of [
  ['loops for ever', supervisor => command(supervisor, { order: 'hang' })],
  ['was stopped by SIGSTOP', supervisor => process.kill(pidOf(supervisor, 1), 'SIGSTOP')]
] as [string, (supervisor: Supervisor) => void][])
  test(`a worker that ${how} is hung: who waits for it gets to others, and it is replaced`, async t => {
    const restart = () => ({ restart: true, delay: 1000 }) as const // the successor comes later than all answers
    await supervising(t, { workers: 2, hangTimeout: 400, restart }, async (supervisor, { of, exits, states }) => {
      const hung: unknown[] = []
      supervisor.on('state', ({ id, state }) => state === 'hung' && hung.push(id))
      await supervisor.start()
      hang(supervisor)
      const answers = await getMany(supervisor)
      t.true(answers.every(answer => answer.startsWith('1 2 ')))
      t.true(of(1).includes('hung'), 'some have waited for the hung one')
      await only(supervisor, 3, 2)
      t.deepEqual(of(1), ['starting', 'ready', 'hung', 'exited'])
      t.deepEqual(exits, ['0/1 SIGKILL'])
      t.deepEqual(hung, [1])
      t.is(states.filter(line => line.endsWith('hung')).length, 1)
    })
  })

test('one that hangs while it stops is hung, too; hangTimeout 0: it has until its time is over', async t => {
  const entry = program(
    'const worker = await joinSupervisor(); worker.onStop(() => { for (;;); }); await worker.ready()'
  )
  const stopTimeout = 700
  await supervising(t, { entry, hangTimeout: 300, stopTimeout, killTimeout: 300 }, async (supervisor, { of }) => {
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'hung', 'exited'])
  })
  await supervising(t, { entry, hangTimeout: 0, stopTimeout, killTimeout: 300 }, async (supervisor, { of, exits }) => {
    await supervisor.start()
    const began = performance.now()
    await supervisor.stop()
    const passed = performance.now() - began
    t.true(passed > 990 && passed < 5000, `${passed}`)
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    t.deepEqual(exits, ['0/1 SIGKILL'])
  })
})

test('beyond a limit of requests, age or memory a worker is replaced, its successor first, one at a time', async t => {
  const cases = [
    { limits: { requests: 4, jitter: 0.5 }, push: getMany },
    { limits: { age: 1, jitter: 0 }, push: () => {} }, // every successor is beyond it at once

    {
      limits: { rss: 150e6, jitter: 0 },
      push: (supervisor: Supervisor) => {
        for (const slot of [0, 1]) command(supervisor, { order: 'leak', bytes: 120e6 }, slot)
      }
    }
  ]
  const replaced = cases.map(({ limits, push }) =>
    supervising(t, { workers: 2, limits }, async (supervisor, { states, exits, of, told }) => {
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
      t.true(supervisor.workers.every(({ rss }) => rss < 150e6))
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
})

test('the limit is the reason; beyond it from the start: replaced once, and told once', async t => {
  const limits = { rss: 1e6, jitter: 0 }
  await supervising(t, { entry: program(WAITS), workers: 2, limits }, async (supervisor, { states, exits }) => {
    const useless: Error[] = []
    const reasons: (string | undefined)[] = []
    supervisor.on('beyondLimit', error => useless.push(error))
    supervisor.on('state', ({ state, reason }) => state === 'stopping' && reasons.push(reason))
    await supervisor.start()
    await until(() => useless.length === 2 && exits.length === 2, 'both slots')
    await only(supervisor, 3, 4)
    for (const reason of reasons) t.regex(`${reason}`, /^it was beyond a limit: \d+ of 1000000 bytes \(limits\.rss\)$/)
    for (const error of useless) t.like(error, { code: 'ERR_PASSFD_BEYOND_LIMIT' })
    t.regex(await supervisor.metrics(), /^passfd_limit_replacements_total\{limit="rss"\} 2$/m)
    const beats = supervisor.workers.map(({ uptime }) => uptime)
    await until(() => supervisor.workers.every(({ uptime }, index) => uptime > beats[index]! + 200), 'some beats')
    t.is(states.filter(line => line.endsWith('starting')).length, 4)
    await supervisor.reload() // tries again
    await until(() => useless.length === 4, 'told again')
  })
})

test('a successor for a limit that does not get ready: the old one goes on, and it is told', async t => {
  const entry = program(WAITS)
  await supervising(t, { entry, limits: { age: 400, jitter: 0 } }, async (supervisor, { told, exits }) => {
    await supervisor.start()
    program('process.exit(6)', entry)
    await until(() => told.length === 1, 'that it failed')
    t.regex(told[0]!, /reloadFailed .*exited with code 6/)
    await only(supervisor, 1)
    t.deepEqual(exits, ['0/2 6'])
  })
})
