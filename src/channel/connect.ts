/** `connect` and `pair`: channels that this side begins. */

import { whenAborted } from '../base/abort-signals.ts'
import { abortError, checked } from '../base/errors.ts'
import { readOptions } from '../base/known-options.ts'
import { authorized, holdRights, moveIn } from '../descriptor/admission.ts'
import { Descriptor, descriptionOf, own } from '../descriptor/descriptor.ts'
import { ownPeer, peerOf } from '../descriptor/peer.ts'
import { native } from '../os/native.ts'
import { connectTo, socketName } from '../os/socket-name.ts'
import { type Channel, type ChannelSetup, createChannel, sessionOf, startChannel } from './channel.ts'
import { refuse } from './fault.ts'
import { LoopbackWire } from './loopback.ts'
import { CHANNEL_OPTIONS, type ChannelOptions, channelLimits } from './options.ts'
import { SocketWire, TrustedWire } from './wire.ts'

/**
 * The address of a channel server: a path, `{ path }`, `{ abstract }` (Linux), or a Descriptor of a socket, which the call takes over (socket
 * activation, inherited stdio).
 */
export type Address = string | { path: string } | { abstract: string } | Descriptor

/**
 * Connects to a channel server, and resolves when both sides have exchanged their hellos.
 *
 * Rejects with the system's error (ENOENT, ECONNREFUSED, EACCES, …), ERR_PASSFD_CONNECT_TIMEOUT, ERR_PASSFD_HANDSHAKE_TIMEOUT,
 * ERR_PASSFD_UNAUTHORIZED (this side refuses the listener), ERR_PASSFD_PEER (the listener refuses this side: see `remote`), or an AbortError.
 * Then a Descriptor that was passed as address is closed.
 */
export function connect<In = unknown, Out = unknown>(
  address: Address,
  given: ChannelOptions<In> = {}
): Promise<Channel<In, Out>> {
  return openTo(address, given, false)
}

/** @internal As `connect()`, for messages of passfd itself: see ChannelSetup. */
export function connectOwn<In, Out>(address: Address, given: ChannelOptions<In>): Promise<Channel<In, Out>> {
  return openTo(address, given, true)
}

async function openTo<In, Out>(address: Address, given: ChannelOptions<In>, isOwn: boolean): Promise<Channel<In, Out>> {
  const options = readOptions(given, CHANNEL_OPTIONS)
  const limits = channelLimits(options)
  const { signal } = options
  if (signal?.aborted) throw abortError(signal)
  const began = performance.now()
  const isGiven = address instanceof Descriptor
  const description = isGiven ? descriptionOf(address) : undefined
  const fd = isGiven
    ? moveIn(address, 'unix-stream', 'connect()')
    : await connectTo(socketName(address), limits.handshakeTimeout, signal, holdRights)
  const wire = new SocketWire(fd)
  try {
    if (isGiven) holdRights(fd)
    const peer = peerOf(fd, wire)
    await authorized(peer, options, limits.handshakeTimeout, signal).catch(error => {
      if (!signal?.aborted) refuse(wire, error)
      throw error
    })
    native.passRights(fd, true)
    const left = limits.handshakeTimeout === 0 ? 0 : Math.max(1, limits.handshakeTimeout - (performance.now() - began))
    return (await open({ wire, peer, limits, options, description, isOwn }, left, signal)) as Channel<In, Out>
  } catch (error) {
    if (!wire.ended) wire.end()
    throw error
  }
}

/**
 * Makes a channel, and its other end as a Descriptor that the caller owns.
 *
 * Send that in a message or pass it to a child, which calls `connect(descriptor)`. Messages that are sent before that wait. passfd does not call
 * `authorize`, because the caller decides where the other end goes.
 */
export function pair<In = unknown, Out = unknown>(options: ChannelOptions<In> = {}): [Channel<In, Out>, Descriptor] {
  return pairOn(SocketWire, readOptions(options, CHANNEL_OPTIONS), false)
}

/** @internal As `pair()`, for messages of passfd itself: see ChannelSetup. `trusts`: this process trusts the owner of the other end: see TrustedWire. */
export function ownPair<In, Out>(options: ChannelOptions<In>, trusts: boolean): [Channel<In, Out>, Descriptor] {
  return pairOn(trusts ? TrustedWire : SocketWire, options, true)
}

/**
 * @internal Makes a channel on this end of a pair, which is moved in. It returns before the hellos: messages that are sent meanwhile wait. The
 * process at the other end is trusted. `isOwn`: it is for messages of passfd itself.
 */
export function channelOn<In, Out>(end: Descriptor, options: ChannelOptions<In>, isOwn: boolean): Channel<In, Out> {
  const limits = channelLimits(options, { handshakeTimeout: 0 })
  const description = descriptionOf(end)
  const wire = new SocketWire(moveIn(end, 'unix-stream', 'connect()'))
  return begunOn({ wire, limits, options, description, isOwn })
}

/**
 * @internal Makes both ends of a channel within this process, without a socket, where the shim is missing. They carry messages without descriptors.
 */
export function pairWithin<In, Out>(options: ChannelOptions<In>): [Channel<In, Out>, Channel<Out, In>] {
  const limits = channelLimits(options, { handshakeTimeout: 0 })
  const ends = LoopbackWire.pair().map(wire => {
    const channel = createChannel({ wire, peer: ownPeer(), limits, options })
    startChannel(channel, limits.handshakeTimeout)
    return channel
  })
  return ends as unknown as [Channel<In, Out>, Channel<Out, In>]
}

function pairOn<In, Out>(
  Wire: typeof SocketWire,
  options: ChannelOptions<In>,
  isOwn: boolean
): [Channel<In, Out>, Descriptor] {
  const limits = channelLimits(options, { handshakeTimeout: 0 })
  const out = new Int32Array(2)
  checked(native.socketpair(1, out), 'socketpair')
  const [mine, theirs] = out as unknown as [number, number]
  const descriptor = own(theirs)
  try {
    const description = descriptionOf(descriptor)
    return [begunOn({ wire: new Wire(mine), limits, options, description, isOwn }), descriptor]
  } catch (error) {
    descriptor.close()
    throw error
  }
}

/** Makes a channel on a wire, which it then owns, and says hello. If that fails it ends the wire. */
function begunOn<In, Out>(
  setup: Omit<ChannelSetup, 'peer' | 'onOpen'> & { readonly wire: SocketWire }
): Channel<In, Out> {
  const { wire, limits } = setup
  try {
    const peer = peerOf(wire.fd, wire)
    const channel = createChannel({ ...setup, peer }) as Channel<In, Out>
    startChannel(channel, limits.handshakeTimeout)
    return channel
  } catch (error) {
    if (!wire.ended) wire.end()
    throw error
  }
}

/** @internal Says hello and waits for the other side's. */
export function open(
  setup: Omit<ChannelSetup, 'onOpen'>,
  timeout: number,
  signal?: AbortSignal
): Promise<Channel<any, any>> {
  return new Promise((resolve, reject) => {
    let settled = false
    const onOpen = (error: Error | undefined): void => {
      if (settled) return
      settled = true
      forget()
      if (error === undefined) resolve(channel)
      else reject(error)
    }
    const channel = createChannel({ ...setup, onOpen })
    const forget = whenAborted(signal, () => sessionOf(channel).end(abortError(signal!), false))
    try {
      startChannel(channel, timeout)
    } catch (error) {
      forget() // a later abort would act on a closed socket
      throw error
    }
  })
}
