// camera.mjs
import { connect } from 'passfd'
import { MemoryPool } from 'passfd/memory'

const FRAME = 1024 * 1024
const channel = await connect('frames.sock')
const pool = new MemoryPool({ slots: 4, slotSize: FRAME })
for (let number = 1; number <= 100; number++) {
  const slot = await pool.acquire() // waits while all four are with the viewer
  slot.bytes.fill(number) // draws the picture, in place
  channel.send({ number, frame: slot.lend(channel, FRAME) })
}
const sum = await channel.request('sum')
console.log(`camera: sent 100 frames in 4 slots, and the viewer has seen ${sum}`)
pool.close()
await channel.close()
