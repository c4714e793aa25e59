/** A worker whose event loop is blocked while everything ends: the port is free at once, or when the docs say so. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as later } from 'node:timers/promises'
import { isFull, times } from '../helpers/full.ts'
import { BALANCES, nameOf, type Supervised, startSupervisor, supervise } from '../helpers/prefork.ts'
import { gone, isEnding, lives } from '../helpers/processes.ts'
import { test } from '../helpers/test.ts'
import { connectClients } from '../helpers/waiting-clients.ts'

const LONG = { stopTimeout: 60_000, killTimeout: 60_000 }
const SHORT = { stopTimeout: 500, killTimeout: 500 }

/** Blocks the loop of one worker; returns its pid. */
async function block(supervisor: Supervised): Promise<number> {
  const before = new Set((await supervisor.workers()).map(({ pid }) => pid))
  const [answer] = await (await connectClients(supervisor.port, 1, '/block')).answers()
  const pid = Number(answer)
  if (!before.has(pid)) throw new Error(`answered: ${answer}`)
  return pid
}

async function canBind(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}

/** Resolves when another program can bind the port. False: not while `pid` lives. */
async function free(port: number, pid: number): Promise<boolean> {
  while (!(await canBind(port))) {
    if (!lives(pid)) return false
    await later(5)
  }
  return lives(pid) && !isEnding(pid)
}

for (const balance of BALANCES) {
  test(`${nameOf(balance)}, stop(): the port is free although a worker is blocked`, async t => {
    const supervisor = await supervise(t, { workers: times(1, 2), balance, hangTimeout: 0, ...LONG })
    const blocked = await block(supervisor)
    const stopped = supervisor.ask('stop')
    t.true(await free(supervisor.port, blocked))
    process.kill(blocked, 'SIGKILL')
    await stopped
    await supervisor.end()
  })

  // If the supervisor alone accepts, its end closes the port: processes.test.ts has that
  if (!isFull && typeof balance === 'object') continue
  test(`${nameOf(balance)}, a killed supervisor: the port is free ${balance === 'per-worker' ? 'when the kernel has ended the blocked worker' : 'although a worker is blocked'}`, async t => {
    const limits = balance === 'per-worker' ? SHORT : LONG
    const supervisor = await startSupervisor(t, { workers: 2, balance, hangTimeout: 0, ...limits })
    const pids = (await supervisor.workers()).map(({ pid }) => pid)
    const blocked = await block(supervisor)
    supervisor.running.child.kill('SIGKILL')
    if (balance === 'per-worker') {
      t.false(await free(supervisor.port, blocked), 'its own lane is its own')
      // Trap 36: a worker that hangs when its supervisor is killed ends, too
      await Promise.all(pids.map(gone))
      // The process's threads end one after the other, and the last of them closes its descriptors
      while (!(await canBind(supervisor.port))) await later(5)
    } else {
      t.true(await free(supervisor.port, blocked))
      process.kill(blocked, 'SIGKILL')
    }
    await supervisor.running.exit
  })
}
