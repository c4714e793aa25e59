/** A supervisor asked and commanded from outside. */
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from '../../../src/index.ts'
import type { AdminCommand, AdminEvent, AdminStatus } from '../../../src/prefork/index.ts'
import { stop } from '../../helpers/child.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { startFixture } from '../../helpers/process.ts'
import { KINDS, light, only, program, supervising } from '../../helpers/supervising.ts'
import { test, testIf, testInCi } from '../../helpers/test.ts'

const NOBODY = 65_534
const notRoot = process.getuid!() === 0 ? undefined : 'only root starts a process of another user, and gives files away'

for (const kind of KINDS)
  test(`${kind.name}: status, reload, scale, metrics, and what is wrong`, async t => {
    const admin = socketPath()
    const entry = program(kind.waits())
    await supervising(t, { admin, ...kind.options(entry) }, async supervisor => {
      await supervisor.start()
      t.is(statSync(admin).mode & 0o777, 0o600)
      const channel = await connect<never, AdminCommand>(admin)
      const status = await channel.request<AdminStatus>({ command: 'status' })
      t.like(status, {
        pid: process.pid,
        size: 1,
        listeners: supervisor.addresses,
        foreign: kind.name === 'C',
        draining: []
      })
      t.true(Math.abs(Date.now() - status.since) < 60_000)
      t.like(status.workers, [{ slot: 0, id: 1, pid: supervisor.workers[0]!.pid, state: 'ready', restarts: 0 }])
      t.false('channel' in status.workers[0]!)
      await channel.request({ command: 'scale', workers: 2 })
      await only(supervisor, 1, 2)
      await channel.request({ command: 'reload' })
      await only(supervisor, 3, 4)
      t.regex(await channel.request<string>({ command: 'metrics' }), /passfd_workers\{state="ready"\} 2/)
      for (const [wrong, code] of [
        [{ command: 'dance' }, 'ERR_PASSFD_INVALID_ARGUMENT'],
        [{ command: 'scale' }, 'ERR_PASSFD_INVALID_ARGUMENT'],
        [{ command: 'scale', workers: 0 }, 'ERR_PASSFD_INVALID_ARGUMENT'],
        [null, 'ERR_PASSFD_INVALID_ARGUMENT'],
        ['status', 'ERR_PASSFD_INVALID_ARGUMENT']
      ] as [never, string][])
        await t
          .throwsAsync(channel.request(wrong), { code: 'ERR_PASSFD_REMOTE' })
          .then((error: any) => t.is(error.remote.code, code))
      program(kind.fails(3), entry)
      const error = await t.throwsAsync<any>(channel.request({ command: 'reload' }), { code: 'ERR_PASSFD_REMOTE' })
      t.is(error.remote.code, 'ERR_PASSFD_WORKER_NOT_READY')
      t.regex(error.remote.message, /exited with code 3/)
      await channel.close()
    })
  })

for (const restarts of [true, false])
  test(`status and metrics of a slot without a worker, ${restarts ? 'before its next start' : 'given up'}`, async t => {
    const admin = socketPath()
    const options = { admin, command: [light()], workers: 2, restart: decide(restarts) } as const
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      supervisor.on('gaveUp', () => {})
      const exit = once(supervisor, 'exit')
      process.kill(supervisor.workers[1]!.pid!, 'SIGKILL')
      await exit
      const channel = await connect<never, AdminCommand>(admin)
      const { workers, empty } = await channel.request<AdminStatus>({ command: 'status' })
      t.deepEqual(
        workers.map(({ slot }) => slot),
        [0]
      )
      const [{ startsIn = undefined, ...rest } = {}, ...others] = empty ?? []
      t.deepEqual(rest, { slot: 1, restarts: 1, restartReason: 'it was killed by SIGKILL (Killed)' })
      t.is(startsIn === undefined ? undefined : Math.ceil(startsIn / 3_600_000), restarts ? 1 : undefined)
      t.deepEqual(others, [])
      t.regex(await channel.request<string>({ command: 'metrics' }), /passfd_slot_restarts_total\{slot="1"\} 1/)
      await channel.close()
    })
  })

function decide(restarts: boolean) {
  return () => (restarts ? { restart: true as const, delay: 3_600_000 } : { restart: false as const, reason: 'enough' })
}

test('subscribe: what happens is told, to its end; stop and kill are answered before they begin', async t => {
  for (const [command, how] of [
    ['stop', { code: 0, signal: null }],
    ['kill', { code: null, signal: 'SIGKILL' }]
  ] as const) {
    const admin = socketPath()
    await supervising(t, { admin, command: [light()] }, async (supervisor, { of }) => {
      await supervisor.start()
      const subscriber = await connect<AdminEvent, AdminCommand>(admin)
      const events: any[] = []
      subscriber.on('message', ({ value }) => void events.push(value))
      await subscriber.request({ command: 'subscribe' })
      const channel = await connect<never, AdminCommand>(admin)
      await channel.request({ command })
      t.is(await channel.closed, undefined)
      t.is(await subscriber.closed, undefined)
      const last = { event: 'exit', worker: { slot: 0, id: 1, state: 'exited' }, ...how }
      t.like(events.at(-1), last)
      t.deepEqual(
        events.map(({ event, worker }) => `${event} ${worker.state}`),
        [...(command === 'stop' ? ['state stopping'] : []), 'state exited', 'exit exited']
      )
      t.deepEqual(of(1).at(-1), 'exited')
      await supervisor.stop()
      t.false(existsSync(admin))
    })
  }
})

for (const kind of KINDS)
  test(`${kind.name}: a superseded supervisor that drains admits nobody to the admin path, and keeps its channels`, async t => {
    const admin = socketPath()
    const options = { admin, takeover: temporaryPath('takeover') }
    await supervising(t, { ...options, ...kind.options(program(kind.isDeaf)) }, async one => {
      await one.start()
      const old = await connect<AdminEvent, AdminCommand>(admin)
      const events: AdminEvent[] = []
      old.on('message', ({ value }) => void events.push(value))
      await old.request({ command: 'subscribe' })
      const superseded = once(one, 'superseded')
      await supervising(t, { ...options, ...kind.options(program(kind.waits())), workers: 2 }, async two => {
        await two.start()
        await superseded
        for (let i = 0; i < 20; i++) {
          const channel = await connect<never, AdminCommand>(admin)
          t.like(await channel.request<AdminStatus>({ command: 'status' }), { phase: 'running', size: 2 })
          await channel.close()
        }
        t.like(await old.request<AdminStatus>({ command: 'status' }), { phase: 'stopping', size: 1 })
        t.deepEqual(
          events.filter(({ event }) => event === 'superseded'),
          [{ event: 'superseded', successor: { pid: process.pid } }]
        )
      })
      await one.kill()
      t.is(await old.closed, undefined)
    })
  })

testInCi('a subscriber that does not read holds up nobody', async t => {
  const admin = socketPath()
  await supervising(t, { admin, command: [light()] }, async supervisor => {
    await supervisor.start()
    const subscriber = startFixture('prefork-subscribes', [admin])
    t.is(await subscriber.line(), 'subscribed')
    t.teardown(() => subscriber.child.kill('SIGKILL'))
    await stop(subscriber)
    // More than its queue (4 MB) and its socket hold
    const event = { ...supervisor.workers[0]!, reason: 'x'.repeat(1000) }
    for (let i = 0; i < 6000; i++) supervisor.emit('state', event)
    await supervisor.reload()
    const began = performance.now()
    await supervisor.stop()
    const passed = performance.now() - began
    t.true(passed < 4900, `${passed} ms`) // closeTimeout is 5 s by default
    subscriber.child.kill('SIGKILL')
    await subscriber.exit
  })
})

testIf(
  notRoot,
  '(u) another user is refused, though the file lets him in; the owner that the file was given is let in',
  async t => {
    const folder = mkdtempSync(join(tmpdir(), 'passfd-admin-'))
    const { child, line, exit } = startFixture('connect-as', [`${NOBODY}`])
    t.teardown(() => void child.kill('SIGKILL'))
    const asNobody = async (path: string): Promise<any> => {
      child.stdin!.write(`${path}\n`)
      return JSON.parse(await line())
    }
    chmodSync(folder, 0o711)
    const path = join(folder, 'admin.sock')
    await supervising(t, { admin: { path, mode: 0o666 }, command: [light()] }, async supervisor => {
      await supervisor.start()
      t.like(await asNobody(path), { code: 'ERR_PASSFD_PEER', remote: { code: 'ERR_PASSFD_UNAUTHORIZED' } })
      chmodSync(path, 0o600) // the default
      t.like(await asNobody(path), { code: 'EACCES' })
      await only(supervisor, 1)
    })
    const own = join(folder, 'own.sock')
    const http = join(folder, 'http.sock')
    const admin = { path: own, mode: 0o660, owner: NOBODY, group: 'daemon' }
    const listeners = { http: { path: http, owner: 1, group: 65533, mode: 0o620 } }
    await supervising(t, { admin, listeners, command: [light()] }, async supervisor => {
      await supervisor.start()
      t.like(statSync(own), { uid: NOBODY, gid: 1 })
      t.like(statSync(http), { uid: 1, gid: 65533 })
      t.is(statSync(own).mode & 0o777, 0o660)
      t.is((await asNobody(own)).pid, process.pid)
    })
    child.stdin!.end()
    await exit
    rmSync(folder, { recursive: true })
  }
)
