import { setImmediate as turn } from 'node:timers/promises'
import { AREA, HEADROOM, RESULTS, unwatch, watch } from '../../src/os/loop.ts'
import { native, RESULT_BYTES, RESULT_DESCRIPTORS, RESULT_FIRST } from '../../src/os/native.ts'
import { test, until } from '../helpers/test.ts'

const ECONNRESET = -104
const NONE = new Int32Array(0)
/** What a wake-up may take, and what of it may stand behind a large body. */
const MOST_BYTES = 1_048_576
const MOST_READS = 8
const BEHIND = 4096

function socketpair(): [number, number] {
  const out = new Int32Array(2)
  if (native.socketpair(1, out) < 0) throw new Error('socketpair')
  return [out[0]!, out[1]!]
}

function send(fd: number, bytes: Uint8Array, fds: Int32Array = NONE): number {
  return native.send(fd, bytes, 0, bytes.length, fds, 0, fds.length)
}

/** Watches `fd` and gives the results of the reads of the first wake-up, up to the next turn of the loop. */
async function firstWakeup(fd: number, target: Buffer, onRead: (id: number, reads: number[]) => void) {
  const reads: number[] = []
  let over = false
  const id = watch(fd, true, {
    onEvents() {
      if (over) return
      if (reads.length === 0) setImmediate(() => (over = true))
      reads.push(RESULTS[RESULT_BYTES]!)
      onRead(id, reads)
    }
  })
  native.target(id, target, 0, target.length)
  await until(() => over, 'a turn of the loop')
  unwatch(id)
  return reads
}

test('a wake-up goes on into the next large body, of which little is read before', async t => {
  const [left, right] = socketpair()
  const bytes = Buffer.from(Array.from({ length: 100 + BEHIND + 500 }, (_, i) => i * 7))
  t.is(send(left, bytes), bytes.length)
  const first = Buffer.alloc(100)
  const second = Buffer.alloc(500)
  const behind = Buffer.alloc(BEHIND)
  const reads = await firstWakeup(right, first, (id, { length }) => {
    if (length > 1) return
    AREA.copy(behind, 0, HEADROOM, HEADROOM + BEHIND)
    native.target(id, second, 0, second.length)
  })
  t.deepEqual(reads, [100 + BEHIND, 500])
  t.deepEqual(Buffer.concat([first, behind, second]), bytes)
  native.closeMany(Int32Array.of(left, right), 0, 2)
})

test('a wake-up that has no large body to fill is one read', async t => {
  const [left, right] = socketpair()
  send(left, Buffer.alloc(100))
  const reads = await firstWakeup(right, Buffer.alloc(100), () => send(left, Buffer.alloc(100)))
  t.deepEqual(reads, [100])
  native.closeMany(Int32Array.of(left, right), 0, 2)
})

test('a wake-up takes no more than 1 MiB, however fast the peer is', async t => {
  const [left, right] = socketpair()
  const block = Buffer.alloc(65536)
  const fill = (): void => {
    while (send(left, block) > 0);
  }
  fill()
  const reads = await firstWakeup(right, Buffer.alloc(4 * MOST_BYTES), fill)
  t.is(
    reads.reduce((sum, bytes) => sum + bytes),
    MOST_BYTES
  )
  native.closeMany(Int32Array.of(left, right), 0, 2)
})

test('a wake-up is no more than 8 reads, however small they are', async t => {
  const [left, right] = socketpair()
  const byte = Buffer.alloc(1)
  send(left, byte)
  const reads = await firstWakeup(right, Buffer.alloc(1000), () => send(left, byte))
  t.deepEqual(reads, new Array(MOST_READS).fill(1))
  native.closeMany(Int32Array.of(left, right), 0, 2)
})

test('the end and an error are told after the bytes before them', async t => {
  for (const [unread, end] of [
    [0, 0],
    [10, ECONNRESET]
  ] as const) {
    const [left, right] = socketpair()
    send(right, Buffer.alloc(unread))
    send(left, Buffer.alloc(60))
    native.close(left)
    t.deepEqual(await firstWakeup(right, Buffer.alloc(100), () => {}), [60, end])
    native.close(right)
  }
})

test('each read tells of its own descriptors', async t => {
  const [left, right] = socketpair()
  const [one, two] = socketpair()
  const arrived: number[] = []
  send(left, Buffer.alloc(10), Int32Array.of(one))
  send(left, Buffer.alloc(10), Int32Array.of(two))
  const reads = await firstWakeup(right, Buffer.alloc(100), () => {
    t.is(RESULTS[RESULT_DESCRIPTORS], 1)
    arrived.push(RESULTS[RESULT_FIRST]!)
  })
  t.deepEqual(reads, [10, 10])
  native.closeMany(Int32Array.of(left, right, one, two, ...arrived), 0, 6)
})

test('of a socket that leaves the loop in the middle of a large body nothing more is read', async t => {
  const [left, right] = socketpair()
  send(left, Buffer.alloc(10))
  const reads = await firstWakeup(right, Buffer.alloc(100), id => {
    unwatch(id)
    send(left, Buffer.alloc(10))
  })
  await turn()
  t.deepEqual(reads, [10])
  t.is(native.pending(right), 10)
  native.closeMany(Int32Array.of(left, right), 0, 2)
})
