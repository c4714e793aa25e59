/**
 * Blocks that the near end fills and the far end reads to the last byte: `shared-SIZE` in the slots of a MemoryPool, `copied-SIZE` in
 * Buffers through the socket, `placed-SIZE` in Buffers that are copied into a slot. SIZE is in KiB. Gives GB/s.
 */
import { connect, listen } from '../../dist/index.js'
import { MemoryPool, PoolReader } from '../../dist/memory/index.js'
import { address, isFar, measure, oneWay, socketPath, startFar, Tally, workload } from '../workload.mjs'

const [way, kibibytes] = workload.split('-')
const size = Number(kibibytes) * 1024
const large = size > 16 * 1048576
/** Not in any block, so that looking for it is looking at all of it. */
const ABSENT = 0xa5
const STAMP = 4

const options = {
  maxMessage: size + 4096,
  maxQueued: 3 * size + 67108864,
  window: Math.max(4194304, 2 * size)
}

async function far() {
  const server = await listen(address, options)
  const tally = new Tally()
  const reader = new PoolReader()
  server.serve(({ value }) => {
    const report = tally.take(value)
    if (report !== undefined) return report
    if (value.loan === undefined) return check(value.id, value.block)
    const lent = reader.open(value.loan)
    check(value.id, lent.bytes)
    lent.release()
  })
  server.on('channel', channel => channel.once('close', () => server.close()))
  console.log('listening')
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const channel = await connect(path, options)
  const pool = new MemoryPool({ slots: large ? 2 : 8, slotSize: size })
  const ring = Array.from({ length: 2 }, () => ({
    block: Buffer.alloc(way === 'shared' ? 0 : size, 1),
    left: undefined
  }))
  const ways = {
    async shared(id) {
      const slot = await pool.acquire()
      fill(slot.bytes, id)
      return channel.send({ id, loan: slot.lend(channel) })
    },
    async placed(id) {
      const { block } = ring[0]
      fill(block, id)
      const slot = await pool.acquire()
      slot.bytes.set(block)
      return channel.send({ id, loan: slot.lend(channel) })
    },
    async copied(id) {
      const place = ring[id % ring.length]
      await place.left
      fill(place.block, id)
      place.left = channel.send({ id, block: place.block })
    }
  }
  const send = ways[way]
  const burst = async (first, count) => {
    for (let id = first; id < first + count; id++) await send(id)
  }
  const mark = async (what = true) => {
    const report = await channel.request({ mark: what })
    await until(() => pool.free === pool.slots)
    return report
  }
  const phase = oneWay({ burst, mark, size: large ? 2 : 8 })
  await measure(async time => ((await phase(time)) * size) / 1e9, mark)
  pool.close()
  await channel.close()
}

function fill(bytes, id) {
  bytes.fill(id % 100)
  bytes.writeUInt32LE(id, 0)
  bytes.writeUInt32LE(id, size - STAMP)
}

function check(id, bytes) {
  const whole = bytes.length === size && bytes.subarray(STAMP, -STAMP).indexOf(ABSENT) === -1
  if (
    !whole ||
    bytes.readUInt32LE(0) !== id ||
    bytes.readUInt32LE(size - STAMP) !== id ||
    bytes[size >> 1] !== id % 100
  )
    throw new Error(`block ${id} is damaged`)
}

/** Slots that are on their way back. */
async function until(done) {
  while (!done()) await new Promise(setImmediate)
}

await (isFar ? far() : near())
