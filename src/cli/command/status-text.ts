/** The status of a server as text. */
import type { AdminStatus, AdminWorker, ListenAddress } from '../../prefork/index.ts'
import { addressText } from '../serve/events.ts'
import { type Column, table } from '../table.ts'
import type { Colors } from '../ui.ts'
import { bytes, countOf, duration } from '../words.ts'

const COLUMNS: readonly Column[] = [
  ['SLOT', 'right'],
  ['PID', 'right'],
  ['STATE'],
  ['UPTIME', 'right'],
  ['CONNS', 'right'],
  ['REQUESTS', 'right'],
  ['LAG', 'right'],
  ['RSS', 'right'],
  ['RESTARTS']
]

export function statusText(status: AdminStatus, label: string, { bold, green, yellow }: Colors): string {
  const { pid, phase, size, since, workers, listeners, draining, foreign } = status
  const phaseText = phase === 'running' ? green(phase) : yellow(phase)
  const up = duration(Math.max(0, Date.now() - since))
  const lines = [`${bold(label)} is ${phaseText}: process ${pid} for ${up}, ${countOf(size, 'worker')}`]
  for (const [name, address] of Object.entries(listeners)) {
    const text = `${/^udp[46] /.test(name) ? 'UDP ' : ''}${addressText(address as ListenAddress)}`
    // A name that passfd has made says what the address says
    lines.push(
      name === text || text === `port ${name}` || name.includes(' ')
        ? `  listens at ${text}`
        : `  listens at ${text} (${name})`
    )
  }
  const [head = '', ...rows] = table(
    COLUMNS,
    workers.map(worker => cells(worker, foreign))
  )
  lines.push('', bold(head), ...rows)
  for (const { pid, connections } of draining)
    lines.push(yellow(`Process ${pid}, which was superseded, still has ${countOf(connections, 'connection')}.`))
  return lines.join('\n')
}

function cells(worker: AdminWorker, foreign: boolean): string[] {
  const { slot, pid, state, uptime, connections, requests, lag, rss, restarts, restartReason, reason } = worker
  const known = (text: string): string => (foreign ? '-' : text)
  const count = restarts === 0 ? '0' : `${restarts}${restartReason === undefined ? '' : ` (${restartReason})`}`
  return [
    String(slot),
    pid === undefined ? '-' : String(pid),
    reason === undefined ? state : `${state} (${reason})`,
    duration(uptime),
    known(connections.toLocaleString('en')),
    known(requests.toLocaleString('en')),
    known(`${Math.round(lag)} ms`),
    rss === 0 ? '-' : bytes(rss),
    count
  ]
}
