import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Descriptor, Message } from '../../src/index.ts'
import { closeAll, connected, file, nextMessage } from '../helpers/channels.ts'
import { startOnPair, stop } from '../helpers/child.ts'
import { frame, rawPair, request } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const CANCEL = 5
const FAULT = 4
const REPLY = 3

function code(name: string) {
  return { code: `ERR_PASSFD_${name}` }
}

/** What a request was answered with. */
async function remoteOf(request: Promise<unknown>): Promise<{ code: string; message: string; data?: unknown }> {
  return request.then(
    () => {
      throw new Error('it was answered with a value')
    },
    error => error.remote ?? error
  )
}

test('what a message tells', async t => {
  const [left, right] = await connected()
  const value = { z: file(), a: [file(), { deep: new Map([['key', file()]]) }] }
  left.send(value)
  const message = await nextMessage(right)
  t.false(message.isRequest)
  t.is(message.channel, right)
  t.is(message.channel.peer.pid, process.pid)
  const { z, a } = message.value
  t.deepEqual(message.descriptors, [z, a[0], a[1].deep.get('key')])
  for (const descriptor of message.descriptors) descriptor.close()
  void left.request('request')
  const asked = await nextMessage(right)
  t.true(asked.isRequest)
  t.deepEqual(asked.descriptors, [])
  asked.reply()
  await closeAll(left, right)
})

test('a plain message can’t be answered', async t => {
  const [left, right] = await connected()
  left.send('message')
  const message = await nextMessage(right)
  const mine = file()
  t.throws(() => message.reply(mine), code('NOT_A_REQUEST'))
  t.throws(() => message.fail(new Error('no')), code('NOT_A_REQUEST'))
  t.false(mine.closed)
  mine.close()
  await closeAll(left, right)
})

test('a request is answered once', async t => {
  const [left, right] = await connected()
  for (const first of ['reply', 'fail'] as const) {
    const asking = left.request('question')
    const message = await nextMessage(right)
    await (first === 'reply' ? message.reply('answer') : message.fail(new Error('failure')))
    const mine = file()
    t.throws(() => message.reply(mine), code('ANSWERED'))
    t.throws(() => message.fail(new Error('no')), code('ANSWERED'))
    t.false(mine.closed)
    mine.close()
    if (first === 'reply') t.is(await asking, 'answer')
    else t.deepEqual(await remoteOf(asking), { code: 'Error', message: 'failure' })
  }
  await closeAll(left, right)
})

test('reply() without a value answers with nothing', async t => {
  for (const records of [true, false]) {
    const [left, right] = await connected({ records })
    right.on('message', message => message.reply())
    t.is(await left.request('question'), records ? undefined : null)
    await closeAll(left, right)
  }
})

test('a handler that has replied itself: its result is dropped, its failure goes to onError', async t => {
  const [left, right] = await connected()
  const told: string[] = []
  right.serve(
    async message => {
      await message.reply(`replied ${message.value}`)
      if (message.value === 'throw') throw new Error('afterwards')
      return 'returned'
    },
    { onError: ({ message }) => told.push(message) }
  )
  t.is(await left.request('return'), 'replied return')
  t.is(await left.request('throw'), 'replied throw')
  await until(() => told.length > 0, 'onError')
  t.deepEqual(told, ['afterwards'])
  await closeAll(left, right)
})

test('misuse of reply() throws, moves nothing and answers nothing', async t => {
  const [left, right] = await connected({ maxMessage: 5000 })
  const asking = left.request<any>('question')
  const message = await nextMessage(right)
  const mine = file()
  const closed = file()
  closed.close()
  const cases: [unknown, string][] = [
    [[mine, closed], 'DESCRIPTOR_CLOSED'],
    [[mine, mine], 'DESCRIPTOR_REPEATED'],
    [[mine, () => {}], 'ENCODE'],
    [[mine, Buffer.alloc(5000)], 'MESSAGE_TOO_LARGE']
  ]
  for (const [value, expected] of cases) {
    t.throws(() => message.reply(value), code(expected))
    t.false(mine.closed)
  }
  const other = file()
  t.throws(() => message.reply([mine, other]), code('TOO_MANY_DESCRIPTORS'))
  other.close()
  message.reply({ mine })
  const answer = await asking
  t.is(answer.mine.kind, 'device')
  answer.mine.close()
  await closeAll(left, right)
})

test('for await: a request that is left without an answer is answered with a fault', async t => {
  const [left, right] = await connected()
  const requests = ['next', 'claimed', 'answered', 'break'].map(value => left.request<any>(value))
  let claimed!: Message<any>
  for await (const message of right) {
    if (message.value === 'claimed') claimed = message.claim()
    if (message.value === 'answered') message.reply('answer')
    if (message.value === 'break') break
  }
  const unanswered = await remoteOf(requests[0]!)
  t.is(unanswered.code, 'ERR_PASSFD_UNANSWERED')
  t.is(
    unanswered.message,
    'The request was released without an answer. Return a value, call reply() or fail(), or claim() it to answer later.'
  )
  t.is(await requests[2], 'answer')
  t.is((await remoteOf(requests[3]!)).code, 'ERR_PASSFD_UNANSWERED')
  claimed.reply('later')
  t.is(await requests[1], 'later')
  await closeAll(left, right)
})

test("'message' listeners: a request can be answered after they have returned", async t => {
  const [left, right] = await connected()
  const asking = left.request({ file: file() })
  const [message] = await once(right, 'message')
  t.true(message.value.file.closed)
  await turn()
  message.reply('later')
  t.is(await asking, 'later')
  await closeAll(left, right)
})

test('dispose ends the scope at once', async t => {
  const [left, right] = await connected()
  const asking = left.request([file(), file()])
  const answered = left.request('answered')
  right.serve(message => {
    if (message.value === 'answered') message.reply('answer')
    else message.descriptors[0]!.claim()
    message[Symbol.dispose]()
    message[Symbol.dispose]()
    if (message.value === 'answered') return
    t.deepEqual(
      message.descriptors.map(({ closed }) => closed),
      [false, true]
    )
    const error = t.throws(() => message.descriptors[1]!.borrow(), code('DESCRIPTOR_UNCLAIMED'))
    t.regex(error.message, /closed when the message was disposed of/)
    message.descriptors[0]!.close()
  })
  t.is((await remoteOf(asking)).code, 'ERR_PASSFD_UNANSWERED')
  t.is(await answered, 'answer')
  await closeAll(left, right)
})

test('using disposes of a message', async t => {
  const [left, right] = await connected()
  const asking = left.request(file())
  let held: Descriptor
  {
    using message = (await right[Symbol.asyncIterator]().next()).value
    held = message.value
    t.false(held.closed)
  }
  t.true(held.closed)
  t.is((await remoteOf(asking)).code, 'ERR_PASSFD_UNANSWERED')
  await closeAll(left, right)
})

test('claim keeps all descriptors that are still there', async t => {
  const [left, right] = await connected()
  left.send([file(), file(), file()])
  const [message] = await Promise.all([
    new Promise<Message<any>>(resolve => {
      right.once('message', message => {
        message.value[0].close()
        t.is(message.claim(), message)
        resolve(message)
      })
    })
  ])
  t.deepEqual(
    message.descriptors.map(({ closed }) => closed),
    [true, false, false]
  )
  for (const descriptor of message.descriptors.slice(1)) descriptor.close()
  await closeAll(left, right)
})

// --- signal

test('signal: aborted when the peer cancels', async t => {
  const { channel, peer } = await rawPair()
  peer.send(request(7, 'question'))
  const message = await nextMessage(channel)
  const { signal } = message
  t.is(message.signal, signal)
  t.false(signal.aborted)
  peer.send(frame(CANCEL, undefined, { id: 8 })) // not this one
  peer.send(frame(CANCEL, undefined, { id: 7 }))
  await once(signal, 'abort')
  t.is(signal.reason.code, 'ERR_PASSFD_CANCELLED')
  // Also for whoever asks late
  peer.send(Buffer.concat([request(9, 'question'), frame(CANCEL, undefined, { id: 9 }), request(10, 'next')]))
  const [late] = await Promise.all([nextMessage(channel)])
  await nextMessage(channel)
  t.true(late.signal.aborted)
  // An answer is owed all the same, and is a fault
  message.reply('too late')
  const { id, value } = await peer.next(FAULT, REPLY)
  t.deepEqual([id, value.code], [7, 'ERR_PASSFD_CANCELLED'])
  channel.destroy()
  await channel.closed
  peer.close()
})

test('signal: aborted when the channel ends', async t => {
  const [left, right] = await connected()
  void left.request('request')
  const asked = await nextMessage(right)
  left.send('message')
  const told = await nextMessage(right)
  const before = [asked.signal, told.signal]
  t.deepEqual(
    before.map(({ aborted }) => aborted),
    [false, false]
  )
  left.destroy()
  const end = await right.closed
  for (const signal of [...before, asked.signal, told.signal]) {
    t.true(signal.aborted)
    t.is(signal.reason.code, 'ERR_PASSFD_CLOSED')
    t.is(signal.reason.cause, end)
  }
})

test('signal: nothing of it is kept for requests that were answered', async t => {
  const [left, right] = await connected()
  const references: WeakRef<AbortSignal>[] = []
  right.serve(message => void references.push(new WeakRef(message.signal)))
  for (let i = 0; i < 20; i++) await left.request(i)
  setFlagsFromString('--expose-gc')
  const collect: () => void = runInNewContext('gc')
  await until(() => {
    collect()
    // The last one may still be on somebody's stack
    return references.filter(reference => reference.deref() !== undefined).length <= 1
  }, 'the collection of the signals')
  t.is(references.length, 20)
  await closeAll(left, right)
})

// --- the end

test('answers to a channel that has ended reject, and their descriptors come back', async t => {
  const [left, right] = await connected()
  void left.request('question')
  void left.request('question')
  const first = await nextMessage(right)
  const second = await nextMessage(right)
  left.destroy()
  await right.closed
  const mine = file()
  right.on('returned', returned => {
    t.is(returned.state, 'unsent')
    returned.claim()
  })
  await t.throwsAsync(first.reply(mine), code('CLOSED'))
  await until(() => !mine.closed, 'its return')
  mine.close()
  await t.throwsAsync(second.fail(new Error('too late')), code('CLOSED'))
  t.throws(() => second.reply(), code('ANSWERED'))
})

test('reply() resolves like send(): at once below the mark, later above it, a large value when it has left', async t => {
  const [channel, child] = await startOnPair('ask-on-3', [], { highWaterMark: 2 ** 20 })
  const asked: Message<any>[] = []
  channel.on('message', message => asked.push(message))
  await until(() => asked.length === 3, 'the questions')
  await stop(child)
  const sent = [asked[0]!.reply(1), asked[1]!.reply(Buffer.alloc(2 ** 20))]
  await sent[0]
  let left = false
  void sent[1]!.then(() => (left = true))
  const waiting = asked[2]!.reply('x'.repeat(2 ** 20))
  let drained = false
  void waiting.then(() => (drained = true))
  await turn()
  t.deepEqual([left, drained], [false, false])
  child.child.kill('SIGCONT')
  await Promise.all([sent[1], waiting])
  t.is(await child.line(), '3 answers')
  t.like(await child.exit, { code: 0, stderr: '' })
  await channel.closed
})
