/** Why a worker has ended: of each way to end, and never of what its program has survived. */

import { ExitCause, type Progress } from '../../../src/prefork/supervisor/exit-cause.ts'
import { startFailure } from '../../../src/prefork/supervisor/start-worker.ts'
import { isFull } from '../../helpers/full.ts'
import { program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

/** Survives exceptions as its environment says, and then does what it is told. */
const SURVIVOR = `
const worker = await joinSupervisor()
let domain
const survive = {
  listener: () => process.on('uncaughtException', () => {}),
  rejection: () => process.on('unhandledRejection', () => {}),
  capture: () => process.setUncaughtExceptionCaptureCallback(() => {}),
  domain: async () => { domain = await import('node:domain') }
}
const order = {
  exception: () => setImmediate(() => { throw new Error('an old one') }),
  reject: () => void Promise.reject(new RangeError('an old one')),
  inDomain: () => domain.create().on('error', () => {}).run(() => setImmediate(() => { throw new Error('an old one') })),
  newer: () => setImmediate(() => { throw new TypeError('the newest') }),
  newest: () => void Promise.reject(new TypeError('the newest')),
  exit: () => process.exit(3),
  exitCode: () => { process.exitCode = 4; process.disconnect?.(); process.reallyExit(4) },
  abort: () => process.abort(),
  segv: () => process.kill(process.pid, 'SIGSEGV'),
  usr: () => process.kill(process.pid, 'SIGUSR2'),
  kill: () => process.kill(process.pid, 'SIGKILL'),
  stop: () => worker.stop(),
  hang: () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0),
  badExit: () => { process.on('exit', () => { throw new TypeError('the newest') }); setImmediate(() => process.exit(0)) },
  exitInExit: () => { process.on('exit', () => process.exit(8)); process.exit(0) },
  failsInHandler: () => { process.removeAllListeners('uncaughtException'); process.on('uncaughtException', () => { throw new Error('of the handler') }); order.newer() },
  exitsInHandler: () => { process.removeAllListeners('uncaughtException'); process.on('uncaughtException', () => process.exit(6)); order.newer() },
  strict: () => { process.removeAllListeners('uncaughtException'); process.setUncaughtExceptionCaptureCallback(null); order.newer() }
}
worker.channel.serve(async ({ value: [how, what] }) => {
  if (what === undefined) return order[how]()
  await survive[how]()
  order[what]()
  await new Promise(resolve => setTimeout(resolve, 5))
})
await worker.ready()`

/** How it survives what, what it does then, and what is told of that. */
const ALL_ENDS: readonly (readonly [survives: string, what: string, end: string, reason: RegExp, full?: 'full'])[] = [
  ['listener', 'exception', 'exit', /^it exited with code 3$/, 'full'],
  ['listener', 'exception', 'exitCode', /^it exited with code 4$/, 'full'],
  ['listener', 'reject', 'abort', /^it was killed by SIGABRT \(Aborted\)$/, 'full'],
  ['rejection', 'reject', 'segv', /^it was killed by SIGSEGV \(Segmentation fault\)$/, 'full'],
  ['capture', 'exception', 'kill', /^it was killed by SIGKILL \(Killed\)$/],
  ['domain', 'inDomain', 'usr', /^it was killed by SIGUSR2 \(User defined signal 2\)$/, 'full'],
  ['listener', 'exception', 'stop', /^it exited with code 0$/],
  ['listener', 'exception', 'hang', /^it has not been heard of for 6000 ms \(hangTimeout\), so passfd killed it$/],
  ['domain', 'inDomain', 'newer', /^it failed with TypeError: the newest \(exited with code 1\)$/, 'full'],
  ['rejection', 'reject', 'newer', /^it failed with TypeError: the newest \(exited with code 1\)$/],
  ['domain', 'inDomain', 'newest', /^it failed with TypeError: the newest \(exited with code 1\)$/],
  ['domain', 'inDomain', 'badExit', /^it failed with TypeError: the newest \(exited with code \d\)$/],
  ['listener', 'exception', 'exitInExit', /^it exited with code 8$/],
  ['listener', 'exception', 'failsInHandler', /^it failed with TypeError: the newest \(exited with code 7/],
  ['listener', 'exception', 'exitsInHandler', /^it failed with TypeError: the newest \(exited with code 6\)$/],
  ['capture', 'exception', 'strict', /^it failed with TypeError: the newest \(exited with code 1\)$/]
]

/** An end by another code or signal, or the same after another survival, is of a full run. */
const ENDS = ALL_ENDS.filter(([, , , , full]) => full === undefined || isFull)

testInCi('the reason is of this end, not an exception that the program has survived', async t => {
  const restart = () => ({ restart: true, delay: 100_000 }) as const
  const limits = { hangTimeout: 6000, stopTimeout: 20_000, killTimeout: 300 }
  const options = { entry: program(SURVIVOR), workers: ENDS.length, restart, ...limits }
  await supervising(t, options, async supervisor => {
    const reasons: (string | undefined)[] = []
    supervisor.on('exit', ({ slot, reason }) => {
      reasons[slot] = reason
    })
    await supervisor.start()
    for (const { slot, channel } of supervisor.workers) {
      const [survives, what, end] = ENDS[slot]!
      void channel.request([survives, what]).then(
        () => channel.send([end]),
        () => {} // it has ended, which is told below
      )
    }
    await until(() => reasons.filter(reason => reason !== undefined).length === ENDS.length, 'all ends', 60)
    for (const [slot, [survives, what, end, reason]] of ENDS.entries())
      t.regex(`${reasons[slot]}`, reason, `${survives}, ${what}, ${end}`)
  })
})

test('an end by the signal of a stop, or by the exit code for it, is the end of a stop and not a failure', t => {
  const ready: Progress = {
    started: true,
    booted: true,
    told: true,
    stopping: true,
    reason: undefined,
    missing: '',
    unreadable: () => undefined
  }
  const end = (
    code: number | null,
    signal: NodeJS.Signals | null,
    more: Partial<Progress> = {},
    noted: object = {}
  ) => {
    const cause = Object.assign(new ExitCause(), noted)
    const progress = { ...ready, ...more }
    return [cause.isStop({ code, signal }, progress), cause.describe({ code, signal }, progress)]
  }
  t.deepEqual(end(0, null), [true, 'it exited with code 0'])
  t.deepEqual(end(143, null), [true, 'it exited with code 143'])
  t.deepEqual(end(130, null), [true, 'it exited with code 130'])
  t.deepEqual(end(null, 'SIGTERM'), [true, 'it was killed by SIGTERM (Terminated)'])
  const early = { booted: false, reason: 'it was stopped before it was ready' }
  t.deepEqual(end(null, 'SIGTERM', early), [
    true,
    'it was stopped before it was ready (was killed by SIGTERM (Terminated))'
  ])

  const other = 'exited with code 143 (from a shell or another program in between: killed by SIGTERM (Terminated))'
  t.deepEqual(end(143, null, { told: false, stopping: false }), [false, `it ${other}`], 'nobody has told it')
  t.deepEqual(end(1, null), [false, 'it exited with code 1'], 'its own report of a failure')
  t.deepEqual(end(null, 'SIGKILL'), [false, 'it was killed by SIGKILL (Killed)'])
  t.deepEqual(end(143, null, {}, { overdue: 'it was late' }), [false, `it was late (${other})`])
  t.deepEqual(end(0, null, {}, { exception: 'it failed with Error: no' }), [
    false,
    'it failed with Error: no (exited with code 0)'
  ])
})

test('why a process could not be started', t => {
  const error = (code: string) => Object.assign(new Error(`spawn ${code}`), { code, syscall: 'spawn x' })
  const me = process.geteuid!()
  t.is(
    startFailure(error('EPERM'), { uid: 7 }),
    `user ${me} may not start processes as user 7: only root may (spawn EPERM)`
  )
  t.is(
    startFailure(error('EPERM'), { uid: 7, gid: 8 }),
    `user ${me} may not start processes as user 7 and group 8: only root may (spawn EPERM)`
  )
  t.is(startFailure(error('EPERM'), {}), 'spawn EPERM')
  t.is(startFailure(error('EAGAIN'), { uid: 7 }), 'the limit of processes is reached (spawn EAGAIN)')
  t.is(startFailure(error('ENOENT'), { uid: 7 }), 'spawn ENOENT')
})
