/** A worker that a debugger holds is not hung. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { WebSocket } from 'ws'
import type { Supervisor } from '../../../src/prefork/index.ts'
import { isTraced } from '../../../src/prefork/launch/procfs.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { resume, suspend } from '../../helpers/processes.ts'
import { missing } from '../../helpers/programs.ts'
import { allOf, program, supervising } from '../../helpers/supervising.ts'
import { testInCi, testInCiIf, until } from '../../helpers/test.ts'

const OBEYS = `
import { url } from 'node:inspector'
const worker = await joinSupervisor()
worker.channel.serve(({ value }) => {
  if (value === 'hang') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  return url()
})
await worker.ready()`
/** A worker that was killed is not replaced: health.test.ts shows that it would be. */
const HANG = { hangTimeout: 4000, restart: () => ({ restart: true, delay: 100_000 }) as const }

/** A debugger that is attached, and pauses. Returns what detaches it. */
async function pause(worker: Supervisor['workers'][number]): Promise<() => void> {
  const socket = new WebSocket(await worker.channel.request<string>('url'))
  await once(socket, 'open')
  const paused = new Promise<void>(resolve => {
    socket.on('message', data => String(data).includes('"Debugger.paused"') && resolve())
  })
  for (const [id, method] of ['Debugger.enable', 'Debugger.pause'].entries())
    socket.send(JSON.stringify({ id, method }))
  await paused
  return () => socket.terminate()
}

/** So long that it would have been killed. */
async function stays(supervisor: Supervisor, id: number, milliseconds = HANG.hangTimeout + 1000): Promise<void> {
  await passes(supervisor, milliseconds, id)
  if (supervisor.workers.every(worker => worker.id !== id)) throw new Error(`worker ${id} has ended`)
}

/** Until so many ms have passed, or the worker has ended. */
async function passes(supervisor: Supervisor, milliseconds: number, id = 1): Promise<void> {
  const uptime = () => supervisor.workers.find(worker => worker.id === id)?.uptime ?? Number.NaN
  const limit = uptime() + milliseconds
  await until(() => !(uptime() < limit), 'that time passes')
}

testInCi('a pause in a debugger is no hang; without one it is, though the inspector is open', async t => {
  const spawn = { execArgv: ['--inspect=0'] }
  await supervising(t, { entry: program(OBEYS), ...HANG, spawn }, async (supervisor, { of, exits }) => {
    await supervisor.start()
    const [worker] = supervisor.workers
    const detach = await pause(worker!)
    await stays(supervisor, 1)
    detach()
    t.regex(await worker!.channel.request<string>('url'), /^ws:/)
    t.deepEqual(of(1), ['starting', 'ready'])
    worker!.channel.send('hang')
    await until(() => exits.length > 0, 'its end')
    t.deepEqual(exits, ['0/1 SIGKILL'])
  })
})

testInCi('when the debugger has gone, the worker has all of hangTimeout to be heard of', async t => {
  const options = { hangTimeout: 4000, spawn: { execArgv: ['--inspect=0'] } }
  await supervising(t, { entry: program(OBEYS), ...options }, async (supervisor, { of }) => {
    await supervisor.start()
    const [worker] = supervisor.workers
    const detach = await pause(worker!)
    // Near the end of the second hangTimeout
    await passes(supervisor, 7400)
    await suspend(worker!.pid!)
    detach()
    await passes(supervisor, 800)
    resume(worker!.pid!)
    t.regex(await worker!.channel.request<string>('url'), /^ws:/)
    t.deepEqual(of(1), ['starting', 'ready'])
  })
})

testInCi('--inspect-brk: readyTimeout does not run before a debugger has come', async t => {
  const spawns = [
    { execArgv: ['--inspect-brk=0'] },
    { execArgv: [], env: { ...process.env, NODE_OPTIONS: '--inspect-brk=0' } }
  ]
  const started = spawns.map(spawn =>
    supervising(t, { entry: program(OBEYS), readyTimeout: 200, spawn }, async supervisor => {
      const started = supervisor.start().catch(error => error)
      await until(() => supervisor.workers.length === 1, 'the worker')
      await stays(supervisor, 1, 1000)
      t.is(supervisor.workers[0]!.state, 'starting')
      await supervisor.kill()
      t.like(await started, { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' })
    })
  )
  await allOf(started)
})

testInCiIf(missing('/usr/bin/strace', 'strace'), 'a worker that is traced (ptrace) is not hung', async t => {
  await supervising(t, { entry: program(OBEYS), ...HANG }, async (supervisor, { exits }) => {
    await supervisor.start()
    const [worker] = supervisor.workers
    const tracer = spawn('/usr/bin/strace', ['-e', 'trace=none', '-p', `${worker!.pid}`], { stdio: 'ignore' })
    await until(() => isTraced(worker!.pid!), 'the tracer')
    worker!.channel.send('hang')
    await stays(supervisor, 1)
    tracer.kill('SIGKILL')
    await once(tracer, 'exit')
    await until(() => exits.length > 0, 'its end')
    t.deepEqual(exits, ['0/1 SIGKILL'])
  })
})

testInCi("a missing entry, a folder, a file that can't be read, too many listeners: errors that say so", async t => {
  const folder = temporaryPath('folder')
  mkdirSync(folder)
  for (const [entry, says] of [
    ['/nowhere/worker.js', /program \/nowhere\/worker\.js does not exist/],
    [folder, /is a folder without package\.json or index\.js/],
    [new URL('file:///nowhere/at/all.mjs'), /program \/nowhere\/at\/all\.mjs does not exist/],
    [`${folder}/missing.js`, /missing\.js does not exist/],
    ['relative.js', /relative\.js does not exist/]
  ] as const)
    await supervising(t, { entry }, async supervisor => {
      await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY', message: says })
    })
  const secret = program(OBEYS)
  chmodSync(secret, 0o600)
  chmodSync(dirname(secret), 0o755)
  await supervising(t, { entry: secret, spawn: { uid: 65534, gid: 65534 } }, async supervisor => {
    const message = new RegExp(`user 65534 may not read ${secret} \\(exited with code 1\\)`)
    await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY', message })
  })
  const listeners = Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`l${index}`, { port: 0 }]))
  await t.throwsAsync(
    supervising(t, { listeners }, async () => {}),
    {
      code: 'ERR_PASSFD_INVALID_ARGUMENT',
      message: 'options.listeners must be an object with 1 to 64 listeners by name; it is one with 65.'
    }
  )
})
