/** Seats of this very process: each is a program of its own as far as passfd knows, and none ends the process. */
import { once } from 'node:events'
import { createServer, connect as dial, type NetConnectOpts, type Server, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'
import { type Report, type Seat, type TakeOverOptions, takeOver } from '../../src/takeover/index.ts'

export interface Told {
  readonly seat: Seat<any>
  readonly reports: Report[]
}

/** Takes the seat at `path`. Its reports are collected, so that none is a warning. */
export async function seated(options: TakeOverOptions): Promise<Told> {
  const seat = await takeOver<any>({ exit: false, signals: false, idleGrace: 0, ...options })
  const reports: Report[] = []
  seat.on('report', report => reports.push(report))
  return { seat, reports }
}

/** A server that says who it is, and keeps connections that say 'keep'. */
export function naming(name: string): Server {
  return createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', data => {
      if (data.toString() === 'keep') socket.write(name)
      else socket.end(name)
    })
  })
}

export const HTTP = { http: { port: 0, host: '127.0.0.1' } }

/** The first program: it serves `http` by the name given. */
export async function first(
  path: string,
  { name = 'first', ready = {}, ...options }: Partial<TakeOverOptions> & { name?: string; ready?: object } = {}
): Promise<Told & { port: number; server: Server }> {
  const told = await seated({ path, listeners: HTTP, ...options })
  const server = naming(name)
  await told.seat.listen('http', server)
  await told.seat.ready(ready)
  return { ...told, server, port: portOf(server) }
}

export function portOf(server: Server): number {
  return (server.address() as { port: number }).port
}

/** The name of the program that answers. */
export async function answerAt(place: number | string): Promise<string> {
  const client = dial(target(place)).setEncoding('utf8')
  client.write('who')
  let text = ''
  for await (const part of client) text += part
  return text
}

/** A connection that stays, once its program has answered. */
export async function keptAt(place: number | string): Promise<Socket & { name: string }> {
  const client = dial(target(place)).setEncoding('utf8')
  client.write('keep')
  const [name] = (await once(client, 'data')) as [string]
  return Object.assign(client, { name })
}

function target(place: number | string): NetConnectOpts {
  return typeof place === 'string' ? { path: place } : { port: place, host: '127.0.0.1' }
}

/** Stops what has not ended yet; the newest first. */
export async function end(...seats: Seat<any>[]): Promise<void> {
  for (const seat of seats) await seat.stop()
}

export async function rejects(t: ExecutionContext, promise: Promise<unknown>, code: string): Promise<Error> {
  const error = await t.throwsAsync(promise)
  t.is((error as NodeJS.ErrnoException | undefined)?.code, code)
  return error!
}
