/** A worker's program finds its supervisor, or does without. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import * as http from 'node:http'
import { createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { Descriptor } from '../../../src/index.ts'
import { joinSupervisor } from '../../../src/prefork/index.ts'
import { times } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { type Running, start } from '../../helpers/process.ts'
import { program, supervising } from '../../helpers/supervising.ts'
import { test } from '../../helpers/test.ts'

function runAlone(source: string): Running {
  return start(process.execPath, [program(source)])
}

async function getFrom(options: http.RequestOptions): Promise<string> {
  const [response] = await once(http.get({ ...options, agent: false }), 'response')
  return text(response)
}

test('not started by a supervisor, and nothing said of that', async t => {
  await t.throwsAsync(joinSupervisor(), { code: 'ERR_PASSFD_NOT_SUPERVISED' })
  await t.throwsAsync(joinSupervisor({ standalone: {} }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

test('standalone: what can not be bound rejects, and what could is closed again', async t => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const path = socketPath()
  const given = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const standalone = { file: { path }, given, http: { port, host: '127.0.0.1' } }
  await t.throwsAsync(joinSupervisor({ standalone }), { code: 'EADDRINUSE' })
  t.false(existsSync(path))
  t.true(given.closed)
  taken.close()
  await once(taken, 'close')
})

test('standalone: TCP, a path and UDP; one server for several names; it stops by TERM', async t => {
  const path = socketPath()
  const port = await freePort()
  const { line, child, exit } = runAlone(`
    import { createServer } from 'node:http'
    const standalone = {
      http: { port: ${port}, host: '127.0.0.1' }, file: { path: ${JSON.stringify(path)} },
      dns: { type: 'udp4', port: 0, address: '127.0.0.1' }
    }
    const worker = await joinSupervisor({ standalone })
    if (worker !== (await joinSupervisor())) throw new Error('another worker')
    const server = createServer(({ url }, response) => response.end(url))
    await worker.listen('http', server)
    await worker.listen('file', server)
    const socket = worker.descriptor('dns').toDatagram()
    socket.on('message', (message, { port }) => socket.send(message + '!', port))
    worker.onStop(() => { socket.close(); console.log('onStop') })
    await worker.ready()
    const asked = await worker.channel.request('anybody?').catch(({ code, remote }) => code + ' ' + remote?.code)
    await worker.channel.send('nobody')
    console.log(JSON.stringify([worker.slot, worker.id, worker.supervised, asked, socket.address().port]))`)
  const [slot, id, supervised, asked, udpPort] = JSON.parse(await line())
  t.deepEqual([slot, id, supervised], [0, 1, false])
  t.regex(asked, /ERR_PASSFD_NOT_SUPERVISED/)
  t.is(await getFrom({ port, host: '127.0.0.1', path: '/tcp' }), '/tcp')
  t.is(await getFrom({ socketPath: path, path: '/unix' }), '/unix')
  const client = createSocket('udp4')
  client.send('hello', udpPort, '127.0.0.1')
  t.is(String((await once(client, 'message'))[0]), 'hello!')
  client.close()
  child.kill('SIGTERM')
  t.is(await line(), 'onStop')
  t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
  t.false(existsSync(path))
})

test('standalone: the second signal cuts off what is left; signals: false leaves them alone', async t => {
  const server = (options: string) => `
    import { createServer } from 'node:http'
    const worker = await joinSupervisor({ standalone: { http: { port: 0, host: '127.0.0.1' } }${options} })
    const server = createServer((request, response) => response.flushHeaders())
    await worker.listen('http', server)
    worker.signal.addEventListener('abort', () => console.log('stopping'))
    console.log(server.address().port)`
  const { line, child, exit } = runAlone(server(''))
  const request = http.get({ port: Number(await line()), host: '127.0.0.1', agent: false })
  const [response] = await once(request, 'response')
  const rest = text(response)
  child.kill('SIGINT')
  t.is(await line(), 'stopping')
  child.kill('SIGTERM')
  await t.throwsAsync(rest, { code: 'ECONNRESET' })
  t.like(await exit, { code: 1, signal: null })

  const alone = runAlone(server(', signals: false'))
  await alone.line()
  alone.child.kill('SIGTERM')
  t.like(await alone.exit, { code: null, signal: 'SIGTERM' })
})

test('a worker: the channel both ways, also before it has joined; its children are no workers', async t => {
  const entry = program(`
    import { execFileSync } from 'node:child_process'
    const worker = await joinSupervisor({ channel: { requestTimeout: 5000 } })
    const first = await new Promise(resolve => worker.channel.once('message', ({ value }) => resolve(value)))
    const file = await worker.channel.request({ want: 'a file' })
    const shell = command => execFileSync('sh', ['-c', command], { encoding: 'utf8' }).trim().split('\\n')
    await worker.channel.request({
      first, slot: worker.slot, id: worker.id, supervised: worker.supervised, kind: file.kind,
      same: worker === await joinSupervisor({ standalone: { http: { port: 1 } } }),
      // Its standard streams only
      open: shell('ls /proc/$$/fd'), env: shell('env').filter(line => /PASSFD_(?!SHIM)|LISTEN|NOTIFY/.test(line))
    })
    await worker.ready()`)
  const slots = times(1, 2)
  await supervising(t, { entry, workers: slots }, async supervisor => {
    const told: object[] = []
    const starting = supervisor.start()
    supervisor.on('state', ({ state, slot, channel }) => {
      if (state !== 'starting') return
      channel.serve(({ value }) => {
        if (!('want' in (value as object))) told.push(value as object)
        return 'want' in (value as object) ? Descriptor.openSync('/dev/null') : undefined
      })
      channel.send(`hello ${slot}`) // it has not even begun
    })
    await starting
    const common = { supervised: true, kind: 'device', same: true, open: ['0', '1', '2'], env: [] }
    t.deepEqual(
      told.toSorted((a, b) => (a as { slot: number }).slot - (b as { slot: number }).slot),
      Array.from({ length: slots }, (_, slot) => ({ first: `hello ${slot}`, slot, id: slot + 1, ...common }))
    )
  })
})
