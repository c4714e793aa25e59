import { randomBytes } from 'node:crypto'
import { type Channel, connect, Descriptor, listen, type RemoteError } from '../../src/index.ts'
import { connectStore, openStore, type Store } from '../../src/store/index.ts'
import { socketPath } from '../helpers/path.ts'
import { Holder, identity } from '../helpers/stores.ts'
import { test, until } from '../helpers/test.ts'

/** One channel of a client, as docs/store-protocol.md has it. */
class Raw {
  readonly channel: Awaited<ReturnType<typeof connect<any, any>>>
  readonly told: any[] = []

  private constructor(channel: Raw['channel']) {
    this.channel = channel
    channel.on('message', ({ value }) => void this.told.push(value))
  }

  static async open(path: string): Promise<Raw> {
    return new Raw(await connect<any, any>(path))
  }

  static async hello(path: string, client: Buffer, kept: number[] = []): Promise<{ raw: Raw; welcome: any }> {
    const raw = await Raw.open(path)
    return { raw, welcome: await raw.ask({ do: 'hello', store: 1, client, kept }) }
  }

  async ask(request: object): Promise<any> {
    return this.channel.request(request, { descriptors: 253 })
  }

  async put(id: number, name: string, more: object = {}): Promise<any> {
    return this.ask({ do: 'put', id, seen: id - 1, name, descriptors: [Descriptor.memfd(name)], ...more })
  }

  /** The code of the store's fault. */
  async fails(request: object): Promise<string> {
    try {
      await this.ask(request)
      return ''
    } catch (error) {
      const { code, remote } = error as { code: string; remote?: RemoteError }
      return remote?.code ?? code
    }
  }

  /** Ends it without a word. */
  async lose(): Promise<void> {
    this.channel.destroy()
    await this.channel.closed
  }
}

async function withStore(body: (path: string, store: Store) => Promise<void>): Promise<void> {
  const path = socketPath()
  await using store = await openStore(path)
  await body(path, store)
}

function closeAll({ descriptors }: { descriptors: readonly Descriptor[] }): void {
  for (const one of descriptors) one.close()
}

test('a put that is repeated is done once, also when its entry was taken meanwhile', t =>
  withStore(async (path, store) => {
    const client = randomBytes(16)
    const { raw, welcome } = await Raw.hello(path, client)
    t.like(welcome, { store: 1, known: false, gone: [], leases: [] })
    t.deepEqual(await raw.put(1, 'a', { keep: true }), { entry: 1 })
    await raw.lose()
    const other = (await Raw.hello(path, randomBytes(16))).raw
    closeAll(await other.ask({ do: 'take', id: 1, seen: 0, name: 'a' }))
    await other.ask({ do: 'keep', id: 2, seen: 1, entry: 1 })
    const again = await Raw.hello(path, client)
    t.like(again.welcome, { known: true, epoch: welcome.epoch })
    t.deepEqual(await again.raw.put(1, 'a', { keep: true }), { entry: 1, gone: true })
    t.is(store.status.names, 0)
    for (const one of [other, again.raw]) await one.lose()
  }))

test('what a client has the answer to is never done again', t =>
  withStore(async (path, store) => {
    const { raw } = await Raw.hello(path, randomBytes(16))
    await raw.put(1, 'a')
    t.true(await raw.ask({ do: 'remove', id: 2, seen: 1, name: 'a' }))
    const failure = (await raw.put(1, 'a').catch((error: unknown) => error)) as { remote?: RemoteError }
    t.is(failure.remote?.code, 'ERR_PASSFD_STORE_REQUEST')
    t.is(store.status.names, 0)
    await raw.lose()
  }))

test('hello ends the older channel of a client, and leases go over to the new one', t =>
  withStore(async (path, store) => {
    const client = randomBytes(16)
    const late = await Raw.open(path)
    const { raw } = await Raw.hello(path, client)
    await raw.put(1, 'a')
    const taken = await raw.ask({ do: 'take', id: 2, seen: 1, name: 'a' })
    const next = await Raw.hello(path, client)
    t.deepEqual(next.welcome.leases, [1])
    await raw.channel.closed
    // Its end gives nothing back
    await until(() => store.status.clients === 2, 'the older channel has ended')
    t.is(await late.fails({ do: 'take', name: 'a' }), 'ERR_PASSFD_STORE_LEASED')
    t.is(await next.raw.fails({ do: 'take', id: 3, seen: 1, name: 'a' }), 'ERR_PASSFD_STORE_LEASED')
    // The same take gives it again
    const again = await next.raw.ask({ do: 'take', id: 2, seen: 1, name: 'a' })
    t.is(again.entry, 1)
    t.deepEqual(identity(again.descriptors[0]), identity(taken.descriptors[0]))
    t.is(await next.raw.ask({ do: 'keep', id: 4, seen: 3, entry: 1 }), null)
    t.is(await next.raw.ask({ do: 'keep', id: 4, seen: 3, entry: 1 }), null)
    t.is(await next.raw.fails({ do: 'keep', id: 5, seen: 4, entry: 1 }), 'ERR_PASSFD_STORE_LEASE_OVER')
    for (const one of [taken, again]) closeAll(one)
    for (const one of [late, next.raw]) await one.lose()
  }))

test('a hello that comes late on an older channel ends that one', t =>
  withStore(async path => {
    const client = randomBytes(16)
    const older = await Raw.open(path)
    const { raw } = await Raw.hello(path, client)
    await raw.put(1, 'a')
    closeAll(await raw.ask({ do: 'take', id: 2, seen: 1, name: 'a' }))
    t.not(await older.fails({ do: 'hello', store: 1, client }), '')
    await older.channel.closed
    t.is(await raw.ask({ do: 'release', id: 3, seen: 2, entry: 1 }), null)
    await raw.lose()
  }))

test('a take whose lease is over is a new request; a lease comes back with the end of its channel', t =>
  withStore(async path => {
    const client = randomBytes(16)
    const { raw } = await Raw.hello(path, client)
    await raw.put(1, 'a')
    closeAll(await raw.ask({ do: 'take', id: 2, seen: 1, name: 'a' }))
    await raw.lose()
    const other = (await Raw.hello(path, randomBytes(16))).raw
    const taken = await untilTaken(other)
    const again = await Raw.hello(path, client)
    t.deepEqual(again.welcome.leases, [])
    t.is(await again.raw.fails({ do: 'take', id: 2, seen: 1, name: 'a' }), 'ERR_PASSFD_STORE_LEASED')
    t.is(await other.ask({ do: 'release', id: 100, seen: 99, entry: 1 }), null)
    closeAll(await again.raw.ask({ do: 'take', id: 2, seen: 1, name: 'a' }))
    closeAll(taken)
    for (const one of [other, again.raw]) await one.lose()
  }))

/** The end of a channel is seen when it is. */
async function untilTaken(raw: Raw): Promise<any> {
  for (let id = 1; ; id++) {
    const taken = await raw.ask({ do: 'take', id, seen: id - 1, name: 'a' }).catch(() => undefined)
    if (taken !== undefined) return taken
  }
}

test('gone in the answer to hello: what is not there any more, and what is another user’s', t =>
  withStore(async path => {
    const client = randomBytes(16)
    const { raw } = await Raw.hello(path, client)
    for (const [index, name] of ['a', 'b', 'c'].entries()) await raw.put(index + 1, name, { keep: true })
    t.true(await raw.ask({ do: 'remove', id: 4, seen: 3, name: 'b' }))
    await until(() => raw.told.length > 0, 'gone')
    t.deepEqual(raw.told, [{ event: 'gone', entry: 2 }])
    await raw.lose()
    const again = await Raw.hello(path, client, [1, 2, 3, 77])
    t.deepEqual(again.welcome.gone, [2, 77])
    t.true(await again.raw.ask({ do: 'remove', id: 5, seen: 4, name: 'c' }))
    await until(() => again.raw.told.length > 0, 'gone')
    t.deepEqual(again.raw.told, [{ event: 'gone', entry: 3 }])
    await again.raw.lose()
  }))

test('a takeover keeps the leases and results of 100 clients that are one user’s', async t => {
  const path = socketPath()
  const store = await Holder.open(path)
  const clients = Array.from({ length: 100 }, () => randomBytes(16))
  const before: { raw: Raw; epoch: Buffer; entry: number }[] = []
  for (const [index, client] of clients.entries()) {
    const { raw, welcome } = await Raw.hello(path, client)
    const { entry } = await raw.put(1, `${index}`)
    await raw.put(2, `moved${index}`)
    closeAll(await raw.ask({ do: 'take', id: 3, seen: 1, name: `${index}` }))
    before.push({ raw, entry, epoch: welcome.epoch })
  }
  const successor = await store.replace(path)
  for (const [index, client] of clients.entries()) {
    const { raw, welcome } = await Raw.hello(path, client)
    const { epoch, entry } = before[index]!
    t.deepEqual(welcome, { store: 1, epoch, known: true, gone: [], leases: [entry] })
    // Done by the predecessor
    t.deepEqual(await raw.put(2, `moved${index}`, { seen: 1 }), { entry: entry + 1 })
    t.is(await raw.ask({ do: 'keep', id: 4, seen: 2, entry }), null)
    await raw.lose()
  }
  for (const { raw } of before) await raw.lose()
  await successor.close()
})

/** A store that does what the test says. */
async function fake(
  answer: (request: any, channel: Channel<any, any>) => unknown
): Promise<{ path: string; close(): Promise<void> }> {
  const path = socketPath()
  const server = await listen<any, any>(path)
  server.serve(({ value, channel }) => answer(value, channel))
  return { path, close: () => server.close() }
}

test('a keep that was done, whose answer was lost, is kept', async t => {
  const asked: any[] = []
  const { path, close } = await fake((request, channel) => {
    asked.push({ ...request, descriptors: undefined })
    const keeps = asked.filter(({ do: what }) => what === 'keep').length
    if (request.do === 'hello')
      return { store: 1, epoch: Buffer.alloc(16, 1), known: asked.length > 1, gone: [], leases: [] }
    if (request.do === 'take')
      return { entry: 7, name: 'a', owner: 0, kinds: ['memfd'], descriptors: [Descriptor.memfd('a')] }
    if (keeps === 1) return channel.destroy()
    return null
  })
  {
    await using client = await connectStore(path)
    const lease = (await client.take('a'))!
    await lease.keep()
    lease.descriptor.close()
    const [first, second] = asked.filter(({ do: what }) => what === 'keep')
    t.deepEqual(second, first)
    t.like(first, { entry: 7, id: 2, seen: 1 })
  }
  await close()
})

test('a put that was under way is not repeated to a store that does not know this client any more', async t => {
  let hellos = 0
  const { path, close } = await fake((request, channel) => {
    if (request.do === 'hello')
      return { store: 1, epoch: Buffer.alloc(16, 1), known: ++hellos !== 2, gone: [], leases: [] }
    if (hellos === 1) return channel.destroy()
    return { entry: 1 }
  })
  {
    await using client = await connectStore(path)
    const file = Descriptor.memfd('a')
    await t.throwsAsync(client.put('a', file), { code: 'ERR_PASSFD_STORE_UNKNOWN' })
    t.false(file.closed)
    // What was not sent before is sent
    await client.put('a', file)
    t.true(file.closed)
  }
  await close()
})

test('a lease is over when its store has said goodbye, with a code or without, and another one answers', async t => {
  for (const how of ['destroy', 'close'] as const) {
    let hellos = 0
    const { path, close } = await fake((request, channel) => {
      if (request.do === 'hello')
        return { store: 1, epoch: Buffer.alloc(16, ++hellos), known: false, gone: [], leases: [] }
      if (request.do === 'take')
        return { entry: 7, name: 'a', owner: 0, kinds: ['memfd'], descriptors: [Descriptor.memfd('a')] }
      if (request.do === 'list') return { entries: [] }
      // The first store ends when it is asked for a removal
      if (hellos === 1) return void channel[how]()
      return request.do === 'remove' ? true : Promise.reject(new Error(`asked for ${request.do}`))
    })
    {
      await using client = await connectStore(path)
      const lease = (await client.take('a'))!
      await client.remove('b')
      await t.throwsAsync(lease.keep(), { code: 'ERR_PASSFD_STORE_LEASE_OVER' })
      t.is(hellos, 2)
      lease.descriptor.close()
    }
    await close()
  }
})
