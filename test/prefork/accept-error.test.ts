/** While the kernel gives no connection: told once, clients wait, and no time is spent on trying. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Balance, WorkerInfo } from '../../src/prefork/index.ts'
import { patched } from '../helpers/channels.ts'
import { limitOpenFiles } from '../helpers/process.ts'
import { program, supervising } from '../helpers/supervising.ts'
import { test, until } from '../helpers/test.ts'

const EMFILE = -24

/** Says what it is warned of; each word from the supervisor is how many calls of accept shall fail. */
const RECEIVES = `
const native = (await import('${new URL('../../build/dist/os/native.js', import.meta.url).href}')).native
const worker = await joinSupervisor()
const { acceptMany } = native
let left = 0
let failed = 0
native.acceptMany = (...given) => {
  if (left === 0) return acceptMany(...given)
  left--
  failed++
  return ${EMFILE}
}
process.on('warning', ({ code, syscall }) => worker.channel.send({ code, syscall, failed }))
worker.channel.serve(({ value }) => { left = value })
await worker.receive('http', connection => connection.toSocket().end('hello'))
await worker.ready()`

const SERVES = `
const worker = await joinSupervisor()
await worker.receive('http', connection => connection.toSocket().end('hello'))
await worker.ready()`

for (const rule of ['address', 'a route'] as const)
  test(`a supervisor that accepts: ${rule}`, async t => {
    const balance: Balance = { dispatch: rule === 'a route' ? (_connection, [worker]) => worker!.slot : rule }
    await supervising(t, { entry: program(SERVES), balance, workers: 1 }, async supervisor => {
      const told: [string | undefined, string][] = []
      supervisor.on('acceptError', (error, listener) => told.push([error.code, listener]))
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      let calls = 0
      for (const episode of [1, 2]) {
        let left = 3
        await patched(
          'acceptMany',
          original =>
            (...given) => {
              calls++
              if (left === 0) return original(...given)
              left--
              return EMFILE
            },
          async () => void t.is(await text(connect(port, '127.0.0.1').end('x')), 'hello')
        )
        t.is(left, 0)
        t.deepEqual(told, Array(episode).fill(['EMFILE', 'http']))
      }
      t.true(calls <= 2 * (3 + 3), `${calls} calls: it rests in between`)
    })
  })

for (const rule of ['round-robin', 'least-connections'] as const)
  test(`a worker that is told to accept: ${rule}: told once an episode, the other one accepts meanwhile`, async t => {
    const balance: Balance = { dispatch: rule }
    await supervising(t, { entry: program(RECEIVES), balance, workers: 2 }, async supervisor => {
      const told: [string | undefined, string | undefined, string][] = []
      supervisor.on('acceptError', (error, listener) =>
        told.push([error.code, (error as NodeJS.ErrnoException).syscall, listener])
      )
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      const [{ channel }] = supervisor.workers as [WorkerInfo]
      const served = (): number => supervisor.workers[0]!.requests
      const ask = (): Promise<string> => text(connect(port, '127.0.0.1').end('x'))
      for (const episode of [1, 2]) {
        await channel.request(1_000_000)
        while (told.length < episode) t.is(await ask(), 'hello')
        // The other one accepts; this one tries now and then
        for (let i = 0; i < 50; i++) t.is(await ask(), 'hello')
        await channel.request(0)
        for (const before = served(); served() === before; ) t.is(await ask(), 'hello')
        t.is(told.length, episode)
      }
      for (const one of told) t.deepEqual(one, ['EMFILE', 'accept4', 'http'])
    })
  })

test('the only worker can’t accept for a while: whoever comes waits', async t => {
  const balance: Balance = { dispatch: 'round-robin' }
  await supervising(t, { entry: program(RECEIVES), balance, workers: 1 }, async supervisor => {
    const told: (string | undefined)[] = []
    supervisor.on('acceptError', error => told.push(error.code))
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    await supervisor.workers[0]!.channel.request(3)
    const asking = Array.from({ length: 10 }, () => text(connect(port, '127.0.0.1')))
    t.deepEqual(await Promise.all(asking), Array(10).fill('hello'))
    t.deepEqual(told, ['EMFILE'])
  })
})

for (const [what, listens, own] of [
  ['nobody listens: a warning', false, 1],
  ['somebody listens: none', true, 0]
] as const)
  test(`run(): ${what}`, async t => {
    const balance: Balance = { dispatch: 'address' }
    await supervising(t, { entry: program(SERVES), balance, workers: 1 }, async supervisor => {
      const warnings: (string | undefined)[] = []
      const { emitWarning } = process
      process.emitWarning = ((warning: NodeJS.ErrnoException) => void warnings.push(warning.code)) as never
      if (listens) supervisor.on('acceptError', () => {})
      const ready = once(supervisor as any, 'started')
      const running = supervisor.run({ signals: false })
      await ready
      const { port } = supervisor.address('http') as { port: number }
      let left = 3
      await patched(
        'acceptMany',
        original =>
          (...given) =>
            left-- > 0 ? EMFILE : original(...given),
        async () => void t.is(await text(connect(port, '127.0.0.1').end('x')), 'hello')
      )
      await new Promise(resolve => setImmediate(resolve))
      process.emitWarning = emitWarning
      t.deepEqual(warnings, Array(own).fill('EMFILE'))
      await supervisor.stop()
      await running
    })
  })

for (const balance of ['shared', 'per-worker'] as const)
  test(`a worker that receives: a warning of its process, once an episode: ${balance}`, async t => {
    await supervising(t, { entry: program(RECEIVES), balance, workers: 1 }, async supervisor => {
      const told: unknown[] = []
      supervisor.on('worker', ({ channel }) => channel.on('message', ({ value }) => void told.push(value)))
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      for (const episode of [1, 2]) {
        await supervisor.workers[0]!.channel.request(3)
        t.is(await text(connect(port, '127.0.0.1')), 'hello')
        await until(() => told.length === episode, 'the warning')
      }
      t.deepEqual(told, [
        { code: 'EMFILE', syscall: 'accept4', failed: 1 },
        { code: 'EMFILE', syscall: 'accept4', failed: 4 }
      ])
    })
  })

/** Tells the supervisor of each call that fails, and of each warning. */
const COUNTS = `
const native = (await import('${new URL('../../build/dist/os/native.js', import.meta.url).href}')).native
const worker = await joinSupervisor()
const { acceptMany } = native
native.acceptMany = (...given) => {
  const result = acceptMany(...given)
  if (result < 0) worker.channel.send(result)
  return result
}
process.on('warning', ({ code, syscall }) => worker.channel.send({ code, syscall }))
await worker.receive('http', connection => connection.toSocket().end('hello'))
await worker.ready()`

for (const balance of ['shared', 'per-worker'] as const)
  test(`a worker that receives, at its limit of open files: ${balance}`, async t => {
    await supervising(t, { entry: program(COUNTS), balance, workers: 1 }, async supervisor => {
      const told: unknown[] = []
      supervisor.on('worker', ({ channel }) => channel.on('message', ({ value }) => void told.push(value)))
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      const { pid } = supervisor.workers[0]!
      for (const _episode of [1, 2]) {
        told.length = 0
        limitOpenFiles(pid!, 3)
        const answers = Array.from({ length: 5 }, () => text(connect(port, '127.0.0.1')))
        await until(() => told.filter(value => value === EMFILE).length >= 4, 'calls that fail')
        limitOpenFiles(pid!, 1000)
        t.deepEqual(await Promise.all(answers), Array(5).fill('hello'))
        t.deepEqual(
          told.filter(value => value !== EMFILE),
          [{ code: 'EMFILE', syscall: 'accept4' }]
        )
      }
    })
  })
