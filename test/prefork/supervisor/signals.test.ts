/** run() in a process of its own, and the signals that it obeys. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import * as http from 'node:http'
import { text } from 'node:stream/consumers'
import type { ExecutionContext } from 'ava'
import { Supervisor, type SupervisorOptions } from '../../../src/prefork/index.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { type Running, startFixture } from '../../helpers/process.ts'
import { fixture, KINDS, type Kind, light, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

interface Told {
  kill(signal: NodeJS.Signals): void
  /** All of its process group. */
  killGroup(signal: NodeJS.Signals): void
  /** Ends with this signal what the worker does, if it has not ended. */
  killWorker(id: number, signal: NodeJS.Signals): void
  /** All it has told since the last time, until a line that begins with `last`, or ends with `end`. Without pids and ports. */
  until(last: string, end?: string): Promise<string[]>
  /** A request whose answer has begun and ends when its worker gets SIGUSR2. */
  slow(): Promise<{ rest: Promise<string> }>
  exit: Promise<{ code: number | null; signal: string | null; stderr: string }>
}

type Options = Partial<SupervisorOptions> & { signals?: boolean; silent?: boolean; most?: number }

/** A process with one supervisor. */
function run(options: Options = {}): Told {
  return told(startFixture('prefork-runs', [whole(options)]))
}

interface Turn {
  run(options?: Options): Told
  end(): Promise<void>
}

/** A process with one supervisor after the other, and a process group. It ends after the last of them if nothing of any is left. */
function runInTurn(t: ExecutionContext): Turn {
  const running = startFixture('prefork-runs', [], { detached: true })
  t.teardown(() => void running.child.kill('SIGKILL'))
  return {
    run: options => {
      running.child.stdin!.write(`${whole(options)}\n`)
      return told(running)
    },
    end: async () => {
      running.child.stdin!.end()
      t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
    }
  }
}

function whole(options: Options = {}): string {
  const entry = options.command === undefined ? { entry: `${fixture('obeys')}` } : {}
  return JSON.stringify({ ...entry, listeners: { http: { port: 0, host: '127.0.0.1' } }, ...options })
}

function told({ child, line, exit }: Running): Told {
  const pids = new Map<number, number>()
  let port = 0
  return {
    exit,
    kill: signal => process.kill(child.pid!, signal),
    killGroup: signal => process.kill(-child.pid!, signal),
    killWorker: (id, signal) => {
      try {
        process.kill(pids.get(id)!, signal)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
      }
    },
    until: async (last, end) => {
      const lines: string[] = []
      const isLast = (line: string): boolean => line.startsWith(last) || (end !== undefined && line.endsWith(end))
      while (lines.length === 0 || !isLast(lines.at(-1)!)) {
        const [start = '', id, pid, at] = /^\d+\/(\d+) \w+(?= (\d+) (\d+)$)|.*/.exec(await line())!
        if (pid !== undefined) pids.set(Number(id), Number(pid))
        if (Number(at) > 0) port = Number(at)
        lines.push(start)
      }
      return lines
    },
    slow: async () => {
      const request = http.get({ port, host: '127.0.0.1', path: '/slow', agent: false })
      const [response] = await once(request, 'response')
      return { rest: text(response).catch(({ code }) => code) }
    }
  }
}

test('run() in a process obeys HUP, TTIN, TTOU, INT, TERM and QUIT, and Ctrl-C; then the process ends, as nothing is left', async t => {
  const turn = runInTurn(t)
  for (const kind of KINDS) await changesTheWorkers(t, turn, kind)
  await termLetsRequestsBeFinished(t, turn)
  for (const kind of KINDS) await secondSignalEndsAllAtOnce(t, turn, kind)
  for (const kind of KINDS) await quitEndsAllAtOnce(t, turn, kind)
  for (const kind of KINDS) await termDuringTheStart(t, turn, kind)
  for (const kind of KINDS) await termDuringAReload(t, turn, kind)
  await hupsDuringTheStartReloadOnceAfterIt(t, turn)
  await secondTermEndsLameDuck(t, turn)
  for (const kind of KINDS) await ctrlCReachesTheSupervisorOnly(t, turn, kind)
  await turn.end()
})

/** HUP reloads, TTIN and TTOU add and remove a worker, INT stops; what fails after a signal is told, and changes nothing. */
async function changesTheWorkers(t: ExecutionContext, turn: Turn, kind: Kind): Promise<void> {
  const entry = program(kind.waits())
  const supervisor = turn.run(kind.options(entry))
  t.deepEqual(await supervisor.until('0/1 ready'), ['signals 111111', '0/1 starting', '0/1 ready'])
  supervisor.kill('SIGHUP')
  t.deepEqual(await supervisor.until('0/1 ended'), [
    '0/2 starting',
    '0/2 ready',
    '0/1 stopping',
    '0/1 exited',
    '0/1 ended 0'
  ])
  supervisor.kill('SIGTTIN')
  t.deepEqual(await supervisor.until('1/3 ready'), ['1/3 starting', '1/3 ready'])
  supervisor.kill('SIGTTOU')
  t.deepEqual(await supervisor.until('1/3 ended'), ['1/3 stopping', '1/3 exited', '1/3 ended 0'])
  supervisor.kill('SIGTTOU') // there is always one
  program(kind.fails(3), entry)
  supervisor.kill('SIGHUP')
  t.is((await supervisor.until('ERR')).at(-1), 'ERR_PASSFD_WORKER_NOT_READY')
  supervisor.kill('SIGTTIN')
  t.is((await supervisor.until('ERR')).at(-1), 'ERR_PASSFD_WORKER_NOT_READY')
  supervisor.kill('SIGINT')
  t.deepEqual(await supervisor.until('stopped'), ['0/2 stopping', '0/2 exited', '0/2 ended 0', 'stopped  000000'])
}

async function hupsDuringTheStartReloadOnceAfterIt(t: ExecutionContext, turn: Turn): Promise<void> {
  const go = temporaryPath()
  const supervisor = turn.run({
    command: ['/bin/sh', '-c', `until [ -e ${go} ]; do sleep 0.01; done; exec ${light()}`]
  })
  await supervisor.until('0/1 starting')
  supervisor.kill('SIGHUP')
  supervisor.kill('SIGHUP')
  supervisor.kill('SIGTTIN') // fails, and so tells that the others have come
  t.is((await supervisor.until('ERR')).at(-1), 'ERR_PASSFD_SUPERVISOR_STATE')
  writeFileSync(go, '')
  t.deepEqual(await supervisor.until('0/1 ended'), [
    '0/1 ready',
    '0/2 starting',
    '0/2 ready',
    '0/1 stopping',
    '0/1 exited',
    '0/1 ended 0'
  ])
  supervisor.kill('SIGINT')
  t.deepEqual(await supervisor.until('stopped'), ['0/2 stopping', '0/2 exited', '0/2 ended 0', 'stopped  000000'])
}

async function termLetsRequestsBeFinished(t: ExecutionContext, turn: Turn): Promise<void> {
  const supervisor = turn.run()
  await supervisor.until('0/1 ready')
  const { rest } = await supervisor.slow()
  supervisor.kill('SIGTERM')
  await supervisor.until('0/1 stopping')
  supervisor.killWorker(1, 'SIGUSR2')
  t.regex(await rest, /^0 1 \d+$/)
  t.deepEqual(await supervisor.until('stopped'), ['0/1 exited', '0/1 ended 0', 'stopped  000000'])
}

async function secondSignalEndsAllAtOnce(t: ExecutionContext, turn: Turn, kind: Kind): Promise<void> {
  const inNode = kind.name === 'Node'
  const supervisor = turn.run(inNode ? {} : kind.options(program(kind.isDeaf)))
  await supervisor.until('0/1 ready')
  const slow = inNode ? await supervisor.slow() : undefined
  supervisor.kill('SIGINT')
  t.deepEqual(await supervisor.until('0/1 stopping'), ['0/1 stopping'])
  supervisor.kill('SIGINT')
  t.deepEqual(await supervisor.until('stopped'), ['0/1 exited', '0/1 ended SIGKILL', 'stopped  000000'])
  if (inNode) t.is(await slow!.rest, 'ECONNRESET')
}

async function quitEndsAllAtOnce(t: ExecutionContext, turn: Turn, kind: Kind): Promise<void> {
  const supervisor = turn.run(kind.options(program(kind.isDeaf)))
  await supervisor.until('0/1 ready')
  supervisor.kill('SIGQUIT')
  t.deepEqual(await supervisor.until('stopped'), ['0/1 exited', '0/1 ended SIGKILL', 'stopped  000000'])
}

async function termDuringTheStart(t: ExecutionContext, turn: Turn, kind: Kind): Promise<void> {
  const supervisor = turn.run(kind.options(program(kind.hesitates)))
  await supervisor.until('0/1 starting')
  supervisor.kill('SIGTERM')
  const lines = await supervisor.until('stopped')
  t.deepEqual([...lines.slice(0, 2), lines.at(-1)], ['0/1 stopping', '0/1 exited', 'stopped  000000'])
}

/** A stop that was asked for is no failure of the reload. */
async function termDuringAReload(t: ExecutionContext, turn: Turn, kind: Kind): Promise<void> {
  const entry = program(kind.waits())
  const supervisor = turn.run(kind.options(entry))
  await supervisor.until('0/1 ready')
  program(kind.hesitates, entry)
  supervisor.kill('SIGHUP')
  await supervisor.until('0/2 starting')
  supervisor.kill('SIGTERM')
  const lines = await supervisor.until('stopped')
  t.deepEqual(
    lines.filter(line => /^(ERR|stopped)/.test(line)),
    ['stopped  000000']
  )
}

/** And a third one would kill. */
async function secondTermEndsLameDuck(t: ExecutionContext, turn: Turn): Promise<void> {
  const supervisor = turn.run({ command: [light()], lameDuck: 60_000 })
  await supervisor.until('0/1 ready')
  supervisor.kill('SIGTERM')
  t.deepEqual(await supervisor.until('lameDuck'), ['lameDuck 60000'])
  supervisor.kill('SIGTERM')
  t.deepEqual(await supervisor.until('stopped'), ['0/1 stopping', '0/1 exited', '0/1 ended 0', 'stopped  000000'])
}

async function ctrlCReachesTheSupervisorOnly(t: ExecutionContext, turn: Turn, kind: Kind): Promise<void> {
  const dies = "process.on('SIGINT', () => process.exit(9));"
  const inNode = `${dies} const worker = await joinSupervisor({ signals: false }); await worker.ready()`
  const supervisor = turn.run(kind.name === 'Node' ? { entry: program(inNode) } : { command: [light()] })
  await supervisor.until('0/1 ready')
  // What a terminal does: to the whole process group
  supervisor.killGroup('SIGINT')
  t.deepEqual(await supervisor.until('stopped'), ['0/1 stopping', '0/1 exited', '0/1 ended 0', 'stopped  000000'])
}

for (const kind of KINDS)
  test(`${kind.name}: what nobody listens to is a warning: a burst of HUPs that fail, a crash loop, the end of the last slot`, async t => {
    const entry = program(kind.waits())
    const supervisor = run({ ...kind.options(entry), silent: true, most: 4, admin: temporaryPath('admin') })
    await supervisor.until(kind.name === 'Node' ? 'ERR_PASSFD_UNSERVED' : '0/1 ready')
    program(kind.fails(3), entry)
    for (let count = 0; count < 10; count++) supervisor.kill('SIGHUP')
    const told = await supervisor.until('ERR')
    // The second reload of the burst may begin before the failure of the first one is reported
    t.deepEqual(
      told.filter(line => !line.startsWith('0/3 ')),
      ['0/2 starting', '0/2 exited', 'ERR_PASSFD_WORKER_NOT_READY']
    )
    program(kind.waits(4), entry)
    supervisor.killWorker(1, 'SIGKILL')
    const rest: string[] = []
    while (!rest.at(-1)?.startsWith('stopped')) {
      rest.push(...(await supervisor.until('stopped', ' ready')))
      const [, id] = /^0\/(\d+) ready$/.exec(rest.at(-1)!) ?? []
      if (id !== undefined) supervisor.killWorker(Number(id), 'SIGUSR2')
    }
    const errors = rest.filter(line => line.startsWith('ERR'))
    // The second reload of the burst has run the old program or the new one
    if (errors[0] === 'ERR_PASSFD_WORKER_NOT_READY') errors.shift()
    t.deepEqual(errors, ['ERR_PASSFD_CRASH_LOOP', 'ERR_PASSFD_WORKERS_DIE'])
    t.is(rest.at(-1), 'stopped ERR_PASSFD_WORKERS_DIE 000000')
    t.regex((await supervisor.exit).stderr, /the newest one because it exited with code 4\./)
  })

test('signals: false leaves them alone; the workers end after their supervisor', async t => {
  const supervisor = run({ signals: false })
  t.deepEqual((await supervisor.until('0/1 ready')).slice(0, 1), ['signals 000000'])
  const { rest } = await supervisor.slow()
  supervisor.kill('SIGHUP')
  supervisor.killWorker(1, 'SIGUSR2')
  t.regex(await rest, /^0 1 /)
  // It comes when the worker, too, has closed its standard error
  t.deepEqual(await supervisor.exit, { code: null, signal: 'SIGHUP', stderr: '' })
})

test('run() rejects as start() does, and when nothing is left to run; then nobody listens to signals any more', async t => {
  const heard = () => process.eventNames().filter(name => String(name).startsWith('SIG'))
  const before = heard()
  for (const kind of KINDS)
    await supervising(t, kind.options(program(kind.fails(3))), async supervisor => {
      await t.throwsAsync(supervisor.run(), { code: 'ERR_PASSFD_WORKER_NOT_READY' })
    })
  const listeners = { http: { port: 0, host: '127.0.0.1' } }
  const supervisor = new Supervisor({ command: [light()], listeners, workers: 1 })
  const running = supervisor.run()
  t.is(heard().length, before.length + 6)
  await t.throwsAsync(supervisor.run(), { code: 'ERR_PASSFD_SUPERVISOR_STATE' })
  t.is(heard().length, before.length + 6)
  await until(() => supervisor.workers[0]?.state === 'ready', 'the worker')
  await supervisor.stop()
  await running
  t.deepEqual(heard(), before)
})
