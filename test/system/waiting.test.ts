/** Connections that wait for a worker that has ended, goes, or never comes are served by others. */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { ExecutionContext } from 'ava'
import { native } from '../../src/os/native.ts'
import { PortGroup } from '../../src/os/port-group.ts'
import { isFull, times } from '../helpers/full.ts'
import { inC } from '../helpers/in-c.ts'
import { BALANCES, type Balance, fixture, nameOf, supervise } from '../helpers/prefork.ts'
import { gone, resume, stopped, suspend } from '../helpers/processes.ts'
import { missing } from '../helpers/programs.ts'
import { test, testIf, testInCi, until } from '../helpers/test.ts'
import { connectClients, queues } from '../helpers/waiting-clients.ts'

const CLIENTS = 40
const PYTHON = '/usr/bin/python3'
const ROUND_ROBIN: Balance = { dispatch: 'round-robin' }
const total = (numbers: readonly number[]): number => numbers.reduce((sum, one) => sum + one, 0)

/** A test of one of the balances; a normal run takes it for `chosen` only. */
function testOf(balance: Balance, chosen: Balance, title: string, body: (t: ExecutionContext) => Promise<void>): void {
  if (isFull || nameOf(balance) === nameOf(chosen)) testInCi(title, body)
}

for (const balance of BALANCES) {
  const dispatched = typeof balance === 'object'
  const allWait = async (port: number): Promise<void> =>
    until(() => total(queues(port)) === CLIENTS, 'the clients to wait')

  // A normal run scales with one of the balances
  const scales = isFull || balance === 'per-worker'
  const declare = scales ? test : testInCi
  declare(
    `trap 33: ${nameOf(balance)}: who waits for a ${scales ? 'worker that scale() removes, then for a ' : ''}killed one is served by the one that lives`,
    async t => {
      const supervisor = await supervise(t, { workers: scales ? 3 : 2, balance, restartDelay: 60_000 })
      const [killed, living, removed] = (await supervisor.workers()).map(({ pid }) => pid) as [number, number, number]
      if (scales) {
        await suspend(removed)
        const clients = await connectClients(supervisor.port, CLIENTS)
        if (balance === 'per-worker') t.true(total(queues(supervisor.port)) > 0)
        const scaled = supervisor.ask('scale', 2)
        if (dispatched) resume(removed)
        const answers = await clients.answers()
        t.deepEqual(
          answers.filter(answer => !(dispatched ? ['0', '1', '2'] : ['0', '1']).includes(answer)),
          [],
          'while it is removed'
        )
        if (!dispatched) resume(removed)
        await scaled
        await gone(removed)
        // Its place in the port's group is still there, and served
        const later = await (await connectClients(supervisor.port, CLIENTS)).answers()
        t.deepEqual(
          [...new Set(later)].filter(answer => answer !== '0' && answer !== '1'),
          [],
          'when it is removed'
        )
      }
      await suspend(killed, living)
      const clients = await connectClients(supervisor.port, CLIENTS)
      await allWait(supervisor.port)
      process.kill(killed, 'SIGKILL')
      resume(living)
      t.deepEqual(await clients.answers(), Array(CLIENTS).fill('1'), 'when one is killed')
      t.is(await supervisor.end(), '')
    }
  )

  testOf(
    balance,
    ROUND_ROBIN,
    `trap 33: ${nameOf(balance)}: who waits when all workers are killed is served by those that come`,
    async t => {
      const supervisor = await supervise(t, { workers: times(1, 2), balance, restartDelay: 1 })
      const pids = (await supervisor.workers()).map(({ pid }) => pid)
      await suspend(...pids)
      const clients = await connectClients(supervisor.port, CLIENTS)
      await allWait(supervisor.port)
      for (const pid of pids) process.kill(pid, 'SIGKILL')
      t.deepEqual(
        (await clients.answers()).filter(answer => !/^[01]$/.test(answer)),
        []
      )
      t.is(await supervisor.end(), '')
    }
  )
}

for (const balance of BALANCES)
  testOf(
    balance,
    'shared',
    `trap 33: ${nameOf(balance)}: who waits is served when all are told to stop at once, as systemd does it`,
    async t => {
      const supervisor = await supervise(t, { workers: 2, balance })
      const pids = (await supervisor.workers()).map(({ pid }) => pid)
      await suspend(...pids)
      const clients = await connectClients(supervisor.port, CLIENTS)
      await until(() => total(queues(supervisor.port)) === CLIENTS, 'the clients to wait')
      const answers = clients.answers()
      for (const pid of pids) process.kill(pid, 'SIGTERM')
      const ended = supervisor.end()
      await t.throwsAsync(supervisor.ask('address', 'http')) // its listeners are closed
      resume(...pids)
      t.deepEqual(
        (await answers).filter(answer => !/^[01]$/.test(answer)),
        []
      )
      t.is(await ended, '')
      t.deepEqual(
        supervisor.ended.map(({ code }) => code),
        [0, 0]
      )
    }
  )

test('trap 33: who waits in a listener that is lent right before the end is served', async t => {
  const supervisor = await supervise(t, { workers: 2, restartDelay: 60_000 })
  const [killed, living] = (await supervisor.workers()).map(({ pid }) => pid) as [number, number]
  await suspend(killed, living)
  const clients = await connectClients(supervisor.port, CLIENTS)
  t.true(queues(supervisor.port).every(count => count > 0))
  const answers = clients.answers()
  process.kill(killed, 'SIGKILL')
  await supervisor.exit(killed)
  const ended = supervisor.end()
  await t.throwsAsync(supervisor.ask('address', 'http'))
  resume(living)
  t.deepEqual(await answers, Array(CLIENTS).fill('1'))
  t.is(await ended, '')
})

for (const balance of BALANCES)
  testOf(
    balance,
    ROUND_ROBIN,
    `${nameOf(balance)}: who comes to a worker that ends by its own wish, and has not said so, is served`,
    async t => {
      const entry = fixture('prefork-pausing.mjs')
      const supervisor = await supervise(t, { entry, workers: 2, balance, restartDelay: times(60_000, 1) })
      const { pid } = supervisor.serving[0]!
      process.kill(pid, 'SIGUSR2')
      await stopped(pid)
      const clients = await connectClients(supervisor.port, CLIENTS)
      // Half of them are for the one that is about to end
      if (typeof balance === 'object')
        await until(() => total(queues(supervisor.port)) === CLIENTS / 2, 'the other half to be accepted')
      resume(pid)
      t.like(await supervisor.exit(pid), { code: 0, signal: null })
      t.deepEqual(
        (await clients.answers()).filter(answer => !/^[01]$/.test(answer)),
        []
      )
      t.is(await supervisor.end(), '')
    }
  )

test('trap 33: a listener that is closed resets who waits in it, one that is kept does not', async t => {
  const group = await PortGroup.open({ host: '127.0.0.1', port: 0 })
  const [closed, kept] = [group.open(), group.open()]
  const { port } = group
  const errors: (string | undefined)[] = []
  const sockets = Array.from({ length: 100 }, () =>
    connect(port, '127.0.0.1').on('error', error => void errors.push((error as NodeJS.ErrnoException).code))
  )
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  const waiting = queues(port)
  t.is(total(waiting), 100)
  t.true(waiting.every(count => count > 0))
  native.close(closed)
  const [left] = queues(port) as [number]
  await until(() => errors.length === 100 - left, 'the resets')
  t.deepEqual([...new Set(errors)], ['ECONNRESET'])
  const server = createServer(socket => socket.end()).listen({ fd: kept })
  native.release(kept)
  await Promise.all(sockets.map(socket => socket.resume().closed || once(socket, 'close')))
  t.is(errors.length, 100 - left)
  server.close()
  await once(server, 'close')
})

test('trap 34: a listener that was lent to a worker that does not serve it, or is not ready, is served by others', async t => {
  const entry = fixture('prefork-picky.mjs')
  const supervisor = await supervise(t, { entry, workers: 2, readyTimeout: 0, killTimeout: 100 })
  const all = Array(CLIENTS).fill('0')
  const slots = times(3, 4)
  t.deepEqual(await (await connectClients(supervisor.port, CLIENTS)).answers(), all)
  const scaled = supervisor.ask('scale', slots).catch(({ message }) => message)
  await until(() => queues(supervisor.port).length === slots, 'all listeners')
  const clients = await connectClients(supervisor.port, CLIENTS)
  await until(() => total(queues(supervisor.port)) === 0, 'somebody to accept them')
  t.deepEqual(await clients.answers(), all)
  await supervisor.end()
  t.regex((await scaled) as string, /^ERR_PASSFD_WORKER_NOT_READY|^ERR_PASSFD_SUPERVISOR_STOPPED/)
})

const FOREIGN: [language: string, reason: string | undefined, command: () => string[]][] = [
  ['C', missing('/usr/bin/cc', 'build-essential'), () => [inC('prefork-worker')]],
  ['Python', missing(PYTHON, 'python3'), () => [PYTHON, fixture('../../examples/python/prefork_worker.py')]]
]

for (const [language, reason, command] of isFull ? FOREIGN : FOREIGN.slice(0, 1))
  testIf(
    reason,
    `trap 34: ${language}: the listener of a removed slot gets no more clients if nobody can be lent it`,
    async t => {
      const supervisor = await supervise(t, { command: command(), workers: 4, balance: 'per-worker' })
      for (const size of [2, 1, 3, 1]) {
        await supervisor.ask('scale', size)
        t.is(queues(supervisor.port).length, size)
        const pids = (await supervisor.workers()).map(({ pid }) => pid)
        const answers = await (await connectClients(supervisor.port, CLIENTS)).answers()
        t.deepEqual(
          answers.filter(answer => !pids.includes(Number.parseInt(answer, 10))),
          []
        )
      }
      t.is(await supervisor.end(), '')
    }
  )
