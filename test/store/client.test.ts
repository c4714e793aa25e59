/** What a client does with a store in this process: put, take, copy, list, remove, watch, obtain. */
import { Descriptor, listen } from '../../src/index.ts'
import { connectStore, openStore } from '../../src/store/index.ts'
import { identity } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { memory, textIn, withStore } from '../helpers/store.ts'
import { test, until } from '../helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })

test('put moves a descriptor into the store, and copy gives duplicates of it', t =>
  withStore(async (_, [client], store) => {
    const descriptor = await memory('hello')
    const before = identity(descriptor.borrow())
    t.deepEqual(await client!.put('greeting', descriptor, { value: { from: 'a', list: [1, null, 2.5, true] } }), {
      entry: 1
    })
    t.true(descriptor.closed)
    for (let i = 0; i < 3; i++) {
      const copy = await client!.copy('greeting')
      t.is(copy!.name, 'greeting')
      t.is(copy!.descriptors.length, 1)
      t.is(copy!.descriptors[0], copy!.descriptor)
      t.deepEqual(copy!.value, { from: 'a', list: [1, null, 2.5, true] })
      t.is(identity(copy!.descriptor.borrow()), before, 'the same open file')
      t.is(await textIn(copy!.descriptor), 'hello')
    }
    t.like(store.status, { names: 1, descriptors: 1, clients: 1 })
  }))

test('what is not there is undefined, and false for remove', t =>
  withStore(async (_, [client]) => {
    t.is(await client!.copy('x'), undefined)
    t.is(await client!.take('x'), undefined)
    t.is(await client!.remove('x'), false)
    t.deepEqual(await client!.list(), [])
    t.is(client!.forget('x'), false)
  }))

test('an entry may have several descriptors, in their order, up to 253', t =>
  withStore(async (_, [client]) => {
    const many = Array.from({ length: 253 }, () => Descriptor.memfd())
    const names = many.map(one => identity(one.borrow()))
    await client!.put('many', many)
    t.true(many.every(({ closed }) => closed))
    const copies = await Promise.all([1, 2, 3, 4, 5].map(() => client!.copy('many')))
    for (const copy of copies) {
      t.deepEqual(
        copy!.descriptors.map(one => identity(one.borrow())),
        names
      )
      for (const one of copy!.descriptors) one.close()
    }
    t.is((await client!.list())[0]!.kinds.length, 253)
    const one = Descriptor.memfd()
    await t.throwsAsync(client!.put('x', Array(254).fill(one)), code('INVALID_ARGUMENT'))
    await t.throwsAsync(client!.put('x', []), code('INVALID_ARGUMENT'))
    await t.throwsAsync(client!.put('x', [one, 3 as never]), code('INVALID_ARGUMENT'))
    await t.throwsAsync(client!.put('x', { fd: 3 } as never), code('INVALID_ARGUMENT'))
    t.false(one.closed)
    one.close()
    await t.throwsAsync(client!.put('x', one), code('DESCRIPTOR_CLOSED'))
  }))

test('names are unique; what is refused stays the caller’s', t =>
  withStore(async (_, [client], store) => {
    const [one, two] = [await memory('one'), await memory('two')]
    await client!.put('x', one)
    await t.throwsAsync(client!.put('x', two), code('STORE_EXISTS'))
    t.false(two.closed)
    t.deepEqual(await client!.put('x', two, { replace: true }), { entry: 2 })
    t.true(two.closed)
    t.is(await textIn((await client!.copy('x'))!.descriptor), 'two')
    t.is(store.status.descriptors, 1)
    t.true(await client!.remove('x'))
    t.false(await client!.remove('x'))
    t.like(store.status, { descriptors: 0, names: 0, bytes: 0 })
  }))

test('misuse is refused before anything is sent', t =>
  withStore(async (_, [client], store) => {
    const one = Descriptor.memfd()
    for (const name of ['', 'a:b', 'a*', 'ä', 'a\n', 'x'.repeat(256), 3, undefined])
      await t.throwsAsync(client!.put(name as string, one), code('INVALID_ARGUMENT'), `${name}`)
    for (const options of [
      { ttl: 0 },
      { ttl: 1.5 },
      { ttl: '1' },
      { poll: 1 },
      { keep: 'yes' },
      { replace: null },
      { owner: 'nobody-of-this-name' },
      { owner: -1 },
      { owner: 2 ** 32 }
    ])
      await t.throwsAsync(client!.put('x', one, options as object), code('INVALID_ARGUMENT'), JSON.stringify(options))
    await t.throwsAsync(client!.put('x', one, { value: one }), code('ENCODE'))
    await t.throwsAsync(client!.put('x', one, { value: [() => {}] }), code('ENCODE'))
    await t.throwsAsync(client!.put('x', one, { value: 'x'.repeat(65_536) }), code('STORE_FULL'))
    await t.throwsAsync(client!.list({ names: 'a*b' }), code('INVALID_ARGUMENT'))
    await t.throwsAsync(client!.list({ names: '' }), code('INVALID_ARGUMENT'))
    await t.throwsAsync(client!.obtain('x', 3 as never), code('INVALID_ARGUMENT'))
    t.false(one.closed)
    t.is(store.status.names, 0)
    await client!.put('x', one, { value: 'x'.repeat(65_533) })
  }))

test('take is a lease: the entry is this client’s when it says keep', t =>
  withStore(
    async (_, [one, two], store) => {
      await one!.put('x', await memory('text'), { value: 7 })
      const lease = (await one!.take('x'))!
      t.is(lease.value, 7)
      t.is(lease.name, 'x')
      t.deepEqual(lease.kinds, ['memfd'])
      t.is((await one!.list())[0]!.leased, process.pid)
      for (const client of [one!, two!]) {
        await t.throwsAsync(client.take('x'), code('STORE_LEASED'))
        await t.throwsAsync(client.copy('x'), code('STORE_LEASED'))
        await t.throwsAsync(client.remove('x'), code('STORE_LEASED'))
      }
      const other = Descriptor.memfd()
      await t.throwsAsync(two!.put('x', other), code('STORE_EXISTS'))
      await t.throwsAsync(two!.put('x', other, { replace: true }), code('STORE_LEASED'))
      other.close()
      t.is(store.status.descriptors, 1, 'the store has its copy')
      await lease.keep()
      t.is(store.status.descriptors, 0)
      t.is(await textIn(lease.descriptor), 'text')
      await t.throwsAsync(lease.keep(), code('STORE_LEASE_OVER'))
      await t.throwsAsync(lease.release(), code('STORE_LEASE_OVER'))
    },
    { clients: 2 }
  ))

test('release closes what was taken, and gives the entry back', t =>
  withStore(async (_, [client]) => {
    await client!.put('x', await memory('text'))
    const lease = (await client!.take('x'))!
    await lease.release()
    t.true(lease.descriptor.closed)
    {
      await using again = (await client!.take('x'))!
      t.is(again.entry, lease.entry)
    }
    const used = (await client!.take('x'))!
    t.is(await textIn(used.descriptor), 'text') // converts it
    await used.release()
    const copy = await client!.copy('x')
    t.is(await textIn(copy!.descriptor), 'text')
  }))

test('what a client has taken comes back when it ends before it says keep', t =>
  withStore(
    async (path, [one], store) => {
      const two = await connectStore(path)
      await one!.put('x', await memory('text'))
      const lease = (await two.take('x'))!
      await two.close()
      lease.descriptor.close()
      await until(() => store.status.clients === 1, 'it is gone')
      const again = (await one!.take('x'))!
      t.is(await textIn(again.descriptor), 'text')
      await again.keep()
      await t.throwsAsync(lease.keep(), code('STORE_CLIENT_CLOSED'))
    },
    { clients: 1 }
  ))

test('ttl: the entry expires, or when it comes back if it is leased', t =>
  withStore(async (_, [client]) => {
    await client!.put('short', Descriptor.memfd(), { ttl: 1 })
    await client!.put('leased', Descriptor.memfd(), { ttl: 300 })
    await client!.put('long', Descriptor.memfd(), { ttl: 2 ** 40 })
    await client!.put('never', Descriptor.memfd())
    const changes = client!.watch()
    const { value: list } = await changes.next()
    const ttl = Object.fromEntries((list as any).entries.map((each: any) => [each.name, each.ttl]))
    t.true(ttl.long > 2 ** 40 - 60_000 && ttl.long <= 2 ** 40, `${ttl.long}`)
    t.is(ttl.never, undefined)
    const lease = (await client!.take('leased'))!
    while ((await client!.copy('short')) !== undefined);
    let left = 1
    while (left > 0) left = (await client!.list({ names: 'leased' }))[0]!.ttl!
    t.is((await client!.list({ names: 'leased' })).length, 1, 'it is leased')
    await lease.release()
    t.is(await client!.copy('leased'), undefined)
    const events: string[] = []
    for await (const change of changes) {
      if (change.event === 'list') continue
      events.push(`${change.event} ${change.entry.name}`)
      if (change.event === 'expired' && change.entry.name === 'leased') break
    }
    t.deepEqual(
      events.filter(event => event.endsWith('leased')),
      ['leased leased', 'expired leased']
    )
  }))

test('obtain: the first makes it, all others get copies of the same socket, however many at once', t =>
  withStore(
    async (path, clients) => {
      let made = 0
      const listener = (): Promise<Descriptor> => {
        made++
        return Descriptor.bind({ port: 0, host: '127.0.0.1' })
      }
      const got = await Promise.all(clients.map(client => client.obtain('http', listener)))
      t.is(new Set(got.map(one => identity(one.borrow()))).size, 1)
      t.true(made >= 1)
      for (const one of got) one.close()
      const entries = await clients[0]!.list()
      t.like(entries, [{ name: 'http', kinds: ['tcp-listener'], keep: true, poll: false }])
      const before = made
      const client = await connectStore(path)
      const again = await client.obtain('http', listener)
      t.is(made, before)
      again.close()
      await client.close()
    },
    { clients: 5 }
  ))

test('obtain: an address that another process has bound, and is about to put, is waited for', t =>
  withStore(
    async (_, [one, two]) => {
      const first = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
      const server = await first.dup().toServer()
      const { port } = server.address() as { port: number }
      server.close()
      let tries = 0
      const second = two!.obtain('http', async () => {
        if (++tries === 3) await one!.put('http', first.dup())
        return Descriptor.bind({ port, host: '127.0.0.1' })
      })
      const found = await second
      t.is(identity(found.borrow()), identity(first.borrow()))
      found.close()
      first.close()
      await t.throwsAsync(
        two!.obtain('other', () => Promise.reject(new RangeError('mine'))),
        { message: 'mine' }
      )
    },
    { clients: 2 }
  ))

test('list selects by name and by the beginning of names, in the order of putting, in parts', t =>
  withStore(async (_, [client]) => {
    for (let i = 0; i < 1234; i++) await client!.put(i % 2 === 0 ? `even-${i}` : `odd-${i}`, Descriptor.memfd())
    for (let i = 0; i < 600; i += 2) await client!.remove(`even-${i}`)
    const all = await client!.list()
    t.is(all.length, 934)
    t.deepEqual(
      all.map(({ entry }) => entry),
      all.map(({ entry }) => entry).toSorted((a, b) => a - b)
    )
    t.is((await client!.list({ names: 'even-*' })).length, 317)
    t.deepEqual(
      (await client!.list({ names: 'odd-7' })).map(({ name }) => name),
      ['odd-7']
    )
    t.deepEqual(await client!.list({ names: 'odd' }), [])
    t.is((await client!.list({ names: '*' })).length, 934)
    t.is((await client!.list({ owner: 'root' })).length, 934)
    t.deepEqual(await client!.list({ owner: 1 }), [])
  }))

test('watch: first what is there, then what happens, in order', t =>
  withStore(
    async (_, [one, two]) => {
      await one!.put('a', Descriptor.memfd())
      const changes = two!.watch({ names: 'a*' })
      const seen: string[] = []
      const next = async (): Promise<void> => {
        const { value } = await changes.next()
        seen.push(
          value.event === 'list'
            ? `list ${value.entries.map((each: any) => each.name)}`
            : `${value.event} ${value.entry.name}`
        )
      }
      await next()
      await one!.put('b', Descriptor.memfd())
      await one!.put('ab', Descriptor.memfd())
      await one!.put('ab', Descriptor.memfd(), { replace: true })
      const lease = (await one!.take('a'))!
      await lease.release()
      const kept = (await one!.take('a'))!
      await kept.keep()
      kept.descriptor.close()
      await one!.remove('ab')
      for (let i = 0; i < 8; i++) await next()
      t.deepEqual(seen, [
        'list a',
        'put ab',
        'replaced ab',
        'put ab',
        'leased a',
        'returned a',
        'leased a',
        'kept a',
        'removed ab'
      ])
      t.deepEqual(await changes.return!(), { done: true, value: undefined })
      t.deepEqual(await changes.next(), { done: true, value: undefined })
    },
    { clients: 2 }
  ))

test('a watch of thousands of entries is complete, also while they change', t =>
  withStore(
    async (_, [one, two]) => {
      for (let i = 0; i < 1000; i++) await one!.put(`n-${i}`, Descriptor.memfd())
      const changes = two!.watch()
      const there = new Map<number, string>()
      const changing = (async () => {
        for (let i = 0; i < 1000; i += 3) await one!.remove(`n-${i}`)
        for (let i = 0; i < 300; i++) await one!.put(`m-${i}`, Descriptor.memfd())
        await one!.put('last', Descriptor.memfd())
      })()
      for await (const change of changes) {
        if (change.event === 'list') {
          there.clear()
          for (const { entry, name } of change.entries) there.set(entry, name)
        } else if (change.event === 'put') there.set(change.entry.entry, change.entry.name)
        else there.delete(change.entry.entry)
        if ([...there.values()].includes('last')) break
      }
      await changing
      const entries = await one!.list()
      t.deepEqual(
        [...there].sort(([a], [b]) => a - b),
        entries.map(({ entry, name }) => [entry, name] as [number, string])
      )
    },
    { clients: 2 }
  ))

test('a watch that is not read gets a new list, and the store and the client keep no more than a bound', t =>
  withStore(
    async (_, [one, two]) => {
      const changes = two!.watch()
      await changes.next()
      for (let i = 0; i < 2500; i++) {
        await one!.put('x', Descriptor.memfd())
        await one!.remove('x')
      }
      await one!.put('end', Descriptor.memfd())
      const events: string[] = []
      for await (const change of changes) {
        events.push(change.event)
        const entries = change.event === 'list' ? change.entries : [change.entry]
        if (entries.some(({ name }) => name === 'end')) break
      }
      t.true(events.length <= 4096, `${events.length}`)
      t.is(events[0], 'list', 'what was missed is replaced by a list')
    },
    { clients: 2 }
  ))

test('a watch ends by its signal, with its client, and by an error of the store', t =>
  withStore(
    async (_, [one, two]) => {
      const controller = new AbortController()
      const changes = one!.watch({ signal: controller.signal })
      await changes.next()
      const next = changes.next()
      controller.abort()
      t.deepEqual(await next, { done: true, value: undefined })
      t.deepEqual(await one!.watch({ signal: AbortSignal.abort() }).next(), { done: true, value: undefined })
      const many = Array.from({ length: 17 }, () => one!.watch())
      const first = await Promise.allSettled(many.map(each => each.next()))
      t.is(first.filter(({ status }) => status === 'rejected').length, 1, 'at most 16')
      t.like(
        first.find(({ status }) => status === 'rejected'),
        { reason: code('STORE_FULL') }
      )
      const other = two!.watch()
      await other.next()
      const last = other.next()
      await two!.close()
      t.deepEqual(await last, { done: true, value: undefined })
    },
    { clients: 2 }
  ))

test('a client that was closed refuses all, and closes its copies', t =>
  withStore(async (path, _, store) => {
    const client = await connectStore(path)
    await client.put('x', Descriptor.memfd(), { keep: true })
    const one = Descriptor.memfd()
    await client.close()
    await client.close()
    await t.throwsAsync(client.put('y', one), code('STORE_CLIENT_CLOSED'))
    await t.throwsAsync(client.take('x'), code('STORE_CLIENT_CLOSED'))
    await t.throwsAsync(client.list(), code('STORE_CLIENT_CLOSED'))
    one.close()
    await until(() => store.status.clients === 1, 'it is gone')
    t.is(store.status.names, 1, 'the store holds it')
  }))

test('connectStore rejects where no store is, and for what is no store', async t => {
  const path = socketPath()
  await t.throwsAsync(connectStore(path), { code: 'ENOENT' })
  await t.throwsAsync(connectStore(path, { signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  await t.throwsAsync(connectStore(3 as never), code('INVALID_ARGUMENT'))
  await t.throwsAsync(connectStore(path, { reconnectTimeout: -1 }), code('INVALID_ARGUMENT'))
  const server = await listen(path)
  server.serve(() => 3)
  await t.throwsAsync(connectStore(path), code('STORE_REQUEST'))
  await server.close()
})

test('keep: the client hears when its entry is gone, whoever it was', t =>
  withStore(
    async (_, [one, two]) => {
      const gone: string[] = []
      one!.on('gone', ({ name }) => gone.push(name))
      const put = (name: string, more = {}) => one!.put(name, Descriptor.memfd(), { keep: true, ...more })
      for (const name of ['removed', 'replaced', 'kept', 'mine', 'stays']) await put(name)
      await put('expired', { ttl: 1 })
      const [left, right] = Descriptor.socketpair()
      await one!.put('hangUp', left, { keep: true })
      right.close()
      await two!.remove('removed')
      await two!.put('replaced', Descriptor.memfd(), { replace: true })
      const kept = (await two!.take('kept'))!
      await kept.keep()
      kept.descriptor.close()
      const mine = (await one!.take('mine'))!
      await mine.release()
      t.true(one!.forget('mine'))
      await one!.remove('mine')
      await until(() => gone.length === 5, `all are told: ${gone}`)
      t.deepEqual(gone.toSorted(), ['expired', 'hangUp', 'kept', 'removed', 'replaced'])
      t.is((await one!.list({ names: 'stays' }))[0]!.keep, true)
    },
    { clients: 2 }
  ))

test('an idle client does not keep the process running, and a store does', async t => {
  const path = socketPath()
  const store = await openStore(path)
  const source = `import { connectStore } from ${JSON.stringify(new URL('../../build/dist/store/index.js', import.meta.url).href)}
    import { Descriptor } from ${JSON.stringify(new URL('../../build/dist/index.js', import.meta.url).href)}
    const client = await connectStore(${JSON.stringify(path)})
    await client.put('x', Descriptor.memfd(), { keep: true })`
  const { exit } = start(process.execPath, ['--input-type=module', '-e', source])
  t.like(await exit, { code: 0, stderr: '' })
  t.is(store.status.names, 1)
  await store.close()
})
