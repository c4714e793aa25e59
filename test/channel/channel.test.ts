import { once } from 'node:events'
import { readFileSync, writeSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, type ChannelOptions, connect, Descriptor, listen, type Message, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, file, nextMessage, patched } from '../helpers/channels.ts'
import { startOnPair, stop } from '../helpers/child.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { type Running, startFixture } from '../helpers/process.ts'
import { frame, GOODBYE, MESSAGE, rawPair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

/** What send() returns below the mark, always the same. */
const resolved = (() => {
  const [channel, end] = pair()
  const promise = channel.send(1)
  channel.destroy()
  end.close()
  return promise
})()

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  await turn()
  return (await Promise.race([promise, Promise.resolve(isPending)])) === isPending
}

/** Everything that `channel` had to say before has been read by the other end, and its answer by us. */
async function roundTrip(channel: Channel<any, any>): Promise<void> {
  await channel.request('round trip')
}

function code(expected: string) {
  return { code: `ERR_PASSFD_${expected}` }
}

test('a request with a descriptor is answered with one', async t => {
  const server = await listen(socketPath())
  server.serve(({ value }) => {
    const { file } = value as { file: Descriptor }
    return { kind: file.kind, back: file }
  })
  const channel = await connect<unknown, unknown>(server.address)
  const file = await Descriptor.open('/etc/hostname')
  const reply = await channel.request<{ kind: string; back: Descriptor }>({ file })
  t.is(reply.kind, 'file')
  t.is(readFileSync(reply.back.borrow(), 'utf8'), readFileSync('/etc/hostname', 'utf8'))
  t.true(file.closed)
  t.throws(() => file.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_MOVED' })
  reply.back.close()
  await channel.close()
  t.is(await channel.closed, undefined)
  await server.close()
})

// --- serve

test('serve: descriptors are lent until what the handler returned has settled', async t => {
  const [left, right] = await connected()
  const held: Descriptor[] = []
  let finish!: () => void
  right.serve(async ({ value, descriptors }) => {
    held.push(...descriptors)
    if (value.wait) await new Promise<void>(resolve => (finish = resolve))
    return descriptors.map(({ closed }) => closed)
  })
  const waiting = left.request({ wait: true, file: file() })
  t.deepEqual(await left.request({ file: file() }), [false])
  t.deepEqual(
    held.map(({ closed }) => closed),
    [false, true]
  )
  finish()
  t.deepEqual(await waiting, [false])
  const error = t.throws(() => held[0]!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
  t.is(
    error.message,
    `This descriptor came in a request from pid ${process.pid} and was closed when its serve handler returned, because nothing had claimed it: call claim() on it before that.`
  )
  await closeAll(left, right)
})

test('serve: what was claimed, converted, detached, sent on or answered with lives on', async t => {
  const [left, right] = await connected()
  const kept: any[] = []
  let number = -1
  right.serve(({ value }) => {
    const [claimed, converted, detached, sent, answered] = value
    kept.push(claimed.claim(), converted.toWritable())
    number = detached.detach()
    right.send(sent)
    return answered
  })
  const back = nextMessage(left)
  const answer = await left.request<Descriptor>([file(), file(), file(), file(), file()])
  const { value } = await back
  for (const descriptor of [answer, value, kept[0], Descriptor.adopt(number)]) {
    t.is(descriptor.kind, 'device')
    descriptor.close()
  }
  kept[1].end()
  await once(kept[1], 'close')
  await closeAll(left, right)
})

test('serve: messages and requests alike; a result that nobody asked for is dropped', async t => {
  const [left, right] = await connected()
  const seen: [unknown, boolean][] = []
  right.serve(({ value, isRequest }) => {
    seen.push([value, isRequest])
    return 'a result'
  })
  await left.send('message')
  t.is(await left.request('request'), 'a result')
  t.deepEqual(seen, [
    ['message', false],
    ['request', true]
  ])
  await closeAll(left, right)
})

test('serve: concurrency bounds how many handlers run, at -1, 0 and +1', async t => {
  for (const concurrency of [1, 2, 3]) {
    const [left, right] = await connected()
    const finish: (() => void)[] = []
    let running = 0
    let most = 0
    right.serve(
      async () => {
        most = Math.max(most, ++running)
        await new Promise<void>(resolve => finish.push(resolve))
        running--
      },
      { concurrency }
    )
    const requests = Promise.all(Array.from({ length: 6 }, (_, index) => left.request(index)))
    for (let done = 0; done < 6; done++) {
      await until(() => finish.length > done, 'the next handler')
      t.is(running, Math.min(concurrency, 6 - done))
      finish[done]!()
      await turn()
    }
    await requests
    t.is(most, concurrency)
    await closeAll(left, right)
  }
})

test('serve: handlers that return at once are not bounded', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value, { concurrency: 1 })
  t.deepEqual(await Promise.all([1, 2, 3].map(value => left.request(value))), [1, 2, 3])
  await closeAll(left, right)
})

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
  const error = t.throws(() => held[2]!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
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
  t.throws(() => right.on('message', () => {}), code('CONSUMED'))
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
        const error = t.throws(() => second(channel), code('CONSUMED'), `${by}, then ${name}`)
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

// --- handlers that fail

const failures: [string, () => unknown, object][] = [
  ['a thrown error', thrower(new Error('thrown')), { code: 'Error', message: 'thrown' }],
  ['a rejection', () => Promise.reject(new RangeError('rejected')), { code: 'RangeError', message: 'rejected' }],
  [
    'code and data',
    thrower(Object.assign(new Error('no'), { code: 'ERR_MINE', data: { why: ['because'], at: 7 } })),
    { code: 'ERR_MINE', message: 'no', data: { why: ['because'], at: 7 } }
  ],
  [
    'a system error',
    () => Descriptor.open('/nowhere'),
    { code: 'ENOENT', message: "ENOENT: no such file or directory, open '/nowhere'" }
  ],
  [
    'data that can’t be sent',
    thrower(Object.assign(new Error('no'), { data: () => {} })),
    { code: 'Error', message: 'no' }
  ],
  ['a string', thrower('just a string'), { code: 'Error', message: 'just a string' }],
  ['undefined', thrower(undefined), { code: 'Error', message: 'undefined' }],
  [
    'a rejection without a reason',
    () => Promise.reject(),
    { code: 'Error', message: 'the handler rejected without a reason' }
  ]
]

function thrower(error: unknown) {
  return () => {
    throw error
  }
}

for (const [what, handler, remote] of failures)
  test(`a handler fails with ${what}: the requester hears code, message and data, the channel goes on`, async t => {
    const [left, right] = await connected()
    right.serve(handler)
    const error: any = await t.throwsAsync(left.request({ file: file() }), code('REMOTE'))
    t.deepEqual(error.remote, remote)
    t.is(error.message, `The peer answered with an error: ${error.remote.message}`)
    t.deepEqual((await t.throwsAsync<any>(left.request(2))).remote, remote)
    await closeAll(left, right)
    t.is(await right.closed, undefined)
  })

test('an error’s stack never crosses', async t => {
  const { channel, peer } = await rawPair()
  const error = Object.assign(new Error('told'), { data: { note: 'told too' }, secret: 'not told' })
  channel.serve(thrower(error))
  peer.send(frame(2, Buffer.of(0xc0), { id: 1 }))
  const { value } = await peer.next(4)
  t.deepEqual(value, { code: 'Error', message: 'told', data: { note: 'told too' } })
  channel.destroy(error)
  t.deepEqual((await peer.next(GOODBYE)).value, { code: 'Error', message: 'told' })
  await channel.closed
  peer.close()
})

test('a handler that fails on a plain message tells onError, and the channel goes on', async t => {
  const [left, right] = await connected()
  const told: unknown[] = []
  right.serve(
    ({ value }) => {
      if (value !== 'fine') throw new Error(value)
      return value
    },
    { onError: (error, message) => told.push([error.message, message.value, message.isRequest]) }
  )
  left.send('thrown')
  left.send(['rejected'])
  t.is(await left.request('fine'), 'fine')
  // A request's failure is told to the requester only
  await t.throwsAsync(left.request('requested'), code('REMOTE'))
  t.deepEqual(told, [
    ['thrown', 'thrown', false],
    ['rejected', ['rejected'], false]
  ])
  await closeAll(left, right)
})

test('a handler that fails on a plain message, without onError, ends the channel', async t => {
  for (const fail of [thrower(new Error('sorry')), () => Promise.reject(new Error('sorry'))]) {
    const [left, right] = await connected()
    right.serve(fail)
    left.send(file())
    const mine: any = await right.closed
    t.is(mine.code, 'ERR_PASSFD_HANDLER')
    t.is(mine.cause.message, 'sorry')
    const theirs: any = await left.closed
    t.is(theirs.code, 'ERR_PASSFD_PEER')
    t.is(theirs.remote.code, 'ERR_PASSFD_HANDLER')
    t.regex(theirs.remote.message, /sorry/)
  }
})

test('an answer that can’t be sent is answered with a fault, and its descriptors are closed if nobody listens', async t => {
  const [left, right] = await connected({}, {})
  const cyclic: any = { list: [], map: new Map(), file: undefined }
  cyclic.list.push(cyclic)
  cyclic.map.set('itself', cyclic)
  const answers: [() => unknown, string][] = [
    [() => ({ file: file(), no: () => {} }), 'ENCODE'],
    [() => ({ ...cyclic, file: file() }), 'ENCODE'],
    [() => ({ files: [file(), new Map([['file', file()]])], huge: Buffer.alloc(2 ** 21) }), 'MESSAGE_TOO_LARGE'],
    [() => [file(), file()], 'TOO_MANY_DESCRIPTORS'],
    [() => right, 'ENCODE']
  ]
  const made: Descriptor[] = []
  right.serve(({ value }) => {
    const answer = answers[value]![0]()
    made.push(...descriptorsIn(answer))
    return answer
  })
  for (const [index, [, expected]] of answers.entries()) {
    const error: any = await t.throwsAsync(left.request(index), code('REMOTE'))
    t.is(error.remote.code, `ERR_PASSFD_${expected}`)
  }
  t.is(made.length, 6)
  t.true(made.every(({ closed }) => closed))
  await closeAll(left, right)
  t.is(await left.closed, undefined)
})

function descriptorsIn(answer: any): Descriptor[] {
  const list = [answer, answer.file, ...(answer.files ?? []), ...(Array.isArray(answer) ? answer : [])]
  return [...list, answer.files?.[1].get('file')].filter(item => item instanceof Descriptor)
}

test('what listeners throw surfaces as an uncaught exception, and disturbs nothing', async t => {
  const child = startFixture('throwing-listeners')
  const lines = [
    'uncaught message',
    'uncaught onError',
    'ERR_PASSFD_REMOTE handler',
    'still read',
    'uncaught returned',
    'uncaught close'
  ]
  for (const line of lines) t.is(await child.line(), line)
  t.like(await child.exit, { code: 0, stderr: '' })
})

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
  await t.throwsAsync(sent, code('CLOSED'))
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
    const error = t.throws(() => left.send(value), code(expected))
    t.true(error.message.length > 20)
    t.throws(() => left.request(value), code(expected))
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
    t.throws(() => channel.send(mine), code('CHANNEL_CLOSED'))
    t.throws(() => channel.request(mine), code('CHANNEL_CLOSED'))
  }
  await closing
  t.throws(() => left.send(mine), code('CHANNEL_CLOSED'))
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
  await t.throwsAsync(left.send(mine), code('CLOSED'))
  await until(() => !mine.closed, 'its return')
  await t.throwsAsync(left.request({ mine }), code('CLOSED'))
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
    ...code('MESSAGE_TOO_LARGE'),
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
  t.throws(() => left.send(three), { ...code('TOO_MANY_DESCRIPTORS'), message: /3 descriptors.* is 2\./ })
  for (const descriptor of three) descriptor.close()
  await closeAll(left, right)
})

function files(count: number): Descriptor[] {
  return Array.from({ length: count }, file)
}

test('253 descriptors are the most a message can carry', async t => {
  const [left, right] = await connected()
  left.send(files(253))
  const { descriptors } = await nextMessage(right)
  t.is(descriptors.length, 253)
  t.true(descriptors.every((descriptor: Descriptor) => descriptor.kind === 'device'))
  for (const descriptor of descriptors) descriptor.close()
  const many = files(254)
  t.throws(() => left.send(many), code('TOO_MANY_DESCRIPTORS'))
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
  t.throws(() => channel.send(Buffer.alloc(998)), code('MESSAGE_TOO_LARGE'))
  channel.send(Buffer.alloc(297)) // 312 with its header
  t.throws(() => channel.send(Buffer.alloc(686)), code('QUEUE_FULL'))
  channel.send(Buffer.alloc(685))
  const mine = file()
  t.throws(() => channel.send(mine), { ...code('QUEUE_FULL'), message: /1012 of 1000 \(maxQueued\)/ })
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
  t.throws(() => channel.send(mine), { ...code('QUEUE_FULL'), message: /3 of 3 \(maxInFlight\)/ })
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

// --- what comes back

test('unconfirmed and unsent: the peer was killed before it took them', async t => {
  const [channel, child] = await startOnPair('read-on-3', ['{"window":1}'])
  await stop(child)
  const path = temporaryPath()
  const first = await Descriptor.open(path, 'w+')
  const returned: any[] = []
  channel.on('returned', given => {
    t.true(given.descriptors.every((descriptor: Descriptor) => !descriptor.closed))
    returned.push(given)
    if (given.value !== 'dropped') given.claim()
  })
  const values = [{ first }, { second: file() }, { third: [file(), file()] }]
  for (const value of values) await channel.send(value)
  const dropped = file()
  await channel.send(dropped)
  t.true(first.closed)
  await turn()
  channel.prependOnceListener('close', () => t.is(returned.length, 4))
  child.child.kill('SIGKILL')
  t.is(((await channel.closed) as any).code, 'ERR_PASSFD_DISCONNECTED')
  t.deepEqual(
    returned.map(({ state, value, descriptors }) => [state, value, descriptors.length]),
    [
      ['unconfirmed', values[0], 1],
      ['unsent', values[1], 1],
      ['unsent', values[2], 2],
      ['unsent', dropped, 1]
    ]
  )
  // The very Descriptors, open again
  t.is(returned[0].value.first, first)
  t.is(first.kind, 'file')
  for (const { descriptors } of returned) for (const descriptor of descriptors) descriptor.close()
  await child.exit
})

/** A child that gives its request up when it can't have seen yet the answer that has left here. */
async function startCancellingLate(answer: () => Descriptor): Promise<[Channel<any, any>, Running]> {
  const { readable, writable } = Descriptor.pipe()
  const [channel, child] = await startOnPair('cancel-late', [], {}, readable.borrow())
  readable.close()
  channel.serve(() => {
    setImmediate(() => {
      writeSync(writable.borrow(), 'x')
      writable.close()
    })
    return answer()
  })
  return [channel, child]
}

test('refused: the answer to a request that was given up', async t => {
  const answer = file()
  const [channel, child] = await startCancellingLate(() => answer)
  channel.once('returned', given => given.claim())
  const [{ state, value, descriptors }] = await once(channel, 'returned')
  t.is(state, 'refused')
  t.is(value, answer)
  t.deepEqual(descriptors, [answer])
  t.false(answer.closed)
  answer.close()
  t.is(await child.line(), 'ABORT_ERR')
  t.like(await child.exit, { code: 0, stderr: '' })
  t.is(await channel.closed, undefined)
})

test('without a listener what comes back is closed', async t => {
  const mine = [file(), file(), file(), file()]
  const [refusing, first] = await startCancellingLate(() => mine[0]!)
  t.like(await first.exit, { code: 0, stderr: '' })
  const [channel, second] = await startOnPair('read-on-3', ['{"window":1}'])
  await stop(second)
  for (const descriptor of mine.slice(1)) await channel.send(descriptor)
  await turn()
  second.child.kill('SIGKILL')
  await Promise.all([refusing.closed, channel.closed, second.exit])
  // That nothing is open any more is seen after each test
  for (const descriptor of mine) t.throws(() => descriptor.borrow(), code('DESCRIPTOR_MOVED'))
})

test('what no listener claimed is closed when the listeners have returned', async t => {
  const [channel, end] = pair<any, any>()
  const mine = files(2)
  channel.on('returned', ({ descriptors }) => void descriptors[0]!.claim())
  await channel.send(mine)
  end.close()
  await channel.closed
  t.false(mine[0]!.closed)
  const error = t.throws(() => mine[1]!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
  t.regex(error.message, /came in a returned message .* was closed when the 'returned' listeners returned/)
  mine[0]!.close()
})

// --- the end

test('close waits for answers, for the queue and for descriptors to be taken', async t => {
  const [left, right] = await connected({}, { window: 1 })
  let answer!: (value: string) => void
  right.on('message', message => {
    if (message.isRequest) answer = value => message.reply(value)
    else for (const descriptor of message.claim().descriptors) descriptor.close()
  })
  const request = left.request('question')
  for (let i = 0; i < 5; i++) left.send(file())
  let ended = false
  const closing = left.close().then(() => (ended = true))
  await until(() => answer !== undefined, 'the question')
  await turn()
  t.false(ended)
  answer('answer')
  t.is(await request, 'answer')
  await closing
  t.is(await left.closed, undefined)
  t.is(await right.closed, undefined)
})

test('close gives up after closeTimeout, and what is left comes back', async t => {
  const [channel, child] = await startOnPair('read-on-3', [], { closeTimeout: 50 })
  await stop(child)
  const states: string[] = []
  channel.on('returned', ({ state }) => states.push(state))
  await channel.send(file())
  const request = channel.request('never answered')
  await channel.close()
  const error: any = await channel.closed
  t.is(error.code, 'ERR_PASSFD_CLOSE_TIMEOUT')
  t.regex(error.message, /50 ms/)
  t.deepEqual(states, ['unconfirmed'])
  t.is((await t.throwsAsync(request, code('CLOSED'))).cause, error)
  child.child.kill('SIGKILL')
  await child.exit
})

test("the list of no descriptors is everybody's, and nobody can put anything into it", async t => {
  const [left, right] = await connected()
  void left.send('nothing with it')
  const { descriptors } = await nextMessage(right)
  t.throws(() => (descriptors as unknown[]).push('mine'), { instanceOf: TypeError })
  void left.send('nor with this')
  t.deepEqual((await nextMessage(right)).descriptors, [])
  await closeAll(left, right)
})

test('both ends may close at once, and as often as they like', async t => {
  const [left, right] = await connected()
  const closing = [left.close(), right.close(), left.close(), right[Symbol.asyncDispose]()]
  await Promise.all(closing)
  await left.close()
  t.is(await left.closed, undefined)
  t.is(await right.closed, undefined)
})

test('destroy tells the peer the error’s code; closed and close tell both sides', async t => {
  for (const given of [undefined, Object.assign(new Error('why'), { code: 'ERR_WHY' })]) {
    const [left, right] = await connected()
    const told = [once(left, 'close'), once(right, 'close')]
    const request = right.request('unanswered')
    left.destroy(given)
    left.destroy(new Error('too late'))
    t.is(await left.closed, given)
    const error: any = await right.closed
    t.is(error.code, 'ERR_PASSFD_PEER')
    t.is(error.remote.code, given === undefined ? 'ERR_PASSFD_DESTROYED' : 'ERR_WHY')
    t.is((await t.throwsAsync(request, code('CLOSED'))).cause, error)
    t.deepEqual(await Promise.all(told), [given === undefined ? [] : [given], [error]])
    t.is(await left.closed, given) // asked for after the end, too
  }
})

test('a last word that nobody hears keeps no process alive', async t => {
  const { channel, peer } = await rawPair({ closeTimeout: 60_000 })
  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  peer.send(Buffer.alloc(12, 0xff))
  peer.close()
  t.is(((await channel.closed) as any).code, 'ERR_PASSFD_BAD_FRAME')
  t.is(timers(), before)
})

// --- values

const values: Record<string, unknown> = {
  null: null,
  undefined: undefined,
  numbers: [0, -1, 1.5, 2 ** 31, 2 ** 53 - 1, -(2 ** 53) + 1, Number.NaN, Number.POSITIVE_INFINITY],
  strings: ['', 'ascii', 'ünïcödé 🎉', 'x'.repeat(70_000)],
  date: [new Date(0), new Date('2024-02-29T12:34:56.789Z'), new Date(-1)],
  map: new Map<unknown, unknown>([
    ['key', 1],
    [2, new Map([[true, null]])]
  ]),
  set: new Set([1, 'two', new Set([3])]),
  bigint: [0n, -1n, 2n ** 63n - 1n, 2n ** 64n, -(2n ** 200n)],
  buffer: [Buffer.from('buffer'), Buffer.alloc(0), Buffer.alloc(100_000, 1)],
  arrays: [
    new Uint8Array([1, 2]),
    new Uint8ClampedArray([3]),
    new Int8Array([-1]),
    new Int16Array([-2, 2]),
    new Uint16Array([4]),
    new Int32Array([-3]),
    new Uint32Array([5]),
    new Float32Array([1.5]),
    new Float64Array([2.5, -2.5]),
    new BigInt64Array([-6n]),
    new BigUint64Array([7n]),
    new Float64Array(20_000)
  ],
  records: [
    { a: 1, b: { c: [2] } },
    { a: 3, b: { c: [4] } },
    { 'odd key': 1, __proto__x: 2 }
  ]
}

for (const [name, value] of Object.entries(values))
  test(`values between two passfd ends: ${name}`, async t => {
    const [left, right] = await connected()
    right.serve(message => message.value)
    t.deepEqual(await left.request(value), value)
    t.deepEqual(await left.request({ again: value, file: file() }, { descriptors: 1 }).then(close), {
      again: value,
      file: true
    })
    await closeAll(left, right)
  })

function close(value: any): object {
  value.file.close()
  return { ...value, file: value.file.closed }
}

test('values towards a peer without records: standard msgpack', async t => {
  const options: ChannelOptions[] = [{ records: false }, {}]
  for (const [mine, theirs] of [options, [...options].reverse()]) {
    const [left, right] = await connected(mine, theirs)
    right.serve(({ value }) => value)
    const plain = { list: [1, 'two', null, true, 2.5], bytes: Buffer.from('b'), date: new Date(5), deep: { er: {} } }
    t.deepEqual(await left.request(plain), plain)
    t.deepEqual(await left.request(new Map([['key', 1]])), { key: 1 })
    t.deepEqual(await left.request(new Int16Array([1, 2])), Buffer.from(new Int16Array([1, 2]).buffer))
    await closeAll(left, right)
  }
})

test('two worker threads with channels each', async t => {
  const child = startFixture('workers', [socketPath()])
  t.is(await child.line(), '[5050,4950]')
  t.is(await child.line(), '0', 'sockets or files are left open')
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('many channels that write in one turn do not all wait for its end', async t => {
  const channels: Channel[] = []
  const numbers: Descriptor[] = []
  for (let i = 0; i < 200; i++) {
    const [channel, theirs] = pair()
    numbers.push(theirs.dup())
    channels.push(channel, await connect(theirs))
  }
  const senders = channels.filter((_, index) => index % 2 === 0)
  const receivers = channels.filter((_, index) => index % 2 === 1)
  await until(() => senders.every(({ peer }) => peer.agent !== ''), 'the hellos')
  const got = receivers.map(receiver => nextMessage(receiver))
  for (const [index, sender] of senders.entries()) void sender.send({ index })
  const early = numbers.filter(number => native.pending(number.borrow()) > 0).length
  t.true(early >= 128 && early < 200, `${early} of 200`)
  t.deepEqual(
    (await Promise.all(got)).map(({ value }) => value),
    senders.map((_, index) => ({ index }))
  )
  for (const number of numbers) number.close()
  await closeAll(...channels)
})

test('an array that has more items than the message may have bytes is refused before it is looked at', async t => {
  for (const records of [true, false]) {
    const [left, right] = await connected({ records })
    let reads = 0
    const sparse: number[] = []
    sparse[5e7] = 1
    const long = new Proxy([], {
      get(target, key) {
        if (key === 'length') return 5e7
        if (typeof key === 'string' && /^\d/.test(key)) reads++
        return Reflect.get(target, key)
      }
    })
    const descriptor = file()
    const tooLarge = { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' }
    for (const value of [sparse, { deep: [sparse] }, [long], new Set([long]), { list: long, descriptor }]) {
      t.throws(() => left.send(value), tooLarge)
      t.throws(() => left.request(value), tooLarge)
    }
    right.serve(({ value }) => {
      if (value === 'fail') throw Object.assign(new Error('no'), { data: { long } })
      return value === 'answer' ? { long } : 'fine'
    })
    t.like(((await t.throwsAsync(left.request('answer'))) as any).remote, tooLarge)
    const failed: any = await t.throwsAsync(left.request('fail'))
    t.deepEqual(failed.remote, { code: 'Error', message: 'no' })
    t.is(await left.request(Array.from({ length: 100_000 }, () => 1)), 'fine')
    t.is(reads, 0)
    t.false(descriptor.closed)
    descriptor.close()
    await closeAll(left, right)
  }
  const [early, end] = pair<any, any>({ maxQueued: 1000 })
  t.throws(() => early.send(new Array(1001)), { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE', message: /maxQueued/ })
  early.destroy()
  end.close()
})
