/** A store that is replaced, killed, or lost for a while; and clients that die: in processes of their own. */
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { connectStore, type StoreClient } from '../../src/store/index.ts'
import { identity } from '../helpers/facts.ts'
import { times } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { memory, startProgram, startStore, textIn } from '../helpers/store.ts'
import { openDescriptors, test, testInCi, until } from '../helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })
const TAKEOVER = { takeover: true }

test('a killed client’s lease comes back, whatever it has done with its copies', async t => {
  const path = socketPath()
  await using _ = await startStore(path)
  await using client = await connectStore(path)
  await client.put('x', await memory('text'), { value: 1 })
  await using other = startProgram()
  await other.run(`kept.client = await store.connectStore(${JSON.stringify(path)})
    kept.lease = await kept.client.take('x')`)
  await t.throwsAsync(client.take('x'), { ...code('STORE_LEASED'), message: new RegExp(`${other.pid}`) })
  const changes = client.watch()
  await changes.next()
  await other.kill()
  const { value } = await changes.next()
  t.like(value, { event: 'returned', entry: { name: 'x' } })
  const lease = (await client.take('x'))!
  t.is(await textIn(lease.descriptor), 'text')
  await lease.keep()
  await changes.return!()
})

test('a takeover: entries, values, leases, time to live, polling and what is kept go to the successor', async t => {
  const path = socketPath()
  await using first = await startStore(path, TAKEOVER)
  await using client = await connectStore(path)
  const reconnected: boolean[] = []
  const gone: string[] = []
  client.on('reconnected', ({ lost }) => reconnected.push(lost))
  client.on('gone', ({ name }) => gone.push(name))
  const text = await memory('text')
  const number = identity(text.borrow())
  await client.put('a', text, { value: [1, 2], keep: true })
  await client.put('long', Descriptor.memfd(), { ttl: 60_000 })
  await client.put('short', Descriptor.memfd(), { ttl: 5000 })
  const [left, right] = Descriptor.socketpair()
  await client.put('socket', left)
  await client.put('leased', await memory('mine'))
  await client.put('twice', Descriptor.memfd())
  const lease = (await client.take('leased'))!
  const before = await client.list()
  await using second = await startStore(path, TAKEOVER)
  t.is(await first.run('await kept.store.ended; return kept.store.superseded'), true)
  const after = await client.list()
  t.deepEqual(
    after.map(({ ttl, ...entry }) => entry),
    before.map(({ ttl, ...entry }) => entry)
  )
  t.true(after[1]!.ttl! <= before[1]!.ttl! && after[1]!.ttl! > 30_000)
  t.deepEqual(reconnected, [false])
  t.is(client.peer!.pid, second.pid)
  const copy = (await client.copy('a'))!
  t.is(identity(copy.descriptor.borrow()), number)
  t.deepEqual(copy.value, [1, 2])
  copy.descriptor.close()
  await t.throwsAsync(client.take('leased'), code('STORE_LEASED'))
  await lease.keep()
  t.is(await textIn(lease.descriptor), 'mine')
  right.close()
  const changes = client.watch()
  const events = new Set<string>()
  for await (const change of changes) {
    if (change.event === 'list')
      for (const name of ['socket', 'short']) if (!change.entries.some(entry => entry.name === name)) events.add(name)
    if (change.event === 'hangUp' || change.event === 'expired') events.add(change.entry.name)
    if (events.size === 2) break
  }
  await client.remove('a')
  await until(() => gone.length === 1, 'it is told that a is gone')
  const { entry } = await client.put('new', Descriptor.memfd())
  t.true(entry > before.at(-1)!.entry, 'numbers are not used twice')
  await second.run('await kept.store.close()')
})

test('50 takeovers in a row under traffic: nothing is lost, and nothing is done twice', async t => {
  const path = socketPath()
  let store = await startStore(path, TAKEOVER)
  const clients = await Promise.all(Array.from({ length: 4 }, () => connectStore(path)))
  let stop = false
  let done = 0
  const there = new Map<string, string>()
  const traffic = async (client: StoreClient, who: number): Promise<void> => {
    for (let i = 0; !stop; i++) {
      const name = `${who}-${i % 20}`
      if (there.has(name)) {
        const lease = (await client.take(name))!
        if (lease === undefined) throw new Error(`${name} is lost`)
        if (identity(lease.descriptor.borrow()) !== there.get(name)!) throw new Error(`${name} is another file`)
        if (i % 3 === 0) {
          await lease.release()
        } else {
          await lease.keep()
          lease.descriptor.close()
          there.delete(name)
        }
      } else {
        const descriptor = Descriptor.memfd(name)
        there.set(name, identity(descriptor.borrow()))
        await client.put(name, descriptor, { value: name }) // ERR_PASSFD_STORE_EXISTS, if it is done twice
      }
      done++
    }
  }
  const all = Promise.all(clients.map(traffic))
  const takeovers = times(10, 50)
  for (let i = 0; i < takeovers; i++) {
    const next = await Promise.race([startStore(path, TAKEOVER), all.then(() => undefined)])
    const before = done
    await until(() => done > before + 20, 'they go on')
    await store.run('await kept.store.ended')
    await store.kill()
    store = next!
  }
  stop = true
  await all
  const entries = await clients[0]!.list()
  t.deepEqual(entries.map(({ name }) => name).sort(), [...there.keys()].sort())
  for (const { name, leased } of entries) {
    t.is(leased, undefined)
    const copy = (await clients[1]!.copy(name))!
    t.is(identity(copy.descriptor.borrow()), there.get(name)!)
    copy.descriptor.close()
  }
  t.log(`${takeovers} takeovers, ${done} rounds`)
  for (const client of clients) await client.close()
  await store.kill()
})

testInCi('a killed store takes what it holds with it, and what was put with keep is put again', async t => {
  const path = socketPath()
  await using first = await startStore(path)
  await using client = await connectStore(path)
  const COUNT = 1000
  const kept = new Map<string, string>()
  for (let i = 0; i < COUNT; i++) {
    const descriptor = Descriptor.memfd(`${i}`)
    const keep = i % 2 === 0
    if (keep) kept.set(`n-${i}`, identity(descriptor.borrow()))
    await client.put(`n-${i}`, descriptor, { keep, value: i })
  }
  await client.put('expired', Descriptor.memfd(), { keep: true, ttl: 1 })
  const lease = (await client.take('n-1'))!
  const returned = (await client.take('n-3'))!
  const reconnected = new Promise(resolve => client.once('reconnected', resolve))
  await first.kill()
  await using second = await startStore(path)
  t.deepEqual(await reconnected, { lost: true })
  const entries = await client.list()
  t.deepEqual(entries.map(({ name }) => name).sort(), [...kept.keys()].sort())
  for (const [name, number] of kept) {
    const copy = (await client.copy(name))!
    t.is(identity(copy.descriptor.borrow()), number)
    t.is(copy.value, Number(name.slice(2)))
    copy.descriptor.close()
  }
  await lease.keep() // nobody else has it
  lease.descriptor.close()
  await returned.release() // it is put again
  t.is((await client.list({ names: 'n-3' })).length, 1)
  await second.run('await kept.store.close()')
})

test('requests wait for a store that is gone, and are done when there is one; or fail after reconnectTimeout', async t => {
  const path = socketPath()
  await using first = await startStore(path)
  await using client = await connectStore(path)
  await using hasty = await connectStore(path, { reconnectTimeout: 1 })
  await first.kill()
  const put = client.put('x', await memory('text'))
  const error = await t.throwsAsync(hasty.list(), code('STORE_UNREACHABLE'))
  t.is((error!.cause as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  await using second = await startStore(path)
  await put
  const copy = (await client.copy('x'))!
  t.is(await textIn(copy.descriptor), 'text')
  await until(() => hasty.peer !== undefined, 'it has connected again')
  t.is((await hasty.list()).length, 1)
  await second.run('await kept.store.close()')
})

test('a store that is taken over says nothing on stderr', async t => {
  const path = socketPath()
  const ends = [await startStore(path, TAKEOVER), await startStore(path, TAKEOVER)]
  await ends[1]!.run('await kept.store.close()')
  for (const program of ends) t.is(await program.stderr(), '')
})

test('close ends a try to connect to a store that does not answer', async t => {
  const path = socketPath()
  await using first = await startStore(path)
  const client = await connectStore(path)
  await first.kill()
  const silent = await Descriptor.bind({ path }) // it listens, and nobody accepts
  await until(() => native.queued(silent.borrow()) > 0, 'the client tries to connect')
  const connecting = openDescriptors().size
  await client.close()
  await until(() => openDescriptors().size < connecting, 'its socket is closed', 5)
  silent.close()
  t.is(client.peer, undefined)
})

test('a watch goes on over a takeover and over a lost store, with a list each time', async t => {
  const path = socketPath()
  await using first = await startStore(path, TAKEOVER)
  await using client = await connectStore(path)
  await client.put('a', Descriptor.memfd())
  const changes = client.watch()
  const names = async (): Promise<string[] | string> => {
    const { value } = await changes.next()
    return value.event === 'list' ? value.entries.map((entry: { name: string }) => entry.name) : value.event
  }
  t.deepEqual(await names(), ['a'])
  await using second = await startStore(path, TAKEOVER)
  t.deepEqual(await names(), ['a'])
  await client.put('b', Descriptor.memfd())
  t.is(await names(), 'put')
  await second.kill()
  await first.kill()
  await using third = await startStore(path, TAKEOVER)
  t.deepEqual(await names(), [])
  await changes.return!()
  await third.run('await kept.store.close()')
})

test('a successor that fails changes nothing: the predecessor goes on with all that it holds', async t => {
  const path = socketPath()
  await using first = await startStore(path, TAKEOVER)
  await using client = await connectStore(path)
  await client.put('x', await memory('text'), { ttl: 60_000 })
  const [left, right] = Descriptor.socketpair()
  await client.put('socket', left)
  const lease = (await client.take('x'))!
  await using candidate = startProgram()
  // It has the state, and ends before the commit
  await candidate.run(`const { takeOver } = await import(${JSON.stringify(new URL('../../build/dist/takeover/index.js', import.meta.url).href)})
    const seat = await takeOver({ path: ${JSON.stringify(`${path}.takeover`)}, signals: false, exit: false })
    kept.state = await seat.inherit()
    return kept.state.entries.length`)
  const during = client.list() // waits: the predecessor is frozen
  await candidate.kill()
  t.is((await during).length, 2)
  t.is(client.peer!.pid, first.pid)
  await lease.release()
  right.close()
  while ((await client.list()).length > 1);
  const copy = (await client.copy('x'))!
  t.is(await textIn(copy.descriptor), 'text')
  await first.run('await kept.store.close()')
})

test('a client that dies while the state is given away: its lease comes back at the successor', async t => {
  const path = socketPath()
  await using first = await startStore(path, TAKEOVER)
  await using other = startProgram()
  await using client = await connectStore(path)
  await client.put('x', await memory('text'))
  await other.run(
    `kept.client = await store.connectStore(${JSON.stringify(path)}); kept.lease = await kept.client.take('x')`
  )
  const [second] = await Promise.all([startStore(path, TAKEOVER), other.kill()])
  await using _ = second
  let lease: Awaited<ReturnType<StoreClient['take']>>
  for (;;) {
    try {
      lease = await client.take('x')
      break
    } catch (error) {
      t.is((error as { code: string }).code, 'ERR_PASSFD_STORE_LEASED')
    }
  }
  t.is(await textIn(lease!.descriptor), 'text')
  await lease!.keep()
  await first.kill()
  await second.run('await kept.store.close()')
})

test('two stores at one path: without takeover the second is refused', async t => {
  const path = socketPath()
  await using first = await startStore(path)
  await t.throwsAsync(startStore(path), { code: 'EADDRINUSE' })
  await t.throwsAsync(startStore(path, TAKEOVER), { code: 'EADDRINUSE' })
  await first.run('await kept.store.close()')
  await using second = await startStore(path, TAKEOVER)
  await second.run('await kept.store.close()')
})

test('a store leaves no descriptor open, whatever was done', async t => {
  const path = socketPath()
  await using store = await startStore(path)
  const before = store.open()
  for (let round = 0; round < times(3, 20); round++) {
    const client = await connectStore(path)
    await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        await client.put(`${i}`, [Descriptor.memfd(), ...Descriptor.socketpair()], { keep: i % 2 === 0 })
        if (i % 5 === 0) await (await client.take(`${i}`))!.release()
        if (i % 5 === 1) {
          const lease = (await client.take(`${i}`))!
          await lease.keep()
          for (const one of lease.descriptors) one.close()
        }
        if (i % 5 === 2) for (const one of (await client.copy(`${i}`))!.descriptors) one.close()
        if (i % 5 === 3) await client.remove(`${i}`)
      })
    )
    using refused = Descriptor.memfd()
    await t.throwsAsync(client.put('0', refused, { poll: true }), code('STORE_EXISTS'))
    for (const { name } of await client.list()) await client.remove(name)
    await client.close()
  }
  await until(() => store.open() <= before, `${store.open()} are open, and ${before} were`)
  t.is(store.open(), before)
  await store.run('await kept.store.close()')
})

test('a client that has kept thousands hears of each of them after a takeover', async t => {
  const path = socketPath()
  await using first = await startStore(path, TAKEOVER)
  await using client = await connectStore(path)
  await using other = await connectStore(path)
  const COUNT = 2100
  for (let i = 0; i < COUNT; i += 100)
    await Promise.all(
      Array.from({ length: 100 }, (_, j) => client.put(`n-${i + j}`, Descriptor.memfd(), { keep: true }))
    )
  const gone: string[] = []
  client.on('gone', ({ name }) => gone.push(name))
  const reconnected = new Promise(resolve => client.once('reconnected', resolve))
  await using second = await startStore(path, TAKEOVER)
  t.deepEqual(await reconnected, { lost: false })
  const names = ['n-0', 'n-1023', 'n-1024', 'n-2047', 'n-2048', 'n-2099']
  for (const name of names) await other.remove(name)
  await until(() => gone.length === names.length, 'all are told')
  t.deepEqual(gone, names)
  await first.kill()
  await second.run('await kept.store.close()')
})

test('obtain: each process that has got an entry keeps it, so the store gets it again from any of them', async t => {
  const path = socketPath()
  await using first = await startStore(path)
  const clients = [await connectStore(path), await connectStore(path), await connectStore(path)]
  const never = (): never => {
    throw new Error('it is there')
  }
  const gone: number[] = []
  const lost: string[] = []
  for (const [index, client] of clients.entries()) {
    client.on('gone', () => gone.push(index))
    client.on('lost', ({ name }) => lost.push(name))
  }
  const [maker, one, two] = clients as [StoreClient, StoreClient, StoreClient]
  const made = await maker.obtain('x', () => memory('text'), { value: 7, poll: false })
  const number = identity(made.borrow())
  for (const client of [one, two, two]) (await client.obtain('x', never)).close()
  const without = await two.obtain('y', () => Descriptor.memfd(), { keep: false })
  ;(await one.obtain('y', never, { keep: false })).close()
  await maker.close() // the server that has put it is gone, and has left two others
  const reconnected = [one, two].map(client => new Promise(resolve => client.once('reconnected', resolve)))
  await first.kill()
  await using second = await startStore(path)
  t.deepEqual(await Promise.all(reconnected), [{ lost: true }, { lost: true }])
  while ((await one.list()).length === 0);
  const copy = (await two.copy('x'))!
  t.is(identity(copy.descriptor.borrow()), number)
  t.is(copy.value, 7)
  t.true(copy.keep)
  await one.remove('x')
  await until(() => gone.length === 2, 'both hear that it is gone')
  t.deepEqual(lost, [])
  t.false(one.forget('x'))
  for (const descriptor of [made, without, copy.descriptor]) descriptor.close()
  await one.close()
  await two.close()
  await second.run('await kept.store.close()')
})
