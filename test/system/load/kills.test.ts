/** Workers are killed with KILL, and every request that fails because of it is accounted for. */
import { once } from 'node:events'
import { isFull, times } from '../../helpers/full.ts'
import {
  type Accepted,
  BALANCES,
  type Balance,
  fixture,
  nameOf,
  type Supervised,
  startClient,
  startKiller,
  supervise,
  type WorkerFacts
} from '../../helpers/prefork.ts'
import { testInCi } from '../../helpers/test.ts'

const DISPATCH: Balance = { dispatch: 'round-robin' }
const ANSWERS = fixture('prefork-answers.mjs')
const variants: [what: string, Balance, entry: string][] = [
  ...BALANCES.map((balance): [string, Balance, string] => [nameOf(balance), balance, ANSWERS]),
  [`${nameOf(DISPATCH)}, wrong counts in the shared memory`, DISPATCH, fixture('prefork-scribbles.mjs')]
]

for (const [what, balance, entry] of variants) {
  const kills = balance === 'per-worker' ? times(2, 50) : times(1, 15)
  testInCi(`${what}: ${kills} workers killed under load: only what they had accepted fails`, async t => {
    const supervisor = await supervise(t, { workers: times(2, 4), balance, entry, restartDelay: 5 })
    const killer = startKiller(t)
    const options = { close: true, connections: 12 }
    // A normal run does not keep the processors busy: its answers come late, so that workers have connections whenever they are killed
    const client = isFull
      ? startClient(t, supervisor.port, options, { ...options, think: 5 })
      : startClient(t, supervisor.port, { ...options, path: '/slow?100' }, { ...options, think: 100 })
    await client.more(24)
    const accepted: Accepted[] = []
    let killed = 0
    // Of those that dispatch sends one by one a worker may have none at the moment: then more are killed
    for (; killed < kills || (accepted.length < 5 && killed < 4 * kills); killed++) {
      const { pid } = await victim(supervisor)
      accepted.push(...(await killer.kill(pid)))
      t.is((await supervisor.exit(pid)).signal, 'SIGKILL')
    }
    await victim(supervisor)
    const outcomes = await client.end()
    await killer.end()
    t.is(supervisor.ended.length, killed)
    const failures = outcomes.flatMap(outcome => outcome.failures)
    const ports = new Set(accepted.map(({ port }) => port))
    t.deepEqual(
      failures.filter(({ port }) => port === undefined || !ports.has(port)),
      [],
      'a request failed that no killed worker had'
    )
    const answered = outcomes.reduce((sum, outcome) => sum + outcome.answered, 0)
    t.log(
      `${answered} answered; ${accepted.length} were at killed workers, which had read from ` +
        `${accepted.filter(({ read }) => read).length}; ${failures.length} failed`
    )
    t.true(answered > 0 && failures.length <= accepted.length) // a client's port may have come up twice
    t.true(accepted.length > 0, 'no worker was killed at its work')
    t.is(await supervisor.end(), '')
  })
}

/** One that serves, of at least two. */
async function victim({ serving, events }: Supervised): Promise<WorkerFacts> {
  while (serving.length < 2) await once(events, 'worker')
  return serving[Math.floor(Math.random() * serving.length)]!
}
