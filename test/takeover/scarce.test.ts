/** What a takeover does when descriptors run out, when answers are wrong, and when it is asked for the impossible. */
import { once } from 'node:events'
import { chmodSync, chownSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deferred } from '../../src/base/deferred.ts'
import { listen } from '../../src/channel/server.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { addressOf } from '../../src/serving/bound-socket.ts'
import { Owner } from '../../src/takeover/owner.ts'
import { Life } from '../../src/takeover/pipes.ts'
import { patched } from '../helpers/channels.ts'
import { temporaryPath } from '../helpers/path.ts'
import { limitOpenFiles } from '../helpers/process.ts'
import { answerAt, end, first, HTTP, naming, rejects, seated } from '../helpers/seats.ts'
import { asked, startSeat } from '../helpers/takeover.ts'
import { openDescriptors, test, testInCi, until } from '../helpers/test.ts'

const ENOMEM = -12

/** An owner without listeners. */
const QUIET = {
  program: { pid: process.pid, passfd: '', runtime: '' },
  generation: 1,
  limits: { attemptTimeout: 60_000, freezeTimeout: 60_000, busy: 'wait' as const },
  authorize: undefined,
  chain: () => [],
  hooks: {
    offer: () => [],
    drops: () => {},
    freeze: async () => [],
    rollBack: () => {},
    letGo: () => {},
    report: () => {}
  }
}

testInCi('without descriptors the predecessor does not freeze, and the successor does not commit', async t => {
  const path = temporaryPath('seat')
  const options = { listeners: HTTP }
  const old = startSeat(t, path, { ...options, pipes: 1 })
  const [{ port }] = await old.ask<[{ port: number }]>('all', true)
  const early = startSeat(t, path, options)
  await early.ask('open')
  limitOpenFiles(old.pid, 4)
  const refused = await t.throwsAsync(early.ask('inherit'))
  t.regex(refused!.message, /^ERR_PASSFD_REMOTE: .*EMFILE/)
  limitOpenFiles(old.pid, 1024)
  t.regex((await old.told<{ message: string }>('report')).message, /EMFILE/)
  t.deepEqual(await asked(port), [old.pid, '1'])
  t.is(await early.ask('inherit'), 1)

  limitOpenFiles(early.pid, 4)
  const late = await t.throwsAsync(early.ask('ready'))
  t.regex(late!.message, /^EMFILE/)
  limitOpenFiles(early.pid, 1024)
  t.true(await old.told('thaw'))
  t.deepEqual(await asked(port), [old.pid, '1'])

  const next = startSeat(t, path, options)
  await next.ask('all', true)
  t.deepEqual(await asked(port), [next.pid, '1'])
  await Promise.all([old.running.exit, early.end()])
  await next.end()
})

test('without a descriptor for the takeover path the successor does not commit, though it needs none for a server', async t => {
  const path = temporaryPath('seat')
  const options = { listeners: HTTP }
  const old = startSeat(t, path, options)
  const [{ port }] = await old.ask<[{ port: number }]>('all')
  const next = startSeat(t, path, { ...options, serves: false })
  await next.ask('open')
  limitOpenFiles(next.pid, 4)
  const refused = await t.throwsAsync(next.ask('ready'))
  t.regex(refused!.message, /^EMFILE/)
  t.deepEqual(await asked(port), [old.pid, '-'])
  await next.end()
  await old.end()
})

test('an attempt that ends while an earlier freeze is under way: each listener is accepted from once', async t => {
  const path = temporaryPath('seat')
  const gate = deferred()
  const thawed = deferred()
  const freeze = (): Promise<void> => gate.promise
  const old = await first(path, { freezeTimeout: 20, ready: { freeze, thaw: () => thawed.resolve() } })
  const before = openDescriptors().size
  for (let attempt = 1; attempt <= 2; attempt++) {
    const { seat } = await seated({ path, listeners: HTTP, graceTimeout: 1 })
    await t.throwsAsync(seat.inherit())
    await seat[Symbol.asyncDispose]()
    t.is(await answerAt(old.port), 'first')
    await until(() => openDescriptors().size === before, 'as many descriptors as before')
  }
  gate.resolve()
  await thawed.promise
  await end(old.seat)
})

test('what is served after ready() is accepted from in every lane', async t => {
  const path = temporaryPath('seat')
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const further = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const [takeoverPath, letGo] = [await Descriptor.bind({ path }), deferred()]
  const life = new Life()
  const { accepting } = Owner.begin(
    {
      ...QUIET,
      path: takeoverPath,
      hooks: {
        ...QUIET.hooks,
        offer: () =>
          [listener, further].map((one, lane) => ({
            name: 'http',
            lane,
            kind: 'tcp-listener',
            options: {},
            listener: one.dup()
          })),
        letGo: (_, successor) => void successor.end().then(letGo.resolve)
      }
    },
    life,
    takeoverPath.dup()
  )
  await accepting
  const ports = [listener, further].map(one => (addressOf(one.borrow()) as { port: number }).port)
  const { seat } = await seated({ path })
  await seat.ready()
  await letGo.promise
  await seat.listen('http', naming('late'))
  for (const port of ports) t.is(await answerAt(port), 'late')
  for (const one of [listener, further]) one.close()
  life.end()
  await end(seat)
})

test('a successor that can’t write its mark gives up, and the predecessor goes on', async t => {
  const path = temporaryPath('seat')
  const old = await first(path)
  const { seat } = await seated({ path, listeners: HTTP })
  await seat.listen('http', naming('second'))
  await seat.inherit()
  const withoutMemory = () => () => ENOMEM
  await patched('writeNow', withoutMemory, async () => void (await rejects(t, seat.ready(), 'ENOMEM')))
  await seat[Symbol.asyncDispose]()
  t.is(await answerAt(old.port), 'first')
  const third = await seated({ path, listeners: HTTP })
  await third.seat.listen('http', naming('third'))
  await third.seat.ready()
  t.is(await answerAt(old.port), 'third')
  await end(third.seat, old.seat)
})

test('the copy of a path’s socket that can’t be listened on is closed', async t => {
  const { readable, writable } = Descriptor.pipe()
  const life = new Life()
  const { accepting } = Owner.begin({ ...QUIET, path: readable }, life, writable)
  t.is((await t.throwsAsync<NodeJS.ErrnoException>(accepting)).code, 'ERR_PASSFD_DESCRIPTOR_KIND')
  t.true(writable.closed)
  life.end()
  if (!readable.closed) readable.close()
})

test('an offer that can’t be read leaves nothing open', async t => {
  const path = temporaryPath('seat')
  const owner = await listen(path)
  owner.serve(() => {
    const { readable, writable } = Descriptor.pipe()
    return { life: readable, listeners: [{ name: 'http', lane: 0, kind: 'tcp-listener', listener: writable }] }
  })
  await rejects(t, seated({ path, listeners: HTTP }), 'ERR_PASSFD_TAKEOVER_PROTOCOL')
  await owner.close()
})

test('inherit() is too late once ready() is under way; ready() of a seat that gives up says so', async t => {
  const path = temporaryPath('seat')
  const old = await first(path, { ready: { freeze: () => 7 } })
  for (const gives of [true, false]) {
    const { seat } = await seated({ path })
    await seat.listen('http', naming('next'))
    await seat.bind('more', { port: 0, host: '127.0.0.1' })
    await seat.listen('more', naming('next'))
    const ready = seat.ready()
    if (gives) {
      const over = t.throwsAsync(ready)
      await seat[Symbol.asyncDispose]()
      // The answer of the predecessor may have come before
      t.regex(((await over) as NodeJS.ErrnoException).code!, /^ERR_PASSFD_TAKEOVER_(OVER|BEGUN)$/)
      continue
    }
    const superseded = once(old.seat, 'superseded')
    await rejects(t, seat.inherit(), 'ERR_PASSFD_TAKEOVER_BEGUN')
    await ready
    await superseded
    t.is(await answerAt(old.port), 'next')
    await end(seat, old.seat)
  }
})

test('a socket file that can’t be proved dead, because its directory can’t be read, is in use', async t => {
  const uid = process.getuid!() === 0 ? 65534 : process.getuid!()
  const directory = mkdtempSync(join(tmpdir(), 'passfd-'))
  const path = `${directory}/seat`
  const dead = await Descriptor.bind({ path, mode: 0o666 })
  dead.close()
  chmodSync(path, 0o666)
  chownSync(directory, uid, -1)
  chmodSync(directory, 0o300)
  const late = startSeat(t, path, { listeners: HTTP, uid })
  const error = await t.throwsAsync(late.ask('open'))
  t.regex(error!.message, /^EADDRINUSE/)
  await late.end()
  chmodSync(directory, 0o700)
  rmSync(directory, { recursive: true })
})

test('TERM while a program waits for the state: it gives up with status 0, and not by an error', async t => {
  const path = temporaryPath('seat')
  const old = startSeat(t, path, { listeners: HTTP, steps: { 'answer freeze': 'STOP' } })
  await old.ask('all', true)
  const late = startSeat(t, path, { listeners: HTTP })
  await late.ask('open')
  const failed = t.throwsAsync(late.ask('inherit'))
  await old.told('step')
  late.running.child.kill('SIGTERM')
  t.like(await late.running.exit, { code: 0, signal: null })
  t.notRegex((await failed)!.message, /ERR_PASSFD/)
  old.running.child.kill('SIGKILL')
  await old.running.exit
})
