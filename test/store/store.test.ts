/** A store as peers in other languages meet it: requests by hand over a channel. */
import { inspect } from 'node:util'
import fc from 'fast-check'
import { type Channel, connect, Descriptor } from '../../src/index.ts'
import { connectStore, type OpenStoreOptions, openStore } from '../../src/store/index.ts'
import { anyValue } from '../helpers/any-value.ts'
import { identity } from '../helpers/facts.ts'
import { times } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { memory, textIn } from '../helpers/store.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })
const remote = (key: string) => ({ code: 'ERR_PASSFD_REMOTE', remote: { code: `ERR_PASSFD_STORE_${key}` } })

async function withChannels(
  work: (channels: Channel<any, any>[], store: Awaited<ReturnType<typeof openStore>>, path: string) => Promise<void>,
  count = 1,
  options: OpenStoreOptions = {}
): Promise<void> {
  const path = socketPath()
  const store = await openStore(path, options)
  const channels: Channel<any, any>[] = []
  try {
    for (let i = 0; i < count; i++) channels.push(await connect(path))
    await work(channels, store, path)
  } finally {
    for (const channel of channels) await channel.close()
    await store.close()
  }
}

async function refuses(t: any, channel: Channel<any, any>, request: unknown, key: string): Promise<void> {
  const error: any = await t.throwsAsync(channel.request(request), undefined, inspect(request))
  t.like(error, remote(key), inspect(request))
}

const hello = (client: number, more = {}) => ({ do: 'hello', store: 1, client: Buffer.alloc(16, client), ...more })
const put = (name: string, more = {}) => ({ do: 'put', name, descriptors: [Descriptor.memfd()], ...more })

test('malformed requests are refused, and nothing is kept of them', t =>
  withChannels(async ([channel], store) => {
    const before = openDescriptors()
    for (const request of [
      3,
      null,
      'put',
      [],
      {},
      { do: 'steal' },
      { do: 3 },
      { do: 'put' },
      { do: 'put', name: 'x' },
      { do: 'put', name: 'x', descriptors: [] },
      { do: 'put', name: 'x', descriptors: [3] },
      { do: 'put', name: 'x', descriptors: { 0: 1 } },
      put(''),
      put('a:b'),
      put('a*'),
      put('x'.repeat(256)),
      put('x', { owner: -1 }),
      put('x', { owner: 'root' }),
      put('x', { owner: 2 ** 32 }),
      put('x', { ttl: 0 }),
      put('x', { ttl: 0.5 }),
      put('x', { ttl: 2 ** 60 }),
      put('x', { poll: 1 }),
      put('x', { keep: 'yes' }),
      put('x', { replace: 0 }),
      put('x', { value: 'text' }),
      put('x', { value: { a: 1 } }),
      put('x', { id: 0 }),
      put('x', { id: 1, seen: 1 }),
      put('x', { id: 1, seen: -1 }),
      put('x', { id: '1' }),
      { do: 'take' },
      { do: 'take', name: 3 },
      { do: 'keep' },
      { do: 'keep', entry: 'x' },
      { do: 'list', names: 'a*b' },
      { do: 'list', after: -1 },
      { do: 'watch' },
      { do: 'unwatch', watch: 'x' },
      hello(1, { client: Buffer.alloc(15) }),
      hello(1, { client: 'x'.repeat(16) }),
      hello(1, { store: 0 }),
      hello(1, { kept: 3 }),
      hello(1, { kept: ['x'] }),
      hello(1, { kept: Array(1025).fill(1) }),
      { do: 'kept', entries: Array(1025).fill(1) },
      { do: 'kept', entries: [1.5] }
    ])
      await refuses(t, channel!, request, 'REQUEST')
    await refuses(t, channel!, put('x', { value: Buffer.alloc(65_537) }), 'FULL')
    await refuses(t, channel!, put('x', { poll: true }), 'POLL')
    t.like(store.status, { names: 0, descriptors: 0, bytes: 0 })
    await until(() => openDescriptors().size <= before.size, 'all are closed')
    t.is(await channel!.request({ do: 'take', name: 'x', further: 'field' }), null)
    await channel!.send({ do: 'put', name: 'x', descriptors: [Descriptor.memfd()] })
    t.is((await channel!.closed)!.code, 'ERR_PASSFD_PEER')
    t.is(store.status.names, 0, 'a message is no request')
  }))

test('any value at all is refused or answered, and the store goes on', t =>
  withChannels(async ([channel], store) => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          anyValue,
          fc.record(
            {
              do: fc.constantFrom(
                'hello',
                'put',
                'take',
                'keep',
                'release',
                'copy',
                'remove',
                'list',
                'watch',
                'unwatch'
              ),
              name: fc.oneof(anyValue, fc.constant('x')),
              owner: anyValue,
              entry: anyValue,
              watch: anyValue,
              names: anyValue,
              after: anyValue,
              id: anyValue,
              seen: anyValue,
              ttl: anyValue,
              value: anyValue,
              client: anyValue
            },
            { requiredKeys: ['do'] }
          )
        ),
        async value => {
          try {
            await channel!.request(value, { descriptors: 253 })
          } catch (error) {
            const { code: key, remote: told } = error as any
            t.true(
              /^ERR_PASSFD_(ENCODE|MESSAGE_TOO_LARGE)$/.test(key) ||
                /^ERR_PASSFD_STORE_(REQUEST|FULL|DENIED|LEASE_OVER)$/.test(told?.code),
              `${key} ${told?.code} ${told?.message}`
            )
          }
        }
      ),
      { numRuns: times(300, 5000) }
    )
    t.is(await channel!.request({ do: 'copy', name: 'none' }), null)
    t.is(store.status.names, 0)
  }))

test('a request with a number is done once, also over another channel of the same client', t =>
  withChannels(async ([one, two, three], store, path) => {
    t.like(await one!.request(hello(1)), { store: 1, known: false, gone: [], leases: [] })
    const file = Descriptor.memfd()
    const number = identity(file.borrow())
    const first = await one!.request({ do: 'put', id: 1, seen: 0, name: 'x', descriptors: [file] })
    t.deepEqual(await one!.request(put('x', { id: 1, seen: 0 })), first)
    t.is(store.status.names, 1)
    await refuses(t, one!, put('x', { id: 2, seen: 0 }), 'EXISTS')
    await refuses(t, two!, put('x', { id: 1, seen: 0 }), 'EXISTS') // another client's number
    await one!.close()
    const again = await connect<any, any>(path)
    t.like(await again.request(hello(1)), { known: true })
    t.deepEqual(await again.request(put('x', { id: 1, seen: 0 })), first)
    const lease: any = await again.request({ do: 'take', id: 3, seen: 0, name: 'x' }, { descriptors: 253 })
    t.is(identity(lease.descriptors[0].borrow()), number)
    const repeated: any = await again.request({ do: 'take', id: 3, seen: 0, name: 'x' }, { descriptors: 253 })
    t.is(repeated.entry, lease.entry)
    t.is(identity(repeated.descriptors[0].borrow()), number)
    await refuses(t, again, { do: 'take', id: 4, seen: 0, name: 'x' }, 'LEASED')
    t.is(await again.request({ do: 'keep', id: 5, seen: 3, entry: lease.entry }), null)
    t.is(await again.request({ do: 'keep', id: 5, seen: 3, entry: lease.entry }), null, 'repeated')
    await refuses(t, again, { do: 'keep', id: 6, seen: 3, entry: lease.entry }, 'LEASE_OVER')
    t.is(
      await again.request({ do: 'take', id: 3, seen: 2, name: 'x' }).catch((error: any) => error.remote.code),
      'ERR_PASSFD_STORE_REQUEST',
      'it was seen'
    )
    await refuses(t, again, put('x', { id: 5, seen: 3 }), 'REQUEST') // what that number was of was no put
    // The put whose entry is gone
    const gone: any = await again.request(put('y', { id: 7, seen: 5 }))
    t.is(await three!.request({ do: 'remove', name: 'y' }), true)
    t.deepEqual(await again.request(put('y', { id: 7, seen: 5 })), { ...gone, gone: true })
    t.is(store.status.names, 0)
    t.is(await again.request({ do: 'remove', id: 8, seen: 7, name: 'y' }), false)
    lease.descriptors[0].close()
    repeated.descriptors[0].close()
    await again.close()
  }, 3))

test('a newer channel of a client ends the older one, whose unread requests are never done', t =>
  withChannels(async ([one, two, three], store) => {
    await one!.request(hello(1))
    await one!.request({ do: 'put', id: 1, seen: 0, name: 'x', descriptors: [await memory('text')] })
    const lease: any = await one!.request({ do: 'take', id: 2, seen: 1, name: 'x' })
    lease.descriptors[0].close()
    t.like(await two!.request(hello(1)), { known: true, leases: [lease.entry] })
    const error = await one!.closed
    t.is(error?.code, 'ERR_PASSFD_PEER')
    await refuses(t, three!, { do: 'take', name: 'x' }, 'LEASED')
    t.is(await two!.request({ do: 'release', id: 3, seen: 2, entry: lease.entry }), null)
    const again: any = await three!.request({ do: 'take', name: 'x' })
    t.is(await textIn(again.descriptors[0]), 'text')
    t.is(await three!.request({ do: 'keep', entry: again.entry }), null)
    await refuses(t, two!, hello(1), 'REQUEST')
    await refuses(t, three!, hello(2), 'REQUEST')
    t.is(store.status.names, 0)
  }, 3))

test('a hello on an older channel does not win', t =>
  withChannels(async ([one, two]) => {
    await two!.request(hello(1))
    await t.throwsAsync(one!.request(hello(1)))
    await one!.closed
    t.deepEqual(await two!.request({ do: 'list' }), { entries: [] })
  }, 2))

test('a take whose answer can’t be sent gives the entry back', t =>
  withChannels(async ([one, two]) => {
    await one!.request({ do: 'put', name: 'x', descriptors: [Descriptor.memfd(), Descriptor.memfd()] })
    await t.throwsAsync(one!.request({ do: 'take', name: 'x' }, { descriptors: 1 }))
    const first: any = await two!.request({ do: 'take', name: 'x' }, { descriptors: 2 })
    for (const each of first.descriptors) each.close()
    await two!.request({ do: 'release', entry: first.entry })
    // Given up: the lease ends with the channel
    const controller = new AbortController()
    const taken = one!.request({ do: 'take', name: 'x' }, { descriptors: 2, signal: controller.signal })
    controller.abort()
    await t.throwsAsync(taken, { code: 'ABORT_ERR' })
    await one!.close()
    let lease: any
    do lease = await two!.request({ do: 'take', name: 'x' }, { descriptors: 2 }).catch(() => undefined)
    while (lease === undefined)
    for (const each of lease.descriptors) each.close()
    t.is(await two!.request({ do: 'keep', entry: lease.entry }), null)
  }, 2))

test('a hang-up removes sockets by default, and pipes only when that was asked for', t =>
  withChannels(async ([channel], store) => {
    const pairs = [1, 2, 3].map(() => Descriptor.socketpair())
    const pipes = [1, 2].map(() => Descriptor.pipe())
    const request = (name: string, descriptor: Descriptor, more = {}) =>
      channel!.request({ do: 'put', name, descriptors: [descriptor], ...more })
    await request('socket', pairs[0]![0])
    await request('stays', pairs[1]![0], { poll: false })
    await request('pipe', pipes[0]!.readable)
    await request('polled', pipes[1]!.readable, { poll: true })
    await channel!.request({ do: 'put', name: 'several', descriptors: [Descriptor.memfd(), pairs[2]![0]] })
    await request('listener', await Descriptor.bind({ port: 0, host: '127.0.0.1' }))
    await request('udp', await Descriptor.bind({ type: 'udp4', port: 0, address: '127.0.0.1' }))
    const [dead, other] = Descriptor.socketpair()
    other.close()
    await request('dead', dead)
    await refuses(t, channel!, { do: 'put', name: 'file', descriptors: [Descriptor.memfd()], poll: true }, 'POLL')
    const listener = await Descriptor.bind({ path: socketPath() })
    await refuses(t, channel!, { do: 'put', name: 'file', descriptors: [listener], poll: true }, 'POLL')
    await until(() => store.status.names === 7, 'what had hung up before is removed')
    const { entries } = await channel!.request<any>({ do: 'list' })
    t.deepEqual(Object.fromEntries(entries.map(({ name, poll }: any) => [name, poll])), {
      socket: true,
      stays: false,
      pipe: false,
      polled: true,
      several: true,
      listener: false,
      udp: false
    })
    for (const [, right] of pairs) right.close()
    for (const { writable } of pipes) writable.close()
    await until(() => store.status.names === 4, 'socket, polled and several are gone')
    const left = (await channel!.request<any>({ do: 'list' })).entries.map(({ name }: any) => name)
    t.deepEqual(left, ['stays', 'pipe', 'listener', 'udp'])
  }))

test('bytes that wait in a polled socket, and a half-closed one, are no hang-up', t =>
  withChannels(async ([channel], store) => {
    const [left, right] = Descriptor.socketpair()
    await channel!.request({ do: 'put', name: 'x', descriptors: [left] })
    const socket = right.toSocket()
    socket.end('text')
    await new Promise(resolve => socket.once('finish', resolve))
    for (let i = 0; i < 20; i++) await channel!.request({ do: 'list' })
    t.is(store.status.names, 1)
    const taken: any = await channel!.request({ do: 'take', name: 'x' })
    socket.destroy()
    await new Promise(resolve => socket.once('close', resolve))
    for (let i = 0; i < 20; i++) await channel!.request({ do: 'list' })
    t.is(store.status.names, 1, 'it is leased')
    await channel!.request({ do: 'release', entry: taken.entry })
    t.is(store.status.names, 0, 'it is removed when it comes back')
    const stream = taken.descriptors[0].toSocket()
    t.is(String(await new Promise(resolve => stream.once('data', resolve))), 'text')
    stream.destroy()
  }))

test('where a store may listen, and what is refused before that', async t => {
  const path = socketPath()
  for (const [address, options] of [
    [3],
    [''],
    [{}],
    [{ path: 3 }],
    [{ path: 'a\0b' }],
    [path, { takeover: 3 }],
    [path, { takeover: '' }],
    [{ activated: 'x' }, { takeover: true }],
    [path, { rules: {} }],
    [path, { rules: [{}] }],
    [path, { rules: [{ user: 'nobody-of-this-name' }] }],
    [path, { rules: [{ user: 0, names: 'a*b' }] }],
    [path, { rules: [{ user: 0, read: 1 }] }],
    [path, { quota: { names: -1 } }],
    [path, { total: { bytes: 0.5 } }],
    [path, { quotas: 3 }],
    [path, { quotas: { 'nobody-of-this-name': {} } }],
    [path, { maxConnections: 0 }],
    [path, { maxConnectionsPerUser: 0 }],
    [path, { authorize: 3 }],
    [path, { signal: 3 }]
  ] as [any, any?][])
    await t.throwsAsync(openStore(address, options), code('INVALID_ARGUMENT'), JSON.stringify([address, options]))
  await t.throwsAsync(openStore(path, { signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  await t.throwsAsync(openStore({ activated: 'store' }), code('ACTIVATED_NONE'))
  const store = await openStore({ activated: 'store', path })
  const client = await connectStore({ path })
  await client.close()
  await store.close()
  await store.close()
  await store.ended
})

test('peers that authorize refuses are told, and the program hears of them', async t => {
  const path = socketPath()
  const store = await openStore(path, { authorize: () => false })
  const refused: string[] = []
  store.on('refused', (_, { code: key }) => refused.push(key!))
  await t.throwsAsync(connectStore(path), { ...code('PEER') })
  t.deepEqual(refused, ['ERR_PASSFD_UNAUTHORIZED'])
  await store.close()
})

test('watches are bounded for each client and for each user; ended ones make room', t =>
  withChannels(async channels => {
    const watch = (channel: Channel<any, any>, number: number) => channel.request({ do: 'watch', watch: number })
    for (let i = 0; i < 64; i++) for (let number = 0; number < 16; number++) await watch(channels[i]!, number)
    const [first, last] = [channels[0]!, channels[64]!]
    await refuses(t, first, { do: 'watch', watch: 16 }, 'FULL')
    await refuses(t, first, { do: 'watch', watch: 1 }, 'REQUEST')
    await refuses(t, last, { do: 'watch', watch: 0 }, 'FULL')
    await first.request({ do: 'unwatch', watch: 3 })
    t.is(await watch(last, 0), null)
    await refuses(t, last, { do: 'watch', watch: 1 }, 'FULL')
    await channels[1]!.close()
    await watch(last, 1)
  }, 65))

test('a request that is long to decode ends its channel before it is decoded; what is longer than a put can’t be sent', t =>
  withChannels(async ([one, two], store) => {
    await one!.request({ do: 'list', further: Array(60).fill([]) })
    t.throws(() => one!.request({ do: 'list', further: 'x'.repeat(81_920) }), code('MESSAGE_TOO_LARGE'))
    await t.throwsAsync(one!.request({ do: 'list', further: Array(64).fill([]) }), code('CLOSED'))
    t.is((await one!.closed)!.code, 'ERR_PASSFD_PEER')
    const descriptors = Array.from({ length: 253 }, () => Descriptor.memfd())
    const name = 'x'.repeat(255)
    await two!.request({ do: 'put', name, descriptors, value: Buffer.alloc(65_536), ttl: 2 ** 40, poll: false })
    t.like(store.status, { names: 1, descriptors: 253, bytes: 65_791 })
  }, 2))

test('what a client has kept is told in several requests', t =>
  withChannels(async ([one, two]) => {
    await one!.request(hello(1))
    const { entry }: any = await one!.request(put('x', { keep: true }))
    await two!.request(hello(2))
    t.deepEqual(await two!.request({ do: 'kept', entries: [entry, 9, 10] }), { gone: [9, 10] })
    const told = new Promise<any>(resolve => two!.once('message', resolve))
    t.true(await one!.request({ do: 'remove', name: 'x' }))
    t.deepEqual((await told).value, { event: 'gone', entry })
  }, 2))
