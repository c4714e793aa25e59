/** The status of a server as text. */
import type { AdminStatus, AdminWorker, EmptySlot, ListenAddress } from '../../prefork/index.ts'
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
  const { pid, phase, size, since, workers, listeners, draining, foreign, empty = [] } = status
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
    [
      ...workers.map(worker => ({ slot: worker.slot, row: cells(worker, foreign) })),
      ...empty
        .filter(({ slot }) => !workers.some(worker => worker.slot === slot))
        .map(one => ({ slot: one.slot, row: emptyCells(one) }))
    ]
      .sort((a, b) => a.slot - b.slot)
      .map(({ row }) => row)
  )
  lines.push('', bold(head), ...rows)
  for (const { pid, connections } of draining)
    lines.push(yellow(`Process ${pid}, which was superseded, still has ${countOf(connections, 'connection')}.`))
  return lines.join('\n')
}

function cells(worker: AdminWorker, foreign: boolean): string[] {
  const { slot, pid, state, uptime, connections, requests, lag, rss, restarts, restartReason, reason } = worker
  const known = (text: string): string => (foreign ? '-' : text)
  return [
    String(slot),
    pid === undefined ? '-' : String(pid),
    reason === undefined ? state : `${state} (${reason})`,
    duration(uptime),
    known(connections.toLocaleString('en')),
    known(requests.toLocaleString('en')),
    known(`${Math.round(lag)} ms`),
    rss === 0 ? '-' : bytes(rss),
    restartsText(restarts, restartReason)
  ]
}

/** A slot whose worker has ended, and that has no other one yet. */
function emptyCells({ slot, restarts, restartReason, startsIn }: EmptySlot): string[] {
  const state = startsIn === undefined ? 'empty' : `empty (next worker in ${duration(startsIn)})`
  return [String(slot), '-', state, '-', '-', '-', '-', '-', restartsText(restarts, restartReason)]
}

function restartsText(restarts: number, reason: string | undefined): string {
  return restarts === 0 || reason === undefined ? String(restarts) : `${restarts} (${reason})`
}
