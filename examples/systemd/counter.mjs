// Counts its requests in memory that systemd keeps: the next process goes on, after a restart, a crash, and KILL
import { createServer } from 'node:http'
import { Descriptor } from 'passfd'
import { activatedSockets, notify, storeDescriptor } from 'passfd/systemd'

const given = new Map(activatedSockets().map(({ name, descriptor }) => [name, descriptor]))
const memory = given.get('count') ?? Descriptor.memfd('count', { size: 8 })
if (!given.has('count')) await storeDescriptor('count', memory) // false, when it was started by hand
const file = memory.toFile()

async function count() {
  const bytes = Buffer.alloc(8)
  await file.read(bytes, 0, 8, 0)
  bytes.writeBigUInt64LE(bytes.readBigUInt64LE() + 1n)
  await file.write(bytes, 0, 8, 0)
  return bytes.readBigUInt64LE()
}

let last = Promise.resolve()
const server = createServer((_, response) => {
  last = last.then(async () => response.end(`request ${await count()}, process ${process.pid}\n`))
})
const listener = given.get('http') ?? (await Descriptor.bind({ port: 3000 }))
server.listen(listener.toListenHandle(), () => notify({ ready: true, status: 'counts' }))
