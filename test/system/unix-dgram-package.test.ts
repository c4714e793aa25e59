/** Our `createSocket` passes the tests of the package unix-dgram, as they stand in its installed copy, and does what it can't. */
import { once } from 'node:events'
import * as fs from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bind, createSocket, type ReceivedFrom, UnixSocket, type UnixSocketError } from '../../src/datagram/index.ts'
import type { Descriptor } from '../../src/index.ts'
import { file } from '../helpers/channels.ts'
import { abstractName, closeSockets } from '../helpers/datagrams.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { openDescriptors, testInCi, testInCiIf } from '../helpers/test.ts'
import { notLoaded, theirSocket } from '../helpers/unix-dgram.ts'

const require = createRequire(import.meta.url)
const original = dirname(dirname(require.resolve('unix-dgram')))
const entry = fileURLToPath(new URL('../../build/dist/datagram/index.js', import.meta.url))
const theirTests = fs.readdirSync(join(original, 'test')).filter(name => name.endsWith('.js'))

testInCi('unix-dgram has the tests that are known', t => {
  t.deepEqual(theirTests.sort(), [
    'test-connect-callback.js',
    'test-connect.js',
    'test-dgram-unix.js',
    'test-send-error.js'
  ])
})

for (const name of theirTests)
  testInCi(`unix-dgram's own ${name} passes`, async t => {
    const folder = temporaryPath('unix-dgram')
    fs.mkdirSync(join(folder, 'test'), { recursive: true })
    fs.mkdirSync(join(folder, 'lib'))
    const source = fs.readFileSync(join(original, 'test', name), 'utf8')
    fs.writeFileSync(join(folder, 'lib/unix_dgram.js'), `module.exports = require(${JSON.stringify(entry)})\n`)
    // Its sockets stand in /tmp: in this folder two runs at a time don't meet
    fs.writeFileSync(join(folder, 'test', name), source.replaceAll("'/tmp/", `'${folder}/`))
    const { code, signal, stderr } = await start(process.execPath, [join(folder, 'test', name)]).exit
    t.is(code, 0, stderr)
    t.is(signal, null)
  })

testInCiIf(notLoaded, 'it has what unix-dgram has', t => {
  const [mine, other] = [createSocket('unix_dgram'), theirSocket<UnixSocket>()]
  for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(other)))
    t.is(typeof mine[name as keyof UnixSocket], typeof other[name as keyof UnixSocket], name)
  for (const name of ['fd', 'type'] as const) t.is(typeof mine[name], typeof other[name])
  for (const name of ['address', 'setTTL', 'setBroadcast', 'addMembership'] as const) {
    const messages = [mine, other].map(socket => t.throws(() => (socket[name] as () => void)())?.message)
    t.is(messages[0], messages[1])
  }
  t.throws(() => createSocket('tcp' as 'unix_dgram'), { message: 'Unsupported socket type: tcp' })
  const failures = [mine, other].map(socket => {
    let found: unknown
    socket.once('error', ({ name, message, errno, code, syscall }: UnixSocketError) => {
      found = { name, message, errno, code, syscall }
    })
    socket.connect('/does/not/exist')
    return found
  })
  t.deepEqual(failures[0], failures[1])
  mine.close()
  other.close()
  t.is(mine.fd, -1)
  t.like(
    t.throws(() => mine.close()),
    { syscall: 'close' }
  )
  const udp = createSocket('udp4')
  t.is(udp.constructor.name, 'Socket')
  udp.close()
})

testInCi('unheard, an error throws, as with any emitter', t => {
  const socket = createSocket('unix_dgram')
  t.throws(() => socket.bind('/does/not/exist/socket'), { message: 'bind -2' })
  t.throws(() => socket.send(Buffer.from('x'), 0, 1, '/does/not/exist'), { message: 'send -2' })
  let given: UnixSocketError | undefined
  socket.send(Buffer.from('x'), 0, 1, '/does/not/exist', error => {
    given = error
  })
  t.like(given, { errno: -2, code: -2 })
  t.throws(() => socket.send(Buffer.from('x'), 1, 1, '/does/not/exist'), { instanceOf: RangeError })
  t.throws(() => socket.send('x' as never, 0, 1, '/does/not/exist'), { instanceOf: TypeError })
  socket.close()
  t.throws(() => socket.send(Buffer.from('x'), 0, 1, '/does/not/exist'), { message: 'send -9' })
})

testInCi('it tells of congestion, and of room', async t => {
  const path = socketPath()
  const server = createSocket('unix_dgram')
  const seen: string[] = []
  server.bind(path)
  const client = createSocket('unix_dgram')
  client.connect(path)
  const congested = once(client, 'congestion')
  let count = 0
  while (client.listenerCount('congestion') > 0) client.send(Buffer.from(`${count++}`))
  t.is((await congested)[0].toString(), `${count - 1}`)
  let code: unknown
  client.send(Buffer.from('x'), error => {
    code = (error as NodeJS.ErrnoException).code
  })
  t.is(code, 1)
  server.on('message', data => seen.push(data.toString()))
  await once(client, 'writable')
  client.send(Buffer.from('last'))
  while (seen.at(-1) !== 'last') await once(server, 'message')
  t.deepEqual(seen, [...Array.from({ length: count - 1 }, (_, i) => `${i}`), 'last'])
  client.close()
  server.close()
  t.true(fs.existsSync(path), 'the file stays, as with unix-dgram')
})

testInCi('more than unix-dgram: descriptors, the sender, 200,000 bytes, long paths', async t => {
  const folder = join(dirname(socketPath()), 'l'.repeat(120))
  fs.mkdirSync(folder)
  const path = join(folder, 'socket')
  const server = createSocket('unix_dgram')
  server.bind(path)
  const sender = await bind(abstractName())
  const files = [file(), file()]
  const received = new Promise<[Buffer, ReceivedFrom, Descriptor]>(resolve =>
    server.once('message', (data, from) => {
      t.deepEqual(
        from.descriptors.map(({ kind }) => kind),
        ['device', 'device']
      )
      resolve([data, from, from.descriptors[0]!.claim()])
    })
  )
  await sender.send(Buffer.alloc(200_000, 'x'), { to: path, descriptors: files })
  const [data, from, claimed] = await received
  t.is(data.length, 200_000)
  t.like(from, {
    size: 200_000,
    path: null,
    from: sender.address,
    pid: process.pid,
    uid: process.getuid!(),
    error: undefined
  })
  t.throws(() => from.descriptors[1]!.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_UNCLAIMED' })
  claimed.close()
  const client = createSocket('unix_dgram')
  client.send(Buffer.from('foobarbaz'), 3, 4, path)
  const [text, { size }] = await once(server, 'message')
  t.is(text.toString(), 'barb')
  t.is(size, 4)
  client.close()
  server.close()
  await closeSockets(sender)
})

testInCi('in worker threads, where unix-dgram does not work', async t => {
  const running = startFixture('unix-dgram-workers', [socketPath()])
  t.deepEqual(JSON.parse(await running.line()), [100, 100])
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
})

testInCi('ref and unref, and nothing left open', t => {
  const before = openDescriptors().size
  const socket = new UnixSocket('unix_dgram')
  t.is(socket.unref().ref(), socket)
  socket.close()
  t.is(openDescriptors().size, before)
})
