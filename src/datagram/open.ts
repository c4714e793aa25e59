/** `bind`, `connect` and `unnamed`: the ways to a datagram socket. */

import { randomBytes } from 'node:crypto'
import { invalid } from '../base/check.ts'
import { ENOTCONN } from '../base/errno.ts'
import { abortError, checked, PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { assertOpen, Descriptor, moveOut } from '../descriptor/descriptor.ts'
import { checkNoOwner } from '../os/account.ts'
import { native } from '../os/native.ts'
import { bindOn, DATAGRAM, removeOrWarn, socketName } from '../os/socket-name.ts'
import { addressOf, type DatagramAddress, type Destination, destinationOf } from './address.ts'
import {
  BIND_OPTIONS,
  type BindOptions,
  DATAGRAM_OPTIONS,
  type DatagramLimits,
  type DatagramOptions,
  datagramLimits
} from './options.ts'
import { passPidfds } from './sender.ts'
import { type Base, createSocket, type DatagramSocket, type Setup } from './socket.ts'

export interface ConnectOptions extends BindOptions {
  /** The name of this socket, to which receivers answer: an address, or `true` for a random abstract name. Default: no name, and no answers. */
  from?: DatagramAddress | true
}

const CONNECT_OPTIONS = { ...BIND_OPTIONS, from: true } as const satisfies KnownOptions<ConnectOptions>

/**
 * Opens a socket with a name, and receives the datagrams that `authorize` accepts.
 *
 * Without an address it gets a random abstract name. A socket file has mode 0600 from the moment it exists; passfd replaces a file that no
 * process has bound, and `close()` removes the file if it still belongs to this socket. It takes over a Descriptor (kind unix-dgram, for example
 * of socket activation).
 *
 * Rejects with the system's error (EADDRINUSE, …), ERR_PASSFD_ADDRESS_….
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
 * Opens a socket that sends to one address.
 *
 * While the peer exists, the kernel lets only the peer send to it. If another socket binds the peer's name, the next send connects again; until
 * then all senders that `authorize` accepts may send to it. It takes over a connected Descriptor.
 *
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
  if (file !== undefined) await removeOrWarn(file)
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
