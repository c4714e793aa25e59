// A worker that counts its requests together with all others, in memory that outlives them
import { createServer } from 'node:http'
import { Descriptor } from 'passfd'
import { SharedMemory } from 'passfd/memory'
import { joinSupervisor } from 'passfd/prefork'
import { connectStore } from 'passfd/store'

const store = await connectStore(process.argv[2])
const descriptor = await store.obtain('count', () => Descriptor.memfd('count', { size: 4, seals: ['shrink', 'grow'] }))
const memory = SharedMemory.map(descriptor, { writable: true })
const count = new Int32Array(memory.buffer)

const worker = await joinSupervisor()
await worker.listen(
  'http',
  createServer((_, response) => response.end(`request ${Atomics.add(count, 0, 1) + 1}`))
)
worker.onStop(() => store.close())
await worker.ready()
