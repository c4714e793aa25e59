/** Under load workers are replaced, added and removed, and no request fails. */
import type { ExecutionContext } from 'ava'
import { isFull, times } from '../helpers/full.ts'
import {
  BALANCES,
  type Client,
  nameOf,
  startClient,
  startSupervisor,
  startWrk,
  type Told,
  WRK
} from '../helpers/prefork.ts'
import { missing } from '../helpers/programs.ts'
import { testFull, testIf } from '../helpers/test.ts'

const withoutWrk = missing(WRK, 'wrk')
const NONE = { connect: 0, read: 0, write: 0, status: 0, timeout: 0 }
const REQUESTS = 100_000
let total = 0

/** Runs `change` while wrk and clients of our own ask without a pause; none of their requests may fail. */
async function underLoad(
  t: ExecutionContext,
  supervisor: Told,
  change: (client: Client) => Promise<void>
): Promise<void> {
  const { port } = supervisor
  const wrk = startWrk(t, port, 8)
  // wrk stays on its connections; some of ours go to another worker now and then
  const clients = [
    { connections: 4, most: 50 },
    { connections: 8, think: 10, most: 10 },
    { connections: 8, think: 10 }
  ].map(options => startClient(t, port, options))
  await change(clients[0]!)
  const { requests, errors } = await wrk()
  let answered = requests
  for (const outcome of await Promise.all(clients.map(client => client.end()))) {
    t.deepEqual(outcome.failures, [])
    t.true(outcome.answered > 0)
    answered += outcome.answered
  }
  t.deepEqual(errors, NONE)
  t.true(requests > 0)
  t.is(await supervisor.end(), '')
  t.log(`${answered} requests`)
  total += answered
}

for (const balance of BALANCES) {
  const reloads = balance === 'per-worker' ? times(2, 20) : times(1, 3)
  testIf(withoutWrk, `${nameOf(balance)}: ${reloads} reloads under load, and no request fails`, async t => {
    const supervisor = await startSupervisor(t, { workers: 2, balance })
    const first = (await supervisor.workers()).map(({ pid }) => pid)
    await underLoad(t, supervisor, async () => {
      for (let i = 0; i < reloads; i++) await supervisor.ask('reload')
      const last = await supervisor.workers()
      t.deepEqual(
        last.map(({ slot, id, state }) => [slot, id, state]),
        [
          [0, 2 * reloads + 1, 'ready'],
          [1, 2 * reloads + 2, 'ready']
        ]
      )
      t.false(last.some(({ pid }) => first.includes(pid)))
    })
  })

  const most = times(3, 8)
  // A normal run takes one of the balances by which connections are dealt before a worker accepts them, and the one by which they are not
  if (!isFull && balance === 'shared') continue
  testIf(withoutWrk, `${nameOf(balance)}: scaled from 1 to ${most} to 1 under load, and no request fails`, async t => {
    const supervisor = await startSupervisor(t, { workers: 1, balance })
    await underLoad(t, supervisor, async client => {
      await client.more(200)
      await supervisor.ask('scale', most)
      t.is((await supervisor.workers()).length, most)
      const later = startWrk(t, supervisor.port, 16) // has connections to all of them
      await client.more(500)
      await supervisor.ask('scale', 1)
      t.is((await supervisor.workers()).length, 1)
      await client.more(500)
      const { requests, errors } = await later()
      t.deepEqual(errors, NONE)
      t.true(requests > 0)
    })
  })
}

testFull(`these were more than ${REQUESTS} requests`, async t => {
  t.is(withoutWrk, undefined)
  // On a slow machine there is more to be done
  while (total < REQUESTS) {
    const supervisor = await startSupervisor(t, { workers: 2 })
    await underLoad(t, supervisor, async () => {
      for (let i = 0; i < 4; i++) await supervisor.ask('reload')
    })
  }
  t.log(`${total} requests`)
  t.pass()
})
