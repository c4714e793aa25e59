/** Binding and connecting: names, socket files, and Descriptors that are there. */
import * as fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { bind, connect, unnamed } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { file } from '../helpers/channels.ts'
import { abstractName, closeSockets, nextDatagram, release, socketpair, texts } from '../helpers/datagrams.ts'
import { socketPath } from '../helpers/path.ts'
import { openDescriptors, test } from '../helpers/test.ts'

const me = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
const code = (name: string) => ({ code: `ERR_PASSFD_${name}` })

test('a random name is one that nobody guesses; an abstract one goes with its socket', async t => {
  const [one, other] = [await bind(), await bind()]
  t.regex((one.address as { abstract: string }).abstract, /^passfd-[0-9a-f]{32}$/)
  t.notDeepEqual(one.address, other.address)
  await closeSockets(one, other)
  const client = unnamed()
  await t.throwsAsync(client.send('x', { to: one.address! }), { code: 'ECONNREFUSED' })
  await client.close()
})

test('a name in use is EADDRINUSE; a dead socket file is replaced, another file is left alone', async t => {
  const path = socketPath()
  const server = await bind(path)
  t.like(await t.throwsAsync(bind(path)), { code: 'EADDRINUSE', syscall: 'bind', address: path })
  await t.throwsAsync(connect(path, { from: path }), { code: 'EADDRINUSE' })
  t.true(fs.existsSync(path), 'its owner still has it')
  const name = abstractName()
  const abstract = await bind(name)
  await t.throwsAsync(bind(name), { code: 'EADDRINUSE' })
  await closeSockets(server, abstract)
  t.false(fs.existsSync(path))

  const dead = native.socket(2)
  native.bind(dead, Buffer.from(path), 0o600)
  native.close(dead)
  t.true(fs.existsSync(path))
  await (await bind(path)).close()
  fs.writeFileSync(path, 'precious')
  await t.throwsAsync(bind(path), code('ADDRESS_IN_USE_BY_FILE'))
  t.is(fs.readFileSync(path, 'utf8'), 'precious')
})

test("trap 30: close() removes the file only if it is still this socket's", async t => {
  const path = socketPath()
  const first = await bind(path)
  fs.unlinkSync(path)
  const second = await bind(path)
  await first.close()
  t.true(fs.existsSync(path), "the successor's")
  await second.close()
  t.false(fs.existsSync(path))
})

test("trap 30: a stream server's live socket is not taken for dead, nor is a datagram socket by a stream server", async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  await t.throwsAsync(bind(path), { code: 'EADDRINUSE' })
  listener.close()
  const server = await bind(path)
  await t.throwsAsync(Descriptor.bind({ path }), { code: 'EADDRINUSE' })
  await server.close()
})

test('paths of any length', async t => {
  const folder = join(dirname(socketPath()), 'long'.repeat(30))
  fs.mkdirSync(folder, { recursive: true })
  const path = join(folder, basename(socketPath()))
  const server = await bind(path)
  const [client, other] = [await connect(path), unnamed()]
  void client.send('connected')
  void other.send('not connected', { to: path })
  t.deepEqual(await texts(server, 2), ['connected', 'not connected'])
  await t.throwsAsync(other.send('x', { to: join(folder, 'x'.repeat(200)) }), code('ADDRESS_TOO_LONG'))
  await closeSockets(server, client, other)
  t.false(fs.existsSync(path))
})

test('a Descriptor is taken as it is: bound, or connected', async t => {
  const [left, right] = socketpair()
  native.sendMessage(left.borrow(), Buffer.from('early'), 0, 5, new Int32Array(0), 0, 0, null)
  const [one, other] = [await bind(left), await connect(right)]
  t.true(left.closed && right.closed)
  t.is(one.address, undefined)
  t.like(await nextDatagram(other), { sender: undefined })
  void one.send('pair', { descriptors: [file()] })
  const message = await nextDatagram(other)
  t.is(message.sender?.pid, me.pid)
  message.descriptors[0]!.close()
  t.throws(() => one.send('x', { to: abstractName() }), code('INVALID_ARGUMENT'))
  await closeSockets(one, other)

  const [stream, end] = Descriptor.socketpair()
  await t.throwsAsync(bind(stream), code('DESCRIPTOR_KIND'))
  await t.throwsAsync(connect(stream), code('DESCRIPTOR_KIND'))
  t.false(stream.closed, 'nothing has moved')
  for (const each of [stream, end]) each.close()
  const unconnected = Descriptor.adopt(release(native.socket(2)))
  await t.throwsAsync(connect(unconnected), { code: 'ENOTCONN' })
  t.false(unconnected.closed)
  await t.throwsAsync(connect(unconnected, { from: true }), code('INVALID_ARGUMENT'))
  unconnected.close()
  await t.throwsAsync(bind(unconnected), code('DESCRIPTOR_CLOSED'))
})

test('a path in the place of a peer that is gone is connected to anew; nobody there is the error of that send only', async t => {
  const path = socketPath()
  const first = await bind(path)
  const client = await connect(path)
  await client.send('one')
  t.deepEqual(await texts(first, 1), ['one'])
  await first.close()
  const given = file()
  const lost = await t.throwsAsync(client.send('lost', { descriptors: [given] }))
  t.like(lost, { code: 'ENOENT', syscall: 'connect', address: path })
  t.false(given.closed, 'it is ours again')
  const second = await bind(path)
  await client.send('two', { descriptors: [given] })
  t.deepEqual(await texts(second, 1), ['two'])
  await closeSockets(second, client)
})

test('nobody to connect to', async t => {
  const path = socketPath()
  const before = openDescriptors().size
  t.like(await t.throwsAsync(connect(path)), { code: 'ENOENT', syscall: 'connect', address: path })
  const own = socketPath()
  await t.throwsAsync(connect(path, { from: own }), { code: 'ENOENT' })
  t.false(fs.existsSync(own), 'its name is gone, too')
  const dead = native.socket(2)
  native.bind(dead, Buffer.from(path), 0o600)
  native.close(dead)
  await t.throwsAsync(connect(path), { code: 'ECONNREFUSED' })
  t.is(openDescriptors().size, before)
})
