/** `attach`: descriptors through a socket of the package unix-dgram, which has no way to send them. */

import { invalid } from '../base/check.ts'
import { ENOTCONN } from '../base/errno.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { KINDS } from '../descriptor/kind.ts'
import { native } from '../os/native.ts'
import { addressOf, type Destination, destinationOf } from './address.ts'
import { Outbox } from './destination-queues.ts'
import { QUEUE_OPTIONS, type QueueOptions, queueLimits } from './options.ts'
import { type DatagramData, parcelOf, type SendOptions, sendThrough, transmit } from './send.ts'

/** What unix-dgram's `createSocket()`, or ours, returns: it has an `fd`, less than 0 once it is closed. */
export interface UnixDgramSocket {
  readonly fd: number
  close(...given: any[]): unknown
}

/**
 * Sends with descriptors through `socket`, which stays the owner of its number, and goes on as before: only its own receiving drops
 * descriptors, as ever (for those use `createSocket` or `bind`). After its `close()`, `send` throws ERR_PASSFD_SOCKET_CLOSED, and what
 * is still queued is rejected with it. To hear of that, `close` of this one object is wrapped.
 */
export function attach(socket: UnixDgramSocket, given: QueueOptions = {}): AttachedSocket {
  const options = readOptions(given, QUEUE_OPTIONS)
  const fd = numberOf(socket)
  if (fd === undefined) throw invalid('socket', 'a socket of unix-dgram', socket)
  if (fd < 0) throw closed()
  const kind = KINDS[checked(native.kind(fd), 'statx', String(fd))]!
  if (kind !== 'unix-dgram')
    throw new PassfdError('DESCRIPTOR_KIND', { operation: 'attach()', expected: 'unix-dgram', actual: kind })
  return make(socket, options)
}

let make: (socket: UnixDgramSocket, options: QueueOptions) => AttachedSocket

/** Made by `attach()`. It has nothing to close: the socket closes itself. */
export class AttachedSocket {
  readonly #socket: UnixDgramSocket
  readonly #outbox: Outbox

  private constructor(socket: UnixDgramSocket, options: QueueOptions) {
    markUncloneable(this)
    this.#socket = socket
    this.#outbox = new Outbox(
      {
        transmit: (to, ...letter) => (socket.fd < 0 ? closed() : transmit(socket.fd, to, undefined, ...letter)),
        gaugeFor: to => to ?? peerOf(socket.fd),
        awaitWritable: undefined // unix-dgram has its number in the event loop already
      },
      queueLimits(options)
    )
    const { close } = socket
    const value = (...given: unknown[]): unknown => {
      try {
        return Reflect.apply(close, socket, given)
      } finally {
        if (socket.fd < 0) this.#outbox.end(closed())
      }
    }
    Object.defineProperty(socket, 'close', { value, configurable: true, writable: true })
  }

  /** Datagrams that wait to be sent. */
  get queued(): number {
    return this.#outbox.length
  }

  /** As `send` of a `DatagramSocket`; `to` says where unless the socket is connected. */
  send(data: DatagramData, options: SendOptions = {}): Promise<void> {
    const { fd } = this.#socket
    if (fd < 0) throw closed()
    return sendThrough(this.#outbox, parcelOf(data, options, isConnected(fd)))
  }

  /** What is queued keeps the process running (the default). */
  ref(): this {
    this.#outbox.keepAlive(true)
    return this
  }

  unref(): this {
    this.#outbox.keepAlive(false)
    return this
  }

  static {
    make = (socket, options) => new AttachedSocket(socket, options)
  }
}

const name = Buffer.allocUnsafeSlow(108)

function isConnected(fd: number): boolean {
  return native.name(fd, true, name) !== ENOTCONN
}

function peerOf(fd: number): Destination | undefined {
  const length = native.name(fd, true, name)
  const address = length < 0 ? undefined : addressOf(name.subarray(0, length))
  return address === undefined ? undefined : destinationOf(address)
}

function numberOf(socket: unknown): number | undefined {
  const { fd, close } = (socket ?? {}) as Partial<UnixDgramSocket>
  return Number.isInteger(fd) && typeof close === 'function' ? fd : undefined
}

function closed(): PassfdError {
  return new PassfdError('SOCKET_CLOSED', { by: "its owner's close()" })
}
