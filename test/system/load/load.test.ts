/** Under load workers are replaced, added and removed, and no request fails. */
import type { ExecutionContext } from 'ava'
import { isFull, isInCi, times } from '../../helpers/full.ts'
import {
  BALANCES,
  type Client,
  nameOf,
  type Supervised,
  startClient,
  startWrk,
  supervise,
  WRK
} from '../../helpers/prefork.ts'
import { missing } from '../../helpers/programs.ts'
import { testIf, testInCiIf } from '../../helpers/test.ts'

const withoutWrk = missing(WRK, 'wrk')
const NONE = { connect: 0, read: 0, write: 0, status: 0, timeout: 0 }
const REQUESTS = isInCi ? times(1000, 100_000) : 600
/** Between an answer and wrk's next request, in ms: a normal run does not keep the processors busy. */
const THINK = times(15, 0)
/** To so many workers a full run scales. */
const MOST = 8
/** ms. Clients pause longer, and on a loaded machine much longer: who is idle goes to another worker. */
const IDLE_GRACE = 5
let total = 0

/** Runs `change` while wrk and clients of our own ask without a pause; none of their requests may fail. */
async function underLoad(
  t: ExecutionContext,
  supervisor: Supervised,
  change: (client: Client) => Promise<void>,
  think = THINK
): Promise<void> {
  const { port } = supervisor
  const wrk = startWrk(t, port, 8, think)
  // wrk stays on its connections; some of ours go to another worker now and then
  const client = startClient(
    t,
    port,
    { connections: times(2, 4), most: 50, think },
    { connections: 8, think: times(50, 10), most: 10 },
    { connections: 8, think: times(50, 10) }
  )
  await client.more(50)
  await change(client)
  const { requests, errors } = await wrk()
  let answered = requests
  for (const outcome of await client.end()) {
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
  const reloads = balance === 'per-worker' ? times(1, 20) : times(1, 3)
  const title = `${nameOf(balance)}: scaled to 2, ${reloads} reloads, and scaled to 1${isFull ? `, ${MOST} and 1` : ''} under load, and no request fails`
  const test = balance === 'per-worker' ? testIf : testInCiIf
  test(withoutWrk, title, async t => {
    const supervisor = await supervise(t, { workers: 1, balance, idleGrace: IDLE_GRACE })
    await underLoad(t, supervisor, async client => {
      await supervisor.ask('scale', 2)
      const first = (await supervisor.workers()).map(({ pid }) => pid)
      t.is(first.length, 2)
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
      await client.more(times(100, 200)) // by then there are connections to both
      await supervisor.ask('scale', 1)
      t.is((await supervisor.workers()).length, 1)
      await client.more(times(100, 200))
      if (!isFull) return
      await supervisor.ask('scale', MOST)
      t.is((await supervisor.workers()).length, MOST)
      const later = startWrk(t, supervisor.port, 16) // has connections to all of them
      await client.more(500)
      await supervisor.ask('scale', 1)
      t.is((await supervisor.workers()).length, 1)
      await client.more(500)
      const { requests, errors } = await later()
      t.deepEqual(errors, NONE)
      t.true(requests > 0)
      total += requests
    })
  })
}

testIf(withoutWrk, `these were more than ${REQUESTS} requests`, async t => {
  // On a slow machine there is more to be done
  while (total < REQUESTS) {
    const supervisor = await supervise(t, { workers: 2, idleGrace: IDLE_GRACE })
    const reloads = async () => {
      for (let i = 0; i < times(1, 4); i++) await supervisor.ask('reload')
    }
    await underLoad(t, supervisor, reloads, 0)
  }
  t.log(`${total} requests`)
  t.pass()
})
