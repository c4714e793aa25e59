/** What a worker's program can do, and its graceful end. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import * as http from 'node:http'
import { text } from 'node:stream/consumers'
import { WebSocket } from 'ws'
import { fixture, get, only, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

test('what fails at the end of a worker ends it at once, with its reason', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    process.once('exit', () => {
      throw new Error('at the exit')
    })
    await worker.ready()`)
  await supervising(t, { entry, stopTimeout: 10_000, killTimeout: 10_000 }, async (supervisor, { exits }) => {
    await supervisor.start()
    await supervisor.stop()
    // Not 1, the exit status of a worker that was cut off when its time was over
    t.deepEqual(exits, ['0/1 0'])
  })
})

test('worker.signal ends an event stream; an upload is taken to its end; the exit code is the one that the program has set', async t => {
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
    process.exitCode = 7
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
    t.deepEqual(exits, ['0/1 7'])
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
    const stopped = supervisor.stop()
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
    t.deepEqual(of(1), ['starting', 'stopping', 'exited'])
    await only(supervisor)
  })
})

test('the lag is how long the program has blocked the event loop; a worker that has nothing to do sleeps between its reports', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    worker.channel.serve(({ value }) => {
      const until = performance.now() + value
      while (performance.now() < until);
    })
    await worker.ready()`)
  await supervising(t, { entry, heartbeat: 500 }, async supervisor => {
    await supervisor.start()
    const [worker] = supervisor.workers
    const lag = (): number => supervisor.workers[0]!.lag
    await worker!.channel.request(120)
    await until(() => lag() >= 120, 'the lag')
    t.true(lag() < 30_000, `${lag()}`)
    await until(() => lag() < 120, 'a report without lag')
    const before = wakeUps(worker!.pid!)
    const over = performance.now() + 1000
    await until(() => performance.now() > over, 'a second')
    const count = wakeUps(worker!.pid!) - before
    t.true(count < 12, `${count} wake-ups`)
  })
})

/** How often the main thread of a process has slept. */
function wakeUps(pid: number): number {
  return Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1])
}
