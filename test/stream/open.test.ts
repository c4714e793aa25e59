/** Connecting, listening and accepting: src/stream/open.ts and src/stream/server.ts. */
import { once } from 'node:events'
import { existsSync, statSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { own } from '../../src/descriptor/descriptor.ts'
import { Descriptor, type Peer } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import {
  connect,
  connectPackets,
  type DescriptorStream,
  listen,
  listenPackets,
  type PacketSocket
} from '../../src/stream/index.ts'
import { file } from '../helpers/channels.ts'
import { identity } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { destroyed } from '../helpers/streams.ts'
import { test, until } from '../helpers/test.ts'

for (const [what, address] of [
  ['a path', socketPath()],
  ['a long path', `${socketPath()}${'x'.repeat(60)}`],
  ['{ path }', { path: socketPath() }],
  ['an abstract name', { abstract: `passfd-test-${process.pid}` }]
] as const)
  test(`${what}: bytes and descriptors between what connect and listen give`, async t => {
    const server = await listen(address)
    const accepted = once(server, 'connection') as Promise<[DescriptorStream]>
    const client = await connect(address)
    const [stream] = await accepted
    t.is(client.peer.pid, process.pid)
    t.is(stream.peer.pid, process.pid)
    const mine = file()
    const before = identity(mine.borrow())
    client.writeWithDescriptors('x', [mine])
    stream.resume()
    const [[descriptor], position] = await once(stream, 'descriptors')
    t.is(position, 0)
    t.is(identity(descriptor.borrow()), before)
    descriptor.close()
    await server.close()
    t.false(client.destroyed, 'the connections live on')
    await destroyed(client, stream)
  })

test('the file is ours alone from its first instant, and gone after close', async t => {
  const path = socketPath()
  const server = await listen(path)
  t.is(statSync(path).mode & 0o777, 0o600)
  await t.throwsAsync(listen(path), { code: 'EADDRINUSE' })
  await server.close()
  t.false(existsSync(path))
  t.is(await server.closed, undefined)
  const wide = await listen(path, { mode: 0o666 })
  t.is(statSync(path).mode & 0o777, 0o666)
  await wide[Symbol.asyncDispose]()
  writeFileSync(path, '')
  await t.throwsAsync(listen(path), { code: 'ERR_PASSFD_ADDRESS_IN_USE_BY_FILE' })
})

test('another process: a plain client of Node’s', async t => {
  const path = socketPath()
  const server = await listen(path)
  const client = net.connect(path)
  client.end('from net')
  for await (const stream of server) {
    const [bytes] = await once(stream, 'data')
    t.is(String(bytes), 'from net')
    await once(stream, 'close')
    break
  }
  client.resume()
  await once(client, 'close')
  await server.close()
})

test('a client may send descriptors before it is accepted', async t => {
  const path = socketPath()
  const server = await listen(path)
  const client = await connect(path)
  t.falsy(await new Promise(resolve => client.writeWithDescriptors('x', [file()], resolve)))
  const [stream] = (await once(server, 'connection')) as [DescriptorStream]
  stream.resume()
  const [[descriptor]] = await once(stream, 'descriptors')
  descriptor.close()
  await destroyed(client, stream)
  await server.close()
})

test('two processes: a descriptor there and another one back', async t => {
  const path = socketPath()
  const server = await listen(path)
  const running = startFixture('stream-client', [path])
  const [stream] = (await once(server, 'connection')) as [DescriptorStream]
  t.is(stream.peer.pid, running.child.pid!)
  for await (const { descriptors } of stream.withDescriptors())
    for (const descriptor of descriptors) {
      t.is(descriptor.kind, 'pipe')
      descriptor.toWritable().end('written by the other process')
      stream.end('thank you')
    }
  t.is(await running.line(), 'written by the other process')
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
  await server.close()
})

test('trap 31: who is not let in is refused, and nothing of it is read', async t => {
  const path = socketPath()
  const asked: Peer[] = []
  const server = await listen(path, {
    authorize: peer => {
      asked.push(peer)
      return false
    }
  })
  server.on('connection', () => t.fail())
  const client = await connect(path)
  client.resume()
  const [peer, error] = await once(server, 'refused')
  t.is(peer, asked[0])
  t.is(error.code, 'ERR_PASSFD_UNAUTHORIZED')
  await once(client, 'close')
  await server.close()

  const fair = await listen(path)
  await t.throwsAsync(connect(path, { authorize: async () => false }), { code: 'ERR_PASSFD_UNAUTHORIZED' })
  await t.throwsAsync(
    connect(path, {
      authorize: () => {
        throw new Error('no')
      }
    }),
    { code: 'ERR_PASSFD_AUTHORIZE_FAILED' }
  )
  await fair.close()
})

test('by default only our own user and root are let in', async t => {
  const path = publicPath()
  const server = await listen(path, { mode: 0o666 })
  server.on('connection', () => t.fail())
  const script = "require('net').connect(process.argv[1]).resume().on('close', () => console.log('turned away'))"
  const stranger = start(process.execPath, ['-e', script, path], { uid: NOBODY, gid: NOBODY })
  const [peer, error] = await once(server, 'refused')
  t.is(peer.uid, NOBODY)
  t.is(error.code, 'ERR_PASSFD_UNAUTHORIZED')
  t.is(await stranger.line(), 'turned away')
  await stranger.exit
  await server.close()
})

test('an authorize that never answers ends with its time', async t => {
  const path = socketPath()
  const server = await listen(path, { authorize: () => new Promise(() => {}), handshakeTimeout: 20 })
  server.on('connection', () => t.fail())
  const refused = once(server, 'refused')
  const client = await connect(path)
  const [, error] = await refused
  t.is(error.code, 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  await destroyed(client)
  await server.close()
})

test('nobody is accepted that nobody wants: they wait in the listener’s queue', async t => {
  const path = socketPath()
  const server = await listen(path, { maxConnections: 2 })
  const clients = await Promise.all([connect(path), connect(path), connect(path)])
  for (let i = 0; i < 5; i++) await turn()
  const streams: DescriptorStream[] = []
  const iterator = server[Symbol.asyncIterator]()
  streams.push((await iterator.next()).value)
  for (let i = 0; i < 5; i++) await turn()
  server.on('connection', stream => streams.push(stream))
  await until(() => streams.length === 2, 'the second')
  for (let i = 0; i < 5; i++) await turn()
  t.is(streams.length, 2, 'maxConnections')
  streams[0]!.destroy()
  await until(() => streams.length === 3, 'the third')
  const waiting = iterator.next()
  await server.close()
  t.deepEqual(await waiting, { done: true, value: undefined })
  t.deepEqual(await iterator.next(), { done: true, value: undefined })
  await destroyed(...clients, ...streams.slice(1))
})

test('a listener for one connection gets one; those that were accepted with it are given to the next', async t => {
  const path = socketPath()
  const server = await listen(path)
  const clients = await Promise.all([1, 2, 3, 4].map(() => connect(path)))
  for (const client of clients) client.resume() // it would notice the end
  const streams: DescriptorStream[] = []
  streams.push((await once(server, 'connection'))[0])
  for (let i = 0; i < 5; i++) await turn()
  streams.push((await once(server, 'connection'))[0])
  for await (const stream of server) {
    streams.push(stream)
    break
  }
  for (let i = 0; i < 5; i++) await turn()
  t.deepEqual(
    clients.map(client => client.readableEnded),
    [false, false, false, false]
  )
  await server.close()
  await until(() => clients.filter(client => client.readableEnded).length === 1, 'the end of the one that nobody took')
  await destroyed(...clients, ...streams)
})

test('a Descriptor as an address: connected or listening', async t => {
  const [left, right] = Descriptor.socketpair()
  const [one, other] = [await connect(left), await connect(right)]
  one.end('x')
  const [bytes] = await once(other, 'data')
  t.is(String(bytes), 'x')
  await destroyed(one, other)

  const path = socketPath()
  const server = await listen(await Descriptor.bind({ path }))
  const accepted = once(server, 'connection')
  const client = await connect(path)
  const [stream] = await accepted
  await server.close()
  t.true(existsSync(path), 'the file is whoever’s created it')
  await destroyed(client, stream)
  const wrong = file()
  await t.throwsAsync(connect(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  await t.throwsAsync(listen(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  wrong.close()
})

test('failures: nobody there, nonsense, an abort', async t => {
  const path = socketPath()
  await t.throwsAsync(connect(path), { code: 'ENOENT' })
  for (const options of [
    { maxDescriptors: -1 },
    { handshakeTimeout: 'long' },
    { signal: 1 },
    { authorize: true },
    null
  ])
    await t.throwsAsync(connect(path, options as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  for (const options of [{ mode: 0o1000 }, { backlog: 0 }, { maxConnections: 0 }])
    await t.throwsAsync(listen(path, options), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  await t.throwsAsync(connect(7 as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  await t.throwsAsync(connect(path, { signal: AbortSignal.abort() }), { name: 'AbortError' })
  await t.throwsAsync(listen(path, { signal: AbortSignal.abort() }), { name: 'AbortError' })
  const abort = new AbortController()
  const server = await listen(path, { signal: abort.signal })
  abort.abort()
  t.is((await server.closed)!.name, 'AbortError')
  t.false(existsSync(path))
})

test('trap 32: a full backlog is waited for', async t => {
  const path = socketPath()
  const server = await listen(path, { backlog: 1 })
  const clients = [await connect(path), await connect(path)]
  await t.throwsAsync(connect(path, { handshakeTimeout: 20 }), { code: 'ERR_PASSFD_CONNECT_TIMEOUT' })
  const third = connect(path)
  const streams: DescriptorStream[] = []
  server.on('connection', stream => streams.push(stream))
  clients.push(await third)
  await until(() => streams.length === 3, 'all')
  await destroyed(...clients, ...streams)
  await server.close()
})

test('packets: connectPackets and listenPackets', async t => {
  const path = socketPath()
  const server = await listenPackets(path)
  const accepted = once(server, 'connection') as Promise<[PacketSocket]>
  const client = await connectPackets(path)
  const [socket] = await accepted
  await t.throwsAsync(connect(path), { code: 'EPROTOTYPE' })
  await client.send('one', [file()])
  client.end()
  for await (const { bytes, descriptors } of socket) {
    t.is(String(bytes), 'one')
    for (const descriptor of descriptors) descriptor.close()
  }
  t.is(await socket.closed, undefined)
  client.destroy()
  await server.close()
  t.false(existsSync(path))

  const ends = new Int32Array(2)
  native.socketpair(5, ends)
  const [left, right] = [await connectPackets(own(ends[0]!)), await connectPackets(own(ends[1]!))]
  left.send('x')
  for await (const { bytes } of right) {
    t.is(String(bytes), 'x')
    break
  }
  for (const end of [left, right]) end.destroy()
})
