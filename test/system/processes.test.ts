/** What becomes of processes: those that crash at once, those whose supervisor is killed, and very many of them. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { native } from '../../src/os/native.ts'
import { isFull, times } from '../helpers/full.ts'
import { inC } from '../helpers/in-c.ts'
import { temporaryPath } from '../helpers/path.ts'
import { BALANCES, fixture, nameOf, startSupervisor, supervise } from '../helpers/prefork.ts'
import { gone, resume, suspend, zombies } from '../helpers/processes.ts'
import { missing } from '../helpers/programs.ts'
import { openDescriptors, test, testIf, testInCi, until } from '../helpers/test.ts'
import { connectClients, queues } from '../helpers/waiting-clients.ts'

const CLIENTS = 20
const PYTHON = '/usr/bin/python3'
const CC = '/usr/bin/cc'

/** The pids of the workers that were started. */
function startsIn(log: string): number[] {
  return readFileSync(log, 'latin1').trim().split('\n').map(Number)
}

/** The kinds of workers that crash at boot from the third start on: the options of their supervisor. A start in C costs a fiftieth of one in Node. */
const CRASHING: [name: string, options: (log: string) => Record<string, unknown>][] = [
  [
    'C',
    log => {
      const script = `${log}.sh`
      const good = `starts=0; while read -r _; do starts=$((starts + 1)); done < ${log}; [ $starts -le 2 ] || exit 3`
      writeFileSync(script, `echo $$ >> ${log}\n${good}\nexec ${inC('prefork-worker')}\n`)
      return { command: ['/bin/sh', script] }
    }
  ],
  ['Node', log => ({ entry: fixture('prefork-crashes.mjs'), spawn: { args: [log, '2'] } })]
]

for (const [name, options] of isFull ? CRASHING : CRASHING.slice(0, 1))
  testIf(
    missing(CC, 'build-essential'),
    `trap 35: workers in ${name} that crash at boot are no spawn storm, no zombies, and nobody else's child is touched`,
    async t => {
      const log = temporaryPath('starts')
      const supervisor = await supervise(t, { workers: 2, ...options(log) })
      const [lives, killed] = (await supervisor.workers()).map(({ pid }) => pid)
      process.kill(killed!, 'SIGKILL')
      const other = spawn('sh', ['-c', 'read -r _; exit 7'], { stdio: ['pipe', 'ignore', 'ignore'] })
      const otherEnd = once(other, 'exit')
      const others: Promise<unknown[]>[] = []
      const began = performance.now()
      for (let crashes = 0; crashes < 3; crashes++) {
        others.push(once(spawn('sh', ['-c', 'exit 5']), 'exit'))
        await once(supervisor.events, 'exit')
      }
      while (supervisor.ended.length < 4) await once(supervisor.events, 'exit')
      // 100, 200 and 400 ms, each after the end of the one before
      const elapsed = performance.now() - began
      t.true(elapsed >= 700, `three starts within ${elapsed} ms`)
      const starts = startsIn(log)
      t.is(starts.length, 5)
      t.deepEqual(
        supervisor.ended.map(({ pid, code, signal }) => [pid, code ?? signal]),
        [[killed, 'SIGKILL'], ...starts.slice(2).map(pid => [pid, 3])]
      )
      other.stdin.end('\n')
      t.deepEqual(await otherEnd, [7, null])
      t.deepEqual(await Promise.all(others), Array(3).fill([5, null]))
      t.deepEqual(zombies(process.pid), [])
      const answers = await (await connectClients(supervisor.port, CLIENTS)).answers()
      t.deepEqual(answers, Array(CLIENTS).fill(name === 'C' ? `${lives}\n` : '0'))
      t.is(await supervisor.end(), '')
    }
  )

// A person's run has a shared listener's in load/stop.test.ts
for (const balance of isFull ? BALANCES : BALANCES.slice(1)) {
  const declare = balance === 'shared' ? testInCi : test
  declare(`trap 36: ${nameOf(balance)}: the workers of a killed supervisor serve who is there, and end`, async t => {
    const supervisor = await startSupervisor(t, { workers: 2, balance })
    const { port } = supervisor
    const pids = (await supervisor.workers()).map(({ pid }) => pid)
    const slow = connect(port, '127.0.0.1')
    slow.write('GET /slow?500 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n')
    let text = `${(await once(slow, 'data'))[0]}` // its head: it is in flight
    slow.on('data', part => {
      text += part
    })
    await suspend(...pids)
    const waiting = (): number => queues(port).reduce((sum, one) => sum + one)
    const clients = await connectClients(port, CLIENTS)
    await until(() => waiting() === CLIENTS, 'the clients to wait')
    supervisor.running.child.kill('SIGKILL')
    await once(supervisor.running.child, 'exit')
    resume(...pids)
    const [answers] = await Promise.all([clients.answers(), once(slow, 'close')])
    t.deepEqual(
      answers.filter(answer => !/^[01]$/.test(answer)),
      []
    )
    t.regex(text, /\r\n\r\n[01]$/)
    await Promise.all(pids.map(gone))
    await bindAgain(port)
  })
}

testIf(missing(PYTHON, 'python3'), 'trap 36: workers in Python end with a supervisor that is killed', async t => {
  const command = [PYTHON, fileURLToPath(new URL('../../examples/python/prefork_worker.py', import.meta.url))]
  const supervisor = await startSupervisor(t, { workers: 2, command })
  const pids = (await supervisor.workers()).map(({ pid }) => pid)
  t.regex((await (await connectClients(supervisor.port, 1)).answers())[0]!, new RegExp(`^(${pids.join('|')}) /`))
  supervisor.running.child.kill('SIGKILL')
  await Promise.all(pids.map(gone))
  await supervisor.running.exit
  await bindAgain(supervisor.port)
})

/** Reloads so often; afterwards all that had been open is, nothing more, and all who have ended were collected. */
async function reloaded(
  t: ExecutionContext,
  options: { workers: number; command?: string[] },
  times: number
): Promise<number> {
  const supervisor = await supervise(t, options)
  await supervisor.ask('reload') // what is opened once is open then
  const settled = async (): Promise<[open: string[], held: number]> => {
    await until(() => native.pendingCloses() === 0, 'all to be closed')
    return [[...openDescriptors().values()].map(target => target.replace(/\d+/, '…')).sort(), native.held()]
  }
  const before = await settled()
  for (let i = 1; i < times; i++) await supervisor.ask('reload')
  t.deepEqual(await settled(), before)
  t.deepEqual(zombies(process.pid), [])
  t.is((await supervisor.workers()).length, options.workers)
  t.is(await supervisor.end(), '')
  t.deepEqual(
    supervisor.ended.filter(({ code }) => code !== 0),
    []
  )
  return supervisor.ended.length
}

const WORKERS_IN_C = times(3, 12)
const RELOADS_IN_C = times(2, 39)
const IN_C = WORKERS_IN_C * (RELOADS_IN_C + 1)
const WORKERS_IN_NODE = times(1, 4)
const RELOADS_IN_NODE = times(1, 5)
const IN_NODE = WORKERS_IN_NODE * (RELOADS_IN_NODE + 1)

testIf(
  missing(CC, 'build-essential'),
  `${IN_C} workers in C, one after the other: no zombie, and nothing is left open`,
  async t => {
    t.timeout(600_000)
    const options = { command: [inC('prefork-worker')], workers: WORKERS_IN_C }
    t.is(await reloaded(t, options, RELOADS_IN_C), IN_C)
  }
)

testInCi(`${IN_NODE} workers in Node, one after the other: no zombie, and nothing is left open`, async t => {
  t.is(await reloaded(t, { workers: WORKERS_IN_NODE }, RELOADS_IN_NODE), IN_NODE)
})

/** Fails with EADDRINUSE if anybody has it. */
async function bindAgain(port: number): Promise<void> {
  const server = createServer().listen(port, '127.0.0.1')
  await once(server, 'listening')
  server.close()
  await once(server, 'close')
}
