/** What becomes of processes: those that crash at once, those whose supervisor is killed, and very many of them. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { isFull, times } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { BALANCES, fixture, nameOf, startSupervisor } from '../helpers/prefork.ts'
import { gone, resume, suspend, zombies } from '../helpers/processes.ts'
import { missing } from '../helpers/programs.ts'
import { test, testIf, until } from '../helpers/test.ts'
import { connectClients, queues } from '../helpers/waiting-clients.ts'

const CLIENTS = 20
const PYTHON = '/usr/bin/python3'
const CC = '/usr/bin/cc'

/** The pids of the fixture prefork-crashes that were started. */
function startsIn(log: string): number[] {
  return readFileSync(log, 'latin1').trim().split('\n').map(Number)
}

test("trap 35: workers that crash at boot are no spawn storm, no zombies, and nobody else's child is touched", async t => {
  const log = temporaryPath('starts')
  const entry = fixture('prefork-crashes.mjs')
  const supervisor = await startSupervisor(t, { entry, workers: 2, spawn: { args: [log, '2'] } })
  const [, killed] = (await supervisor.workers()).map(({ pid }) => pid)
  process.kill(killed!, 'SIGKILL')
  const finish = temporaryPath('finish')
  const other = supervisor.ask<number>('other', 'sh', '-c', `while [ ! -e ${finish} ]; do sleep 0.05; done; exit 7`)
  const others: Promise<number>[] = []
  const began = performance.now()
  for (let crashes = 0; crashes < 3; crashes++) {
    others.push(supervisor.ask<number>('other', 'sh', '-c', 'exit 5'))
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
  writeFileSync(finish, '')
  t.is(await other, 7)
  t.deepEqual(await Promise.all(others), [5, 5, 5])
  t.deepEqual(zombies(supervisor.pid), [])
  t.deepEqual(await (await connectClients(supervisor.port, CLIENTS)).answers(), Array(CLIENTS).fill('0'))
  t.is(await supervisor.end(), '')
})

for (const balance of isFull ? BALANCES : BALANCES.slice(1))
  test(`trap 36: ${nameOf(balance)}: the workers of a killed supervisor serve who is there, and end`, async t => {
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

test('trap 36: a worker that hangs when its supervisor is killed ends, too', async t => {
  const supervisor = await startSupervisor(t, { workers: 2, stopTimeout: 300, killTimeout: 300 })
  const pids = (await supervisor.workers()).map(({ pid }) => pid)
  t.deepEqual(await (await connectClients(supervisor.port, 1, '/hang')).answers(), ['hangs'])
  supervisor.running.child.kill('SIGKILL')
  await Promise.all(pids.map(gone))
  await supervisor.running.exit
  await bindAgain(supervisor.port)
})

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
async function reloaded(t: ExecutionContext, options: { workers: number }, times: number): Promise<number> {
  const supervisor = await startSupervisor(t, options)
  await supervisor.ask('reload') // what is opened once is open then
  const settled = async (): Promise<number[]> => {
    for (;;) {
      const [open, held, pending] = await supervisor.ask<[number, number, number]>('open')
      if (pending === 0) return [open, held]
    }
  }
  const before = await settled()
  for (let i = 1; i < times; i++) await supervisor.ask('reload')
  t.deepEqual(await settled(), before)
  t.deepEqual(zombies(supervisor.pid), [])
  t.is((await supervisor.workers()).length, options.workers)
  t.is(await supervisor.end(), '')
  t.deepEqual(
    supervisor.ended.filter(({ code }) => code !== 0),
    []
  )
  return supervisor.ended.length
}

const RELOADS_IN_C = times(2, 39)
const RELOADS_IN_NODE = times(1, 5)
const IN_C = 12 * (RELOADS_IN_C + 1)
const NODES = times(1, 4)
const IN_NODE = NODES * (RELOADS_IN_NODE + 1)

testIf(
  missing(CC, 'build-essential'),
  `${IN_C + IN_NODE} workers, one after the other: no zombie, and nothing is left open`,
  async t => {
    const worker = temporaryPath('worker')
    execFileSync(CC, ['-O1', '-o', worker, fixture('prefork-worker.c')])
    const inC = await reloaded(t, { command: [worker], workers: 12 } as { workers: number }, RELOADS_IN_C)
    const inNode = await reloaded(t, { workers: NODES }, RELOADS_IN_NODE)
    t.is(inC + inNode, IN_C + IN_NODE)
  }
)

/** Fails with EADDRINUSE if anybody has it. */
async function bindAgain(port: number): Promise<void> {
  const server = createServer().listen(port, '127.0.0.1')
  await once(server, 'listening')
  server.close()
  await once(server, 'close')
}
