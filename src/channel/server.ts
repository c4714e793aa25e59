/** `listen` and `ChannelServer`: accepts channels, and refuses unauthorized peers. */

import { EventEmitter } from 'node:events'
import { whenAborted } from '../base/abort-signals.ts'
import { AsyncContext } from '../base/async-context.ts'
import { checkType } from '../base/check.ts'
import { EINTR } from '../base/errno.ts'
import { abortError, checked, type Failure, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { activatedOr } from '../descriptor/activated.ts'
import { authorized, holdRights, moveIn } from '../descriptor/admission.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { type Peer, peerOf } from '../descriptor/peer.ts'
import { Acceptor, acceptEach } from '../os/acceptor.ts'
import { checkNoOwner } from '../os/account.ts'
import type { ActivatedSpec } from '../os/bind-spec.ts'
import { closeListener } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { giveUpBound, listenOn, removeFile, type SocketFile, socketName } from '../os/socket-name.ts'
import { type Channel, hasUnread, serveIn } from './channel.ts'
import { type Address, open } from './connect.ts'
import { refuse } from './fault.ts'
import { type Guest, Guests } from './guests.ts'
import { type Handler, type ServeOptions, serveOptions } from './handlers.ts'
import {
  channelLimits,
  LISTEN_OPTIONS,
  type Limits,
  type ListenOptions,
  type ServerLimits,
  serverLimits,
  withUnclaimed
} from './options.ts'
import { SocketWire } from './wire.ts'

export interface ServerEvents<In = unknown, Out = unknown> {
  channel: [Channel<In, Out>]
  /** The server has refused a peer: ERR_PASSFD_UNAUTHORIZED, _AUTHORIZE_FAILED, _BUSY, or an error of the handshake. */
  refused: [Peer, Failure]
  /**
   * The kernel can't give the server a connection: EMFILE or ENFILE (the limit of open files), ENOMEM, ENOBUFS. Clients wait in the listener's
   * queue, and the server tries again every 50 ms. The event comes once until the server has accepted a connection. Without a listener it is a
   * process warning.
   */
  acceptError: [Failure]
  close: [error?: Failure]
}

/**
 * Listens for channels and resolves to the server.
 *
 * The socket file has mode 0600 from the moment it exists. passfd replaces a socket file on which no process listens. With `activated` it takes
 * the socket of that name from the service manager (passfd/systemd), and the address if the manager has given none at all.
 *
 * Rejects with the system's error (EADDRINUSE, EACCES, …), ERR_PASSFD_ADDRESS_…, ERR_PASSFD_ACTIVATED_… or an AbortError. Then a Descriptor that
 * was passed as address is closed.
 */
export function listen<In = unknown, Out = unknown>(
  address: Address | ActivatedAddress,
  given: ListenOptions<In> = {}
): Promise<ChannelServer<In, Out>> {
  return listenAt(address, given, false)
}

/** @internal As `listen()`, for messages of passfd itself: see ChannelSetup. `maxValues`: see Limits. */
export function listenOwn<In, Out>(
  address: Address | ActivatedAddress,
  given: ListenOptions<In>,
  maxValues?: number
): Promise<ChannelServer<In, Out>> {
  return listenAt(address, given, true, maxValues)
}

async function listenAt<In, Out>(
  where: Address | ActivatedAddress,
  given: ListenOptions<In>,
  isOwn: boolean,
  maxValues?: number
): Promise<ChannelServer<In, Out>> {
  const options = readOptions(given, LISTEN_OPTIONS)
  const limits = { ...channelLimits(options), ...(maxValues === undefined ? {} : { maxValues }) }
  const bounds = serverLimits(options, native.limit())
  const { signal } = options
  if (signal?.aborted) throw abortError(signal)
  let bound: { fd: number; file: SocketFile | undefined }
  const address = activatedOr(where)
  if (address instanceof Descriptor) {
    if (address === where) checkNoOwner(bounds.access, 'a Descriptor, which has its name already')
    bound = { fd: moveIn(address, 'unix-stream-listener', 'listen()'), file: undefined }
  } else bound = await listenOn(socketName(address), bounds.access, bounds.backlog)
  try {
    // listen(2) again: clients see the credentials of the process that called it last
    if (address instanceof Descriptor) checked(native.listen(bound.fd, bounds.backlog), 'listen')
    if (signal?.aborted) throw abortError(signal)
    return createServer({ ...bound, address, limits, bounds, options, isOwn }) as ChannelServer<In, Out>
  } catch (error) {
    await giveUpBound(bound)
    throw error
  }
}

/** A socket that the service manager has given, and the address for a start by hand. */
export type ActivatedAddress = ActivatedSpec & ({ path?: string } | { abstract?: string })

const CLOSE_OPTIONS = { channels: true } as const satisfies KnownOptions<{ channels?: boolean }>

/** The arguments of `serve`, and the async context of its call. */
interface Serving<In> {
  readonly handler: Handler<In>
  readonly options: ServeOptions<In>
  readonly context: AsyncContext
}

interface ServerSetup {
  fd: number
  file: SocketFile | undefined
  address: Address
  limits: Limits
  bounds: ServerLimits
  options: ListenOptions<any>
  isOwn: boolean
}

let createServer: (setup: ServerSetup) => ChannelServer<any, any>
/** @internal Stops accepting. Handshakes that are under way still give channels, until `close()`; open channels live on. */
export let stopAccepting: (server: ChannelServer<any, any>) => void

/** Accepts channels. After its handshake a channel is in `channels`, is emitted as `'channel'`, and can be iterated over. */
export class ChannelServer<In = unknown, Out = unknown>
  extends EventEmitter<ServerEvents<In, Out>>
  implements AsyncIterable<Channel<In, Out>>, AsyncDisposable
{
  /** The address that was passed to `listen`. */
  readonly address: Address
  /** Resolves when the server has closed: to the error that closed it, or to undefined. Never rejects. */
  readonly closed: Promise<Failure | undefined>
  readonly #setup: ServerSetup
  readonly #guests: Guests
  readonly #channels = new Set<Channel<In, Out>>()
  readonly #acceptor: Acceptor
  /** The async context of the `listen` call. Channels are opened in it. */
  readonly #context = new AsyncContext('PASSFD_SERVER')
  readonly #handshakes = new AbortController()
  #serving: Serving<In> | undefined
  /** Channels that the program has not seen, with the callback for that. A channel that ended with unread messages counts until then. */
  readonly #unseen = new Map<Channel<In, Out>, Guest>()
  #readers: ((result: IteratorResult<Channel<In, Out>>) => void)[] = []
  #iterating = false
  /** Handshakes may still give channels. */
  #admits = true
  #closing: Promise<void> | undefined
  #resolveClosed!: (error: Failure | undefined) => void
  #lastLimits: Limits | undefined
  #lastUnclaimed = -1
  readonly #forgetSignal: () => void

  private constructor(setup: ServerSetup) {
    super()
    markUncloneable(this)
    this.#setup = setup
    this.address = setup.address
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    const { bounds, fd, options } = setup
    this.#guests = new Guests(bounds, channel => this.#closed(channel))
    holdRights(fd) // accepted sockets inherit it
    const isOpen = (): boolean => this.#closing === undefined
    const admit = (socket: number): void => void this.#context.run(this.#admit, this, socket)
    this.#acceptor = new Acceptor(fd, {
      accept: () => acceptEach(fd, isOpen, admit),
      onExhausted: error => this.#cannotAccept(error),
      onFailed: () => void this.#close(true, systemError(EINTR, 'poll'))
    })
    this.#acceptor.want(true)
    const { signal } = options
    this.#forgetSignal = whenAborted(signal, () => void this.#close(true, abortError(signal!)))
  }

  /** The open channels. */
  get channels(): ReadonlySet<Channel<In, Out>> {
    return this.#channels
  }

  /** Calls `handler` for the messages of every channel, open now or later, as `channel.serve` does. */
  serve(handler: Handler<In>, given: ServeOptions<In> = {}): void {
    const options = serveOptions(handler, given)
    if (this.#serving !== undefined) throw new PassfdError('CONSUMED', { by: 'serve()' })
    const context = new AsyncContext('PASSFD_SERVE')
    this.#serving = { handler, options, context }
    for (const channel of new Set([...this.#channels, ...this.#unseen.keys()]))
      serveIn(channel, handler, options, context)
    for (const channel of [...this.#unseen.keys()]) this.#see(channel)
  }

  /** Stops accepting, removes the socket file if it still belongs to this server, and closes the channels unless `channels` is false. */
  close(options: { channels?: boolean } = {}): Promise<void> {
    const { channels = true } = readOptions(options, CLOSE_OPTIONS)
    checkType(channels, 'channels', 'true or false', value => typeof value === 'boolean')
    return this.#close(channels, undefined)
  }

  ref(): this {
    this.#acceptor.ref()
    return this
  }

  unref(): this {
    this.#acceptor.unref()
    return this
  }

  /** Iterates over the channels, beginning with those that were not yet iterated over. `break` closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Channel<In, Out>> {
    this.#iterating = true
    const iterator: AsyncIterableIterator<Channel<In, Out>> = {
      next: async () => {
        const [channel] = this.#unseen.keys()
        if (channel !== undefined) return { done: false, value: this.#see(channel) }
        if (this.#closing !== undefined) return { done: true, value: undefined }
        return new Promise(resolve => this.#readers.push(resolve))
      },
      return: async () => {
        this.#iterating = false
        for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #cannotAccept(error: Error): void {
    if (this.listenerCount('acceptError') > 0) this.#tell('acceptError', error)
    else process.emitWarning(error)
  }

  /** Makes a channel of an accepted socket, or refuses it. Never rejects. */
  async #admit(fd: number): Promise<void> {
    const { limits, options, isOwn } = this.#setup
    const wire = new SocketWire(fd)
    let peer: Peer
    try {
      peer = peerOf(fd, wire)
    } catch {
      wire.end() // the client has closed it already
      return
    }
    const guest = this.#guests.arrive(peer.uid, limits.maxUnclaimed)
    const { signal } = this.#handshakes
    try {
      this.#guests.check(guest)
      await authorized(peer, options, limits.handshakeTimeout, signal, this.#context)
      native.passRights(fd, true)
    } catch (error) {
      this.#guests.refuse(guest)
      if (signal.aborted) wire.end()
      else refuse(wire, error as PassfdError)
      this.#refused(peer, error as Error)
      return
    }
    let channel: Channel<In, Out>
    try {
      const setup = { wire, peer, limits: this.#limitsFor(guest.part.total), options, keeper: guest, isOwn }
      channel = await open(setup, limits.handshakeTimeout, signal)
    } catch (error) {
      this.#guests.refuse(guest)
      if (!wire.ended) wire.end()
      this.#refused(peer, error as Error)
      return
    }
    if (this.#admits) this.#opened(channel, guest)
    else void channel.close()
    guest.admitted(channel)
  }

  /** Most channels of a server have the same limits, so they share the object. */
  #limitsFor(unclaimed: number): Limits {
    if (this.#lastUnclaimed !== unclaimed) {
      this.#lastLimits = withUnclaimed(this.#setup.limits, unclaimed)
      this.#lastUnclaimed = unclaimed
    }
    return this.#lastLimits!
  }

  #closed(channel: Channel<any, any>): void {
    this.#channels.delete(channel)
    if (!hasUnread(channel)) this.#see(channel) // nothing in it is unread
  }

  #refused(peer: Peer, error: Error): void {
    if (this.#admits) this.#tell('refused', peer, error)
  }

  /** Nothing that a listener throws disturbs the server. */
  #tell(event: keyof ServerEvents, ...args: unknown[]): void {
    this.#context.tell(this, event, ...args)
  }

  #opened(channel: Channel<In, Out>, guest: Guest): void {
    const reader = this.#readers.shift()
    const unseen = this.#serving === undefined && this.listenerCount('channel') === 0
    if (reader === undefined && (this.#iterating || unseen)) {
      guest.waitsFor++
      this.#unseen.set(channel, guest)
    }
    this.#channels.add(channel)
    if (this.#serving !== undefined) this.#serveOn(channel, this.#serving)
    reader?.({ done: false, value: channel })
    this.#tell('channel', channel)
  }

  #serveOn(channel: Channel<In, Out>, { handler, options, context }: Serving<In>): void {
    try {
      serveIn(channel, handler, options, context)
    } catch {
      // A subscriber of passfd:channel:open already consumes the channel
    }
  }

  /** Notes that the program has seen the channel. */
  #see(channel: Channel<In, Out>): Channel<In, Out> {
    const guest = this.#unseen.get(channel)
    this.#unseen.delete(channel)
    if (guest !== undefined) this.#guests.settle(guest)
    return channel
  }

  #close(channels: boolean, error: Error | undefined): Promise<void> {
    this.#admits = false
    this.#handshakes.abort()
    this.#closing ??= this.#closeNow(channels, error)
    return this.#closing
  }

  async #closeNow(channels: boolean, error: Error | undefined): Promise<void> {
    const { fd, file, limits } = this.#setup
    this.#acceptor.end()
    this.#forgetSignal()
    let failure = error
    try {
      if (file !== undefined) await removeFile(file)
    } catch (cause) {
      failure ??= cause as Error
    }
    native.passRights(fd, true) // the listener may live on in another process
    const channelsClosed = channels ? [...this.#channels].map(channel => channel.close()) : []
    await Promise.all([closeListener(fd, limits.closeTimeout), ...channelsClosed])
    // The program never saw these channels, so it can't close the descriptors in their messages
    if (channels) for (const channel of [...this.#unseen.keys()]) this.#see(channel).destroy()
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined })
    this.#resolveClosed(failure)
    this.#tell('close', ...(failure === undefined ? [] : [failure]))
    this.#context.end()
    this.#serving?.context.end()
  }

  static {
    stopAccepting = server => {
      server.#closing ??= server.#closeNow(false, undefined)
    }
    createServer = setup => new ChannelServer(setup)
  }
}
mark(ChannelServer, 'ChannelServer')
