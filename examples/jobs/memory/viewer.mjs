// viewer.mjs
import { listen } from 'passfd'
import { PoolReader } from 'passfd/memory'

const server = await listen('frames.sock')
console.log('viewer: waits')
server.on('channel', channel => {
  const reader = new PoolReader() // one for each channel
  let sum = 0
  channel.serve(({ value }) => {
    if (value === 'sum') return sum
    const { bytes } = reader.open(value.frame) // lent until this function returns, or its promise settles
    sum += bytes[0] + bytes[bytes.length - 1]
  })
  channel.once('close', () => {
    reader.close()
    server.close()
  })
})
