/** A program that is replaced again and again by itself, under load: no client is refused, reset or lost. */
import { fileURLToPath } from 'node:url'
import { isInCi, times } from '../../helpers/full.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { startWrk, WRK } from '../../helpers/prefork.ts'
import { type Running, start } from '../../helpers/process.ts'
import { missing } from '../../helpers/programs.ts'
import { testIf, testInCiIf } from '../../helpers/test.ts'
import { type Mix, startLoad, type Target } from './clients.ts'

const PROGRAM = fileURLToPath(new URL('replaced.mjs', import.meta.url))
/** All requests of a run of all tests, both kinds together, are more than twice as many. */
const REQUESTS = times(200, 60_000)
const NOTHING_FAILED = { connect: 0, read: 0, write: 0, status: 0, timeout: 0 }

/** Between an answer and a client's next request, in ms: a normal run does not keep the processors busy. */
const THINK = times(40, 0)
/** In a normal run some connections end between two requests, too. */
const MIX: Mix[] = [
  { kind: 'close', clients: 2 },
  { kind: 'keepAlive', clients: 4, most: times(10, 50) }
]

for (const [kind, count] of [
  ['seat', isInCi ? times(2, 50) : 1],
  ['supervisor', times(2, 50)]
] as const)
  (kind === 'seat' ? testIf : testInCiIf)(
    missing(WRK, 'wrk'),
    `${kind}: ${count} takeovers one after the other under load, TCP and Unix`,
    async t => {
      const port = await freePort()
      const unix = socketPath()
      const setup = JSON.stringify({ kind, path: temporaryPath('replaced'), port, unix, workers: times(1, 2) })
      const serve = async (): Promise<Running> => {
        const running = start(process.execPath, [PROGRAM, setup])
        t.teardown(() => void running.child.kill('SIGKILL'))
        t.is(await running.line(), 'ready')
        return running
      }
      let owner = await serve()
      const places: Record<string, Target> = { TCP: { port, host: '127.0.0.1' }, Unix: { path: unix } }
      const mix = Object.entries(places).flatMap(([place, target]) =>
        MIX.map(one => ({ ...one, ...target, name: `${one.kind}, ${place}`, think: THINK, expect: 'any' as const }))
      )
      const load = startLoad(t, { mix })
      const wrk = startWrk(t, port, 4, THINK)
      await load.more(100)
      const replaced: Promise<unknown>[] = []
      for (let i = 0; i < count; i++) {
        const old = owner
        owner = await serve()
        replaced.push(old.exit.then(({ code, stderr }) => t.deepEqual([code, stderr], [0, ''])))
        await load.more(REQUESTS / count)
      }
      await Promise.all(replaced)
      const { total, kinds, failures } = await load.end()
      t.deepEqual(failures, [])
      const { answered, ...others } = total
      t.deepEqual(others, { refused: 0, reset: 0, empty: 0, timedOut: 0, wrong: 0 })
      for (const { name } of mix) t.true(kinds[name]!.answered > 0, name)
      const { requests, errors } = await wrk()
      t.deepEqual(errors, NOTHING_FAILED)
      t.true(answered >= REQUESTS && requests > 0)
      t.log(`${answered} requests of our own clients, ${requests} of wrk`)
      owner.child.stdin?.end()
      t.is((await owner.exit).code, 0)
    }
  )
