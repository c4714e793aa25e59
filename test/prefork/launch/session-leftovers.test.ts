/** The end of a worker is the end of its session: programs behind wrappers, and helpers. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as http from 'node:http'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { statOf } from '../../../src/os/process-stat.ts'
import type { Supervisor } from '../../../src/prefork/index.ts'
import { catches } from '../../../src/prefork/launch/procfs.ts'
import { SessionLeftovers } from '../../../src/prefork/launch/session-leftovers.ts'
import { startFixture } from '../../helpers/process.ts'
import { childrenOf, gone } from '../../helpers/processes.ts'
import { systemPython } from '../../helpers/programs.ts'
import { get, only, program, supervising } from '../../helpers/supervising.ts'
import { testInCi, testInCiIf, until } from '../../helpers/test.ts'

const wrapped = fileURLToPath(new URL('../../fixtures/prefork-wrapped.py', import.meta.url))
type What = 'drains' | 'once' | 'ignores' | 'default'

function commandOf(what: What, ready: 'ready' | 'silent', term: 'handles' | 'dies'): [string, ...string[]] {
  return [systemPython, wrapped, what, ready, term]
}

/** The pid of the server behind the wrapper. */
async function serverOf(supervisor: Supervisor): Promise<number> {
  const [pid, parent] = (await get(supervisor)).split(' ').map(Number)
  if (!supervisor.workers.some(worker => worker.pid === parent)) throw new Error(`${parent} is no worker`)
  return pid!
}

/** Zombies don't: to collect an orphan is the task of PID 1. */
function lives(pid: number): boolean {
  return statOf(pid)?.lives === true
}

testInCi(
  'a server behind a wrapper finishes its request at a reload, answers no new one, and is gone then',
  async t => {
    const options = { command: commandOf('drains', 'ready', 'dies'), stopTimeout: 20_000 }
    await supervising(t, options, async (supervisor, { of, exits }) => {
      await supervisor.start()
      const first = await serverOf(supervisor)
      const slow = get(supervisor, 'http', '/slow')
      let reloaded = false
      const reload = supervisor.reload().then(() => {
        reloaded = true
      })
      await until(() => of(2).includes('ready') && of(1).includes('stopping'), 'the successor')
      await gone(supervisor.workers.find(({ id }) => id === 1)!.pid!)
      for (let round = 0; round < 5; round++) await new Promise(resolve => setImmediate(resolve))
      t.false(reloaded, 'it is not ended while its server drains')
      t.true(lives(first))
      process.kill(first, 'SIGUSR2')
      t.regex(await slow, new RegExp(`^${first} `))
      await reload
      t.false(lives(first))
      t.not(await serverOf(supervisor), first)
      t.deepEqual(exits, ['0/1 SIGTERM'])
      await supervisor.stop()
    })
  }
)

testInCi(
  'behind a wrapper that forwards or handles TERM the server is not sent TERM until stopTimeout is over',
  async t => {
    // One that has been sent TERM already would be killed by a second one
    const options = { command: commandOf('default', 'ready', 'handles'), stopTimeout: 300, killTimeout: 20_000 }
    await supervising(t, options, async (supervisor, { exits }) => {
      await supervisor.start()
      const first = await serverOf(supervisor)
      const began = performance.now()
      const stopped = supervisor.stop()
      await until(() => supervisor.workers[0]?.state === 'stopping', 'it stops')
      await stopped
      const passed = performance.now() - began
      t.true(passed >= 295 && passed < 15_000, `${passed}`)
      t.false(lives(first))
      t.deepEqual(exits, ['0/1 3'])
    })
  }
)

testInCi(
  'a server that ignores TERM is killed: after a stop, after a killed wrapper (then it is replaced), after a failed start',
  async t => {
    const limits = { stopTimeout: 100, killTimeout: 100 }
    await supervising(t, { command: commandOf('ignores', 'ready', 'dies'), ...limits }, async (supervisor, log) => {
      await supervisor.start()
      const first = await serverOf(supervisor)
      let freed = false
      supervisor.once('exit', () => {
        freed = !lives(first)
      })
      process.kill(supervisor.workers[0]!.pid!, 'SIGKILL')
      await only(supervisor, 2)
      t.true(freed, 'the slot is free when all have ended')
      t.deepEqual(log.of(1), ['starting', 'ready', 'stopping', 'exited'])
      const second = await serverOf(supervisor)
      await supervisor.stop()
      t.false(lives(second))
      t.regex(log.exits.join(), /^0\/1 SIGKILL,0\/2 SIG(TERM|KILL)$/) // if it has not ended in 100 ms
    })
    const command = commandOf('ignores', 'silent', 'dies')
    await supervising(t, { command, readyTimeout: 400, ...limits }, async supervisor => {
      let pid = 0
      supervisor.once('state', worker => {
        pid = worker.pid!
      })
      const started = supervisor.start()
      await t.throwsAsync(started, { code: 'ERR_PASSFD_WORKER_NOT_READY', message: /READY=1/ })
      t.is(await SessionLeftovers.of(pid), undefined)
    })
  }
)

const SIGTERM = 15

/** A request whose answer has begun, and ends when its server gets SIGUSR2. */
async function beginSlow(supervisor: Supervisor): Promise<{ rest: Promise<string> }> {
  const { port } = supervisor.address('http') as { port: number }
  const [response] = await once(http.get({ port, host: '127.0.0.1', path: '/slow', agent: false }), 'response')
  return { rest: text(response).catch(({ code }) => code) }
}

testInCi(
  'a server that does not know of a reload, as TERM has killed its wrapper, answers no longer than one without a wrapper',
  async t => {
    await supervising(t, { command: commandOf('default', 'ready', 'dies'), stopTimeout: 60_000 }, async supervisor => {
      await supervisor.start()
      const first = await serverOf(supervisor)
      const began = performance.now()
      await supervisor.reload()
      t.true(performance.now() - began < 30_000)
      t.false(lives(first))
    })
  }
)

testInCi(
  'a wrapper that somebody else has sent TERM: its server finishes its request, and the successor need not wait for that',
  async t => {
    const options = { command: commandOf('drains', 'ready', 'dies'), stopTimeout: 60_000, killTimeout: 100 }
    const restart = () => ({ restart: true, delay: 0 }) as const
    await supervising(t, { ...options, restart }, async (supervisor, { of, exits }) => {
      await supervisor.start()
      const first = await serverOf(supervisor)
      const slow = await beginSlow(supervisor)
      process.kill(supervisor.workers[0]!.pid!, 'SIGTERM')
      await until(() => of(2).includes('ready'), 'the successor')
      t.deepEqual(of(1), ['starting', 'ready', 'stopping'])
      t.true(lives(first))
      process.kill(first, 'SIGUSR2')
      t.regex(await slow.rest, new RegExp(`^${first} `))
      await only(supervisor, 2)
      t.deepEqual(exits, ['0/1 SIGTERM'])
    })
  }
)

testInCi('TERM has come to all processes, and to the supervisor last: nobody gets a second one', async t => {
  const options = { command: commandOf('once', 'ready', 'dies'), stopTimeout: 60_000, killTimeout: 100 }
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const first = await serverOf(supervisor)
    const slow = await beginSlow(supervisor)
    process.kill(first, 'SIGTERM')
    await until(() => !catches(first, SIGTERM), 'its handler')
    process.kill(supervisor.workers[0]!.pid!, 'SIGTERM')
    await until(() => supervisor.workers[0]!.state === 'stopping', 'the end of the wrapper')
    const stopped = supervisor.stop()
    for (let round = 0; round < 100; round++) await new Promise(resolve => setImmediate(resolve))
    process.kill(first, 'SIGUSR2')
    t.regex(await slow.rest, new RegExp(`^${first} `))
    await stopped
    t.false(lives(first))
  })
})

/** A worker with helpers: a child, one that ignores TERM, one in a process group of its own, one in a session of its own. */
const HELPED = `
import { spawn } from 'node:child_process'
const worker = await joinSupervisor()
const helper = (script, options) => spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'], ...options })
const helpers = [
  helper('echo; exec sleep 60'),
  helper('trap "" TERM; echo; sleep 60; sleep 60'),
  spawn('bash', ['-mc', 'sleep 60 & echo; wait'], { stdio: ['ignore', 'pipe', 'ignore'] }),
  helper('echo; exec sleep 60', { detached: true })
]
await Promise.all(helpers.map(({ stdout }) => new Promise(resolve => stdout.once('data', resolve))))
worker.channel.serve(() => helpers.map(({ pid }) => pid))
await worker.ready()`

testInCi("helpers of a killed worker are ended, if they haven't left its session; leaveGroup leaves them", async t => {
  const entry = program(HELPED)
  const restart = () => ({ restart: true, delay: 60_000 }) as const
  for (const leaveGroup of [false, true])
    await supervising(t, { entry, restart, killTimeout: 100, spawn: { leaveGroup } }, async supervisor => {
      await supervisor.start()
      const [worker] = supervisor.workers
      const helpers = await worker!.channel.request<number[]>({})
      process.kill(worker!.pid!, 'SIGKILL')
      await only(supervisor)
      t.deepEqual(helpers.map(lives), leaveGroup ? [true, true, true, true] : [false, false, false, true])
      for (const pid of helpers.filter(lives)) process.kill(pid, 'SIGKILL')
      for (const pid of helpers) await gone(pid)
      const rest = await SessionLeftovers.of(worker!.pid!)
      rest?.kill()
      await rest?.end({ grace: 0, term: false, killTimeout: 0 })
    })
})

testInCi('kill() ends them at once; zombies are nobody; a number that was given anew is not touched', async t => {
  const limits = { stopTimeout: 60_000, killTimeout: 60_000 }
  await supervising(t, { entry: program(HELPED), ...limits }, async supervisor => {
    await supervisor.start()
    const [worker] = supervisor.workers
    const helpers = await worker!.channel.request<number[]>({})
    process.kill(worker!.pid!, 'SIGKILL')
    await until(() => supervisor.workers[0]?.state === 'stopping', 'the rest is ended')
    await supervisor.kill()
    t.deepEqual(helpers.map(lives), [false, false, false, true])
    process.kill(helpers[3]!, 'SIGKILL')
    await gone(helpers[3]!)
  })
  // A leader that lives is another process
  const other = spawn('sh', ['-c', 'sleep 60 & wait'], { detached: true, stdio: 'ignore' })
  await until(() => childrenOf(other.pid!).length === 1, 'its child')
  t.is(await SessionLeftovers.of(other.pid!), undefined)
  const [sleeper] = childrenOf(other.pid!)
  process.kill(-other.pid!, 'SIGKILL')
  await once(other, 'exit')
  await gone(sleeper!) // KILL has been sent to both, and each ends in its own time
  t.is(await SessionLeftovers.of(other.pid!), undefined)
})

testInCiIf(
  process.getuid!() === 0 ? undefined : 'needs root',
  'a worker or a helper that runs as another user and may not be signalled is not waited for, and that is told',
  async t => {
    const entry = program(`
      import { spawn } from 'node:child_process'
      const worker = await joinSupervisor({ signals: false })
      const helper = spawn('sleep', ['60'], { stdio: 'ignore' })
      worker.channel.serve(({ value }) => {
        // Once the answer has left. No kernel and no supervisor ends it if this test is cut off: it ends by itself
        const end = Date.now() + 60_000
        if (value === 'hang') setImmediate(() => { while (Date.now() < end); })
        if (value === 'helper') {
          process.setgroups([])
          process.setgid(65534)
          process.setuid(65534)
        }
        return helper.pid
      })
      await worker.ready()`)
    for (const what of ['worker', 'helper']) {
      const { line, exit } = startFixture('prefork-drops', [entry, what])
      const { pid, helper, phase, warnings, exits } = JSON.parse(await line())
      t.is(phase, 'stopped', what)
      t.is(warnings.length, 1)
      t.is(warnings[0][0], 'ERR_PASSFD_NOT_ENDED')
      t.true(warnings[0][1].includes(`on running: ${what === 'worker' ? pid : helper}.`), warnings[0][1])
      t.deepEqual(exits.length, 1)
      const [code, signal, reason] = exits[0]
      t.deepEqual([code, signal], what === 'worker' ? [null, null] : [null, 'SIGKILL'])
      t.regex(reason, what === 'worker' ? /^it runs as another user, .*\(EPERM\)$/ : /^it was killed by SIGKILL/)
      for (const left of [pid, helper]) if (lives(left)) process.kill(left, 'SIGKILL')
      t.is((await exit).code, 0)
    }
  }
)
