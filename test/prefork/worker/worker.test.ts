/** What a worker's program can do, and its graceful end. */
import { once } from 'node:events'
import * as http from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { WebSocket } from 'ws'
import type { Supervisor, SupervisorOptions } from '../../../src/prefork/index.ts'
import { socketPath } from '../../helpers/path.ts'
import { fixture, get, only, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

/** A worker that sends what `source` returns; `code` there gives what a promise rejects with, or a function throws. */
function reports(source: string): string {
  return program(`
    import { createServer } from 'node:http'
    const worker = await joinSupervisor()
    const code = async work => { try { return (await work()) ?? 'fine' } catch ({ code }) { return code.replace('ERR_PASSFD_', '') } }
    const server = createServer(({ url }, response) => response.end(url))
    await worker.channel.request(await (async () => { ${source} })())
    await worker.ready()`)
}

async function report(supervisor: Supervisor): Promise<unknown> {
  let told: unknown
  supervisor.on('state', ({ state, channel }) => {
    if (state === 'starting') channel.serve(({ value }) => void (told = value))
  })
  await supervisor.start()
  return told
}

test('listen: one server for several names, names that are not there, twice, UDP, no server', async t => {
  const entry = reports(`
    const other = createServer()
    const over = createServer().listen(0, '127.0.0.1')
    await new Promise(resolve => over.on('listening', resolve))
    await new Promise(resolve => over.close(resolve))
    return {
      unknown: [await code(() => worker.listen('none', server)), await code(() => worker.listener('none')), await code(() => worker.descriptor('none'))],
      wrong: await code(() => worker.listen('http', {})),
      over: await code(() => worker.listen('http', over)),
      udp: [await code(() => worker.listen('dns', server)), await code(() => worker.listen('dns', server))],
      first: await code(() => worker.listen('http', server)),
      twice: [await code(() => worker.listen('http', server)), await code(() => worker.listen('http', other))],
      second: await code(() => worker.listen('file', server)),
      kind: worker.descriptor('dns').kind,
      onStop: await code(() => worker.onStop('close'))
    }`)
  const listeners: SupervisorOptions['listeners'] = {
    http: { port: 0, host: '127.0.0.1' },
    file: { path: socketPath() },
    dns: { type: 'udp4', port: 0, address: '127.0.0.1' }
  }
  await supervising(t, { entry, listeners }, async supervisor => {
    t.deepEqual(await report(supervisor), {
      unknown: Array(3).fill('LISTENER_UNKNOWN'),
      wrong: 'INVALID_ARGUMENT',
      over: 'SERVER_CLOSED',
      udp: Array(2).fill('DESCRIPTOR_KIND'),
      first: 'fine',
      twice: Array(2).fill('LISTENER_SERVED'),
      second: 'fine',
      kind: 'udp',
      onStop: 'INVALID_ARGUMENT'
    })
    t.deepEqual([await get(supervisor, 'http', '/1'), await get(supervisor, 'file', '/2')], ['/1', '/2'])
  })
})

test('listener() and descriptor(): for a server of your own', async t => {
  const entry = reports(`
    server.listen(worker.listener('http'))
    const file = await worker.descriptor('file').toServer()
    file.on('connection', socket => socket.end('by hand'))
    return 0`)
  const listeners = { http: { port: 0, host: '127.0.0.1' }, file: { path: socketPath() } }
  for (const balance of ['per-worker', 'shared'] as const)
    await supervising(t, { entry, listeners, balance }, async supervisor => {
      await report(supervisor)
      t.is(await get(supervisor, 'http', '/1'), '/1')
      t.is(await text(connect(listeners.file.path)), 'by hand')
    })
})

test('under dispatch: listen() works as ever, the others name it; datagrams are not dispatched', async t => {
  const entry = reports(`
    return [
      await code(() => worker.listener('http')), await code(() => worker.descriptor('http')),
      await code(() => worker.listen('http', server)), await code(() => worker.listen('http', server)),
      worker.descriptor('dns').kind
    ]`)
  const listeners: SupervisorOptions['listeners'] = {
    http: { port: 0, host: '127.0.0.1' },
    dns: { type: 'udp4', port: 0, address: '127.0.0.1' }
  }
  await supervising(t, { entry, listeners, balance: { dispatch: 'round-robin' } }, async supervisor => {
    const told = await report(supervisor)
    t.deepEqual(told, ['LISTENER_DISPATCHED', 'LISTENER_DISPATCHED', 'fine', 'LISTENER_SERVED', 'udp'])
    t.is(await get(supervisor, 'http', '/1'), '/1')
  })
})

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
    t.deepEqual(told.toSorted(), ['A handler of worker.onStop() has failed: no', 'first false true', 'last'])
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
  await supervising(t, { entry, stopTimeout: 300, killTimeout: 5000 }, async (supervisor, { exits }) => {
    await supervisor.start()
    const rest = get(supervisor)
    await until(() => supervisor.workers[0]!.requests === 1, 'the request')
    const cut = t.throwsAsync(rest, { code: 'ECONNRESET' })
    await supervisor.stop()
    await cut
    t.deepEqual(exits, ['0/1 1'])
  })
  await supervising(t, { entry, stopTimeout: 300 }, async (supervisor, { exits }) => {
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 1'], 'the handler has waited until the end')
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
for (const [what, wait] of Object.entries(WAITING))
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
  const killTimeout = 3000
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

test('the exit code that the program has set', async t => {
  const entry = program('const worker = await joinSupervisor(); process.exitCode = 7; await worker.ready()')
  await supervising(t, { entry }, async (supervisor, { exits }) => {
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 7'])
  })
})

test('worker.signal ends an event stream; an upload is taken to its end', async t => {
  const entry = program(`
    import { createServer } from 'node:http'
    import { text } from 'node:stream/consumers'
    const worker = await joinSupervisor()
    const server = createServer(async (request, response) => {
      if (request.method === 'POST') return response.end(String((await text(request)).length))
      response.writeHead(200, { 'Content-Type': 'text/event-stream' }).write('data: 1\\n\\n')
      worker.signal.addEventListener('abort', () => response.end('data: bye\\n\\n'))
    })
    await worker.listen('http', server)
    await worker.ready()`)
  await supervising(t, { entry }, async (supervisor, { exits, of }) => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const upload = http.request({ port, host: '127.0.0.1', method: 'POST', agent: false })
    upload.write('x'.repeat(100_000))
    const events = get(supervisor)
    await until(() => supervisor.workers[0]!.requests === 2, 'both requests')
    const stopped = supervisor.stop()
    t.is(await events, 'data: 1\n\ndata: bye\n\n')
    await until(() => of(1).includes('stopping'), 'that it stops')
    upload.end('y'.repeat(100_000))
    const [response] = await once(upload, 'response')
    t.is(response.headers.connection, 'close')
    t.is(await text(response), '200000')
    await stopped
    t.deepEqual(exits, ['0/1 0'])
  })
})

test('WebSockets are told in onStop, and live until then', async t => {
  await supervising(t, { entry: fixture('websockets') }, async (supervisor, { exits }) => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    await once(socket, 'open')
    socket.send('hello')
    t.is(String((await once(socket, 'message'))[0]), 'hello')
    const closed = once(socket, 'close')
    const stopped = supervisor.reload()
    const [code, reason] = await closed
    t.deepEqual([code, String(reason)], [1012, 'restarts'])
    await stopped
    t.deepEqual(exits, ['0/1 0'])
  })
})

test('worker.stop() before it is ready: it has not got ready', async t => {
  const entry = program('const worker = await joinSupervisor(); await worker.stop()')
  await supervising(t, { entry }, async (supervisor, { of }) => {
    await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY', message: /exited with code 0/ })
    t.deepEqual(of(1), ['starting', 'exited'])
    await only(supervisor)
  })
})
