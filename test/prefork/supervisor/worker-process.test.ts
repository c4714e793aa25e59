/** The end of a worker: by its own wish, by somebody's signal, and by the time limits of its stop. */
import { setTimeout } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import type { Supervisor } from '../../../src/prefork/index.ts'
import { isFull, isInCi } from '../../helpers/full.ts'
import { command, get, KINDS, type Log, only, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'
import { queues } from '../../helpers/waiting-clients.ts'

function pidOf(supervisor: Supervisor, id: number): number {
  return supervisor.workers.find(worker => worker.id === id)!.pid!
}

for (const kind of KINDS)
  test(`${kind.name}: TERM is ignored and handlers never end: the time limits end it`, async t => {
    const limits = { stopTimeout: 200, killTimeout: 200 }
    await supervising(t, { ...kind.options(program(kind.isDeaf)), ...limits }, async (supervisor, { exits, of }) => {
      let reason: string | undefined
      supervisor.on('exit', worker => {
        reason = worker.reason
      })
      await supervisor.start()
      await supervisor.stop()
      t.regex(
        reason!,
        /^it has not stopped within 200 ms \(stopTimeout\)(, so passfd killed it$| \((exited|was killed))/
      )
      t.regex(exits.join(), /^0\/1 (SIGKILL|1)$/) // its own limit, or the supervisor's
      t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    })
  })

test('a worker that stops before it is ready does not become ready', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    void worker.stop()
    await worker.ready()`)
  const restart = () => ({ restart: false, reason: 'once is enough' }) as const
  await supervising(t, { entry, restart }, async (supervisor, { of }) => {
    await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY' })
    t.deepEqual(of(1), ['starting', 'stopping', 'exited'])
  })
})

type End = [end: (supervisor: Supervisor) => unknown, exit: string, states: string[]]

/** Of a full run: the same by another code or signal. */
const MORE_ENDS: Record<string, End> = {
  'exits in a request': [supervisor => get(supervisor, 'http', '/exit').catch(() => {}), '9', []],
  'gets INT from somebody': [supervisor => process.kill(supervisor.workers[0]!.pid!, 'SIGINT'), '0', ['stopping']],
  'gets TERM from somebody': [supervisor => process.kill(supervisor.workers[0]!.pid!, 'SIGTERM'), '0', ['stopping']]
}

const ENDS: Record<string, End> = {
  // A person's run has it of workers in C: in slots.test.ts, by another code
  ...(isInCi ? { 'exits with 0': [supervisor => command(supervisor, { order: 'exit', code: 0 }), '0', []] } : {}),
  throws: [supervisor => command(supervisor, { order: 'throw', message: 'oh' }), '1', []],
  'calls worker.stop()': [supervisor => command(supervisor, { order: 'stop' }), '0', ['stopping']],
  'closes its control channel': [supervisor => command(supervisor, { order: 'close', fd: 3 }), '0', []], // it needs less than a second
  ...(isFull ? MORE_ENDS : {})
}

testInCi(
  'a worker that ends by itself is replaced; one that somebody sends TERM answers its request first, also if it stops already',
  async t => {
    const restart = () => ({ restart: true, delay: 0 }) as const
    await supervising(t, { restart }, async (supervisor, log) => {
      await supervisor.start()
      for (const [index, [what, [end, exit, states]]] of Object.entries(ENDS).entries()) {
        const [id, successor] = [index + 1, index + 2]
        await end(supervisor)
        await only(supervisor, successor)
        await wasReplaced(t, supervisor, log, { id, exit, states, what })
      }
      const id = Object.keys(ENDS).length + 1
      await termWhileItServes(t, supervisor, log, id)
      await wasReplaced(t, supervisor, log, { id, exit: '0', states: ['stopping'], what: 'gets TERM in a request' })
      await termWhileItStops(t, supervisor, log, id + 1)
    })
  }
)

async function wasReplaced(
  t: ExecutionContext,
  supervisor: Supervisor,
  log: Log,
  { id, exit, states, what }: { id: number; exit: string; states: string[]; what: string }
): Promise<void> {
  t.regex(log.exits.at(-1)!, new RegExp(`^0/${id} ${exit}$`), what)
  t.is(log.exits.length, id, what)
  t.deepEqual(log.of(id), ['starting', 'ready', ...states, 'exited'], what)
  t.is(supervisor.workers[0]!.restarts, id, what)
  t.regex(await get(supervisor), new RegExp(`^0 ${id + 1} `), what)
}

/** The successor need not wait for the request in flight. */
async function termWhileItServes(t: ExecutionContext, supervisor: Supervisor, log: Log, id: number): Promise<void> {
  const pid = pidOf(supervisor, id)
  const answer = await slowRequest(supervisor)
  process.kill(pid, 'SIGTERM')
  await until(() => log.of(id + 1).includes('ready'), 'the successor')
  t.is(log.exits.length, id - 1, 'it still has its request')
  t.regex(await get(supervisor), new RegExp(`^0 ${id + 1} `))
  process.kill(pid, 'SIGUSR2')
  t.regex(await answer(), new RegExp(`^0 ${id} `))
  await only(supervisor, id + 1)
}

async function termWhileItStops(t: ExecutionContext, supervisor: Supervisor, log: Log, id: number): Promise<void> {
  const { port } = supervisor.address('http') as { port: number }
  const pid = pidOf(supervisor, id)
  const answer = await slowRequest(supervisor)
  const stopped = supervisor.stop()
  await until(() => queues(port).length === 0, 'the end of accepting')
  process.kill(pid, 'SIGTERM')
  await setTimeout(50) // its handler does nothing that could be waited for
  process.kill(pid, 'SIGUSR2')
  t.regex(await answer(), new RegExp(`^0 ${id} `))
  await stopped
  t.is(log.exits.length, id)
  t.is(log.exits.at(-1), `0/${id} 0`)
}

/** A request that its worker has begun to answer. It ends when the worker gets SIGUSR2. */
async function slowRequest(supervisor: Supervisor): Promise<() => Promise<string>> {
  const before = supervisor.workers.at(-1)!.requests
  const answer = get(supervisor, 'http', '/slow')
  await until(() => supervisor.workers.at(-1)!.requests > before, 'the request')
  return () => answer
}

test('a worker that has lost its control channel finishes its requests, and its successor does not wait for them', async t => {
  // Its heartbeats do not come any more
  await supervising(t, { hangTimeout: 500 }, async (supervisor, { exits, of }) => {
    const reasons: (string | undefined)[] = []
    supervisor.on('exit', ({ reason }) => reasons.push(reason))
    await supervisor.start()
    const pid = pidOf(supervisor, 1)
    const answer = await slowRequest(supervisor)
    command(supervisor, { order: 'close', fd: 3 })
    await until(() => of(2).includes('ready'), 'its successor')
    t.regex(await get(supervisor), /^0 2 /)
    t.deepEqual(of(1), ['starting', 'ready', 'stopping'])
    process.kill(pid, 'SIGUSR2')
    t.regex(await answer(), /^0 1 /)
    await only(supervisor, 2)
    t.deepEqual(exits, ['0/1 0'])
    t.regex(reasons[0]!, /^its control channel has ended: .* \(exited with code 0\)$/)
    await supervisor.stop()
  })
})

test('a worker that has lost its control channel, and hangs, has the time of a stop', async t => {
  await supervising(t, { stopTimeout: 200, killTimeout: 200 }, async (supervisor, { exits, of }) => {
    const reasons: (string | undefined)[] = []
    supervisor.on('exit', ({ reason }) => reasons.push(reason))
    await supervisor.start()
    command(supervisor, { order: 'close', fd: 3 })
    command(supervisor, { order: 'hang' })
    await until(() => exits.length > 0, 'its end')
    t.deepEqual(exits, ['0/1 SIGKILL'])
    t.regex(reasons[0]!, /^its control channel has ended: .*SIGKILL/)
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    await only(supervisor, 2)
    await supervisor.stop()
  })
})
