/** What a worker may say on its control channel: nothing of it reaches the supervisor unchecked. */
import { connect, Descriptor } from '../../../src/index.ts'
import { MAX_BODY } from '../../../src/prefork/control/from-worker.ts'
import { ControlLine, type LineOwner } from '../../../src/prefork/supervisor/control-line.ts'
import { test, until } from '../../helpers/test.ts'

/** An owner that notes each call. `answers`: what its methods return. */
function noting(calls: unknown[][], answers: Partial<LineOwner> = {}): LineOwner {
  const get = (_: object, name: string) => (answers as Record<string, unknown>)[name] ?? note(name)
  const note =
    (name: string) =>
    (...given: unknown[]) => {
      if (name !== 'onHeard' && name !== 'onEnd') calls.push([name, ...given])
    }
  return new Proxy({}, { get }) as LineOwner
}

/** Calls `body` with the worker's end of a line. */
async function onLine(
  owner: LineOwner,
  body: (worker: Awaited<ReturnType<typeof connect>>, line: ControlLine) => Promise<void>
): Promise<void> {
  const [line, theirs] = ControlLine.open(true, owner)
  const worker = await connect(theirs, { authorize: () => true })
  try {
    await body(worker, line)
  } finally {
    worker.destroy()
    await line.lastWords()
  }
}

const [INTEGER, TEXT] = [/instead of an integer from 0$/, /instead of a string of 1 to 255 characters$/]
const NO_COUNTS = [-1, -1e300, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '5', 5n, null, undefined, {}, [5], 2 ** 60]
const NO_NAMES = ['', 'x'.repeat(256), 7, null, undefined, { toString: 'none' }, ['http']]
const BEAT = { type: 'beat', connections: 1, requests: 2, lag: 3 }
const ACCEPTED = { type: 'accepted', name: 'http', count: 2, taken: 1 }
const USES = { type: 'uses', name: 'http', adopts: true }

const odd = (message: object, field: string, values: readonly unknown[], why: RegExp): [object, RegExp][] =>
  values.map(value => [{ ...message, [field]: value }, why])
const HOSTILE: [message: object, why: RegExp][] = [
  ...odd(BEAT, 'connections', NO_COUNTS, INTEGER),
  ...odd(BEAT, 'requests', NO_COUNTS, INTEGER),
  ...odd(BEAT, 'lag', [-1, Number.NaN, Number.POSITIVE_INFINITY, '\x1b[2J', {}], /instead of a number from 0$/),
  ...odd(BEAT, 'inspector', [7, {}, 'x'.repeat(5000)], /instead of undefined or an address$/),
  ...odd({ type: 'closed' }, 'count', NO_COUNTS, INTEGER),
  ...odd(ACCEPTED, 'name', NO_NAMES, TEXT),
  ...odd(ACCEPTED, 'count', NO_COUNTS, INTEGER),
  ...odd(ACCEPTED, 'taken', NO_COUNTS, INTEGER),
  ...odd(ACCEPTED, 'taken', [3, 2 ** 50], /^it has accepted \d+ connections of 2$/),
  ...odd(ACCEPTED, 'error', [0, 1, -4096, -1.5, Number.NaN, '-1', {}], /instead of undefined or the error of a system/),
  ...odd(USES, 'name', NO_NAMES, TEXT),
  ...odd(USES, 'adopts', ['yes', 1, null, undefined, {}], /instead of true or false$/),
  ...odd(USES, 'exposed', ['yes', 1, {}], /instead of undefined or true or false$/),
  ...odd(USES, 'grant', [0, -1, 1.5, '1', {}], /instead of undefined or an integer from 1$/),
  ...odd({ type: 'leaves', name: 'http' }, 'name', NO_NAMES, TEXT),
  ...odd({ type: 'leaves', name: 'http' }, 'grant', [0, -1, '1', null], /instead of undefined or an integer from 1$/),
  ...odd(
    { type: 'handsOver', gives: true, inherits: true },
    'gives',
    [1, 'yes', undefined],
    /instead of true or false$/
  ),
  ...odd({ type: 'handsOver', gives: true, inherits: true }, 'inherits', [1, {}, null], /instead of true or false$/)
]

test('a message of a worker with a wrong field reaches nothing, and the supervisor is told which field', async t => {
  for (const [message, why] of HOSTILE) {
    const calls: unknown[][] = []
    await onLine(noting(calls), async worker => {
      await worker.request({ type: 'join', version: 1, newest: 5 }).catch(() => {}) // the owner answers nothing
      calls.length = 0
      await worker.send(message)
      await until(
        () => calls.length > 0,
        JSON.stringify(message, (_, value) => `${value}`)
      )
      await worker.request(message).catch(() => {})
    })
    t.deepEqual([...new Set(calls.map(([name]) => name))], ['onNonsense'])
    for (const [, reason] of calls) t.regex(`${reason}`, why)
  }
})

test('the same messages with fields as they should be are heard', async t => {
  const calls: unknown[][] = []
  await onLine(noting(calls, { onJoin: () => ({}) as never }), async worker => {
    await worker.request({ type: 'join', version: 1, newest: 5 })
    calls.length = 0 // a message of version 1 shows that the worker lives
    const messages = [
      { ...BEAT, inspector: 'ws://127.0.0.1:9229/x' },
      { ...BEAT, lag: 0.5, inspector: undefined },
      { type: 'closed', count: 1 },
      { ...ACCEPTED, error: -24 },
      { ...ACCEPTED, taken: 0 },
      { ...USES, exposed: false, grant: 1 },
      { type: 'leaves', name: 'http', grant: 1 },
      { type: 'handsOver', gives: false, inherits: true }
    ]
    for (const message of messages) await worker.send(message)
    await until(() => calls.length === messages.length, 'all of them')
  })
  t.deepEqual(
    calls.map(([name]) => name),
    ['onBeat', 'onBeat', 'onClosed', 'onAccepted', 'onAccepted', 'onUses', 'onLeaves', 'onHandsOver']
  )
})

test('a worker joins once, and only with versions that are integers', async t => {
  const calls: unknown[][] = []
  await onLine(noting(calls, { onJoin: () => ({}) as never }), async (worker, line) => {
    for (const join of [
      { version: 1n },
      { version: 1, newest: '5' },
      { version: 1.5, newest: 5 },
      { version: {}, newest: [5] },
      { version: 1, newest: { toString: 7 } }
    ])
      await t.throwsAsync(worker.request({ type: 'join', ...join }), { message: /versions 1 to / })
    t.false(line.joined)
    await worker.request({ type: 'join', version: 1, newest: 5 })
    await t.throwsAsync(worker.request({ type: 'join', version: 1, newest: 1 }), { message: /a second join$/ })
    t.is(line.version, 5)
  })
  t.is(calls.filter(([name]) => name === 'onRefused').length, 5)
})

test('what a failing worker says of its error is short, whatever it is', async t => {
  const calls: unknown[][] = []
  const long = 'x'.repeat(20_000)
  await onLine(noting(calls), async worker => {
    for (const [name, message] of [
      [long, long],
      [{ toString: 7 }, null],
      [7n, ['x']]
    ])
      await worker.send({ type: 'failed', name, message })
    await until(() => calls.filter(([, words]) => words !== undefined).length === 3, 'all of them')
  })
  const words = calls.map(([, text]) => text as string | undefined).filter(text => text !== undefined)
  t.true(words.every(text => text.startsWith('it failed with ') && text.length < 10_000))
})

test('a worker is told that its supervisor accepts no message of more than 64 KiB', async t => {
  for (const message of [
    { ...BEAT, more: 'x'.repeat(MAX_BODY) },
    new Map(Array.from({ length: 40_000 }, (_, i) => [i, {}]))
  ]) {
    const calls: unknown[][] = []
    await onLine(noting(calls), async worker => {
      t.throws(() => worker.request(message), { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' })
    })
    t.deepEqual(calls, [])
  }
})

test('a worker that may not pass connections on is refused, and one that may has two messages at a time', async t => {
  const kept: Descriptor[] = []
  let mayPass = false
  let release = () => {}
  const released = new Promise<void>(resolve => {
    release = resolve
  })
  const owner = noting([], {
    mayPass: () => mayPass,
    onIdle: async (_, connections) => {
      kept.push(...connections)
      await released
    }
  })
  await onLine(owner, async worker => {
    const ends: Descriptor[] = []
    const idle = () => {
      const [given, end] = Descriptor.socketpair()
      ends.push(end)
      return worker.request({ type: 'idle', name: 'http', connections: [given] }, { descriptors: 0 })
    }
    await t.throwsAsync(idle(), { message: /may not pass/ })
    mayPass = true
    const two = [idle(), idle()]
    await until(() => kept.length === 2, 'two messages')
    await t.throwsAsync(idle(), { message: /may not pass/ })
    release()
    await Promise.all(two)
    await idle()
    t.is(kept.length, 3)
    for (const one of [...kept, ...ends]) one.close()
  })
})

test('the copy of a descriptor that came from a worker is closed off the loop; one that the supervisor accepted is closed on it', async t => {
  const { TrustedWire } = await import('../../../src/channel/wire.ts')
  const { discard, closeHere } = TrustedWire.prototype
  const aside: number[] = []
  const here: number[] = []
  TrustedWire.prototype.discard = function (fds, done) {
    aside.push(fds.length)
    discard.call(this, fds, done)
  }
  TrustedWire.prototype.closeHere = function (fds) {
    here.push(fds.length)
    return closeHere.call(this, fds)
  }
  try {
    const got: Descriptor[] = []
    const from = noting([], { mayPass: () => true, onIdle: async (_, connections) => void got.push(...connections) })
    await onLine(from, async worker => {
      const ends: Descriptor[] = []
      const pair = (): Descriptor => {
        const [given, end] = Descriptor.socketpair()
        ends.push(end)
        return given
      }
      await worker.request({ type: 'idle', name: 'http', connections: [pair()] }, { descriptors: 0 })
      await worker.send({ ...BEAT, more: pair() })
      await until(() => aside.length === 1, 'the one that nobody wants')
      let all = 0
      await onLine(noting([], { onAllTaken: () => void all++ }), async (heir, line) => {
        heir.serve(() => {})
        await line.send({ type: 'connections', name: 'http', connections: got, idle: true })
        await until(() => all === 1, 'the confirmation')
        t.deepEqual([aside, here], [[1, 1], []])
        await line.send({ type: 'connections', name: 'http', connections: [pair()] })
        await until(() => all === 2, 'the confirmation')
        t.deepEqual([aside, here], [[1, 1], [1]])
      })
      for (const end of ends) end.close()
    })
  } finally {
    Object.assign(TrustedWire.prototype, { discard, closeHere })
  }
})
