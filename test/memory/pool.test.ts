import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { type Channel, type Descriptor, pair } from '../../src/index.ts'
import { type Loan, MemoryPool, PoolReader, type Slot } from '../../src/memory/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, nextMessage, patched } from '../helpers/channels.ts'
import { startOnPair, stop } from '../helpers/child.ts'
import { times } from '../helpers/full.ts'
import { collect, mapsOf } from '../helpers/memory.ts'
import { type Running, startFixture } from '../helpers/process.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const LOANS = times(100, 1000)

const TO = {}

/** A pool, the other process that it lends to, and the end of both. */
function poolTest(
  title: string,
  options: { slots: number; slotSize: number },
  body: (t: ExecutionContext, pool: MemoryPool, channel: Channel<any, any>, peer: Running) => Promise<void>
): void {
  test(title, async t => {
    const [channel, peer] = await startOnPair('pool-on-3')
    const pool = new MemoryPool(options)
    await body(t, pool, channel, peer)
    if (!pool.closed) pool.close()
    await channel.close()
    await peer.exit
  })
}

async function take(pool: MemoryPool, count: number): Promise<Slot[]> {
  return Promise.all(Array.from({ length: count }, () => pool.acquire()))
}

async function allFree(pool: MemoryPool): Promise<void> {
  await until(() => pool.free === pool.slots, 'all slots to come back')
}

const checksum = (bytes: Uint8Array) => createHash('sha1').update(bytes).digest('hex')

// --- slots

test('acquire: slots of the size asked for, each its own', async t => {
  const pool = new MemoryPool({ slots: 3, slotSize: 5000, name: 'passfd-slots' })
  t.is(pool.slots, 3)
  t.is(pool.slotSize, 5000)
  t.is(mapsOf('passfd-slots'), 1)
  const slots = await take(pool, 3)
  t.is(pool.free, 0)
  for (const [index, { bytes }] of slots.entries()) {
    t.is(bytes.length, 5000)
    t.is(bytes.byteOffset % 4096, 0, 'no page in common')
    bytes.fill(index + 1)
  }
  for (const [index, { bytes }] of slots.entries()) t.true(bytes.every(byte => byte === index + 1))
  for (const slot of slots) slot.release()
  t.is(pool.free, 3)
  pool.close()
})

test('defaults: eight of 1 MiB', async t => {
  const pool = new MemoryPool()
  t.is(pool.slots, 8)
  t.is(pool.slotSize, 1048576)
  const slot = pool.tryAcquire()!
  t.is(slot.bytes.length, 1048576)
  pool.close()
})

test('wrong options and arguments', async t => {
  for (const options of [
    { slots: 0 },
    { slots: 1.5 },
    { slotSize: 0 },
    { slotSize: '1' },
    { slots: 2, slotSize: 2 ** 32 },
    { name: 'x'.repeat(250) }
  ])
    t.throws(() => new MemoryPool(options as object), { code: 'ERR_PASSFD_INVALID_ARGUMENT' }, JSON.stringify(options))
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  t.throws(() => pool.acquire({ signal: 1 } as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  const slot = await pool.acquire()
  for (const [to, length] of [[3], [undefined], [null], [TO, 11], [TO, -1], [TO, 1.5], [TO, '1']] as [never, never][])
    t.throws(() => slot.lend(to, length), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.is(slot.bytes.length, 10, 'it is still there')
  pool.close()
})

test('a slot is used once: after lend and release it belongs to somebody else', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 10 })
  const [lent, released] = (await take(pool, 2)) as [Slot, Slot]
  const loan = lent.lend(TO)
  released.release()
  for (const slot of [lent, released]) {
    t.throws(() => slot.bytes, { code: 'ERR_PASSFD_SLOT_GONE' })
    t.throws(() => slot.lend(TO), { code: 'ERR_PASSFD_SLOT_GONE' })
  }
  t.is(pool.free, 1)
  released.release()
  released[Symbol.dispose]()
  t.is(pool.free, 1, 'twice is once')
  lent[Symbol.dispose]()
  t.is(pool.free, 1, 'what is lent is not given back by the end of a block')
  t.false(loan.token.closed)
  lent.release()
  t.true(loan.token.closed, 'what was not sent is')
  t.true(loan.memory!.closed)
  t.is(pool.free, 2)
  lent.release()
  t.is(pool.free, 2)
  pool.close()
})

test('acquire waits when all are out, first come, first served', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  const first = await pool.acquire()
  t.is(pool.tryAcquire(), undefined)
  const order: number[] = []
  const waiting = [1, 2, 3].map(async number => {
    const slot = await pool.acquire()
    order.push(number)
    t.is(pool.tryAcquire(), undefined)
    slot.release()
  })
  await turn()
  t.deepEqual(order, [])
  first.release()
  t.is(pool.tryAcquire(), undefined, 'who waits comes first')
  await Promise.all(waiting)
  t.deepEqual(order, [1, 2, 3])
  t.is(pool.free, 1)
  pool.close()
})

test('acquire: its signal ends the wait, and only that', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  const slot = await pool.acquire()
  const controller = new AbortController()
  const given = pool.acquire({ signal: controller.signal })
  const other = pool.acquire()
  controller.abort(new Error('enough'))
  const error = await t.throwsAsync(given, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is((error!.cause as Error).message, 'enough')
  await t.throwsAsync(pool.acquire({ signal: controller.signal }), { name: 'AbortError' })
  slot.release()
  const next = await other
  next.release()
  t.is(pool.free, 1)
  const late = new AbortController()
  const got = await pool.acquire({ signal: late.signal })
  late.abort()
  t.is(got.bytes.length, 10)
  pool.close()
})

test('close: who waits is rejected, slots are empty, and every use says so', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 10, name: 'passfd-ended' })
  const [slot, lent] = (await take(pool, 2)) as [Slot, Slot]
  const { bytes } = slot
  lent.lend(TO)
  const waiting = [pool.acquire(), pool.acquire()]
  pool.close()
  for (const each of waiting) await t.throwsAsync(each, { code: 'ERR_PASSFD_POOL_CLOSED' })
  await t.throwsAsync(pool.acquire(), { code: 'ERR_PASSFD_POOL_CLOSED' })
  for (const use of [() => pool.tryAcquire(), () => pool.close(), () => slot.lend(TO)])
    t.throws(use, { code: 'ERR_PASSFD_POOL_CLOSED' })
  t.is(bytes.length, 0)
  t.is(pool.free, 0)
  t.true(pool.closed)
  slot.release()
  lent.release()
  t.is(pool.free, 0)
  pool[Symbol.dispose]()
  await until(() => mapsOf('passfd-ended') === 0, 'the map to go')
})

test('lend: without descriptors to be had it fails, and the slot is still there', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  const slot = await pool.acquire()
  await patched(
    'pipe',
    () => () => -24,
    () => void t.throws(() => slot.lend(TO), { code: 'EMFILE' })
  )
  slot.lend(TO)
  slot.release()
  t.is(pool.free, 1)
  pool.close()
})

test('a pool whose loans can’t be watched is not made, and a loan that can’t be is not lent', async t => {
  await patched(
    'watch',
    () => () => -28,
    () => void t.throws(() => new MemoryPool({ slots: 1, slotSize: 10, name: 'passfd-unwatched' }), { code: 'ENOSPC' })
  )
  await until(() => mapsOf('passfd-unwatched') === 0, 'the map to go')
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  const slot = await pool.acquire()
  await patched(
    'edgeAddEnd',
    () => () => -28,
    () => void t.throws(() => slot.lend(TO), { code: 'ENOSPC' })
  )
  slot.lend(TO)
  slot.release()
  t.is(pool.free, 1)
  pool.close()
})

test('a slot that is forgotten is free again, with a warning', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  const listeners = process.listeners('warning')
  process.removeAllListeners('warning')
  const warning = once(process, 'warning')
  await pool.acquire()
  await until(() => {
    collect()
    return pool.free === 1
  }, 'the slot to be collected')
  const [{ name, code, message }] = await warning
  t.deepEqual([name, code], ['PassfdWarning', 'PASSFD_LEAK'])
  t.regex(message, /A slot of a MemoryPool was collected/)
  for (const listener of listeners) process.on('warning', listener as never)
  pool.close()
})

test('while its bytes are in use a slot is not forgotten', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 10 })
  const { bytes } = await pool.acquire()
  for (let i = 0; i < 5; i++) {
    collect()
    await turn()
  }
  t.is(pool.free, 0)
  bytes[0] = 1
  pool.close()
})

test('a pool is not forgotten while an acquire() waits', async t => {
  let loan: Loan | undefined
  let got = false
  void (async () => {
    const pool = new MemoryPool({ slots: 1, slotSize: 10 })
    loan = (await pool.acquire()).lend(TO)
    const slot = await pool.acquire()
    got = true
    slot.release()
    pool.close()
  })()
  await until(() => loan !== undefined, 'the loan')
  for (let i = 0; i < 5; i++) {
    await turn()
    collect()
  }
  loan!.memory!.close()
  loan!.token.close()
  await until(() => got, 'the slot', 10)
  t.pass()
})

test('a pool that is forgotten with slots out is unmapped, and its pipes are closed', async t => {
  const before = openDescriptors().size
  const loans: Loan[] = []
  await (async () => {
    const pool = new MemoryPool({ slots: 2, slotSize: 10, name: 'passfd-forgotten' })
    for (const slot of await take(pool, 2)) loans.push(slot.lend(TO))
  })()
  for (const { memory } of loans) memory!.close()
  await until(() => {
    collect()
    return mapsOf('passfd-forgotten') === 0 && openDescriptors().size === before + 2
  }, 'the pool to be collected')
  for (const { token } of loans) token.close()
  t.pass()
})

for (const [way, output] of [
  ['wait', 'closed\ngot it'],
  ['waited', ''],
  ['lend', '']
] as const)
  test(`a slot that is out keeps the process running only while somebody waits for it: ${way}`, async t => {
    const { child, exit } = startFixture('pool-alive', [way], { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    child.stdout!.setEncoding('utf8').on('data', text => {
      said += text
    })
    t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
    t.is(said.trim(), output)
  })

test('what was sent has left before the next slot is given', async t => {
  const [left, right] = await connected()
  const pool = new MemoryPool({ slots: 3, slotSize: 64 })
  const sent: number[] = []
  let writes = 0
  await patched(
    'send',
    original =>
      (...args) => {
        writes++
        return original(...args)
      },
    async () => {
      for (let i = 0; i < 3; i++) {
        const slot = await pool.acquire()
        sent.push(writes)
        left.send(slot.lend(left))
      }
    }
  )
  t.deepEqual(sent, [0, 1, 2])
  right.on('message', () => {})
  await allFree(pool)
  pool.close()
  await closeAll(left, right)
})

test('a slot is not sent by mistake, nor is what a reader has', async t => {
  const [left, right] = await connected()
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const reader = new PoolReader()
  const slot = await pool.acquire()
  t.throws(() => left.send({ slot }), { code: 'ERR_PASSFD_ENCODE', message: /lend\(\)/ })
  const lent = reader.open(slot.lend(left))
  t.throws(() => left.send({ lent }), { code: 'ERR_PASSFD_ENCODE', message: /its bytes/ })
  lent.release()
  reader.close()
  pool.close()
  await closeAll(left, right)
})

// --- lent to another process

poolTest(
  `${LOANS} loans over four slots, there and back, whole`,
  { slots: 4, slotSize: 65536 },
  async (t, pool, channel) => {
    const reader = new PoolReader()
    const ask = async (number: number) => {
      const slot = await pool.acquire()
      const { bytes } = slot
      const length = 1 + ((number * 7919) % 65536)
      for (let i = 0; i < length; i += 97) bytes[i] = number + i
      bytes[length - 1] = number
      const sum = checksum(bytes.subarray(0, length))
      const inverse = checksum(bytes.subarray(0, length).map(byte => byte ^ 0xff))
      const answer = await channel.request<{ sum: string; loan: Loan }>(
        { way: 'back', loan: slot.lend(channel, length) },
        { descriptors: 2 }
      )
      const theirs = reader.open(answer.loan)
      if (answer.sum !== sum || theirs.bytes.length !== length || checksum(theirs.bytes) !== inverse)
        t.fail(`loan ${number} is damaged`)
      theirs.release()
    }
    await Promise.all(Array.from({ length: 20 }, (_, number) => ask(number)))
    const [descriptors, maps] = [readdirSync('/proc/self/fd').length, mapsOf('passfd-pool')]
    for (let number = 20; number < LOANS; number += 20)
      await Promise.all(Array.from({ length: 20 }, (_, index) => ask(number + index)))
    await allFree(pool)
    t.true(readdirSync('/proc/self/fd').length <= descriptors)
    t.is(mapsOf('passfd-pool'), maps)
    t.is(maps, 2, 'ours and the one that we read')
    reader.close()
  }
)

poolTest('the memory comes along until the reader has it', { slots: 2, slotSize: 4096 }, async (t, pool, channel) => {
  const first = (await pool.acquire()).lend(channel)
  const second = (await pool.acquire()).lend(channel)
  t.truthy(first.memory)
  t.truthy(second.memory, 'nothing is known of the reader yet')
  t.is(await channel.request({ way: 'sum', loan: first }), checksum(Buffer.alloc(4096)))
  await channel.request({ way: 'sum', loan: second })
  await allFree(pool)
  const third = (await pool.acquire()).lend(channel)
  t.is(third.memory, undefined)
  await channel.request({ way: 'sum', loan: third })
  const other = (await pool.acquire()).lend({})
  t.truthy(other.memory, 'another reader')
  other.memory!.close()
  other.token.close()
})

poolTest(
  'a reader that does not know the pool says so, and gets the memory',
  { slots: 2, slotSize: 64 },
  async (t, pool, channel) => {
    await channel.request({ way: 'sum', loan: (await pool.acquire()).lend(channel) })
    await allFree(pool)
    const error = await t.throwsAsync(channel.request({ way: 'unknown', loan: (await pool.acquire()).lend(channel) }))
    t.is((error as any).remote.code, 'ERR_PASSFD_POOL_UNKNOWN')
    await allFree(pool)
    const loan = (await pool.acquire()).lend(channel)
    t.truthy(loan.memory)
    t.is(await channel.request({ way: 'sum', loan }), checksum(Buffer.alloc(64)))
  }
)

poolTest(
  'what the reader claims stays out until it releases it, and acquire goes on then',
  { slots: 2, slotSize: 64 },
  async (t, pool, channel) => {
    for (const slot of await take(pool, 2)) await channel.request({ way: 'hold', loan: slot.lend(channel) })
    t.is(pool.free, 0)
    let resumed = false
    const waiting = pool.acquire().then(slot => {
      resumed = true
      return slot
    })
    await channel.request({ way: 'drop' })
    t.false(resumed)
    await channel.request({ way: 'release' })
    const slot = await waiting
    t.is(pool.free, 0)
    slot.release()
    t.is(pool.free, 1)
  }
)

poolTest(
  'slots that nobody opens come back at the end of the message',
  { slots: 1, slotSize: 64 },
  async (t, pool, channel) => {
    for (let i = 0; i < 20; i++) {
      const slot = await pool.acquire() // waits for the one before
      channel.send({ way: 'drop', loan: slot.lend(channel) })
    }
    await allFree(pool)
    t.pass()
  }
)

poolTest(
  'SIGKILL of a reader that holds slots, opened and not: all come back',
  { slots: 4, slotSize: 64 },
  async (t, pool, channel, peer) => {
    for (const way of ['hold', 'hold', 'holdUnopened', 'hold'])
      await channel.request({ way, loan: (await pool.acquire()).lend(channel) })
    t.is(pool.free, 0)
    const waiting = take(pool, 4)
    peer.child.kill('SIGKILL')
    for (const slot of await waiting) slot.release()
    t.is(pool.free, 4)
    t.is(((await channel.closed) as any).code, 'ERR_PASSFD_DISCONNECTED')
  }
)

poolTest(
  'slots in messages that nobody reads come back with the channel',
  { slots: 3, slotSize: 64 },
  async (t, pool, channel, peer) => {
    await stop(peer)
    for (const slot of await take(pool, 3)) channel.send({ way: 'sum', loan: slot.lend(channel) })
    await turn()
    t.is(pool.free, 0)
    channel.destroy()
    await channel.closed
    peer.child.kill('SIGKILL')
    await peer.exit
    await allFree(pool)
    t.pass()
  }
)

test('a message that a consumer never comes for gives its slot back when the channel ends', async t => {
  const [left, right] = await connected()
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const slot = await pool.acquire()
  await left.send(slot.lend(left))
  await turn()
  t.is(pool.free, 0)
  right.destroy()
  await left.closed
  await allFree(pool)
  pool.close()
})

test('what can’t be sent comes back as the same object, or by itself', async t => {
  const pool = new MemoryPool({ slots: 2, slotSize: 64 })
  const [left, end] = pair<any, any>()
  const [first, second] = (await take(pool, 2)) as [Slot, Slot]
  const loan = first.lend(left)
  const returned = once(left, 'returned', { signal: AbortSignal.timeout(5000) })
  left.once('returned', given => void given.claim())
  left.send({ loan })
  t.true(loan.token.closed)
  first.release()
  t.is(pool.free, 0, 'it has left')
  end.close()
  const [{ value }] = await returned
  t.is(value.loan, loan)
  t.false(loan.token.closed)
  first.release()
  t.is(pool.free, 1)
  t.true(loan.memory!.closed)

  const [other, gone] = pair<any, any>()
  other.send({ loan: second.lend(other) })
  gone.close()
  await other.closed
  await allFree(pool)
  const third = await pool.acquire()
  t.throws(() => other.send({ bad: () => {}, loan: third.lend(other) }), { code: 'ERR_PASSFD_ENCODE' })
  third.release()
  pool.close()
})

test('close with slots out: the reader keeps what it has, and nothing is left here', async t => {
  const [left, right] = await connected()
  const reader = new PoolReader()
  const pool = new MemoryPool({ slots: 2, slotSize: 64, name: 'passfd-out' })
  const [first, second] = (await take(pool, 2)) as [Slot, Slot]
  first.bytes.fill(7)
  second.bytes.fill(8)
  await left.send(first.lend(left))
  const one = reader.open((await nextMessage(right)).value)
  left.send(second.lend(left))
  pool.close()
  const two = reader.open((await nextMessage(right)).value)
  t.deepEqual([one.bytes[0], two.bytes[63]], [7, 8])
  one.release()
  two.release()
  reader.close()
  await closeAll(left, right)
  await until(() => mapsOf('passfd-out') === 0, 'the maps to go')
})

test('a reader that says more than one word, or nonsense, harms only itself', async t => {
  const pool = new MemoryPool({ slots: 1, slotSize: 64 })
  const memories: (Descriptor | undefined)[] = []
  for (const words of [
    Buffer.alloc(65, 1),
    Buffer.alloc(64, 1),
    Buffer.from([1, 2]),
    Buffer.alloc(5000, 9),
    Buffer.from([2, 1])
  ]) {
    const loan = (await pool.acquire()).lend(TO)
    memories.push(loan.memory)
    const writer = loan.token.borrow()
    t.is(native.writeNow(writer, words, 0, words.length), words.length)
    t.is(pool.free, 0)
    loan.token.close()
    await allFree(pool)
  }
  t.deepEqual(
    memories.map(memory => memory !== undefined),
    [true, false, false, true, true]
  )
  for (const memory of memories) memory?.close()
  const last = await pool.acquire()
  t.is(last.lend(TO).memory, undefined)
  last.release()
  pool.close()
})
