/** The listeners from which one server of the program accepts. */

import { once } from 'node:events'
import { createServer, type ListenOptions, Server, Socket, type SocketConstructorOpts } from 'node:net'
import { quiet } from '../base/deferred.ts'
import { EINVAL } from '../base/errno.ts'
import { PassfdError } from '../base/errors.ts'
import { type Accepting, giveNow, listenUnreachably, type SocketSetup } from '../connection/inject.ts'
import { type Descriptor, moveOut } from '../descriptor/descriptor.ts'
import { LISTENERS } from '../descriptor/kind.ts'
import { listenOnNumber } from '../descriptor/to-node.ts'
import { acceptWaiting } from '../os/acceptor.ts'
import { native } from '../os/native.ts'
import { endListeners } from './last-accept.ts'

/** One listener that a server accepts from. */
export interface AcceptSource {
  /** Stops accepting from it at once. It closes only this process's copy; accepted connections live on. */
  remove(): Promise<void>
  /** Accepts the connections that wait in it, because no other process serves them, and closes it. */
  empty(): Promise<void>
}

/** A source that already accepts. `listening` resolves at the server's 'listening' event, or rejects with its error. */
export interface Begun {
  readonly source: AcceptSource
  readonly listening: Promise<unknown>
}

/** Properties of Node's servers that the types lack. */
interface Handle {
  readonly fd: number
  onconnection: (this: Handle, error: number, client: unknown) => void
  close(): void
  unref?(): void
}
interface Handled extends Accepting {
  _handle: Handle | null
  _unref?: boolean
  _pipeName?: string
}
interface Accepted extends Socket {
  _server: Server | null
}

/**
 * What the constructor of net.Socket sets in its copy of the options, whatever they say. If they are there already the copy keeps its shape. Without
 * them, as Node's own servers do it, Node 20 needs 20 to 30 µs for each socket, with them 6 to 10. Later versions always need the shorter time.
 */
interface NodesOwn {
  readonly emitClose: false
  readonly autoDestroy: true
  readonly decodeStrings: false
}

/** Node 20 also has no block list, which this would have to look at. */
const COSTLY_SOCKETS = Number.parseInt(process.versions.node, 10) < 22
/** Node's own default. */
export const BACKLOG = 511
/** The size of sun_path, unix(7). */
const MAX_NAME = 108

/**
 * The first listener becomes the server's own, so that `listening`, `address()` and its time-outs work. Each further one has a server of
 * Node's to itself, whose connections go to `receive`.
 */
export class AcceptSources {
  readonly #server: Handled
  readonly #receive: (socket: Socket) => void
  /** The listeners, each with a function that returns whether only processes of this supervisor or seat hold it. */
  readonly #handles = new Map<Handle, () => boolean>()
  /** The server's listener after `remove()` of the last source: no process can reach it. */
  #standIn: Handle | undefined
  /** Prepared for the next `remove()` of the last source. */
  #spare: Handled | undefined
  /** The server's own `listen()` has begun this, so Node has counted calls of it. */
  #within: boolean
  #begun = false
  #stopped = false

  constructor(server: Accepting, receive: (socket: Socket) => void, within = false) {
    this.#server = server as Handled
    this.#receive = receive
    this.#within = within
  }

  /** The program has closed the server: the next listener becomes its own again. */
  closed(): void {
    this.#begun = false
    this.#standIn = undefined
  }

  /** Makes the server listen, if necessary on a socket that no process can reach, so that it can get connections. */
  prepare(): void {
    if (this.#begun) return
    if (!this.#server.listening) {
      this.#checkUnused()
      listenUnreachably(this.#server)
    }
    this.#begun = true
  }

  /** @throws ERR_PASSFD_SERVER_CLOSED if the server was closed, or its own listen() has not finished. */
  check(): void {
    if (this.#stopped) throw new PassfdError('SERVER_CLOSED')
    if (!this.#begun && !this.#server.listening) this.#checkUnused()
  }

  /** As `begin()`, but Node binds the address, where there is no Descriptor of a listener. Rejects with the system's error, and can be called again. */
  async listenItself(options: ListenOptions): Promise<void> {
    this.check()
    const acceptor = this.#server.listening ? this.#acceptor() : this.#server
    this.#within = true
    const listening = once(acceptor, 'listening')
    acceptor.listen(options)
    await listening
    this.#begun = true
    if (acceptor !== this.#server) this.#forwardErrors(acceptor)
    this.#handles.set(acceptor._handle!, () => false)
  }

  /** Accepts when this returns. `exclusive` is called at the end, and returns whether no other program holds the listener (see `endListeners`). */
  begin(listener: Descriptor, backlog: number, exclusive: () => boolean): Begun {
    this.check()
    const { kind } = listener
    if (!LISTENERS.includes(kind))
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation: 'listen()',
        expected: LISTENERS.join(' or '),
        actual: kind
      })
    const first = !this.#begun && !this.#server.listening
    this.#begun = true
    const acceptor = first ? this.#server : this.#forwardErrors(this.#acceptor())
    if ((first || this.#standIn !== undefined) && kind === 'unix-stream-listener')
      this.#server._pipeName = nameOf(listener) // address() reports it
    const listening = quiet(once(acceptor, 'listening')) // or its 'error'
    listenOnNumber(acceptor, moveOut(listener, 'listen()'), backlog)
    const handle = acceptor._handle
    // At once, because a stop() in this turn must accept the connections that wait in it
    if (handle !== null) {
      this.#handles.set(handle, exclusive)
      this.#guard(handle, acceptor)
      this.#replaceStandIn(handle)
    }
    return { source: { remove: async () => this.#remove(handle), empty: () => this.#empty(handle) }, listening }
  }

  /** Prepares a `remove()` of the last source that needs no new descriptor. @throws the system's error. */
  beforeRemoval(): void {
    if (this.#handles.size > 0) this.#spare ??= makeStandIn()
  }

  #remove(handle: Handle | null): void {
    if (handle === null || !this.#handles.delete(handle)) return
    if (this.#server._handle === handle) this.#replaceOwn()
    this.#close(handle)
  }

  async #empty(handle: Handle | null): Promise<void> {
    const exclusive = handle === null ? undefined : this.#handles.get(handle)
    if (handle === null || exclusive === undefined) return
    const fd = native.dup(handle.fd)
    const waiting: number[] = []
    // There is no descriptor for it
    if (fd < 0) acceptWaiting(handle.fd, connection => void waiting.push(connection))
    this.#remove(handle)
    for (const connection of waiting) this.#receive(socketOf(connection, this.#server))
    if (fd >= 0) await this.#acceptLast(exclusive() ? [fd] : [], exclusive() ? [] : [fd])
  }

  /**
   * Hides EINVAL from the server: accept(2) fails with it after another process has ended the listener (see `endListeners`). On Node 20 it makes the
   * sockets itself.
   */
  #guard(handle: Handle, acceptor: Handled): void {
    const { onconnection } = handle
    const end = (): void => this.#remove(handle)
    handle.onconnection = function (error, client) {
      if (error === EINVAL) end()
      else if (COSTLY_SOCKETS && error === 0 && !acceptor.maxConnections)
        giveNow(acceptor, newSocket({ handle: client }, acceptor))
      else onconnection.call(this, error, client)
    }
  }

  /**
   * Stops accepting. `last`: it first accepts the connections that wait in the queues. If `last` is a promise, it accepts them when that
   * resolves to true, and none before.
   */
  async stop(last: boolean | Promise<boolean>): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    this.#spare?.close()
    this.#spare = undefined
    const copies: { fd: number; exclusive: () => boolean }[] = []
    const waiting: number[] = []
    for (const [handle, exclusive] of this.#handles) {
      const fd = last === false ? -1 : native.dup(handle.fd)
      if (fd >= 0) copies.push({ fd, exclusive })
      // There is no descriptor for it
      else if (last !== false) acceptWaiting(handle.fd, connection => void waiting.push(connection))
      this.#close(handle)
    }
    this.#handles.clear()
    // Not the server's close(): for http that destroys idle connections, and time-outs are not enforced any more
    if (this.#server._handle !== null) Server.prototype.close.call(this.#server)
    for (const fd of waiting) this.#receive(socketOf(fd, this.#server))
    const isLast = await last
    // Checked as late as possible, because the supervisor may have ended meanwhile
    const own = copies.filter(({ exclusive }) => exclusive()).map(({ fd }) => fd)
    const shared = copies.map(({ fd }) => fd).filter(fd => !own.includes(fd))
    if (isLast) await this.#acceptLast(own, shared)
    else for (const fd of [...own, ...shared]) native.close(fd)
  }

  /** Accepts the connections that wait in these listeners, and closes them. `own`: no other program holds them, so it ends them for all. */
  async #acceptLast(own: readonly number[], shared: readonly number[]): Promise<void> {
    const receive = (fd: number): void => this.#receive(socketOf(fd, this.#server))
    await endListeners(own, fd => acceptWaiting(fd, receive))
    for (const fd of own) native.close(fd)
    for (const fd of shared) {
      const accepted: number[] = []
      acceptWaiting(fd, connection => void accepted.push(connection))
      native.close(fd) // at once: a connection that arrives in between is reset if this is the last copy
      for (const connection of accepted) receive(connection)
    }
  }

  /** Node counts calls of listen() and close() from 1 on. */
  #checkUnused(): void {
    if (!this.#within && (this.#server._listeningId ?? 1) > 1) throw new PassfdError('SERVER_CLOSED')
  }

  #acceptor(): Handled {
    const { allowHalfOpen, pauseOnConnect, highWaterMark } = this.#server
    const acceptor = createServer({ allowHalfOpen, pauseOnConnect, highWaterMark } as never) as Handled
    acceptor.on('connection', (socket: Accepted) => {
      // From here on the connection counts as one of the program's server
      acceptor._connections--
      socket._server = null
      this.#receive(socket)
    })
    if (this.#server._unref === true) acceptor.unref()
    return acceptor
  }

  #forwardErrors(acceptor: Handled): Handled {
    return acceptor.on('error', error => this.#server.emit('error', error)) as Handled
  }

  /**
   * Removes the server's own listener. The server gets the handle of another listener, or of a socket that no process can reach, because the
   * server was not closed.
   */
  #replaceOwn(): void {
    const [other] = this.#handles.keys()
    if (other !== undefined) this.#server._handle = other
    else {
      const standIn = this.#spare ?? makeStandIn()
      this.#spare = undefined
      this.#server._handle = standIn._handle
      this.#standIn = standIn._handle ?? undefined
    }
    if (this.#server._unref === true) this.#server._handle!.unref?.()
  }

  /** Gives the server a listener again, which `address()` reports. */
  #replaceStandIn(handle: Handle): void {
    const standIn = this.#standIn
    this.#standIn = undefined
    if (standIn === undefined || this.#server._handle !== standIn) return
    this.#server._handle = handle
    if (this.#server._unref === true) handle.unref?.()
    standIn.close()
  }

  #close(handle: Handle): void {
    if (this.#server._handle === handle) Server.prototype.close.call(this.#server)
    else handle.close()
  }
}

function makeStandIn(): Handled {
  const standIn = createServer() as Handled
  listenUnreachably(standIn)
  return standIn
}

/** Makes a socket of a held number, which it then owns, with the settings of a server. */
export function socketOf(fd: number, server: Accepting): Socket {
  const socket = newSocket({ fd }, server)
  native.release(fd)
  return socket
}

function newSocket({ fd, handle }: { fd?: number; handle?: unknown }, server: Accepting): Socket {
  const { allowHalfOpen, pauseOnConnect, highWaterMark } = server
  const setup: SocketSetup & NodesOwn & { fd: number | undefined; handle: unknown } = {
    fd,
    handle,
    allowHalfOpen: allowHalfOpen === true,
    pauseOnCreate: pauseOnConnect === true,
    readableHighWaterMark: highWaterMark,
    writableHighWaterMark: highWaterMark,
    emitClose: false,
    autoDestroy: true,
    decodeStrings: false
  }
  return new Socket(setup as SocketConstructorOpts)
}

function nameOf(listener: Descriptor): string {
  const name = Buffer.alloc(MAX_NAME)
  const length = Math.max(native.name(listener.borrow(), false, name), 0)
  return name.toString('utf8', 0, length).replace(/\0$/, '')
}
