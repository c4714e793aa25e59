/**
 * Clients connect all the time while a supervisor with some workers stops, is killed, or loses workers: each is answered or refused. In a full run
 * each of them 50 times.
 */
import type { ExecutionContext } from 'ava'
import { isFull, times } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { type Balance, nameOf, startSupervisor, supervise, type Told } from '../../helpers/prefork.ts'
import { gone } from '../../helpers/processes.ts'
import { test, until } from '../../helpers/test.ts'
import { type Counted, type Load, type Mix, startLoad, type Target } from './clients.ts'

const entry = new URL('worker.mjs', import.meta.url).pathname
const CLIENTS = 40
const WORKERS = times(2, 3)
/** Between an answer and a client's next request, in ms: a normal run does not keep the processors busy. */
const THINK = times(20, 0)
const NONE = { answered: 0, refused: 0, reset: 0, empty: 0, timedOut: 0, wrong: 0 }
const halves: Mix[] = [
  { kind: 'close', clients: CLIENTS / 2 },
  { kind: 'parts', clients: CLIENTS / 2 }
]

interface Family {
  /** What worker.mjs serves it with. */
  server: string
  mix: Mix[]
  spec?: () => object
  tls?: 'psk'
}

const tcp: Family = { server: 'http', mix: [{ kind: 'close', clients: CLIENTS }] }
const families: Record<string, Family> = {
  TCP: tcp,
  'TCP, in parts': { server: 'http', mix: halves },
  Unix: { server: 'http', mix: halves, spec: () => ({ path: socketPath() }) },
  TLS: { server: 'https', mix: halves, tls: 'psk' },
  'HTTP/2': { server: 'http2', mix: [{ kind: 'http2', clients: CLIENTS, most: 5 }] },
  'no HTTP': { server: 'raw', mix: [{ kind: 'raw', clients: CLIENTS }] },
  'long answers': {
    server: 'http',
    mix: [
      { kind: 'keepAlive', clients: 10 },
      { kind: 'upload', clients: 10, size: 300_000, pause: 20 },
      { kind: 'events', clients: 10, pause: 30 },
      { kind: 'webSocket', clients: 10 }
    ]
  }
}

interface Scene {
  supervisor: Told
  load: Load
  target: Target
}

type Way = (scene: Scene) => Promise<void>

const pidsOf = async (supervisor: Told): Promise<number[]> => (await supervisor.workers()).map(({ pid }) => pid)

/** Every one of them ends with refusals, as nobody is left. */
const ways: Record<string, Way> = {
  stop: async ({ supervisor }) => {
    await supervisor.ask('stop')
  },
  'a killed supervisor': async ({ supervisor }) => {
    const pids = await pidsOf(supervisor)
    supervisor.running.child.kill('SIGKILL')
    await Promise.all(pids.map(gone))
  },
  'TERM for all, as systemd sends it': async ({ supervisor }) => {
    const pids = await pidsOf(supervisor)
    await supervisor.ask('run')
    for (const pid of [...pids, supervisor.pid]) process.kill(pid, 'SIGTERM')
    await Promise.all(pids.map(gone))
  }
}

/** What has come of the clients, once each of them was refused. */
async function ending(t: ExecutionContext, balance: Balance, family: Family, way: Way, args = {}): Promise<Counted> {
  const { server, mix, spec = () => ({ port: 0, host: '127.0.0.1' }), tls } = family
  const listener = spec()
  const supervisor = await startSupervisor(t, {
    entry,
    workers: WORKERS,
    balance,
    listeners: { http: listener },
    // Whoever says nothing for so long after connecting is taken for idle: a client that a loaded machine keeps waiting is not
    idleGrace: mix.some(({ kind }) => kind === 'keepAlive') ? 1000 : 5000,
    spawn: { args: [JSON.stringify({ server, ...args })] }
  })
  const { path } = listener as { path?: string }
  const target = path === undefined ? { port: supervisor.port } : { path }
  const load = startLoad(t, { ...target, mix: mix.map(one => ({ think: THINK, ...one })), ...(tls && { tls }) })
  await load.more(2 * CLIENTS)
  await way({ supervisor, load, target })
  await load.more(CLIENTS, 'refused')
  const counted = await load.end()
  supervisor.running.child.stdin?.end()
  await supervisor.running.exit
  return counted
}

function check(t: ExecutionContext, { total, failures }: Counted): void {
  const { answered, refused } = total
  t.deepEqual({ ...total, answered: 0, refused: 0 }, NONE, JSON.stringify(failures.slice(0, 5)))
  t.true(answered > 0 && refused > 0)
}

async function repeat(t: ExecutionContext, most: number, once: () => Promise<Counted>): Promise<void> {
  let answered = 0
  for (let i = 0; i < most; i++) {
    const counted = await once()
    answered += counted.total.answered
    check(t, counted)
  }
  t.log(`${most} times, ${answered} answers`)
}

const balances: Balance[] = ['per-worker', 'shared', { dispatch: 'round-robin' }]
for (const [column, balance] of balances.entries())
  for (const [row, [name, way]] of Object.entries(ways).entries()) {
    // A normal run takes each way and each balance once
    if (!isFull && row !== column) continue
    test(`${name}, ${nameOf(balance)}: whoever connects is answered or refused`, t => {
      const dispatched = typeof balance === 'object'
      const family = families[dispatched ? 'TCP, in parts' : 'TCP']!
      return repeat(t, times(1, 50), () => ending(t, balance, family, way))
    })
  }

const often = ['HTTP/2']
for (const [name, family] of Object.entries(families).filter(([one]) => isFull || often.includes(one)))
  test(`stop, and a killed supervisor: ${name}`, async t => {
    const balance = family.spec === undefined ? 'per-worker' : 'shared'
    const chosen = isFull ? [ways.stop!, ways['a killed supervisor']!] : [ways.stop!]
    for (const way of chosen) await repeat(t, times(1, 10), () => ending(t, balance, family, way))
  })

for (const balance of isFull ? balances : balances.slice(2))
  test(`${nameOf(balance)}: workers that end by themselves, again and again: everybody is answered`, async t => {
    const supervisor = await supervise(t, {
      entry,
      workers: WORKERS,
      balance,
      restartDelay: 1,
      spawn: { args: [JSON.stringify({ server: 'http', lives: times(300, 500) })] }
    })
    const load = startLoad(t, { port: supervisor.port, mix: halves.map(one => ({ ...one, think: THINK })) })
    await until(() => supervisor.ended.length >= times(3, 50), 'workers to end', times(30, 200))
    const { total, failures } = await load.end()
    t.deepEqual({ ...total, answered: 0 }, NONE, JSON.stringify(failures.slice(0, 5)))
    t.true(total.answered > 0)
    await supervisor.end()
  })
