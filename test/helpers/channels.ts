/** Two passfd ends in one process, and what tests do with them again and again. */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, type ChannelOptions, type ChannelServer, connect, Descriptor, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { until } from './test.ts'

/** Both ends of a channel, open at both. */
export async function connected(
  options: ChannelOptions<any> = {},
  otherOptions: ChannelOptions<any> = {}
): Promise<[Channel<any, any>, Channel<any, any>]> {
  const [left, end] = pair<any, any>(options)
  const right = await connect<any, any>(end, otherOptions)
  await until(() => left.peer.agent !== '', 'the hello of the other end')
  return [left, right]
}

/** Channels to a server, once it has them all. */
export async function connectAll(server: ChannelServer<any, any>, count: number): Promise<Channel<any, any>[]> {
  const { size } = server.channels
  const channels = await Promise.all(Array.from({ length: count }, () => connect<any, any>(server.address)))
  await until(() => server.channels.size === size + count, 'the server’s ends of the channels')
  return channels
}

/** Closes all of them; two ends of one channel at the same time. */
export async function closeAll(...channels: { close(): Promise<void> }[]): Promise<void> {
  await Promise.all(channels.map(channel => channel.close()))
}

/** The next message of a channel that nothing else reads, its descriptors claimed. */
export async function nextMessage(channel: Channel<any, any>): Promise<any> {
  channel.once('message', message => void message.claim())
  const [message] = await once(channel, 'message')
  return message
}

/** A descriptor of the test's own. */
export function file(): Descriptor {
  return Descriptor.openSync('/dev/null', 'r+')
}

/** Puts something else in the place of one of the shim's functions while `body` runs. */
export async function patched<Name extends keyof typeof native>(
  name: Name,
  replacement: (original: (typeof native)[Name]) => (typeof native)[Name],
  body: () => Promise<void> | void
): Promise<void> {
  const original = native[name]
  native[name] = replacement(original)
  try {
    await body()
  } finally {
    native[name] = original
  }
}

/** Whether the promise has not settled in this turn. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  await turn()
  return (await Promise.race([promise, Promise.resolve(isPending)])) === isPending
}

/** Everything that `channel` had to say before has been read by the other end, and its answer by us. */
export async function roundTrip(channel: Channel<any, any>): Promise<void> {
  await channel.request('round trip')
}

/** What `t.throws` expects of an error of passfd's. */
export function codeError(expected: string) {
  return { code: `ERR_PASSFD_${expected}` }
}

export function files(count: number): Descriptor[] {
  return Array.from({ length: count }, file)
}

/** What send() returns below the mark, always the same. */
export function promiseBelowMark(): Promise<void> {
  const [channel, end] = pair()
  const promise = channel.send(1)
  channel.destroy()
  end.close()
  return promise
}
