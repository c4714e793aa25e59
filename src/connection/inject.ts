/** Gives a connection to a server of Node's as if that had accepted it. */
import { randomUUID } from 'node:crypto'
import diagnostics from 'node:diagnostics_channel'
import { closeSync, constants, mkdtempSync, openSync, rmdirSync, unlinkSync } from 'node:fs'
import { isIP, Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe } from '../base/check.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { listenOnNumber } from '../descriptor/to-node.ts'
import { native } from '../os/native.ts'

/** A net.Server's options for accepted sockets, and its counters, which the types lack. */
export interface Accepting extends Server {
  _connections: number
  _listeningId?: number
  readonly allowHalfOpen?: boolean
  readonly pauseOnConnect?: boolean
  readonly highWaterMark?: number
  readonly noDelay?: boolean
  readonly keepAlive?: boolean
  readonly keepAliveInitialDelay?: number // in seconds
  readonly blockList?: { check(address: string, family: string): boolean }
}

/** What a net.Server sets in sockets that it accepts. */
interface Given extends Socket {
  server?: Server
  _server?: Server
}

/** Options of a net.Socket that the types lack. */
export interface SocketSetup {
  allowHalfOpen?: boolean
  pauseOnCreate?: boolean
  readableHighWaterMark?: number | undefined
  writableHighWaterMark?: number | undefined
}

const accepted = diagnostics.channel('net.server.socket')
/** Before Node 21 a server took maxConnections 0 for none. */
const ZERO_IS_A_LIMIT = Number.parseInt(process.versions.node, 10) >= 21
const O_PATH = 0x200000

/** Throws ERR_PASSFD_INVALID_ARGUMENT, or ERR_PASSFD_SERVER_CLOSED for one that would not notice its connections. */
export function prepareServer(server: unknown): Accepting {
  const accepting = checkServer(server)
  if (accepting.listening) return accepting
  // Node counts calls of listen() and close() from 1 on
  if ((accepting._listeningId ?? 1) > 1) throw new PassfdError('SERVER_CLOSED')
  listenUnreachably(accepting)
  return accepting
}

/** Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function checkServer(server: unknown): Accepting {
  if (server instanceof Server) return server as Accepting
  throw new PassfdError('INVALID_ARGUMENT', {
    what: 'server',
    expected: 'a net, tls, http, https or http2 server',
    actual: typeof server === 'function' ? 'a function: make one of it by http.createServer()' : describe(server)
  })
}

/** Counts the socket and gives it to the server's listeners, as onconnection of Node's lib/net.js does. */
export function giveTo(server: Accepting, socket: Socket): void {
  if (isFull(server)) {
    const { localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily } = socket
    const data = { localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily }
    socket.destroy()
    server.emit('drop', data as never)
    return
  }
  if (server.blockList !== undefined && isBlocked(server.blockList, socket.remoteAddress)) {
    socket.destroy()
    return
  }
  count(server, socket)
  // An http.Server sets up its time-outs when it hears 'listening', which a listen() just now has put into this queue
  process.nextTick(() => {
    if (!socket.destroyed) announce(server, socket)
  })
}

/** As `giveTo()`, but at once, for a socket that the server has just accepted, and that its limits allow. */
export function giveNow(server: Accepting, socket: Socket): void {
  count(server, socket)
  announce(server, socket)
}

function count(server: Accepting, socket: Socket): void {
  if (server.noDelay) socket.setNoDelay(true)
  if (server.keepAlive) socket.setKeepAlive(true, (server.keepAliveInitialDelay ?? 0) * 1000)
  server._connections++
  const given = socket as Given
  given.server = given._server = server
}

function announce(server: Accepting, socket: Socket): void {
  server.emit('connection', socket)
  if (accepted.hasSubscribers) accepted.publish({ socket })
}

/** What a server asks of the sockets that it accepts, as net.Socket takes it. */
export function setupOf({ allowHalfOpen, pauseOnConnect, highWaterMark }: Accepting): SocketSetup {
  const setup: SocketSetup = { allowHalfOpen: allowHalfOpen === true, pauseOnCreate: pauseOnConnect === true }
  return highWaterMark === undefined
    ? setup
    : { ...setup, readableHighWaterMark: highWaterMark, writableHighWaterMark: highWaterMark }
}

function isBlocked(blockList: NonNullable<Accepting['blockList']>, address: string | undefined): boolean {
  const family = isIP(address ?? '')
  return family > 0 && blockList.check(address!, `ipv${family}`)
}

function isFull({ maxConnections, _connections }: Accepting): boolean {
  if (typeof maxConnections !== 'number' || (maxConnections === 0 && !ZERO_IS_A_LIMIT)) return false
  return _connections >= maxConnections
}

/**
 * Makes a server listen on a Unix socket that no process can reach: in a directory of mode 0700 that is removed before the server has the
 * socket. The reason: a server that does not listen enforces no headersTimeout and can't be closed. The server does not keep the process
 * running. Without a folder for temporary files, or without /proc, the socket has a name by which other processes can reach it: then the server closes
 * each connection from it at once, unseen by the program.
 */
export function listenUnreachably(server: Accepting): void {
  const { fd, isReachable } = unreachableListener()
  listenOnNumber(server, fd)
  server.unref()
  const { _handle: handle } = server as { _handle?: AcceptingHandle | null }
  if (isReachable && handle) handle.onconnection = (_, connection) => connection?.close()
}

/** Of Node's: what its server calls with each connection. */
interface AcceptingHandle {
  onconnection(status: number, connection: { close(): void } | undefined): void
}

function unreachableListener(): { fd: number; isReachable: boolean } {
  const fd = checked(native.socket(1), 'socket')
  try {
    const bound = bindInFolder(fd)
    const isReachable = bound !== 'removed'
    if (bound === 'no') checked(native.bind(fd, Buffer.from(`\0passfd-${randomUUID()}`), -1), 'bind')
    checked(native.listen(fd, 1), 'listen')
    return { fd, isReachable }
  } catch (error) {
    native.close(fd)
    throw error
  }
}

/** What a container may lack: a folder for temporary files that exists, is writable and has room. */
const NO_FOLDER = ['ENOENT', 'ENOTDIR', 'EROFS', 'EACCES', 'EPERM', 'ENOSPC', 'EDQUOT', 'ERR_ACCESS_DENIED']

/** 'no': this system has no folder for it, or no /proc. 'left': it is bound, and its name can't be removed. */
function bindInFolder(fd: number): 'removed' | 'left' | 'no' {
  let isBound = false
  try {
    const directory = mkdtempSync(join(tmpdir(), 'passfd-'))
    try {
      bindIn(directory, fd)
      isBound = true
    } finally {
      // Not rmSync(): it looks at what is there, which Node's permission model may forbid
      if (isBound) unlinkSync(join(directory, NAME))
      rmdirSync(directory)
    }
    return 'removed'
  } catch (error) {
    if (NO_FOLDER.includes((error as NodeJS.ErrnoException).code ?? '')) return isBound ? 'left' : 'no'
    throw error
  }
}

const NAME = 's'

/** By the directory's number, as its name may be too long for a socket's address. */
function bindIn(directory: string, fd: number): void {
  const number = openSync(directory, O_PATH | constants.O_DIRECTORY)
  try {
    checked(native.bind(fd, Buffer.from(`/proc/self/fd/${number}/${NAME}`), 0o600), 'bind', directory)
  } finally {
    closeSync(number)
  }
}
