/**
 * Clients connect all the time while a supervisor with some workers stops, is killed, or loses workers: each is answered or refused. In a full run
 * each of them 50 times.
 */
import type { ExecutionContext } from 'ava'
import { isFull, times } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { type Balance, nameOf, type Supervised, startSupervisor, supervise, type Told } from '../../helpers/prefork.ts'
import { gone } from '../../helpers/processes.ts'
import { test, testFull, testInCi, until } from '../../helpers/test.ts'
import { type Counted, type Load, type Mix, startLoad, type Target } from './clients.ts'

const entry = new URL('worker.mjs', import.meta.url).pathname
const CLIENTS = times(16, 40)
const WORKERS = times(2, 3)
/** Between an answer and a client's next request, in ms: a normal run does not keep the processors busy. */
const THINK = times(60, 0)
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

/** A supervisor that is only told to stop is in this process. */
type Ending = Supervised & Partial<Told>
type Way = (supervisor: Ending) => Promise<void>

const pidsOf = async (supervisor: Supervised): Promise<number[]> => (await supervisor.workers()).map(({ pid }) => pid)

/** Every one of them ends with refusals, as nobody is left. */
const ways: Record<string, Way> = {
  stop: async supervisor => {
    await supervisor.ask('stop')
  },
  'a killed supervisor': async supervisor => {
    const pids = await pidsOf(supervisor)
    supervisor.running!.child.kill('SIGKILL')
    await Promise.all(pids.map(gone))
  },
  'TERM for all, as systemd sends it': async supervisor => {
    const pids = await pidsOf(supervisor)
    await supervisor.ask('run')
    for (const pid of [...pids, supervisor.pid!]) process.kill(pid, 'SIGTERM')
    await Promise.all(pids.map(gone))
  }
}

/** What has come of the clients of each family, once each of them was refused. All families have the same workers. */
async function ending(t: ExecutionContext, balance: Balance, served: Family[], way: Way): Promise<Counted[]> {
  const named = served.map((family, index) => ({
    ...family,
    name: index === 0 ? 'http' : `other ${index}`,
    listener: family.spec?.() ?? { port: 0, host: '127.0.0.1' }
  }))
  const begin = way === ways.stop ? supervise : startSupervisor
  const supervisor: Ending = await begin(t, {
    entry,
    workers: WORKERS,
    balance,
    listeners: Object.fromEntries(named.map(({ name, listener }) => [name, listener])),
    // Whoever says nothing for so long after connecting is taken for idle: a client that a loaded machine keeps waiting is not
    idleGrace: served.some(({ mix }) => mix.some(({ kind }) => kind === 'keepAlive')) ? 1000 : 5000,
    spawn: { args: [JSON.stringify({ servers: Object.fromEntries(named.map(({ name, server }) => [name, server])) })] }
  })
  const loads: Load[] = []
  for (const { name, mix, tls } of named) {
    const target = await supervisor.ask<Target>('address', name)
    loads.push(startLoad(t, { ...target, mix: mix.map(one => ({ think: THINK, ...one })), ...(tls && { tls }) }))
  }
  await Promise.all(loads.map(load => load.more(2 * CLIENTS)))
  await way(supervisor)
  await Promise.all(loads.map(load => load.more(CLIENTS, 'refused')))
  const counted = await Promise.all(loads.map(load => load.end()))
  supervisor.running?.child.stdin?.end()
  await supervisor.running?.exit
  return counted
}

function check(t: ExecutionContext, { total, failures }: Counted): void {
  const { answered, refused } = total
  t.deepEqual({ ...total, answered: 0, refused: 0 }, NONE, JSON.stringify(failures.slice(0, 5)))
  t.true(answered > 0 && refused > 0)
}

async function repeat(t: ExecutionContext, most: number, once: () => Promise<Counted[]>): Promise<void> {
  let answered = 0
  for (let i = 0; i < most; i++) {
    for (const counted of await once()) {
      answered += counted.total.answered
      check(t, counted)
    }
  }
  t.log(`${most} times, ${answered} answers`)
}

const balances: Balance[] = ['per-worker', 'shared', { dispatch: 'round-robin' }]
for (const [column, balance] of balances.entries())
  for (const [row, [name, way]] of Object.entries(ways).entries()) {
    // A normal run takes each way and each balance once
    if (!isFull && row !== column) continue
    const declare = name === 'stop' ? test : testInCi
    declare(`${name}, ${nameOf(balance)}: whoever connects is answered or refused`, t => {
      const served = [families[typeof balance === 'object' ? 'TCP, in parts' : 'TCP']!]
      // A full run has a test of each family
      if (!isFull && name === 'stop') served.push(families['HTTP/2']!)
      return repeat(t, times(1, 50), () => ending(t, balance, served, way))
    })
  }

for (const [name, family] of Object.entries(families))
  testFull(`stop, and a killed supervisor: ${name}`, async t => {
    const balance = family.spec === undefined ? 'per-worker' : 'shared'
    for (const way of [ways.stop!, ways['a killed supervisor']!])
      await repeat(t, 10, () => ending(t, balance, [family], way))
  })

for (const balance of isFull ? balances : balances.slice(2))
  testInCi(`${nameOf(balance)}: workers that end by themselves, again and again: everybody is answered`, async t => {
    const supervisor = await supervise(t, {
      entry,
      workers: WORKERS,
      balance,
      restartDelay: 1,
      spawn: { args: [JSON.stringify({ servers: { http: 'http' }, lives: 500 })] }
    })
    const load = startLoad(t, { port: supervisor.port, mix: halves.map(one => ({ ...one, think: THINK })) })
    await until(() => supervisor.ended.length >= times(2, 50), 'workers to end', times(30, 200))
    const { total, failures } = await load.end()
    t.deepEqual({ ...total, answered: 0 }, NONE, JSON.stringify(failures.slice(0, 5)))
    t.true(total.answered > 0)
    await supervisor.end()
  })
