/** The listeners that a worker was lent: who serves them, and what the program can have of them. */
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Supervisor, SupervisorOptions } from '../../src/prefork/index.ts'
import { socketPath } from '../helpers/path.ts'
import { get, program, supervising } from '../helpers/supervising.ts'
import { test } from '../helpers/test.ts'

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
