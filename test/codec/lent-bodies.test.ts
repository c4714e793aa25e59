import { markAsUntransferable } from 'node:worker_threads'
import { endBodyLoan, giveBody, idleBlocks, keepLent, lendBody } from '../../src/codec/lent-bodies.ts'
import { test, until } from '../helpers/test.ts'

const MIB = 1048576

function memoryOf(bytes: Buffer): ArrayBuffer {
  return bytes.buffer as ArrayBuffer
}

/** Lends a body of so many bytes, which hold `fill`. */
function lend(length: number, fill = 0xdd): Buffer {
  return lendBody(length).fill(fill)
}

async function noneIdle(): Promise<void> {
  await until(() => idleBlocks().count === 0, 'idle blocks are freed')
}

test('memory that came back is used for the next body of about that length, and what the body leaves of it is zero', async t => {
  await noneIdle()
  const first = lend(MIB)
  endBodyLoan(memoryOf(first))
  t.is(first.length, 0)
  t.deepEqual(idleBlocks(), { count: 1, bytes: MIB })
  const shorter = lend(MIB - 100_000, 1)
  t.deepEqual(idleBlocks(), { count: 0, bytes: 0 })
  t.is(memoryOf(shorter).byteLength, MIB)
  t.true(new Uint8Array(memoryOf(shorter), MIB - 100_000).every(byte => byte === 0))
  endBodyLoan(memoryOf(shorter))
  for (const length of [MIB + 1, 400_000]) {
    const other = lend(length)
    t.is(idleBlocks().count, 1, `${length} bytes are not put into 1 MiB`)
    giveBody(memoryOf(other))
  }
  await noneIdle()
})

test('a loan ends once, and not after the memory was given away', t => {
  const given = lend(MIB, 5)
  const { count } = idleBlocks()
  giveBody(memoryOf(given))
  endBodyLoan(memoryOf(given))
  t.is(given[MIB - 1], 5)
  t.is(idleBlocks().count, count)
  const memory = memoryOf(lend(3 * MIB))
  endBodyLoan(memory)
  endBodyLoan(memory)
  endBodyLoan(new ArrayBuffer(8))
  t.is(idleBlocks().count, count + 1)
})

test('memory that messages under way need stays until they have left, or will not', async t => {
  for (const settle of ['resolve', 'reject'] as const) {
    const bytes = lend(100_000, 3)
    const other = Buffer.alloc(100_000)
    const sent: { resolve(): void; reject(error: Error): void }[] = []
    for (let i = 0; i < 2; i++) {
      const promise = new Promise<void>((resolve, reject) => void sent.push({ resolve, reject }))
      keepLent([{ bytes: bytes.subarray(i) }, { bytes: other }], promise)
    }
    endBodyLoan(memoryOf(bytes))
    t.is(bytes[99_999], 3)
    sent[0]![settle](new Error('not sent'))
    await Promise.resolve()
    await Promise.resolve()
    t.is(bytes[99_999], 3)
    sent[1]![settle](new Error('not sent'))
    await until(() => bytes.length === 0, 'the end of the loan')
    t.is(other.length, 100_000)
  }
})

test('memory that is given away while messages need it is never used again', async t => {
  const bytes = lend(100_000, 4)
  const { count } = idleBlocks()
  keepLent([{ bytes }], Promise.resolve())
  giveBody(memoryOf(bytes))
  await new Promise(setImmediate)
  t.is(bytes[99_999], 4)
  t.is(idleBlocks().count, count)
})

test('memory that the program has transferred, or has forbidden to transfer, is not used again', t => {
  const memory = memoryOf(lend(MIB))
  const { count } = idleBlocks()
  const there = structuredClone(memory, { transfer: [memory] })
  endBodyLoan(memory)
  t.is(idleBlocks().count, count)
  t.is(there.byteLength, MIB)
  const marked = lend(5 * MIB, 6)
  markAsUntransferable(memoryOf(marked))
  endBodyLoan(memoryOf(marked))
  if (marked.length === 0) t.is(idleBlocks().count, count + 1)
  else {
    t.is(idleBlocks().count, count)
    t.is(marked[5 * MIB - 1], 6)
  }
})

test('16 MiB lie idle at most, and nothing for long', async t => {
  const bodies = Array.from({ length: 40 }, () => lend(MIB))
  bodies.push(lend(20 * MIB))
  for (const body of bodies) endBodyLoan(memoryOf(body))
  t.true(idleBlocks().bytes <= 16 * MIB)
  await noneIdle()
  t.deepEqual(idleBlocks(), { count: 0, bytes: 0 })
})
