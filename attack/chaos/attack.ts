/** A server is under load over all its transports, and suffers. Each request is counted by its outcome, and compared with what must be. */
import { existsSync } from 'node:fs'
import { startKiller } from '../../test/helpers/prefork.ts'
import { Random } from '../../test/helpers/random.ts'
import {
  type Counted,
  type Counts,
  type Failure,
  type Load,
  type Mix,
  startLoad
} from '../../test/system/load/clients.ts'
import { type Attack, chosenOf, type Outcome, type Row, type Settings } from '../attack.ts'
import { FAULTS, type Fault } from './faults.ts'
import { Hands } from './hands.ts'
import { isOurs, KINDS, type Kind, type Place, Server } from './servers.ts'

const TIMES = FAULTS.flatMap(fault => KINDS.filter(kind => fault.suits(kind)).map(() => fault.times)).reduce(
  (sum, times) => sum + times,
  0
)
/** Of a row, at least, if not all of it is asked for. */
const FEWEST = 3
/** Of the clients of every row, in ms: between an answer and the next request. */
const THINK = 25
/** After so many ms a request is late. Of a datagram it is certain sooner. */
const PATIENCE = 60_000
const DATAGRAM_PATIENCE = 20_000
const NONE: Counts = { answered: 0, refused: 0, reset: 0, empty: 0, timedOut: 0, wrong: 0 }

export const chaos: Attack = {
  promise:
    'No request is lost, over any transport, wherever no process is killed with it in its hands; where one is, only those that it had. Only a server that has ended refuses.',
  what: 'Servers of every balance, a single process with takeovers, and Node’s cluster and pm2 beside them, under load: reloads, kills, failing starts, stops, blocked event loops and more.',
  needs: ['build', 'python', 'prlimit'],
  parts: [...KINDS.map(({ name }) => name), ...FAULTS.map(({ name }) => name)],
  count: TIMES,
  sample: 10,
  time: 5_400_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const { seed, count, time, log } = settings
  const chosen = chosenOf(chaos.parts, settings)
  const isChosen = <Part extends { name: string }>(all: readonly Part[]): readonly Part[] => {
    const some = all.filter(({ name }) => chosen.includes(name))
    return some.length === 0 ? all : some
  }
  const random = new Random(seed)
  let rows = isChosen(FAULTS).flatMap(fault =>
    isChosen(KINDS)
      .filter(kind => fault.suits(kind))
      .map(kind => ({ kind, fault }))
  )
  const whole = rows.reduce((sum, { fault }) => sum + fault.times, 0)
  // A part of each row; if that is too little, some of the rows, ours only
  const part = Math.min(1, count / whole)
  const timesOf = ({ times }: Fault): number => Math.min(times, Math.max(FEWEST, Math.round(times * part)))
  if (part < 1) {
    const ours = rows.filter(({ kind }) => isOurs(kind))
    if (ours.length > 0) rows = settings.only.length > 0 ? ours : ours.filter(({ fault }) => !fault.long)
    const drawn: typeof rows = []
    for (let left = count; left > 0 && rows.length > 0; left -= timesOf(drawn.at(-1)!.fault)) {
      const row = random.weighted(rows.map(each => [each.fault.times, each] as const))
      rows = rows.filter(each => each !== row)
      drawn.push(row)
    }
    rows = drawn
  }
  const outcome: Outcome & { rows: Row[] } = {
    counts: {
      faults: 0,
      requests: 0,
      served: 0,
      refused: 0,
      'in the hands of killed processes': 0,
      'lost of these': 0,
      'lost as documented': 0,
      'lost otherwise': 0
    },
    found: [],
    rows: []
  }
  const end = performance.now() + time
  for (const [index, { kind, fault }] of rows.entries()) {
    const left = end - performance.now()
    if (left < 0) {
      log(`${rows.length - index} rows are left when the time is over`)
      break
    }
    if (kind.program === 'pm2' && !existsSync(new URL('../../bench/node_modules/pm2', import.meta.url))) {
      log('pm2 is not there: npm ci in bench/')
      continue
    }
    const { row, problems } = await attackServer(
      kind,
      fault,
      timesOf(fault),
      new Random(random.integer(0, 2 ** 31)),
      end
    )
    outcome.rows.push(row)
    log(textOf(row))
    add(outcome.counts, row, isOurs(kind))
    if (isOurs(kind))
      for (const problem of problems) {
        const found = `${kind.name}, ${fault.name}: ${problem}; repeat it by --only ${kind.name} --only ${fault.name} --seed ${seed}`
        outcome.found.push(found)
        log(found)
      }
    else for (const problem of problems.slice(0, 2)) log(`${kind.name}, ${fault.name}: ${problem}`)
  }
  return outcome
}

/** Only of ours: a comparison is no attack on passfd. */
function add(counts: Record<string, number>, row: Row, isOur: boolean): void {
  if (!isOur) return
  const number = (name: string): number => row[name] as number
  counts.faults! += number('times')
  counts.requests! += number('requests')
  counts.served! += number('served')
  counts.refused! += number('refused')
  counts['in the hands of killed processes']! += number('in hands')
  counts['lost of these']! += number('lost of these')
  if (`${row.verdict}`.startsWith('as')) counts['lost as documented']! += number('lost otherwise')
  else counts['lost otherwise']! += number('lost otherwise')
}

function textOf(row: Row): string {
  return Object.entries(row)
    .map(([name, value]) => (typeof value === 'string' ? `${value},` : `${name} ${value}`))
    .join(' ')
}

/** One row: a server, and a fault again and again. */
async function attackServer(
  kind: Kind,
  fault: Fault,
  times: number,
  random: Random,
  end: number
): Promise<{ row: Row; problems: string[] }> {
  const cleanups: (() => void)[] = []
  const t = { teardown: (cleanup: () => void) => void cleanups.push(cleanup) } as never as Parameters<
    typeof startKiller
  >[0]
  const problems: string[] = []
  const hands = new Hands(startKiller(t, 'unix'))
  const sum = { ...NONE }
  const failures: Failure[] = []
  const begun = performance.now()
  let done = 0
  let idle: Counted['idle'] | undefined
  let server: Server | undefined
  try {
    server = await Server.start(kind, fault.options)
    const several = kind.name === 'address'
    const load = startLoad(t, {
      mix: mixOf(server.place, fault.clients),
      ...(several && { from: 'several' }),
      most: 100_000,
      refusals: !fault.refuses
    })
    const loads: Load[] = [load]
    if (fault.idle !== undefined) loads.push(await startIdle(t, server.place, fault.idle, several))
    await load.more(60)
    try {
      for (; done < times && performance.now() < end; done++) await fault.once({ server, hands, random, load }, done)
      await load.more(60)
    } catch (error) {
      const deaths = await server.ask<string[]>('deaths').catch(() => [])
      problems.push(`fault ${done + 1}: ${(error as Error).message}; deaths: ${deaths.slice(-5).join('; ')}`)
    }
    for (const one of loads.slice(1)) one.wake()
    for (const [index, counted] of (
      await Promise.all(loads.map((one, index) => (index === 0 ? one.end() : one.ended())))
    ).entries()) {
      for (const outcome of Object.keys(sum) as (keyof Counts)[]) sum[outcome] += counted.total[outcome]
      failures.push(...counted.failures)
      if (index === 1) idle = counted.idle
    }
    problems.push(...(await server.end(fault.writes)))
  } catch (error) {
    problems.push((error as Error).message)
  } finally {
    await server?.close()
    for (const cleanup of cleanups) cleanup()
  }
  const { answered, refused, reset, empty, timedOut, wrong } = sum
  const unexplained = hands.unexplained(failures, fault.refuses === true)
  const waiting = hands.countWaiting(failures)
  const documented = fault.documented?.(kind)
  const lost = documented === undefined ? unexplained : unexplained.filter(failure => !hands.wasStarved(failure))
  const excused = unexplained.length - lost.length
  const row: Row = {
    server: kind.name,
    fault: fault.name,
    times: done,
    requests: answered + refused + reset + empty + timedOut + wrong,
    served: answered,
    refused,
    reset,
    cut: empty + wrong,
    late: timedOut,
    kills: hands.kills,
    'in hands': hands.count,
    'lost of these': failures.filter(({ outcome }) => outcome !== 'refused').length - unexplained.length - waiting,
    'ended with its listener': waiting,
    'lost otherwise': unexplained.length,
    seconds: Math.round((performance.now() - begun) / 1000),
    ...(idle === undefined ? {} : { 'idle kept': idle.kept, 'idle closed': idle.ended })
  }
  if (lost.length > 0)
    problems.push(`${lost.length} requests are lost that no killed process had: ${JSON.stringify(lost.slice(0, 4))}`)
  const refusals = hands.refusals(failures)
  if (refusals.length > 0)
    problems.push(`${refusals.length} requests are refused: ${JSON.stringify(refusals.slice(0, 4))}`)
  if (answered === 0) problems.push('nothing is served')
  if (idle !== undefined && isOurs(kind) && idle.ended > 0) problems.push(`${idle.ended} idle connections are closed`)
  if (isOurs(kind))
    row.verdict = problems.length > 0 ? 'broken' : excused > 0 ? `as documented: ${documented}` : 'holds'
  return { row, problems }
}

export function mixOf(place: Place, more: readonly Mix[] = []): Mix[] {
  const { http, http6, tls, http2, raw } = place.listeners
  const { unix, udp, udp6 } = place
  const mix: Mix[] = [
    ...(['close', 'keepAlive', 'parts', 'upload', 'events', 'webSocket'] as const).map(kind => ({
      kind,
      clients: 2,
      ...http,
      name: kind
    })),
    ...(['close', 'keepAlive'] as const).flatMap(kind => [
      { kind, ...http6, name: `${kind}, IPv6` },
      { kind, ...unix, name: `${kind}, unix` }
    ]),
    { kind: 'close', ...tls, tls: 'psk', name: 'TLS' },
    { kind: 'http2', ...http2, most: 20, name: 'HTTP/2' },
    { kind: 'raw', clients: 2, ...raw, name: 'raw' },
    { kind: 'udp', host: udp.address, port: udp.port, name: 'udp', timeout: DATAGRAM_PATIENCE },
    { kind: 'udp', host: udp6.address, port: udp6.port, name: 'udp, IPv6', timeout: DATAGRAM_PATIENCE },
    ...more.map(one => ({ ...one, ...(one.name?.endsWith('IPv6') ? http6 : http) }))
  ]
  return mix.map(one => ({ think: THINK, timeout: PATIENCE, ...one }))
}

/** So many connections that are open and have asked once. */
async function startIdle(
  t: Parameters<typeof startKiller>[0],
  { listeners: { http } }: Place,
  clients: number,
  several: boolean
): Promise<Load> {
  const load = startLoad(t, {
    mix: [{ kind: 'keepAlive', clients, think: 'wake', name: 'idle', ...http }],
    ...(several && { from: 'several' }),
    most: 100_000
  })
  await load.more(clients)
  return load
}
