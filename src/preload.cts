/**
 * Loaded into every process of a supervisor's `program`, by NODE_OPTIONS. It only puts itself before `listen()` and its like, because most of these
 * processes (npm, compilers) never listen; the rest of passfd is loaded when one does.
 */
import fs = require('node:fs')
import net = require('node:net')
import dgram = require('node:dgram')
import dns = require('node:dns')
import cluster = require('node:cluster')
import nodeModule = require('node:module')
import nodePath = require('node:path')
import threads = require('node:worker_threads')

import type { Extra, Program } from './prefork/worker/program.ts' with { 'resolution-mode': 'import' }

/** The addressType of a path. */
const PATH = -1
/** Values of Node's `bindState` of a datagram socket. */
const UNBOUND = 0
const BINDING = 1
const { PASSFD_DESK: desk, PASSFD_WAIT_READY: waitReady, PASSFD_PATHS: paths } = process.env

/** The files of the supervisor's sockets. */
const kept = new Set<string>()

// A program's own threads and cluster workers listen as without passfd
if (desk !== undefined && threads.isMainThread && process.env.NODE_UNIQUE_ID === undefined) begin(desk)

/** What Node's types lack. */
interface Listening extends net.Server {
  _handle: unknown
  _listen2(...args: Listen2): void
}
type Listen2 = [
  address: string | null,
  port: number,
  addressType: number,
  backlog: number | undefined,
  fd: number | undefined,
  flags: number | undefined
]

function begin(desk: string): void {
  if (paths !== undefined) for (const path of JSON.parse(paths) as string[]) keep(path)
  const servers = net.Server.prototype as Listening
  const sockets = dgram.Socket.prototype
  const { listen, close, _listen2 } = servers
  const { bind } = sockets
  const extras = new WeakMap<net.Server, Extra>()
  let loaded: Program | undefined
  // The program may change it before it listens
  const user = process.geteuid?.()

  const program = (): Program => {
    loaded ??= load(desk, user)
    return loaded
  }

  servers.listen = function (this: net.Server, ...args: unknown[]): net.Server {
    const [options] = args
    if (typeof options === 'object' && options !== null) {
      const { exclusive, readableAll, writableAll } = options as Record<string, unknown>
      extras.set(this, {
        exclusive: exclusive === true,
        readableAll: readableAll === true,
        writableAll: writableAll === true
      })
      // The supervisor's file has these modes from the start
      if ((readableAll || writableAll) && (loaded?.asks ?? true))
        args[0] = { ...options, readableAll: false, writableAll: false }
    } else extras.delete(this)
    return Reflect.apply(listen, this, args)
  } as typeof listen

  servers._listen2 = function (this: Listening, ...args: Listen2): void {
    const [address, port, addressType, backlog, fd, flags] = args
    // Its own handle or descriptor, or a name that is no file
    const isAbstract = address?.startsWith('\0') === true
    if (isAbstract) program().listensAbstractly(address!)
    const given = this._handle || typeof fd === 'number' || isAbstract
    if (!given && program().asks) {
      const where = { address, port, addressType, backlog, flags }
      if (program().listen(this, where, extras.get(this) ?? {})) {
        if (addressType === PATH) keep(nodePath.resolve(address!))
        return
      }
    }
    Reflect.apply(_listen2, this, args)
  }

  servers.close = function (this: net.Server, done?: (error?: Error) => void): net.Server {
    if (loaded?.closing(this) !== true) {
      const result = Reflect.apply(close, this, [done])
      loaded?.closed()
      return result
    }
    if (typeof done === 'function') this.once('close', () => done())
    // 'close' comes when the last connection has ended, or has come
    this.getConnections((_error, count) => {
      if (count === 0) process.nextTick(() => this.emit('close'))
    })
    return this
  } as typeof close

  sockets.bind = function (this: dgram.Socket, ...args: unknown[]): dgram.Socket {
    const [first, second] = args
    const options = (typeof first === 'object' && first !== null ? first : { port: first, address: second }) as {
      port?: unknown
      address?: unknown
      fd?: unknown
    }
    const done = args.at(-1)
    // Node takes text, too: process.env.PORT
    const port = typeof options.port === 'string' ? Number(options.port) : options.port
    const state = stateOf(this)
    // Port 0 is a client's, and sockets with reuseAddr share the port without help
    const isShared = isPort(port) && options.fd === undefined && !reuses(state)
    // Node throws if it is closed, or bound
    if (!isShared || state?.handle == null || state.bindState !== UNBOUND || !program().asks)
      return Reflect.apply(bind, this, args)
    const type = (this as unknown as { type: 'udp4' | 'udp6' }).type
    const listening = typeof done === 'function' ? (done as () => void) : undefined
    const asked = typeof options.address === 'string' && options.address !== '' ? options.address : undefined
    // Until then Node keeps what the program sends
    state.bindState = BINDING
    const bindTo = (address: string | undefined): void => {
      // The program has closed it meanwhile
      if (state.handle == null) return
      state.bindState = UNBOUND
      try {
        const number = program().bind(this, type, port, address)
        if (number === undefined) Reflect.apply(bind, this, [{ port, address }, listening])
        else Reflect.apply(bind, this, [{ fd: number }, listening])
      } catch (error) {
        this.emit('error', error)
      }
    }
    // Node looks an address up first, so 'listening' never comes within the call
    if (asked === undefined || net.isIP(asked) > 0) process.nextTick(bindTo, asked)
    else
      dns.lookup(asked, type === 'udp6' ? 6 : 4, (error, address) => {
        if (error === null) bindTo(address)
        else if (state.handle != null) {
          state.bindState = UNBOUND
          this.emit('error', error)
        }
      })
    return this
  } as typeof bind

  const primary = cluster as unknown as { fork(): never }
  primary.fork = () => {
    throw program().clusterError()
  }

  if (waitReady === '1' && process.send === undefined)
    process.send = ((message: unknown, ...rest: unknown[]): boolean => {
      if (message === 'ready') program().ready()
      const sent = rest.at(-1)
      if (typeof sent === 'function') process.nextTick(sent as () => void, null)
      return true
    }) as NonNullable<typeof process.send>
  nodeModule.syncBuiltinESMExports()
}

/**
 * From now on the program does not remove this file. Programs remove the file of an earlier run before they listen, and their own at their end. But here
 * other workers serve there.
 */
function keep(path: string): void {
  if (kept.size === 0) guardFiles()
  kept.add(path)
}

function guardFiles(): void {
  const { lstatSync, statSync } = fs
  const isKept = (path: fs.PathLike): boolean => {
    try {
      const own = lstatSync(path)
      // When the program has closed its server, it may have a file of its own there
      if (!own.isSocket()) return false
      return [...kept].some(one => {
        const stats = statSync(one, { throwIfNoEntry: false })
        return stats?.ino === own.ino && stats.dev === own.dev
      })
    } catch {
      // At the stop the supervisor has removed it; anything else the call itself reports
      return kept.has(nodePath.resolve(String(path)))
    }
  }
  for (const name of ['unlink', 'rm'] as const) {
    const [now, later, promised] = [fs[`${name}Sync`], fs[name], fs.promises[name]] as ((
      ...args: unknown[]
    ) => unknown)[]
    fs[`${name}Sync`] = ((path: fs.PathLike, ...rest: unknown[]) => {
      if (!isKept(path)) now!(path, ...rest)
    }) as typeof fs.unlinkSync & typeof fs.rmSync
    fs[name] = ((path: fs.PathLike, ...rest: unknown[]) => {
      const done = rest.at(-1)
      if (typeof done === 'function' && isKept(path)) process.nextTick(done as () => void, null)
      else later!(path, ...rest)
    }) as typeof fs.unlink & typeof fs.rm
    fs.promises[name] = (async (path: fs.PathLike, ...rest: unknown[]) => {
      if (!isKept(path)) await promised!(path, ...rest)
    }) as typeof fs.promises.unlink & typeof fs.promises.rm
  }
  nodeModule.syncBuiltinESMExports()
}

/** Loads the rest of passfd at once, without the event loop (require(esm), Node 20.19). */
function load(desk: string, user: number | undefined): Program {
  const { emitWarning } = process
  process.emitWarning = () => {} // Node warns of require(esm) once
  try {
    const { Program: Class } =
      require('./prefork/worker/program.js') as typeof import('./prefork/worker/program.ts', { with: {
        'resolution-mode': 'import'
      }})
    leaveEnvironment()
    return new Class({ desk, user, waitsForReady: waitReady === '1' })
  } finally {
    process.emitWarning = emitWarning
  }
}

/** Processes that this one starts are no part of it. The program may have put another object in the place of process.env, even a frozen one. */
function leaveEnvironment(): void {
  const { env } = process
  const options = (env.NODE_OPTIONS ?? '').replace(/ ?--require "(?:[^"\\]|\\.)*preload\.cjs"$/, '')
  if (options === '') Reflect.deleteProperty(env, 'NODE_OPTIONS')
  else Reflect.set(env, 'NODE_OPTIONS', options)
  for (const name of ['PASSFD_DESK', 'PASSFD_WAIT_READY', 'PASSFD_PATHS']) Reflect.deleteProperty(env, name)
}

/** What Node keeps of a datagram socket. `handle`: null when it is closed. */
interface SocketState {
  handle: unknown
  bindState: number
  reuseAddr?: boolean
  reusePort?: boolean
}
function stateOf(socket: dgram.Socket): SocketState | undefined {
  const key = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'state symbol')
  return key === undefined ? undefined : (socket as unknown as Record<symbol, SocketState>)[key]
}

function isPort(port: unknown): port is number {
  return typeof port === 'number' && Number.isInteger(port) && port > 0 && port <= 65_535
}

/** Whether the socket was created with reuseAddr or reusePort. */
function reuses(state: SocketState | undefined): boolean {
  return state?.reuseAddr === true || state?.reusePort === true
}
