/**
 * A program that knows nothing of passfd as a worker: its `listen()` and `bind()` are answered with listeners of the supervisor, and at the stop its
 * own signal handlers are called. src/preload.cts loads this at the first call of `listen()`.
 */
import type { Socket as DatagramSocket } from 'node:dgram'
import type { Server } from 'node:net'
import { resolve } from 'node:path'
import { getSystemErrorMap } from 'node:util'
import { EACCES, EADDRINUSE, ECONNREFUSED } from '../../base/errno.ts'
import { PassfdError } from '../../base/errors.ts'
import { channelOn } from '../../channel/connect.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import { ServedListeners } from '../../serving/served-listeners.ts'
import { type FromSupervisor, type FromWorker, type Join, LEAST, MAX_UNCONFIRMED, NEWEST } from '../control/control.ts'
import type { Answer, Failed, Granted, WantedAddress } from '../control/desk.ts'
import { ask } from './ask.ts'
import { orphanedBy, stopOnSignals } from './join.ts'
import { SupervisedOrigin } from './supervised-origin.ts'
import { Worker } from './worker.ts'

/** What `Server.prototype._listen2` of Node gets. For a path port and addressType are -1. */
export interface Where {
  readonly address: string | null
  readonly port: number
  readonly addressType: number
  readonly backlog: number | undefined
  readonly flags: number | undefined
}

/** Options of the program's `listen()` that `_listen2` does not get. */
export interface Extra {
  readonly exclusive?: boolean
  readonly readableAll?: boolean
  readonly writableAll?: boolean
}

/** How long a program that closes a server waits for the supervisor, in ms. */
const CLOSE_PATIENCE = 1000
/** The addressType of a path. */
const PATH = -1
/** UV_TCP_IPV6ONLY of libuv. */
const IPV6_ONLY = 1
/** With readableAll or writableAll the file has only these bits; before Node 22 libuv added them to those that bind(2) sets. */
const SETS_EXACT_MODE = Number.parseInt(process.versions.node, 10) >= 22
/** Signals at which programs stop: of the first one for which the program has handlers they are called. */
const STOPS = ['SIGTERM', 'SIGINT'] as const
const SIGNAL_NUMBERS = { SIGTERM: 15, SIGINT: 2 }

type Stop = (typeof STOPS)[number]

/** A worker in whose program `listen()` was called. */
interface Joined {
  readonly worker: Worker
  readonly origin: ProgramOrigin
  readonly listeners: ServedListeners
}

class ProgramOrigin extends SupervisedOrigin {
  /** The program ends itself, because it has handlers for the signal. */
  endsItself = false

  /** The numbers of the grants, by the names of the listeners. */
  readonly #grants = new Map<string, number>()
  #left: [name: string, id: number][] = []

  granted(name: string, id: number): void {
    this.#grants.set(name, id)
  }

  /** It has a listener, and has not left it. */
  get hasListeners(): boolean {
    return this.#grants.size > 0
  }

  /** What it has left since the last call. */
  left(): [name: string, id: number][] {
    return this.#left.splice(0)
  }

  override leaves(name: string): void {
    const id = this.#grants.get(name)
    if (id !== undefined) this.#left.push([name, id])
    this.listeners.get(name)?.listener[Symbol.dispose]()
    this.listeners.delete(name)
    super.leaves(name)
    this.#grants.delete(name)
  }

  protected override grantOf(name: string): { grant?: number } {
    const grant = this.#grants.get(name)
    return grant === undefined ? {} : { grant }
  }

  /** The time for requests is over, or was not needed. */
  override exit(code: number | string): void {
    if (!this.endsItself || Number(code) !== 0) {
      super.exit(code)
      return
    }
    // Its handlers may have work left; the supervisor limits that
    setTimeout(() => process.exit(code), this.stopTimeout).unref()
  }
}

/** What was known when the process started. The program may change its environment and its user before it listens. */
export interface ProgramStart {
  /** The value of PASSFD_DESK. */
  readonly desk: string
  /** As which the process was started. */
  readonly user: number | undefined
  /** It says itself that it is ready. */
  readonly waitsForReady: boolean
}

export class Program {
  readonly #desk: string
  readonly #token: string
  readonly #waitsForReady: boolean
  /** How often each address with port 0 was asked for. */
  readonly #asked = new Map<string, number>()
  /** The names of the listeners of the program's servers. */
  readonly #names = new WeakMap<Server, string>()
  readonly #own = new Set<unknown>()
  /** Listeners whose servers the program has just closed. */
  #closed: string[] = []
  #joined: Joined | undefined
  #isWorker = true
  #saidReady = false
  readonly #warned = new Set<string>()
  readonly #user: number | undefined

  constructor({ desk, user, waitsForReady }: ProgramStart) {
    this.#user = user
    this.#waitsForReady = waitsForReady
    const [name, token] = desk.split(' ')
    this.#desk = name!
    this.#token = token!
  }

  /** Whether the next `listen()` asks the supervisor. */
  get asks(): boolean {
    return this.#isWorker
  }

  /**
   * Makes the server listen on the supervisor's listener. Returns false if this process is not the worker: then the caller lets Node listen. A failure is
   * the server's 'error' event in the next tick, as Node's.
   */
  listen(server: Server, where: Where, extra: Extra): boolean {
    if (extra.exclusive === true) this.#warn(new PassfdError('PROGRAM_EXCLUSIVE'))
    const { address, port } = where
    const fail = (failure: Failure): void => {
      process.nextTick(() => server.emit('error', bindError('listen', failure, address, port)))
    }
    const granted = this.#ask(wantedOf(where, extra))
    if (granted === undefined) return false
    if (!('grant' in granted)) {
      fail(granted)
      return true
    }
    const { grant, listener } = granted
    const { origin, listeners } = this.#joined!
    const { name, own } = grant
    if (listeners.isServing(name)) {
      listener.close()
      fail({ code: 'EADDRINUSE', errno: EADDRINUSE, message: '' })
      return true
    }
    origin.listeners.get(name)?.listener[Symbol.dispose]()
    origin.listeners.set(
      name,
      grant.lane === undefined
        ? { dispatched: true, listener, own }
        : { lane: grant.lane, listener, backlog: grant.backlog, own }
    )
    this.#names.set(server, name)
    const { _unref: isUnref = false } = server as { _unref?: boolean }
    listeners.serveWithin(name, server).catch(error => {
      // It does not serve, so another server may, here or in another worker
      if (!listeners.isServing(name)) origin.leaves(name)
      this.#names.delete(server)
      server.emit('error', error)
    })
    const shown = server as { _pipeName?: string | null; _connectionKey?: string }
    if (where.addressType === PATH) shown._pipeName = address // as the program has written it
    shown._connectionKey = keyOf(where, grant)
    if (grant.lane === undefined || listeners.held) {
      reportAddress(server, grant, where)
      if (!isUnref) server.ref()
    }
    // Before the program's own, which may throw
    server.prependOnceListener('listening', () => this.#listens())
    return true
  }

  /**
   * Called before Node closes a server. Returns true if the graceful end has closed it before: then Node would report ERR_SERVER_NOT_RUNNING, and the
   * caller reports success.
   */
  closing(server: Server): boolean {
    const name = this.#names.get(server)
    if (name === undefined || this.#joined === undefined) return false
    if (this.#joined.worker.signal.aborted) return !server.listening
    if (!server.listening) return false
    this.#names.delete(server)
    delete (server as { address?: unknown }).address
    this.#closed.push(name)
    return false
  }

  /**
   * Called after Node has closed a server. When it returns the kernel refuses clients, as without passfd, unless another worker serves the listener. So
   * the call waits for the supervisor, as `listen()` does.
   */
  closed(): void {
    if (this.#closed.length === 0) return
    this.#leave()
    const left = this.#joined!.origin.left()
    try {
      const { descriptors } = ask(this.#desk, { token: this.#token, left, nth: 0, join: this.#join() }, CLOSE_PATIENCE)
      for (const descriptor of descriptors) descriptor.close()
    } catch {
      // The supervisor has ended, or is busy: it also gets the message of leaves()
    }
  }

  /** Binds a UDP socket: returns its descriptor's number, which the caller owns; undefined if this process is not the worker. Throws as Node does. */
  bind(socket: DatagramSocket, type: 'udp4' | 'udp6', port: number, address: string | undefined): number | undefined {
    const granted = this.#ask({ type, port, ...(address === undefined ? {} : { address }) })
    if (granted === undefined) return undefined
    if (!('grant' in granted)) throw bindError('bind', granted, address ?? null, port)
    const { name } = granted.grant
    const { origin } = this.#joined!
    origin.uses(name, { adopts: false, exposed: true })
    socket.once('listening', () => this.#listens())
    socket.once('close', () => origin.leaves(name))
    return granted.listener.detach()
  }

  /** The program says that it is ready, by `process.send('ready')`. */
  ready(): void {
    this.#saidReady = true
    this.#beReady()
  }

  /** Why a program can't use node:cluster. */
  clusterError(): Error {
    return new PassfdError('PROGRAM_CLUSTER')
  }

  /** The caller owns the listener. */
  #ask(wanted: WantedAddress): { grant: Granted; listener: Descriptor } | Failure | undefined {
    let result: { answer: Answer; descriptors: Descriptor[] }
    const key = JSON.stringify(wanted)
    const nth = 'port' in wanted && wanted.port === 0 ? (this.#asked.get(key) ?? 0) + 1 : 0
    try {
      this.#leave()
      const left = this.#joined?.origin.left() ?? []
      const question = { token: this.#token, wanted, nth, join: this.#join(), ...(left.length > 0 ? { left } : {}) }
      result = ask(this.#desk, question)
    } catch (error) {
      // The supervisor has ended, does not answer, or does not let this user in
      const uid = process.geteuid?.()
      return failureOf(
        uid !== this.#user ? new PassfdError('PROGRAM_USER', { uid: uid ?? 'none' }, { cause: error }) : error
      )
    }
    const { answer, descriptors } = result
    if (answer.type === 'granted') {
      this.#asked.set(key, nth)
      const [listener, control, channel] = descriptors as [Descriptor, Descriptor?, Descriptor?]
      try {
        if (answer.welcome !== undefined) this.#joins(answer, control!, channel!)
      } catch (error) {
        // No descriptor is free for its channels, most likely. The supervisor ends a worker without them
        for (const descriptor of descriptors) descriptor[Symbol.dispose]()
        return failureOf(error)
      }
      this.#joined!.origin.granted(answer.name, answer.id)
      return { grant: answer, listener }
    }
    for (const descriptor of descriptors) descriptor.close()
    if (answer.type === 'failed') return answer
    this.#isWorker = false
    this.#warn(new PassfdError('PROGRAM_SECOND', { pid: process.pid }))
    return undefined
  }

  #leave(): void {
    for (const name of this.#closed.splice(0)) this.#joined!.listeners.leave(name)
  }

  #join(): Join {
    return { type: 'join', version: LEAST, newest: NEWEST, debugPort: process.debugPort }
  }

  #joins({ welcome, pid }: Granted, control: Descriptor, application: Descriptor): void {
    const line = channelOn<FromSupervisor, FromWorker>(
      control,
      {
        maxUnclaimed: 4 * MAX_UNCONFIRMED,
        requestTimeout: 30_000
      },
      true
    )
    const channel = channelOn(application, {}, false).unref()
    const origin = new ProgramOrigin({ ...welcome!, listeners: {} }, pid, line, channel)
    const listeners = new ServedListeners(origin)
    const worker = new Worker(origin, listeners)
    this.#joined = { worker, origin, listeners }
    if (process.ppid === pid) orphanedBy(pid, welcome!)
    origin.begin(worker, listeners)
    // The program's own servers keep it running, as without passfd
    line.unref()
    for (const listener of stopOnSignals(worker)) this.#own.add(listener)
    for (const signal of STOPS) process.prependListener(signal, this.#noticed)
    this.#own.add(this.#noticed)
    worker.signal.addEventListener('abort', () => {
      line.ref()
      setTimeout(() => this.#callHandlers(), welcome!.stopTimeout / 2).unref()
    })
    worker.onStop(() => this.#callHandlers())
  }

  /** Node calls the program's handlers for this signal itself. */
  readonly #noticed = (signal: NodeJS.Signals): void => {
    if (this.#handlersOf(signal as Stop).length > 0) this.#joined!.origin.endsItself = true
  }

  /** Calls the program's handlers for the first of the stop signals that has some, once. */
  #callHandlers(): void {
    const { origin } = this.#joined!
    if (origin.endsItself) return
    for (const signal of STOPS) {
      const handlers = this.#handlersOf(signal)
      if (handlers.length === 0) continue
      origin.endsItself = true
      for (const handler of handlers) Reflect.apply(handler, process, [signal, SIGNAL_NUMBERS[signal]])
      return
    }
  }

  /** `once` listeners in their wrapper, which removes them. */
  #handlersOf(signal: Stop): ((...args: unknown[]) => unknown)[] {
    return process.rawListeners(signal).filter(one => !this.#own.has(one)) as ((...args: unknown[]) => unknown)[]
  }

  #listens(): void {
    // Further servers that listen in the same turn. One that is closed in it only looked whether the port is free
    setImmediate(() => {
      if (this.#joined?.origin.hasListeners !== true) return
      if (!this.#waitsForReady) this.#saidReady = true
      this.#beReady()
    })
  }

  #beReady(): void {
    if (!this.#saidReady || this.#joined?.origin.hasListeners !== true) return
    this.#saidReady = false
    void this.#joined!.worker.ready().catch(() => {})
  }

  /** The program listens at an abstract name, with Node. */
  listensAbstractly(name: string): void {
    if (this.#isWorker) this.#warn(new PassfdError('PROGRAM_ABSTRACT', { name: name.replace('\0', '@') }))
  }

  /** Once of each kind. */
  #warn(warning: PassfdError): void {
    if (this.#warned.has(warning.code)) return
    this.#warned.add(warning.code)
    process.emitWarning(warning)
  }
}

/** Of the supervisor's listener, as the server itself listens on a socket that nobody can reach. */
function reportAddress(server: Server, { address }: Granted, where: Where): void {
  Object.defineProperty(server, 'address', {
    value: () => (server.listening ? ('path' in address ? where.address : address) : null),
    configurable: true,
    writable: true
  })
}

/** Node's name for what was asked for. */
function keyOf({ address, port, addressType }: Where, { address: bound }: Granted): string {
  if (address) return `${addressType}:${address}:${port}`
  return 'family' in bound && bound.family === 'IPv4' ? `4:0.0.0.0:${port}` : `6::::${port}`
}

function wantedOf({ address, port, addressType, backlog, flags }: Where, extra: Extra): WantedAddress {
  const queue = typeof backlog === 'number' && backlog > 0 ? { backlog } : {}
  if (addressType === PATH) {
    const bits = (extra.readableAll === true ? 0o444 : 0) | (extra.writableAll === true ? 0o222 : 0)
    const mode = bits > 0 && SETS_EXACT_MODE ? bits : (0o777 & ~process.umask()) | bits
    return { path: resolve(address!), mode, ...queue }
  }
  const only = ((flags ?? 0) & IPV6_ONLY) !== 0
  return { port, ...(address ? { host: address } : {}), ...(only ? { ipv6Only: true } : {}), ...queue }
}

/** What a failure is to the program: an error of the system, or passfd's own with its message. */
type Failure = Pick<Failed, 'code' | 'errno' | 'message'>

function failureOf(error: unknown): Failure {
  const { code = 'ECONNREFUSED', errno = ECONNREFUSED, message } = error as NodeJS.ErrnoException
  return { code, errno, message }
}

/** As Node reports it: `listen EADDRINUSE: address already in use :::3000`. libuv calls a folder that is missing EACCES. */
function bindError(syscall: string, { code, errno, message }: Failure, address: string | null, port: number): Error {
  const [name, number] = port === PATH && code === 'ENOENT' ? ['EACCES', EACCES] : [code, errno]
  const place = address ?? '::'
  const [, system = 'unknown error'] = getSystemErrorMap().get(number) ?? []
  const text = name.startsWith('ERR_') ? message : system
  // Node does not explain it for UDP
  const what = syscall === 'bind' && text === system ? name : `${name}: ${text}`
  return Object.assign(new Error(`${syscall} ${what} ${port > 0 ? `${place}:${port}` : place}`), {
    code: name,
    errno: number,
    syscall,
    address: place,
    ...(port === 0 ? {} : { port })
  })
}
