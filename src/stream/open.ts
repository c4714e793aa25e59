/** How raw streams and packet sockets come about: by connecting, and by listening. */

import { abortError, checked } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { authorized, moveIn } from '../descriptor/admission.ts'
import { Descriptor, descriptionOf } from '../descriptor/descriptor.ts'
import type { Kind } from '../descriptor/kind.ts'
import { askOf, NO_SOCKET, type Peer, peerOf } from '../descriptor/peer.ts'
import { checkNoOwner, type FileAccess } from '../os/account.ts'
import { discard } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { connectTo, giveUpBound, listenOn, PACKETS, type SocketFile, STREAM, socketName } from '../os/socket-name.ts'
import { createStream, type DescriptorStream } from './descriptor-stream.ts'
import {
  type AdmissionOptions,
  admissionLimits,
  CONNECT_PACKET_OPTIONS,
  CONNECT_STREAM_OPTIONS,
  LISTEN_PACKET_OPTIONS,
  LISTEN_STREAM_OPTIONS,
  listenLimits,
  type PacketOptions,
  packetLimits,
  type ServerOptions,
  type StreamOptions,
  streamLimits
} from './options.ts'
import { createPacketSocket, type PacketSocket } from './packet-socket.ts'
import { type Accepted, createStreamServer, type StreamServer } from './server.ts'

/** A path, `{ path }`, `{ abstract }` (Linux), or a Descriptor of a socket, which the call takes over. */
export type StreamAddress = string | { path: string } | { abstract: string } | Descriptor

/**
 * Connects to a Unix stream socket, or takes over a connected one (a Descriptor of kind `unix-stream`). Rejects with the system's error (ENOENT,
 * ECONNREFUSED, …), ERR_PASSFD_CONNECT_TIMEOUT, an AbortError or, with `authorize`, ERR_PASSFD_UNAUTHORIZED.
 */
export async function connect(
  address: StreamAddress,
  given: StreamOptions & AdmissionOptions = {}
): Promise<DescriptorStream> {
  const options = readOptions(given, CONNECT_STREAM_OPTIONS)
  streamLimits(options)
  const reached = await reach(address, options, STREAM, 'unix-stream', 'connect()')
  return made(reached, ({ fd, peer, description }) => createStream(fd, peer, options, description))
}

/**
 * Connects to a Unix packet socket (`SOCK_SEQPACKET`), or takes over a connected one (a Descriptor of kind `unix-seqpacket`). Rejects as
 * `connect` does.
 */
export async function connectPackets(
  address: StreamAddress,
  given: PacketOptions & AdmissionOptions = {}
): Promise<PacketSocket> {
  const options = readOptions(given, CONNECT_PACKET_OPTIONS)
  packetLimits(options)
  const reached = await reach(address, options, PACKETS, 'unix-seqpacket', 'connectPackets()')
  return made(reached, ({ fd, peer, description }) => createPacketSocket(fd, peer, options, description))
}

/**
 * Listens for raw streams.
 *
 * The socket file has mode 0600 from the moment it exists. passfd replaces a socket file on which no process listens. It lets in only processes
 * of the same user and root, unless `authorize` decides otherwise.
 *
 * Rejects as the `listen` of channels does.
 */
export async function listen(
  address: StreamAddress,
  given: StreamOptions & ServerOptions = {}
): Promise<StreamServer<DescriptorStream, StreamAddress>> {
  const options = readOptions(given, LISTEN_STREAM_OPTIONS)
  streamLimits(options)
  return serve(address, options, STREAM, 'unix-stream-listener', 'listen()', (fd, peer) =>
    createStream(fd, peer, options)
  )
}

/** Listens for connections of packets (`SOCK_SEQPACKET`), otherwise like `listen`. */
export async function listenPackets(
  address: StreamAddress,
  given: PacketOptions & ServerOptions = {}
): Promise<StreamServer<PacketSocket, StreamAddress>> {
  const options = readOptions(given, LISTEN_PACKET_OPTIONS)
  packetLimits(options)
  return serve(address, options, PACKETS, 'unix-seqpacket-listener', 'listenPackets()', (fd, peer) =>
    createPacketSocket(fd, peer, options)
  )
}

/** If that fails, the socket is closed. */
function made<Connection>(reached: Reached, make: (reached: Reached) => Connection): Connection {
  try {
    return make(reached)
  } catch (error) {
    discard([reached.fd])
    throw error
  }
}

interface Reached {
  fd: number
  peer: Peer
  description: object | undefined
}

async function reach(
  address: StreamAddress,
  options: AdmissionOptions,
  type: number,
  kind: Kind,
  by: string
): Promise<Reached> {
  const { handshakeTimeout } = admissionLimits(options)
  const { signal } = options
  if (signal?.aborted) throw abortError(signal)
  const given = address instanceof Descriptor
  const description = given ? descriptionOf(address) : undefined
  const fd = given
    ? moveIn(address, kind, by)
    : await connectTo(socketName(address), handshakeTimeout, signal, () => {}, type)
  let peer: Peer | undefined
  try {
    peer = peerOf(fd)
    // Nothing is read before, and a raw protocol's server need not be of our user
    if (options.authorize !== undefined) await authorized(peer, options, handshakeTimeout, signal)
    return { fd, peer, description }
  } catch (error) {
    if (peer !== undefined) askOf(peer, NO_SOCKET)
    discard([fd])
    throw error
  }
}

async function serve<Connection extends Accepted>(
  address: StreamAddress,
  options: ServerOptions,
  type: number,
  kind: Kind,
  by: string,
  make: (fd: number, peer: Peer) => Connection
): Promise<StreamServer<Connection, StreamAddress>> {
  const { handshakeTimeout } = admissionLimits(options)
  const { access, backlog, maxConnections } = listenLimits(options)
  const { signal } = options
  if (signal?.aborted) throw abortError(signal)
  const { fd, file } = await bound(address, access, backlog, type, kind, by)
  try {
    if (signal?.aborted) throw abortError(signal)
    return createStreamServer({ fd, file, address, maxConnections, handshakeTimeout, options, make })
  } catch (error) {
    await giveUpBound({ fd, file })
    throw error
  }
}

async function bound(
  address: StreamAddress,
  access: FileAccess,
  backlog: number,
  type: number,
  kind: Kind,
  by: string
): Promise<{ fd: number; file: SocketFile | undefined }> {
  if (!(address instanceof Descriptor)) return listenOn(socketName(address), access, backlog, type)
  checkNoOwner(access, 'a Descriptor, which has its name already')
  const fd = moveIn(address, kind, by)
  try {
    // Clients see the credentials of the last listen(2): from now on those of this process
    checked(native.listen(fd, backlog), 'listen')
    return { fd, file: undefined }
  } catch (error) {
    native.close(fd)
    throw error
  }
}
