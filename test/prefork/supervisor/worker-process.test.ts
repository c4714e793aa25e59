/** The end of a worker: by its own wish, by somebody's signal, and by the time limits of its stop. */
import { setTimeout } from 'node:timers/promises'
import type { Supervisor } from '../../../src/prefork/index.ts'
import { isFull } from '../../helpers/full.ts'
import { command, get, only, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'
import { queues } from '../../helpers/waiting-clients.ts'

function pidOf(supervisor: Supervisor, id: number): number {
  return supervisor.workers.find(worker => worker.id === id)!.pid!
}

test('TERM is ignored and handlers never end: the time limits end it', async t => {
  const entry = program(
    `const worker = await joinSupervisor({ signals: false })
    process.on('SIGTERM', () => {})
    worker.onStop(() => new Promise(() => {}))
    await worker.ready()`
  )
  await supervising(t, { entry, stopTimeout: 200, killTimeout: 200 }, async (supervisor, { exits, of }) => {
    let reason: string | undefined
    supervisor.on('exit', worker => {
      reason = worker.reason
    })
    await supervisor.start()
    await supervisor.stop()
    t.regex(reason!, /^it has not stopped within 200 ms \(stopTimeout\) \((exited|was killed)/)
    t.regex(exits.join(), /^0\/1 (SIGKILL|1)$/) // its own limit, or the supervisor's
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
  })
})

type End = [end: (supervisor: Supervisor) => unknown, exit: string, states: string[]]

/** Of a full run: the same by another code or signal. */
const MORE_ENDS: Record<string, End> = {
  'exits in a request': [supervisor => get(supervisor, 'http', '/exit').catch(() => {}), '9', []],
  'gets INT from somebody': [supervisor => process.kill(supervisor.workers[0]!.pid!, 'SIGINT'), '0', ['stopping']]
}

const ENDS: Record<string, End> = {
  'exits with 0': [supervisor => command(supervisor, { order: 'exit', code: 0 }), '0', []],
  throws: [supervisor => command(supervisor, { order: 'throw', message: 'oh' }), '1', []],
  'calls worker.stop()': [supervisor => command(supervisor, { order: 'stop' }), '0', ['stopping']],
  'gets TERM from somebody': [supervisor => process.kill(supervisor.workers[0]!.pid!, 'SIGTERM'), '0', ['stopping']],
  'closes its control channel': [supervisor => command(supervisor, { order: 'close', fd: 3 }), '0', []],
  ...(isFull ? MORE_ENDS : {})
}

test('a worker that ends by itself is replaced', async t => {
  const restart = () => ({ restart: true, delay: 0 }) as const
  await supervising(t, { restart }, async (supervisor, log) => {
    await supervisor.start()
    for (const [index, [what, [end, exit, states]]] of Object.entries(ENDS).entries()) {
      const [id, successor] = [index + 1, index + 2]
      await end(supervisor)
      await only(supervisor, successor)
      t.is(log.exits.at(-1), `0/${id} ${exit}`, what)
      t.is(log.exits.length, id, what)
      t.deepEqual(log.of(id), ['starting', 'ready', ...states, 'exited'], what)
      t.is(supervisor.workers[0]!.restarts, id, what)
      t.regex(await get(supervisor), new RegExp(`^0 ${successor} `), what)
    }
  })
})

test('TERM from somebody when it has begun to stop already: the request in flight is answered', async t => {
  await supervising(t, {}, async (supervisor, { exits }) => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const pid = pidOf(supervisor, 1)
    const answer = get(supervisor, 'http', '/slow')
    await until(() => (supervisor.workers[0]?.requests ?? 0) === 1, 'the request')
    const stopped = supervisor.stop()
    await until(() => queues(port).length === 0, 'the end of accepting')
    process.kill(pid, 'SIGTERM')
    await setTimeout(50) // its handler does nothing that could be waited for
    process.kill(pid, 'SIGUSR2')
    t.regex(await answer, /^0 1 /)
    await stopped
    t.deepEqual(exits, ['0/1 0'])
  })
})

test('TERM from somebody: the request in flight is answered, and the successor need not wait for that', async t => {
  await supervising(t, { restart: () => ({ restart: true, delay: 0 }) }, async (supervisor, { of, exits }) => {
    await supervisor.start()
    const answer = get(supervisor, 'http', '/slow')
    await until(() => (supervisor.workers[0]?.requests ?? 0) === 1, 'the request')
    process.kill(pidOf(supervisor, 1), 'SIGTERM')
    await until(() => of(2).includes('ready'), 'the successor')
    t.deepEqual(exits, [])
    t.is((await get(supervisor)).slice(0, 3), '0 2')
    process.kill(pidOf(supervisor, 1), 'SIGUSR2')
    t.regex(await answer, /^0 1 /)
    await only(supervisor, 2)
    t.deepEqual(exits, ['0/1 0'])
  })
})
