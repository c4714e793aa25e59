/** A Connection as a value: its one owner, and its way through a channel. */
import { once } from 'node:events'
import * as net from 'node:net'
import { inspect } from 'node:util'
import { z } from 'zod'
import { type Channel, Connection, Descriptor, pair } from '../../src/index.ts'
import { closeAll, connected, file, nextMessage } from '../helpers/channels.ts'
import { isOpen } from '../helpers/facts.ts'
import { bytes, contents, destroyed } from '../helpers/sockets.ts'
import { test, until } from '../helpers/test.ts'

const GONE = 'ERR_PASSFD_CONNECTION_GONE'

/** A Connection of a socket, with bytes that stand for read ones, and the other end. */
function made(head = 'ahead'): { connection: Connection; other: net.Socket } {
  const [left, right] = Descriptor.socketpair()
  return { connection: new Connection(left, Buffer.from(head)), other: right.toSocket() }
}

/** Both work: the bytes stand in front. */
async function works(connection: Connection, other: net.Socket, head = 'ahead'): Promise<boolean> {
  const socket = connection.toSocket()
  other.write(' and behind')
  const all = (await bytes(socket, head.length + 11)).toString()
  socket.end('answer')
  const answer = (await bytes(other, 6)).toString()
  await destroyed(socket, other)
  return all === `${head} and behind` && answer === 'answer'
}

test('it uses a Descriptor up, of the kinds that a stream can be made of, and copies the bytes', async t => {
  const [left, right] = Descriptor.socketpair()
  const number = left.borrow()
  const head = Buffer.from('1')
  const connection = new Connection(left, head)
  head[0] = 0
  t.throws(() => left.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_CONVERTED', message: /new Connection\(\)/ })
  t.is(connection.kind, 'unix-stream')
  t.is(connection.head.toString(), '1')
  t.false(connection.closed)
  t.true(isOpen(number))
  connection.close()
  t.false(isOpen(number))
  const bare = new Connection(right)
  t.is(bare.head.length, 0)
  bare[Symbol.dispose]()
  bare[Symbol.dispose]()
  const wrong = file()
  t.throws(() => new Connection(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_KIND', message: /new Connection\(\).*device/ })
  wrong.close()
  t.throws(() => new Connection(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  t.throws(() => new Connection({} as Descriptor), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

test('it shows no number, and is no JSON', t => {
  const { connection, other } = made()
  t.false('fd' in connection)
  t.deepEqual(Object.keys(connection), [])
  t.throws(() => JSON.stringify({ connection }), { code: 'ERR_PASSFD_ENCODE', message: /Connection/ })
  t.throws(() => Descriptor.from(connection as never), { code: 'ERR_PASSFD_DESCRIPTOR_SOURCE' })
  t.regex(inspect(connection), /^Connection\(\S+, \d+, \d+ bytes unread\)$/)
  connection.close()
  t.regex(inspect(connection), /^Connection\(\S+, closed\)$/)
  other.destroy()
})

test('after use the error says what took it', async t => {
  const server = net.createServer()
  const uses: [use: (connection: Connection) => unknown, message: RegExp][] = [
    [connection => connection.toSocket().destroy(), /used up by toSocket\(\)/],
    [connection => connection.toDuplex().destroy(), /used up by toDuplex\(\)/],
    [connection => connection.injectInto(server).destroy(), /used up by injectInto\(\)/],
    [connection => connection.close(), /was closed by close\(\)/]
  ]
  for (const [use, message] of uses) {
    const { connection, other } = made()
    use(connection)
    t.true(connection.closed)
    connection[Symbol.dispose]()
    for (const again of [
      ...uses.map(([each]) => each),
      (each: Connection) => each.kind,
      (each: Connection) => each.claim()
    ])
      t.throws(() => again(connection), { code: GONE, message })
    await destroyed(other)
  }
  server.close()
})

test('options of streams are checked, and nothing has moved', t => {
  const { connection, other } = made()
  const wrong = { code: 'ERR_PASSFD_INVALID_ARGUMENT', message: /allowHalfOpen/ }
  t.throws(() => connection.toSocket({ allowHalfOpen: 1 as never }), wrong)
  t.throws(() => connection.toDuplex({ allowHalfOpen: 'no' as never }), wrong)
  connection.close()
  other.destroy()
})

// --- through a channel

for (const records of [true, false]) {
  const encoding = records ? 'records' : 'plain msgpack'
  const both = (): Promise<[Channel<any, any>, Channel<any, any>]> => connected({ records }, { records })

  test(`anywhere in a message, with its bytes, whatever their length: ${encoding}`, async t => {
    const [left, right] = await both()
    for (const length of [0, 1, 2, 15, 16, 254, 255, 256, 65534, 65535, 65536, 200_000]) {
      const head = Buffer.alloc(length, 'bytes')
      const [first, second] = Descriptor.socketpair()
      const [a, b] = [new Connection(first, head), new Connection(second)]
      const received = nextMessage(right)
      const extra = file()
      void left.send({ list: [a, { extra, b }], user: { name: 'x' } })
      t.throws(() => a.toSocket(), { code: GONE, message: /moved away in a message/ })
      const { value, descriptors } = await received
      t.true(value.list[0] instanceof Connection)
      t.true(value.list[0].head.equals(head), `${length} bytes`)
      t.is(value.list[1].b.head.length, 0)
      t.is(value.user.name, 'x')
      t.deepEqual(descriptors, [value.list[1].extra], 'those in Connections are not in it')
      const socket = value.list[1].b.toSocket()
      t.true(await works(value.list[0], socket, head.toString()))
      value.list[1].extra.close()
    }
    await closeAll(left, right)
  })

  test(`in a request and its answer: ${encoding}`, async t => {
    const [left, right] = await both()
    right.serve(({ value }) => ({ back: value.connection }))
    const { connection, other } = made()
    const { back } = await left.request<{ back: Connection }>({ connection })
    t.not(back, connection)
    t.true(await works(back, other))
    await closeAll(left, right)
  })
}

test('sent before the hello, to a peer that turns out not to know records', async t => {
  const [left, end] = pair<any, any>()
  const { connection, other } = made('x'.repeat(300))
  const large = made('y'.repeat(100_000))
  void left.send({ first: new Map([['connection', connection]]), large: large.connection })
  const { connect } = await import('../../src/index.ts')
  const right = await connect<any, any>(end, { records: false })
  const { value } = await nextMessage(right)
  t.true(await works(value.first.connection, other, 'x'.repeat(300)))
  t.true(await works(value.large, large.other, 'y'.repeat(100_000)))
  await closeAll(left, right)
})

test('misuse throws and moves nothing', async t => {
  const [left, right] = await connected({}, { maxMessage: 1000, maxDescriptors: 1 })
  const { connection, other } = made()
  const large = made('x'.repeat(1001))
  const used = made()
  used.connection.close()
  t.throws(() => void left.send([connection, connection]), { code: 'ERR_PASSFD_DESCRIPTOR_REPEATED' })
  t.throws(() => void left.send([connection, () => {}]), { code: 'ERR_PASSFD_ENCODE' })
  t.throws(() => void left.send([connection, used.connection]), { code: GONE })
  t.throws(() => void left.send(large.connection), { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' })
  const extra = file()
  t.throws(() => void left.send([connection, extra]), { code: 'ERR_PASSFD_TOO_MANY_DESCRIPTORS' })
  t.throws(() => void left.send(other), { code: 'ERR_PASSFD_ENCODE', message: /await Connection\.take\(it\)/ })
  t.true(await works(connection, other))
  large.connection.close()
  extra.close()
  await destroyed(large.other, used.other)
  await closeAll(left, right)
})

test("the channel's own socket is not to be sent", async t => {
  const [end, other] = Descriptor.socketpair()
  const copy = other.dup()
  const { connect } = await import('../../src/index.ts')
  const [left, right] = await Promise.all([connect<any, any>(end), connect<any, any>(other)])
  const connection = new Connection(copy)
  t.throws(() => void right.send(connection), { code: 'ERR_PASSFD_OWN_SOCKET' })
  connection.close()
  await closeAll(left, right)
})

test('it is lent until the scope ends; claimed, converted or sent on it lives', async t => {
  const [left, right] = await connected()
  const [third, fourth] = await connected()
  const kept: Connection[] = []
  let dropped: Connection | undefined
  let socket: net.Socket | undefined
  right.serve(({ value: { how, connection } }) => {
    if (how === 'claim') kept.push(connection.claim())
    else if (how === 'convert') socket = connection.toSocket()
    else if (how === 'send') void third.send({ connection })
    else dropped = connection
  })
  const onward = nextMessage(fourth)
  const ends: Record<string, net.Socket> = {}
  for (const how of ['claim', 'convert', 'send', 'drop']) {
    const { connection, other } = made(how)
    ends[how] = other
    await left.request({ how, connection })
  }
  t.is(await contents(ends.drop!), '', 'closed')
  t.throws(() => dropped?.toSocket(), { code: 'ERR_PASSFD_DESCRIPTOR_UNCLAIMED', message: /claim\(\)/ })
  t.true(await works(kept[0]!, ends.claim!, 'claim'))
  t.true(await works((await onward).value.connection, ends.send!, 'send'))
  t.is((await bytes(socket!, 7)).toString(), 'convert')
  await destroyed(socket!, ends.convert!, ends.drop!)
  await closeAll(left, right, third, fourth)
})

test('what an unsendable answer has in it is closed', async t => {
  const [left, right] = await connected()
  const { connection, other } = made()
  right.serve(() => ({ connection, wrong: () => {} }))
  await t.throwsAsync(left.request({}), { code: 'ERR_PASSFD_REMOTE' })
  t.true(connection.closed)
  await destroyed(other)
  await closeAll(left, right)
})

test('it comes back as the same object, open, with its bytes', async t => {
  const [channel, end] = pair<any, any>()
  const { connection, other } = made()
  const lost = made()
  const value = { connection, lost: lost.connection }
  void channel.send(value)
  const returned = once(channel, 'returned')
  channel.on('returned', given => void given.value.connection.claim())
  end.close()
  const [given] = await returned
  t.is(given.state, 'unsent')
  t.is(given.value, value)
  t.deepEqual(given.descriptors, [])
  await until(() => lost.connection.closed, 'what was not claimed')
  t.true(await works(connection, other))
  await destroyed(lost.other)
  await channel.closed
})

test('claim() of a message or of what came back is for Connections, too', async t => {
  const [left, right] = await connected()
  right.on('message', message => void message.claim())
  const { connection, other } = made()
  void left.send([connection])
  const [message] = await once(right, 'message')
  t.true(await works(message.value[0], other))
  const back = made()
  left.on('returned', returned => void returned.claim())
  right.destroy()
  await left.closed
  void left.send(back.connection)
  await once(left, 'returned')
  t.true(await works(back.connection, back.other))
})

test('a schema may ask for one', async t => {
  const schema = z.object({ connection: z.instanceof(Connection) })
  const [left, right] = await connected({}, { schema })
  right.serve(({ value }) => (value as { connection: Connection }).connection.head.toString())
  const { connection, other } = made()
  t.is(await left.request({ connection }), 'ahead')
  await t.throwsAsync(left.request({ connection: 1 }), { code: 'ERR_PASSFD_REMOTE' })
  await destroyed(other)
  await closeAll(left, right)
})

test('its kind is up to the peer, so conversions look', async t => {
  const [left, right] = await connected({ records: false }, { records: false })
  const { readable, writable } = Descriptor.pipe()
  void left.send(new Connection(readable, Buffer.from('head')))
  const { value } = await nextMessage(right)
  t.throws(() => value.toSocket(), { code: 'ERR_PASSFD_DESCRIPTOR_KIND', message: /toSocket\(\).*pipe/ })
  t.throws(() => value.injectInto(net.createServer()), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  t.is(value.kind, 'pipe')
  const source = value.toDuplex()
  const sink = writable.toWritable()
  sink.end(' and behind')
  t.is(await contents(source), 'head and behind')
  await destroyed(source, sink)
  await closeAll(left, right)
})

test('bytes that were read from the writing end of a pipe: nobody can have read them', async t => {
  const { readable, writable } = Descriptor.pipe()
  const connection = new Connection(writable, Buffer.from('head'))
  t.throws(() => connection.toDuplex(), { code: 'ERR_PASSFD_DESCRIPTOR_DIRECTION' })
  t.false(connection.closed)
  connection.close()
  readable.close()
})
