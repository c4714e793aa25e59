/** Options of `takeOver()`: misuse rejects before anything is opened or moved. */
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { type TakeOverOptions, takeOver } from '../../src/takeover/index.ts'
import { settingsOf } from '../../src/takeover/options.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const path = temporaryPath('seat')
const TIMES = [
  'turnTimeout',
  'inheritTimeout',
  'graceTimeout',
  'attemptTimeout',
  'freezeTimeout',
  'lameDuck',
  'stopTimeout',
  'killTimeout',
  'idleGrace'
] as const

const WRONG: [string, object][] = [
  ['options', null as never],
  ['options.path', {}],
  ...[5, '', null, { path: '' }, {}, { path: 5 }, 'a\0b'].map((wrong): [string, object] => [
    'options.path',
    { path: wrong }
  ]),
  ...[-1, 0o1000, 1.5, '0600'].map((mode): [string, object] => ['options.path.mode', { path: { path, mode } }]),
  ['options.path', { path: { path, colour: 1 } }],
  ['colour', { path, colour: 1 }],
  ['options.drop', { path, drop: 'http' }],
  ['options.drop', { path, drop: [5] }],
  ['options.authorize', { path, authorize: true }],
  ['options.signal', { path, signal: {} }],
  ['options.busy', { path, busy: 'never' }],
  ...['signals', 'exit'].map((name): [string, object] => [name, { path, [name]: 'no' }]),
  ...[-1, 256, 1.5, '0'].map((supersededStatus): [string, object] => [
    'options.supersededStatus',
    { path, supersededStatus }
  ]),
  ...TIMES.flatMap(name =>
    [-1, 2 ** 31, '5', Number.NaN].map((value): [string, object] => [`options.${name}`, { path, [name]: value }])
  ),
  ['options.listeners', { path, listeners: [] }],
  ['options.listeners', { path, listeners: {} }],
  ['options.listeners', { path, listeners: 5 }],
  ['options.listeners.http', { path, listeners: { http: 3000 } }],
  ['the name of a listener', { path, listeners: { 'a:b': { port: 0 } } }]
]

test('misuse rejects, and no Descriptor is moved', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  for (const [what, options] of WRONG) {
    const given = options !== null && !('listeners' in options) ? { ...options, listeners: { listener } } : options
    const error = await t.throwsAsync<NodeJS.ErrnoException>(takeOver(given as TakeOverOptions), undefined, what)
    t.is(error?.code, 'ERR_PASSFD_INVALID_ARGUMENT', what)
    t.true(error?.message.includes(what), `${what}: ${error?.message}`)
  }
  t.false(listener.closed)
  listener.close()
})

test('a Descriptor is moved in by a call that fails later', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const far = temporaryPath('no/such')
  await t.throwsAsync(takeOver({ path: far, listeners: { listener } }), { code: 'ENOENT' })
  t.true(listener.closed)
  await t.throwsAsync(takeOver({ path, signal: AbortSignal.abort() }), { name: 'AbortError' })
})

test('the defaults', t => {
  const { access, ...settings } = settingsOf({ path })
  t.is(access.mode, 0o600)
  t.deepEqual(settings, {
    path,
    listeners: undefined,
    drop: [],
    authorize: undefined,
    signal: undefined,
    busy: 'wait',
    turnTimeout: 60_000,
    inheritTimeout: 10_000,
    graceTimeout: 2000,
    attemptTimeout: 120_000,
    freezeTimeout: 5000,
    lameDuck: 0,
    stopTimeout: 0,
    killTimeout: 5000,
    idleGrace: 1000,
    passIdle: true,
    signals: true,
    exit: true,
    supersededStatus: 0
  })
})
