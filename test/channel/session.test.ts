import { setImmediate as turn } from 'node:timers/promises'
import { EPERM } from '../../src/base/errno.ts'
import type { Message } from '../../src/channel/message.ts'
import { benchTest, cancel, credit } from '../helpers/bench.ts'
import { times } from '../helpers/full.ts'
import { runModel } from '../helpers/model.ts'
import { body, FAULT, frame, goodbye, hello, message, Place, reply, request, taken } from '../helpers/raw-peer.ts'
import { test } from '../helpers/test.ts'

// PASSFD_MODEL_SEED=n looks at one run, PASSFD_MODEL_RUNS=n at so many from there (or from the beginning)
const { PASSFD_MODEL_SEED, PASSFD_MODEL_RUNS } = process.env
const firstSeed = Number(PASSFD_MODEL_SEED ?? 1)
const runs = Number(PASSFD_MODEL_RUNS ?? (PASSFD_MODEL_SEED === undefined ? times(50, 2000) : 1))

test('two channels keep every promise however the wire, the programs and time behave', async t => {
  t.timeout(Math.max(120_000, runs * 50))
  let refusals = 0
  let withDefinitions = 0
  for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
    const { problems, log, settings, refused, definitions } = await runModel(seed)
    refusals += refused
    withDefinitions += definitions
    if (problems.length === 0) continue
    t.log(`${JSON.stringify(settings)}\n${log.slice(-100).join('\n')}`)
    t.deepEqual(problems, [], `again with PASSFD_MODEL_SEED=${seed}`)
    return
  }
  t.log(`${refusals} messages came back with an error, ${withDefinitions} of them define records`)
  if (runs >= 80) t.true(refusals > runs && withDefinitions > runs / 10)
  else t.pass()
})

// --- closing. Each row: what is done, with what is heard after it

benchTest('close: both say goodbye, write no more, and end at the end of file', {}, async (t, bench) => {
  void bench.channel.close()
  t.deepEqual(await bench.heard(), ['goodbye'])
  t.false(bench.shutDown)
  await bench.say(goodbye())
  t.true(bench.shutDown)
  t.is(bench.outcome, 'open')
  await bench.hangUp()
  t.is(bench.outcome, 'clean')
})

benchTest("close by the peer: its goodbye is answered at once, and is the channel's end", {}, async (t, bench) => {
  await bench.say(goodbye())
  t.deepEqual(await bench.heard(), ['goodbye'])
  t.true(bench.shutDown)
  await t.throwsAsync(bench.channel.send(bench.file()), { code: 'ERR_PASSFD_CLOSED' })
  t.is(bench.ask([bench.file(), bench.file()]).outcome, 'open')
  await bench.settle()
  t.deepEqual(bench.returned, ['unsent 1', 'unsent 2'])
  await bench.hangUp()
  t.is(bench.outcome, 'clean')
})

benchTest('close by both at once: one goodbye each', {}, async (t, bench) => {
  void bench.channel.close()
  await bench.say(goodbye())
  t.deepEqual(await bench.heard(), ['goodbye'])
  t.true(bench.shutDown)
  await bench.hangUp()
  t.is(bench.outcome, 'clean')
})

benchTest('close: the system refuses shutdown(2), and each side ends at once all the same', {}, async (t, bench) => {
  bench.near.shutdownResult = EPERM
  const closing = bench.channel.close()
  await bench.say(goodbye())
  t.deepEqual(await bench.heard(), ['goodbye'])
  t.is(bench.outcome, 'clean')
  t.true(bench.near.ended)
  await closing
})

benchTest('close twice, and send after it', {}, async (t, bench) => {
  void bench.channel.close()
  void bench.channel.close()
  const file = bench.file()
  t.throws(() => bench.channel.send(file), { code: 'ERR_PASSFD_CHANNEL_CLOSED' })
  t.throws(() => bench.channel.request(file), { code: 'ERR_PASSFD_CHANNEL_CLOSED' })
  t.false(file.closed)
  file.close()
  t.deepEqual(await bench.heard(), ['goodbye'])
})

benchTest('close waits for the answer to a request of ours', {}, async (t, bench) => {
  const asked = bench.ask()
  void bench.channel.close()
  t.deepEqual(await bench.heard(), ['request 1'])
  await bench.say(reply(1, 'yes'))
  t.is(asked.outcome, 'yes')
  t.deepEqual(await bench.heard(), ['goodbye'])
})

benchTest('close waits for the answer to a cancelled request', {}, async (t, bench) => {
  const { signal } = new AbortController()
  const controller = new AbortController()
  const asked = bench.ask('ask', { signal: controller.signal })
  t.false(signal.aborted)
  void bench.channel.close()
  await bench.settle()
  controller.abort()
  t.deepEqual(await bench.heard(), ['request 1', 'cancel 1'])
  t.is(asked.outcome, 'ABORT_ERR')
  await bench.say(frame(FAULT, body({ code: 'ERR_PASSFD_CANCELLED' }), { id: 1 }))
  t.deepEqual(await bench.heard(), ['goodbye'])
})

benchTest('close does not wait for answers that we owe: they follow the goodbye', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say(request(7, 'ask'))
  void bench.channel.close()
  t.true((await bench.heard()).includes('goodbye'))
  await bench.say(goodbye())
  t.false(bench.shutDown)
  await messages[0]!.reply([bench.file()])
  t.deepEqual(await bench.heard(), ['reply 7 +1'])
  t.false(bench.shutDown, 'the confirmation can still come')
  await bench.say(taken(1))
  t.true(bench.shutDown)
  await bench.hangUp()
  t.is(bench.outcome, 'clean')
  t.deepEqual(bench.returned, [])
})

benchTest('close by the peer: answers that we owe follow our goodbye', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say([request(7, 'ask'), request(8, 'ask'), goodbye()])
  t.true((await bench.heard()).includes('goodbye'))
  await messages[1]!.fail(new Error('no'))
  t.deepEqual(await bench.heard(), ['fault 8 Error'])
  t.false(bench.shutDown)
  await messages[0]!.reply('yes')
  t.deepEqual(await bench.heard(), ['reply 7'])
  t.true(bench.shutDown)
})

benchTest('close by the peer: answers that it owes are waited for, and confirmed', {}, async (t, bench) => {
  const asked = bench.ask()
  await bench.settle()
  await bench.say(goodbye())
  t.deepEqual(await bench.heard(), ['request 1', 'goodbye'])
  t.false(bench.shutDown, 'the answer is to be confirmed')
  await bench.say(reply(1, new Place(0), 1), 1)
  ;(asked.outcome as { close(): void }).close()
  t.deepEqual(await bench.heard(), ['taken 1'])
  t.true(bench.shutDown)
  await bench.hangUp()
  t.is(bench.outcome, 'clean')
})

benchTest("close by the peer: a request that crossed its goodbye ends with the peer's end", {}, async (t, bench) => {
  const asked = bench.ask(bench.file())
  await bench.say(goodbye())
  t.deepEqual(await bench.heard(), ['request 1 +1', 'goodbye'])
  t.false(bench.shutDown)
  await bench.hangUp()
  t.is(bench.outcome, 'clean')
  t.is(asked.outcome, 'ERR_PASSFD_CLOSED')
  t.deepEqual(bench.returned, ['unconfirmed 1'])
})

benchTest(
  'close waits for credit, and says goodbye when the last message has left',
  { hello: { window: 1 } },
  async (t, bench) => {
    void bench.channel.send('first')
    void bench.channel.send('second')
    void bench.channel.send('third')
    void bench.channel.close()
    t.deepEqual(await bench.heard(), ['message'])
    await bench.say(credit(18))
    t.deepEqual(await bench.heard(), ['message'])
    await bench.say(credit(19))
    t.deepEqual(await bench.heard(), ['message', 'goodbye'])
  }
)

benchTest('close waits until descriptors are taken', {}, async (t, bench) => {
  void bench.channel.send(bench.files(2))
  void bench.channel.send(bench.file())
  void bench.channel.close()
  t.deepEqual(await bench.heard(), ['message +2', 'message +1'])
  await bench.say(taken(2))
  t.deepEqual(await bench.heard(), [])
  await bench.say(taken(1))
  t.deepEqual(await bench.heard(), ['goodbye'])
})

benchTest('close by the peer: what waits for credit comes back', { hello: { window: 1 } }, async (t, bench) => {
  void bench.channel.send([bench.file(), 'first'])
  void bench.channel.send(bench.files(2))
  const asked = bench.ask(bench.files(3))
  await bench.say([taken(1), goodbye()])
  t.deepEqual(await bench.heard(), ['message +1', 'goodbye'])
  await bench.settle()
  t.deepEqual(bench.returned, ['unsent 2', 'unsent 3'])
  t.is(asked.outcome, 'ERR_PASSFD_CLOSED')
  t.true(bench.shutDown)
})

benchTest(
  'what arrives after our goodbye is closed, not confirmed, and gives no credit',
  { window: 30 },
  async (t, bench) => {
    const messages = bench.consume()
    void bench.channel.close()
    t.deepEqual(await bench.heard(), ['goodbye'])
    await bench.say(message([new Place(0)], 1), 1)
    await bench.say(request(1, [new Place(0)], 1), 1)
    t.deepEqual(await bench.heard(), [])
    await bench.say(goodbye())
    t.deepEqual([messages, await bench.heard()], [[], []])
    t.true(bench.shutDown)
  }
)

benchTest('a goodbye with a code is final', {}, async (t, bench) => {
  const asked = bench.ask(bench.file())
  await bench.settle()
  await bench.say([goodbye('E_TIRED', 'enough'), goodbye()])
  t.is(bench.outcome, 'ERR_PASSFD_PEER')
  t.deepEqual(((await bench.channel.closed) as { remote?: object }).remote, { code: 'E_TIRED', message: 'enough' })
  t.deepEqual(await bench.heard(), ['request 1 +1'])
  t.is(asked.outcome, 'ERR_PASSFD_CLOSED')
  t.deepEqual(bench.returned, ['unconfirmed 1'])
})

benchTest('a goodbye with a code ends a channel that is closing', {}, async (t, bench) => {
  void bench.channel.close()
  await bench.settle()
  await bench.say(goodbye('E_TIRED'))
  t.is(bench.outcome, 'ERR_PASSFD_PEER')
})

benchTest(
  'a goodbye before hello: without a code it tells only that we are not let in',
  { hello: null },
  async (t, bench) => {
    void bench.channel.send(bench.file())
    await bench.say(goodbye())
    t.is(bench.outcome, 'ERR_PASSFD_REFUSED')
    t.deepEqual(bench.returned, ['unsent 1'])
    t.deepEqual(await bench.heard(), [])
  }
)

benchTest('a goodbye before hello: its code tells why we are not let in', { hello: null }, async (t, bench) => {
  await bench.say(goodbye('ERR_PASSFD_UNAUTHORIZED', 'no'))
  t.is(bench.outcome, 'ERR_PASSFD_PEER')
})

benchTest('close before hello waits for it', { hello: null }, async (t, bench) => {
  void bench.channel.send('early')
  void bench.channel.close()
  t.deepEqual(await bench.heard(), [])
  await bench.say(hello())
  t.deepEqual(await bench.heard(), ['message', 'goodbye'])
})

for (const [name, bytes] of Object.entries({
  message: message('late'),
  request: request(1, 'late'),
  cancel: cancel(1),
  credit: credit(1),
  hello: hello(),
  goodbye: goodbye()
}))
  benchTest(`${name} after a goodbye is a violation, answered by closing alone`, {}, async (t, bench) => {
    await bench.say([goodbye(), bytes])
    t.is(bench.outcome, 'ERR_PASSFD_BAD_FRAME')
    t.deepEqual(await bench.heard(), ['goodbye'])
  })

benchTest('after our goodbye a violation is answered by closing alone', {}, async (t, bench) => {
  void bench.channel.close()
  t.deepEqual(await bench.heard(), ['goodbye'])
  await bench.say(reply(5, 'nobody asked'))
  t.is(bench.outcome, 'ERR_PASSFD_BAD_ID')
  t.deepEqual(await bench.heard(), [])
})

benchTest('before it the peer is told, and what was complete is delivered and confirmed', {}, async (t, bench) => {
  const messages = bench.consume()
  await bench.say([message([new Place(0)], 1), reply(5, 'nobody asked'), message('lost')], 1)
  t.is(messages.length, 1)
  t.is(bench.outcome, 'ERR_PASSFD_BAD_ID')
  t.deepEqual(await bench.heard(), ['taken 1', 'goodbye BAD_ID'])
})

benchTest('an end of file without goodbye is an error: open', {}, async (t, bench) => {
  await bench.hangUp()
  t.is(bench.outcome, 'ERR_PASSFD_DISCONNECTED')
})

benchTest('an end of file without goodbye is an error: draining', {}, async (t, bench) => {
  bench.ask()
  void bench.channel.close()
  await bench.settle()
  await bench.hangUp()
  t.is(bench.outcome, 'ERR_PASSFD_DISCONNECTED')
})

benchTest('an end of file without goodbye is an error: after ours', {}, async (t, bench) => {
  void bench.channel.close()
  await bench.settle()
  await bench.hangUp()
  t.is(bench.outcome, 'ERR_PASSFD_DISCONNECTED')
})

benchTest('a reset after both goodbyes only says that the peer was quicker', {}, async (t, bench) => {
  await bench.say(goodbye())
  await bench.reset()
  t.is(bench.outcome, 'clean')
})

benchTest('a reset without goodbye is an error', {}, async (t, bench) => {
  await bench.reset()
  t.is(bench.outcome, 'ERR_PASSFD_DISCONNECTED')
  t.like((await bench.channel.closed)!.cause, { code: 'ECONNRESET' })
})

benchTest('destroy tells the peer, and what was taken before', {}, async (t, bench) => {
  bench.consume()
  const reading = bench.say(message([new Place(0)], 1), 1)
  await turn()
  bench.channel.destroy()
  await reading
  t.is(bench.outcome, 'clean')
  t.deepEqual((await bench.heard()).at(-1), 'goodbye DESTROYED')
})

benchTest('last words that nobody can hear leave no timer', {}, async (t, bench) => {
  await bench.reset()
  t.is(bench.clock.waiting, 0)
})

benchTest('destroy: last words that fail leave no timer', { hello: null }, async (t, bench) => {
  bench.near.cut()
  bench.channel.destroy()
  await bench.settle()
  t.is(bench.clock.waiting, 0)
})

// --- time limits, on a clock of the test's own

benchTest('closeTimeout: an answer that does not come', { closeTimeout: 50 }, async (t, bench) => {
  const asked = bench.ask(bench.file())
  void bench.channel.close()
  await bench.pass(49)
  t.is(bench.outcome, 'open')
  await bench.pass(1)
  t.is(bench.outcome, 'ERR_PASSFD_CLOSE_TIMEOUT')
  t.deepEqual(await bench.heard(), ['request 1 +1', 'goodbye CLOSE_TIMEOUT'])
  t.is(asked.outcome, 'ERR_PASSFD_CLOSED')
  t.deepEqual(bench.returned, ['unconfirmed 1'])
})

benchTest("closeTimeout: the peer's goodbye does not come", { closeTimeout: 50 }, async (t, bench) => {
  void bench.channel.close()
  await bench.settle()
  await bench.pass(50)
  t.is(bench.outcome, 'ERR_PASSFD_CLOSE_TIMEOUT')
  t.deepEqual(await bench.heard(), ['goodbye'])
})

benchTest('closeTimeout: only the end does not come', { closeTimeout: 50 }, async (t, bench) => {
  await bench.say(goodbye())
  await bench.pass(50)
  t.is(bench.outcome, 'clean')
})

benchTest('closeTimeout: an answer that we owe', { closeTimeout: 50 }, async (t, bench) => {
  const messages = bench.consume()
  await bench.say([request(1, 'ask'), goodbye()])
  await bench.pass(50)
  t.is(bench.outcome, 'ERR_PASSFD_CLOSE_TIMEOUT')
  await t.throwsAsync(messages[0]!.reply(bench.file()), { code: 'ERR_PASSFD_CLOSED' })
  await bench.settle()
  t.deepEqual(bench.returned, ['unsent 1'])
})

benchTest('closeTimeout: counts from the goodbye of the peer', { closeTimeout: 50 }, async (t, bench) => {
  await bench.pass(1000)
  await bench.say(goodbye())
  await bench.pass(49)
  t.is(bench.outcome, 'open')
})

benchTest('handshakeTimeout', { handshakeTimeout: 50, hello: null }, async (t, bench) => {
  await bench.pass(50)
  t.is(bench.outcome, 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  t.deepEqual(await bench.heard(), ['goodbye HANDSHAKE_TIMEOUT'])
})

benchTest('handshakeTimeout ends with the hello', { handshakeTimeout: 50 }, async (t, bench) => {
  await bench.pass(50)
  t.is(bench.outcome, 'open')
})

benchTest('frameTimeout: a frame that has begun goes on, byte by byte', { frameTimeout: 50 }, async (t, bench) => {
  const messages = bench.consume()
  const bytes = message('slow')
  for (const byte of bytes) {
    t.is(bench.outcome, 'open')
    await bench.say(Buffer.of(byte))
    await bench.pass(49)
  }
  t.is(messages.length, 1)
  await bench.pass(1000)
  t.is(bench.outcome, 'open')
  await bench.say(bytes.subarray(0, 5))
  await bench.pass(100)
  t.is(bench.outcome, 'ERR_PASSFD_FRAME_STALLED')
})

// --- consumers

benchTest('two loops over one iterator: each message is lent until the next is asked for', {}, async (t, bench) => {
  const iterator = bench.channel[Symbol.asyncIterator]()
  const asked = [iterator.next(), iterator.next()]
  await bench.say([message(new Place(0), 1), request(1, new Place(0), 1)], 2)
  const messages = (await Promise.all(asked)).map(({ value }) => value as Message)
  t.deepEqual(
    messages.map(({ descriptors: [descriptor] }) => descriptor!.closed),
    [false, false]
  )
  void iterator.next()
  t.deepEqual(
    messages.map(({ descriptors: [descriptor] }) => descriptor!.closed),
    [true, true]
  )
  t.true((await bench.heard()).includes('fault 1 UNANSWERED'))
})
