/** While the kernel gives no connection: told once, clients wait, and no time is spent on trying. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Balance, WorkerInfo } from '../../src/prefork/index.ts'
import { patched } from '../helpers/channels.ts'
import { isFull } from '../helpers/full.ts'
import { limitOpenFiles } from '../helpers/process.ts'
import { program, supervising } from '../helpers/supervising.ts'
import { testInCi, until } from '../helpers/test.ts'

const EMFILE = -24

/**
 * Reports each warning to the supervisor, and each call of accept that the kernel refuses. A word from the supervisor is how many calls of accept
 * shall fail, without the kernel.
 */
const RECEIVES = `
const native = (await import('${new URL('../../build/dist/os/native.js', import.meta.url).href}')).native
const worker = await joinSupervisor()
const { acceptMany } = native
let left = 0
let failed = 0
native.acceptMany = (...given) => {
  if (left === 0) {
    const result = acceptMany(...given)
    if (result < 0) worker.channel.send(result)
    return result
  }
  left--
  failed++
  return ${EMFILE}
}
process.on('warning', ({ code, syscall }) => worker.channel.send({ code, syscall, failed }))
worker.channel.serve(({ value }) => { left = value; failed = 0 })
await worker.receive('http', connection => connection.toSocket().end('hello'))
await worker.ready()`

const SERVES = `
const worker = await joinSupervisor()
await worker.receive('http', connection => connection.toSocket().end('hello'))
await worker.ready()`

for (const rule of ['address', 'a route'] as const)
  testInCi(`a supervisor that accepts: ${rule}; under run() it warns only if nobody listens`, async t => {
    const balance: Balance = { dispatch: rule === 'a route' ? (_connection, [worker]) => worker!.slot : rule }
    await supervising(t, { entry: program(SERVES), balance, workers: 1 }, async supervisor => {
      const warnings: (string | undefined)[] = []
      const told: [string | undefined, string][] = []
      const { emitWarning } = process
      process.emitWarning = ((warning: NodeJS.ErrnoException) => void warnings.push(warning.code)) as never
      try {
        const started = once(supervisor as any, 'started')
        const running = supervisor.run({ signals: false })
        await started
        const { port } = supervisor.address('http') as { port: number }
        let calls = 0
        for (const episode of [0, 1, 2]) {
          if (episode === 1) supervisor.on('acceptError', (error, listener) => told.push([error.code, listener]))
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
          await new Promise(resolve => setImmediate(resolve))
          t.deepEqual(told, Array(episode).fill(['EMFILE', 'http']))
          t.deepEqual(warnings, ['EMFILE'])
        }
        t.true(calls <= 3 * (3 + 3), `${calls} calls: it rests in between`)
        await supervisor.stop()
        await running
      } finally {
        process.emitWarning = emitWarning
      }
    })
  })

// The rule makes no difference to a worker's report: a full run tries the other one, too
for (const rule of ['round-robin', ...(isFull ? (['least-connections'] as const) : [])] as const)
  testInCi(
    `a worker that is told to accept: ${rule}: told once an episode, the other one accepts meanwhile; alone, whoever comes waits`,
    async t => {
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
        await supervisor.scale(1)
        await channel.request(3)
        const asking = Array.from({ length: 10 }, () => text(connect(port, '127.0.0.1')))
        t.deepEqual(await Promise.all(asking), Array(10).fill('hello'))
        t.deepEqual(told, Array(3).fill(['EMFILE', 'accept4', 'http']))
      })
    }
  )

for (const balance of ['shared', 'per-worker'] as const)
  testInCi(
    `a worker that receives: a warning of its process, once an episode, also at its limit of open files: ${balance}`,
    async t => {
      await supervising(t, { entry: program(RECEIVES), balance, workers: 1 }, async supervisor => {
        const told: unknown[] = []
        supervisor.on('worker', ({ channel }) => channel.on('message', ({ value }) => void told.push(value)))
        await supervisor.start()
        const { port } = supervisor.address('http') as { port: number }
        const { channel, pid } = supervisor.workers[0]!
        const warning = { code: 'EMFILE', syscall: 'accept4' }
        const isWarning = (value: unknown): boolean => typeof value === 'object'
        for (const episode of [1, 2]) {
          await channel.request(3)
          t.is(await text(connect(port, '127.0.0.1')), 'hello')
          await until(() => told.filter(isWarning).length === episode, 'the warning')
          t.deepEqual(told.filter(isWarning), Array(episode).fill({ ...warning, failed: 1 }))
        }
        for (const _episode of [1, 2]) {
          told.length = 0
          limitOpenFiles(pid!, 3)
          const answers = Array.from({ length: 5 }, () => text(connect(port, '127.0.0.1')))
          await until(() => told.filter(value => value === EMFILE).length >= 4, 'calls that fail')
          limitOpenFiles(pid!, 1000)
          t.deepEqual(await Promise.all(answers), Array(5).fill('hello'))
          t.deepEqual(
            told.filter(value => value !== EMFILE),
            [{ ...warning, failed: 3 }]
          )
        }
      })
    }
  )
