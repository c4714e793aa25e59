/** Which datagrams are dropped, and that each is told. */
import { once } from 'node:events'
import * as fs from 'node:fs'
import { bind, connect } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { file } from '../helpers/channels.ts'
import { abstractName, boundPair, closeSockets, nextDatagram, release, texts } from '../helpers/datagrams.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { test } from '../helpers/test.ts'

const me = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
const code = (name: string) => ({ code: `ERR_PASSFD_${name}` })

test("another user's datagram is dropped with its sender named, unless authorize lets it in", async t => {
  const [name, openName] = [abstractName(), abstractName()]
  const server = await bind(name)
  server.on('message', () => t.fail('it was let in'))
  const dropped = once(server, 'dropped')
  const asked: unknown[] = []
  const open = await bind(openName, {
    authorize: (sender, from) => {
      asked.push(sender?.uid, from)
      return true
    }
  })
  const next = nextDatagram(open)
  const stranger = startFixture('datagram-as', [
    `${NOBODY}`,
    'let me in',
    ...[name, openName].map(({ abstract }) => `@${abstract}`)
  ])
  const [error, what] = await dropped
  t.like(error, code('UNAUTHORIZED'))
  t.regex(error.message, new RegExp(`Process ${stranger.child.pid} of user ${NOBODY} `))
  t.like(what, { size: 9, sender: { pid: stranger.child.pid, uid: NOBODY, gid: NOBODY } })
  const { data, sender } = await next
  t.is(data.toString(), 'let me in')
  t.is(sender?.uid, NOBODY)
  t.deepEqual(asked, [NOBODY, undefined])
  await stranger.exit
  await server.close()
  await open.close()
})

test('a socket file lets nobody else in by default', async t => {
  const [path, openPath] = [publicPath(), publicPath()]
  const server = await bind(path)
  t.is(fs.statSync(path).mode & 0o777, 0o600)
  const open = await bind(openPath, { mode: 0o666, authorize: () => true })
  const next = nextDatagram(open)
  const stranger = startFixture('datagram-as', [`${NOBODY}`, 'let me in', path, openPath])
  t.is(await stranger.line(), 'EACCES')
  t.is((await next).sender?.uid, NOBODY)
  t.is(await stranger.line(), 'sent')
  await stranger.exit
  await server.close()
  await open.close()
})

test('an authorize that fails, or says neither yes nor no, lets nobody in', async t => {
  for (const authorize of [
    () => {
      throw new Error('no idea')
    },
    async () => true,
    () => 1
  ]) {
    const [server, client] = await boundPair({ authorize: authorize as never })
    server.on('message', () => t.fail('it was let in'))
    void client.send('x', { to: server.address!, descriptors: [file()] })
    const [error] = await once(server, 'dropped')
    t.like(error, code('AUTHORIZE_FAILED'))
    t.true(error.cause instanceof Error)
    await closeSockets(server, client)
  }
})

test('what came before credentials were asked for has no sender, and is not let in by default', async t => {
  for (const authorize of [undefined, () => true]) {
    const name = abstractName()
    const fd = native.socket(2)
    native.bind(fd, Buffer.from(`\0${name.abstract}`), -1)
    const client = await connect(name)
    await client.send('early')
    const server = await bind(Descriptor.adopt(release(fd)), authorize === undefined ? {} : { authorize })
    t.deepEqual(server.address, name)
    if (authorize === undefined) {
      server.on('message', ({ data }) => t.is(data.toString(), 'late'))
      const [error, what] = await once(server, 'dropped')
      t.like(error, code('UNKNOWN_SENDER'))
      t.like(what, { size: 5, sender: undefined })
      await client.send('late')
      await once(server, 'message')
    } else t.like(await nextDatagram(server), { sender: undefined })
    await closeSockets(server, client)
  }
})

test('maxMessage: one byte more is dropped and told, and its descriptors are closed', async t => {
  const [server, client] = await boundPair({ maxMessage: 5 })
  const to = server.address!
  for (const text of ['', '1234', '12345', '123456', 'end']) void client.send(text, { to, descriptors: [file()] })
  const dropped: unknown[] = []
  server.on('dropped', (error, { size, sender }) => dropped.push(error.code, size, sender?.pid))
  t.deepEqual(await texts(server, 4), ['', '1234', '12345', 'end'])
  t.deepEqual(dropped, ['ERR_PASSFD_DATAGRAM_CUT', 6, me.pid])
  await closeSockets(server, client)
})

test('maxDescriptors: one more is dropped and told', async t => {
  const [server, client] = await boundPair({ maxDescriptors: 2 })
  const to = server.address!
  for (const count of [0, 1, 2, 3, 0])
    void client.send(`${count}`, { to, descriptors: Array.from({ length: count }, file) })
  const dropped = once(server, 'dropped')
  t.deepEqual(await texts(server, 4), ['0', '1', '2', '0'])
  t.like((await dropped)[0], code('TOO_MANY_DESCRIPTORS'))
  await closeSockets(server, client)
})

test('maxDescriptors 0: descriptors are refused, by the kernel where it can', async t => {
  const [server, client] = await boundPair({ maxDescriptors: 0 })
  const probe = native.socket(2)
  const kernelCan = native.passRights(probe, false) >= 0
  native.close(probe)
  const given = file()
  const dropped = once(server, 'dropped')
  server.on('message', () => t.fail('it was taken'))
  const sent = client.send('x', { to: server.address!, descriptors: [given] })
  if (kernelCan) {
    await t.throwsAsync(sent, { code: 'EPERM' })
    t.false(given.closed, 'it is ours again')
    given.close()
  } else t.like((await dropped)[0], code('TOO_MANY_DESCRIPTORS'))
  await closeSockets(server, client)
})

test('trap 03: at the limit of open files a datagram is dropped whole, with a reason, and the next one is taken', async t => {
  const path = socketPath()
  const running = startFixture('datagram-limited', [path, '3'])
  const open = Number(await running.line())
  const client = await connect(path)
  const seen = []
  for (const count of [3, 20, 30, 1]) {
    await client.send(`${count}`, { descriptors: Array.from({ length: count }, file) })
    seen.push(JSON.parse(await running.line())) // one after the other: those of the one before are closed
  }
  t.deepEqual(seen, [
    ['3', 3, open],
    // trap 04: those that did come in are closed
    ['ERR_PASSFD_DESCRIPTORS_TRUNCATED', open],
    ['ERR_PASSFD_DESCRIPTORS_TRUNCATED', open],
    ['1', 1, open]
  ])
  running.child.stdin!.end()
  t.is((await running.exit).code, 0)
  await client.close()
})
