/** `StreamServer`: accepts raw streams or packet sockets, only as many as its consumer asks for. */

import { EventEmitter } from 'node:events'
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { EINTR } from '../base/errno.ts'
import { abortError, type Failure, systemError } from '../base/errors.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { authorized } from '../descriptor/admission.ts'
import { askOf, NO_SOCKET, type Peer, peerOf } from '../descriptor/peer.ts'
import { Acceptor, acceptEach, type Outcome } from '../os/acceptor.ts'
import { closeListener, discard } from '../os/loop.ts'
import { removeFile, type SocketFile } from '../os/socket-name.ts'
import type { AdmissionOptions } from './options.ts'

/** How long `close()` waits for the listener to be really closed, in ms. */
const CLOSE_TIMEOUT = 5000

/** A connection of a server. */
export interface Accepted {
  once(event: 'close', listener: () => void): unknown
  destroy(error?: Error): unknown
}

export interface StreamServerEvents<Connection> {
  connection: [Connection]
  /** The server has refused a peer: ERR_PASSFD_UNAUTHORIZED, _AUTHORIZE_FAILED or _HANDSHAKE_TIMEOUT. */
  refused: [Peer, Failure]
  /**
   * The kernel can't give the server a connection: EMFILE or ENFILE (the limit of open files), ENOMEM, ENOBUFS. Clients wait in the listener's
   * queue, and the server tries again every 50 ms. The event comes once until the server has accepted a connection. Without a listener it is a
   * process warning.
   */
  acceptError: [Failure]
  close: [error?: Failure]
}

export interface StreamServerSetup<Address, Connection> {
  readonly fd: number
  readonly file: SocketFile | undefined
  readonly address: Address
  readonly maxConnections: number
  readonly handshakeTimeout: number
  readonly options: AdmissionOptions
  make(fd: number, peer: Peer): Connection
}

/** @internal */
export let createStreamServer: <Address, Connection extends Accepted>(
  setup: StreamServerSetup<Address, Connection>
) => StreamServer<Connection, Address>

/**
 * Accepts connections while it has a `'connection'` listener or a pending `for await`. Otherwise connections wait in the listener's queue
 * (`backlog`). Closing the server does not close its connections.
 */
export class StreamServer<Connection extends Accepted, Address = unknown>
  extends EventEmitter<StreamServerEvents<Connection>>
  implements AsyncIterable<Connection>, AsyncDisposable
{
  /** The address that was passed to `listen`. */
  readonly address: Address
  /** Resolves when the server has closed: to the error that closed it, or to undefined. Never rejects. */
  readonly closed: Promise<Failure | undefined>
  readonly #setup: StreamServerSetup<Address, Connection>
  readonly #acceptor: Acceptor
  /** That of the `listen` call. Connections are opened in it. */
  readonly #context = new AsyncContext('PASSFD_SERVER')
  readonly #admissions = new AbortController()
  readonly #forgetSignal: () => void
  readonly #readers: ((result: IteratorResult<Connection>) => void)[] = []
  /** Connections that were let in after their consumer had ended. The next consumer gets them. */
  readonly #unclaimed = new Set<Connection>()
  /** Those that are open, or being admitted. */
  #connections = 0
  #admitting = 0
  #resolveClosed!: (error: Failure | undefined) => void
  #closing: Promise<void> | undefined

  private constructor(setup: StreamServerSetup<Address, Connection>) {
    super()
    markUncloneable(this)
    this.#setup = setup
    this.address = setup.address
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    this.#acceptor = new Acceptor(setup.fd, {
      accept: () => this.#accept(),
      onExhausted: error => this.#cannotAccept(error),
      onFailed: () => void this.#close(systemError(EINTR, 'poll'))
    })
    this.#update()
    const onListener = (event: string | symbol): void => {
      if (event === 'connection') queueMicrotask(() => this.#update())
    }
    super.on('newListener' as never, onListener as never)
    super.on('removeListener' as never, onListener as never)
    const { signal } = setup.options
    this.#forgetSignal = whenAborted(signal, () => void this.#close(abortError(signal!)))
  }

  /** Stops accepting, and removes the socket file if it still belongs to this server. Connections stay open. */
  close(): Promise<void> {
    return this.#close(undefined)
  }

  /** Keeps the process running while the server accepts (the default). */
  ref(): this {
    this.#acceptor.ref()
    return this
  }

  unref(): this {
    this.#acceptor.unref()
    return this
  }

  /** Iterates over the connections. `break` closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Connection> {
    const waiting = new Set<(result: IteratorResult<Connection>) => void>()
    const iterator: AsyncIterableIterator<Connection> = {
      next: () =>
        new Promise(resolve => {
          if (this.#closing !== undefined) {
            resolve({ done: true, value: undefined })
            return
          }
          waiting.add(resolve)
          this.#readers.push(resolve)
          this.#update()
        }),
      return: async () => {
        for (const resolve of waiting) {
          const index = this.#readers.indexOf(resolve)
          if (index >= 0) this.#readers.splice(index, 1)
          resolve({ done: true, value: undefined })
        }
        this.#update()
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  get #wants(): boolean {
    if (this.#closing !== undefined || this.#connections >= this.#setup.maxConnections) return false
    return this.listenerCount('connection') > 0 || this.#readers.length > this.#admitting
  }

  #update(): void {
    this.#give()
    this.#acceptor.want(this.#wants)
  }

  #accept(): Outcome {
    const outcome = acceptEach(
      this.#setup.fd,
      () => this.#wants,
      fd => void this.#context.run(this.#admit, this, fd)
    )
    if (outcome.error === 0) this.#update()
    return outcome
  }

  /**
   * Turns an accepted socket into a connection, or refuses it. It never rejects. Unlike for channels, the kernel does not refuse descriptors
   * before the decision: a client that speaks first, as many do, would get EPERM. passfd closes a refused client's socket off the loop, unread.
   */
  async #admit(fd: number): Promise<void> {
    let peer: Peer
    try {
      peer = peerOf(fd)
    } catch {
      discard([fd]) // it is gone already
      return
    }
    const { options, handshakeTimeout } = this.#setup
    this.#connections++
    this.#admitting++
    try {
      await authorized(peer, options, handshakeTimeout, this.#admissions.signal, this.#context)
    } catch (error) {
      askOf(peer, NO_SOCKET)
      discard([fd])
      this.#left()
      if (this.#closing === undefined) this.#tell('refused', peer, error)
      return
    } finally {
      this.#admitting--
    }
    const connection = this.#make(fd, peer)
    if (connection === undefined) return
    connection.once('close', () => this.#left())
    if (this.#closing !== undefined) connection.destroy()
    else {
      this.#unclaimed.add(connection)
      connection.once('close', () => this.#unclaimed.delete(connection))
      this.#update()
    }
  }

  /** Undefined if the loop could not watch it, for example. Then the client is refused. */
  #make(fd: number, peer: Peer): Connection | undefined {
    try {
      return this.#setup.make(fd, peer)
    } catch (error) {
      discard([fd])
      this.#left()
      if (this.#closing === undefined) this.#tell('refused', peer, error)
      return undefined
    }
  }

  #cannotAccept(error: Error): void {
    if (this.listenerCount('acceptError') > 0) this.#tell('acceptError', error)
    else process.emitWarning(error)
  }

  #give(): void {
    for (const connection of this.#unclaimed) {
      const reader = this.#readers.shift()
      if (reader === undefined && this.listenerCount('connection') === 0) return
      this.#unclaimed.delete(connection)
      if (reader !== undefined) reader({ done: false, value: connection })
      else this.#tell('connection', connection)
    }
  }

  #left(): void {
    this.#connections--
    this.#update()
  }

  /** What a listener throws is the program's affair, not this server's. */
  #tell(event: keyof StreamServerEvents<Connection>, ...args: unknown[]): void {
    this.#context.tell(this, event, ...args)
  }

  #close(error: Error | undefined): Promise<void> {
    this.#closing ??= this.#closeNow(error)
    return this.#closing
  }

  async #closeNow(error: Error | undefined): Promise<void> {
    const { fd, file } = this.#setup
    this.#acceptor.end()
    this.#forgetSignal()
    this.#admissions.abort()
    for (const connection of this.#unclaimed) connection.destroy()
    let failure = error
    try {
      if (file !== undefined) await removeFile(file)
    } catch (cause) {
      failure ??= cause as Error
    }
    await closeListener(fd, CLOSE_TIMEOUT)
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
    this.#resolveClosed(failure)
    this.#tell('close', ...(failure === undefined ? [] : [failure]))
    this.#context.end()
  }

  static {
    createStreamServer = setup => new StreamServer(setup)
  }
}
mark(StreamServer, 'StreamServer')
