/** Supervisors of this very process that replace each other, with workers that tell whose they are. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'
import { Supervisor, type SupervisorOptions } from '../../src/prefork/index.ts'
import { program } from './supervising.ts'

/** A worker that answers a client with the name of its supervisor and its slot once that has written; what has written 'keep' stays connected. */
export const NAMES = `import { createServer } from 'node:net'
  const worker = await joinSupervisor()
  const text = process.env.NAME + ' ' + worker.slot
  const server = createServer(socket => {
    socket.on('error', () => {}).once('data', data => data.toString() === 'keep' ? socket.write(text) : socket.end(text))
  })
  await worker.listen('http', server)
  await worker.ready()`

let entry: string | undefined

export interface Side {
  readonly supervisor: Supervisor
  readonly reports: string[]
}

/** Not started. It is killed when the test ends, if it has not stopped by then. */
export function side(
  t: ExecutionContext,
  path: string,
  name: string,
  { takeover = path, ...options }: Partial<SupervisorOptions> = {}
): Side {
  const supervisor = new Supervisor({
    ...(options.command === undefined ? { entry: (entry ??= program(NAMES)) } : {}),
    listeners: { http: { port: 0, host: '127.0.0.1' } },
    workers: 1,
    hangTimeout: 0,
    idleGrace: 0,
    takeover,
    ...options,
    spawn: { ...(options.command === undefined && { execArgv: [] }), env: { ...process.env, NAME: name } }
  })
  t.teardown(() => supervisor.kill())
  const reports: string[] = []
  supervisor.on('takeoverReport', ({ code }) => reports.push(code))
  return { supervisor, reports }
}

export function portOf(supervisor: Supervisor): number {
  return (supervisor.address('http') as { port: number }).port
}

export interface Client {
  readonly socket: Socket
  /** What it was answered; rejects if it was refused or reset. */
  readonly answer: Promise<string>
}

/** Connected, and has written. The kernel may have it in a queue. */
export async function client(port: number, text = 'who'): Promise<Client> {
  const socket = connect(port, '127.0.0.1').setEncoding('utf8')
  const answer = (async () => {
    let all = ''
    for await (const part of socket) all += part
    return all
  })()
  answer.catch(() => {})
  await once(socket, 'connect')
  socket.write(text)
  return { socket, answer }
}

export async function answers(port: number, count: number): Promise<string[]> {
  const clients = await Promise.all(Array.from({ length: count }, () => client(port)))
  return Promise.all(clients.map(({ answer }) => answer))
}

/** How many listening sockets the kernel has at a port of 127.0.0.1. */
export function lanesOf(port: number): number {
  return listening(port).length
}

/** How many connections wait in their queues. */
export function queued(port: number): number {
  return listening(port).reduce((sum, fields) => sum + Number.parseInt(fields[4]!.split(':')[1]!, 16), 0)
}

/**
 * The kernel gives a page of the table at a time, and looks its place up again for the next one, so it may leave a line out if other sockets come
 * and go meanwhile (tcp_seek_last_pos() of Linux). None is left out three times.
 */
function listening(port: number): string[][] {
  const place = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const found = new Map<string, string[]>()
  for (let time = 0; time < 3; time++)
    for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n')) {
      const fields = line.trim().split(/\s+/)
      if (fields[1] === place && fields[3] === '0A') found.set(fields[9]!, fields)
    }
  return [...found.values()]
}
