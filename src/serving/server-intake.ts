/** Gives connections to one server of the program, and ends them without losing a request. */
import * as http from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import * as https from 'node:https'
import type { ListenOptions, Server, Socket } from 'node:net'
import * as tls from 'node:tls'
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { checkInteger } from '../base/check.ts'
import { deferred } from '../base/deferred.ts'
import { type Accepting, checkServer, giveTo } from '../connection/inject.ts'
import { type Descriptor, moveOut } from '../descriptor/descriptor.ts'
import { available } from '../os/native.ts'
import { type AcceptSource, AcceptSources, BACKLOG, type Begun, socketOf } from './accept-sources.ts'
import { connectionOn, countRequests, HttpConnection, type ObservedSocket, type Traffic } from './http-connection.ts'
import { IdleConnections } from './idle-connections.ts'
import { type DrainOptions, type Intake, NEW_GRACE_FACTOR, type PassOn } from './intake.ts'
import { areListed, isNodesListener, type NodeConnections, nodeConnections, socketsOf } from './node-connections.ts'

export type { AcceptSource } from './accept-sources.ts'

/** Events that give a connection to the application and end HTTP on it. Node checks whether they have listeners. */
const HANDOVERS = ['upgrade', 'connect']
/** How often a draining server checks for idle connections, in ms. */
const SHORTEST = 10
const LONGEST = 100
/**
 * Node adds so many ms to keepAliveTimeout, which it tells the client: a request that the client begins in the last moment must still arrive. Later
 * versions have a property for it.
 */
const KEEP_ALIVE_BUFFER = 1000

interface KeepingAlive extends Server {
  readonly keepAliveTimeout?: number
  readonly keepAliveTimeoutBuffer?: number
}

/**
 * One server (net, tls, http, https or http2, of any framework). To its user it looks as if it listened itself. passfd only adds listeners for
 * 'connection', 'secureConnection', 'session' and 'stream', as far as the kind of server has these events, and one for 'upgrade' and 'connect'
 * while the program has listeners for these.
 */
export class ServerIntake implements Intake {
  readonly #server: Accepting
  readonly #sources: AcceptSources
  /** The async context of the `listen` call. Connections are in it, as if the server listened itself. */
  readonly #context = new AsyncContext('PASSFD_SERVE')
  /** The tracked connections: all, or with `#relies` only those that are not in Node's list. */
  readonly #open = new Set<Socket>()
  /** Connections over TCP are only in Node's list, so that passfd does nothing for each, until the end begins. */
  #relies = false
  /** Node counts the server's connections and lists those that its parser reads. */
  #isListed = false
  #list: NodeConnections | undefined
  readonly #idle = new IdleConnections()
  readonly #connections = new Set<HttpConnection>()
  readonly #forget: (this: Socket) => void
  readonly #traffic: Traffic = { requests: 0, draining: false, idleGrace: 0, newGrace: 0 }
  readonly #waiting = new Set<() => void>()
  readonly #requestsDone = deferred()
  /** Connections that the server has got, and whose 'connection' comes in the next tick. */
  #coming = 0

  /** `within`: the server's own `listen()` calls it. @throws ERR_PASSFD_INVALID_ARGUMENT if it is not a Node server. */
  constructor(server: Server, within = false) {
    this.#server = checkServer(server)
    this.#sources = new AcceptSources(this.#server, socket => this.#receive(socket), within)
    const forget = (socket: Socket): void => {
      this.#remove(socket)
      this.#settle()
    }
    this.#forget = function () {
      forget(this)
    }
    if (!isHttp(server)) server.prependListener('connection', socket => this.#keep(socket, true))
    else if (available && areListed(server)) this.#rely(server)
    else this.#observe(server)
  }

  /** The number of open connections. */
  get connections(): number {
    this.#forgetClosed()
    return this.#count()
  }

  #count(): number {
    const tracked = this.#open.size
    const listed = this.#relies ? this.#listed().length : 0
    // A connection that the program has taken from Node's parser is in no list. Node still counts it if the server has accepted it
    const counted = this.#isListed ? this.#server._connections : 0
    return Math.max(tracked + listed, counted) + this.#idle.size
  }

  /** The number of HTTP requests since the start, with upgrades and CONNECT; for a net or tls server the number of connections. */
  get requests(): number {
    return this.#traffic.requests
  }

  /** Calls `idle` when no connection is open: now, or when the last one has ended. */
  whenIdle(idle: () => void): void {
    this.#trackAll()
    const look = (): void => {
      if (this.#count() > 0) return
      this.#waiting.delete(look)
      idle()
    }
    this.#waiting.add(look)
    look()
  }

  /** Resolves during `drain()`, when only connections are open that the application must end (upgraded ones, or not HTTP). */
  get requestsDone(): Promise<void> {
    return this.#requestsDone.promise
  }

  /** @throws ERR_PASSFD_SERVER_CLOSED as `add()`. */
  check(): void {
    this.#sources.check()
  }

  /** For a server that will only get connections: makes it listen (see Connection.injectInto), if it does not. */
  prepare(): void {
    this.#sources.prepare()
  }

  /** As `add()`, but Node binds the address. Rejects with the system's error, or as `add()`. */
  async listenItself(options: ListenOptions): Promise<void> {
    await this.#context.run(() => this.#sources.listenItself(options))
  }

  closed(): void {
    this.#idle.close() // as Node does
    this.#sources.closed()
  }

  beforeRemoval(): void {
    this.#sources.beforeRemoval()
  }

  /**
   * Accepts from a listener, which it uses up, until the source is removed; resolves when it accepts. The first listener becomes the server's own.
   * Node sets the backlog of a listener again, for all processes that share it: `backlog`, default 511. `exclusive` is called at the end. It is
   * true if only the supervisor's processes hold the listener: then later clients are refused, and no connection is reset.
   * @throws ERR_PASSFD_DESCRIPTOR_KIND; ERR_PASSFD_SERVER_CLOSED if the server was closed, or its own listen() has not finished.
   */
  async add(listener: Descriptor, backlog = BACKLOG, exclusive: () => boolean = () => false): Promise<AcceptSource> {
    const { source, listening } = this.begin(listener, backlog, exclusive)
    await listening
    return source
  }

  /** As `add()`, but it accepts when this returns, and throws the errors. */
  begin(listener: Descriptor, backlog = BACKLOG, exclusive: () => boolean = () => false): Begun {
    return this.#context.run(() => this.#sources.begin(listener, backlog, exclusive))
  }

  /**
   * Serves a connection that was accepted elsewhere, as if the server had accepted it, and uses it up. It also works after `stopAccepting()`, for
   * connections that were on their way. It does not check the kind (tcp or unix-stream), which takes five system calls. It calls `onClosed` when
   * the connection has closed, even if the server refused it. `idle`: another process has served requests of it before, so it may stay without one
   * for the server's `keepAliveTimeout` and Node's buffer, and the server gets it when one begins.
   * @throws ERR_PASSFD_SERVER_CLOSED as `add()`.
   */
  give(connection: Descriptor, onClosed?: () => void, idle = false): void {
    this.#context.run(() => this.#sources.prepare())
    const fd = moveOut(connection, 'give()')
    const timeout = idle ? keepAliveOf(this.#server) : undefined
    if (timeout === undefined) this.#serve(fd, onClosed)
    else this.#idle.add(fd, timeout, { serve: () => this.#serve(fd, onClosed), gone: () => onClosed?.() })
  }

  /** Owns the number. */
  #serve(fd: number, onClosed: (() => void) | undefined): void {
    this.#context.run(() => {
      const socket = socketOf(fd, this.#server)
      if (onClosed !== undefined) socket.once('close', onClosed)
      this.#receive(socket)
    })
  }

  /**
   * Stops accepting from all listeners, at once; open connections live on. `last`: no other process holds these listeners any more, so closing
   * them would reset the connections in their queues. Then it first accepts these. `last` may resolve later.
   */
  stopAccepting({ last }: { last: boolean | Promise<boolean> }): Promise<void> {
    return this.#context.run(() => this.#sources.stop(last))
  }

  /**
   * Ends the open connections. From now on each response has `Connection: close`, and HTTP/2 sessions get a GOAWAY. Requests under way are
   * finished; idle connections go to `pass`, or are closed after `idleGrace` without activity. The application must end upgraded connections, and
   * those of a net or tls server. Resolves when no connection is left, or when `signal` aborts.
   */
  drain({ idleGrace, newGrace = NEW_GRACE_FACTOR * idleGrace, signal, pass }: DrainOptions): Promise<void> {
    checkInteger(idleGrace, 'idleGrace', 0, 0x7fffffff)
    this.#trackAll()
    this.#traffic.idleGrace = idleGrace
    this.#traffic.newGrace = newGrace
    this.#traffic.draining = true
    for (const connection of this.#connections) connection.drain()
    return new Promise(resolve => {
      const timer = setInterval(() => sweep(), Math.min(LONGEST, Math.max(SHORTEST, idleGrace / 10)))
      const sweep = (): void => {
        this.#sweep(pass)
        done()
      }
      const done = (): void => {
        const isOver = this.#count() === 0 || signal?.aborted === true
        if (isOver || this.#areUpgraded()) this.#requestsDone.resolve()
        if (!isOver) return
        clearInterval(timer)
        forget()
        this.#waiting.delete(done)
        resolve()
      }
      this.#waiting.add(done)
      const forget = whenAborted(signal, done)
      sweep()
    })
  }

  /** Destroys the remaining connections. */
  destroyAll(): void {
    this.#trackAll()
    this.#idle.close()
    for (const socket of this.#open) socket.destroy()
  }

  #receive(socket: Socket): void {
    giveTo(this.#server, socket)
    if (!this.#relies && !socket.destroyed) this.#keep(socket, false)
    this.#coming++
    process.nextTick(() => {
      this.#coming--
      this.#settle()
    })
  }

  #settle(): void {
    for (const settle of [...this.#waiting]) settle()
  }

  #remove(socket: Socket): void {
    this.#open.delete(socket)
    const connection = connectionOn(socket)
    if (connection !== undefined) this.#connections.delete(connection)
  }

  /** Forgets sockets that have closed without passfd's listener, because the program has removed all listeners. */
  #forgetClosed(): void {
    const { size } = this.#open
    if (size <= this.#server._connections) return // the usual case, for which no socket is looked at
    for (const socket of this.#open) if (socket.closed) this.#remove(socket)
    if (this.#open.size < size) process.nextTick(() => this.#settle())
  }

  /** Returns false if it is destroyed. */
  #keep(socket: Socket, counts: boolean): boolean {
    if (counts) this.#traffic.requests++
    if (this.#open.has(socket)) return true
    if (socket.closed) return false
    this.#open.add(socket)
    socket.on('close', this.#forget)
    return true
  }

  /** Leaves the connections over TCP to Node's list until `#trackAll()`. Of others the kernel does not know for how long they have been idle. */
  #rely(server: Server): void {
    this.#isListed = this.#relies = true
    countRequests(server, this.#traffic)
    server.prependListener('connection', (socket: ObservedSocket) => {
      if (!this.#relies || !isTcp(socket) || this.#nodesList === undefined) this.#track(socket)
    })
    server.on('removeListener', (name, removed) => {
      if (name === 'connection' && isNodesListener(removed)) this.#trackAll()
    })
    for (const event of HANDOVERS)
      besideOthers(server, event, ({ socket }) => {
        this.#traffic.requests++
        this.#track(socket, true)
      })
  }

  /** Node's list, which it makes before the first connection, unless the program emits 'connection' itself. */
  get #nodesList(): NodeConnections | undefined {
    this.#list ??= nodeConnections(this.#server)
    return this.#list
  }

  /** The connections in Node's list that are not tracked. */
  #listed(): ObservedSocket[] {
    // A socket without Node's listener for 'close', which the program has removed, stays in the list
    return socketsOf(this.#nodesList?.all()).filter(socket => !socket.closed && !this.#open.has(socket))
  }

  /** From now on each connection is tracked. */
  #trackAll(): void {
    if (!this.#isListed) return
    this.#relies = false
    for (const socket of this.#listed()) this.#track(socket, true)
  }

  /** `wasOpen`: it may have had requests before. */
  #track(socket: ObservedSocket, wasOpen = false): void {
    if (this.#keep(socket, false) && connectionOn(socket) === undefined)
      this.#connections.add(new HttpConnection(socket, false, this.#traffic, wasOpen))
  }

  #observe(server: Server): void {
    const secure = server instanceof tls.Server
    let current: HttpConnection | undefined
    server.prependListener('connection', (socket: ObservedSocket) => {
      if (!this.#keep(socket, false) || connectionOn(socket) !== undefined) return
      current = new HttpConnection(socket, secure, this.#traffic)
      this.#connections.add(current)
    })
    if (secure)
      server.prependListener('secureConnection', (stream: ObservedSocket & tls.TLSSocket) => {
        current = stream._parent === undefined ? undefined : connectionOn(stream._parent)
        current?.secured(stream)
      })
    if (isHttp2(server)) {
      server.prependListener('session', (session: ServerHttp2Session) => current?.opened(session))
      server.prependListener('stream', () => this.#traffic.requests++)
    }
    const count = (): void => void this.#traffic.requests++
    for (const event of HANDOVERS) besideOthers(server, event, count)
  }

  /** Whether all are upgraded. It stops at the first one that is not, because it runs at the end of each connection. */
  #areUpgraded(): boolean {
    for (const { upgraded } of this.#connections) if (!upgraded) return false
    return this.#idle.size + this.#coming === 0
  }

  /** False if the program has emitted its 'connection': no listener of the server leads to it, and it may be TLS, or carry state of the program's. */
  #isOwn({ _server }: ObservedSocket): boolean {
    return _server === this.#server
  }

  #sweep(pass: PassOn | undefined): void {
    this.#forgetClosed()
    this.#trackAll() // one that came while the end began: another listener for 'connection' may have begun it
    const now = performance.now()
    let between: ReadonlySet<unknown> | undefined
    const lookUp = (): ReadonlySet<unknown> => {
      between ??= new Set(socketsOf(nodeConnections(this.#server)?.idle()))
      return between
    }
    const foreign = this.#server.listenerCount('unknownProtocol') > 0
    for (const connection of this.#connections)
      connection.sweep(now, lookUp, foreign, this.#isOwn(connection.raw) ? pass : undefined)
    this.#idle.drain(this.#traffic.idleGrace, pass)
  }
}

/** Returns how long a connection may be idle, in ms; 0: no limit; undefined: it is no server of HTTP/1. */
function keepAliveOf(server: Server): number | undefined {
  const { keepAliveTimeout, keepAliveTimeoutBuffer = KEEP_ALIVE_BUFFER } = server as KeepingAlive
  return keepAliveTimeout === undefined || keepAliveTimeout === 0
    ? keepAliveTimeout
    : keepAliveTimeout + keepAliveTimeoutBuffer
}

/** Anything that speaks HTTP/1 or 2. */
function isHttp(server: Server): boolean {
  return server instanceof http.Server || server instanceof https.Server || isHttp2(server)
}

/** Only handles of TCP connections have it. */
function isTcp(socket: ObservedSocket): boolean {
  return socket._handle?.setNoDelay !== undefined
}

/** The classes of http2 are not exported. */
function isHttp2(server: Server): boolean {
  return 'updateSettings' in server
}

/** Calls `listener` for `event` as long as `event` has another listener. */
function besideOthers(server: Server, event: string, listener: (request: http.IncomingMessage) => void): void {
  let there = false
  const settle = (others: boolean): void => {
    if (others === there) return
    there = others
    if (others) server.prependListener(event, listener)
    else server.removeListener(event, listener)
  }
  settle(server.listenerCount(event) > 0)
  server.on('newListener', (name, added) => {
    if (name === event && added !== listener) settle(true)
  })
  server.on('removeListener', (name, removed) => {
    if (name !== event) return
    if (removed === listener) there = false
    else settle(server.listenerCount(event) > (there ? 1 : 0))
  })
}
