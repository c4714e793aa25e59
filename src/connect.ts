/** `connect` and `pair`: channels that this side begins. */
import { connectTo, socketName } from './address.ts'
import { type Channel, type ChannelSetup, createChannel, sessionOf, startChannel } from './channel.ts'
import { assertOpen, Descriptor, descriptionOf, own, take } from './descriptor.ts'
import { abortError, checked, PassfdError } from './errors.ts'
import { refuse } from './fault.ts'
import { native } from './native.ts'
import { type ChannelOptions, channelLimits } from './options.ts'
import { type Peer, peerOf, sameUserOrRoot } from './peer.ts'
import { SocketWire } from './wire.ts'

/** Where a channel server is: a path, `{ path }`, `{ abstract }` (Linux), or a Descriptor, which is moved in (socket activation, inherited stdio). */
export type Address = string | { path: string } | { abstract: string } | Descriptor

/**
 * Connects to a channel server and resolves when both sides have said hello. Rejects with the system's error (ENOENT, ECONNREFUSED, …),
 * ERR_PASSFD_CONNECT_TIMEOUT, ERR_PASSFD_HANDSHAKE_TIMEOUT, ERR_PASSFD_UNAUTHORIZED (we don't let the listener in), ERR_PASSFD_PEER (it
 * refuses us: see `remote`), or an AbortError.
 */
export async function connect<In = unknown, Out = unknown>(
  address: Address,
  options: ChannelOptions<In> = {}
): Promise<Channel<In, Out>> {
  const limits = channelLimits(options)
  const { signal } = options
  if (signal?.aborted) throw abortError(signal)
  const began = performance.now()
  const given = address instanceof Descriptor
  const description = given ? descriptionOf(address) : undefined
  const fd = given
    ? moveIn(address, 'unix-stream', 'connect()')
    : await connectTo(socketName(address), limits.handshakeTimeout, signal, holdRights)
  const wire = new SocketWire(fd)
  try {
    if (given) holdRights(fd)
    const peer = peerOf(fd)
    await authorized(peer, options, limits.handshakeTimeout, signal).catch(error => {
      if (!signal?.aborted) refuse(wire, error)
      throw error
    })
    native.passRights(fd, true)
    const left = limits.handshakeTimeout === 0 ? 0 : Math.max(1, limits.handshakeTimeout - (performance.now() - began))
    return (await open({ wire, peer, limits, options, description }, left, signal)) as Channel<In, Out>
  } catch (error) {
    if (!wire.ended) wire.end()
    throw error
  }
}

/**
 * A channel and the other end of it as a Descriptor: put that into a child's stdio or a message; there it is `connect(descriptor)`.
 * What is sent before that waits. `authorize` isn't asked: the other end is wherever you send it.
 */
export function pair<In = unknown, Out = unknown>(options: ChannelOptions<In> = {}): [Channel<In, Out>, Descriptor] {
  const limits = channelLimits(options, { handshakeTimeout: 0 })
  const out = new Int32Array(2)
  checked(native.socketpair(1, out), 'socketpair')
  const [mine, theirs] = out as unknown as [number, number]
  const descriptor = own(theirs)
  const setup: ChannelSetup = {
    wire: new SocketWire(mine),
    peer: peerOf(mine),
    limits,
    options,
    description: descriptionOf(descriptor)
  }
  const channel = createChannel(setup) as Channel<In, Out>
  startChannel(channel, limits.handshakeTimeout)
  return [channel, descriptor]
}

/** @internal Until the other side is known the kernel refuses descriptors from it (`SO_PASSRIGHTS`, Linux >= 6.16; elsewhere we simply don't read). */
export function holdRights(fd: number): void {
  native.passRights(fd, false)
}

/** @internal The number of a Descriptor that is given as an address. */
export function moveIn(descriptor: Descriptor, kind: 'unix-stream' | 'unix-stream-listener', by: string): number {
  assertOpen(descriptor)
  if (descriptor.kind !== kind)
    throw new PassfdError('DESCRIPTOR_KIND', { operation: by, expected: kind, actual: descriptor.kind })
  return take(descriptor, by)
}

/** @internal Asks who it is that is to be let in. */
export async function authorized(
  peer: Peer,
  options: ChannelOptions<any>,
  timeout: number,
  signal?: AbortSignal
): Promise<void> {
  let verdict: boolean
  try {
    verdict = await abortable(
      options.authorize === undefined ? sameUserOrRoot(peer) : options.authorize(peer),
      timeout,
      signal
    )
  } catch (cause) {
    if (signal?.aborted) throw abortError(signal)
    if (cause === TIMED_OUT) throw new PassfdError('HANDSHAKE_TIMEOUT', { timeout })
    throw new PassfdError('AUTHORIZE_FAILED', {}, { cause })
  }
  if (verdict !== true) throw new PassfdError('UNAUTHORIZED', { pid: peer.pid, uid: peer.uid })
}

/** @internal Says hello and waits for the other side's. */
export function open(
  setup: Omit<ChannelSetup, 'onOpen'>,
  timeout: number,
  signal?: AbortSignal
): Promise<Channel<any, any>> {
  return new Promise((resolve, reject) => {
    let settled = false
    const onAbort = (): void => sessionOf(channel).end(abortError(signal!), false)
    const onOpen = (error: Error | undefined): void => {
      if (settled) return
      settled = true
      signal?.removeEventListener('abort', onAbort)
      if (error === undefined) resolve(channel)
      else reject(error)
    }
    const channel = createChannel({ ...setup, onOpen })
    signal?.addEventListener('abort', onAbort, { once: true })
    startChannel(channel, timeout)
  })
}

const TIMED_OUT = Symbol('timed out')

/** The verdict, unless the signal or the time limit (ms; 0: none) comes first. */
function abortable(
  verdict: boolean | Promise<boolean>,
  timeout: number,
  signal?: AbortSignal
): boolean | Promise<boolean> {
  if (!(verdict instanceof Promise)) return verdict
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(abortError(signal!))
    const timer = timeout === 0 ? undefined : setTimeout(() => reject(TIMED_OUT), timeout)
    signal?.addEventListener('abort', onAbort, { once: true })
    verdict.then(resolve, reject)
    const done = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
    verdict.then(done, done)
  })
}
