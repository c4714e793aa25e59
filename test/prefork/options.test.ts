/** Options of a Supervisor: misuse throws at the call, and nothing is opened or moved. */
import type { SupervisorOptions } from '../../src/prefork/index.ts'
import { settingsOf } from '../../src/prefork/options.ts'
import { refuses } from '../helpers/supervisor-options.ts'
import { test } from '../helpers/test.ts'

const entry = '/srv/worker.js'
const listeners = { http: { port: 0 } }

const WRONG: [string, object][] = [
  ['an object', null as never],
  ['one of entry, command and program; it is one with none', { listeners }],
  ['one of entry, command and program; it is one with entry and command', { entry, command: ['a'], listeners }],
  ['it is one with entry and command and program', { entry, command: ['a'], program: ['b'], listeners }],
  ...[[], ['a', 5], [''], ['', 'a'], ['a', 'b\0'], 'a'].map((program): [string, object] => [
    'options.program',
    { program, listeners }
  ]),
  ['options.waitReady', { program: ['a'], listeners, waitReady: 1 }],
  ['options.waitReady', { entry, listeners, waitReady: true }],
  ['options.passIdle', { entry, listeners, passIdle: 1 }],
  ['options.spawn.args', { program: ['a'], listeners, spawn: { args: ['b'] } }],
  ['1 to 64 listeners', { entry, listeners: {} }],
  [
    '0 to 64 listeners',
    { program: ['a'], listeners: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [i, { port: 0 }])) }
  ],
  ['options.entry', { entry: 5, listeners }],
  ...[[], ['a', 5], [''], ['', 'a'], ['a', 'b\0'], 'a'].map((command): [string, object] => [
    'options.command',
    { command, listeners }
  ]),
  ...[0, 1025, 1.5, '2', Number.NaN].map((workers): [string, object] => ['workers', { entry, listeners, workers }]),
  ['options.restart', { entry, listeners, restart: true }],
  ['options.admin', { entry, listeners, admin: '' }],
  ...(
    ['readyTimeout', 'stopTimeout', 'killTimeout', 'idleGrace', 'heartbeat', 'hangTimeout', 'lameDuck'] as const
  ).flatMap(name =>
    [-1, 2 ** 31, '5', Number.NaN].map((value): [string, object] => [name, { entry, listeners, [name]: value }])
  ),
  ...(['stopTimeout', 'killTimeout', 'heartbeat'] as const).map((name): [string, object] => [
    name,
    { entry, listeners, [name]: 0 }
  ]),
  ['options.limits', { entry, listeners, limits: null }],
  ...(['rss', 'age', 'requests'] as const).map((name): [string, object] => [
    `options.limits.${name}`,
    { entry, listeners, limits: { [name]: 0 } }
  ]),
  ...[-0.1, 1.1, '0', Number.NaN].map((jitter): [string, object] => [
    'options.limits.jitter',
    { entry, listeners, limits: { jitter } }
  ]),
  ['handOverTimeout', { entry, listeners, handOverTimeout: 0 }],
  ...(
    [
      ['takeover', 5],
      ['takeover.path', {}],
      ['takeover.path', ''],
      ['takeover.mode', { path: '/a', mode: 0o1000 }],
      ['takeover.owner', { path: '/a', owner: -1 }],
      ['takeover.drop', { path: '/a', drop: 'http' }],
      ['takeover.authorize', { path: '/a', authorize: true }],
      ['takeover.busy', { path: '/a', busy: 'queue' }],
      ['takeover.supersededStatus', { path: '/a', supersededStatus: 256 }],
      ['takeover.turnTimeout', { path: '/a', turnTimeout: 0 }],
      ['takeover.attemptTimeout', { path: '/a', attemptTimeout: '5' }],
      ['takeover.graceTimeout', { path: '/a', graceTimeout: -1 }]
    ] as const
  ).map(([name, takeover]): [string, object] => [`options.${name} must`, { entry, listeners, takeover }]),
  ['options.spawn', { entry, listeners, spawn: null }],
  ['options.spawn.cwd', { entry, listeners, spawn: { cwd: 5 } }],
  ['options.spawn.env', { entry, listeners, spawn: { env: 'A=b' } }],
  ['options.spawn.uid', { entry, listeners, spawn: { uid: 'nobody' } }],
  ['options.spawn.gid', { entry, listeners, spawn: { gid: -1 } }],
  ['options.spawn.args', { entry, listeners, spawn: { args: 'a b' } }],
  ['options.spawn.execArgv', { entry, listeners, spawn: { execArgv: [5] } }],
  ['options.spawn.stdio', { entry, listeners, spawn: { stdio: 'pipe' } }],
  ['options.spawn.args', { command: ['a'], listeners, spawn: { args: ['b'] } }],
  ['options.maxMessage', { entry, listeners, channel: { maxMessage: 0 } }]
]

test('what is wrong throws, and says what would be right', t => refuses(t, WRONG))

test('workers tell how they are at least twice in hangTimeout', t => {
  const heartbeat = (options: Partial<SupervisorOptions>) => settingsOf({ entry, listeners, ...options }).heartbeat
  t.is(heartbeat({ heartbeat: 20_000 }), 5000)
  t.is(heartbeat({ heartbeat: 20_000, hangTimeout: 0 }), 20_000)
  t.is(heartbeat({ heartbeat: 500, hangTimeout: 1000 }), 500)
  t.is(heartbeat({ heartbeat: 501, hangTimeout: 1001 }), 500)
  t.is(heartbeat({ hangTimeout: 1 }), 10)
})

test('defaults, and the least and the most', t => {
  const settings = settingsOf({ entry, listeners })
  t.like(settings, {
    balance: 'per-worker',
    readyTimeout: 30_000,
    stopTimeout: 30_000,
    killTimeout: 5000,
    idleGrace: 1000,
    passIdle: true,
    heartbeat: 1000,
    hangTimeout: 10_000
  })
  t.true(settings.workers >= 1)
  t.is(settings.limits.jitter, 0.1)
  t.like(
    settingsOf({
      entry: new URL('file:///srv/worker.js'),
      listeners,
      workers: 1024,
      hangTimeout: 0,
      idleGrace: 0,
      readyTimeout: 0
    }),
    {
      workers: 1024,
      hangTimeout: 0
    }
  )
})
