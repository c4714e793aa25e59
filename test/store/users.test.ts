/** Other users: what they see, what they may, and what their floods do. */
import { chmodSync } from 'node:fs'
import { Descriptor } from '../../src/index.ts'
import { connectStore, defaultRules, type OpenStoreOptions, openStore } from '../../src/store/index.ts'
import { identity } from '../helpers/facts.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { memory, type Program, startProgram, textIn } from '../helpers/store.ts'
import { test } from '../helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })
const OTHER = 12345

/** A store that all users may connect to, and a client of root's. */
async function withUsers(
  work: (
    path: string,
    other: (uid?: number) => Promise<Program>,
    root: Awaited<ReturnType<typeof connectStore>>
  ) => Promise<void>,
  options: OpenStoreOptions = {}
): Promise<void> {
  const path = publicPath()
  const store = await openStore({ path, mode: 0o666 }, options)
  const root = await connectStore(path)
  const programs: Program[] = []
  const other = async (uid = NOBODY): Promise<Program> => {
    const program = startProgram(uid)
    programs.push(program)
    await program.run(`kept.client = await store.connectStore(${JSON.stringify(path)}, { authorize: () => true })`)
    return program
  }
  try {
    await work(path, other, root)
  } finally {
    for (const program of programs) await program.kill()
    await root.close()
    await store.close()
  }
}

test('another user has names of its own, and neither reads nor writes those of others', t =>
  withUsers(async (path, other, root) => {
    await root.put('x', await memory('root’s'), { value: 'secret' })
    const nobody = await other()
    t.deepEqual(await nobody.run('return kept.client.list()'), [])
    t.is(await nobody.run(`return (await kept.client.copy('x')) ?? null`), null, 'its own x')
    for (const call of [
      `copy('x', { owner: 0 })`,
      `copy('none', { owner: 0 })`,
      `take('x', { owner: 0 })`,
      `remove('x', { owner: 'root' })`,
      `put('x', passfd.Descriptor.memfd(), { owner: 0 })`,
      `put('x', passfd.Descriptor.memfd(), { owner: 0, replace: true })`,
      `put('free', passfd.Descriptor.memfd(), { owner: ${OTHER} })`,
      `list({ owner: 0 })`,
      `list({ owner: 0, names: 'x' })`,
      `watch({ owner: 0 }).next()`
    ])
      await t.throwsAsync(nobody.run(`await kept.client.${call}`), code('STORE_DENIED'), call)
    const { entry } = await nobody.run(`return kept.client.put('x', passfd.Descriptor.memfd(), { value: 'mine' })`)
    t.is(entry, 2, 'the same name, of another user')
    t.deepEqual(
      await nobody.run(`return (await kept.client.list()).map(({ name, owner, uid }) => ({ name, owner, uid }))`),
      [{ name: 'x', owner: NOBODY, uid: NOBODY }]
    )
    t.deepEqual(
      (await root.list()).map(({ owner }) => owner),
      [0, NOBODY],
      'root sees all'
    )
    const copy = (await root.copy('x', { owner: NOBODY }))!
    t.is(copy.value, 'mine')
    copy.descriptor.close()
    const changes = await nobody.run(
      `kept.changes = kept.client.watch(); return (await kept.changes.next()).value.entries.length`
    )
    t.is(changes, 1)
    await root.put('y', Descriptor.memfd())
    await root.remove('x')
    await root.put('z', Descriptor.memfd(), { owner: NOBODY })
    t.like(await nobody.run('return (await kept.changes.next()).value'), {
      event: 'put',
      entry: { name: 'z', owner: NOBODY, uid: 0 }
    })
    const third = await other(OTHER)
    t.deepEqual(await third.run('return kept.client.list()'), [])
    await t.throwsAsync(third.run(`await kept.client.copy('x', { owner: ${NOBODY} })`), code('STORE_DENIED'))
    chmodSync(path, 0o600)
    await t.throwsAsync(other(), { code: 'EACCES' })
  }))

test('by default only the store’s user and root can connect at all', async t => {
  const path = publicPath()
  const store = await openStore(path)
  const program = startProgram(NOBODY)
  await t.throwsAsync(program.run(`await store.connectStore(${JSON.stringify(path)})`), { code: 'EACCES' })
  await program.kill()
  await store.close()
})

test('rules let users read and write, apart, by names', t =>
  withUsers(
    async (_, other, root) => {
      await root.put('web-http', await memory('text'))
      await root.put('db', Descriptor.memfd())
      const nobody = await other()
      t.deepEqual(await nobody.run(`return (await kept.client.list()).map(({ name }) => name)`), ['web-http'])
      t.deepEqual(await nobody.run(`return (await kept.client.list({ owner: 0 })).map(({ name }) => name)`), [
        'web-http'
      ])
      t.is(await nobody.run(`return (await kept.client.copy('web-http', { owner: 0 })).kinds[0]`), 'memfd')
      await t.throwsAsync(nobody.run(`await kept.client.copy('db', { owner: 0 })`), code('STORE_DENIED'))
      await t.throwsAsync(nobody.run(`await kept.client.take('web-http', { owner: 0 })`), code('STORE_DENIED'))
      await t.throwsAsync(nobody.run(`await kept.client.remove('web-http', { owner: 0 })`), code('STORE_DENIED'))
      await nobody.run(`await kept.client.put('inbox', passfd.Descriptor.memfd(), { owner: 0, value: 'for root' })`)
      await t.throwsAsync(
        nobody.run(`await kept.client.copy('inbox', { owner: 0 })`),
        code('STORE_DENIED'),
        'written, not read'
      )
      t.is(await nobody.run(`return kept.client.remove('inbox', { owner: 0 })`), true)
      await nobody.run(`await kept.client.put('both', passfd.Descriptor.memfd(), { owner: 0 })`)
      t.is(
        await nobody.run(
          `const lease = await kept.client.take('both', { owner: 0 }); await lease.keep(); return lease.owner`
        ),
        0
      )
      const third = await other(OTHER)
      await t.throwsAsync(
        third.run(`await kept.client.put('own', passfd.Descriptor.memfd())`),
        code('STORE_DENIED'),
        'not even its own'
      )
      t.deepEqual(await third.run('return kept.client.list()'), [])
    },
    {
      rules: [
        { user: 0, owner: '*', read: true, write: true },
        { user: NOBODY, owner: 'root', names: 'web-*', read: true },
        { user: 'nobody', owner: 0, names: 'inbox', write: true },
        { user: NOBODY, owner: 0, names: 'both', read: true, write: true }
      ]
    }
  ))

test('a user’s quota: descriptors, names and bytes; what is too much is refused whole, and others have their own', t =>
  withUsers(
    async (_, other, root) => {
      const nobody = await other()
      const put = (name: string, count = 1, more = '') =>
        nobody.run(
          `await kept.client.put('${name}', Array.from({ length: ${count} }, () => passfd.Descriptor.memfd()), { ${more} })`
        )
      await put('a', 3)
      await t.throwsAsync(put('b', 3), { ...code('STORE_FULL'), message: /descriptors of user 65534, at most 5/ })
      await put('b', 2)
      await t.throwsAsync(put('c'), code('STORE_FULL'))
      await put('a', 3, 'replace: true')
      await t.throwsAsync(put('a', 4, 'replace: true'), code('STORE_FULL'))
      t.is(await nobody.run(`return (await kept.client.list()).length`), 2, 'what was to be replaced is there')
      await nobody.run(`await kept.client.remove('a')`)
      await put('a')
      await put('c')
      await t.throwsAsync(put('d'), { ...code('STORE_FULL'), message: /names of user 65534, at most 3/ })
      await nobody.run(`await kept.client.remove('a')`)
      await t.throwsAsync(put('a', 1, `value: 'x'.repeat(100)`), {
        ...code('STORE_FULL'),
        message: /bytes of user 65534, at most 100/
      })
      const third = await other(OTHER)
      await third.run(`await kept.client.put('a', Array.from({ length: 6 }, () => passfd.Descriptor.memfd()))`)
      // What root puts under the name of another counts for root
      await root.put('d', [Descriptor.memfd(), Descriptor.memfd()], { owner: NOBODY })
      const many = Array.from({ length: 40 }, () => Descriptor.memfd())
      await t.throwsAsync(root.put('much', many), { ...code('STORE_FULL'), message: /of all users|of user 0/ })
      for (const one of many) one.close()
    },
    {
      quota: { descriptors: 5, names: 3, bytes: 100 },
      quotas: { [OTHER]: { descriptors: 6 } },
      total: { descriptors: 40 }
    }
  ))

test('a lease of one user is refused to another with the same rights, and its pid is told', t =>
  withUsers(
    async (path, other, root) => {
      await root.put('x', await memory('text'))
      const nobody = await other()
      await nobody.run(`kept.lease = await kept.client.take('x', { owner: 0 })`)
      await t.throwsAsync(root.take('x'), { ...code('STORE_LEASED'), message: new RegExp(`Process ${nobody.pid} `) })
      const { entry } = (await root.list())[0]!
      // The number of an entry is no key: a lease belongs to its client
      const third = await other(OTHER)
      await third.run(`kept.channel = await passfd.connect(${JSON.stringify(path)}, { authorize: () => true })`)
      for (const what of ['keep', 'release'])
        await t.throwsAsync(third.run(`await kept.channel.request({ do: '${what}', entry: ${entry} })`), {
          code: 'ERR_PASSFD_REMOTE',
          message: /not leased by this client/
        })
      await nobody.kill()
      let lease: Awaited<ReturnType<typeof root.take>>
      do {
        lease = await root.take('x').catch(() => undefined)
      } while (lease === undefined)
      t.is(await textIn(lease.descriptor), 'text')
      await lease.keep()
    },
    { rules: [...defaultRules, { user: NOBODY, owner: 0, read: true, write: true }] }
  ))

test('a user can’t take another’s place as a client, nor learn what there is by numbers of entries', t =>
  withUsers(async (path, other, root) => {
    const { entry } = await root.put('x', Descriptor.memfd(), { keep: true })
    const nobody = await other()
    const hello = `{ do: 'hello', store: 1, client: Buffer.alloc(16, 7), kept: [${entry}, ${entry + 1}] }`
    await nobody.run(`kept.channel = await passfd.connect(${JSON.stringify(path)}, { authorize: () => true })`)
    t.like(
      await nobody.run(
        `const { gone, known, leases } = await kept.channel.request(${hello}); return { gone, known, leases }`
      ),
      {
        gone: [entry, entry + 1],
        known: false,
        leases: []
      }
    )
    const third = await other(OTHER)
    await third.run(`kept.channel = await passfd.connect(${JSON.stringify(path)}, { authorize: () => true })`)
    await t.throwsAsync(third.run(`await kept.channel.request(${hello})`), { message: /number of another client/ })
    t.is((await root.list())[0]!.keep, true)
    const copy = (await root.copy('x'))!
    t.true(identity(copy.descriptor.borrow()).length > 0)
    copy.descriptor.close()
  }))

test('a client that reads nothing of thousands of descriptors does not keep others from getting theirs', async t => {
  // The kernel counts what is under way for the user of the store, unless that is privileged
  const path = publicPath()
  const store = startProgram(NOBODY)
  const deaf = startProgram(OTHER)
  await store.run(`kept.store = await store.openStore({ path: ${JSON.stringify(path)}, mode: 0o666 })`)
  const client = await connectStore(path, { authorize: () => true })
  await client.put(
    'many',
    Array.from({ length: 250 }, () => Descriptor.memfd())
  )
  const rights =
    await deaf.run(`kept.client = await store.connectStore(${JSON.stringify(path)}, { authorize: () => true })
    await kept.client.put('many', Array.from({ length: 250 }, () => passfd.Descriptor.memfd()))
    const channels = []
    for (let i = 0; i < 20; i++)
      channels.push(await passfd.connect(${JSON.stringify(path)}, { authorize: () => true, maxUnclaimed: 100_000 }))
    for (const channel of channels)
      for (let j = 0; j < 50; j++) channel.request({ do: 'copy', name: 'many' }, { descriptors: 253 }).catch(() => {})
    setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)) // when they have left
    return 20 * 50 * 250`)
  t.is(rights, 250_000)
  for (let i = 0; i < 300; i++) for (const one of (await client.copy('many'))!.descriptors) one.close()
  t.pass()
  await deaf.kill()
  for (const one of (await client.copy('many'))!.descriptors) one.close()
  await client.close()
  await store.kill()
})

test('connections of one user are bounded, and others still get in', t =>
  withUsers(
    async (path, other, root) => {
      const nobody = await other()
      const refused = await nobody.run(`
        const all = await Promise.allSettled(Array.from({ length: 20 }, () => store.connectStore(${JSON.stringify(path)}, { authorize: () => true })))
        return all.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.remote?.code ?? reason.code)`)
      t.is(refused.length, 13)
      t.deepEqual([...new Set(refused)], ['ERR_PASSFD_BUSY'])
      const third = await other(OTHER)
      t.deepEqual(await third.run('return kept.client.list()'), [])
      t.deepEqual(await root.list(), [])
    },
    { maxConnectionsPerUser: 8 }
  ))

test('watches of one user are bounded, over all its clients', t =>
  withUsers(async (path, other, root) => {
    const nobody = await other()
    const refused = await nobody.run(`
      const clients = await Promise.all(Array.from({ length: 10 }, () => store.connectStore(${JSON.stringify(path)}, { authorize: () => true })))
      const all = await Promise.allSettled(clients.flatMap(client => Array.from({ length: 16 }, () => client.watch().next())))
      return all.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.message)`)
    t.is(refused.length, 32)
    t.regex(refused[0], /watches of user 65534, at most 128/)
    const changes = root.watch()
    t.like(await changes.next(), { value: { event: 'list' } })
    await changes.return!()
  }))
