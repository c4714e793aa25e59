/** From numbers to Node's objects. Each maker gets a number that the shim holds; what it returns owns it. */
import * as dgram from 'node:dgram'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import type { Duplex, Readable, Writable } from 'node:stream'
import { checked, PassfdError } from '../base/errors.ts'
import { closeFile } from '../os/close-file.ts'
import { native } from '../os/native.ts'
import { type Access, accessOf } from './access.ts'
import { type Kind, SOCKETS } from './kind.ts'
import { PollStream } from './poll-stream.ts'

/** The argument for any `server.listen()`: `http.createServer(app).listen(handle)`. Keep it referenced until then. */
export interface ListenHandle {
  readonly fd: number
  /** `listen()` looks a number up in the primary of `node:cluster` all the same, so in its workers `toListenHandle()` throws. */
  readonly exclusive: true
}

/** A method of Node's servers that its types lack: `listen()` calls it in a process that is no worker of `node:cluster`. */
interface ListensHere extends net.Server {
  _listen2(address: null, port: null, addressType: null, backlog: number | undefined, fd: number): void
}

/** For the sentence of an error. */
const OPEN_FOR: Record<Access, string> = {
  read: 'reading only',
  write: 'writing only',
  'read-write': 'both',
  none: 'neither'
}

export function socket(fd: number): net.Socket {
  return released(fd, new net.Socket({ fd, readable: true, writable: true }))
}

export function duplex(fd: number, kind: Kind): Duplex {
  if (kind !== 'pipe' && kind !== 'tty') return socket(fd)
  const access = accessOf(fd)
  if (access === 'none') checkDirection(fd, kind, 'toDuplex()', 'read')
  return new PollStream(fd, { kind, readable: access !== 'write', writable: access !== 'read' })
}

/** Throws ERR_PASSFD_DESCRIPTOR_DIRECTION for a descriptor that is not open for reading. */
export function checkReadable(fd: number, kind: Kind, operation: string): void {
  checkDirection(fd, kind, operation, 'read')
}

function checkDirection(fd: number, kind: Kind, operation: string, needed: 'read' | 'write'): void {
  const access = accessOf(fd)
  if (access === needed || access === 'read-write') return
  const expected = needed === 'read' ? 'reading' : 'writing'
  throw new PassfdError('DESCRIPTOR_DIRECTION', { operation, kind, expected, actual: OPEN_FOR[access] })
}

export function readable(fd: number, kind: Kind): Readable {
  checkReadable(fd, kind, 'toReadable()')
  if (kind === 'pipe' || kind === 'tty') return new PollStream(fd, { kind, readable: true, writable: false })
  if (SOCKETS.includes(kind)) return released(fd, new net.Socket({ fd, readable: true, writable: false }))
  return fs.createReadStream('', { fd, autoClose: true, fs: { read: fs.read, open: fs.open, close: closeFile } })
}

export function writable(fd: number, kind: Kind): Writable {
  checkDirection(fd, kind, 'toWritable()', 'write')
  if (kind === 'pipe' || kind === 'tty') return new PollStream(fd, { kind, readable: false, writable: true })
  if (SOCKETS.includes(kind)) return released(fd, new net.Socket({ fd, readable: false, writable: true }))
  const { open, write, writev } = fs
  return fs.createWriteStream('', { fd, autoClose: true, fs: { open, write, writev, close: closeFile } })
}

export async function server(fd: number): Promise<net.Server> {
  const made = net.createServer()
  listenOnNumber(made, fd)
  await once(made, 'listening')
  return made
}

/**
 * Node closes the held number from now on. If it refuses it, by an 'error' in the next tick or at once, the number is closed. In a worker of `node:cluster`,
 * too, the server listens on the number of this process.
 */
export function listenOnNumber(server: net.Server, fd: number, backlog?: number): void {
  try {
    if (isClusterWorker()) (server as ListensHere)._listen2(null, null, null, backlog, fd)
    else server.listen({ fd }, backlog)
  } catch (error) {
    native.close(fd)
    throw error
  }
  const { _handle: handle } = server as { _handle?: object | null }
  if (handle === null || handle === undefined) native.close(fd)
  else native.release(fd)
}

/** Throws ERR_PASSFD_CLUSTER_WORKER in a worker of `node:cluster`. */
export function listenHandle(fd: number): ListenHandle {
  if (isClusterWorker()) throw new PassfdError('CLUSTER_WORKER')
  return released(fd, { fd, exclusive: true })
}

/** Node loads the module at each listen(), but not before. */
function isClusterWorker(): boolean {
  return (process.getBuiltinModule('node:cluster') as unknown as { isWorker: boolean }).isWorker
}

export function datagram(fd: number): dgram.Socket {
  // A socket of the wrong type receives, but can't send; only a bound socket reports its family
  const copy = checked(native.dup(fd), 'dup')
  const family = familyOf(copy)
  const number = fd > 0 ? fd : checked(native.dup(fd), 'dup') // Node takes 0 for no number, and binds another port
  try {
    const made = released(number, datagramSocket(family === 'IPv6' ? 'udp6' : 'udp4', number))
    if (number !== fd) native.close(fd)
    return made
  } catch (error) {
    if (number !== fd) native.close(number)
    throw error
  }
}

/** Uses the held number up. */
function familyOf(fd: number): string {
  let probe: dgram.Socket
  try {
    probe = released(fd, datagramSocket('udp4', fd))
  } catch (error) {
    native.close(fd)
    throw error
  }
  try {
    return probe.address().family
  } finally {
    probe.close()
  }
}

function datagramSocket(type: dgram.SocketType, fd: number): dgram.Socket {
  const made = dgram.createSocket({ type })
  made.bind({ fd, exclusive: true }) // in a cluster's worker it would be the primary's number otherwise
  return made
}

/** Node's own object closes the number from now on. */
function released<T>(fd: number, made: T): T {
  native.release(fd)
  return made
}
