import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, connect, Descriptor, type Message, pair } from '../../src/index.ts'
import {
  closeAll,
  codeError,
  connected,
  file,
  files,
  isPending,
  nextMessage,
  patched,
  promiseBelowMark,
  roundTrip
} from '../helpers/channels.ts'
import { startOnPair, stop } from '../helpers/child.ts'
import { MESSAGE } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const resolved = promiseBelowMark()

// --- sending

test('send: below the mark it allocates no promise', async t => {
  const [left, right] = await connected()
  t.is(left.send(1), resolved)
  t.is(left.send({ file: file() }), resolved)
  t.is(right.send(2), resolved)
  await Promise.all([nextMessage(left), nextMessage(right)])
  const { descriptors } = await nextMessage(right)
  descriptors[0]!.close()
  await closeAll(left, right)
})

test('highWaterMark: at -1, 0, +1', async t => {
  for (const [size, below] of [
    [999, true],
    [1000, false],
    [1001, false]
  ] as const) {
    const [channel, end] = pair<any, any>({ highWaterMark: 1000 })
    // 12 bytes of header, 3 in front of the bytes
    const sent = channel.send(Buffer.alloc(size - 15))
    t.is(sent === resolved, below, `${size}`)
    const other = await connect<any, any>(end)
    await sent
    t.is((await nextMessage(other)).value.length, size - 15)
    await closeAll(channel, other)
  }
})

test('a peer that doesn’t read: send() waits, and goes on when it does', async t => {
  const [channel, child] = await startOnPair('read-on-3')
  await stop(child)
  const block = Buffer.alloc(1000)
  let sent = 0
  while (channel.send(block) === resolved && sent < 10_000) sent++
  t.true(sent < 10_000)
  const waiting = channel.send(block)
  t.is(channel.send(block), waiting, 'all who wait share a promise')
  t.true(await isPending(waiting))
  child.child.kill('SIGCONT')
  await waiting
  for (let i = 0; i < sent + 3; i++) await child.line()
  await channel.close()
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('many sends in a turn leave in one write', async t => {
  const [left, right] = await connected()
  let writes = 0
  const counting = <Call extends (...args: any[]) => number>(original: Call): Call =>
    ((...args) => {
      const [, bytes, start] = args
      if (bytes instanceof Uint8Array && bytes[start + 4] === MESSAGE) writes++
      return original(...args)
    }) as Call
  await patched('send', counting, async () => {
    for (let i = 0; i < 100; i++) left.send({ i })
    t.is(writes, 0)
    for (let i = 0; i < 100; i++) t.is((await nextMessage(right)).value.i, i)
    t.is(writes, 1)
    // … also if each of them is awaited
    for (let i = 0; i < 100; i++) await left.send({ i })
    for (let i = 0; i < 100; i++) t.is((await nextMessage(right)).value.i, i)
    t.is(writes, 2)
  })
  await closeAll(left, right)
})

test('a large binary value isn’t copied, and its promise waits until it has left', async t => {
  const [channel, child] = await startOnPair('read-on-3')
  await stop(child)
  const large = Buffer.alloc(2 ** 20, 'large')
  let seen = 0
  let sent!: Promise<void>
  await patched(
    'sendVector',
    original =>
      (fd, chunks, ...rest) => {
        seen += chunks.filter(({ buffer }) => buffer === large.buffer).length
        return original(fd, chunks, ...rest)
      },
    async () => {
      sent = channel.send({ large })
      await turn()
    }
  )
  t.true(seen > 0)
  t.not(sent, resolved)
  t.true(await isPending(sent))
  child.child.kill('SIGCONT')
  await sent
  t.regex(await child.line(), /"large"/)
  await channel.close()
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('a large binary value whose channel ends before it has left rejects', async t => {
  const [channel, child] = await startOnPair('read-on-3')
  await stop(child)
  const sent = channel.send({ large: Buffer.alloc(2 ** 20) })
  child.child.kill('SIGKILL')
  await t.throwsAsync(sent, codeError('CLOSED'))
  await child.exit
})

test('misuse throws at the call and moves nothing', async t => {
  const [left, right] = await connected({ maxQueued: 100_000 }, { maxMessage: 5000, maxDescriptors: 2 })
  const open = file()
  const closed = file()
  closed.close()
  const cyclic: any[] = []
  cyclic.push(cyclic)
  const cases: [unknown, string][] = [
    [[open, closed], 'DESCRIPTOR_CLOSED'],
    [[open, open], 'DESCRIPTOR_REPEATED'],
    [[open, () => {}], 'ENCODE'],
    [[open, Symbol('no')], 'ENCODE'],
    [[open, new Error('no')], 'ENCODE'],
    [[open, Promise.resolve()], 'ENCODE'],
    [[open, left], 'ENCODE'],
    [[open, cyclic], 'ENCODE'],
    [[open, Buffer.alloc(5000)], 'MESSAGE_TOO_LARGE'],
    [[open, Buffer.alloc(100_000)], 'MESSAGE_TOO_LARGE'],
    [[open, file(), file()], 'TOO_MANY_DESCRIPTORS']
  ]
  for (const [value, expected] of cases) {
    const error = t.throws(() => left.send(value), codeError(expected))
    t.true(error.message.length > 20)
    t.throws(() => left.request(value), codeError(expected))
    t.false(open.closed)
    for (const item of value as unknown[]) if (item instanceof Descriptor && item !== open) item[Symbol.dispose]()
  }
  // Nothing of it is left behind: neither in the queue nor among the record definitions
  right.serve(({ value }) => value)
  t.deepEqual(await left.request({ a: 1, b: { c: 2 } }), { a: 1, b: { c: 2 } })
  open.close()
  await closeAll(left, right)
})

test('after close() and destroy() nothing can be sent', async t => {
  const [left, right] = await connected()
  const mine = file()
  const closing = left.close()
  right.destroy()
  for (const channel of [left, right]) {
    t.throws(() => channel.send(mine), codeError('CHANNEL_CLOSED'))
    t.throws(() => channel.request(mine), codeError('CHANNEL_CLOSED'))
  }
  await closing
  t.throws(() => left.send(mine), codeError('CHANNEL_CLOSED'))
  t.false(mine.closed)
  mine.close()
})

test('after the peer has gone sends reject, descriptors come back, and nobody has to catch', async t => {
  const [left, right] = await connected()
  await right.close()
  await left.closed
  const returned: any[] = []
  left.on('returned', given => returned.push(given.claim()))
  const mine = file()
  void left.send('uncaught')
  void left.request('uncaught')
  await t.throwsAsync(left.send(mine), codeError('CLOSED'))
  await until(() => !mine.closed, 'its return')
  await t.throwsAsync(left.request({ mine }), codeError('CLOSED'))
  await until(() => !mine.closed, 'its return')
  t.deepEqual(
    returned.map(({ state, value }) => [state, value]),
    [
      ['unsent', mine],
      ['unsent', { mine }]
    ]
  )
  mine.close()
})

// --- bounds, at -1, 0, +1

test('maxMessage: the peer’s limit for a body', async t => {
  const [left, right] = await connected({}, { maxMessage: 1000 })
  for (const length of [999, 1000]) {
    left.send(Buffer.alloc(length - 3))
    t.is((await nextMessage(right)).value.length, length - 3)
  }
  t.throws(() => left.send(Buffer.alloc(998)), {
    ...codeError('MESSAGE_TOO_LARGE'),
    message: /takes 1001 bytes.* is 1000\./
  })
  await closeAll(left, right)
})

test('maxDescriptors: the peer’s limit for a message', async t => {
  const [left, right] = await connected({}, { maxDescriptors: 2 })
  for (const count of [1, 2]) {
    left.send(files(count))
    const { descriptors } = await nextMessage(right)
    t.is(descriptors.length, count)
    for (const descriptor of descriptors) descriptor.close()
  }
  const three = files(3)
  t.throws(() => left.send(three), { ...codeError('TOO_MANY_DESCRIPTORS'), message: /3 descriptors.* is 2\./ })
  for (const descriptor of three) descriptor.close()
  await closeAll(left, right)
})

test('253 descriptors are the most a message can carry', async t => {
  const [left, right] = await connected()
  left.send(files(253))
  const { descriptors } = await nextMessage(right)
  t.is(descriptors.length, 253)
  t.true(descriptors.every((descriptor: Descriptor) => descriptor.kind === 'device'))
  for (const descriptor of descriptors) descriptor.close()
  const many = files(254)
  t.throws(() => left.send(many), codeError('TOO_MANY_DESCRIPTORS'))
  for (const descriptor of many) descriptor.close()
  await closeAll(left, right)
})

test('maxUnclaimed: so many descriptors are lent at a time', async t => {
  for (const maxUnclaimed of [1, 2, 3]) {
    const [left, right] = await connected({}, { maxUnclaimed })
    left.serve(() => {})
    const held: Message<any>[] = []
    const finish: (() => void)[] = []
    right.serve(message => {
      held.push(message)
      return new Promise<void>(resolve => finish.push(resolve))
    })
    for (let i = 0; i < 6; i++) left.send({ i, file: file() })
    for (let i = 0; i < 6; i++) {
      await until(() => held.length >= Math.min(i + maxUnclaimed, 6), 'as many as may be lent')
      await roundTrip(right)
      t.is(held.length, Math.min(i + maxUnclaimed, 6))
      // Claiming makes room as well as closing, and as the end of the scope
      if (i % 3 === 0) held[i]!.claim()
      else if (i % 3 === 1) held[i]!.descriptors[0]!.close()
      else finish[i]!()
    }
    for (const { descriptors } of held) descriptors[0]![Symbol.dispose]()
    for (const resolve of finish) resolve()
    await closeAll(left, right)
  }
})

for (const shapes of [1, 31, 32, 33, 70]) {
  test(`answers that overtake waiting messages leave their records alone: ${shapes} new shapes`, async t => {
    const shaped = (kind: string, index: number) => ({ [`${kind}${index}`]: index, kind })
    const [left, right] = await connected({}, { window: 1 })
    // What left may send is used up by one message that nobody reads, so the rest waits
    const known = Array.from({ length: 20 }, (_, index) => shaped('known', index))
    left.serve(({ value }) => shaped('answer', value as number))
    await left.send(known) // defines the shapes, as it is the first
    const sent = [...known, shaped('unseen', 1), ...known].map(value => left.send(value))
    const answers = []
    for (let index = 0; index < shapes; index++) answers.push(await right.request(index))
    t.deepEqual(
      answers,
      answers.map((_, index) => shaped('answer', index))
    )
    const later = [...known, shaped('unseen', 2)].map(value => left.send(value))
    const came: unknown[] = []
    right.on('message', ({ value }) => void came.push(value))
    await until(() => came.length === 1 + sent.length + later.length, 'the messages')
    t.deepEqual(came, [known, ...known, shaped('unseen', 1), ...known, ...known, shaped('unseen', 2)])
    t.deepEqual(await right.request(7), shaped('answer', 7))
    await closeAll(left, right)
  })
}

test('getters of what waits are called once, whether or not its shape is known', async t => {
  const [left, right] = await connected({}, { window: 1 })
  let calls = 0
  const value = (name: string, more: unknown) => ({
    get [name]() {
      calls++
      return more
    }
  })
  await left.send([value('known', 1)]) // takes all that may be sent
  const names = ['known', 'known', 'unseen', 'unseen']
  for (const name of names) for (const more of [1, [1], 'x'.repeat(100)]) left.send(value(name, more))
  t.is(calls, 1 + 3 * names.length)
  const came: unknown[] = []
  right.on('message', ({ value }) => void came.push(value))
  await until(() => came.length === calls, 'the messages')
  t.deepEqual(came, [
    [{ known: 1 }],
    ...names.flatMap(name => [1, [1], 'x'.repeat(100)].map(more => ({ [name]: more })))
  ])
  await closeAll(left, right)
})

test('window: messages that nobody has been given', async t => {
  const cost = 12 + 3 + 500
  for (const [window, most] of [
    [cost - 1, 1],
    [cost, 1],
    [cost + 1, 2],
    [2 * cost + 1, 3]
  ] as const) {
    const [left, right] = await connected({}, { window })
    left.serve(() => {})
    const arrived = await countArrivals(right, async () => {
      for (let i = 0; i < 5; i++) left.send(Buffer.alloc(500, i))
      await roundTrip(right)
      await roundTrip(right)
    })
    t.is(arrived, most, `${window}`)
    for (let i = 0; i < 5; i++) t.is((await nextMessage(right)).value[0], i)
    await closeAll(left, right)
  }
})

async function countArrivals(channel: Channel<any, any>, body: () => Promise<void>): Promise<number> {
  const { subscribe, unsubscribe } = await import('node:diagnostics_channel')
  let count = 0
  const listener = (event: unknown): void => {
    if ((event as { channel: unknown }).channel === channel) count++
  }
  subscribe('passfd:message:received', listener)
  try {
    await body()
  } finally {
    unsubscribe('passfd:message:received', listener)
  }
  return count
}

test('maxQueued: bytes that wait', async t => {
  const [channel, end] = pair<any, any>({ maxQueued: 1000 })
  t.throws(() => channel.send(Buffer.alloc(998)), codeError('MESSAGE_TOO_LARGE'))
  channel.send(Buffer.alloc(297)) // 312 with its header
  t.throws(() => channel.send(Buffer.alloc(686)), codeError('QUEUE_FULL'))
  channel.send(Buffer.alloc(685))
  const mine = file()
  t.throws(() => channel.send(mine), { ...codeError('QUEUE_FULL'), message: /1012 of 1000 \(maxQueued\)/ })
  t.false(mine.closed)
  const other = await connect<any, any>(end)
  t.is((await nextMessage(other)).value.length, 297)
  t.is((await nextMessage(other)).value.length, 685)
  channel.send(mine)
  ;(await nextMessage(other)).value.close()
  await closeAll(channel, other)
})

test('maxInFlight: descriptors that were not taken', async t => {
  const [channel, end] = pair<any, any>({ maxInFlight: 3 })
  t.is(channel.send(files(1)), resolved)
  const waiting = channel.send(files(1))
  t.not(waiting, resolved) // more than half
  channel.send(files(1))
  const mine = file()
  t.throws(() => channel.send(mine), { ...codeError('QUEUE_FULL'), message: /3 of 3 \(maxInFlight\)/ })
  t.false(mine.closed)
  t.true(await isPending(waiting))
  const other = await connect<any, any>(end)
  await waiting
  channel.send(mine)
  const arrived: Descriptor[] = []
  for (let i = 0; i < 4; i++) arrived.push(...(await nextMessage(other)).descriptors)
  t.is(arrived.length, 4)
  for (const descriptor of arrived) descriptor.close()
  await closeAll(channel, other)
})
