/** What a worker's program does when the worker stops, and how long it may take. */
import { once } from 'node:events'
import { WebSocket } from 'ws'
import { isFull } from '../helpers/full.ts'
import { get, program, supervising } from '../helpers/supervising.ts'
import { test, until } from '../helpers/test.ts'

test('onStop: the last one first, one after the other; one that fails disturbs none, but the exit code tells', async t => {
  const entry = program(`
    import { setImmediate as turn } from 'node:timers/promises'
    process.on('warning', ({ message }) => worker.channel.send(message))
    const worker = await joinSupervisor()
    worker.onStop(({ signal }) => worker.channel.request('first ' + signal.aborted + ' ' + worker.signal.aborted))
    worker.onStop(() => { throw new Error('no') })
    worker.onStop(async () => { await turn(); await turn(); await worker.channel.request('last') })
    await worker.ready()`)
  await supervising(t, { entry }, async (supervisor, { exits }) => {
    const told: unknown[] = []
    await supervisor.start()
    supervisor.workers[0]!.channel.serve(({ value }) => void told.push(value))
    await supervisor.stop()
    t.deepEqual(told.toSorted(), ['A handler of onStop() has failed: no', 'first false true', 'last'])
    t.is(told[0], 'last')
    t.deepEqual(exits, ['0/1 1'])
  })
})

test('onStop: all are waited for, though a listener of signal calls stop(), too', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    for (const signal of [worker.lameDuck, worker.signal]) signal.addEventListener('abort', () => void worker.stop())
    worker.onStop(() => new Promise(resolve => setTimeout(resolve, 50)))
    worker.onStop(() => new Promise(resolve => setTimeout(resolve, 50)).then(() => { process.exitCode = 7 }))
    await worker.ready()`)
  await supervising(t, { entry }, async (supervisor, { exits }) => {
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 7'])
  })
})

test('onStop: when the time is over its signal is aborted, and what is open is cut off', async t => {
  const entry = program(`
    import { once } from 'node:events'
    import { createServer } from 'node:http'
    const worker = await joinSupervisor()
    const server = createServer((request, response) => response.flushHeaders())
    await worker.listen('http', server)
    worker.onStop(({ signal }) => signal.aborted || once(signal, 'abort'))
    worker.onStop(() => { process.exitCode = 7 })
    await worker.ready()`)
  await supervising(t, { entry, stopTimeout: 300, killTimeout: 60_000 }, async (supervisor, { exits }) => {
    await supervisor.start()
    const rest = get(supervisor)
    await until(() => supervisor.workers[0]!.requests === 1, 'the request')
    const cut = t.throwsAsync(rest, { code: 'ECONNRESET' })
    await supervisor.stop()
    await cut
    t.deepEqual(exits, ['0/1 1'])
  })
  await supervising(t, { entry, stopTimeout: 300, killTimeout: 60_000 }, async (supervisor, { exits }) => {
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 1'], 'the handler has waited until the end')
  })
})

test('onStop: handlers that never settle: the others run in order, each after its share of killTimeout', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    const never = new Promise(() => {})
    const tell = what => worker.channel.request(what + ' ' + Math.round(performance.now()))
    worker.onStop(({ signal }) => tell('last ' + signal.aborted))
    worker.onStop(() => { tell('third'); return never })
    worker.onStop(async () => {
      await tell('second')
      worker.onStop(() => tell('registered late'))
    })
    worker.onStop(() => { tell('first'); return never })
    await worker.ready()`)
  const killTimeout = 12_000
  await supervising(t, { entry, stopTimeout: 200, killTimeout }, async (supervisor, { exits }) => {
    await supervisor.start()
    const told: string[] = []
    supervisor.workers[0]!.channel.serve(({ value }) => void told.push(value as string))
    await supervisor.stop()
    t.deepEqual(
      told.map(text => text.replace(/ \d+$/, '')),
      ['first', 'second', 'registered late', 'third', 'last true']
    )
    const times = told.map(text => Number(text.split(' ').at(-1)))
    // A quarter of it with three behind, then half of what is left
    const [first, second] = [times[1]! - times[0]!, times[4]! - times[3]!]
    t.true(first >= 200 + killTimeout / 4 - 50 && first < 200 + killTimeout / 2, `${first}`)
    t.true(second >= (killTimeout - first) / 2 - 50 && second < killTimeout - first, `${second}`)
    t.regex(exits.join(), /^0\/1 (1|SIGKILL)$/) // its own limit, or the supervisor's
  })
})

const WAITING: Record<string, string> = {
  'the end of the server': 'await new Promise(resolve => server.close(resolve))',
  'the end of every connection': 'await Promise.all([...sockets].map(socket => once(socket, "close")))',
  'the end of the WebSockets': 'await Promise.all([...clients].map(client => once(client, "close")))',
  'all, in handlers of their own, one of which fails': `
    await new Promise(resolve => server.close(resolve)); })
    worker.onStop(() => { throw new Error('no') })
    worker.onStop(async () => { await once([...clients][0], 'close')`
}
/** A normal run takes one of the first three, and the one that has two of them in it. */
const isSample = (what: string): boolean => what.startsWith('the end of every') || what.startsWith('all')
for (const [what, wait] of Object.entries(WAITING).filter(([name]) => isFull || isSample(name)))
  test(`onStop: a handler that waits for ${what}: when stopTimeout is over it has what it waits for, and is not killed`, async t => {
    const entry = program(`
      import { once } from 'node:events'
      import { createServer } from 'node:http'
      import { WebSocketServer } from ${JSON.stringify(import.meta.resolve('ws'))}
      const worker = await joinSupervisor()
      process.on('warning', () => {})
      const sockets = new Set()
      const server = createServer((request, response) => response.flushHeaders())
      server.on('connection', socket => sockets.add(socket))
      const { clients } = new WebSocketServer({ server })
      await worker.listen('http', server)
      worker.onStop(() => worker.channel.request('the last one'))
      worker.onStop(async () => { ${wait} })
      await worker.ready()`)
    await supervising(t, { entry, stopTimeout: 300, killTimeout: 60_000 }, async (supervisor, { exits }) => {
      await supervisor.start()
      const told: unknown[] = []
      supervisor.workers[0]!.channel.serve(({ value }) => void told.push(value))
      const { port } = supervisor.address('http') as { port: number }
      const socket = new WebSocket(`ws://127.0.0.1:${port}`)
      const closed = once(socket, 'close')
      await once(socket, 'open')
      const rest = t.throwsAsync(get(supervisor), { code: 'ECONNRESET' })
      await until(() => supervisor.workers[0]!.requests === 2, 'both requests')
      await supervisor.stop()
      await Promise.all([rest, closed])
      t.deepEqual(told, ['the last one'])
      t.deepEqual(exits, ['0/1 1'])
    })
  })
