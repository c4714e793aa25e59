/** `bind`, `connect` and `unnamed`: AF_UNIX datagrams with descriptors, both ways (unix(7)). */

import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { invalid } from '../base/check.ts'
import { mark } from '../base/copy.ts'
import { EAGAIN, ENOTCONN } from '../base/errno.ts'
import { abortError, asError, checked, type Failure, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { keepAlive } from '../base/timers.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { assertOpen, Descriptor, moveOut } from '../descriptor/descriptor.ts'
import { sameUserOrRoot, whyRefused } from '../descriptor/peer.ts'
import { checkNoOwner } from '../os/account.ts'
import { discard, Watcher } from '../os/loop.ts'
import { FAILED, native, READABLE, WRITABLE } from '../os/native.ts'
import { bindOn, DATAGRAM, removeFile, type SocketFile, type SocketName, socketName } from '../os/socket-name.ts'
import { addressOf, type DatagramAddress, type Destination, destinationOf } from './address.ts'
import { Outbox } from './destination-queues.ts'
import { DatagramMessage, END, GUARD, type MessageOwner } from './message.ts'
import {
  BIND_OPTIONS,
  type BindOptions,
  DATAGRAM_OPTIONS,
  type DatagramLimits,
  type DatagramOptions,
  datagramLimits
} from './options.ts'
import { type Received, receiveDatagram } from './receive.ts'
import { type DatagramData, parcelOf, type SendOptions, sendThrough, transmit } from './send.ts'
import { passPidfds, type Sender } from './sender.ts'

/** Datagrams given to the consumer in one turn of the event loop; others get their turn then. */
const BATCH = 64
/** So many failures of reading in a row, and the socket is beyond help. */
const MAX_FAILURES = 16
/** In ms; as long as a timer can be. */
const LONG = 0x7fffffff
/** So many wake-ups in a row with nothing to read, and reading rests for so long (ms). */
const IDLE_WAKE_UPS = 16
const REST = 50

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

export interface ConnectOptions extends BindOptions {
  /** The name of this socket, to which receivers answer: an address, or `true` for a random abstract name. Default: no name, and no answers. */
  from?: DatagramAddress | true
}

const REPLY_OPTIONS = { descriptors: true, signal: true } as const satisfies KnownOptions<Omit<SendOptions, 'to'>>
const CONNECT_OPTIONS = { ...BIND_OPTIONS, from: true } as const satisfies KnownOptions<ConnectOptions>

/**
 * Opens a socket with a name, and receives the datagrams that `authorize` accepts. Without an address it gets a random abstract name. A socket
 * file has mode 0600 from the moment it exists; passfd replaces a file that no process has bound, and `close()` removes the file if it still
 * belongs to this socket. It takes over a Descriptor (kind unix-dgram, for example of socket activation). Rejects with the system's error
 * (EADDRINUSE, …), ERR_PASSFD_ADDRESS_….
 */
export async function bind(address?: DatagramAddress | Descriptor, given: BindOptions = {}): Promise<DatagramSocket> {
  const options = readOptions(given, BIND_OPTIONS)
  const limits = datagramLimits(options)
  if (options.signal?.aborted) throw abortError(options.signal)
  const base =
    address instanceof Descriptor ? adopted(address, 'bind()', limits) : await named(address ?? true, limits, undefined)
  return made({ ...base, limits, options })
}

/**
 * Opens a socket that sends to one address. While the peer exists, the kernel lets only the peer send to it. If another socket binds the peer's
 * name, the next send connects again; until then all senders that `authorize` accepts may send to it. It takes over a connected Descriptor.
 * Rejects with the system's error (ENOENT, ECONNREFUSED, EACCES, …).
 */
export async function connect(
  address: DatagramAddress | Descriptor,
  given: ConnectOptions = {}
): Promise<DatagramSocket> {
  const options = readOptions(given, CONNECT_OPTIONS)
  const limits = datagramLimits(options)
  const { signal, from } = options
  if (signal?.aborted) throw abortError(signal)
  if (address instanceof Descriptor) {
    if (from !== undefined) throw invalid('options.from', 'left out, as a Descriptor has its name already', from)
    return made({ ...adopted(address, 'connect()', limits, true), limits, options })
  }
  const peer = destinationOf(address)
  const base = from === undefined ? unnamedSocket(limits, peer) : await named(from, limits, peer)
  const connected = attempt(() => peer.use(bytes => checked(native.connect(base.fd, bytes), 'connect', peer.shown)))
  if (connected instanceof Error) {
    await undo(base)
    throw connected
  }
  return made({ ...base, limits, options })
}

/** Opens a socket without a name. It sends to any address (`send(…, { to })`), and receivers can't answer it. */
export function unnamed(given: DatagramOptions = {}): DatagramSocket {
  const options = readOptions(given, DATAGRAM_OPTIONS)
  const limits = datagramLimits(options)
  if (options.signal?.aborted) throw abortError(options.signal)
  return createSocket({ ...unnamedSocket(limits, undefined), limits, options })
}

interface Base {
  /** A number that the shim holds; the holder of this object closes it. */
  readonly fd: number
  readonly file: SocketFile | undefined
  readonly address: SocketName | undefined
  /** Where all is sent; undefined: each send says it. Null: connected to a socket without a name. */
  readonly peer: Destination | null | undefined
}

interface Setup extends Base {
  readonly limits: DatagramLimits
  readonly options: DatagramOptions
}

const LISTENERS = "'message' listeners"
type Consumer = 'nobody' | 'for await' | typeof LISTENERS
type Reader = (result: IteratorResult<DatagramMessage>) => void

let createSocket: (setup: Setup) => DatagramSocket
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
  readonly #outbox: Outbox
  readonly #messageOwner: MessageOwner
  /** That in which it was opened. */
  readonly #context = new AsyncContext('PASSFD_SOCKET')
  #fd: number
  #watcher: Watcher | undefined
  #referenced = true
  #writing = false
  #consumer: Consumer = 'nobody'
  #readers: Reader[] = []
  /** The message of the loop's body; several if several were asked for at once. */
  #current: DatagramMessage[] = []
  /** How many more datagrams may be read before the event loop runs. */
  #budget = BATCH
  #failures = 0
  /** Unclaimed descriptors that are being closed. */
  #closingDescriptors = 0
  #pause: NodeJS.Timeout | undefined
  #idleWakeUps = 0
  #rest: NodeJS.Timeout | undefined
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
    this.#outbox = new Outbox(
      {
        transmit: (to, ...letter) => transmit(this.#fd, to, peer ?? undefined, ...letter),
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
    native.passRights(setup.fd, limits.maxDescriptors > 0)
    this.#forgetSignal = whenAborted(options.signal, () => this.destroy(abortError(options.signal!)))
    this.#noticeListeners()
  }

  /** Reports the number of datagrams that wait to be sent. */
  get queued(): number {
    return this.#outbox.length
  }

  /**
   * Sends one datagram: bytes or text (UTF-8), or several of them as one. `to` is needed unless the socket is connected. It moves the
   * descriptors; an empty datagram may carry some. It never blocks. Resolves when the kernel has the datagram: at once, or when the destination
   * has room again.
   *
   * Throws, and has moved nothing: ERR_PASSFD_INVALID_ARGUMENT, _DESCRIPTOR_…, _TOO_MANY_DESCRIPTORS, _QUEUE_FULL, _SOCKET_CLOSED. Rejects, and
   * the caller owns the open descriptors again: the system's error (ENOENT, ECONNREFUSED: no process receives there; EACCES, EPERM),
   * ERR_PASSFD_DATAGRAM_TOO_LARGE, _SOCKET_CLOSED, or an AbortError. The program need not await it.
   */
  send(data: DatagramData, options: SendOptions = {}): Promise<void> {
    if (this.#state !== 'open') throw new PassfdError('SOCKET_CLOSED', { by: 'close() or destroy()' })
    return sendThrough(this.#outbox, parcelOf(data, options, this.#setup.peer !== undefined))
  }

  /** Sends the queued datagrams (within `closeTimeout`), then closes. It removes the socket file if the file still belongs to this socket. */
  async close(): Promise<void> {
    if (this.#state === 'open') {
      this.#state = 'closing'
      this.#endReaders()
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
    return this.#noticeListeners()
  }

  /** Iterates over the datagrams, until the socket has closed (`closed` has the reason). `break` stops reading and closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<DatagramMessage> {
    this.#consume('for await')
    let finished = false
    const iterator: AsyncIterableIterator<DatagramMessage> = {
      next: async () => {
        if (finished) return { done: true, value: undefined }
        this.#endCurrent()
        return this.#next()
      },
      return: async () => {
        if (!finished) {
          finished = true
          this.#endCurrent()
          this.#consumer = 'nobody'
          this.#endReaders()
          this.#adjust()
        }
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // --- consuming

  /** The EventEmitter reports when the program adds its first or removes its last listener. */
  #noticeListeners(): this {
    for (const [event, notice] of NOTICES)
      if (!this.listeners(event as never).includes(notice as never)) this.on(event as never, notice as never)
    return this
  }

  #consume(by: Consumer): void {
    if (this.#consumer === by && by === LISTENERS) return
    const unheard = this.#consumer === LISTENERS && this.listenerCount('message') === 0
    if (this.#consumer !== 'nobody' && !unheard) throw new PassfdError('CONSUMED', { by: this.#consumer })
    this.#consumer = by
    // Without it answers would have no sender. It stays off where nothing is received: it gives a socket a name (unix(7))
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
    if (this.#state !== 'open') return false
    if (this.#consumer === LISTENERS && this.listenerCount('message') === 0) this.#consumer = 'nobody'
    return this.#consumer === LISTENERS || this.#readers.length > 0
  }

  #next(): Promise<IteratorResult<DatagramMessage>> {
    return new Promise(resolve => {
      this.#readers.push(resolve)
      this.#pump()
    })
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
    if (this.#state !== 'open') this.#endReaders()
    this.#adjust()
  }

  #receive(received: Received): void {
    const { fds, from, sender, size } = received
    const refusal = this.#refusal(received)
    if (refusal !== undefined) {
      if (fds.length > 0) this.#discard(fds)
      this.#tell('dropped', refusal, { size, from, sender })
      received.pin?.end()
      return
    }
    const message = new DatagramMessage(received, this.#messageOwner)
    if (this.#consumer === 'for await') {
      this.#current.push(message)
      this.#readers.shift()!({ done: false, value: message })
      return
    }
    this.#tell('message', message)
    message[END]("the 'message' listeners returned")
  }

  #refusal({ fds, from, sender, cut, truncated, size }: Received): PassfdError | undefined {
    const { limits, options, peer } = this.#setup
    try {
      const verdict =
        options.authorize === undefined
          ? isOurs(sender, peer)
          : this.#context.run(() => options.authorize!(sender, from))
      if (typeof verdict !== 'boolean') throw new TypeError('authorize() must return true or false at once')
      if (!verdict)
        return sender === undefined
          ? new PassfdError('UNKNOWN_SENDER', { why: whyRefused(options.authorize) })
          : new PassfdError('UNAUTHORIZED', { pid: sender.pid, uid: sender.uid, why: whyRefused(options.authorize) })
    } catch (cause) {
      return new PassfdError('AUTHORIZE_FAILED', {}, { cause })
    }
    if (cut) return new PassfdError('DATAGRAM_CUT', { size, limit: limits.maxMessage })
    if (truncated) return new PassfdError('DESCRIPTORS_TRUNCATED')
    if (fds.length <= limits.maxDescriptors) return undefined
    return new PassfdError('TOO_MANY_DESCRIPTORS', {
      what: 'A datagram was dropped that',
      count: fds.length,
      whose: 'this socket (maxDescriptors)',
      limit: limits.maxDescriptors,
      remedy: 'Raise maxDescriptors if they are welcome'
    })
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

  #endCurrent(): void {
    for (const message of this.#current.splice(0)) message[END]('the next datagram was asked for')
  }

  #endReaders(): void {
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
  }

  /** Nothing that a listener throws disturbs the socket. */
  #tell(event: keyof DatagramEvents, ...args: unknown[]): void {
    try {
      this.#context.emit(this, event, ...args)
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }

  // --- the event loop

  #awaitWritable(on: boolean): void {
    this.#writing = on
    this.#adjust()
  }

  /** Sets the events for which the loop watches the socket; it watches only while there are some. */
  #adjust(): void {
    if (this.#fd < 0) return
    this.#adjustPause()
    const reading = this.#wantsMore && this.#rest === undefined
    if (this.#watcher === undefined) {
      if (!reading && !this.#writing) return
      const watcher = this.#makeWatcher()
      if (watcher === undefined) return
      this.#watcher = watcher
      if (!this.#referenced) this.#watcher.unref()
    }
    this.#watcher.want(reading, this.#writing)
  }

  /** Undefined, and the socket ends, if there is no place on the loop (ENOSPC, ENOMEM): it would never hear of anything. */
  #makeWatcher(): Watcher | undefined {
    try {
      return new Watcher(this.#fd, events => this.#ready(events))
    } catch (error) {
      this.destroy(error as Error)
      return undefined
    }
  }

  /** Nothing is watched while reading pauses, and the closing of descriptors doesn't keep the process running: a timer does. */
  #adjustPause(): void {
    if (this.#referenced && this.#pausing && this.#consumes) this.#pause ??= setTimeout(() => {}, LONG)
    else {
      clearTimeout(this.#pause)
      this.#pause = undefined
    }
  }

  #ready(events: number): void {
    this.#budget = BATCH
    if (events & (WRITABLE | FAILED)) this.#outbox.writable()
    if (events & (READABLE | FAILED)) this.#pump()
    if (events & READABLE) this.#noteWakeUp(this.#budget < BATCH)
  }

  /**
   * Another holder of the socket may have shut it down for reading. Then poll(2) reports for ever that it is readable, and there is nothing to
   * read.
   */
  #noteWakeUp(useful: boolean): void {
    this.#idleWakeUps = useful ? 0 : this.#idleWakeUps + 1
    if (this.#idleWakeUps < IDLE_WAKE_UPS || this.#rest !== undefined) return
    this.#idleWakeUps = 0
    this.#rest = setTimeout(() => {
      this.#rest = undefined
      this.#pump()
    }, REST)
    if (!this.#referenced) keepAlive(this.#rest, false)
    this.#adjust()
  }

  #keepAlive(on: boolean): this {
    this.#referenced = on
    if (on) this.#watcher?.ref()
    else this.#watcher?.unref()
    this.#outbox.keepAlive(on)
    this.#adjustPause()
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
            new PassfdError('CLOSE_TIMEOUT', { timeout: closeTimeout, whom: 'the queue to leave', fate: 'rejected' })
          ),
        closeTimeout
      )
      if (!this.#referenced) keepAlive(timer, false)
    })
    const first = await Promise.race([this.#outbox.whenEmpty(), timeout])
    clearTimeout(timer)
    return first ?? undefined
  }

  /** The descriptor is closed when this returns; the file is removed and `closed` resolved when it resolves. */
  async #finish(error: Error | undefined): Promise<void> {
    this.#state = 'closed'
    this.#outbox.end(
      new PassfdError('SOCKET_CLOSED', { by: 'close() or destroy()' }, error === undefined ? {} : { cause: error })
    )
    this.#watcher?.end()
    clearTimeout(this.#rest)
    this.#adjustPause()
    const fd = this.#fd
    this.#fd = -1
    native.close(fd)
    this.#forgetSignal()
    for (const message of this.#current) message[GUARD]()
    const { file } = this.#setup
    const removed = file === undefined ? undefined : await removeFile(file).catch(asError)
    const failure = error ?? removed ?? undefined
    this.#endReaders()
    this.#resolveClosed(failure)
    this.#tell('close', ...(failure === undefined ? [] : [failure]))
    this.#context.end()
  }

  static {
    createSocket = setup => new DatagramSocket(setup)
    listened = socket => {
      socket.#consume(LISTENERS)
      process.nextTick(() => {
        if (socket.#fd >= 0) socket.#pump()
      })
    }
    unlistened = socket => socket.#adjust()
  }
}
mark(DatagramSocket, 'DatagramSocket')

async function made(setup: Setup): Promise<DatagramSocket> {
  const { signal } = setup.options
  if (signal?.aborted) {
    await undo(setup)
    throw abortError(signal)
  }
  return createSocket(setup)
}

async function undo({ fd, file }: Base): Promise<void> {
  native.close(fd)
  if (file !== undefined) await removeFile(file)
}

async function named(
  given: DatagramAddress | true,
  { access, pidfd }: DatagramLimits,
  peer: Destination | undefined
): Promise<Base> {
  // passfd's own random name, because the kernel's (autobind, unix(7)) have five digits: any process can try all of them
  const address = given === true ? { abstract: `passfd-${randomBytes(16).toString('hex')}` } : socketName(given)
  // Before it has its name, so that nothing comes without credentials
  const prepare = (fd: number): void => {
    checked(native.passCredentials(fd, true), 'setsockopt')
    if (pidfd) passPidfds(fd, true)
  }
  return { ...(await bindOn(DATAGRAM, address, access, { prepare })), address, peer }
}

function unnamedSocket({ access, pidfd }: DatagramLimits, peer: Destination | undefined): Base {
  checkNoOwner(access, 'a socket without a name')
  const fd = checked(native.socket(DATAGRAM), 'socket')
  try {
    if (pidfd) passPidfds(fd, false)
  } catch (error) {
    native.close(fd)
    throw error
  }
  return { fd, file: undefined, address: undefined, peer }
}

function adopted(descriptor: Descriptor, by: string, { access, pidfd }: DatagramLimits, mustBeConnected = false): Base {
  checkNoOwner(access, 'a Descriptor, which has its name already')
  const fd = assertOpen(descriptor)
  if (descriptor.kind !== 'unix-dgram')
    throw new PassfdError('DESCRIPTOR_KIND', { operation: by, expected: 'unix-dgram', actual: descriptor.kind })
  const own = checked(native.name(fd, false, name), 'getsockname')
  const address = addressOf(name.subarray(0, own))
  const theirs = native.name(fd, true, name)
  if (theirs !== ENOTCONN || mustBeConnected) checked(theirs, 'getpeername')
  const peer = theirs < 0 ? undefined : addressOf(name.subarray(0, theirs))
  if (pidfd) passPidfds(fd, own > 0 || theirs === 0)
  moveOut(descriptor, by)
  if (own > 0 || theirs === 0) native.passCredentials(fd, true)
  return {
    fd,
    file: undefined,
    address,
    peer: peer === undefined ? (theirs < 0 ? undefined : null) : destinationOf(peer)
  }
}

const name = Buffer.allocUnsafeSlow(108)

function attempt(work: () => void): Error | undefined {
  try {
    work()
    return undefined
  } catch (error) {
    return error as Error
  }
}

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

/** The default of `authorize`. On one end of a socketpair(2) it accepts every sender, because only the holders of the other end can send to it. */
function isOurs(sender: Sender | undefined, peer: Destination | null | undefined): boolean {
  return sender === undefined ? peer === null : sameUserOrRoot(sender)
}
