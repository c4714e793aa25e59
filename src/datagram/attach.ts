/** `attach`: descriptors through a socket of the package unix-dgram, which has no way to send them. */

import { invalid } from '../base/check.ts'
import { ENOTCONN } from '../base/errno.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { KINDS } from '../descriptor/kind.ts'
import { native } from '../os/native.ts'
import { addressOf, type Destination, destinationOf } from './address.ts'
import { DestinationQueues } from './destination-queues.ts'
import { QUEUE_OPTIONS, type QueueOptions, queueLimits } from './options.ts'
import { type DatagramData, parcelOf, type SendOptions, sendThrough, transmit } from './send.ts'

/** A socket of unix-dgram's `createSocket()`, or of passfd's: it has an `fd`, which is less than 0 after it was closed. */
export interface UnixDgramSocket {
  readonly fd: number
  close(...given: any[]): unknown
}

/**
 * Makes an object that sends datagrams with descriptors through `socket`, which still owns its number and works as before.
 *
 * The socket itself can't receive descriptors: use `createSocket` or `bind` for that. After the socket's `close()`, `send` throws
 * ERR_PASSFD_SOCKET_CLOSED, and queued sends reject with it. To notice that, passfd wraps `close` of this one object.
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

/** The result of `attach()`. It needs no `close()`, because the socket closes itself. */
export class AttachedSocket {
  readonly #socket: UnixDgramSocket
  readonly #queues: DestinationQueues

  private constructor(socket: UnixDgramSocket, options: QueueOptions) {
    markUncloneable(this)
    this.#socket = socket
    this.#queues = new DestinationQueues(
      {
        transmit: (to, ...datagram) => (socket.fd < 0 ? closed() : transmit(socket.fd, to, undefined, ...datagram)),
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
        if (socket.fd < 0) this.#queues.end(closed())
      }
    }
    Object.defineProperty(socket, 'close', { value, configurable: true, writable: true })
  }

  /** Reports the number of datagrams that wait to be sent. */
  get queued(): number {
    return this.#queues.length
  }

  /** Sends one datagram, as `send` of a `DatagramSocket` does. `to` is needed unless the socket is connected. */
  send(data: DatagramData, options: SendOptions = {}): Promise<void> {
    const { fd } = this.#socket
    if (fd < 0) throw closed()
    return sendThrough(this.#queues, parcelOf(data, options, isConnected(fd)))
  }

  /** Lets queued datagrams keep the process running (the default). */
  ref(): this {
    this.#queues.keepAlive(true)
    return this
  }

  unref(): this {
    this.#queues.keepAlive(false)
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
