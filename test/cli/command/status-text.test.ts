import picocolors from 'picocolors'
import { statusText } from '../../../src/cli/command/status-text.ts'
import type { AdminStatus, AdminWorker } from '../../../src/prefork/index.ts'
import { test } from '../../helpers/test.ts'

const plain = picocolors.createColors(false)

function worker(more: Partial<AdminWorker>): AdminWorker {
  return {
    slot: 0,
    id: 1,
    pid: 101,
    state: 'ready',
    uptime: 61_000,
    restarts: 0,
    restartReason: undefined,
    connections: 3,
    requests: 1234,
    lag: 1.4,
    rss: 80 * 1024 ** 2,
    cpu: 500,
    reason: undefined,
    stopped: false,
    ...more
  }
}

function status(more: Partial<AdminStatus>): AdminStatus {
  return {
    pid: 100,
    phase: 'running',
    size: 1,
    listeners: {},
    since: Date.now(),
    foreign: false,
    draining: [],
    workers: [worker({})],
    ...more
  }
}

test('a server with its listeners and workers', t => {
  const text = statusText(
    status({
      size: 2,
      listeners: {
        web: { family: 'IPv4', address: '0.0.0.0', port: 80 },
        '3000': { family: 'IPv6', address: '::', port: 3000 },
        '/run/a.sock': { path: '/run/a.sock' },
        'udp4 127.0.0.1 53': { family: 'IPv4', address: '127.0.0.1', port: 53 },
        'any port 1': { family: 'IPv6', address: '::', port: 4000 },
        six: { family: 'IPv6', address: '::1', port: 81 }
      },
      workers: [
        worker({}),
        worker({
          slot: 1,
          pid: undefined,
          state: 'stopping',
          reason: 'rss',
          restarts: 2,
          restartReason: 'SIGKILL',
          rss: 0
        })
      ],
      draining: [{ pid: 99, connections: 1 }]
    }),
    'shop',
    plain
  )
  t.regex(text, /^shop is running: process 100 for \d+ m?s, 2 workers\n/)
  t.deepEqual(text.split('\n').slice(1), [
    '  listens at port 3000',
    '  listens at port 80 (web)',
    '  listens at /run/a.sock',
    '  listens at UDP 127.0.0.1:53',
    '  listens at port 4000',
    '  listens at [::1]:81 (six)',
    '',
    'SLOT  PID  STATE              UPTIME  CONNS  REQUESTS   LAG    RSS  RESTARTS',
    '   0  101  ready           1 min 1 s      3     1,234  1 ms  80 MB  0',
    '   1    -  stopping (rss)  1 min 1 s      3     1,234  1 ms      -  2 (SIGKILL)',
    'Process 99, which was superseded, still has 1 connection.'
  ])
})

test('what a program in another language does not report', t => {
  t.regex(statusText(status({ foreign: true }), 'shop', plain), /ready {2}1 min 1 s {6}- {9}- {4}- {2}80 MB {2}0$/)
})

test('slots without a worker are rows, too, with their restarts', t => {
  const died = { restarts: 4, restartReason: 'it exited with code 1' }
  const empty = [
    { slot: 0, ...died, startsIn: 2400 },
    { slot: 1, ...died, startsIn: 10 },
    { slot: 2, ...died, startsIn: undefined }
  ]
  const workers = [worker({ slot: 1, state: 'stopping', restarts: 4 })]
  const rows = statusText(status({ size: 3, workers, empty }), 'shop', plain)
    .split('\n')
    .slice(3)
  t.deepEqual(
    rows.map(row => row.trim().replace(/ {2,}/g, ' | ')),
    [
      '0 | - | empty (next worker in 2.4 s) | - | - | - | - | - | 4 (it exited with code 1)',
      '1 | 101 | stopping | 1 min 1 s | 3 | 1,234 | 1 ms | 80 MB | 4',
      '2 | - | empty | - | - | - | - | - | 4 (it exited with code 1)'
    ]
  )
})
