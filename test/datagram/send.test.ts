import { bind, connect, unnamed } from '../../src/datagram/index.ts'
import { native } from '../../src/os/native.ts'
import { file, patched } from '../helpers/channels.ts'
import { boundPair, closeSockets, texts } from '../helpers/datagrams.ts'
import { test } from '../helpers/test.ts'

const ECONNRESET = -104

test('bytes, text, several as one, and nothing', async t => {
  const [receiver, sender] = await boundPair()
  const to = receiver.address!
  const parts = [
    'é',
    Buffer.from('x'),
    new Uint8Array([65, 66, 67]).subarray(1, 2),
    [],
    ['a', 'b', Buffer.from('c')],
    ''
  ]
  for (const data of parts) await sender.send(data, { to })
  t.deepEqual(await texts(receiver, parts.length), ['é', 'x', 'B', '', 'abc', ''])
  await closeSockets(receiver, sender)
})

test('a datagram that the send buffer is too small for gets a larger one, up to the limit of the system', async t => {
  const [receiver, sender] = await boundPair()
  const to = receiver.address!
  const given = file()
  await sender.send(Buffer.alloc(400_000), { to })
  const size = 64 * 1024 * 1024
  const error = await t.throwsAsync(sender.send(Buffer.alloc(size), { to, descriptors: [given] }), {
    code: 'ERR_PASSFD_DATAGRAM_TOO_LARGE'
  })
  t.true(error!.message.includes(`${size} bytes`))
  t.like(error!.cause, { code: 'EMSGSIZE', syscall: 'sendmsg' })
  t.false(given.closed, 'it is ours again')
  given.close()
  t.deepEqual(
    (await texts(receiver, 1)).map(({ length }) => length),
    [400_000]
  )
  await closeSockets(receiver, sender)
})

test('failures of the system are plain errors that name the address', async t => {
  const sender = unnamed()
  const given = file()
  for (const [to, code] of [
    ['/does/not/exist', 'ENOENT'],
    ['/etc/hostname', 'ECONNREFUSED'],
    ['/etc/hostname/x', 'ENOTDIR']
  ] as const) {
    const error = await t.throwsAsync(sender.send('x', { to, descriptors: [given] }))
    t.like(error, { name: 'Error', code, syscall: 'sendmsg', address: to })
    t.false(given.closed)
  }
  given.close()
  await sender.close()
})

test('an error that concerns what was received before fails no send', async t => {
  const [receiver, sender] = await boundPair()
  let resets = 1
  await patched(
    'sendMessage',
    original =>
      (...given) =>
        resets-- > 0 ? ECONNRESET : original(...given),
    () => sender.send('x', { to: receiver.address! })
  )
  t.deepEqual(await texts(receiver, 1), ['x'])
  await closeSockets(receiver, sender)
})

test('a peer that talks to somebody else is EPERM', async t => {
  const [one, other] = [await bind(), await bind()]
  const taken = await connect(other.address!, { from: true })
  const sender = unnamed()
  await t.throwsAsync(sender.send('x', { to: taken.address! }), { code: 'EPERM' })
  t.is(native.held() > 0, true)
  await closeSockets(one, other, taken, sender)
})
