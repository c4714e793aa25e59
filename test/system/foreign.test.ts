/** Workers that are not JavaScript. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import * as http from 'node:http'
import { fileURLToPath } from 'node:url'
import { Supervisor, type SupervisorOptions, type WorkerInfo } from '../../src/prefork/index.ts'
import { inC } from '../helpers/in-c.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { zombies } from '../helpers/processes.ts'
import { missing } from '../helpers/programs.ts'
import { test, testFull, testIf, testInCi, until } from '../helpers/test.ts'

const interpreter = '/usr/bin/python3'
const example = file('../../examples/python/prefork_worker.py')
const bad = file('../fixtures/prefork-bad.py')
const withoutCompiler = missing('/usr/bin/cc', 'build-essential')

function file(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url))
}

/** A supervisor of two workers while `work` runs; afterwards every process has ended and was collected. */
async function supervised(
  command: [string, ...string[]],
  options: Partial<SupervisorOptions>,
  work: (supervisor: Supervisor, exits: Exit[]) => Promise<void>
): Promise<void> {
  const listeners = { http: { port: 0, host: '127.0.0.1' } }
  const supervisor = new Supervisor({ command, workers: 2, listeners, ...options })
  const exits: Exit[] = []
  supervisor.on('exit', ({ pid, slot }, code, signal) => exits.push({ pid, slot, how: signal ?? code }))
  try {
    await work(supervisor, exits)
  } finally {
    await supervisor.stop()
  }
  const left = zombies(process.pid)
  if (left.length > 0) throw new Error(`nobody has waited for ${left}`)
}

interface Exit {
  pid: number | undefined
  slot: number
  how: NodeJS.Signals | number | null
}

/** What a worker answers, over a connection of its own. */
function ask(where: http.RequestOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    http
      .get({ ...where, agent: false }, response => {
        let text = ''
        response.setEncoding('utf8').on('data', more => {
          text += more
        })
        response.on('end', () => resolve(text)).on('error', reject)
      })
      .on('error', reject)
  })
}

function at(supervisor: Supervisor): http.RequestOptions {
  const address = supervisor.address('http')
  return 'path' in address ? { socketPath: address.path } : { host: address.address, port: address.port }
}

const pidsOf = (supervisor: Supervisor): (number | undefined)[] => supervisor.workers.map(({ pid }) => pid)

async function replaced(supervisor: Supervisor, change: () => void): Promise<WorkerInfo> {
  const worker = once(supervisor, 'worker')
  change()
  const [info] = await worker
  return info
}

/** What every good worker does, whatever it is written in. */
function behaves(command: () => [string, ...string[]], options: () => Partial<SupervisorOptions> = () => ({})) {
  return async (t: { true: Function; is: Function; deepEqual: Function; like: Function }): Promise<void> => {
    await supervised(command(), options(), async (supervisor, exits) => {
      await supervisor.start()
      const before = pidsOf(supervisor)
      t.is(before.length, 2)
      t.deepEqual(
        supervisor.workers.map(({ state }) => state),
        ['ready', 'ready']
      )
      const answers = await Promise.all(Array.from({ length: 20 }, () => ask(at(supervisor))))
      for (const answer of answers) t.true(before.includes(Number.parseInt(answer, 10)), answer)

      const victim = supervisor.workers[1]!
      const next = await replaced(supervisor, () => process.kill(victim.pid!, 'SIGKILL'))
      t.like(next, { slot: 1, restarts: 1, state: 'ready' })
      t.deepEqual(exits, [{ pid: victim.pid, slot: 1, how: 'SIGKILL' }])
      const alive = pidsOf(supervisor)
      t.is(alive[0], before[0])
      for (let count = 0; count < 5; count++) t.true(alive.includes(Number.parseInt(await ask(at(supervisor)), 10)))

      await supervisor.reload()
      t.deepEqual(
        exits
          .slice(1)
          .map(({ pid, how }) => [pid, how])
          .toSorted(),
        alive.map(pid => [pid, 0]).toSorted()
      )
      const last = pidsOf(supervisor)
      t.true(last.every(pid => pid !== undefined && !alive.includes(pid)))
      t.true(last.includes(Number.parseInt(await ask(at(supervisor)), 10)))
      await supervisor.stop()
      t.deepEqual(
        exits.slice(3).map(({ how }) => how),
        [0, 0]
      )
    })
  }
}

// The next test has the same in Python, the one after it with a listener that all share
testFull(
  'workers in Python: serve, are replaced when killed, reloaded and stopped',
  behaves(() => [interpreter, example])
)

testInCi(
  'workers in Python, each with a listener of its own: serve, are replaced when killed, reloaded and stopped',
  behaves(
    () => [interpreter, example],
    () => ({ balance: 'per-worker' })
  )
)

testIf(
  withoutCompiler,
  'workers in C: serve, are replaced when killed, reloaded and stopped',
  behaves(() => [inC('prefork-worker')])
)

testIf(
  withoutCompiler,
  'workers in C, on a Unix socket and a port',
  behaves(
    () => [inC('prefork-worker')],
    () => ({ listeners: { other: { port: 0, host: '127.0.0.1' }, http: { path: socketPath() } } })
  )
)

test('a worker that is never ready is killed, and start() says so', t =>
  supervised([interpreter, bad, 'silent'], { readyTimeout: 300 }, async (supervisor, exits) => {
    const error = await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY' } as object)
    t.regex(error!.message, /READY=1 to NOTIFY_SOCKET within 300 ms \(readyTimeout\), so passfd killed it/)
    const [first, second] = exits
    t.is(first!.how, 'SIGKILL')
    t.regex(String(second!.how), /^SIG(KILL|TERM)$/) // its own time was over, too, or it was stopped with all the rest
  }))

test('a worker that crashes at boot: start() says how it ended', t =>
  supervised([interpreter, bad, 'crashes'], { workers: 1 }, async (supervisor, exits) => {
    await t.throwsAsync(supervisor.start(), {
      code: 'ERR_PASSFD_WORKER_NOT_READY',
      message: /exited with code 3/
    } as object)
    t.deepEqual(
      exits.map(({ how }) => how),
      [3]
    )
  }))

test("a command that isn't there: start() says so", t =>
  supervised(['passfd-no-such-program'], { workers: 1 }, async (supervisor, exits) => {
    await t.throwsAsync(supervisor.start(), {
      code: 'ERR_PASSFD_WORKER_NOT_READY',
      message: /spawn passfd-no-such-program ENOENT/
    } as object)
    t.deepEqual(exits, [{ pid: undefined, slot: 0, how: null }])
  }))

test('a worker that ignores TERM is killed when its time is over', t =>
  supervised([interpreter, bad, 'deaf'], { stopTimeout: 300, killTimeout: 100 }, async (supervisor, exits) => {
    await supervisor.start()
    const started = performance.now()
    await supervisor.stop()
    t.true(performance.now() - started >= 290)
    t.deepEqual(
      exits.map(({ how }) => how),
      ['SIGKILL', 'SIGKILL']
    )
  }))

test('a worker that says no WATCHDOG=1 any more is killed and replaced', t =>
  supervised(
    [interpreter, bad, 'hangs'],
    { workers: 1, hangTimeout: 400, heartbeat: 50 },
    async (supervisor, exits) => {
      await supervisor.start()
      const [{ pid }] = supervisor.workers as [WorkerInfo]
      const states: string[] = []
      supervisor.on('state', info => info.pid === pid && states.push(info.state))
      const next = await replaced(supervisor, () => {})
      t.not(next.pid, pid)
      t.deepEqual(states, ['hung', 'exited'])
      t.deepEqual(exits[0], { pid, slot: 0, how: 'SIGKILL' })
    }
  ))

testInCi('one that goes on saying WATCHDOG=1 is left alone, and so is one that never began', t =>
  supervised([interpreter, example], { workers: 1, hangTimeout: 7000, heartbeat: 50 }, async (supervisor, exits) => {
    await supervisor.start()
    await supervised([interpreter, bad, 'deaf'], { hangTimeout: 300, heartbeat: 50, stopTimeout: 1 }, async silent => {
      await silent.start()
      const started = performance.now()
      await until(() => performance.now() - started > 7500, 'more than both limits')
      t.is(silent.workers.length, 2)
      t.true(silent.workers.every(({ restarts, state }) => restarts === 0 && state === 'ready'))
    })
    t.deepEqual(exits, [])
  })
)

test('what systemd has told the supervisor for itself is not told its workers, not even by spawn.env', t => {
  const theirs = {
    LISTEN_FDS: '7',
    LISTEN_PIDFDID: '1',
    NOTIFY_SOCKET: '@theirs',
    WATCHDOG_PID: '1',
    WATCHDOG_USEC: '1'
  }
  const spawn = { env: { ...process.env, ...theirs, MINE: 'mine' } }
  return supervised(
    [interpreter, bad, 'deaf'],
    { workers: 1, hangTimeout: 0, stopTimeout: 1, spawn },
    async supervisor => {
      await supervisor.start()
      const [{ pid }] = supervisor.workers as [WorkerInfo]
      const entries = readFileSync(`/proc/${pid}/environ`, 'utf8')
        .split('\0')
        .map(line => line.split(/=(.*)/s))
      const environment = Object.fromEntries(entries) as Record<string, string>
      t.like(environment, { LISTEN_FDS: '1', LISTEN_FDNAMES: 'http', LISTEN_PID: `${pid}`, MINE: 'mine' })
      t.regex(environment.NOTIFY_SOCKET!, /^@passfd-/)
      for (const name of ['LISTEN_PIDFDID', 'WATCHDOG_PID', 'WATCHDOG_USEC']) t.false(name in environment, name)
    }
  )
})

test('trap 36: a supervisor killed with KILL leaves no worker behind', async t => {
  const supervisor = startFixture('prefork-foreign', [interpreter, example])
  const [port, ...pids] = (await supervisor.line()).split(' ').map(Number)
  t.true(pids.includes(Number.parseInt(await ask({ host: '127.0.0.1', port: port! }), 10)))
  supervisor.child.kill('SIGKILL')
  await supervisor.exit // and of all who have its standard output
  await t.throwsAsync(ask({ host: '127.0.0.1', port: port! }), { code: 'ECONNREFUSED' } as object)
})
