/** One server for a long time, under everything that may happen to it in turn. Each second it is looked at. */
import { fileURLToPath } from 'node:url'
import { startKiller } from '../../test/helpers/prefork.ts'
import { type Running, start } from '../../test/helpers/process.ts'
import { Random } from '../../test/helpers/random.ts'
import { type Failure, type Mix, startLoad } from '../../test/system/load/clients.ts'
import { type Attack, chosenOf, type Outcome, type Settings } from '../attack.ts'
import { mixOf } from '../chaos/attack.ts'
import { FAULTS } from '../chaos/faults.ts'
import { Hands } from '../chaos/hands.ts'
import { newPlace, Server, within } from '../chaos/servers.ts'
import { filesOf, Watch } from './watch.ts'

/** What is done in turn, and how often in comparison. */
const OPERATIONS: readonly (readonly [weight: number, name: string])[] = [
  [6, 'reload'],
  [3, 'replace'],
  [4, 'scale'],
  [4, 'kill'],
  [4, 'freeze'],
  [4, 'block'],
  [1, 'boot']
]
const USES = ['channel', 'memory', 'shared', 'store', 'stream', 'datagram']
/** Reports of one run. */
const MOST_FOUND = 30
/** Of the starts that fail in `boot` the first ones crash. Others would wait for `readyTimeout`. */
const CRASHING = 2
/** ms after which a request is late, also on a machine that has much else to do. */
const LATE = 200_000
/** The part of the run that warms up. */
const WARM_UP = 0.2

export const soak: Attack = {
  promise:
    'A server that is reloaded, replaced, scaled, killed, frozen and blocked for an hour loses no request, and keeps descriptors, memory, processes and socket files within their bounds.',
  what: 'passfd/prefork, whose workers use channels, streams, datagrams, memory and a store for their answers. Each second all its processes are looked at.',
  needs: ['build', 'python', 'prlimit'],
  parts: OPERATIONS.map(([, name]) => name),
  count: 1_000_000,
  sample: 8,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const { seed, count, time, log } = settings
  const chosen = chosenOf(soak.parts, settings)
  const operations = OPERATIONS.filter(([, name]) => chosen.includes(name))
  const random = new Random(seed)
  const end = performance.now() + time
  const counts = {
    operations: 0,
    seconds: 0,
    checks: 0,
    requests: 0,
    served: 0,
    'in the hands of killed processes': 0,
    'lost of these': 0,
    'lost otherwise': 0
  }
  const found: string[] = []
  const cleanups: (() => void)[] = []
  const t = { teardown: (cleanup: () => void) => void cleanups.push(cleanup) } as never as Parameters<
    typeof startKiller
  >[0]
  const report = (what: string): void => {
    if (found.includes(what) || found.length >= MOST_FOUND) return
    found.push(what)
    log(`${counts.operations} operations, ${counts.seconds} s: ${what}`)
  }

  const place = await newPlace()
  const hands = new Hands(startKiller(t, 'unix'))
  const peers = await Promise.all((['peer', 'store'] as const).map(role => startPeer(place.folder, role)))
  const kind = { name: 'soak', program: 'prefork', balance: 'per-worker', worker: '../../soak/worker.mjs' } as const
  const options = { hangTimeout: 60_000, heartbeat: 500, readyTimeout: 120_000, balance: random.pick(BALANCES) }
  let server: Server | undefined
  const watch = new Watch(place.folder, report)
  try {
    server = await Server.start(kind, options, place)
    const uses: Mix[] = USES.map(use => ({
      kind: 'keepAlive',
      name: use,
      query: `?use=${use}`,
      think: 40,
      ...place.listeners.http
    }))
    const load = startLoad(t, {
      mix: [...mixOf(place), ...uses].map(one => ({ ...one, timeout: LATE })),
      most: 1_000_000,
      refusals: true
    })
    await load.more(100)
    const failures: Failure[] = []
    let isOver = false
    /** Each second. */
    const watching = (async () => {
      for (let due = performance.now(); !isOver; due = Math.max(due + 1000, performance.now())) {
        await new Promise(resolve => setTimeout(resolve, Math.max(0, due - performance.now())))
        const { total, failures: more } = await load.count()
        failures.push(...more)
        const lost = hands.unexplained(failures, false)
        for (const failure of lost.slice(0, 20))
          report(`a request is lost that no killed process had: ${JSON.stringify(failure)}`)
        for (const failure of hands.refusals(failures).slice(0, 20))
          report(`a client is refused: ${JSON.stringify(failure)}`)
        counts.checks += watch.check()
        counts.seconds++
        if (counts.seconds % 60 === 0)
          log(
            `${counts.seconds} s, ${counts.operations} operations, ${total.answered} served, ${failures.length - total.refused} failed, ${lost.length} lost, ${total.refused} refused`
          )
      }
    })()
    watching.catch(error => report(error.message))
    // What waits for requests in `chaos` does not here: the load goes on
    const scene = { server, hands, random, load: { ...load, more: async () => {} } }
    watch.warmUntil(performance.now() + WARM_UP * (end - performance.now()))
    while (counts.operations < count && performance.now() < end) {
      const name = random.weighted(operations)
      await FAULTS.find(fault => fault.name === name)!
        .once(scene, counts.operations % CRASHING)
        .catch(error => report(`${name}: ${error.message}`))
      counts.operations++
      await new Promise(resolve => setTimeout(resolve, random.magnitude(10, 2000)))
    }
    isOver = true
    await watching
    const { total, failures: all } = await load.end()
    const lost = hands.unexplained(all, false)
    for (const failure of lost.slice(0, 20))
      report(`a request is lost that no killed process had: ${JSON.stringify(failure)}`)
    counts.requests = Object.values(total).reduce((sum, value) => sum + value, 0)
    counts.served = total.answered
    counts['in the hands of killed processes'] = hands.count
    counts['lost of these'] = all.length - total.refused - lost.length
    counts['lost otherwise'] = lost.length
    for (const left of await server.end('it fails at its start')) report(left)
    watch.end()
    for (const { child, exit } of peers) {
      child.stdin!.end()
      const { code, stderr } = await within(exit, 'the end of a peer')
      if (code !== 0 || stderr !== '') report(`a peer ends with ${code}: ${stderr.slice(0, 1000)}`)
    }
    const left = filesOf(place.folder)
    if (left.length > 0) report(`files are left: ${left}`)
  } catch (error) {
    report((error as Error).message)
  } finally {
    for (const { child } of peers) child.kill('SIGKILL')
    await server?.close()
    for (const cleanup of cleanups) cleanup()
  }
  return { counts, found, rows: watch.rows }
}

const BALANCES = ['per-worker', 'shared', { dispatch: 'round-robin' }, { dispatch: 'least-connections' }]

async function startPeer(folder: string, role: 'peer' | 'store'): Promise<Running> {
  const running = start(process.execPath, [
    fileURLToPath(new URL('peer.mjs', import.meta.url)),
    JSON.stringify({ folder, role })
  ])
  await within(running.line(), `the start of the ${role}`)
  return running
}
