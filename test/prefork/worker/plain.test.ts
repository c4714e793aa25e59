/** A standalone program where the shim is missing: on macOS, Windows and others, as Node would name them. */
import { once } from 'node:events'
import * as fs from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { copyPackage } from '../../helpers/copies.ts'
import { Client } from '../../helpers/http-client.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { type Running, start } from '../../helpers/process.ts'
import { test } from '../../helpers/test.ts'

/** A copy of the package without its native part. */
const copy = copyPackage('copy', undefined, 'build/dist')
fs.rmSync(join(copy.folder, 'native'), { recursive: true })
const prefork = pathToFileURL(join(copy.folder, 'build/dist/prefork/index.js')).href
const doors = ['index.js', 'datagram/index.js', 'memory/index.js', 'stream/index.js', 'takeover/index.js']

function run(platform: string, source: string): Running {
  const path = temporaryPath('program').replace(/-(\d+)$/, '-$1.mjs')
  fs.writeFileSync(path, `import { joinSupervisor, Supervisor } from ${JSON.stringify(prefork)}\n${source}\n`)
  const fake = `data:text/javascript,Object.defineProperty(process,'platform',{value:'${platform}'})`
  return start(process.execPath, ['--import', fake, path])
}

for (const platform of ['darwin', 'win32', 'freebsd'])
  test(`${platform}: it serves, ends its requests at TERM, runs its handlers and exits with 0`, async t => {
    const port = await freePort()
    const { line, child, exit } = run(
      platform,
      `
      import { createServer } from 'node:http'
      const worker = await joinSupervisor({ standalone: { http: { port: ${port}, host: '127.0.0.1' } } })
      if (worker !== (await joinSupervisor())) throw new Error('another worker')
      let finish
      const server = createServer(({ url }, response) => {
        if (url !== '/slow') return response.end(url)
        console.log('slow')
        finish = () => response.end(url)
      })
      await worker.listen('http', server)
      worker.lameDuck.addEventListener('abort', () => console.log('lame duck'))
      worker.signal.addEventListener('abort', () => { console.log('stopping'); setImmediate(() => setImmediate(finish)) })
      worker.onStop(() => console.log('onStop'))
      worker.handOver({ freeze: () => {} })
      worker.onInherit(() => {})
      await worker.ready()
      await worker.channel.send('nobody')
      const asked = await worker.channel.request('anybody?').catch(({ code, remote }) => code + ' ' + remote?.code)
      console.log(JSON.stringify([worker.slot, worker.id, worker.supervised, asked, server.address().port]))`
    )
    const [slot, id, supervised, asked, served] = JSON.parse(await line())
    t.deepEqual([slot, id, supervised, served], [0, 1, false, port])
    t.regex(asked, /ERR_PASSFD_NOT_SUPERVISED/)
    const address = { port, host: '127.0.0.1' }
    const idle = await Client.to(address)
    t.is((await idle.get('/one').answer()).body, '/one')
    const busy = await Client.to(address)
    busy.get('/slow')
    t.is(await line(), 'slow')
    child.kill('SIGTERM')
    t.is(await line(), 'lame duck')
    t.is(await line(), 'stopping')
    const { head, body } = await busy.answer()
    t.is(body, '/slow')
    t.regex(head, /connection: close/i)
    t.is(await idle.ended, undefined)
    t.is(await line(), 'onStop')
    t.like(await exit, { code: 0, signal: null, stderr: '' })
    for (const client of [idle, busy]) client.close()
  })

test('paths: a dead file is replaced, a living one and other files are not; mode, backlog and two names for one server', async t => {
  const [path, taken, other] = [socketPath(), socketPath(), temporaryPath()]
  fs.writeFileSync(other, 'precious')
  const living = createServer().listen(taken)
  await once(living, 'listening')
  const dead = start(process.execPath, [
    '-e',
    `require('net').createServer().listen(${JSON.stringify(path)}, () => console.log(1))`
  ])
  await dead.line()
  dead.child.kill('SIGKILL')
  await dead.exit
  t.true(fs.existsSync(path))
  const port = await freePort()
  const { line, child, exit } = run(
    'darwin',
    `
    import { createServer } from 'node:http'
    const worker = await joinSupervisor({ standalone: {
      web: { path: ${JSON.stringify(path)}, mode: 0o640, backlog: 7 }, taken: { path: ${JSON.stringify(taken)} },
      other: { path: ${JSON.stringify(other)} }, port: { port: ${port} } , dns: { type: 'udp4', port: 0 } } })
    const server = createServer(({ url }, response) => response.end(url))
    const failed = []
    for (const name of ['taken', 'other', 'dns', 'none', 'taken']) await worker.listen(name, server).catch(({ code }) => failed.push(code))
    await worker.listen('web', server)
    await worker.listen('web', createServer()).catch(({ code }) => failed.push(code))
    await worker.listen('web', {}).catch(({ code }) => failed.push(code))
    const own = createServer(({ url }, response) => response.end('own ' + url)).listen(worker.listener('port'))
    worker.onStop(() => own.close())
    for (const refused of [() => worker.descriptor('web'), () => worker.receive('web', () => {}), () => new Supervisor({ entry: import.meta.url, listeners: { web: { port: 0 } } }).start()])
      try { await refused() } catch ({ code }) { failed.push(code) }
    console.log(JSON.stringify(failed))`
  )
  const PASSFD = 'ERR_PASSFD_'
  t.deepEqual(JSON.parse(await line()), [
    'EADDRINUSE',
    `${PASSFD}ADDRESS_IN_USE_BY_FILE`,
    `${PASSFD}DESCRIPTOR_KIND`,
    `${PASSFD}LISTENER_UNKNOWN`,
    'EADDRINUSE',
    `${PASSFD}LISTENER_SERVED`,
    `${PASSFD}LISTENER_SERVED`,
    `${PASSFD}PLATFORM`,
    `${PASSFD}PLATFORM`,
    `${PASSFD}PLATFORM`
  ])
  t.is(fs.statSync(path).mode & 0o777, 0o640)
  t.is(fs.readFileSync(other, 'utf8'), 'precious')
  const client = await Client.to({ path })
  t.is((await client.get('/web').answer()).body, '/web')
  const second = await Client.to({ port, host: '127.0.0.1' })
  t.is((await second.get('/port', 'Connection: close\r\n').answer()).body, 'own /port')
  child.kill('SIGTERM')
  await client.ended
  t.like(await exit, { code: 0, stderr: '' })
  t.false(fs.existsSync(path))
  for (const each of [client, second]) each.close()
  living.close()
  await once(living, 'close')
})

test('a path whose owner nobody knows is not opened, on Windows owners are ignored', async t => {
  const program = (path: string): string => `
    import { createServer } from 'node:http'
    const worker = await joinSupervisor({ standalone: { web: { path: ${JSON.stringify(path)}, owner: 'no such user' } } })
    const server = createServer()
    const code = await worker.listen('web', server).catch(error => error.code)
    console.log(code, server.listening)
    server.close()`
  const path = socketPath()
  t.is(await run('darwin', program(path)).line(), 'ERR_PASSFD_INVALID_ARGUMENT false')
  t.false(fs.existsSync(path))
  t.is(await run('win32', program(path)).line(), 'undefined true')
})

test('a path that is too long for a socket is refused, and nothing is created under a part of it', async t => {
  const folder = temporaryPath('folder')
  fs.mkdirSync(folder)
  const lengthOf = (bytes: number): string => join(folder, 'a'.repeat(bytes - Buffer.byteLength(join(folder, '_')) + 1))
  const program = (path: string): string => `
    import { createServer } from 'node:http'
    const worker = await joinSupervisor({ standalone: { web: { path: ${JSON.stringify(path)} } } })
    const server = createServer()
    const { code, message } = await worker.listen('web', server).catch(error => error) ?? {}
    console.log(JSON.stringify([code, server.listening, message]))
    server.close()`
  const [code, listening, message] = JSON.parse(await run('darwin', program(lengthOf(104))).line())
  t.deepEqual([code, listening, fs.readdirSync(folder)], ['ERR_PASSFD_ADDRESS_TOO_LONG', false, []])
  t.regex(message, /too long for a Unix socket \(macOS allows 103 bytes\)\. Use a shorter path\./)
  t.deepEqual(JSON.parse(await run('darwin', program(lengthOf(103))).line()), [null, true, null])
})

test('a path whose rights can not be set is found by nobody, and another try may follow', async t => {
  const path = socketPath()
  const { line, exit } = run(
    'darwin',
    `
    import fs from 'node:fs'
    import { createServer } from 'node:http'
    const { chmodSync } = fs
    fs.chmodSync = () => { throw Object.assign(new Error('no'), { code: 'EPERM' }) }
    const worker = await joinSupervisor({ standalone: { web: { path: ${JSON.stringify(path)} } } })
    const server = createServer()
    const code = await worker.listen('web', server).catch(({ code }) => code)
    console.log(code, fs.existsSync(${JSON.stringify(path)}))
    fs.chmodSync = chmodSync
    await worker.listen('web', server)
    console.log(fs.statSync(${JSON.stringify(path)}).mode & 0o777)
    await worker.stop()`
  )
  t.is(await line(), 'EPERM false')
  t.is(await line(), `${0o600}`)
  t.like(await exit, { code: 0, stderr: '' })
})

test('a second TERM destroys what is open; a server of net; two listeners of one server are refused', async t => {
  const [one, two] = [await freePort(), await freePort()]
  const { line, child, exit } = run(
    'darwin',
    `
    import { createServer } from 'node:net'
    const host = '127.0.0.1'
    const worker = await joinSupervisor({ standalone: { one: { port: ${one}, host }, two: { port: ${two}, host } }, lameDuck: 60000 })
    const server = createServer(socket => socket.on('error', () => {}).write('hello'))
    await worker.listen('one', server)
    await worker.listen('two', server)
    worker.lameDuck.addEventListener('abort', () => console.log('lame'))
    worker.signal.addEventListener('abort', () => console.log('stopping'))
    console.log('ready')`
  )
  t.is(await line(), 'ready')
  const clients = [one, two].map(port => connect(port, '127.0.0.1'))
  // A reset is a close, too
  const closed = clients.map(client => new Promise(resolve => client.on('error', () => {}).once('close', resolve)))
  for (const client of clients) await once(client, 'data')
  child.kill('SIGTERM')
  t.is(await line(), 'lame')
  child.kill('SIGTERM')
  t.is(await line(), 'stopping')
  child.kill('SIGTERM')
  await Promise.all(closed)
  t.like(await exit, { code: 1, signal: null })
})

test('every door can be imported, and the first use says where it works', async t => {
  const { line, exit } = run(
    'darwin',
    `
    const passfd = await import(${JSON.stringify(copy.url)})
    for (const door of ${JSON.stringify(doors)}) await import(new URL(door, ${JSON.stringify(copy.url)}))
    await joinSupervisor().catch(({ code }) => console.log(code))
    await passfd.connect('/tmp/none').catch(({ message }) => console.log(message))
    try { passfd.pair() } catch ({ code }) { console.log(code) }`
  )
  t.is(await line(), 'ERR_PASSFD_NOT_SUPERVISED')
  t.regex(await line(), /^Descriptors are passed on Linux only, and this is macOS\. .*standalone.*passfd serve/)
  t.is(await line(), 'ERR_PASSFD_PLATFORM')
  t.like(await exit, { code: 0, stderr: '' })
})
