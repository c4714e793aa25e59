import { once } from 'node:events'
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { ETOOMANYREFS } from '../../src/base/errno.ts'
import { bind, connect, type DatagramMessage, type DatagramSocket, unnamed } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { file, patched } from '../helpers/channels.ts'
import { abstractName, boundPair, closeSockets, fill, nextDatagram, texts } from '../helpers/datagrams.ts'
import { identity } from '../helpers/facts.ts'
import { times } from '../helpers/full.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { openDescriptors, test, testIf, testInCi, until } from '../helpers/test.ts'

const DATAGRAMS = times(1000, 10_000)

const python = '/usr/bin/python3'
const pythonFixture = new URL('../fixtures/datagram.py', import.meta.url).pathname
const me = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
const code = (name: string) => ({ code: `ERR_PASSFD_${name}` })

test('two sockets talk: bytes, descriptors, names and credentials, both ways', async t => {
  const path = socketPath()
  const server = await bind(path)
  const client = await connect(path, { from: true })
  const given = file()
  const inode = identity(given.borrow())
  await client.send(['he', Buffer.from('llo')], { descriptors: [given] })
  t.true(given.closed, 'it has moved')
  const message = await nextDatagram(server)
  t.is(message.data.toString(), 'hello')
  t.deepEqual(message.from, client.address)
  t.deepEqual(message.sender, me)
  t.is(identity(message.descriptors[0]!.borrow()), inode)
  await message.reply('there you are', { descriptors: [...message.descriptors] })
  const answer = await nextDatagram(client)
  t.is(answer.data.toString(), 'there you are')
  t.deepEqual(answer.from, { path })
  t.deepEqual(answer.sender, me)
  answer.descriptors[0]!.close()
  await closeSockets(server, client)
})

test('two processes: a file goes from one to the other, and the kernel says who sent it', async t => {
  for (const name of [socketPath(), `@${abstractName().abstract}`]) {
    const running = startFixture('datagram-server', [name])
    await running.line()
    const path = temporaryPath()
    fs.writeFileSync(path, 'written here')
    const client = await connect(name.startsWith('@') ? { abstract: name.slice(1) } : name)
    await client.send('take this', { descriptors: [await Descriptor.open(path)] })
    t.deepEqual(JSON.parse(await running.line()), ['take this', 1, 'written here', me])
    await client.send('')
    await running.line()
    t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
    await client.close()
  }
})

test('Python sends and receives', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, 'a letter')
  const server = await bind(socketPath())
  const to = (server.address as { path: string }).path
  const own = `@${abstractName().abstract}`
  const sender = start(python, [pythonFixture, 'send', to, own, 'from python', path, path])
  const message = await nextDatagram(server)
  t.is(message.data.toString(), 'from python')
  t.deepEqual(message.sender, { ...me, pid: sender.child.pid! })
  t.deepEqual(message.from, { abstract: own.slice(1) })
  for (const descriptor of message.descriptors) t.is(fs.readFileSync(descriptor.borrow(), 'utf8'), 'a letter')
  await message.reply('thank you')
  t.is(await sender.line(), 'thank you')
  t.is((await sender.exit).code, 0)
  for (const descriptor of message.descriptors) descriptor.close()

  const echo = start(python, [pythonFixture, 'echo', own])
  await echo.line()
  const client = await connect({ abstract: own.slice(1) }, { from: true })
  await client.send('listen', { descriptors: [await Descriptor.open(path)] })
  t.is(await echo.line(), 'listen 1 a letter')
  const answer = await nextDatagram(client)
  t.is(answer.data.toString(), 'echo listen')
  t.is(answer.sender?.pid, echo.child.pid)
  const bytes = Buffer.alloc(20)
  t.is(bytes.toString('utf8', 0, fs.readSync(answer.descriptors[0]!.borrow(), bytes)), 'from python')
  answer.descriptors[0]!.close()
  await client.send('')
  t.is((await echo.exit).code, 0)
  await closeSockets(server, client)
})

const notifier = '/usr/bin/systemd-notify'

testIf(fs.existsSync(notifier) ? undefined : 'no systemd', 'systemd-notify is heard, and known by its pid', async t => {
  for (const address of [{ path: socketPath() }, abstractName()]) {
    const server = await bind(address)
    const NOTIFY_SOCKET = 'path' in address ? address.path : `@${address.abstract}`
    const notify = start(notifier, ['--ready', '--status=all is well'], { env: { NOTIFY_SOCKET } })
    const told: DatagramMessage[] = []
    server.on('message', message => void told.push(message))
    // It waits until the pipe that it sends with BARRIER=1 is closed, as nothing claims it
    const { code: exitCode, stderr } = await notify.exit
    t.is(stderr, '')
    t.is(exitCode, 0)
    const [{ data, sender }] = told as [DatagramMessage]
    t.deepEqual(data.toString().split('\n').sort(), ['READY=1', 'STATUS=all is well'])
    t.is(sender?.uid, me.uid)
    t.is(sender?.pid, me.pid, 'root may, and this tool does, speak for its parent')
    t.is(told[1]?.data.toString(), 'BARRIER=1')
    await server.close()
  }
})

// --- whose datagrams are taken

// --- what is taken, and what is not

test('nothing is cut off: a datagram of 300,000 bytes arrives whole', async t => {
  const [server, client] = await boundPair()
  const bytes = Buffer.alloc(300_000, 'passfd')
  void client.send(bytes, { to: server.address! })
  t.true((await nextDatagram(server)).data.equals(bytes))
  await closeSockets(server, client)
})

test('trap 11: a datagram without a byte brings its descriptors', async t => {
  const [server, client] = await boundPair()
  void client.send('', { to: server.address!, descriptors: [file(), file()] })
  const { data, descriptors } = await nextDatagram(server)
  t.is(data.length, 0)
  t.is(descriptors.length, 2)
  for (const descriptor of descriptors) descriptor.close()
  await closeSockets(server, client)
})

test('trap 05: every number of descriptors arrives whole', async t => {
  const [server, client] = await boundPair()
  for (const count of [1, 2, 3, 4, 5, 127, 128, 252, 253]) {
    void client.send(`${count}`, { to: server.address!, descriptors: Array.from({ length: count }, file) })
    const { descriptors } = await nextDatagram(server)
    t.is(descriptors.length, count)
    for (const descriptor of descriptors) descriptor.close()
  }
  const tooMany = Array.from({ length: 254 }, file)
  t.throws(() => client.send('x', { to: server.address!, descriptors: tooMany }), code('TOO_MANY_DESCRIPTORS'))
  for (const descriptor of tooMany) descriptor.close()
  await closeSockets(server, client)
})

test('a sender is answered by its exact name, even if that is no text', async t => {
  const server = await bind()
  const odd = Buffer.concat([Buffer.from('\0\xff\xfe\0x', 'latin1'), Buffer.from(abstractName().abstract)])
  const fd = native.socket(2)
  native.bind(fd, odd, -1)
  const to = Buffer.from(`\0${(server.address as { abstract: string }).abstract}`)
  t.is(native.sendMessage(fd, Buffer.from('x'), 0, 1, new Int32Array(0), 0, 0, to), 1)
  const message = await nextDatagram(server)
  await message.reply('answer')
  t.is(native.pending(fd), 6)
  native.close(fd)
  await server.close()
})

test('nobody who has no name, or one of his own process only, is answered', async t => {
  const server = await bind(socketPath())
  const long = join(dirname(socketPath()), 'x'.repeat(100))
  fs.mkdirSync(long)
  const to = server.address!
  for (const client of [unnamed(), await bind(join(long, 'socket'))]) {
    await client.send('x', { to })
    const message = await nextDatagram(server)
    t.is(message.from, undefined)
    t.throws(() => message.reply('y'), code('UNNAMED_SENDER'))
    await client.close()
  }
  await server.close()
})

// --- scope

test("in 'message' listeners a descriptor is lent until they return", async t => {
  const [server, client] = await boundPair()
  let kept: Descriptor | undefined
  let lent: Descriptor | undefined
  server.once('message', ({ descriptors }) => {
    lent = descriptors[0]!
    kept = descriptors[1]!.claim()
    t.is(lent.kind, 'device')
  })
  void client.send('x', { to: server.address!, descriptors: [file(), file()] })
  await once(server, 'message')
  const error = t.throws(() => lent!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
  t.regex(error.message, new RegExp(`came in a datagram from pid ${me.pid} .* the 'message' listeners returned`))
  kept!.close()
  await closeSockets(server, client)
})

test('in for await a descriptor is lent until the next datagram is asked for', async t => {
  const [server, client] = await boundPair()
  const to = server.address!
  void client.send('one', { to, descriptors: [file()] })
  void client.send('two', { to, descriptors: [file()] })
  const seen: Descriptor[] = []
  for await (const { descriptors } of server) {
    if (seen.length > 0) {
      const error = t.throws(() => seen[0]!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
      t.regex(error.message, /the next datagram was asked for/)
    }
    seen.push(descriptors[0]!)
    await turn()
    t.is(descriptors[0]!.kind, 'device', 'open until then')
    if (seen.length === 2) break
  }
  t.throws(() => seen[1]!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
  await closeSockets(server, client)
})

test('dispose ends the scope early, and claim keeps all', async t => {
  const [server, client] = await boundPair()
  const to = server.address!
  for (const _ of [1, 2]) void client.send('x', { to, descriptors: [file(), file()] })
  const messages: DatagramMessage[] = []
  server.on('message', message => {
    messages.push(message)
    if (messages.length === 1) message[Symbol.dispose]()
    else message.claim()[Symbol.dispose]()
  })
  await until(() => messages.length === 2, 'both')
  const [one, two] = messages as [DatagramMessage, DatagramMessage]
  for (const descriptor of one.descriptors) t.true(descriptor.closed)
  for (const descriptor of two.descriptors) descriptor.close()
  await closeSockets(server, client)
})

test('a listener that throws is an uncaught exception, and nothing else', async t => {
  const running = startFixture('datagram-throws')
  const lines = [await running.line(), await running.line(), await running.line()]
  t.deepEqual(lines.sort(), ['one 0', 'two 0', 'uncaught a mistake of the program'])
  t.is((await running.exit).code, 0)
})

// --- consuming

test('nothing is read before somebody consumes, and it has one consumer', async t => {
  const [server, client] = await boundPair()
  const to = server.address!
  void client.send('waits', { to })
  await turn()
  t.is(native.pending(openNumber(server)), 5)
  const iterator = server[Symbol.asyncIterator]()
  t.throws(() => server.on('message', () => {}), code('CONSUMED'))
  t.throws(() => server[Symbol.asyncIterator](), code('CONSUMED'))
  t.is((await iterator.next()).value!.data.toString(), 'waits')
  await iterator.return!()
  t.deepEqual(await iterator.next(), { done: true, value: undefined })
  const listener = (): void => {}
  server.on('message', listener)
  t.throws(() => server[Symbol.asyncIterator](), code('CONSUMED'))
  server.off('message', listener)
  void client.send('again', { to })
  t.deepEqual(await texts(server, 1), ['again'])
  server.removeAllListeners()
  void client.send('heard', { to })
  t.is((await nextDatagram(server)).data.toString(), 'heard')
  await closeSockets(server, client)
})

test('maxUnclaimed: reading pauses while so many are being closed, and goes on when they are', async t => {
  const [server, client] = await boundPair({ maxUnclaimed: 3 })
  const held: [Int32Array, number, number][] = []
  let seen = 0
  await patched(
    'closeLater',
    () => (fds, start, count, tag) => {
      held.push([fds.slice(start, start + count), count, tag])
      return count
    },
    async () => {
      server.on('message', () => seen++)
      for (let i = 0; i < 8; i++) void client.send('x', { to: server.address!, descriptors: [file(), file()] })
      for (let i = 0; i < 10; i++) await turn()
      t.is(seen, 2, 'four are being closed')
    }
  )
  for (const [fds, count, tag] of held) native.closeLater(fds, 0, count, tag)
  await until(() => seen === 8, 'all')
  await closeSockets(server, client)
})

// --- addresses

test('misuse throws at the call and moves nothing', async t => {
  const server = await bind()
  const to = server.address!
  const [connected, free] = [await connect(to), unnamed()]
  const [descriptor, closed] = [file(), file()]
  closed.close()
  const cases: [DatagramSocket, unknown, unknown, string][] = [
    [connected, 7, {}, 'INVALID_ARGUMENT'],
    [connected, null, {}, 'INVALID_ARGUMENT'],
    [connected, ['a', 7], {}, 'INVALID_ARGUMENT'],
    [connected, [['a']], {}, 'INVALID_ARGUMENT'],
    [connected, 'x', null, 'INVALID_ARGUMENT'],
    [connected, 'x', { to }, 'INVALID_ARGUMENT'],
    [free, 'x', {}, 'INVALID_ARGUMENT'],
    [free, 'x', { to: 7 }, 'INVALID_ARGUMENT'],
    [free, 'x', { to: '' }, 'INVALID_ARGUMENT'],
    [connected, 'x', { signal: 'now' }, 'INVALID_ARGUMENT'],
    [connected, 'x', { descriptors: descriptor }, 'INVALID_ARGUMENT'],
    [connected, 'x', { descriptors: [descriptor, 3] }, 'INVALID_ARGUMENT'],
    [connected, 'x', { descriptors: [descriptor, descriptor] }, 'DESCRIPTOR_REPEATED'],
    [connected, 'x', { descriptors: [descriptor, closed] }, 'DESCRIPTOR_CLOSED']
  ]
  for (const [index, [socket, data, options, expected]] of cases.entries())
    t.throws(() => socket.send(data as string, options as object), code(expected), `case ${index}`)
  t.false(descriptor.closed)
  t.is(native.pending(openNumber(server)), 0)
  descriptor.close()
  for (const options of [null, { mode: 0o1000 }, { maxMessage: -1 }, { authorize: true }, { signal: 1 }])
    await t.throwsAsync(bind(undefined, options as object), code('INVALID_ARGUMENT'))
  await closeSockets(server, connected, free)
})

// --- the end

test('close() lets what is queued leave', async t => {
  const [server, client] = await boundPair()
  const count = 100
  for (let i = 0; i < count; i++) void client.send(`${i}`, { to: server.address! })
  t.true(client.queued > 0)
  const closed = client.close()
  t.throws(() => client.send('x', { to: server.address! }), code('SOCKET_CLOSED'))
  t.deepEqual(
    await texts(server, count),
    Array.from({ length: count }, (_, i) => `${i}`)
  )
  await closed
  t.is(await client.closed, undefined)
  await server.close()
  await t.notThrowsAsync(client.close(), 'twice')
})

test('close() gives up after closeTimeout; what has not left is ours again', async t => {
  const server = await bind()
  fill(server.address as { abstract: string })
  const client = await connect(server.address!, { closeTimeout: 20 })
  const given = file()
  const sent = client.send('x', { descriptors: [given] })
  t.true(given.closed)
  await client.close()
  const error = await t.throwsAsync(sent, code('SOCKET_CLOSED'))
  t.like(error!.cause, code('CLOSE_TIMEOUT'))
  t.like(await client.closed, code('CLOSE_TIMEOUT'))
  t.false(given.closed)
  given.close()
  await server.close()
})

test('close() gives up after closeTimeout, and names what the kernel refuses meanwhile', async t => {
  const [receiver, sender] = await boundPair({ closeTimeout: 20 })
  const given = file()
  await patched(
    'sendMessage',
    () => () => ETOOMANYREFS,
    async () => {
      const sent = sender.send('x', { to: receiver.address!, descriptors: [given] })
      await sender.close()
      await t.throwsAsync(sent, code('SOCKET_CLOSED'))
    }
  )
  const error: any = await sender.closed
  t.like(error, code('CLOSE_TIMEOUT'))
  t.regex(error.message, /ETOOMANYREFS/)
  t.like(error.cause, { code: 'ETOOMANYREFS', errno: ETOOMANYREFS, syscall: 'sendmsg' })
  given.close()
  await receiver.close()
})

test('destroy() closes at once, and what nobody awaits is no unhandled rejection', async t => {
  const server = await bind(socketPath())
  const client = await connect(server.address!)
  for (let i = 0; i < 50; i++) void client.send('x')
  const events: unknown[] = []
  client.on('close', error => events.push(error))
  const reason = new Error('enough')
  client.destroy(reason)
  client.destroy(new Error('again'))
  t.is(await client.closed, reason)
  t.deepEqual(events, [reason])
  t.is(client.queued, 0)
  const next = server[Symbol.asyncIterator]()
  for (let i = 0; i < 10; i++) await next.next()
  server.destroy()
  t.deepEqual(await next.next(), { done: true, value: undefined })
  t.is(await server.closed, undefined)
  t.false(fs.existsSync((server.address as { path: string }).path))
})

test('closing ends the iteration that waits', async t => {
  const server = await bind()
  const waiting = texts(server, 1)
  await turn()
  await server.close()
  t.deepEqual(await waiting, [])
  await using other = await bind()
  void other
})

test('a signal closes the socket, or ends the attempt', async t => {
  const path = socketPath()
  const controller = new AbortController()
  const server = await bind(path, { signal: controller.signal })
  controller.abort()
  t.like(await server.closed, { name: 'AbortError', code: 'ABORT_ERR' })
  t.false(fs.existsSync(path))
  await t.throwsAsync(bind(path, { signal: controller.signal }), { name: 'AbortError' })
  await t.throwsAsync(connect(path, { signal: controller.signal }), { name: 'AbortError' })
  t.throws(() => unnamed({ signal: controller.signal }), { name: 'AbortError' })
  const late = new AbortController()
  const binding = bind(path, { signal: late.signal })
  late.abort()
  await t.throwsAsync(binding, { name: 'AbortError' })
  t.false(fs.existsSync(path))
})

testInCi('several worker threads, with descriptors both ways', async t => {
  const running = startFixture('datagram-workers')
  t.is(await running.line(), JSON.stringify([5050, 5050, 5050]))
  t.is(await running.line(), '0')
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
})

test(`${DATAGRAMS} datagrams with descriptors leave nothing behind`, async t => {
  const [server, client] = await boundPair({ maxUnclaimed: 100 })
  const count = DATAGRAMS
  const open = openDescriptors().size
  const to = server.address!
  let seen = 0
  let most = 0
  server.on('message', ({ descriptors }) => {
    seen += descriptors.length
    if (seen % 500 === 0) most = Math.max(most, openDescriptors().size)
  })
  for (let i = 0; i < count; i++) await client.send('x', { to, descriptors: [file()] })
  await until(() => seen === count, 'all')
  t.true(most < open + 150, `${most} were open, ${open} before`)
  await closeSockets(server, client)
})

/** The number of a socket of this process, found by its name. */
function openNumber({ address }: DatagramSocket): number {
  const name = Buffer.alloc(108)
  for (const [fd, target] of openDescriptors()) {
    if (!target.startsWith('socket:')) continue
    const length = native.name(fd, false, name)
    if (length > 0 && name.toString('utf8', 1, length) === (address as { abstract: string }).abstract) return fd
  }
  throw new Error('not open here')
}
