import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import { setImmediate as turn } from 'node:timers/promises'
import { z } from 'zod'
import { type Channel, connect, pair, type RequestTrace, type ServeTrace } from '../../src/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { test } from '../helpers/test.ts'

const EVENTS = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const
type Name = 'request' | 'serve'
interface Seen {
  event: string
  trace: RequestTrace & ServeTrace
}

/** All that is published of requests or handlers while `body` runs, and its stores. */
async function record(
  name: Name,
  body: (seen: Seen[]) => Promise<unknown>,
  onStart?: (trace: any) => void
): Promise<Seen[]> {
  const seen: Seen[] = []
  const listeners = Object.fromEntries(
    EVENTS.map(event => [
      event,
      (trace: any) => {
        if (event === 'start') onStart?.(trace)
        seen.push({ event, trace })
      }
    ])
  ) as any
  const tracing = diagnostics.tracingChannel(`passfd:${name}`)
  tracing.subscribe(listeners)
  try {
    await body(seen)
  } finally {
    tracing.unsubscribe(listeners)
  }
  return seen
}

const names = (seen: Seen[]): string[] => seen.map(({ event }) => event)
const areOne = (seen: Seen[]): boolean => seen.every(({ trace }) => trace === seen[0]!.trace)

const ANSWERED = ['start', 'end', 'asyncStart', 'asyncEnd']
const FAILED = ['start', 'end', 'error', 'asyncStart', 'asyncEnd']
const REFUSED = ['start', 'error', 'end']

test('a request is reported from its call to its answer, in one object', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => [value])
  const seen = await record('request', async seen => {
    const answer = left.request('hello')
    t.deepEqual(names(seen), ['start', 'end'])
    t.deepEqual(await answer, ['hello'])
    t.deepEqual(names(seen), ANSWERED, 'before the program hears of it')
  })
  t.true(areOne(seen))
  const { trace } = seen[0]!
  t.is(trace.channel, left)
  t.is(trace.value, 'hello')
  t.deepEqual(trace.result, ['hello'])
  t.false('error' in trace)
  await closeAll(left, right)
})

test('a request that fails is reported with its error', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => {
    if (value === 'wait') return new Promise(() => {})
    throw Object.assign(new Error('no'), { code: 'E_NO' })
  })
  const cases: [code: string, request: () => Promise<unknown>][] = [
    ['ERR_PASSFD_REMOTE', () => left.request('fail')],
    ['ERR_PASSFD_TIMEOUT', () => left.request('wait', { timeout: 1 })],
    ['ABORT_ERR', () => left.request('wait', { signal: AbortSignal.abort() })],
    ['ABORT_ERR', () => left.request('wait', { signal: AbortSignal.timeout(1) })],
    ['ERR_PASSFD_SCHEMA', () => right.request('anything', { schema: z.string() })]
  ]
  left.serve(() => 1)
  for (const [code, request] of cases) {
    const seen = await record('request', async () => {
      await t.throwsAsync(request(), { code })
    })
    t.deepEqual(names(seen), FAILED, code)
    t.true(areOne(seen))
    t.is((seen[2]!.trace.error as { code?: string }).code, code)
    t.false('result' in seen[0]!.trace)
  }
  left.destroy()
  right.destroy()
})

test('misuse is reported, and nothing comes after its end', async t => {
  const [channel, end] = pair<any, any>()
  const mine = file()
  const seen = await record('request', async () => {
    t.throws(() => channel.request([mine, mine]), { code: 'ERR_PASSFD_DESCRIPTOR_REPEATED' })
    t.throws(() => channel.request('value', { timeout: -1 }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    await turn()
  })
  t.deepEqual(names(seen), [...REFUSED, ...REFUSED])
  t.is((seen[1]!.trace.error as { code?: string }).code, 'ERR_PASSFD_DESCRIPTOR_REPEATED')
  mine.close()
  channel.destroy()
  end.close()
})

test('a traced request that fails needs no catch either', async t => {
  const unhandled: unknown[] = []
  const listener = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', listener)
  const [left, right] = await connected()
  right.serve(() => {
    throw new Error('no')
  })
  const seen = await record('request', async () => {
    void left.request('nobody waits')
    await t.throwsAsync(left.request('somebody does'))
    await turn()
  })
  process.off('unhandledRejection', listener)
  t.is(seen.filter(({ event }) => event === 'error').length, 2)
  t.deepEqual(unhandled, [])
  await closeAll(left, right)
})

test('a subscriber of start may replace what is sent', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  const value = { question: 1 }
  await record(
    'request',
    async () => t.deepEqual(await left.request(value), { question: 1, traceparent: '00-1' } as any),
    trace => {
      trace.value = { ...trace.value, traceparent: '00-1' }
    }
  )
  t.deepEqual(value, { question: 1 })
  await closeAll(left, right)
})

test('handlers are reported: results, promises, and failures of both', async t => {
  const [left, right] = await connected()
  const errors: unknown[] = []
  const failure = new Error('no')
  right.serve(
    ({ value }) => {
      if (value === 'at once') return 1
      if (value === 'later') return turn(2)
      // biome-ignore lint/suspicious/noThenProperty: a thenable is what is tested
      if (value === 'thenable') return { then: (resolve: (value: number) => void) => resolve(3) }
      if (value === 'throws') throw failure
      return Promise.reject(failure)
    },
    { onError: error => void errors.push(error) }
  )
  const run = async (value: string): Promise<[string[], ServeTrace]> => {
    const seen = await record('serve', () => left.request(value).catch(() => {}))
    t.true(areOne(seen))
    t.is(seen[0]!.trace.channel, right)
    t.is(seen[0]!.trace.message.value, value)
    return [names(seen), seen[0]!.trace]
  }
  const results = [
    ['at once', ['start', 'end'], 1],
    ['later', ANSWERED, 2],
    ['thenable', ANSWERED, 3]
  ] as const
  for (const [value, expected, result] of results) {
    const [events, trace] = await run(value)
    t.deepEqual(events, [...expected], value)
    t.is(trace.result, result)
    t.false('error' in trace)
  }
  for (const [value, expected] of [
    ['throws', REFUSED],
    ['rejects', FAILED]
  ] as const) {
    const [events, trace] = await run(value)
    t.deepEqual(events, expected, value)
    t.is(trace.error, failure)
    t.false('result' in trace)
  }
  // A plain message, too
  const seen = await record('serve', async seen => {
    left.send('rejects')
    while (seen.at(-1)?.event !== 'asyncEnd') await turn()
  })
  t.deepEqual(names(seen), FAILED)
  t.false(seen[0]!.trace.message.isRequest)
  t.deepEqual(errors, [failure])
  await closeAll(left, right)
})

test('a handler sees the requester give up, and so may its tracer', async t => {
  const [left, right] = await connected()
  let signal!: AbortSignal
  right.serve(({ signal }) => new Promise(resolve => signal.addEventListener('abort', () => resolve(undefined))))
  const controller = new AbortController()
  const seen = await record(
    'serve',
    async seen => {
      const request = left.request('wait', { signal: controller.signal })
      while (seen.length < 2) await turn()
      t.false(signal.aborted)
      controller.abort()
      await t.throwsAsync(request, { code: 'ABORT_ERR' })
      while (seen.length < 4) await turn()
    },
    (trace: ServeTrace) => {
      signal = trace.message.signal
    }
  )
  t.deepEqual(names(seen), ANSWERED)
  t.is(signal.reason.code, 'ERR_PASSFD_CANCELLED')
  await closeAll(left, right)
})

test('stores that are bound to start hold in a request and in a handler, and nowhere else', async t => {
  const store = new AsyncLocalStorage<string>()
  const requests = diagnostics.tracingChannel<unknown, RequestTrace>('passfd:request')
  const handling = diagnostics.tracingChannel<unknown, ServeTrace>('passfd:serve')
  const [left, right] = await connected()
  const inside: unknown[] = []
  right.serve(async ({ value }) => {
    inside.push(store.getStore())
    await turn()
    inside.push(store.getStore())
    return value
  })
  let atStart: unknown
  const onEnd = (): void => void (atStart = store.getStore())
  requests.end.subscribe(onEnd)
  requests.start.bindStore(store, ({ value }) => `request ${value}`)
  handling.start.bindStore(store, ({ message }) => `handler ${message.value}`)
  const both = store.run('mine', () => {
    const answers = [left.request(1), left.request(2)]
    t.is(store.getStore(), 'mine')
    return Promise.all(answers).then(() => store.getStore())
  })
  t.is(await both, 'mine')
  requests.end.unsubscribe(onEnd)
  requests.start.unbindStore(store)
  handling.start.unbindStore(store)
  t.is(atStart, 'request 2')
  t.deepEqual(inside, ['handler 1', 'handler 2', 'handler 1', 'handler 2'])
  inside.length = 0
  await left.request(3)
  t.deepEqual(inside, [undefined, undefined])
  await closeAll(left, right)
})

test('what has arrived is reported before the schema checks it', async t => {
  const [channel, end] = pair()
  const checked: unknown[] = []
  const schema = z.strictObject({ question: z.number() }).transform(value => {
    checked.push(value)
    return value
  })
  const right: Channel<any> = await connect(end, { schema })
  right.serve(({ value }) => value)
  const answer = await withReceived(
    ({ message }) => {
      t.deepEqual(message.value, { question: 1, traceparent: '00-1' })
      delete message.value.traceparent
    },
    () => channel.request({ question: 1, traceparent: '00-1' })
  )
  t.deepEqual(answer, { question: 1 })
  t.deepEqual(checked, [{ question: 1 }])
  // A subscriber may end the channel: the message is dropped, unseen by the schema
  await withReceived(
    () => right.destroy(),
    () => t.throwsAsync(channel.request({ question: 2 }), { code: 'ERR_PASSFD_CLOSED' })
  )
  t.is(checked.length, 1)
  await closeAll(channel, right)
})

async function withReceived<Result>(listener: (event: any) => void, body: () => Promise<Result>): Promise<Result> {
  diagnostics.subscribe('passfd:message:received', listener)
  try {
    return await body()
  } finally {
    diagnostics.unsubscribe('passfd:message:received', listener)
  }
}
