/** What the table says of passfd's own store. */
import { readFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import { Descriptor } from '../../../src/index.ts'
import { connectStore, openStore, type StoreClient } from '../../../src/store/index.ts'
import { identity } from '../../helpers/facts.ts'
import { socketPath } from '../../helpers/path.ts'
import { NOBODY, publicPath } from '../../helpers/public.ts'
import { memory, startProgram, startStore, textIn, withStore } from '../../helpers/store.ts'
import { until } from '../../helpers/test.ts'
import type { Cases } from './lines.ts'

type Body = (t: ExecutionContext) => Promise<void>

const code = (key: string) => ({ code: `ERR_PASSFD_STORE_${key}` })
const client = (path: string): string =>
  `kept.client = await store.connectStore(${JSON.stringify(path)}, { authorize: () => true })`

export const cases: Cases<Body> = {
  'who can use it': {
    says: 'every process that the rules allow',
    async shows(t) {
      const path = publicPath()
      const rules = [
        { user: 0, read: true, write: true },
        { user: NOBODY, owner: 0, names: 'web-*', read: true }
      ]
      await using store = await openStore({ path, mode: 0o666 }, { rules })
      await using root = await connectStore(path)
      await root.put('web-1', await memory('for all'))
      await root.put('db', Descriptor.memfd())
      await using nobody = startProgram(NOBODY)
      await nobody.run(client(path))
      t.is(await nobody.run(`return (await kept.client.copy('web-1', { owner: 0 })).kinds.join()`), 'memfd')
      for (const call of [
        `copy('db', { owner: 0 })`,
        `remove('web-1', { owner: 0 })`,
        `put('x', passfd.Descriptor.memfd())`
      ])
        await t.throwsAsync(nobody.run(`await kept.client.${call}`), code('DENIED'), call)
      t.is(store.status.names, 2)
    }
  },

  'access by default': {
    says: 'its own user and root',
    async shows(t) {
      const path = publicPath()
      await using nobody = startProgram(NOBODY)
      {
        await using _ = await openStore(path)
        await using root = await connectStore(path)
        await root.put('x', Descriptor.memfd())
        await t.throwsAsync(nobody.run(client(path)), { code: 'EACCES' })
      }
      {
        // A store that lets all connect gives no user what another has
        await using _ = await openStore({ path, mode: 0o666 })
        await using root = await connectStore(path)
        await root.put('x', Descriptor.memfd())
        await nobody.run(client(path))
        await t.throwsAsync(nobody.run(`await kept.client.copy('x', { owner: 0 })`), code('DENIED'))
        await nobody.run(`await kept.client.put('x', passfd.Descriptor.memfd())`)
        t.deepEqual(
          (await root.list()).map(({ owner }) => owner),
          [0, NOBODY]
        )
        await nobody.run('await kept.client.close()')
      }
      // And what no rule allows is denied to root, too
      await using _ = await openStore(path, { rules: [] })
      await using root = await connectStore(path)
      const memfd = Descriptor.memfd()
      await t.throwsAsync(root.put('x', memfd), code('DENIED'))
      memfd.close()
    }
  },

  names: {
    says: 'unique for each user',
    async shows(t) {
      const path = publicPath()
      await using _ = await openStore({ path, mode: 0o666 })
      await using root = await connectStore(path)
      await root.put('x', await memory('first'))
      const second = await memory('second')
      await t.throwsAsync(root.put('x', second), code('EXISTS'))
      await using nobody = startProgram(NOBODY)
      await nobody.run(client(path))
      await nobody.run(`await kept.client.put('x', passfd.Descriptor.memfd())`)
      await root.remove('x')
      await root.put('x', second)
      t.is(await textIn((await root.copy('x'))!.descriptor), 'second')
    }
  },

  'a value beside it': {
    says: 'up to 64 KiB',
    shows: t =>
      withStore(async (_, [store]) => {
        // Standard msgpack needs 3 bytes to say that it is one, and how long
        const value = Buffer.alloc(65_533, 'v')
        await store!.put('x', Descriptor.memfd(), { value })
        const { descriptor, ...copy } = (await store!.copy('x'))!
        t.deepEqual(Buffer.from(copy.value as Uint8Array), value)
        const memfd = Descriptor.memfd()
        await t.throwsAsync(store!.put('y', memfd, { value: Buffer.alloc(65_534) }), code('FULL'))
        for (const each of [descriptor, memfd]) each.close()
      })
  },

  'several descriptors together': {
    says: 'up to 253',
    shows: t =>
      withStore(async (_, [store]) => {
        await store!.put('x', memfds(253))
        const copy = (await store!.copy('x'))!
        t.is(copy.descriptors.length, 253)
        const many = memfds(254)
        await t.throwsAsync(store!.put('y', many), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
        for (const each of [...copy.descriptors, ...many]) each.close()
      })
  },

  'gets it back': {
    says: 'when it asks',
    shows: t =>
      withStore(async (path, [store]) => {
        const descriptor = Descriptor.memfd()
        const file = identity(descriptor.borrow())
        await store!.put('x', descriptor)
        await using other = startProgram()
        await other.run(client(path))
        t.is(await other.run(`return (await kept.client.copy('x')).kinds.join()`), 'memfd')
        const copy = (await store!.copy('x'))!
        t.is(identity(copy.descriptor.borrow()), file)
        copy.descriptor.close()
      })
  },

  'a taken descriptor comes back if the taker dies': {
    says: 'yes, until `keep`',
    shows: t =>
      withStore(async (path, [store]) => {
        await store!.put('x', await memory('text'))
        const changes = store!.watch()
        await changes.next()
        for (const keeps of [false, true]) {
          await using taker = startProgram()
          await taker.run(client(path))
          await taker.run(`kept.lease = await kept.client.take('x')`)
          await t.throwsAsync(store!.take('x'), code('LEASED'))
          if (keeps) await taker.run('await kept.lease.keep()')
          await taker.kill()
          for (const event of ['leased', keeps ? 'kept' : 'returned'])
            t.is((await changes.next()).value!.event, event as never)
          t.deepEqual(await names(store!), keeps ? [] : ['x'])
        }
        await changes.return!()
      })
  },

  expiry: {
    says: '`ttl`',
    shows: t =>
      withStore(async (_, [store]) => {
        const changes = store!.watch()
        await changes.next()
        await store!.put('x', Descriptor.memfd(), { ttl: 50 })
        for (const event of ['put', 'expired']) t.is((await changes.next()).value!.event, event as never)
        t.is(await store!.copy('x'), undefined)
        await changes.return!()
      })
  },

  'removal at hang-up': {
    says: 'an option; default for connected sockets',
    shows: t =>
      withStore(async (_, [store]) => {
        const others: Descriptor[] = []
        const put = async (name: string, [one, other]: [Descriptor, Descriptor], options = {}): Promise<void> => {
          await store!.put(name, one, options)
          others.push(other)
        }
        const pipe = (): [Descriptor, Descriptor] => {
          const { readable, writable } = Descriptor.pipe()
          return [readable, writable]
        }
        await put('socket', Descriptor.socketpair())
        await put('kept socket', Descriptor.socketpair(), { poll: false })
        await put('pipe', pipe())
        await put('polled pipe', pipe(), { poll: true })
        const changes = store!.watch()
        await changes.next()
        for (const other of others) other.close()
        const gone = new Set<string>()
        for await (const change of changes) {
          if (change.event === 'hangUp') gone.add(change.entry.name)
          if (gone.size === 2) break
        }
        t.deepEqual([...gone].sort(), ['polled pipe', 'socket'])
        t.deepEqual(await names(store!), ['kept socket', 'pipe'])
      })
  },

  listing: {
    says: 'with kinds, owners, sizes',
    shows: t =>
      withStore(async (_, [store]) => {
        await store!.put('x', [Descriptor.memfd(), ...Descriptor.socketpair()], { value: 'text' })
        t.like((await store!.list())[0], {
          name: 'x',
          kinds: ['memfd', 'unix-stream', 'unix-stream'],
          owner: 0,
          uid: 0,
          pid: process.pid,
          bytes: 5
        })
      })
  },

  watching: {
    says: 'yes',
    shows: t =>
      withStore(
        async (_, [store, other]) => {
          const changes = store!.watch({ names: 'web-*' })
          t.deepEqual((await changes.next()).value, { event: 'list', entries: [] })
          await other!.put('db', Descriptor.memfd())
          await other!.put('web-1', Descriptor.memfd())
          await other!.remove('web-1')
          for (const event of ['put', 'removed'] as const)
            t.like((await changes.next()).value, { event, entry: { name: 'web-1' } } as never)
          await changes.return!()
        },
        { clients: 2 }
      )
  },

  bounds: {
    says: 'for each user and together',
    async shows(t) {
      const path = publicPath()
      await using _ = await openStore({ path, mode: 0o666 }, { total: { names: 3 }, quota: { names: 2 } })
      await using root = await connectStore(path)
      await using nobody = startProgram(NOBODY)
      await nobody.run(client(path))
      const put = (name: string) => nobody.run(`await kept.client.put('${name}', passfd.Descriptor.memfd())`)
      await put('a')
      await put('b')
      await t.throwsAsync(put('c'), { ...code('FULL'), message: /of user 65534/ })
      await root.put('a', Descriptor.memfd())
      const memfd = Descriptor.memfd()
      await t.throwsAsync(root.put('b', memfd), { ...code('FULL'), message: /of all users/ })
      memfd.close()
    }
  },

  'all of it to another store': {
    says: 'a few lines of program',
    async shows(t) {
      const text = readFileSync(new URL('../../../docs/store.md', import.meta.url), 'utf8')
      const [source] = /^async function moveAll\(.*?^\}$/ms.exec(text)!
      const moveAll: (from: StoreClient, to: StoreClient) => Promise<void> = new Function(`return ${source}`)()
      const path = publicPath()
      await using first = await openStore({ path, mode: 0o666 })
      await using from = await connectStore(path)
      await using nobody = startProgram(NOBODY)
      await nobody.run(client(path))
      await nobody.run(`await kept.client.put('x', passfd.Descriptor.memfd())`)
      await from.put('x', await memory('text'), { value: { a: 1 }, ttl: 1_000_000 })
      await from.put('pair', Descriptor.socketpair(), { poll: false })
      await from.put('there', Descriptor.memfd())
      const shown = async (store: StoreClient) =>
        (await store.list()).map(({ name, owner, kinds, bytes, poll, ttl }) => [
          name,
          owner,
          kinds,
          bytes,
          poll,
          ttl! > 0
        ])
      const before = await shown(from)
      await withStore(async (_, [to], second) => {
        await to!.put('there', Descriptor.memfd())
        await t.throwsAsync(moveAll(from, to!), code('EXISTS'))
        t.deepEqual([first.status.names, second.status.names], [1, 4], 'an entry that can’t move stays')
        t.deepEqual((await from.list())[0]!.leased, undefined)
        await to!.remove('there')
        await moveAll(from, to!)
        t.deepEqual(await shown(to!), before)
        t.deepEqual(await names(from), [])
        const copy = (await to!.copy('x'))!
        t.deepEqual(copy.value, { a: 1 })
        t.is(await textIn(copy.descriptor), 'text')
      })
      // The program dies before the second store has an entry, or when both have it
      for (const [death, held] of [
        ['to.put', [1, 0]],
        ['lease.keep', [1, 1]]
      ] as const)
        await withStore(async (path, [one], first) => {
          await one!.put('x', Descriptor.memfd())
          await withStore(async (other, _, second) => {
            await using mover = startProgram()
            await mover.run(
              `kept.stores = [await store.connectStore(${JSON.stringify(path)}), await store.connectStore(${JSON.stringify(other)})]`
            )
            const dying = source!.replace(`await ${death}(`, `process.kill(process.pid, 'SIGKILL'); await ${death}(`)
            await t.throwsAsync(mover.run(`${dying}; await moveAll(...kept.stores)`))
            await until(() => first.status.clients === 1, 'the store sees that the program has died')
            t.deepEqual([first.status.names, second.status.names], held)
            t.is((await one!.list())[0]!.leased, undefined)
          })
        })
    }
  },

  'survives the restart of a service': { says: 'yes', shows: t => survivesEnd(t, 'SIGKILL') },

  'survives a stop of the service': { says: 'yes', shows: t => survivesEnd(t, 'SIGTERM') },

  'survives its own replacement': {
    says: 'yes',
    async shows(t) {
      const path = socketPath()
      await using first = await startStore(path, { takeover: true })
      await using store = await connectStore(path)
      await store.put('x', await memory('text'))
      await using _ = await startStore(path, { takeover: true })
      await until(() => store.peer?.pid !== undefined && store.peer.pid !== first.pid, 'the client finds the successor')
      await first.kill()
      t.is(await textIn((await store.copy('x'))!.descriptor), 'text')
    }
  },

  'survives its own death': {
    says: 'what clients keep',
    async shows(t) {
      const path = socketPath()
      await using first = await startStore(path)
      await using store = await connectStore(path)
      await store.put('kept', await memory('text'), { keep: true })
      await store.put('lost', Descriptor.memfd())
      const again = new Promise(resolve => store.once('reconnected', resolve))
      await first.kill()
      await using _ = await startStore(path)
      t.deepEqual(await again, { lost: true })
      const copy = await store.copy('kept')
      t.is(await textIn(copy!.descriptor), 'text')
      t.deepEqual(await names(store), ['kept'])
    }
  }
}

/** A service's process puts, and ends; the next one has it. */
async function survivesEnd(t: ExecutionContext, signal: NodeJS.Signals): Promise<void> {
  await withStore(async path => {
    for (const first of [true, false]) {
      await using service = startProgram()
      await service.run(client(path))
      if (first) await service.run(`await kept.client.put('x', passfd.Descriptor.memfd())`)
      else t.is(await service.run(`return (await kept.client.copy('x')).kinds.join()`), 'memfd')
      await service.kill(signal)
    }
  })
}

function memfds(count: number): Descriptor[] {
  return Array.from({ length: count }, () => Descriptor.memfd())
}

async function names(store: StoreClient): Promise<string[]> {
  return (await store.list()).map(({ name }) => name)
}
