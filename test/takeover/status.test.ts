/** What an owner answers about itself, its candidates and its predecessors: to this process, of other ones. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { PassfdError } from '../../src/base/errors.ts'
import { connect } from '../../src/channel/connect.ts'
import { listen } from '../../src/channel/server.ts'
import { takeoverStatus } from '../../src/takeover/index.ts'
import { readChain, readStatus } from '../../src/takeover/messages.ts'
import { temporaryPath } from '../helpers/path.ts'
import { end, first, rejects } from '../helpers/seats.ts'
import { dialled, startSeat } from '../helpers/takeover.ts'
import { test, testInCi } from '../helpers/test.ts'

testInCi('who serves, since when, whose turn it is, who waits, and who drains', async t => {
  const path = temporaryPath('seat')
  const keep = temporaryPath('keep')
  t.is(await takeoverStatus(path), undefined)
  const [one, two, three] = Array.from({ length: 3 }, () => startSeat(t, path, { listeners: { keep: { path: keep } } }))
  const began = Date.now()
  await one!.ask('all')
  const alone = await takeoverStatus(path)
  t.like(alone, { owner: { pid: one!.pid, runtime: `node ${process.version}` }, generation: 1, waiting: [], chain: [] })
  t.false('candidate' in alone!)
  t.true(alone!.since >= began - 1000 && alone!.since <= Date.now() + 1000)

  const client = dialled(keep)
  await once(client, 'data')
  await two!.ask('open')
  const third = three!.ask('open')
  let status = await takeoverStatus(path)
  for (; status?.waiting.length === 0; status = await takeoverStatus(path)) t.is(status.candidate, two!.pid)
  t.like(status, { owner: { pid: one!.pid }, candidate: two!.pid, waiting: [three!.pid], chain: [] })

  await two!.ask('ready')
  await third
  status = await takeoverStatus(path)
  for (; status?.chain.length === 0; status = await takeoverStatus(path)) t.true(status.generation >= 2)
  t.like(status, { owner: { pid: two!.pid }, generation: 2, candidate: three!.pid, waiting: [] })
  t.deepEqual(status!.chain, [{ pid: one!.pid, connections: 1 }])
  t.true(status!.since >= alone!.since)

  await three!.ask('ready')
  await two!.running.exit
  client.end()
  await one!.running.exit
  t.like(await takeoverStatus(path), { owner: { pid: three!.pid }, generation: 3, waiting: [] })
  process.kill(three!.pid, 'SIGKILL')
  await three!.running.exit
  t.is(await takeoverStatus(path), undefined)
})

test('a superseded owner does not answer in the place of its successor', async t => {
  const path = temporaryPath('seat')
  const one = await first(path)
  const channel = await connect<unknown, unknown>(path)
  t.like(await channel.request({ do: 'status' }), { owner: { pid: process.pid }, generation: 1 })
  const two = await first(path, { name: 'second' })
  await one.seat.ended
  const error = await rejects(t, channel.request({ do: 'status' }), 'ERR_PASSFD_REMOTE')
  t.is((error as PassfdError).remote?.code, 'ERR_PASSFD_TAKEOVER_MOVED')
  t.like(await takeoverStatus(path), { generation: 2 })
  channel.destroy()
  await end(two.seat, one.seat)
})

test('an owner that hangs, one that refuses, one that is refused, and what is no owner', async t => {
  const path = temporaryPath('seat')
  const silent = createServer(socket => socket.resume().on('error', () => {})).listen(path)
  await once(silent, 'listening')
  await rejects(t, takeoverStatus(path, { timeout: 50 }), 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  const aborted = await t.throwsAsync(takeoverStatus(path, { signal: AbortSignal.timeout(50) }))
  t.true(['AbortError', 'TimeoutError'].includes(aborted!.name))
  silent.close()
  await once(silent, 'close')

  const owner = await first(path, { authorize: () => true })
  await rejects(t, takeoverStatus(path, { authorize: () => false }), 'ERR_PASSFD_UNAUTHORIZED')
  await end(owner.seat)
  const server = await listen(path, { authorize: () => false })
  const error = await rejects(t, takeoverStatus(path, { timeout: 5000 }), 'ERR_PASSFD_PEER')
  t.is((error as PassfdError).remote?.code, 'ERR_PASSFD_UNAUTHORIZED')
  await server.close()
  const other = await listen(path)
  other.serve(() => 'no status')
  await rejects(t, takeoverStatus(path), 'ERR_PASSFD_TAKEOVER_PROTOCOL')
  await other.close()
})

test('arguments', async t => {
  for (const call of [
    () => takeoverStatus(''),
    () => takeoverStatus(7 as never),
    () => takeoverStatus('a\0b'),
    () => takeoverStatus('path', { timeout: 0 }),
    () => takeoverStatus('path', { authorize: 'nobody' as never }),
    () => takeoverStatus('path', { signal: {} as never })
  ])
    await rejects(t, call(), 'ERR_PASSFD_INVALID_ARGUMENT')
})

test('an owner of an earlier release does not say who waits, and one may be of another PID namespace', t => {
  const owner = { pid: 7, passfd: '0.1.0', runtime: 'python' }
  t.deepEqual(readStatus({ owner, generation: 1, since: 5 }), {
    owner,
    generation: 1,
    since: 5,
    waiting: [],
    chain: []
  })
  t.is(readStatus({ owner, generation: 1, since: 5, candidate: 0 }).candidate, 0)
  for (const wrong of [undefined, [], { owner }, { owner, generation: 1, since: 5, waiting: 7 }])
    t.throws(() => readStatus(wrong), { code: 'ERR_PASSFD_TAKEOVER_PROTOCOL' })
  t.deepEqual(readChain([{ pid: 7, connections: 1, more: true }, { pid: 'x' }, null]), [{ pid: 7, connections: 1 }])
})
