/** Answers of an admin channel that no supervisor has given. */
import type { AdminStatus, AdminWorker } from '../../src/prefork/index.ts'

export function adminWorker(more: Partial<AdminWorker> = {}): AdminWorker {
  return {
    slot: 0,
    id: 1,
    pid: 4711,
    state: 'ready',
    uptime: 60_000,
    restarts: 0,
    restartReason: undefined,
    connections: 0,
    requests: 0,
    lag: 0.4,
    rss: 64 * 1024 * 1024,
    cpu: 0,
    reason: undefined,
    stopped: false,
    ...more
  }
}

export function adminStatus(workers: AdminWorker[], more: Partial<AdminStatus> = {}): AdminStatus {
  return {
    pid: 4000,
    phase: 'running',
    size: workers.length,
    listeners: { http: { family: 'IPv4', address: '127.0.0.1', port: 3000 } },
    since: 1_700_000_000_000,
    foreign: false,
    draining: [],
    workers,
    ...more
  }
}
