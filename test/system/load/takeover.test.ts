/** A program that is replaced again and again by itself, under load: no client is refused, reset or lost. */
import { fileURLToPath } from 'node:url'
import { times } from '../../helpers/full.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { startWrk, WRK } from '../../helpers/prefork.ts'
import { type Running, start } from '../../helpers/process.ts'
import { missing } from '../../helpers/programs.ts'
import { testIf } from '../../helpers/test.ts'
import { type Mix, startLoad } from './clients.ts'

const PROGRAM = fileURLToPath(new URL('replaced.mjs', import.meta.url))
/** All requests of a run of all tests, both kinds together, are more than twice as many. */
const REQUESTS = times(200, 60_000)
const NOTHING_FAILED = { connect: 0, read: 0, write: 0, status: 0, timeout: 0 }

const THINK = times(5, 0)
const MIX: Mix[] = [
  { kind: 'close', clients: 2, think: THINK },
  { kind: 'keepAlive', clients: 4, think: THINK, most: 50, expect: 'any' }
]

for (const [kind, count] of [
  ['seat', times(4, 50)],
  ['supervisor', times(2, 50)]
] as const)
  testIf(missing(WRK, 'wrk'), `${kind}: ${count} takeovers one after the other under load, TCP and Unix`, async t => {
    const port = await freePort()
    const unix = socketPath()
    const setup = JSON.stringify({ kind, path: temporaryPath('replaced'), port, unix, workers: 2 })
    const serve = async (): Promise<Running> => {
      const running = start(process.execPath, [PROGRAM, setup])
      t.teardown(() => void running.child.kill('SIGKILL'))
      t.is(await running.line(), 'ready')
      return running
    }
    let owner = await serve()
    const places = [{ port, host: '127.0.0.1' }, { path: unix }]
    const mix = MIX.map(one => ({ ...one, expect: 'any' as const }))
    const loads = places.map(place => startLoad(t, { ...place, mix }))
    const wrk = startWrk(t, port, 4, THINK)
    for (const load of loads) await load.more(50)
    const replaced: Promise<unknown>[] = []
    for (let i = 0; i < count; i++) {
      const old = owner
      owner = await serve()
      replaced.push(old.exit.then(({ code, stderr }) => t.deepEqual([code, stderr], [0, ''])))
      await Promise.all(loads.map(load => load.more(REQUESTS / count / 2)))
    }
    await Promise.all(replaced)
    let answered = 0
    for (const load of loads) {
      const { total, failures } = await load.end()
      t.deepEqual(failures, [])
      const { answered: some, ...others } = total
      t.deepEqual(others, { refused: 0, reset: 0, empty: 0, timedOut: 0, wrong: 0 })
      answered += some
    }
    const { requests, errors } = await wrk()
    t.deepEqual(errors, NOTHING_FAILED)
    t.true(answered >= REQUESTS && requests > 0)
    t.log(`${answered} requests of our own clients, ${requests} of wrk`)
    owner.child.stdin?.end()
    t.is((await owner.exit).code, 0)
  })
