/** Clients that are connected, and wait in the queue of a listener or at a worker that does nothing. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'

const LISTEN = '0A'
const REQUEST = 'GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n'

export interface WaitingClients {
  /** Sends the requests that were not sent yet. Each one's answer, or the code of its error. */
  answers(): Promise<string[]>
}

/** So many, connected. The first half has sent its request, the others nothing. */
export async function connectClients(port: number, count: number, path = '/'): Promise<WaitingClients> {
  const request = REQUEST.replace('/', path)
  const sockets = Array.from({ length: count }, () => connect(port, '127.0.0.1'))
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  const texts = sockets.map(textOf)
  const first = sockets.slice(0, Math.ceil(count / 2))
  for (const socket of first) socket.write(request)
  return {
    answers: () => {
      for (const socket of sockets.slice(first.length)) socket.write(request)
      return Promise.all(texts)
    }
  }
}

async function textOf(socket: Socket): Promise<string> {
  let text = ''
  socket.on('data', part => {
    text += part
  })
  let code: string | undefined
  socket.on('error', error => {
    code = (error as NodeJS.ErrnoException).code
  })
  await new Promise(resolve => socket.once('close', resolve))
  return code ?? (/^HTTP\/1\.[01] 200 [\s\S]*\r\n\r\n([\s\S]*)$/.exec(text)?.[1] || `ended: ${text}`)
}

/** How many connections wait in the queues of the listeners on a port of 127.0.0.1: for each socket, in no order (proc_net_tcp(5)). */
export function queues(port: number): number[] {
  const address = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const lines = readFileSync('/proc/net/tcp', 'latin1').split('\n').slice(1)
  return lines
    .map(line => line.trim().split(/\s+/))
    .filter(([, local, , state]) => local === address && state === LISTEN)
    .map(([, , , , waiting]) => Number.parseInt(waiting!.split(':')[1]!, 16))
}
