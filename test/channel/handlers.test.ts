/** `serve`: handlers, their answers and their failures. */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { Descriptor } from '../../src/index.ts'
import { closeAll, codeError, connected, file, nextMessage } from '../helpers/channels.ts'
import { startFixture } from '../helpers/process.ts'
import { frame, GOODBYE, rawPair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

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
  const error = t.throws(() => held[0]!.borrow(), codeError('DESCRIPTOR_UNCLAIMED'))
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
    const error: any = await t.throwsAsync(left.request({ file: file() }), codeError('REMOTE'))
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
  await t.throwsAsync(left.request('requested'), codeError('REMOTE'))
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
    const error: any = await t.throwsAsync(left.request(index), codeError('REMOTE'))
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
