/** Programs with a Seat that replace each other: their exits, their users, and what happens if one of them is killed or stopped. */
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { connect } from '../../src/channel/connect.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { peerOf } from '../../src/descriptor/peer.ts'
import { isFull, times } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { stopped } from '../helpers/processes.ts'
import { answerAt, first, naming, rejects, seated } from '../helpers/seats.ts'
import { asked, dialled, type Side, settled, startSeat } from '../helpers/takeover.ts'
import { test, testIf, testInCi, testInCiIf } from '../helpers/test.ts'

const NOBODY = 65534
const notRoot = process.getuid!() === 0 ? undefined : 'only root can be another user'
const tcp = { port: 0, host: '127.0.0.1' }

/** Connected, and whom the kernel says it is connected to. */
async function peerAt(path: string): Promise<number> {
  const client = dialled(path)
  client.on('error', () => {})
  await once(client, 'connect')
  const descriptor = Descriptor.from(client.pause())
  const { pid } = peerOf(descriptor.borrow())
  descriptor.close()
  client.destroy()
  await once(client, 'close')
  return pid
}

async function portOf(side: Side, stateful = false): Promise<number> {
  const [{ port }] = await side.ask<[{ port: number }]>('all', stateful)
  return port
}

test('how a program ends: by TERM before and after ready(), superseded, and by stop()', async t => {
  const path = temporaryPath('seat')
  const keep = temporaryPath('keep')
  const options = { listeners: { http: tcp, keep: { path: keep } }, supersededStatus: 7 }
  const one = startSeat(t, path, options)
  const two = startSeat(t, path, options)
  const port = await portOf(one)
  await two.ask('open')
  process.kill(two.pid, 'SIGTERM')
  t.like(await two.running.exit, { code: 0, signal: null, stderr: '' })
  t.deepEqual(await asked(port), [one.pid, '-'])

  const client = dialled(keep)
  await once(client, 'data')
  const three = startSeat(t, path, { ...options, exit: false })
  await three.ask('all')
  await one.told('stopping')
  t.deepEqual(await three.told('draining'), [{ pid: one.pid, connections: 1 }])
  client.end()
  t.like(await one.running.exit, { code: 7, signal: null, stderr: '' })

  const last = dialled(keep)
  await once(last, 'data')
  process.kill(three.pid, 'SIGTERM')
  await three.told('stopping')
  t.deepEqual(await three.ask('facts'), { superseded: false, connections: 1, draining: [] })
  last.end()
  await three.told('ended')
  await three.end()
  await t.throwsAsync(asked(port), { code: 'ECONNREFUSED' })
  await t.throwsAsync(peerAt(path), { code: 'ECONNREFUSED' })
})

testInCi('at every instant of many takeovers a connect() succeeds, and peers see the owner', async t => {
  const path = temporaryPath('seat')
  const unix = temporaryPath('unix')
  const options = { listeners: { http: tcp, unix: { path: unix } }, pipes: 5 }
  let owner = startSeat(t, path, options)
  const port = await portOf(owner)
  const inodes = [path, unix].map(place => statSync(place).ino)
  let over = false
  const clients = [port, unix].map(async place => {
    const pids = new Set<number>()
    while (!over) pids.add((await asked(place))[0])
    return pids
  })
  const owners = [owner.pid]
  for (let generation = 0; generation < times(2, 20); generation++) {
    const next = startSeat(t, path, options)
    // The first one has offered no state yet
    await next.ask('all', generation > 0)
    t.deepEqual(await peerAt(path), next.pid)
    t.deepEqual(await peerAt(unix), next.pid)
    t.like(await owner.running.exit, { code: 0, stderr: '' })
    owner = next
    owners.push(owner.pid)
    t.deepEqual(
      [await asked(port), await asked(unix)].map(([pid]) => pid),
      [owner.pid, owner.pid]
    )
  }
  over = true
  for (const pids of await Promise.all(clients)) t.true([...pids].every(pid => owners.includes(pid)))
  t.deepEqual(
    [path, unix].map(place => statSync(place).ino),
    inodes
  )
  await owner.end()
})

test('the predecessor is killed while its successor boots: that serves with all listeners, and is replaced', async t => {
  const path = temporaryPath('seat')
  const listeners = { http: tcp }
  const one = startSeat(t, path, { listeners })
  const port = await portOf(one)
  const two = await seated({ path, listeners, graceTimeout: 500 })
  await two.seat.listen('http', naming('two'))
  process.kill(one.pid, 'SIGKILL')
  await one.running.exit
  const waiting = answerAt(port)
  t.is(await two.seat.inherit(), undefined)
  t.like(two.reports, [{ code: 'stateLost', pid: one.pid }])
  await two.seat.ready()
  t.is(await waiting, 'two')
  const three = await first(path, { name: 'three', listeners })
  t.is(await answerAt(port), 'three')
  await two.seat.ended
  await three.seat.stop()
})

test('TERM to an owner waits for one attempt, and no further: who waits behind it begins anew', async t => {
  const path = temporaryPath('seat')
  const options = { listeners: { http: tcp } }
  const owner = startSeat(t, path, options)
  const two = startSeat(t, path, { ...options, steps: { begin: 'tell' } })
  const port = await portOf(owner)
  const one = await seated({ path, ...options })
  const behind = two.ask('open')
  await two.told('step')
  process.kill(owner.pid, 'SIGTERM')
  t.true(await owner.told('lameDuck'))
  t.deepEqual(await asked(port), [owner.pid, '-'])
  await one.seat[Symbol.asyncDispose]()
  t.is(await behind, null)
  t.like(await owner.running.exit, { code: 0, stderr: '' })
  await two.ask('ready')
  await two.end()
})

// --- one of the two is killed, or stopped until all limits are over, just before a step

const SHORT = { turnTimeout: 5000, inheritTimeout: 5000, graceTimeout: 5000, attemptTimeout: 5000, freezeTimeout: 4500 }
const LONG = { inheritTimeout: 60_000, graceTimeout: 60_000, freezeTimeout: 60_000 }
const BEFORE_THE_OFFER = ['begin', 'offer', 'answer begin']
const CANDIDATE = ['begin', 'offer', 'boot', 'freeze', 'state', 'commit', 'attach', 'mark']
const OWNER = ['answer begin', 'answer freeze', 'answer state', 'letGo']
const AFTER_THE_BYTE = ['attach', 'mark', 'letGo']
const cases = ['KILL', 'STOP'].flatMap(what => [...CANDIDATE, ...OWNER].map(step => [what, step] as const))
const few: (typeof cases)[number][] = [['KILL', 'mark']]

for (const [what, step] of isFull ? cases : few)
  test(`${what} before ${step}: service goes on, nothing leaks, and the next takeover works`, async t => {
    const path = temporaryPath('seat')
    const unix = temporaryPath('unix')
    const isOwner = OWNER.includes(step)
    const options = { ...(what === 'STOP' ? SHORT : LONG), listeners: { http: tcp, unix: { path: unix } } }
    const steps = { [step]: what }
    const owner = startSeat(t, path, { ...options, pipes: 300, ...(isOwner && { steps }) })
    const candidate = startSeat(t, path, { ...options, ...(!isOwner && { steps }) })
    let port = await portOf(owner, true)
    const before = await owner.ask<number[]>('holds')
    const attempt = candidate.ask('all', true).then(
      () => 'serves',
      error => String(error.message)
    )
    const victim = isOwner ? owner : candidate
    t.is(await victim.told('step'), step)
    if (what === 'KILL') await victim.running.exit
    else {
      await stopped(victim.pid)
      // Until the limits are over: one of the two says so, or the successor serves
      if (isOwner) await attempt
      else if (AFTER_THE_BYTE.includes(step)) t.like(await owner.told('report'), { code: 'silent', pid: candidate.pid })
      else if (step === 'state' || step === 'commit') await owner.told('thaw')
      process.kill(victim.pid, 'SIGCONT')
    }
    const outcome = await attempt
    const serves = outcome === 'serves' ? candidate : owner
    if (serves === owner) {
      if (isOwner && what === 'KILL') return t.fail(`nobody serves: ${outcome}`)
      if (what === 'KILL') t.regex(outcome, /ended without the expected line/)
      else t.regex(outcome, /TAKEOVER_(TOO_LATE|OVER|TIMEOUT|MOVED)|REMOTE/)
    }
    // Whoever was killed before it had given anything is replaced by a program that binds anew
    const anew = isOwner && what === 'KILL' && BEFORE_THE_OFFER.includes(step)
    if (anew) port = ((await candidate.ask<{ port: number }[]>('addresses'))[0] as { port: number }).port
    const lost = isOwner && what === 'KILL' && step !== 'letGo'
    const count = lost ? '-' : '1'
    t.deepEqual(await asked(port), [serves.pid, count])
    t.deepEqual(await asked(unix), [serves.pid, count])
    t.is(await serves.ask('pipes'), lost ? 0 : 600)
    if (serves === owner) await settled(t, owner, 'holds', before)
    const next = startSeat(t, path, options)
    await next.ask('all', true)
    t.deepEqual(await asked(port), [next.pid, count])
    t.is(await next.ask('pipes'), lost ? 0 : 600)
    t.like(await serves.running.exit, { code: 0 })
    for (const side of [next, candidate, owner]) await side.end()
  })

// --- other users

/** A folder that every user may look into, and only this one may write to. */
function openFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-'))
  chmodSync(folder, 0o755)
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

testIf(notRoot, 'another user can neither take over nor ask, and is not taken for the owner', async t => {
  const folder = openFolder(t)
  const path = join(folder, 'seat')
  const owner = await seated({ path, listeners: { http: tcp } })
  owner.seat.on('report', () => {})
  await owner.seat.ready()
  const stranger = startSeat(t, path, { uid: NOBODY, turnTimeout: 5000 })
  await t.throwsAsync(stranger.ask('open'), { message: /^EACCES/ })
  chmodSync(path, 0o666)
  await t.throwsAsync(stranger.ask('open'), { message: /UNAUTHORIZED/ })

  chmodSync(folder, 0o777)
  const theirs = join(folder, 'theirs')
  await stranger.ask('open', { path: { path: theirs, mode: 0o666 }, listeners: { http: tcp } })
  await stranger.ask('ready')
  await rejects(t, seated({ path: theirs }), 'ERR_PASSFD_UNAUTHORIZED')
  const { length } = owner.reports
  t.is(length, 1) // unserved
  await stranger.end()
  await owner.seat.stop()
})

testInCiIf(notRoot, 'three starts as root that drop their user before ready() replace each other', async t => {
  const folder = openFolder(t)
  const path = join(folder, 'seat')
  const options = { listeners: { http: tcp }, later: NOBODY, authorize: [0, NOBODY] }
  const all = [0, 1, 2].map(() => startSeat(t, path, options))
  let port = 0
  for (const [index, side] of all.entries()) {
    t.is(await side.ask('open'), index === 0 ? null : all[index - 1]!.pid)
    await side.ask('become')
    const [address] = await side.ask<[{ port: number }]>('ready')
    port = address.port
    if (index > 0) t.like(await all[index - 1]!.running.exit, { code: 0, stderr: '' })
    t.deepEqual(await asked(port), [side.pid, '-'])
  }
  await all[2]!.end()
})

test('silent clients of the takeover path, and a flood of questions, delay nobody', async t => {
  const path = temporaryPath('seat')
  const owner = startSeat(t, path, { listeners: { http: tcp } })
  const port = await portOf(owner)
  const silent: Socket[] = []
  for (let i = 0; i < 40; i++) {
    const client = dialled(path).on('error', () => {})
    await once(client, 'connect')
    if (i % 2 === 0) client.write(Buffer.alloc(100, i)) // no hello
    silent.push(client)
  }
  const channel = await connect<any, any>(path, { requestTimeout: 0 })
  const idle = await connect(path)
  let answers = 0
  let asking = true
  const flood = Array.from({ length: 3 }, async () => {
    while (asking) {
      await channel.request({ do: 'status' })
      answers++
    }
  })
  const next = await first(path, { listeners: { http: tcp }, turnTimeout: 5000 })
  t.is(await answerAt(port), 'first')
  t.like(await owner.running.exit, { code: 0, stderr: '' })
  asking = false
  await Promise.allSettled(flood)
  t.true(answers > 0)
  for (const each of [channel, idle]) each.destroy()
  for (const client of silent) client.destroy()
  await next.seat.stop()
})
