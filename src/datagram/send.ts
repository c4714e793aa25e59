/** Sends one datagram: the checked request, and the system call. */

import { isUint8Array } from '../base/brand.ts'
import { bufferOf } from '../base/bytes.ts'
import { invalid } from '../base/check.ts'
import { quiet } from '../base/deferred.ts'
import { ECONNREFUSED, ECONNRESET, EMSGSIZE, ENOTCONN } from '../base/errno.ts'
import { abortError, PassfdError, systemError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { checkOptions, type KnownOptions } from '../base/known-options.ts'
import { assertOpen, Descriptor } from '../descriptor/descriptor.ts'
import { native } from '../os/native.ts'
import { type DatagramAddress, type Destination, destinationOf } from './address.ts'
import { type DestinationQueues, isBackPressure } from './destination-queues.ts'
import { checkSignal } from './options.ts'

/** Bytes, or text as UTF-8. Several values make one datagram. */
export type DatagramData = string | Uint8Array | readonly (string | Uint8Array)[]

export interface SendOptions {
  /** The destination; not for a connected socket. */
  to?: DatagramAddress
  /** The descriptors to move, at most 253 (`SCM_MAX_FD`, unix(7)). */
  descriptors?: readonly Descriptor[]
  /** Cancels a datagram that was not sent yet: `send` rejects with Node's AbortError. */
  signal?: AbortSignal
}

const SEND_OPTIONS = { to: true, descriptors: true, signal: true } as const satisfies KnownOptions<SendOptions>

/** A datagram that may be sent. */
export interface Parcel {
  readonly to: Destination | undefined
  readonly bytes: Uint8Array
  readonly descriptors: readonly Descriptor[]
  readonly signal: AbortSignal | undefined
}

const NOTHING = Buffer.alloc(0)
const NONE: readonly Descriptor[] = []

/** Checks all that the caller can get wrong. */
export function parcelOf(data: DatagramData, options: SendOptions, connected: boolean): Parcel {
  checkOptions(options, SEND_OPTIONS)
  const { to, descriptors = NONE, signal } = options
  const bytes = bytesOf(data)
  checkSignal(signal)
  if (connected && to !== undefined) throw invalid('options.to', 'left out, as the socket is connected', to)
  if (!connected && to === undefined) throw invalid('options.to', 'an address, as the socket is not connected', to)
  if (descriptors !== NONE) checkDescriptors(descriptors)
  return { to: to === undefined ? undefined : destinationOf(to), bytes, descriptors, signal }
}

/** Sends now or later; see `send` of a socket. */
export function sendThrough(queues: DestinationQueues, { to, bytes, descriptors, signal }: Parcel): Promise<void> {
  if (signal?.aborted) return quiet(Promise.reject(abortError(signal)))
  return queues.send(to, bytes, descriptors, signal)
}

/**
 * Sends one datagram now, to `to` or to the connected peer, and never blocks. Returns the number of sent bytes, -errno if a later attempt may
 * succeed, or the error. `peer` is the address to which the socket was connected. The kernel forgets it when the peer has closed (unix(7)), and
 * another process may have bound the name. If the send buffer is too small for the datagram, it raises the buffer as far as net.core.wmem_max
 * allows (socket(7)).
 */
export function transmit(
  fd: number,
  to: Destination | undefined,
  peer: Destination | undefined,
  bytes: Uint8Array,
  fds: Int32Array,
  count: number
): number | Error {
  const send = (name: Uint8Array | null) => native.sendMessage(fd, bytes, 0, bytes.length, fds, 0, count, name)
  const attempt = () => (to === undefined ? send(null) : to.use(send))
  const shown = (to ?? peer)?.shown
  try {
    let result = attempt()
    // The peer has connected elsewhere, which concerns the datagrams that it had sent; the kernel reports that once
    if (result === ECONNRESET) result = attempt()
    if (peer !== undefined && to === undefined && (result === ECONNREFUSED || result === ENOTCONN)) {
      const connected = peer.use(name => native.connect(fd, name))
      if (connected < 0) return systemError(connected, 'connect', shown)
      result = attempt()
    }
    if (result === EMSGSIZE) {
      native.sendBuffer(fd, bytes.length)
      result = attempt()
    }
    if (result >= 0 || isBackPressure(result)) return result
    const error = systemError(result, 'sendmsg', shown)
    return result === EMSGSIZE ? new PassfdError('DATAGRAM_TOO_LARGE', { size: bytes.length }, { cause: error }) : error
  } catch (error) {
    return error as Error // the address is too long, or its directory is not there
  }
}

function bytesOf(data: unknown): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  if (isUint8Array(data)) return bufferOf('data', data)
  if (!Array.isArray(data)) throw invalid('data', 'a string, a Uint8Array, or an array of them', data)
  return data.length === 0
    ? NOTHING
    : Buffer.concat(data.map(part => (Array.isArray(part) ? bytesOf(0) : bytesOf(part))))
}

function checkDescriptors(descriptors: unknown): asserts descriptors is readonly Descriptor[] {
  if (!Array.isArray(descriptors)) throw invalid('options.descriptors', 'an array of Descriptors', descriptors)
  if (descriptors.length > MAX_RIGHTS)
    throw new PassfdError('TOO_MANY_DESCRIPTORS', {
      what: 'The datagram',
      count: descriptors.length,
      whose: 'the kernel (SCM_MAX_FD, unix(7))',
      limit: MAX_RIGHTS,
      remedy: 'Spread them over several datagrams'
    })
  for (const descriptor of descriptors) {
    if (!(descriptor instanceof Descriptor)) throw invalid('options.descriptors', 'an array of Descriptors', descriptor)
    assertOpen(descriptor)
  }
  if (new Set(descriptors).size < descriptors.length) throw new PassfdError('DESCRIPTOR_REPEATED')
}
