import { Hands } from '../../../attack/chaos/hands.ts'
import type { Server } from '../../../attack/chaos/servers.ts'
import type { Accepted } from '../../helpers/prefork.ts'
import { test } from '../../helpers/test.ts'
import type { Failure } from '../../system/load/clients.ts'

const PID = 7
const serverOf = (program: string): Server =>
  ({ kind: { program }, place: { unix: { path: '/socket' } }, datagramsOf: () => 2 }) as unknown as Server

/** Hands that have killed a process which had these. */
async function killed(...accepted: Partial<Accepted>[]): Promise<Hands> {
  const answer = async (): Promise<Accepted[]> => accepted as Accepted[]
  const hands = new Hands({ kill: answer, killWithQueued: async () => [], stop: answer, end: async () => {} })
  await hands.kill(serverOf('prefork'), PID)
  return hands
}

const now = (): number => Date.now() + 1
const failed = (more: Partial<Failure>): Failure => ({
  kind: 'close',
  outcome: 'reset',
  code: 'ECONNRESET',
  at: now(),
  ms: 5,
  used: 0,
  port: 1000,
  opened: Date.now() - 1000,
  ...more
})

test('a failure of a connection that a killed process had is explained', async t => {
  const hands = await killed({ port: 1000, address: '127.0.0.1' }, { port: 1000, address: '::1' })
  t.deepEqual(hands.unexplained([failed({}), failed({ kind: 'close, IPv6' })], false), [])
  t.is(hands.count, 3) // and a datagram
})

test('every other failure is not: another client, a later connection, an earlier failure, one without a port', async t => {
  const hands = await killed({ port: 1000, address: '127.0.0.1' })
  const others = [
    failed({ port: 1001 }),
    failed({ address: '127.0.1.1' }),
    failed({ kind: 'close, IPv6' }),
    failed({ opened: now() + 1000, at: now() + 2000 }),
    failed({ at: Date.now() - 1000 }),
    { ...failed({}), port: undefined } as unknown as Failure
  ]
  t.deepEqual(hands.unexplained(others, false), others)
})

test('clients of Unix sockets and of UDP have no names: as many may fail as killed processes had', async t => {
  const hands = await killed({ path: '/socket' }, { path: '/another' })
  const unix = [failed({ kind: 'close, unix' }), failed({ kind: 'keepAlive, unix' })]
  t.deepEqual(hands.unexplained(unix, false), unix.slice(1))
  const late = Array.from({ length: 3 }, () => failed({ kind: 'udp', outcome: 'timedOut' }))
  t.deepEqual(hands.unexplained(late, false), late.slice(2))
  t.deepEqual(hands.unexplained(late, true), [])
  const wrong = [failed({ kind: 'udp', outcome: 'wrong' })]
  t.deepEqual(hands.unexplained(wrong, true), wrong)
})

test('of a takeover, what was on its way to the killed process counts as its', async t => {
  const queued = async (): Promise<Accepted[]> => [{ port: 1000, address: '127.0.0.1' } as Accepted]
  const none = async (): Promise<Accepted[]> => []
  const hands = new Hands({ kill: none, killWithQueued: queued, stop: none, end: async () => {} })
  await hands.kill(serverOf('takeover'), PID)
  t.deepEqual(hands.unexplained([failed({})], false), [])
})

test('while nobody listens clients are refused, and those that waited end; no other connection may', async t => {
  const hands = await killed()
  const from = Date.now()
  hands.nobodyServed(from, from + 1000)
  const waited = failed({ port: 1001, at: from + 500 })
  const refused = failed({ port: 1002, outcome: 'refused', opened: from + 500, at: from + 500 })
  const others = [
    failed({ port: 1003, used: 1, at: from + 500 }),
    failed({ port: 1004, at: from - 500 }),
    failed({ port: 1005, outcome: 'refused', opened: from + 1500, at: from + 1500 })
  ]
  const all = [waited, refused, ...others]
  t.deepEqual(hands.unexplained(all, false), others.slice(0, 2))
  t.deepEqual(hands.refusals(all), others.slice(2))
  t.is(hands.countWaiting(all), 1)
})
