/** The option lameDuck: for a while after it was told to stop everything goes on, and says so. Of run(): see signals.test.ts. */
import { once } from 'node:events'
import { connect } from '../../../src/index.ts'
import { type AdminCommand, type AdminEvent, type AdminStatus, joinSupervisor } from '../../../src/prefork/index.ts'
import { socketPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { get, KINDS, only, program, supervising } from '../../helpers/supervising.ts'
import { test } from '../../helpers/test.ts'

const LONG = 60_000

test('everything goes on: clients are served, a worker that dies is replaced; reload and scale are refused; it is told', async t => {
  const admin = socketPath()
  const entry = program(`
    import { createServer } from 'node:http'
    const worker = await joinSupervisor()
    const ready = () => worker.lameDuck.aborted ? 'lame duck' : 'fine'
    await worker.listen('http', createServer(({ url }, response) => {
      if (url === '/exit') process.exit(9)
      response.end(ready() + ' ' + worker.signal.aborted)
    }))
    await worker.ready()`)
  const restart = (): { restart: true; delay: number } => ({ restart: true, delay: 0 })
  await supervising(t, { entry, admin, lameDuck: LONG, stopTimeout: 5000, restart }, async (supervisor, { exits }) => {
    await supervisor.start()
    t.is(supervisor.phase, 'running')
    t.is(await get(supervisor), 'fine false')
    const asked = await connect<AdminEvent, AdminCommand>(admin)
    const events: AdminEvent[] = []
    asked.on('message', ({ value }) => void events.push(value))
    await asked.request({ command: 'subscribe' })
    const told = once(supervisor, 'lameDuck')
    const stopped = supervisor.stop()
    t.deepEqual(await told, [LONG])
    t.is(supervisor.phase, 'lame duck')
    t.is((await asked.request<AdminStatus>({ command: 'status' })).phase, 'lame duck')
    t.regex(await supervisor.metrics(), /^passfd_supervisor_lame_duck 1$/m)
    const worker = supervisor.workers[0]!
    t.is(worker.state, 'ready')
    const answers = new Set<string>()
    while (!answers.has('lame duck false')) answers.add(await get(supervisor))
    for (const change of [supervisor.reload(), supervisor.scale(2)]) {
      const error = await t.throwsAsync(change, { code: 'ERR_PASSFD_SUPERVISOR_STATE' })
      t.regex(error!.message, /about to stop \(lameDuck\)/)
    }
    await t.throwsAsync(get(supervisor, 'http', '/exit'))
    await only(supervisor, 2)
    // The new one is told, too
    for (let answer = ''; answer !== 'lame duck false'; ) answer = await get(supervisor)
    t.true(events.some(({ event }) => event === 'lameDuck'))
    const again = supervisor.stop()
    await Promise.all([stopped, again])
    t.is(supervisor.phase, 'stopped')
    t.is(exits.at(-1), '0/2 0')
    asked.close()
    await asked.closed
  })
})

for (const kind of KINDS) {
  test(`${kind.name}: it ends by itself, and stopTimeout starts after it`, async t => {
    const options = { ...kind.options(program(kind.waits())), lameDuck: 300, stopTimeout: 5000 }
    await supervising(t, options, async (supervisor, { of }) => {
      await supervisor.start()
      const began = performance.now()
      const stopped = supervisor.stop()
      t.deepEqual(of(1), ['starting', 'ready'])
      await stopped
      t.true(performance.now() - began >= 295)
      t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    })
  })

  test(`${kind.name}: kill() does not wait for it, nor does a stop before all is ready, nor one when every slot was given up`, async t => {
    const options = { ...kind.options(program(kind.waits())), lameDuck: LONG }
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      const stopped = supervisor.stop()
      await supervisor.kill()
      await stopped
    })
    await supervising(t, options, async supervisor => {
      const starting = t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' })
      await supervisor.stop()
      await starting
    })
    const restart = (): { restart: false; reason: string } => ({ restart: false, reason: 'no' })
    await supervising(t, { ...options, restart }, async supervisor => {
      supervisor.on('gaveUp', () => {})
      await supervisor.start()
      const stopped = supervisor.stop()
      process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
      await stopped
    })
  })
}

test('standalone: the option of joinSupervisor(); the second signal ends it, the third one cuts off', async t => {
  const path = program(`
    import { createServer } from 'node:http'
    const worker = await joinSupervisor({ standalone: { http: { port: 0, host: '127.0.0.1' } }, lameDuck: ${LONG} })
    const server = createServer((request, response) => { response.flushHeaders(); console.log('asked') })
    await worker.listen('http', server)
    worker.lameDuck.addEventListener('abort', () => console.log('lame duck'))
    worker.signal.addEventListener('abort', () => console.log('stopping'))
    console.log(server.address().port)`)
  const { child, line, exit } = start(process.execPath, [path])
  t.teardown(() => void child.kill('SIGKILL'))
  const port = Number(await line())
  child.kill('SIGTERM')
  t.is(await line(), 'lame duck')
  const answer = fetch(`http://127.0.0.1:${port}/`).then(response => response.text())
  t.is(await line(), 'asked', 'it still accepts')
  child.kill('SIGTERM')
  t.is(await line(), 'stopping')
  child.kill('SIGTERM')
  await t.throwsAsync(answer)
  t.like(await exit, { code: 1, signal: null })
})

test('what is no time is refused', async t => {
  for (const lameDuck of [-1, 0.5, '5', 2 ** 31]) {
    const options = { lameDuck: lameDuck as number, standalone: {} }
    const error = await t.throwsAsync(joinSupervisor(options), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    t.regex(error!.message, /^options\.lameDuck/)
  }
})
