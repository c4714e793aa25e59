import { EventEmitter } from 'node:events'
import { attach, bind, createSocket, type UnixDgramSocket } from '../../src/datagram/index.ts'
import { native } from '../../src/os/native.ts'
import { file } from '../helpers/channels.ts'
import { abstractName, closeSockets, fill, nextDatagram, texts } from '../helpers/datagrams.ts'
import { identity } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { openDescriptors, test, testIf, until } from '../helpers/test.ts'
import { notLoaded, theirSocket } from '../helpers/unix-dgram.ts'

interface Theirs extends EventEmitter, UnixDgramSocket {
  bind(path: string): void
  connect(path: string): void
  send(...given: unknown[]): void
}

const code = (name: string) => ({ code: `ERR_PASSFD_${name}` })
const makers: [string, () => Theirs, reason?: string | undefined][] = [
  ["unix-dgram's socket", () => theirSocket<Theirs>(), notLoaded],
  ['our own createSocket()', () => createSocket('unix_dgram') as unknown as Theirs]
]

for (const [what, make, reason] of makers) {
  testIf(reason, `${what} sends descriptors, unconnected and connected, and goes on as before`, async t => {
    const path = socketPath()
    const server = await bind(path)
    const socket = make()
    const attached = attach(socket)
    const number = socket.fd
    const given = file()
    const inode = identity(given.borrow())
    await attached.send('one', { to: path, descriptors: [given] })
    t.true(given.closed)
    const message = await nextDatagram(server)
    t.is(identity(message.descriptors[0]!.borrow()), inode)
    t.throws(() => attached.send('nowhere'), code('INVALID_ARGUMENT'))
    socket.connect(path)
    await attached.send('', { descriptors: [...message.descriptors] })
    for (const descriptor of (await nextDatagram(server)).descriptors) descriptor.close()
    t.throws(() => attached.send('elsewhere', { to: path }), code('INVALID_ARGUMENT'))
    socket.send(Buffer.from('its own'))
    t.deepEqual(await texts(server, 1), ['its own'])
    t.is(socket.fd, number)
    socket.close()
    t.is(socket.fd, -1)
    await server.close()
  })

  testIf(reason, `${what}, closed: an error, and what waited is rejected and ours again`, async t => {
    for (const connected of [false, true]) {
      const path = socketPath()
      const server = await bind(path)
      const socket = make()
      if (connected) socket.connect(path)
      const attached = attach(socket)
      const to = connected ? {} : { to: path }
      const first = Array.from({ length: 20 }, () => attached.send('filler', to))
      const given = file()
      const sent = attached.send('x', { ...to, descriptors: [given] })
      t.true(given.closed)
      t.true(attached.queued > 0)
      socket.close()
      t.is(attached.queued, 0)
      await t.throwsAsync(sent, code('SOCKET_CLOSED'))
      t.true((await Promise.allSettled(first)).some(({ status }) => status === 'rejected'))
      t.false(given.closed)
      t.throws(() => attached.send('x', { ...to, descriptors: [given] }), code('SOCKET_CLOSED'))
      t.false(given.closed, 'nothing has moved')
      t.throws(() => attach(socket), code('SOCKET_CLOSED'))
      given.close()
      await server.close()
    }
  })

  testIf(reason, `${what} waits for a receiver that is full`, async t => {
    for (const connected of [false, true]) {
      const path = socketPath()
      const server = await bind(path)
      const socket = make()
      if (connected) socket.connect(path)
      const attached = attach(socket)
      const all = Array.from({ length: 100 }, (_, i) => `${i}`)
      const before = openDescriptors().size
      const sent = all.map(text => attached.send(text, connected ? {} : { to: path }))
      t.true(attached.queued > 80)
      t.is(openDescriptors().size, before + 1, 'it waits for an event')
      t.deepEqual(await texts(server, 100), all)
      await Promise.all(sent)
      socket.close()
      await server.close()
    }
  })
}

testIf(notLoaded, 'a number that was closed and opened again by somebody else is never used', async t => {
  const server = await bind()
  const socket = theirSocket<Theirs>()
  const attached = attach(socket)
  const number = socket.fd
  fill(server.address as { abstract: string })
  const sent = attached.send('x', { to: server.address! })
  socket.close()
  const taken = native.socket(2)
  t.is(taken, number, 'the lowest number is given again (open(2))')
  await t.throwsAsync(sent, code('SOCKET_CLOSED'))
  t.throws(() => attached.send('x', { to: server.address! }), code('SOCKET_CLOSED'))
  native.close(taken)
  await server.close()
})

test('only a Unix datagram socket can be attached to', async t => {
  for (const wrong of [undefined, null, {}, { fd: 3 }, { fd: 'x', close() {} }, new EventEmitter()])
    t.throws(() => attach(wrong as never), code('INVALID_ARGUMENT'))
  const other = file()
  t.throws(() => attach({ fd: other.borrow(), close() {} }), code('DESCRIPTOR_KIND'))
  other.close()
  const socket = createSocket('unix_dgram')
  t.throws(() => attach(socket, { maxQueued: 0 }), code('INVALID_ARGUMENT'))
  socket.close()
})

testIf(
  notLoaded,
  "the original's own receiving drops descriptors; the socket of bind() on the same path does not",
  async t => {
    const path = socketPath()
    const theirs = theirSocket<Theirs>()
    theirs.bind(path)
    const sender = await bind(abstractName())
    const seen = new Promise<Buffer>(resolve => theirs.once('message', resolve))
    const before = openDescriptors().size
    const given = file()
    await sender.send('x', { to: path, descriptors: [given] })
    t.is((await seen).toString(), 'x')
    await until(() => openDescriptors().size === before, 'the file to be gone')
    theirs.close()
    const ours = await bind(path)
    await sender.send('y', { to: path, descriptors: [file()] })
    const { descriptors } = await nextDatagram(ours)
    t.is(descriptors.length, 1)
    descriptors[0]!.close()
    await closeSockets(sender, ours)
  }
)
