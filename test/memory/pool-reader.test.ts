import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Channel, Descriptor } from '../../src/index.ts'
import { type LentMemory, type Loan, MemoryPool, PoolReader, SharedMemory } from '../../src/memory/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { startOnPair } from '../helpers/child.ts'
import { collect, mapsOf } from '../helpers/memory.ts'
import { start } from '../helpers/process.ts'
import { test, until } from '../helpers/test.ts'

/** A loan of a pool of its own, that never went through a channel. */
function loanOf(pool: MemoryPool, to: object = pool): Loan {
  const slot = pool.tryAcquire()!
  slot.bytes.fill(pool.slots - pool.free)
  return slot.lend(to)
}

function closeLoan({ token, memory }: Loan): void {
  token[Symbol.dispose]()
  memory?.[Symbol.dispose]()
}

async function allFree(pool: MemoryPool): Promise<void> {
  await until(() => pool.free === pool.slots, 'all slots to come back')
}

test('open: the bytes that were lent, of the pool that is mapped once', async t => {
  const pool = new MemoryPool({ slots: 3, slotSize: 5000, name: 'passfd-read' })
  const reader = new PoolReader()
  const opened: LentMemory[] = []
  for (const number of [1, 2, 3]) {
    const lent = reader.open(loanOf(pool))
    t.is(lent.bytes.length, 5000)
    t.true(lent.bytes.every(byte => byte === number))
    t.is(lent.bytes, lent.bytes)
    opened.push(lent)
  }
  t.is(mapsOf('passfd-read'), 2)
  t.is(pool.free, 0)
  for (const lent of opened) lent.release()
  t.is(pool.free, 3)
  const slot = pool.tryAcquire()!
  slot.bytes.fill(9)
  const part = reader.open(slot.lend(pool, 3))
  t.deepEqual([...part.bytes], [9, 9, 9])
  part.release()
  const none = reader.open(pool.tryAcquire()!.lend(pool, 0))
  t.is(none.bytes.length, 0)
  none.release()
  reader.close()
  pool.close()
})

test('release: once, by whichever name; then every use says so', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 64 })
  const reader = new PoolReader()
  const [one, two] = [reader.open(loanOf(pool)), reader.open(loanOf(pool))]
  t.false(one.released)
  one.release()
  t.is(pool.free, 1)
  const next = reader.open(loanOf(pool))
  one.release()
  one[Symbol.dispose]()
  t.is(pool.free, 0, 'not the one who has it now')
  t.true(one.released)
  t.throws(() => one.bytes, { code: 'ERR_PASSFD_LOAN_OVER' })
  t.throws(() => one.claim(), { code: 'ERR_PASSFD_LOAN_OVER' })
  two[Symbol.dispose]()
  next.release()
  t.is(pool.free, 2)
  reader.close()
  pool.close()
})

test('it is lent until the scope of its message ends, in each way to read', async t => {
  const [left, right] = await connected()
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const reader = new PoolReader()
  let lent!: LentMemory
  const send = async () => left.send((await pool.acquire()).lend(left))
  const over = () => t.throws(() => lent.bytes, { code: 'ERR_PASSFD_LOAN_OVER' })

  right.once('message', ({ value }) => {
    lent = reader.open(value)
    t.is(lent.bytes.length, 64)
  })
  await send()
  await allFree(pool)
  over()

  await send()
  for await (const { value } of right) {
    lent = reader.open(value)
    await turn()
    t.is(lent.bytes.length, 64)
    t.is(pool.free, 0)
    break
  }
  await allFree(pool)
  over()

  right.serve(async ({ value }) => {
    lent = reader.open(value)
    await turn()
    t.is(lent.bytes.length, 64)
    t.is(pool.free, 0)
  })
  await send()
  await allFree(pool)
  over()
  reader.close()
  pool.close()
  await closeAll(left, right)
})

test('claim: beyond the scope, and beyond the channel', async t => {
  const [left, right] = await connected()
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const reader = new PoolReader()
  const opened = new Promise<LentMemory>(resolve =>
    right.once('message', ({ value }) => resolve(reader.open(value).claim()))
  )
  const slot = await pool.acquire()
  slot.bytes.fill(5)
  await left.send(slot.lend(left))
  const lent = await opened
  await closeAll(left, right)
  t.is(lent.bytes[63], 5)
  t.is(pool.free, 0)
  lent.release()
  await allFree(pool)
  reader.close()
  pool.close()
})

test('what is written into it stays here', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 64 })
  const reader = new PoolReader()
  const slot = await pool.acquire()
  const { bytes } = slot
  bytes.fill(1)
  const lent = reader.open(slot.lend(pool))
  lent.bytes.fill(2)
  t.is(bytes[0], 1)
  lent.release()
  reader.close()
  pool.close()
})

test('trap 27: what is no loan is refused, and stays the caller’s', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const reader = new PoolReader()
  const loan = loanOf(pool)
  const { readable, writable } = Descriptor.pipe()
  const [socket, peer] = Descriptor.socketpair()
  const device = file()
  writable.close()
  const wrong: unknown[] = [undefined, null, 7, 'loan', [], {}]
  for (const change of [
    { pool: 7 },
    { pool: 'x'.repeat(65) },
    { offset: -1 },
    { offset: 0.5 },
    { offset: '0' },
    { offset: 4096 },
    { offset: Number.MAX_SAFE_INTEGER },
    { length: 4097 },
    { length: undefined },
    { length: Number.POSITIVE_INFINITY },
    { token: undefined },
    { token: 3 },
    { token: device },
    { token: socket },
    { token: writable },
    { memory: 3 }
  ])
    wrong.push({ ...loan, ...change })
  for (const value of wrong)
    t.throws(
      () => reader.open(value as Loan),
      { code: 'ERR_PASSFD_LOAN_INVALID' },
      JSON.stringify(Object(value).offset)
    )
  t.false(loan.token.closed)
  const lent = reader.open({ ...loan, memory: loan.memory!.closed ? undefined! : loan.memory! })
  t.is(lent.bytes.length, 64)
  lent.release()
  for (const descriptor of [readable, socket, peer, device]) descriptor.close()
  reader.close()
  pool.close()
})

test('trap 27: a pool whose memory is not safe to map is refused', async t => {
  const reader = new PoolReader({ maxSize: 8192 })
  const memory = (size: number, seals: number) => {
    const fd = native.memfd('unsafe', size)
    if (seals > 0) native.seal(fd, seals)
    const descriptor = Descriptor.from(fd)
    native.close(fd)
    return descriptor
  }
  for (const [descriptor, code] of [
    [memory(8192, 0), 'ERR_PASSFD_MEMORY_SEALS'],
    [memory(8193, 2), 'ERR_PASSFD_MEMORY_SIZE'],
    [memory(0, 2), 'ERR_PASSFD_MEMORY_SIZE'],
    [file(), 'ERR_PASSFD_MEMORY_KIND']
  ] as const) {
    const { readable, writable: token } = Descriptor.pipe()
    const loan = { pool: 'p', offset: 0, length: 1, token, memory: descriptor }
    t.throws(() => reader.open(loan), { code })
    t.false(descriptor.closed)
    t.false(token.closed)
    closeLoan(loan)
    readable.close()
  }
  reader.close()
})

test('another memory under the name of a known pool changes nothing', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 64 })
  const reader = new PoolReader()
  const [first, second] = [loanOf(pool), loanOf(pool, {})]
  reader.open(first).release()
  second.memory!.close()
  const other = SharedMemory.create(8192)
  other.bytes.fill(9)
  const lent = reader.open({ ...second, memory: other.descriptor() })
  t.is(lent.bytes[0], 2)
  lent.release()
  other.close()
  reader.close()
  pool.close()
})

test('what is no memory is refused for a known pool, too: closing it could wait', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 64 })
  const reader = new PoolReader()
  const [first, second] = [loanOf(pool), loanOf(pool, {})]
  reader.open(first).release()
  second.memory!.close()
  const memory = Descriptor.openSync('/etc/hostname')
  t.throws(() => reader.open({ ...second, memory }), { code: 'ERR_PASSFD_MEMORY_KIND' })
  t.false(memory.closed || second.token.closed)
  memory.close()
  const { memory: _, ...known } = second
  reader.open(known).release()
  reader.close()
  pool.close()
})

test('more pools than it keeps: the one not used for longest is given up, and unmapped if nobody looks', async t => {
  const names = ['passfd-a', 'passfd-b', 'passfd-c']
  const [a, b, c] = names.map(name => new MemoryPool({ slots: 4, slotSize: 64, name })) as [
    MemoryPool,
    MemoryPool,
    MemoryPool
  ]
  const maps = () => names.map(name => mapsOf(name))
  const reader = new PoolReader({ maxPools: 2 })
  reader.open(loanOf(a)).release()
  const seen = reader.open(loanOf(b))
  const { bytes } = seen
  seen.release()
  const used = reader.open(loanOf(a))
  t.deepEqual(maps(), [2, 2, 1])
  reader.open(loanOf(c)).release()
  t.is(bytes.length, 0, 'b is given up at once, not by the collector')
  await until(() => maps().join() === '2,1,2', 'b to be unmapped')
  t.is(b.free, 4)
  const stale = loanOf(b)
  t.is(stale.memory, undefined, 'it had said that it has it')
  t.throws(() => reader.open(stale), { code: 'ERR_PASSFD_POOL_UNKNOWN' })
  stale.token.close()
  t.is(b.free, 4)
  const again = loanOf(b)
  t.truthy(again.memory)
  reader.open(again).release() // a is the oldest now, and in use
  t.is(used.bytes[0], 1)
  t.is(mapsOf('passfd-a'), 2)
  t.is(used.bytes.length, 64)
  used.release()
  reader.close()
  for (const pool of [a, b, c]) pool.close()
})

test('more bytes than it keeps: likewise', async t => {
  const reader = new PoolReader({ maxSize: 3 * 4096 })
  const pools = ['passfd-d', 'passfd-e'].map(name => new MemoryPool({ slots: 2, slotSize: 4096, name }))
  for (const pool of pools) reader.open(loanOf(pool)).release()
  await until(() => mapsOf('passfd-d') === 1 && mapsOf('passfd-e') === 2, 'the first to be unmapped')
  reader.close()
  for (const pool of pools) pool.close()
  t.pass()
})

test('close: what was opened is empty, and still released', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 64, name: 'passfd-reader' })
  const reader = new PoolReader()
  const lent = reader.open(loanOf(pool))
  const { bytes } = lent
  reader.close()
  t.is(bytes.length, 0)
  t.is(pool.free, 0)
  lent.release()
  t.is(pool.free, 1)
  const loan = loanOf(pool)
  t.throws(() => reader.open(loan), { code: 'ERR_PASSFD_POOL_READER_CLOSED' })
  closeLoan(loan)
  reader[Symbol.dispose]()
  await until(() => mapsOf('passfd-reader') === 1, 'the map to go')
  pool.close()
})

test('wrong options', t => {
  for (const options of [{ maxPools: 0 }, { maxPools: '1' }, { maxSize: 0 }, { maxSize: -1 }])
    t.throws(() => new PoolReader(options as object), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

test('what is claimed and forgotten goes back by the collector, unless its bytes are in use', async t => {
  const script = fileURLToPath(new URL('../fixtures/loan-collected.mjs', import.meta.url))
  const { line, exit } = start(process.execPath, ['--expose-gc', script])
  t.is(await line(), 'in use 1')
  t.is(await line(), 'PASSFD_LEAK')
  t.is(await line(), 'forgotten 2')
  t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
})

test('a reader that is forgotten is unmapped', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 64, name: 'passfd-lost' })
  ;(() => new PoolReader().open(loanOf(pool)).release())()
  await until(() => {
    collect()
    return mapsOf('passfd-lost') === 1
  }, 'the map to go')
  t.is(pool.free, 1)
  pool.close()
})

test('two processes may read one pool, each told apart by its channel', async t => {
  const ends = await Promise.all([startOnPair('pool-on-3'), startOnPair('pool-on-3')])
  const channels = ends.map(([channel]) => channel) as [Channel<any, any>, Channel<any, any>]
  const pool = new MemoryPool({ slots: 2, slotSize: 64 })
  const ask = async (channel: Channel<any, any>) => {
    const slot = await pool.acquire()
    slot.bytes.fill(1)
    const loan = slot.lend(channel)
    return [loan.memory !== undefined, await channel.request({ way: 'sum', loan })]
  }
  for (const channel of channels) t.is((await ask(channel))[0], true)
  await allFree(pool)
  for (const channel of channels) t.is((await ask(channel))[0], false)
  t.is((await ask(channels[0]))[1], (await ask(channels[1]))[1])
  pool.close()
  await closeAll(...channels)
  for (const [, { exit }] of ends) await exit
})

test('it works through requests and replies, whose descriptors are the caller’s', async t => {
  const [left, right] = await connected()
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const reader = new PoolReader()
  right.serve(async () => (await pool.acquire()).lend(right))
  const lent = reader.open(await left.request<Loan>('one', { descriptors: 2 }))
  t.is(pool.free, 0)
  t.is(lent.bytes.length, 64)
  lent.release()
  await allFree(pool)
  const loan = await left.request<Loan>('another')
  t.is(loan.memory, undefined)
  reader.open(loan).release()
  await allFree(pool)
  reader.close()
  pool.close()
  await closeAll(left, right)
})
