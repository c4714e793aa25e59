// server.mjs
import { createServer } from 'node:http'
import { Descriptor } from 'passfd'
import { connectStore } from 'passfd/store'

const store = await connectStore('store.sock')
const listener = await store.obtain('http', () => Descriptor.bind({ port: 3000, host: '127.0.0.1' })) // bound once, ever
const memory = await store.obtain('visits', () => Descriptor.memfd('visits', { size: 4 }))
const file = memory.toFile()

async function count() {
  const number = Buffer.alloc(4)
  await file.read(number, { position: 0 })
  number.writeUInt32LE(number.readUInt32LE() + 1)
  await file.write(number, { position: 0 })
  return number.readUInt32LE()
}
const server = createServer(async (request, response) =>
  response.end(`visit ${await count()}, process ${process.pid}\n`)
)
server.listen(listener.toListenHandle(), () => console.log(`process ${process.pid} serves`))
