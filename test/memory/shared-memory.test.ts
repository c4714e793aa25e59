import * as fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { Descriptor } from '../../src/index.ts'
import { SharedMemory } from '../../src/memory/index.ts'
import { native } from '../../src/os/native.ts'
import { file } from '../helpers/channels.ts'
import { startOnPair } from '../helpers/child.ts'
import { identity } from '../helpers/facts.ts'
import { mapsOf, noHugePages, startHuge } from '../helpers/memory.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { leaked, openDescriptors, test, testIf, until } from '../helpers/test.ts'

const SIZE = 8192

test('create: zeros, of that size, mapped writable', t => {
  const memory = SharedMemory.create(SIZE, { name: 'passfd-created' })
  t.is(memory.size, SIZE)
  t.is(memory.buffer.byteLength, SIZE)
  t.is(memory.bytes.length, SIZE)
  t.is(memory.bytes, memory.bytes)
  t.is(memory.bytes.buffer, memory.buffer)
  t.true(memory.bytes.every(byte => byte === 0))
  memory.bytes.fill(1)
  t.is(new Uint8Array(memory.buffer)[SIZE - 1], 1)
  t.is(mapsOf('passfd-created'), 1)
  t.false(memory.closed)
  memory.close()
})

test('create: sealed against shrinking, growing and more seals; of mode 0600', t => {
  for (const [peersWrite, seals] of [
    [true, 7],
    [false, 23]
  ] as const) {
    const memory = SharedMemory.create(SIZE, { peersWrite })
    const descriptor = memory.descriptor()
    t.is(native.seals(descriptor.borrow()) & 31, seals)
    t.is(fs.fstatSync(descriptor.borrow()).mode & 0o777, 0o600)
    for (const size of [0, SIZE - 1, SIZE + 1])
      t.throws(() => fs.ftruncateSync(descriptor.borrow(), size), { code: 'EPERM' })
    descriptor.close()
    memory.close()
  }
})

test('create: wrong arguments', t => {
  for (const size of [0, -1, 1.5, '8', undefined, 2 ** 32 + 1])
    t.throws(() => SharedMemory.create(size as number), { code: 'ERR_PASSFD_INVALID_ARGUMENT' }, String(size))
  for (const options of [{ name: 'x'.repeat(250) }, { name: 'a\0' }, { name: 1 }, { peersWrite: 1 }])
    t.throws(() => SharedMemory.create(SIZE, options as object), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

test('create: what fails leaves nothing behind', t => {
  const { seal } = native
  native.seal = (fd, seals) => (seals & 1 ? -22 : seal(fd, seals))
  try {
    t.throws(() => SharedMemory.create(SIZE), { code: 'EINVAL' })
  } finally {
    native.seal = seal
  }
})

test('another process writes into it and reads it, without a copy', async t => {
  const [channel, peer] = await startOnPair('memory-on-3')
  const mine = SharedMemory.create(SIZE)
  let theirs: SharedMemory | undefined
  for (let round = 0; round < 10; round++) {
    mine.bytes[0] = round * 10
    const answer = await channel.request<{ before: number; memory: Descriptor }>({
      memory: mine.descriptor(),
      writable: true
    })
    t.is(answer.before, round * 10)
    t.is(mine.bytes[0], round * 10 + 1)
    theirs ??= SharedMemory.map(answer.memory.dup())
    answer.memory.close()
    t.is(theirs.bytes[0], round * 10 + 1, 'mapped once, and up to date')
  }
  // for itself: what it writes is seen by nobody else
  mine.bytes[0] = 200
  const { memory } = await channel.request<{ memory: Descriptor }>({ memory: mine.descriptor(), writable: false })
  memory.close()
  t.is(mine.bytes[0], 200)
  t.is(theirs!.bytes[0], 201)
  await until(() => mapsOf('passfd', peer.child.pid) === 1, 'the peer to unmap what it has closed')
  theirs!.close()
  mine.close()
  await channel.close()
  await peer.exit
})

test('map: the descriptor moves in, and its size is taken', t => {
  const memory = SharedMemory.create(SIZE)
  const descriptor = memory.descriptor()
  const same = SharedMemory.map(descriptor, { writable: true })
  t.true(descriptor.closed)
  t.throws(() => descriptor.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_MOVED', message: /SharedMemory\.map\(\)/ })
  t.is(same.size, SIZE)
  same.bytes[5] = 6
  t.is(memory.bytes[5], 6)
  const part = SharedMemory.map(same.descriptor(), { size: 6 })
  t.deepEqual([...part.bytes], [0, 0, 0, 0, 0, 6])
  for (const each of [memory, same, part]) each.close()
})

test('map: a mapped memory gives descriptors to send on', t => {
  const memory = SharedMemory.create(SIZE)
  const middle = SharedMemory.map(memory.descriptor())
  memory.close()
  const last = SharedMemory.map(middle.descriptor(), { writable: true })
  last.bytes[0] = 1
  t.is(middle.bytes[0], 1)
  middle.close()
  last.close()
})

test('a descriptor for reading only is not mapped writable', t => {
  const memory = SharedMemory.create(SIZE)
  const copy = memory.descriptor()
  const descriptor = memory.descriptor({ writable: false })
  t.is(identity(descriptor.borrow()), identity(copy.borrow()))
  copy.close()
  t.throws(() => SharedMemory.map(descriptor, { writable: true }), {
    code: 'ERR_PASSFD_MEMORY_READ_ONLY',
    message: /its descriptor is for reading only/
  })
  const reader = SharedMemory.map(descriptor)
  const onward = reader.descriptor()
  t.throws(() => SharedMemory.map(onward, { writable: true }), { code: 'ERR_PASSFD_MEMORY_READ_ONLY' })
  onward.close()
  memory.bytes[1] = 9
  t.is(reader.bytes[1], 9)
  reader.close()
  memory.close()
})

test('what only its maker writes nobody else can, not even by opening it anew', t => {
  const memory = SharedMemory.create(SIZE, { peersWrite: false })
  const descriptor = memory.descriptor()
  t.throws(() => SharedMemory.map(descriptor, { writable: true }), {
    code: 'ERR_PASSFD_MEMORY_READ_ONLY',
    message: /it is sealed against writing/
  })
  const again = fs.openSync(`/proc/self/fd/${descriptor.borrow()}`, 'r+')
  t.throws(() => fs.writeSync(again, 'x'), { code: 'EPERM' })
  t.is(native.map(again, SIZE, true, []), -1)
  fs.closeSync(again)
  const reader = SharedMemory.map(descriptor)
  memory.bytes[0] = 8
  t.is(reader.bytes[0], 8)
  reader.close()
  memory.close()
})

test('trap 27: what a peer could make dangerous is refused by name, and stays the caller’s', async t => {
  const [channel, peer] = await startOnPair('memory-hostile', [temporaryPath()])
  const refusals: [string, object, string, RegExp][] = [
    ['file', {}, 'ERR_PASSFD_MEMORY_KIND', /this is a file/],
    ['unsealed', {}, 'ERR_PASSFD_MEMORY_SEALS', /F_SEAL_SHRINK/],
    ['unsealed', { writable: true }, 'ERR_PASSFD_MEMORY_SEALS', /F_SEAL_SHRINK/],
    ['small', { size: SIZE }, 'ERR_PASSFD_MEMORY_SIZE', /has 4096 bytes; expected: 8192/],
    ['small', { size: 4097, writable: true }, 'ERR_PASSFD_MEMORY_SIZE', /has 4096 bytes; expected: 4097/],
    ['empty', {}, 'ERR_PASSFD_MEMORY_SIZE', /has 0 bytes; expected: 1 to 1073741824/],
    ['huge', {}, 'ERR_PASSFD_MEMORY_SIZE', /has 1099511627776 bytes/]
  ]
  for (const [kind, options, code, message] of refusals) {
    const descriptor = await channel.request<Descriptor>(kind)
    t.throws(() => SharedMemory.map(descriptor, options), { code, message }, kind)
    t.false(descriptor.closed, kind)
    descriptor.close()
  }
  const some = await channel.request<Descriptor>('huge')
  const part = SharedMemory.map(some, { size: 2 ** 31 })
  t.is(part.size, 2 ** 31)
  const fair = SharedMemory.map(await channel.request<Descriptor>('fair'), { writable: true, size: SIZE })
  fair.bytes.fill(1)
  const outcomes = await channel.request<string[]>('truncate')
  t.deepEqual(outcomes, ['done', 'done', 'done', 'EPERM', 'EPERM', 'done', 'EPERM', 'EPERM', 'EPERM'])
  t.is(fair.bytes[SIZE - 1], 1, 'what is mapped does not go away')
  t.is(part.bytes[2 ** 31 - 1], 0)
  fair.close()
  part.close()
  await channel.close()
  await peer.exit
  t.is(mapsOf('hostile'), 0)
})

testIf(noHugePages, 'trap 27: memory with huge pages is refused by name', async t => {
  const [path, python] = await startHuge()
  const descriptor = Descriptor.openSync(path, 'r+')
  t.throws(() => SharedMemory.map(descriptor), { code: 'ERR_PASSFD_MEMORY_KIND', message: /pages of another kind/ })
  t.false(descriptor.closed)
  descriptor.close()
  python.child.stdin!.end()
  await python.exit
})

test('map: what is no memory, and wrong arguments', t => {
  const { readable, writable } = Descriptor.pipe()
  for (const [descriptor, kind] of [
    [readable, 'pipe'],
    [writable, 'pipe'],
    [file(), 'device']
  ] as const) {
    t.throws(() => SharedMemory.map(descriptor), { code: 'ERR_PASSFD_MEMORY_KIND', message: new RegExp(kind) })
    descriptor.close()
    t.throws(() => SharedMemory.map(descriptor), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  }
  const memory = SharedMemory.create(SIZE)
  const descriptor = memory.descriptor()
  for (const value of [undefined, null, 3, {}, memory])
    t.throws(() => SharedMemory.map(value as Descriptor), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  for (const options of [{ size: 0 }, { size: -1 }, { size: 2 ** 33 }, { size: '1' }, { writable: 'yes' }])
    t.throws(() => SharedMemory.map(descriptor, options as object), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.throws(() => memory.descriptor({ writable: 1 } as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.throws(() => SharedMemory.map(descriptor, { size: SIZE + 1 }), { code: 'ERR_PASSFD_MEMORY_SIZE' })
  t.false(descriptor.closed)
  descriptor.close()
  memory.close()
})

test('close: the views are empty, the memory is unmapped, and every use says so', async t => {
  const memory = SharedMemory.create(SIZE, { name: 'passfd-closed' })
  const other = SharedMemory.map(memory.descriptor())
  const { buffer, bytes } = memory
  memory.bytes[0] = 5
  memory.close()
  t.true(memory.closed)
  t.is(buffer.byteLength, 0)
  t.is(bytes.length, 0)
  t.is(bytes[0], undefined)
  await until(() => mapsOf('passfd-closed') === 1, 'the map to go')
  for (const use of [
    () => memory.bytes,
    () => memory.buffer,
    () => memory.close(),
    () => memory.descriptor()
  ] as (() => unknown)[])
    t.throws(use, { code: 'ERR_PASSFD_MEMORY_CLOSED' })
  memory[Symbol.dispose]()
  t.is(other.bytes[0], 5, 'others keep theirs')
  other[Symbol.dispose]()
  t.true(other.closed)
  await until(() => mapsOf('passfd-closed') === 0, 'the map to go')
})

test('it is not sent by mistake', async t => {
  const [channel, peer] = await startOnPair('read-on-3')
  const memory = SharedMemory.create(SIZE)
  t.throws(() => channel.send({ memory }), { code: 'ERR_PASSFD_ENCODE', message: /descriptor\(\)/ })
  memory.close()
  await channel.close()
  await peer.exit
})

test('what is forgotten is unmapped and closed by the collector, unless its bytes are in use', async t => {
  const script = fileURLToPath(new URL('../fixtures/memory-collected.mjs', import.meta.url))
  // Node 22 and later read that file on a thread, so it may be open when the descriptors are counted
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: undefined }
  const { line, exit } = start(process.execPath, ['--expose-gc', script], { env })
  t.is(await line(), '2')
  t.is(await line(), '0 0')
  t.is(await line(), '1 0')
  t.is(await line(), '3')
  t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
})

for (const way of ['exit', 'throw', 'terminate']) {
  test(`a worker thread that ends with memory mapped and slots lent leaves nothing: ${way}`, async t => {
    const before = openDescriptors()
    const script = new URL('../fixtures/memory-worker.mjs', import.meta.url)
    const worker = new Worker(script, { execArgv: [], workerData: way })
    const errors: Error[] = []
    worker.on('error', error => errors.push(error))
    const exit = new Promise(resolve => worker.once('exit', resolve))
    await new Promise(resolve => worker.once('message', resolve))
    if (way === 'terminate') await worker.terminate()
    await exit
    t.deepEqual(
      errors.map(({ message }) => message),
      way === 'throw' ? ['thrown on purpose'] : []
    )
    t.deepEqual(await leaked(before), [])
    await until(() => mapsOf('worker') === 0, 'the maps to go')
  })
}
