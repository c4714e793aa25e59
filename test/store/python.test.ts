import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../src/index.ts'
import { connectStore, openStore, type Store, type StoreClient } from '../../src/store/index.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { Holder, identity, PythonClient } from '../helpers/stores.ts'
import { testIf } from '../helpers/test.ts'

const hasMsgpack = spawnSync(systemPython, ['-c', 'import msgpack']).status === 0
const reason = hasMsgpack ? undefined : 'no msgpack: apt-get install python3-msgpack'
const notRoot = process.getuid!() === 0 ? reason : 'only root can become another user'
const program = fileURLToPath(new URL('../../examples/python/store_client.py', import.meta.url))

/** A store in this process, a client here and one in Python. */
async function withBoth(
  body: (our: StoreClient, python: PythonClient, store: Store, path: string) => Promise<void>
): Promise<void> {
  const path = socketPath()
  await using store = await openStore(path)
  await using our = await connectStore(path)
  const python = new PythonClient(path)
  await body(our, python, store, path)
  await python.close()
}

testIf(reason, 'Python puts, and passfd takes', t =>
  withBoth(async (our, python) => {
    t.deepEqual(await python.do({ do: 'list' }), [])
    const put = await python.do({ do: 'put', name: 'a', count: 3, literal: "{'x': [1, None, b'\\x00'], 'y': 'é'}" })
    const lease = (await our.take('a'))!
    t.deepEqual(lease.descriptors.map(identity), put.files)
    t.deepEqual(lease.value, { x: [1, null, Buffer.from([0])], y: 'é' })
    t.is(lease.entry, put.entry)
    await lease.keep()
    t.deepEqual(await python.do({ do: 'list' }), [])
    t.is(await python.do({ do: 'take', name: 'a' }), null)
    for (const one of lease.descriptors) one.close()
  })
)

testIf(reason, 'passfd puts, and Python takes, releases, copies, removes and keeps', t =>
  withBoth(async (our, python, store) => {
    const files = Array.from({ length: 253 }, () => Descriptor.memfd('one'))
    const identities = files.map(identity)
    const { entry } = await our.put('all', files, { value: [1n, 'two'] })
    const taken = { entry, name: 'all', files: identities, value: "[1, 'two']" }
    t.deepEqual(await python.do({ do: 'take', name: 'all' }), taken)
    await python.do({ do: 'release', name: 'all' })
    t.deepEqual(await python.do({ do: 'copy', name: 'all' }), taken)
    t.deepEqual(await python.do({ do: 'take', name: 'all' }), taken)
    await python.do({ do: 'keep', name: 'all' })
    t.is(store.status.descriptors, 0)
    await our.put('b', Descriptor.memfd('b'))
    t.true(await python.do({ do: 'remove', name: 'b' }))
    t.false(await python.do({ do: 'remove', name: 'b' }))
    t.is((await python.do({ do: 'open' })).filter((one: string) => one.includes('memfd')).length, 0)
  })
)

testIf(reason, 'values are what Python packs, and what Python reads', t =>
  withBoth(async (our, python) => {
    const values: [value: unknown, read: string, back?: unknown][] = [
      [true, 'True'],
      [-(2 ** 31), '-2147483648'],
      [2 ** 53 - 1, '9007199254740991.0', 2 ** 53 - 1],
      [2n ** 64n - 1n, '18446744073709551615'],
      [-(2n ** 63n), '-9223372036854775808'],
      [1.5, '1.5'],
      ['', "''"],
      ['a'.repeat(70_000 - 8000), `'${'a'.repeat(62_000)}'`],
      [Buffer.from('ÿ'), "b'\\xc3\\xbf'"],
      [[[], {}], '[[], {}]'],
      [{ a: { b: [1, { c: null }] } }, "{'a': {'b': [1, {'c': None}]}}"],
      [new Date(1_700_000_000_123), 'Timestamp(seconds=1700000000, nanoseconds=123000000)']
    ]
    for (const [index, [value, read, back = value]] of values.entries()) {
      await our.put(`${index}`, Descriptor.memfd('one'), { value })
      t.is(await python.do({ do: 'again', name: `${index}`, again: `again${index}` }), read)
      const lease = (await our.take(`again${index}`))!
      t.deepEqual(lease.value, back)
      await lease.keep()
      lease.descriptor.close()
    }
  })
)

testIf(reason, 'Python hears of errors by their codes', t =>
  withBoth(async (our, python) => {
    await our.put('a', Descriptor.memfd('a'))
    t.like(await python.fails({ do: 'put', name: 'a' }), { code: 'ERR_PASSFD_STORE_EXISTS', data: { name: 'a' } })
    const lease = (await our.take('a'))!
    const leased = { code: 'ERR_PASSFD_STORE_LEASED', data: { name: 'a', pid: process.pid } }
    t.like(await python.fails({ do: 'take', name: 'a' }), leased)
    t.like(await python.fails({ do: 'copy', name: 'a' }), leased)
    t.like(await python.fails({ do: 'remove', name: 'a' }), leased)
    t.like(await python.fails({ do: 'put', name: 'a', replace: true }), leased)
    await lease.release()
    await python.do({ do: 'take', name: 'a' })
    await python.do({ do: 'keep', name: 'a' })
    t.like(await python.fails({ do: 'keep', entry: 1 }), { code: 'ERR_PASSFD_STORE_LEASE_OVER' })
    t.like(await python.fails({ do: 'put', name: 'b', literal: "'x' * 70000" }), {
      code: 'ERR_PASSFD_STORE_FULL',
      data: { limit: 65_536 }
    })
    t.like(await python.fails({ do: 'put', name: 'b', poll: true }), { code: 'ERR_PASSFD_STORE_POLL' })
    t.like(await python.fails({ do: 'put', name: 'b:' }), { code: 'ERR_PASSFD_STORE_REQUEST' })
    t.like(await python.fails({ do: 'put', name: 'b', ttl: 0 }), { code: 'ERR_PASSFD_STORE_REQUEST' })
    t.deepEqual(await python.do({ do: 'list' }), [])
    const impatient = new PythonClient(socketPath(), { patience: 0 })
    t.like(await impatient.fails({ do: 'list' }), { code: 'ERR_PASSFD_STORE_UNREACHABLE' })
    await impatient.close()
  })
)

testIf(notRoot, 'a Python of another user reads and writes its own names only', async t => {
  const path = publicPath()
  await using _ = await openStore({ path, mode: 0o666 })
  await using our = await connectStore(path)
  const python = new PythonClient(path, { uid: NOBODY, gid: NOBODY })
  await our.put('secret', Descriptor.memfd('secret'))
  await python.do({ do: 'put', name: 'secret' })
  t.deepEqual(await python.do({ do: 'list' }), ['secret'])
  for (const what of ['take', 'copy', 'remove', 'put'])
    t.like(await python.fails({ do: what, name: 'secret', owner: 0 }), { code: 'ERR_PASSFD_STORE_DENIED' })
  t.deepEqual(
    (await our.list()).map(({ owner }) => owner),
    [0, NOBODY]
  )
  const lease = (await our.take('secret', { owner: NOBODY }))!
  t.like(await python.fails({ do: 'take', name: 'secret' }), { code: 'ERR_PASSFD_STORE_LEASED' })
  await lease.release()
  await python.close()
})

testIf(reason, 'what a killed Python has taken is in the store again', t =>
  withBoth(async (our, python, _, path) => {
    await our.put('a', Descriptor.memfd('a'))
    const changes = our.watch()
    t.like((await changes.next()).value, { event: 'list' })
    const other = new PythonClient(path)
    await other.do({ do: 'take', name: 'a' })
    t.like((await changes.next()).value, { event: 'leased', entry: { leased: other.pid } })
    await other.kill()
    t.like((await changes.next()).value, { event: 'returned' })
    t.like(await python.do({ do: 'take', name: 'a' }), { name: 'a' })
    await changes.return!()
  })
)

testIf(reason, 'Python watches, also over a takeover', async t => {
  const path = socketPath()
  const store = await Holder.open(path)
  await using our = await connectStore(path)
  await our.put('a1', Descriptor.memfd('a'))
  const python = new PythonClient(path)
  t.deepEqual(await python.do({ do: 'next', names: 'a*' }), { event: 'list', names: ['a1'] })
  await our.put('b', Descriptor.memfd('b'))
  await our.put('a2', Descriptor.memfd('a'))
  t.deepEqual(await python.do({ do: 'next' }), { event: 'put', names: ['a2'] })
  python.ask({ do: 'next' })
  const successor = await store.replace(path)
  t.deepEqual(await python.answer(), { is: { event: 'list', names: ['a1', 'a2'] } })
  const lease = (await our.take('a1'))!
  t.deepEqual(await python.do({ do: 'next' }), { event: 'leased', names: ['a1'] })
  await lease.keep()
  t.deepEqual(await python.do({ do: 'next' }), { event: 'kept', names: ['a1'] })
  lease.descriptor.close()
  await python.close()
  await successor.close()
})

testIf(reason, 'Python and passfd put and take while the store is replaced', async t => {
  const path = socketPath()
  let store = await Holder.open(path)
  await using our = await connectStore(path)
  const python = new PythonClient(path)
  python.ask({ do: 'traffic', name: 'python', times: 320 })
  let isOver = false
  let done = 0
  const traffic = (async () => {
    while (!isOver) {
      const file = Descriptor.memfd('one')
      const own = identity(file)
      await our.put('ours', file, { value: done })
      const lease = (await our.take('ours'))!
      t.deepEqual(identity(lease.descriptor), own)
      t.is(lease.value, done++)
      await lease.keep()
      lease.descriptor.close()
    }
  })()
  let takeovers = 0
  for (;;) {
    const { at, is } = await python.answer()
    if (at === undefined) {
      t.deepEqual(is, { wrong: 0 })
      break
    }
    if (takeovers === 5) continue
    store = await store.replace(path)
    takeovers++
  }
  isOver = true
  await traffic
  t.is(takeovers, 5)
  t.log(`320 of Python's, ${done} of ours`)
  t.deepEqual(await our.list(), [])
  await python.close()
  await store.close()
})

testIf(reason, 'Python survives a store that is killed', async t => {
  const path = socketPath()
  const store = await Holder.open(path)
  const python = new PythonClient(path)
  const kept = await python.do({ do: 'put', name: 'kept', count: 2, keep: true, literal: '5' })
  await python.do({ do: 'put', name: 'moved' })
  const own = await python.do({ do: 'put', name: 'own' })
  t.deepEqual((await python.do({ do: 'take', name: 'own' })).files, own.files)
  await python.do({ do: 'put', name: 'gone', keep: true })
  t.true(await python.do({ do: 'remove', name: 'gone' }))
  await store.kill()
  python.ask({ do: 'keep', name: 'own' })
  const successor = await Holder.open(path)
  t.deepEqual(await python.answer(), { is: null })
  t.deepEqual(await python.do({ do: 'list' }), ['kept'])
  await using our = await connectStore(path)
  const lease = (await our.take('kept'))!
  t.deepEqual(lease.descriptors.map(identity), kept.files)
  t.is(lease.value, 5)
  await lease.keep()
  for (const one of lease.descriptors) one.close()
  await python.do({ do: 'list' })
  t.deepEqual(await python.do({ do: 'open' }).then(open => open.filter((one: string) => one.includes('deleted'))), [])
  await python.close()
  await successor.close()
})

testIf(reason, 'the command of the Python client', async t => {
  t.true(readFileSync(program, 'utf8').split('\n').length <= 80)
  const path = socketPath()
  await using _ = await openStore(path)
  const file = temporaryPath()
  writeFileSync(file, 'from the store')
  const input = openSync(file, 'r')
  const run = async (...args: string[]): Promise<string> => {
    const { child, exit } = start(systemPython, ['-B', program, path, ...args], {
      stdio: ['ignore', 'pipe', 'pipe', input]
    })
    let text = ''
    child.stdout!.on('data', data => (text += data))
    const { code, stderr } = await exit
    return `${text}${stderr.trim()}${code === 0 ? '' : ` ${code}`}`
  }
  t.is(await run('put', 'file', '3'), '')
  t.regex(await run('list'), /'name': 'file'/)
  t.is(await run('take', 'file', 'cat'), 'from the store')
  t.is(await run('take', 'file', 'cat'), 'there is no file 1')
  t.is(await run('put', 'file', '3'), '')
  t.regex(await run('put', 'file', '3'), /ERR_PASSFD_STORE_EXISTS.* 1$/s)
  t.is(await run('remove', 'file'), 'True\n')
  closeSync(input)
})
