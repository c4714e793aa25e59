// What a worker does for a request: it uses a part of passfd, with processes that live as long as the run, and gets the request's id back by it

import { connect as connectDatagrams } from '../../build/dist/datagram/index.js'
import { connect, Descriptor } from '../../build/dist/index.js'
import { MemoryPool, SharedMemory } from '../../build/dist/memory/index.js'
import { connectStore } from '../../build/dist/store/index.js'
import { connect as connectStream } from '../../build/dist/stream/index.js'

/** Of an entry that its worker has left, because it was killed, in ms. */
const TTL = 120_000

/** A file in memory that contains the text. */
async function holding(text) {
  const memory = Descriptor.memfd('soak', { size: text.length })
  const file = memory.dup().toFile()
  await file.write(text, 0)
  await file.close()
  return memory
}

async function contentsOf(descriptor) {
  const file = descriptor.toFile()
  const { buffer, bytesRead } = await file.read(Buffer.alloc(64), { position: 0 })
  await file.close()
  return buffer.toString('latin1', 0, bytesRead)
}

/** Resolves to `uses`, each of which resolves to the id that it is given, and to what ends them. */
export async function open(folder) {
  const channel = await connect(`${folder}/peer`)
  const store = await connectStore(`${folder}/store`)
  const datagrams = await connectDatagrams({ path: `${folder}/datagrams` }, { from: true })
  const pool = new MemoryPool({ slots: 8, slotSize: 4096 })
  const waiting = new Map()
  datagrams.on('message', message => {
    const id = String(message.data ?? message.bytes)
    waiting.get(id)?.(id)
    waiting.delete(id)
  })
  const uses = {
    channel: async id => contentsOf(await channel.request({ file: await holding(id) })),
    async memory(id) {
      const slot = await pool.acquire()
      slot.bytes.set(Buffer.from(id))
      return channel.request({ loan: slot.lend(channel, id.length) }, { descriptors: 0 })
    },
    async shared(id) {
      const memory = SharedMemory.create(8192)
      memory.bytes.set(Buffer.from(id))
      try {
        return await channel.request({ shared: memory.descriptor(), length: id.length }, { descriptors: 0 })
      } finally {
        memory.close()
      }
    },
    async store(id) {
      await store.put(id, await holding(id), { ttl: TTL, value: { id } })
      const copy = await store.copy(id)
      const text = await contentsOf(copy.descriptors[0])
      const lease = await store.take(id)
      for (const each of lease.descriptors) each.close()
      await lease.keep()
      return copy.value.id === text ? text : `${text}, not ${copy.value.id}`
    },
    async stream(id) {
      const stream = await connectStream(`${folder}/stream`)
      let text = ''
      stream.setEncoding('latin1')
      stream.writeWithDescriptors(`${id}\n`, [await holding(id)])
      stream.end()
      for await (const part of stream) text += part
      return text
    },
    async datagram(id) {
      const answer = new Promise(resolve => waiting.set(id, resolve))
      await datagrams.send(id, { descriptors: [await holding(id)] })
      return answer
    }
  }
  return {
    uses,
    async close() {
      await Promise.all([channel.close(), store.close(), datagrams.close()])
      pool.close()
    }
  }
}
