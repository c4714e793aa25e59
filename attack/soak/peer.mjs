// Who answers the workers as long as the run lasts: argv[2], JSON: { folder, role: 'peer' | 'store' }
import { bind } from '../../build/dist/datagram/index.js'
import { listen } from '../../build/dist/index.js'
import { PoolReader, SharedMemory } from '../../build/dist/memory/index.js'
import { openStore } from '../../build/dist/store/index.js'
import { listen as listenStream } from '../../build/dist/stream/index.js'
import { reportDelay } from '../chaos/place.mjs'

const { folder, role } = JSON.parse(process.argv[2])
reportDelay()
if (role === 'store') {
  const store = await openStore(`${folder}/store`)
  end(() => store.close())
} else await answer()
console.log('ready')

function end(close) {
  process.stdin.on('end', close).resume()
}

async function contentsOf(descriptor) {
  const file = descriptor.toFile()
  const { buffer, bytesRead } = await file.read(Buffer.alloc(64), { position: 0 })
  await file.close()
  return buffer.toString('latin1', 0, bytesRead)
}

async function answer() {
  const channels = await listen(`${folder}/peer`)
  channels.on('channel', channel => {
    const reader = new PoolReader()
    channel.once('close', () => reader.close())
    channel.serve(({ value: { file, loan, shared, length } }) => {
      if (file !== undefined) return file
      if (shared !== undefined) {
        const memory = SharedMemory.map(shared)
        const text = Buffer.from(memory.bytes.subarray(0, length)).toString('latin1')
        memory.close()
        return text
      }
      const lent = reader.open(loan)
      const text = Buffer.from(lent.bytes).toString('latin1')
      lent.release()
      return text
    })
  })
  const streams = await listenStream(`${folder}/stream`)
  streams.on('connection', async stream => {
    stream.on('error', () => {})
    try {
      for await (const { descriptors } of stream.withDescriptors())
        for (const each of descriptors) stream.write(await contentsOf(each))
      stream.end()
    } catch {
      stream.destroy() // its worker was killed
    }
  })
  const datagrams = await bind({ path: `${folder}/datagrams` })
  datagrams.on('message', async message => {
    for (const each of message.descriptors) message.reply(await contentsOf(each)).catch(() => {}) // its worker was killed
  })
  end(() => Promise.all([channels.close(), streams.close(), datagrams.close()]))
}
