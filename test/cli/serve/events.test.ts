import { EventEmitter } from 'node:events'
import type { Report } from '../../../src/cli/report.ts'
import { reportEvents } from '../../../src/cli/serve/events.ts'
import type { Supervisor, SupervisorEvents } from '../../../src/prefork/index.ts'
import { test } from '../../helpers/test.ts'

/** What is reported of events, in order. */
function reporting(): { emit: EventEmitter<SupervisorEvents>['emit']; texts: () => string[]; reports: Report[] } {
  const emitter = Object.assign(new EventEmitter<SupervisorEvents>(), {
    size: 2,
    addresses: { web: { family: 'IPv4', address: '127.0.0.1', port: 80 } }
  })
  const reports: Report[] = []
  reportEvents(emitter as unknown as Supervisor, 'shop', report => reports.push(report))
  return {
    emit: emitter.emit.bind(emitter),
    reports,
    texts: () => reports.splice(0).map(({ level, text }) => `${level}: ${text}`)
  }
}

const worker = (more: object): any => ({ slot: 1, id: 7, pid: 99, state: 'ready', reason: undefined, ...more })

test('the life of workers', t => {
  const { emit, texts } = reporting()
  emit('worker', worker({}))
  t.deepEqual(texts(), [], 'the first ones are part of the start')
  emit('started')
  t.regex(texts()[0]!, /^info: shop serves at 127\.0\.0\.1:80: 2 workers, process \d+, after \d+ ms$/)
  emit('worker', worker({}))
  emit('exit', worker({ stopped: true, reason: 'it exited with code 143' }), 143, null)
  t.deepEqual(texts(), ['info: Worker 1 (pid 99) is ready', 'info: Worker 1 (pid 99) has ended'])
  const reason = 'it was beyond a limit: 300 of 200 bytes (limits.rss)'
  emit('state', worker({ state: 'stopping', reason }))
  emit('state', worker({ state: 'stopping', reason: 'it was stopped before it was ready' }))
  emit('state', worker({ state: 'exited', reason }))
  t.deepEqual(texts(), [`warning: Worker 1 (pid 99) is replaced: ${reason}`])
  // On its own, or not as it should
  emit('exit', worker({ reason: 'it exited with code 0' }), 0, null)
  emit('exit', worker({ pid: undefined }), null, null)
  emit('exit', worker({}), null, 'SIGKILL')
  t.deepEqual(texts(), [
    'warning: Worker 1 (pid 99) has ended: it exited with code 0',
    'warning: Worker 1 has ended: exit code null',
    'warning: Worker 1 (pid 99) has ended: signal SIGKILL'
  ])
})

test('trouble, a takeover, the end', t => {
  const { emit, texts, reports } = reporting()
  emit('stopped')
  t.deepEqual(texts(), [], 'it was never there')
  emit('started')
  texts()
  emit('crashLoop', Object.assign(new Error('It dies.'), { code: 'ERR_PASSFD_CRASH_LOOP' }) as any)
  t.deepEqual(reports[0]!.facts, { code: 'ERR_PASSFD_CRASH_LOOP' })
  emit('listenerClosed', 'web', { path: '/run/web' })
  emit('lameDuck', 5000)
  emit('superseded', { pid: 5 } as any)
  emit('draining', [{ pid: 4, connections: 0 }])
  emit('draining', [{ pid: 4, connections: 2 }])
  emit('draining', [{ pid: 4, connections: 1 }])
  emit('stopped')
  t.deepEqual(texts(), [
    'error: It dies',
    'info: No worker listens at /run/web any more, so that is closed',
    'info: shop serves for another 5 s, then stops',
    `info: Process 5 serves shop now; process ${process.pid} finishes its requests`,
    'info: Process 4 still has 2 connections',
    'info: shop has stopped'
  ])
})
