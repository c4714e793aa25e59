/** What happens in a server, in words: for the terminal, or with `--log json` as records. */
import type { ListenAddress, Supervisor, WorkerInfo } from '../../prefork/index.ts'
import type { Level, Report } from '../report.ts'
import { countOf, duration } from '../words.ts'

/** Begins the reason of a worker that is replaced for a limit, such as --max-rss. */
const LIMIT = 'it was beyond a limit: '

/** Calls `report` for what happens from now on. `name`: the server's. */
export function reportEvents(supervisor: Supervisor, name: string, report: (report: Report) => void): void {
  const began = performance.now()
  let started = false
  const tell = (event: string, level: Level, text: string, facts?: Record<string, unknown>): void =>
    report({ event, level, text, ...(facts === undefined ? {} : { facts }) })
  const trouble = (event: string, level: Level) => (error: unknown) => {
    const { code, message } = error as NodeJS.ErrnoException
    tell(event, level, message.replace(/\.$/, ''), { code })
  }

  supervisor.on('started', () => {
    started = true
    const { addresses, size } = supervisor
    const places = Object.values(addresses).map(addressText)
    const where = places.length === 0 ? '' : ` at ${[...new Set(places)].join(', ')}`
    tell(
      'started',
      'info',
      `${name} serves${where}: ${countOf(size, 'worker')}, process ${process.pid}, after ${duration(performance.now() - began)}`,
      { name, pid: process.pid, workers: size, listeners: addresses }
    )
  })
  supervisor.on('worker', worker => {
    if (started) tell('ready', 'info', `${workerText(worker)} is ready`, factsOf(worker))
  })
  supervisor.on('state', worker => {
    const { state, reason } = worker
    if (state !== 'stopping' || reason?.startsWith(LIMIT) !== true) return
    tell('limit', 'warning', `${workerText(worker)} is replaced: ${reason}`, { ...factsOf(worker), reason })
  })
  supervisor.on('exit', (worker, code, signal) => {
    const { stopped } = worker
    const reason = worker.reason ?? (signal === null ? `exit code ${code}` : `signal ${signal}`)
    const text = `${workerText(worker)} has ended${stopped ? '' : `: ${reason}`}`
    tell('exit', stopped ? 'info' : 'warning', text, { ...factsOf(worker), code, signal, reason })
  })
  supervisor.on('gaveUp', trouble('gaveUp', 'error'))
  supervisor.on('reloadFailed', trouble('reloadFailed', 'error'))
  supervisor.on('crashLoop', trouble('crashLoop', 'error'))
  supervisor.on('beyondLimit', trouble('beyondLimit', 'warning'))
  supervisor.on('routeFailed', trouble('routeFailed', 'warning'))
  supervisor.on('acceptError', trouble('acceptError', 'warning'))
  supervisor.on('unserved', listener =>
    tell('unserved', 'warning', `No worker serves the listener ${listener}, so its clients wait`, { listener })
  )
  supervisor.on('listenerClosed', (listener, address) =>
    tell('listenerClosed', 'info', `No worker listens at ${addressText(address)} any more, so that is closed`, {
      listener,
      address
    })
  )
  supervisor.on('takeoverReport', ({ message, code }) =>
    tell('takeover', 'warning', message.replace(/\.$/, ''), { code })
  )
  supervisor.on('lameDuck', milliseconds =>
    tell('lameDuck', 'info', `${name} serves for another ${duration(milliseconds)}, then stops`, { milliseconds })
  )
  supervisor.on('superseded', ({ pid }) =>
    tell('superseded', 'info', `Process ${pid} serves ${name} now; process ${process.pid} finishes its requests`, {
      successor: pid
    })
  )
  const drainers = new Set<number>()
  supervisor.on('draining', processes => {
    for (const { pid, connections } of processes) {
      if (connections === 0 || drainers.has(pid)) continue
      drainers.add(pid) // it reports each second
      tell('draining', 'info', `Process ${pid} still has ${countOf(connections, 'connection')}`, { pid, connections })
    }
  })
  supervisor.on('stopped', () => {
    if (started) tell('stopped', 'info', `${name} has stopped`, { name })
  })
}

/** 'port 3000', '127.0.0.1:3000', '[::1]:3000', or a path. */
export function addressText(address: ListenAddress): string {
  if ('path' in address) return address.path
  if (address.address === '::' || address.address === '0.0.0.0') return `port ${address.port}`
  return `${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`
}

function workerText({ slot, pid }: WorkerInfo): string {
  return `Worker ${slot}${pid === undefined ? '' : ` (pid ${pid})`}`
}

function factsOf({ slot, id, pid }: WorkerInfo): Record<string, unknown> {
  return { slot, id, pid }
}
