/** `DatagramSocket`: AF_UNIX datagrams with descriptors, both ways (unix(7)). */

import { EventEmitter } from 'node:events'
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { addNotices, Consumer, LISTENERS, LOOP } from '../base/consumer.ts'
import { EAGAIN } from '../base/errno.ts'
import { abortError, asError, type Failure, overdueError, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { keepAlive } from '../base/timers.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { discard } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { removeFile, type SocketFile, type SocketName } from '../os/socket-name.ts'
import type { Destination } from './address.ts'
import { DestinationQueues } from './destination-queues.ts'
import { LoopPlace } from './loop-place.ts'
import { DatagramMessage, END, GUARD, type MessageOwner } from './message.ts'
import type { DatagramLimits, DatagramOptions } from './options.ts'
import { type Received, receiveDatagram } from './receive.ts'
import { refusalOf } from './refusal.ts'
import { type DatagramData, parcelOf, type SendOptions, sendThrough, transmit } from './send.ts'
import type { Sender } from './sender.ts'

/** Datagrams given to the consumer in one turn of the event loop; others get their turn then. */
const DATAGRAMS_A_TURN = 64
/** So many failures of reading in a row, and the socket is beyond help. */
const MAX_FAILURES = 16
/** A datagram that passfd has rejected. */
export interface Dropped {
  /** The number of its bytes. */
  readonly size: number
  readonly from: SocketName | undefined
  readonly sender: Sender | undefined
}

export interface DatagramEvents {
  message: [DatagramMessage]
  /** passfd has rejected a datagram and closed its descriptors: `authorize` refused it, or it could not be received whole. */
  dropped: [PassfdError, Dropped]
  close: [error?: Failure]
}

const REPLY_OPTIONS = { descriptors: true, signal: true } as const satisfies KnownOptions<Omit<SendOptions, 'to'>>
/** @internal A socket that is open, before it has an owner. */
export interface Base {
  /** A number that the shim holds; the holder of this object closes it. */
  readonly fd: number
  readonly file: SocketFile | undefined
  readonly address: SocketName | undefined
  /** The destination of all sends. Undefined: each send names it. Null: connected to a socket without a name. */
  readonly peer: Destination | null | undefined
}

/** @internal */
export interface Setup extends Base {
  readonly limits: DatagramLimits
  readonly options: DatagramOptions
}

/** @internal */
export let createSocket: (setup: Setup) => DatagramSocket
let listened: (socket: DatagramSocket) => void
let unlistened: (socket: DatagramSocket) => void

/**
 * Sends and receives datagrams. It reads only while it has a consumer: `'message'` listeners, or `for await`. Otherwise datagrams wait in the
 * kernel's queue (net.unix.max_dgram_qlen, 10 by default), and then at their senders.
 */
export class DatagramSocket
  extends EventEmitter<DatagramEvents>
  implements AsyncIterable<DatagramMessage>, AsyncDisposable
{
  /** The name of this socket; undefined if it has none. */
  readonly address: SocketName | undefined
  /** Resolves when the socket has closed: to the error that closed it, or to undefined. Never rejects. */
  readonly closed: Promise<Failure | undefined>
  readonly #setup: Setup
  readonly #queues: DestinationQueues
  readonly #messageOwner: MessageOwner
  /** That in which it was opened. */
  readonly #context = new AsyncContext('PASSFD_SOCKET')
  readonly #place: LoopPlace
  readonly #consumer: Consumer<DatagramMessage>
  #fd: number
  #writing = false
  /** How many more datagrams may be read before the event loop runs. */
  #budget = DATAGRAMS_A_TURN
  #failures = 0
  /** Unclaimed descriptors that are being closed. */
  #closingDescriptors = 0
  #state: 'open' | 'closing' | 'closed' = 'open'
  #resolveClosed!: (error: Failure | undefined) => void
  readonly #forgetSignal: () => void

  private constructor(setup: Setup) {
    super()
    markUncloneable(this)
    this.#setup = setup
    this.#fd = setup.fd
    this.address = setup.address
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    const { limits, options, peer } = setup
    this.#queues = new DestinationQueues(
      {
        transmit: (to, bytes, fds, count) => transmit(this.#fd, to, peer ?? undefined, bytes, fds, count),
        gaugeFor: to => to, // a connected socket's own readiness reports room in its peer's queue
        awaitWritable: on => this.#awaitWritable(on)
      },
      limits
    )
    this.#messageOwner = {
      discard: fds => this.#discard(fds),
      reply: (data, replyOptions, to) =>
        this.send(data, peer === undefined ? { ...readOptions(replyOptions, REPLY_OPTIONS), to } : replyOptions)
    }
    this.#consumer = new Consumer({
      countListeners: () => this.listenerCount('message'),
      pump: () => this.#pump(),
      endItem: message => message[END]('the next datagram was asked for'),
      onLeft: () => this.#adjust()
    })
    this.#place = new LoopPlace(setup.fd, {
      onWritable: () => this.#queues.writable(),
      onReadable: () => {
        this.#budget = DATAGRAMS_A_TURN
        this.#pump()
        return this.#budget < DATAGRAMS_A_TURN
      },
      onRested: () => this.#pump(),
      onNoPlace: error => this.destroy(error)
    })
    native.passRights(setup.fd, limits.maxDescriptors > 0)
    this.#forgetSignal = whenAborted(options.signal, () => this.destroy(abortError(options.signal!)))
    addNotices(this, NOTICES)
  }

  /** Reports the number of datagrams that wait to be sent. */
  get queued(): number {
    return this.#queues.length
  }

  /**
   * Sends one datagram: bytes or text (UTF-8), or several of them as one.
   *
   * `to` is needed unless the socket is connected. It moves the descriptors; an empty datagram may carry some. It never blocks. Resolves when
   * the kernel has the datagram: at once, or when the destination has room again.
   *
   * Throws, and has moved nothing: ERR_PASSFD_INVALID_ARGUMENT, _DESCRIPTOR_…, _TOO_MANY_DESCRIPTORS, _QUEUE_FULL, _SOCKET_CLOSED. Rejects, and
   * the caller owns the open descriptors again: the system's error (ENOENT, ECONNREFUSED: no process receives there; EACCES, EPERM),
   * ERR_PASSFD_DATAGRAM_TOO_LARGE, _SOCKET_CLOSED, or an AbortError. The program need not await it.
   */
  send(data: DatagramData, options: SendOptions = {}): Promise<void> {
    if (this.#state !== 'open') throw new PassfdError('SOCKET_CLOSED', { by: 'close() or destroy()' })
    return sendThrough(this.#queues, parcelOf(data, options, this.#setup.peer !== undefined))
  }

  /** Sends the queued datagrams (within `closeTimeout`), then closes. It removes the socket file if the file still belongs to this socket. */
  async close(): Promise<void> {
    if (this.#state === 'open') {
      this.#state = 'closing'
      this.#consumer.endReaders()
      this.#adjust()
      const timedOut = await this.#drain()
      // destroy() may have been called meanwhile
      if (this.#fd >= 0) await this.#finish(timedOut)
    }
    await this.closed
  }

  /** Closes the socket at once. Queued sends reject, and `closed` resolves to `error`. */
  destroy(error?: Error): void {
    if (this.#fd >= 0) void this.#finish(error === undefined || error === null ? undefined : asError(error))
  }

  /** Keeps the process running while the socket has a consumer or queued datagrams (the default). */
  ref(): this {
    return this.#keepAlive(true)
  }

  unref(): this {
    return this.#keepAlive(false)
  }

  override removeAllListeners(...name: Parameters<EventEmitter<DatagramEvents>['removeAllListeners']>): this {
    super.removeAllListeners(...name)
    this.#adjust()
    addNotices(this, NOTICES)
    return this
  }

  /** Iterates over the datagrams, until the socket has closed (`closed` has the reason). `break` stops reading and closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<DatagramMessage> {
    const iterator = this.#consumer.iterate()
    this.#askForCredentials()
    return iterator
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // --- consuming

  #listen(): void {
    const already = this.#consumer.by === LISTENERS
    this.#consumer.claim(LISTENERS)
    if (!already) this.#askForCredentials()
    process.nextTick(() => {
      if (this.#fd >= 0) this.#pump()
    })
  }

  /** Without it answers would have no sender. It stays off where nothing is received: it gives a socket a name (unix(7)). */
  #askForCredentials(): void {
    if (this.#fd < 0) return
    native.passCredentials(this.#fd, true)
    if (this.#setup.limits.pidfd) native.passPidfd(this.#fd, true)
  }

  get #wantsMore(): boolean {
    return this.#consumes && !this.#pausing
  }

  get #pausing(): boolean {
    return this.#closingDescriptors > this.#setup.limits.maxUnclaimed
  }

  get #consumes(): boolean {
    return this.#state === 'open' && this.#consumer.ready
  }

  /** Reads datagrams and gives them to the consumer, while it wants more and there are some. */
  #pump(): void {
    while (this.#wantsMore && this.#budget > 0) {
      const { maxMessage, pidfd } = this.#setup.limits
      const received = receiveDatagram(this.#fd, maxMessage, pidfd)
      if (received === EAGAIN) break
      this.#budget--
      if (typeof received === 'number') this.#failed(received)
      else {
        this.#failures = 0
        this.#receive(received)
      }
    }
    if (this.#state !== 'open') this.#consumer.endReaders()
    this.#adjust()
  }

  #receive(received: Received): void {
    const { fds, from, sender, size } = received
    const { limits, options, peer } = this.#setup
    const refusal = refusalOf(received, limits, peer, options, this.#context)
    if (refusal !== undefined) {
      if (fds.length > 0) this.#discard(fds)
      this.#tell('dropped', refusal, { size, from, sender })
      received.pin?.end()
      return
    }
    const message = new DatagramMessage(received, this.#messageOwner)
    if (this.#consumer.by === LOOP) {
      this.#consumer.giveToLoop(message)
      return
    }
    this.#tell('message', message)
    message[END]("the 'message' listeners returned")
  }

  /** Errors that end nothing, such as ECONNRESET when a peer has connected elsewhere: the next datagrams are read all the same. */
  #failed(errno: number): void {
    if (++this.#failures >= MAX_FAILURES) this.destroy(systemError(errno, 'recvmsg'))
  }

  #discard(fds: readonly number[]): void {
    this.#closingDescriptors += fds.length
    discard(fds, count => {
      this.#closingDescriptors -= count
      this.#adjust()
    })
  }

  /** Nothing that a listener throws disturbs the socket. */
  #tell(event: keyof DatagramEvents, ...args: unknown[]): void {
    this.#context.tell(this, event, ...args)
  }

  // --- the event loop

  #awaitWritable(on: boolean): void {
    this.#writing = on
    this.#adjust()
  }

  #adjust(): void {
    if (this.#fd < 0) return
    this.#place.holdProcess(this.#pausing && this.#consumes)
    this.#place.want(this.#wantsMore, this.#writing)
  }

  #keepAlive(on: boolean): this {
    this.#place.keepAlive(on)
    this.#queues.keepAlive(on)
    return this
  }

  // --- the end

  /** Lets what is queued leave. Returns the error if it takes too long. */
  async #drain(): Promise<Failure | undefined> {
    const { closeTimeout } = this.#setup.limits
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<Error>(resolve => {
      timer = setTimeout(
        () =>
          resolve(
            overdueError(
              'CLOSE_TIMEOUT',
              { timeout: closeTimeout, whom: 'the queue to leave', fate: 'rejected' },
              this.#queues.heldBack
            )
          ),
        closeTimeout
      )
      if (!this.#place.referenced) keepAlive(timer, false)
    })
    const first = await Promise.race([this.#queues.whenEmpty(), timeout])
    clearTimeout(timer)
    return first ?? undefined
  }

  /** The descriptor is closed when this returns; the file is removed and `closed` resolved when it resolves. */
  async #finish(error: Error | undefined): Promise<void> {
    this.#state = 'closed'
    this.#queues.end(
      new PassfdError('SOCKET_CLOSED', { by: 'close() or destroy()' }, error === undefined ? {} : { cause: error })
    )
    this.#place.end()
    const fd = this.#fd
    this.#fd = -1
    native.close(fd)
    this.#forgetSignal()
    for (const message of this.#consumer.current) message[GUARD]()
    const { file } = this.#setup
    const removed = file === undefined ? undefined : await removeFile(file).catch(asError)
    const failure = error ?? removed ?? undefined
    this.#consumer.endReaders()
    this.#resolveClosed(failure)
    this.#tell('close', ...(failure === undefined ? [] : [failure]))
    this.#context.end()
  }

  static {
    createSocket = setup => new DatagramSocket(setup)
    listened = socket => socket.#listen()
    unlistened = socket => socket.#adjust()
  }
}
mark(DatagramSocket, 'DatagramSocket')

const NOTICES = [
  ['newListener', onNewListener],
  ['removeListener', onRemoveListener]
] as const

function onNewListener(this: DatagramSocket, name: string | symbol): void {
  if (name === 'message') listened(this)
}

function onRemoveListener(this: DatagramSocket, name: string | symbol): void {
  if (name === 'message') unlistened(this)
}
