/** Sockets of Node's to test with. */
import { once } from 'node:events'
import * as net from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { socketPath } from './path.ts'
import { until } from './test.ts'

/** What a server accepted, and the other end of that. */
export async function accepted(
  kind: 'tcp' | 'unix-stream' = 'tcp',
  options: net.ServerOpts = {}
): Promise<{ here: net.Socket; there: net.Socket }> {
  const server = net.createServer(options)
  if (kind === 'tcp') server.listen(0, '127.0.0.1')
  else server.listen(socketPath())
  await once(server, 'listening')
  const there = connectTo(server)
  const [[here]] = (await Promise.all([once(server, 'connection'), once(there, 'connect')])) as [[net.Socket], unknown]
  server.close()
  return { here, there }
}

/** A client that waits for the server's end before it ends. */
export function connectTo(server: net.Server): net.Socket {
  const address = server.address()!
  return typeof address === 'string'
    ? net.connect({ path: address, allowHalfOpen: true })
    : net.connect({ port: address.port, host: '127.0.0.1', allowHalfOpen: true })
}

/** Until Node has read `count` bytes of it that nobody has asked for. */
export async function buffered(socket: net.Socket, count: number): Promise<void> {
  await until(() => socket.readableLength === count, `${count} bytes, read ahead`)
}

export async function destroyed(...streams: (Readable | Writable)[]): Promise<void> {
  for (const stream of streams) {
    if (stream.closed) continue
    stream.destroy()
    await once(stream, 'close')
  }
}

/** The next `length` bytes, all the same in which pieces they come. */
export async function bytes(stream: Readable, length: number): Promise<Buffer> {
  const parts: Buffer[] = []
  let missing = length
  while (missing > 0) {
    const part = (stream.read(Math.min(missing, stream.readableLength)) ?? null) as Buffer | null
    if (part === null || part.length === 0) {
      if (stream.readableEnded || stream.destroyed) throw new Error(`ended ${missing} bytes too early`)
      await once(stream, 'readable')
    } else {
      parts.push(part)
      missing -= part.length
    }
  }
  return Buffer.concat(parts)
}

/** All until its end. It stays open for writing, unlike what an iterator has read. */
export async function contents(stream: Readable): Promise<string> {
  const parts: Buffer[] = []
  stream.on('data', part => parts.push(part))
  if (!stream.readableEnded) await once(stream, 'end')
  return Buffer.concat(parts).toString('latin1')
}
