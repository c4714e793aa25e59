/** worker.receive(): connections as Descriptors, under every balance. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Balance } from '../../src/prefork/index.ts'
import { isFull, isInCi } from '../helpers/full.ts'
import { program, supervising } from '../helpers/supervising.ts'
import { test, testInCi, until } from '../helpers/test.ts'

/** Sends each on to the supervisor. */
const PASSES_ON = `
const worker = await joinSupervisor()
await worker.receive('http', connection => worker.channel.send({ slot: worker.slot, kind: connection.kind, connection }))
await worker.ready()`

const balances: Balance[] = ['per-worker', { dispatch: 'round-robin' }]
// A worker accepts from a shared listener as from its own
if (isInCi) balances.push('shared')
// A worker accepts alike under both rules
if (isFull) balances.push({ dispatch: 'least-connections' })

for (const [index, balance] of balances.entries())
  (index === 0 ? test : testInCi)(
    `connections as Descriptors, sent on by the worker; who waits when it stops is received: ${JSON.stringify(balance)}`,
    async t => {
      await supervising(t, { entry: program(PASSES_ON), balance, workers: 2 }, async supervisor => {
        const slots = new Set<number>()
        const waiting: any[] = []
        let stopping = false
        supervisor.on('worker', ({ channel }) =>
          channel.on('message', message => {
            const { slot, kind, connection } = message.claim().value as { slot: number; kind: string; connection: any }
            slots.add(slot)
            if (stopping) waiting.push(connection)
            else connection.toSocket().end(kind)
          })
        )
        await supervisor.start()
        const { port } = supervisor.address('http') as { port: number }
        const visit = (): Promise<string> => text(connect(port, '127.0.0.1'))
        await until(() => supervisor.workers.length === 2, 'both')
        while (slots.size < (balance === 'shared' ? 1 : 2)) t.is(await visit(), 'tcp')
        await supervisor.scale(1)
        for (let i = 0; i < 20; i++) t.is(await visit(), 'tcp', 'of the lane that was lent, too')
        const requests = (): number => supervisor.workers[0]!.requests
        await until(() => requests() > 0, 'it tells how many it has had')

        const { pid } = supervisor.workers[0]!
        process.kill(pid!, 'SIGSTOP')
        stopping = true
        const sockets = Array.from({ length: 20 }, () => connect(port, '127.0.0.1'))
        const answers = sockets.map(socket => text(socket))
        await Promise.all(sockets.map(socket => once(socket, 'connect')))
        const stopped = supervisor.stop()
        process.kill(pid!, 'SIGCONT')
        await until(() => waiting.length === 20, 'all of them')
        for (const connection of waiting) connection.toSocket().end('served')
        t.deepEqual(await Promise.all(answers), Array(20).fill('served'))
        await stopped
      })
    }
  )

test('misuse; what the handler throws is the program’s to hear of, and the connection is closed', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    process.on('uncaughtException', error => worker.channel.send(error.message))
    const codes = []
    const code = async (...values) => codes.push(await worker.receive(...values).then(() => 'none', error => error.code))
    await code('http', 'no function')
    await code('nothing', () => {})
    await code('http', () => { throw new Error('not today') })
    await code('http', () => {})
    await worker.ready()
    worker.channel.send(codes)`)
  await supervising(t, { entry }, async supervisor => {
    const told: unknown[] = []
    supervisor.on('worker', ({ channel }) => channel.on('message', ({ value }) => told.push(value)))
    await supervisor.start()
    await until(() => told.length === 1, 'it has told')
    const expected = ['INVALID_ARGUMENT', 'LISTENER_UNKNOWN', undefined, 'LISTENER_SERVED']
    t.deepEqual(
      told.shift(),
      expected.map(name => (name === undefined ? 'none' : `ERR_PASSFD_${name}`))
    )
    const { port } = supervisor.address('http') as { port: number }
    t.is(await text(connect(port, '127.0.0.1')), '')
    await until(() => told.length === 1, 'it has told')
    t.deepEqual(told, ['not today'])
  })
})
