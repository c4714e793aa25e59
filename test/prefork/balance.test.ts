/** How connections come to workers: the option's default and its check. */
import { settingsOf } from '../../src/prefork/options.ts'
import { refuses } from '../helpers/supervisor-options.ts'
import { test } from '../helpers/test.ts'

const entry = '/srv/worker.js'
const listeners = { http: { port: 0 } }

const WRONG: [string, object][] = [
  ...['random', {}, { dispatch: 'random' }, null].map((balance): [string, object] => [
    'options.balance',
    { entry, listeners, balance }
  ]),
  ['options.balance', { command: ['a'], listeners, balance: { dispatch: 'round-robin' } }],
  ['maxHead', { entry, listeners, balance: { dispatch: () => 0, maxHead: 0 } }],
  ['maxHead', { entry, listeners, balance: { dispatch: () => 0, maxHead: 1024 * 1024 + 1 } }],
  ['headTimeout', { entry, listeners, balance: { dispatch: () => 0, headTimeout: 0 } }]
]

test('what is wrong throws, and says what would be right', t => refuses(t, WRONG))

test('defaults', t => {
  t.is(settingsOf({ entry, listeners }).balance, 'per-worker')
  t.is(settingsOf({ command: ['python3', 'worker.py'], listeners }).balance, 'shared')
  t.deepEqual(settingsOf({ entry, listeners, balance: { dispatch: 'address' } }).balance, {
    dispatch: 'address',
    maxHead: 16_384,
    headTimeout: 5000
  })
})
