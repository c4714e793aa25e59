import { getEventListeners, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { Descriptor, Message } from '../../src/index.ts'
import { closeAll, connected, file, nextMessage } from '../helpers/channels.ts'
import {
  CANCEL,
  CREDIT,
  GOODBYE,
  Place,
  places,
  REPLY,
  REQUEST,
  rawPair,
  reply,
  request,
  TAKEN
} from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

function code(name: string) {
  return { code: `ERR_PASSFD_${name}` }
}

const ABORTED = { name: 'AbortError', code: 'ABORT_ERR' }

function files(count: number): Descriptor[] {
  return Array.from({ length: count }, file)
}

/** A handler that answers when told to. */
function answeringLater() {
  const asked: { message: Message<any>; answer(value?: unknown): void }[] = []
  const handler = (message: Message<any>) => new Promise(resolve => asked.push({ message, answer: resolve }))
  return { asked, handler }
}

test('answers come in any order, both ways at once', async t => {
  const [left, right] = await connected()
  const theirs = answeringLater()
  const ours = answeringLater()
  right.serve(theirs.handler)
  left.serve(ours.handler)
  const asked = [1, 2, 3].map(number => left.request(number))
  const askedBack = [4, 5, 6].map(number => right.request(number))
  await until(() => theirs.asked.length === 3 && ours.asked.length === 3, 'the questions')
  for (const index of [2, 0, 1]) {
    theirs.asked[index]!.answer(theirs.asked[index]!.message.value * 10)
    ours.asked[index]!.answer(ours.asked[index]!.message.value * 100)
  }
  t.deepEqual(await Promise.all(asked), [10, 20, 30])
  t.deepEqual(await Promise.all(askedBack), [400, 500, 600])
  await closeAll(left, right)
})

test('what a request resolves to is the caller’s, without a scope', async t => {
  const [left, right] = await connected()
  right.serve(() => ({ file: file() }))
  const { file: mine } = await left.request<{ file: Descriptor }>(null)
  await left.request(null).then((other: any) => other.file.close())
  await closeAll(left, right)
  t.is(mine.kind, 'device')
  mine.close()
})

// --- time limits

test('timeout: the request rejects, the peer is told, and its late answer is thrown away', async t => {
  const [left, right] = await connected({ requestTimeout: 0 })
  const { asked, handler } = answeringLater()
  right.serve(handler)
  const states: string[] = []
  right.on('returned', ({ state }) => states.push(state))
  const began = performance.now()
  const asking = left.request({ file: file() }, { timeout: 30 })
  const error = await t.throwsAsync(asking, { ...code('TIMEOUT'), message: /within 30 ms/ })
  t.true(performance.now() - began >= 29, error.message)
  await until(() => asked.length === 1, 'the question')
  const { message, answer } = asked[0]!
  if (!message.signal.aborted) await once(message.signal, 'abort')
  t.is(message.signal.reason.code, 'ERR_PASSFD_CANCELLED')
  answer({ file: file() })
  await until(() => states.length > 0, 'the return of the answer')
  t.deepEqual(states, ['refused'])
  const next = left.request('next')
  await until(() => asked.length === 2, 'the next')
  asked[1]!.answer('fine')
  t.is(await next, 'fine')
  await closeAll(left, right)
  t.is(await left.closed, undefined)
})

test('timeout: the channel’s requestTimeout unless the request says otherwise; each in its own time', async t => {
  const [left, right] = await connected({ requestTimeout: 30 })
  right.serve(({ value }) => (value === 'answered' ? turn('answer') : new Promise(() => {})))
  const failures: string[] = []
  const ask = (name: string, options = {}) =>
    left.request(name, options).catch(({ code, message }) => failures.push(`${name} ${code} ${/\d+ ms/.exec(message)}`))
  const patient = [ask('none', { timeout: 0 }), ask('long', { timeout: 60_000 })]
  const answered = left.request('answered', { timeout: 60_000 })
  await Promise.all([ask('default'), ask('short', { timeout: 10 })])
  t.deepEqual(failures.sort(), ['default ERR_PASSFD_TIMEOUT 30 ms', 'short ERR_PASSFD_TIMEOUT 10 ms'])
  t.is(await answered, 'answer')
  left.destroy()
  await Promise.all(patient)
  t.deepEqual(failures.slice(2).sort(), ['long ERR_PASSFD_CLOSED null', 'none ERR_PASSFD_CLOSED null'])
  await right.closed
})

test('timeout: 0 is none, and no timer keeps the process alive', async t => {
  const [left, right] = await connected()
  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  const none = left.request('never', { timeout: 0 })
  const long = left.request('never', { timeout: 2 ** 31 - 1 })
  t.is(timers(), before)
  left.destroy()
  await t.throwsAsync(none, code('CLOSED'))
  await t.throwsAsync(long, code('CLOSED'))
  await right.closed
})

// --- signals

test('signal: aborted before, nothing is sent and nothing moves', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  const mine = file()
  const error = await t.throwsAsync(left.request(mine, { signal: AbortSignal.abort('no') }), ABORTED)
  t.is(error.cause, 'no')
  t.false(mine.closed)
  void left.request('uncaught', { signal: AbortSignal.abort() })
  t.is(await left.request('first'), 'first')
  mine.close()
  await closeAll(left, right)
})

test('signal: cancels, and is let go of however the request ends', async t => {
  const [left, right] = await connected()
  const { asked, handler } = answeringLater()
  right.serve(handler)
  const controller = new AbortController()
  const { signal } = controller
  const options = { signal, timeout: 0 }
  const answered = left.request('answered', options)
  const failed = left.request('failed', options)
  const late = left.request('late', { signal, timeout: 1 })
  const cancelled = left.request('cancelled', options)
  t.is(getEventListeners(signal, 'abort').length, 1) // they share it
  await until(() => asked.length === 4, 'the questions')
  asked[0]!.answer('answer')
  asked[1]!.message.fail(new Error('failure'))
  t.is(await answered, 'answer')
  await t.throwsAsync(failed, code('REMOTE'))
  await t.throwsAsync(late, code('TIMEOUT'))
  t.is(getEventListeners(signal, 'abort').length, 1)
  controller.abort('enough')
  t.is((await t.throwsAsync(cancelled, ABORTED)).cause, 'enough')
  const { message } = asked[3]!
  if (!message.signal.aborted) await once(message.signal, 'abort')
  t.is(getEventListeners(signal, 'abort').length, 0)
  for (const { answer } of asked) answer()
  await closeAll(left, right)
})

test('a request that has not left is withdrawn: the peer never hears of it', async t => {
  const [left, right] = await connected({}, { window: 1 })
  const returned: any[] = []
  left.on('returned', given => returned.push(given.claim()))
  left.send('takes all credit')
  const controller = new AbortController()
  const mine = file()
  const aborted = left.request({ mine, large: Buffer.alloc(70_000) }, { signal: controller.signal })
  const timedOut = left.request('second', { timeout: 1 })
  left.send('last')
  controller.abort()
  await t.throwsAsync(aborted, ABORTED)
  await t.throwsAsync(timedOut, code('TIMEOUT'))
  t.deepEqual(
    returned.map(({ state, descriptors }) => [state, descriptors]),
    [['unsent', [mine]]]
  )
  mine.close()
  const seen: unknown[] = []
  for await (const { value } of right) if (seen.push(value) === 2) break
  t.deepEqual(seen, ['takes all credit', 'last'])
  await closeAll(left, right)
})

// --- what an answer may carry

test('descriptors: how many the answer may carry, at -1, 0, +1', async t => {
  const [left, right] = await connected()
  const made: Descriptor[][] = []
  right.serve(({ value }) => {
    made.push(files(value))
    return made.at(-1)
  })
  for (const [descriptors, count, fits] of [
    [undefined, 0, true],
    [undefined, 1, true],
    [undefined, 2, false],
    [0, 0, true],
    [0, 1, false],
    [3, 2, true],
    [3, 3, true],
    [3, 4, false],
    [253, 253, true]
  ] as const) {
    const asking = left.request<Descriptor[]>(count, descriptors === undefined ? {} : { descriptors })
    if (fits) {
      const answer = await asking
      t.is(answer.length, count)
      for (const descriptor of answer) descriptor.close()
    } else {
      const error: any = await t.throwsAsync(asking, code('REMOTE'))
      t.is(error.remote.code, 'ERR_PASSFD_TOO_MANY_DESCRIPTORS')
      t.regex(error.remote.message, /the request \(its option descriptors\)/)
    }
    t.true(made.at(-1)!.every(({ closed }) => closed))
  }
  await closeAll(left, right)
})

test('descriptors: the answers to all requests together are bounded by maxUnclaimed', async t => {
  const [left, right] = await connected({ maxUnclaimed: 5 })
  const { asked, handler } = answeringLater()
  right.serve(handler)
  const asking = [left.request(1, { descriptors: 2 }), left.request(2, { descriptors: 2 })]
  const mine = file()
  t.throws(() => left.request(mine, { descriptors: 2 }), { ...code('QUEUE_FULL'), message: /6 of 5 .*maxUnclaimed/ })
  t.false(mine.closed)
  mine.close()
  asking.push(left.request(3))
  t.throws(() => left.request(4), code('QUEUE_FULL'))
  asking.push(left.request(5, { descriptors: 0 }))
  await until(() => asked.length === 4, 'the questions')
  for (const { answer } of asked) answer()
  await Promise.all(asking)
  asking.push(left.request(6, { descriptors: 5 }))
  await until(() => asked.length === 5, 'the question')
  asked[4]!.answer()
  await Promise.all(asking)
  await closeAll(left, right)
})

test('options are checked', async t => {
  const [left, right] = await connected()
  const mine = file()
  const wrong = [{ descriptors: -1 }, { descriptors: 254 }, { timeout: -1 }, { timeout: 1.5 }, { signal: {} }]
  for (const options of wrong) t.throws(() => left.request(mine, options as never), code('INVALID_ARGUMENT'))
  t.false(mine.closed)
  mine.close()
  await closeAll(left, right)
})

// --- how many

test('maxPending: own requests, at -1, 0, +1', async t => {
  const [left, right] = await connected({ maxPending: 2 })
  const { asked, handler } = answeringLater()
  right.serve(handler)
  const first = left.request(1)
  const second = left.request(2)
  const mine = file()
  t.throws(() => left.request(mine), { ...code('TOO_MANY_REQUESTS'), message: /^2 requests/ })
  t.false(mine.closed)
  mine.close()
  await until(() => asked.length === 2, 'the questions')
  asked[0]!.answer('one')
  t.is(await first, 'one')
  const third = left.request(3)
  t.throws(() => left.request(4), code('TOO_MANY_REQUESTS'))
  await until(() => asked.length === 3, 'the third')
  asked[1]!.answer('two')
  asked[2]!.answer('three')
  t.deepEqual(await Promise.all([second, third]), ['two', 'three'])
  await closeAll(left, right)
})

test('maxPending: a request that was given up counts until its answer has come', async t => {
  const { channel, peer } = await rawPair<any, any>({ maxPending: 1 })
  const controller = new AbortController()
  const given = channel.request('given up', { signal: controller.signal })
  const { id } = await peer.next(REQUEST)
  controller.abort()
  await t.throwsAsync(given, ABORTED)
  t.is((await peer.next(CANCEL)).id, id)
  t.throws(() => channel.request('next'), code('TOO_MANY_REQUESTS'))
  // The late answer is confirmed, its descriptor closed, and nobody hears of it
  const mine = file()
  peer.send(reply(id, new Place(0), 1), [mine.borrow()])
  mine.close()
  t.is((await peer.next(TAKEN)).id, 1)
  const next = channel.request('next')
  const second = await peer.next(REQUEST)
  t.not(second.id, id)
  peer.send(reply(second.id, 'answer'))
  t.is(await next, 'answer')
  channel.destroy()
  await channel.closed
  peer.close()
})

test('maxPending: the peer’s requests, at -1, 0, +1', async t => {
  const { channel, peer } = await rawPair<any, any>({ maxPending: 2 })
  const { asked, handler } = answeringLater()
  channel.serve(handler)
  const mine = files(3)
  const numbers = mine.map(descriptor => descriptor.borrow())
  peer.send(Buffer.concat([1, 2, 3].map(id => request(id, new Place(0), 1))), numbers)
  for (const descriptor of mine) descriptor.close()
  const refused = await peer.next(4)
  t.is(refused.id, 3)
  t.is(refused.value.code, 'ERR_PASSFD_BUSY')
  t.regex(refused.value.message, /2 requests are pending/)
  t.is(asked.length, 2)
  asked[0]!.answer('one')
  t.is((await peer.next(REPLY)).id, 1)
  peer.send(request(4, 'again'))
  await until(() => asked.length === 3, 'the next')
  asked[1]!.answer('two')
  asked[2]!.answer('four')
  t.is((await peer.next(REPLY)).value, 'two')
  t.is((await peer.next(REPLY)).value, 'four')
  channel.destroy()
  await channel.closed
  peer.close()
})

test('maxPending: between two passfd ends the one that is over it is told so', async t => {
  const [left, right] = await connected({}, { maxPending: 1 })
  const { asked, handler } = answeringLater()
  right.serve(handler)
  const first = left.request(1)
  const error: any = await t.throwsAsync(left.request({ file: file() }), code('REMOTE'))
  t.is(error.remote.code, 'ERR_PASSFD_BUSY')
  asked[0]!.answer('one')
  t.is(await first, 'one')
  await closeAll(left, right)
})

// --- the end

test('a goodbye lets requests that were read before be answered', async t => {
  const [left, right] = await connected()
  const { asked, handler } = answeringLater()
  right.serve(handler)
  const asking = left.request<Descriptor>('question')
  await until(() => asked.length === 1, 'the question')
  const closing = right.close()
  await turn()
  asked[0]!.answer(file())
  const answer = await asking
  t.is(answer.kind, 'device')
  answer.close()
  await closing
  t.is(await left.closed, undefined)
  t.is(await right.closed, undefined)
})

test('a request that crosses the peer’s goodbye is not delivered, and comes back', async t => {
  const { channel, peer } = await rawPair<any, any>()
  const returned: any[] = []
  channel.on('returned', given => returned.push(given.claim()))
  const mine = file()
  const asking = channel.request(mine)
  const { fds } = await peer.next(REQUEST)
  t.is(fds.length, 1)
  peer.send(Buffer.concat([Buffer.from([0, 0, 0, 0, GOODBYE, 0, 0, 0, 0, 0, 0, 0])]))
  await peer.next(GOODBYE)
  peer.close()
  await t.throwsAsync(asking, code('CLOSED'))
  t.deepEqual(
    returned.map(({ state }) => state),
    ['unconfirmed']
  )
  mine.close()
  await channel.closed
})

test('requests that nobody awaits end no process when they fail', async t => {
  const [left, right] = await connected()
  right.serve(() => {
    throw new Error('failure')
  })
  void left.request('fault')
  void left.request('timeout', { timeout: 1 })
  void left.request('last').catch(() => left.destroy())
  await left.closed
  await turn()
  t.throws(() => left.request('misuse'), code('CHANNEL_CLOSED'))
})

test('requests wait for credit like messages, and keep their order', async t => {
  const { channel, peer } = await rawPair<any, any>({}, { window: 1 })
  channel.send('first')
  void channel.request('second', { descriptors: 5 })
  channel.send('third')
  t.is((await peer.next(1)).value, 'first')
  await turn()
  t.deepEqual(peer.rest(), [])
  peer.send(Buffer.from([0, 0, 0, 0, CREDIT, 0, 0, 0, 0xff, 0xff, 0, 0]))
  const second = await peer.next()
  t.deepEqual([second.kind, second.value, second.flags >> 8], [REQUEST, 'second', 5])
  t.is((await peer.next()).value, 'third')
  channel.destroy()
  await channel.closed
  peer.close()
})

test('an answer with as many descriptors as asked for, from a peer by hand', async t => {
  const { channel, peer } = await rawPair<any, any>()
  const asking = channel.request<Descriptor[]>('all', { descriptors: 200 })
  const { id, flags } = await peer.next(REQUEST)
  t.is(flags >> 8, 200)
  const mine = files(200)
  const numbers = mine.map(descriptor => descriptor.borrow())
  peer.send(reply(id, places(200), 200), numbers)
  for (const descriptor of mine) descriptor.close()
  const answer = await asking
  t.is(answer.length, 200)
  for (const descriptor of answer) descriptor.close()
  t.is((await peer.next(TAKEN)).id, 200)
  channel.destroy()
  await channel.closed
  peer.close()
})

test('a message with nobody to read it holds no answer up', async t => {
  const [left, right] = await connected({}, { window: 1 })
  left.serve(({ value }) => value)
  for (let i = 0; i < 10; i++) left.send({ i, file: file() })
  t.is(await right.request('answered all the same'), 'answered all the same')
  for (let i = 0; i < 10; i++) (await nextMessage(right)).value.file.close()
  await closeAll(left, right)
})
