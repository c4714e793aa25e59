// In CI only: it compiles all types.
/** The public types. Nothing of `assertions` runs: a test compiles this file. */

import type * as dgram from 'node:dgram'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type * as net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex, Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { expectTypeOf } from 'expect-type'
import { z } from 'zod'
import {
  type Access,
  type Address,
  type BindSpec,
  type Channel,
  type ChannelEvents,
  type ChannelOptions,
  type ChannelServer,
  connect,
  Descriptor,
  type DescriptorSource,
  type ErrorCode,
  type Failure,
  type Handler,
  type Kind,
  type ListenHandle,
  type ListenOptions,
  listen,
  type Message,
  type OpenFlags,
  PassfdError,
  type Peer,
  pair,
  type RemoteError,
  type RequestOptions,
  type Returned,
  type Schema,
  type ServeOptions,
  type ServerEvents,
  version
} from '../src/index.ts'
import { compile } from './helpers/compile.ts'
import { testInCi } from './helpers/test.ts'

const file = z.object({ name: z.string(), file: z.instanceof(Descriptor) })
type File = { name: string; file: Descriptor }

async function assertions(): Promise<void> {
  // A schema gives the incoming type, on every way to a channel; without one it is unknown
  const server = await listen('/path', { schema: file })
  expectTypeOf(server).toEqualTypeOf<ChannelServer<File, unknown>>()
  expectTypeOf(await listen('/path')).toEqualTypeOf<ChannelServer<unknown, unknown>>()
  expectTypeOf(await connect('/path', { schema: file })).toEqualTypeOf<Channel<File, unknown>>()
  expectTypeOf(await connect('/path')).toEqualTypeOf<Channel<unknown, unknown>>()
  expectTypeOf(pair({ schema: file })).toEqualTypeOf<[Channel<File, unknown>, Descriptor]>()
  expectTypeOf(pair()).toEqualTypeOf<[Channel<unknown, unknown>, Descriptor]>()
  // What the schema turns it into is what arrives, not what it takes
  expectTypeOf(await connect('/path', { schema: z.string().transform(Number) })).toEqualTypeOf<
    Channel<number, unknown>
  >()
  // Any Standard Schema
  const standard = {} as StandardSchemaV1<string, Date>
  expectTypeOf(await connect('/path', { schema: standard })).toEqualTypeOf<Channel<Date, unknown>>()
  expectTypeOf<Schema<Date>>().toEqualTypeOf<StandardSchemaV1<any, Date>>()

  // Both types can be given
  const channel = await connect<File, { command: 'stop' | 'go' }>('/path')
  expectTypeOf(channel).toEqualTypeOf<Channel<File, { command: 'stop' | 'go' }>>()
  expectTypeOf(channel.send).parameters.toEqualTypeOf<[{ command: 'stop' | 'go' }]>()
  expectTypeOf(channel.send({ command: 'go' })).toEqualTypeOf<Promise<void>>()
  // @ts-expect-error not what it sends
  void channel.send({ command: 'halt' })
  // @ts-expect-error nothing is not what it sends
  void channel.send()

  // request: the reply's type is said, or inferred from its schema
  expectTypeOf(await channel.request({ command: 'go' })).toEqualTypeOf<unknown>()
  expectTypeOf(await channel.request<{ stored: string }>({ command: 'go' })).toEqualTypeOf<{ stored: string }>()
  expectTypeOf(await channel.request({ command: 'go' }, { schema: file })).toEqualTypeOf<File>()
  await channel.request({ command: 'go' }, { signal: AbortSignal.timeout(1), timeout: 0, descriptors: 2 })
  // @ts-expect-error not what it sends
  void channel.request({ command: 'halt' })
  // @ts-expect-error no such option
  void channel.request({ command: 'go' }, { deadline: 5 })
  expectTypeOf<RequestOptions<File>['schema']>().toEqualTypeOf<Schema<File> | undefined>()

  // serve, for await, events
  channel.serve(message => {
    expectTypeOf(message).toEqualTypeOf<Message<File>>()
    return { any: 'thing' }
  })
  channel.serve(async () => {}, {
    concurrency: 5,
    onError: (error, message) => {
      expectTypeOf(error).toEqualTypeOf<Failure>()
      expectTypeOf(message).toEqualTypeOf<Message<File>>()
    }
  })
  expectTypeOf<Handler<File>>().toEqualTypeOf<(message: Message<File>) => unknown>()
  expectTypeOf<ServeOptions<File>>().toHaveProperty('concurrency')
  server.serve(({ value, channel }) => {
    expectTypeOf(value).toEqualTypeOf<File>()
    expectTypeOf(channel.peer).toEqualTypeOf<Peer>()
  })
  for await (const message of channel) expectTypeOf(message).toEqualTypeOf<Message<File>>()
  for await (const each of server) expectTypeOf(each).toEqualTypeOf<Channel<File, unknown>>()
  channel.on('message', message => expectTypeOf(message).toEqualTypeOf<Message<File>>())
  channel.on('returned', returned => expectTypeOf(returned).toEqualTypeOf<Returned<{ command: 'stop' | 'go' }>>())
  channel.on('close', error => expectTypeOf(error).toEqualTypeOf<Failure | undefined>())
  server.on('channel', each => expectTypeOf(each).toEqualTypeOf<Channel<File, unknown>>())
  server.on('refused', (peer, error) => {
    expectTypeOf(peer).toEqualTypeOf<Peer>()
    expectTypeOf(error).toEqualTypeOf<Failure>()
  })
  server.on('close', error => expectTypeOf(error).toEqualTypeOf<Failure | undefined>())
  expectTypeOf<keyof ChannelEvents>().toEqualTypeOf<'message' | 'returned' | 'close'>()
  expectTypeOf<keyof ServerEvents>().toEqualTypeOf<'channel' | 'refused' | 'acceptError' | 'close'>()

  // Channel
  expectTypeOf(channel.peer).toEqualTypeOf<Peer>()
  expectTypeOf(channel.closed).toEqualTypeOf<Promise<Failure | undefined>>()
  expectTypeOf(channel.close()).toEqualTypeOf<Promise<void>>()
  expectTypeOf(channel.destroy).parameters.toEqualTypeOf<[error?: Error | undefined]>()
  expectTypeOf(channel.ref().unref()).toExtend<typeof channel>()
  expectTypeOf(channel).toExtend<AsyncDisposable>()
  // @ts-expect-error it is made by connect, listen and pair
  void (() => new (channel.constructor as typeof Channel)())
  // @ts-expect-error who is at the other end does not change
  channel.peer = {} as Peer

  // Message
  type Incoming = Message<File>
  expectTypeOf<Incoming['value']>().toEqualTypeOf<File>()
  expectTypeOf<Incoming['descriptors']>().toEqualTypeOf<readonly Descriptor[]>()
  expectTypeOf<Incoming['signal']>().toEqualTypeOf<AbortSignal>()
  expectTypeOf<Incoming['isRequest']>().toEqualTypeOf<boolean>()
  expectTypeOf<Incoming['reply']>().toEqualTypeOf<(value?: unknown) => Promise<void>>()
  expectTypeOf<Incoming['fail']>().toEqualTypeOf<(error: Error) => Promise<void>>()
  expectTypeOf<Incoming>().toExtend<Disposable>()
  expectTypeOf<Message['value']>().toEqualTypeOf<unknown>()

  // Returned
  expectTypeOf<Returned<File>['state']>().toEqualTypeOf<'unsent' | 'unconfirmed' | 'refused'>()
  expectTypeOf<Returned<File>['value']>().toEqualTypeOf<File>()
  expectTypeOf<Returned<File>['descriptors']>().toEqualTypeOf<readonly Descriptor[]>()
  expectTypeOf<ReturnType<Returned<File>['claim']>>().toExtend<Returned<File>>()

  // ChannelServer
  expectTypeOf(server.address).toEqualTypeOf<Address>()
  expectTypeOf(server.channels).toEqualTypeOf<ReadonlySet<Channel<File, unknown>>>()
  expectTypeOf(server.closed).toEqualTypeOf<Promise<Failure | undefined>>()
  expectTypeOf(server.close).parameters.toEqualTypeOf<[options?: { channels?: boolean } | undefined]>()
  expectTypeOf(server).toExtend<AsyncDisposable>()

  // Addresses
  const descriptor = new Descriptor(3)
  for (const address of ['/path', { path: '/path' }, { abstract: 'name' }, descriptor] satisfies Address[])
    await connect(address)
  // @ts-expect-error one or the other
  void connect({ file: '/path' })

  // Options
  const options: ListenOptions<File> = {
    schema: file,
    authorize: async ({ uid, gid, pid, groups, agent }) =>
      uid === 0 && gid + pid > 0 && groups.includes(5) && agent !== '',
    signal: AbortSignal.timeout(1),
    mode: 0o660,
    maxConnectionsPerUser: 3
  }
  expectTypeOf(options).toExtend<ChannelOptions<File>>()
  // @ts-expect-error no such option
  void listen('/path', { modes: 0o600 })
  // @ts-expect-error a server's option
  void connect('/path', { mode: 0o600 })
  // @ts-expect-error no Standard Schema
  void connect('/path', { schema: { parse() {} } })

  // Descriptor
  expectTypeOf(Descriptor.adopt).toEqualTypeOf<(fd: number) => Descriptor>()
  expectTypeOf(Descriptor.from).parameters.toEqualTypeOf<[DescriptorSource]>()
  expectTypeOf<
    net.Socket | net.Server | dgram.Socket | Readable | Writable | { fd: number } | number
  >().toExtend<DescriptorSource>()
  expectTypeOf(Descriptor.open).returns.toEqualTypeOf<Promise<Descriptor>>()
  expectTypeOf(Descriptor.openSync).returns.toEqualTypeOf<Descriptor>()
  expectTypeOf(Descriptor.bind).toEqualTypeOf<(spec: BindSpec) => Promise<Descriptor>>()
  expectTypeOf(Descriptor.pipe()).toEqualTypeOf<{ readable: Descriptor; writable: Descriptor }>()
  expectTypeOf(Descriptor.socketpair()).toEqualTypeOf<[Descriptor, Descriptor]>()
  expectTypeOf(descriptor.kind).toEqualTypeOf<Kind>()
  expectTypeOf(descriptor.access).toEqualTypeOf<'read' | 'write' | 'read-write' | 'none'>()
  expectTypeOf(descriptor.access).toEqualTypeOf<Access>()
  expectTypeOf(descriptor.flags).toEqualTypeOf<OpenFlags>()
  expectTypeOf<OpenFlags>().toEqualTypeOf<
    Readonly<Record<'append' | 'nonblocking' | 'sync' | 'direct' | 'path', boolean>>
  >()
  expectTypeOf(descriptor.closed).toEqualTypeOf<boolean>()
  expectTypeOf(descriptor.borrow()).toEqualTypeOf<number>()
  expectTypeOf(descriptor.dup()).toEqualTypeOf<Descriptor>()
  expectTypeOf(descriptor.claim()).toEqualTypeOf<Descriptor>()
  expectTypeOf(descriptor.detach()).toEqualTypeOf<number>()
  expectTypeOf(descriptor.close()).toEqualTypeOf<void>()
  expectTypeOf(descriptor.toSocket()).toEqualTypeOf<net.Socket>()
  expectTypeOf(descriptor.toServer()).toEqualTypeOf<Promise<net.Server>>()
  expectTypeOf(descriptor.toListenHandle()).toEqualTypeOf<ListenHandle>()
  expectTypeOf(descriptor.toDatagram()).toEqualTypeOf<dgram.Socket>()
  expectTypeOf(descriptor.toReadable()).toEqualTypeOf<Readable>()
  expectTypeOf(descriptor.toWritable()).toEqualTypeOf<Writable>()
  expectTypeOf(descriptor.toDuplex()).toEqualTypeOf<Duplex>()
  expectTypeOf(descriptor).toExtend<Disposable>()
  expectTypeOf<ListenHandle>().toExtend<net.ListenOptions>()
  // trap 39: nothing that takes a number takes a Descriptor
  // @ts-expect-error it has no fd
  void descriptor.fd
  expectTypeOf<Descriptor>().not.toExtend<{ fd: number }>()
  expectTypeOf<Descriptor>().not.toExtend<DescriptorSource>()
  // @ts-expect-error its state is its own
  descriptor.closed = true
  expectTypeOf<BindSpec>().toExtend<object>()
  for (const spec of [
    { port: 1, host: '::1', backlog: 1, ipv6Only: true },
    { path: '/a', mode: 0o600, owner: 'a', group: 1, backlog: 1 },
    { type: 'udp4', port: 1, address: '127.0.0.1' },
    { activated: 'http' },
    { activated: 'http', port: 1 },
    { activated: 'http', path: '/a' },
    descriptor
  ] satisfies BindSpec[])
    void Descriptor.bind(spec)
  // @ts-expect-error a name is a text
  void Descriptor.bind({ activated: 1 })
  void listen({ activated: 'admin', path: '/a' })
  // @ts-expect-error a UDP socket has a port
  void Descriptor.bind({ type: 'udp4' })

  // Errors
  const error = (await channel.closed) as PassfdError
  expectTypeOf(error.code).toEqualTypeOf<ErrorCode>()
  expectTypeOf<ErrorCode>().toEqualTypeOf<`ERR_PASSFD_${string}`>()
  expectTypeOf(error.remote).toEqualTypeOf<RemoteError | undefined>()
  expectTypeOf<RemoteError>().toEqualTypeOf<{ code: string; message: string; data?: unknown }>()
  expectTypeOf(PassfdError).instance.toExtend<Error>()
  expectTypeOf(version).toExtend<string>()
}

void assertions

testInCi('the public types are what they should be', async t => {
  const prefork = new URL('prefork/types.ts', import.meta.url)
  t.deepEqual(await compile(fileURLToPath(import.meta.url), fileURLToPath(prefork)), { code: 0, output: '' })
})

testInCi('a wrong assertion would be seen', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-types-'))
  const path = join(folder, 'wrong.ts')
  const index = fileURLToPath(new URL('../src/index.ts', import.meta.url))
  writeFileSync(path, `import { Descriptor } from '${index}'\nexport const wrong: string = Descriptor.pipe()\n`)
  const { code, output } = await compile(path)
  t.not(code, 0)
  t.regex(output, /wrong\.ts.*TS2322/)
  rmSync(folder, { recursive: true })
})
