/** Messages and their consumers: a loop, listeners, one at a time. */
import { once } from 'node:events'
import { type Channel, connect, Descriptor, listen, type Message, pair } from '../../src/index.ts'
import { closeAll, codeError, connected, file, nextMessage, promiseBelowMark, roundTrip } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { test, until } from '../helpers/test.ts'

// --- for await

test('for await: a message is lent until the next is asked for', async t => {
  const [left, right] = await connected()
  for (let i = 0; i < 3; i++) await left.send({ i, file: file() })
  const held: Descriptor[] = []
  for await (const message of right) {
    t.deepEqual(
      held.map(({ closed }) => closed),
      held.map(() => true)
    )
    held.push(message.value.file)
    t.false(message.value.file.closed)
    if (message.value.i === 2) break
  }
  // break is no excuse
  const error = t.throws(() => held[2]!.borrow(), codeError('DESCRIPTOR_UNCLAIMED'))
  t.regex(error.message, /came in a message from pid \d+ and was closed when the next message was asked for/)
  await closeAll(left, right)
})

test('for await: break stops reading and closes nothing; the next loop goes on', async t => {
  const [left, right] = await connected()
  for (let i = 0; i < 5; i++) await left.send(i)
  const seen: number[] = []
  for await (const { value } of right) if (seen.push(value) === 2) break
  for await (const { value } of right) if (seen.push(value) === 4) break
  right.once('message', ({ value }) => seen.push(value))
  await until(() => seen.length === 5, 'the last')
  t.deepEqual(seen, [0, 1, 2, 3, 4])
  await closeAll(left, right)
})

test('for await: ends with the channel, after what has arrived', async t => {
  const [left, right] = await connected()
  await left.send('last words')
  const seen: unknown[] = []
  const reading = (async () => {
    for await (const { value } of right) seen.push(value)
  })()
  await left.close()
  await reading
  t.deepEqual(seen, ['last words'])
  t.is(await right.closed, undefined)
})

test('for await: an iterator by hand', async t => {
  const [left, right] = await connected()
  const iterator = right[Symbol.asyncIterator]()
  t.is(iterator[Symbol.asyncIterator](), iterator)
  // Both asked for at once: both are lent until the next call
  const both = Promise.all([iterator.next(), iterator.next()])
  await left.send(file())
  await left.send(file())
  const [first, second] = await both
  t.deepEqual([first.value.value.closed, second.value.value.closed], [false, false])
  const waiting = iterator.next()
  t.deepEqual([first.value.value.closed, second.value.value.closed], [true, true])
  t.deepEqual(await iterator.return!(), { done: true, value: undefined })
  t.deepEqual(await waiting, { done: true, value: undefined })
  t.deepEqual(await iterator.next(), { done: true, value: undefined })
  // An iterator that has returned takes nothing from the one after it
  const next = right[Symbol.asyncIterator]()
  await iterator.return!()
  await left.send('third')
  t.is((await next.next()).value.value, 'third')
  await next.return!()
  await closeAll(left, right)
})

// --- 'message' listeners

test('what nobody claims is closed when the scope ends', async t => {
  const server = await listen(socketPath())
  const [channel, [serverSide]] = await Promise.all([connect(server.address), once(server, 'channel')])
  const arrived = once(serverSide, 'message')
  await channel.send({ file: await Descriptor.open('/etc/hostname') })
  const [{ descriptors }] = await arrived
  const error = t.throws(() => descriptors[0].borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_UNCLAIMED' })
  t.regex(
    error!.message,
    new RegExp(`message from pid ${process.pid} and was closed when the 'message' listeners returned`)
  )
  await server.close()
  await channel.closed
})

test("'message' listeners: all of them see it, before its scope ends", async t => {
  const [left, right] = await connected()
  const seen: unknown[] = []
  right.on('message', ({ value }) => seen.push([1, value.closed]))
  right.prependListener('message', ({ value }) => seen.push([0, value.closed]))
  right.addListener('message', ({ value }) => seen.push([2, value.closed]))
  await left.send(file())
  await until(() => seen.length === 3, 'the listeners')
  t.deepEqual(seen, [
    [0, false],
    [1, false],
    [2, false]
  ])
  await closeAll(left, right)
})

test("'message' listeners: once takes one, the rest waits", async t => {
  const [left, right] = await connected()
  for (let i = 0; i < 4; i++) await left.send(i)
  const [first] = await once(right, 'message')
  t.is(first.value, 0)
  await roundTripOf(left, right)
  const [second] = await once(right, 'message')
  t.is(second.value, 1)
  right.prependOnceListener('message', ({ value }) => t.is(value, 2))
  await until(() => right.listenerCount('message') === 0, 'the third')
  t.is((await nextMessage(right)).value, 3)
  await closeAll(left, right)
})

/** Two turns of the wire while nobody reads `right`. */
async function roundTripOf(left: Channel<any, any>, right: Channel<any, any>): Promise<void> {
  left.on('message', message => message.reply())
  await roundTrip(right)
  left.removeAllListeners('message')
}

test("'message' listeners that have gone leave the channel to another consumer", async t => {
  const [left, right] = await connected()
  const ignore = (): void => {}
  right.on('message', ignore)
  right.off('message', ignore)
  left.send(1)
  for await (const { value } of right) {
    t.is(value, 1)
    break
  }
  right.on('message', ignore).removeAllListeners('message')
  left.send(2)
  t.is((await nextMessage(right)).value, 2)
  right.on('message', ignore).removeAllListeners()
  right.serve(({ value }) => value)
  t.is(await left.request(3), 3)
  await closeAll(left, right)
})

test('removing all listeners of a channel at once doesn’t make it deaf', async t => {
  const [left, right] = await connected()
  right.removeAllListeners()
  left.send(1)
  t.is((await nextMessage(right)).value, 1)
  right.removeAllListeners('newListener')
  right.serve(() => {})
  t.throws(() => right.on('message', () => {}), codeError('CONSUMED'))
  await closeAll(left, right)
})

test("'message' listeners: a listener may hand the reading on", async t => {
  const [left, right] = await connected()
  const served: unknown[] = []
  right.once('message', () => right.serve(({ value }) => served.push(value)))
  for (let i = 0; i < 3; i++) left.send(i)
  await until(() => served.length === 2, 'the rest')
  t.deepEqual(served, [1, 2])
  await closeAll(left, right)
})

// --- one consumer

const consumers: Record<string, (channel: Channel<any, any>) => unknown> = {
  'serve()': channel => channel.serve(() => {}),
  'for await': channel => channel[Symbol.asyncIterator](),
  "'message' listeners": channel => channel.on('message', () => {})
}

test('a second consumer is refused', async t => {
  for (const [by, first] of Object.entries(consumers))
    for (const [name, second] of Object.entries(consumers)) {
      const [channel, end] = pair()
      first(channel)
      if (name === by && by === "'message' listeners") t.notThrows(() => second(channel))
      else {
        const error = t.throws(() => second(channel), codeError('CONSUMED'), `${by}, then ${name}`)
        t.true(error.message.includes(`already read by ${by}`))
        t.is(channel.listenerCount('message'), by === "'message' listeners" ? 1 : 0)
      }
      channel.destroy()
      end.close()
    }
})

test('what arrives before anybody reads waits, in order, beyond the end of the channel', async t => {
  for (const consume of ['serve', 'iterate', 'listen']) {
    const [left, right] = await connected()
    for (let i = 0; i < 3; i++) left.send({ i, file: file() })
    await left.close()
    await right.closed
    const seen: number[] = []
    const see = ({ value, descriptors }: Message<any>): void => {
      t.false(descriptors[0]!.closed)
      seen.push(value.i)
    }
    if (consume === 'serve') right.serve(see)
    else if (consume === 'listen') right.on('message', see)
    else for await (const message of right) see(message)
    await until(() => seen.length === 3, 'all three')
    t.deepEqual(seen, [0, 1, 2])
  }
})

test('destroy drops and closes what nobody has read', async t => {
  const [left, right] = await connected()
  left.send(file())
  const [first] = await once(right, 'message')
  t.true(first.value.closed)
  left.send(file())
  const resolved = promiseBelowMark()
  await until(() => left.send(0) === resolved, 'room')
  await roundTripOf(left, right)
  right.destroy()
  for await (const { value } of right) t.fail(`${value} was dropped`)
  await left.closed
})

test('destroy in a handler takes nothing from the handlers that run', async t => {
  const [left, right] = await connected()
  let finish!: () => void
  let held: Descriptor | undefined
  const finished = new Promise<void>(resolve => (finish = resolve))
  right.serve(async ({ value }) => {
    if (value.destroy) return right.destroy()
    held = value.file
    await finished
    t.false(held!.closed)
  })
  left.send({ file: file() })
  left.send({ destroy: true })
  left.send({ file: file() })
  await left.closed
  t.false(held!.closed)
  finish()
  await until(() => held!.closed, 'the end of its scope')
})
