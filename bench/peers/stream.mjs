/**
 * Raw bytes, one way, in writes of 64 KiB: `passfd` (passfd/stream), `socket` (net.Socket). Each block begins with its number, so that the far end sees
 * what is lost or out of order, and a block of the number MARK is answered with how many have come.
 */
import { once } from 'node:events'
import { connect as connectSocket, createServer } from 'node:net'
import { connect, listen } from '../../dist/stream/index.js'
import { address, isFar, measure, oneWay, socketPath, startFar, Tally, workload } from '../workload.mjs'

const BLOCK = 65536
const BLOCKS_A_BURST = 16
const MARK = 0xffffffff

/** Far: blocks may come in parts. */
function receiving(stream) {
  const tally = new Tally()
  const head = Buffer.alloc(5)
  let at = 0
  stream.on('data', bytes => {
    let from = 0
    while (from < bytes.length) {
      if (at < head.length) {
        const part = bytes.copy(head, at, from, Math.min(bytes.length, from + head.length - at))
        at += part
        from += part
        continue
      }
      const left = Math.min(BLOCK - at, bytes.length - from)
      at += left
      from += left
      if (at < BLOCK) return
      at = 0
      const id = head.readUInt32LE(0)
      const report = tally.take(id === MARK ? { mark: head[4] === 1 ? 'open' : true } : { id })
      if (report !== undefined) stream.write(JSON.stringify(report))
    }
  })
}

async function far() {
  if (workload === 'passfd') {
    const server = await listen(address)
    server.once('connection', stream => {
      receiving(stream)
      stream.once('close', () => server.close())
    })
  } else {
    const server = createServer(stream => {
      receiving(stream)
      server.close()
    })
    server.listen(address)
    await once(server, 'listening')
  }
  console.log('listening')
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const stream = workload === 'passfd' ? await connect(path) : connectSocket(path)
  if (workload !== 'passfd') await once(stream, 'connect')
  let answered
  stream.on('data', bytes => answered(JSON.parse(bytes)))
  const ring = Array.from({ length: BLOCKS_A_BURST }, () => ({ block: Buffer.alloc(BLOCK, 0x5a), left: undefined }))
  /** Of a block that is not used again before it has left. */
  const send = (place, id, kind = 0) => {
    place.block.writeUInt32LE(id, 0)
    place.block[4] = kind
    place.left = new Promise(resolve => stream.write(place.block, resolve))
  }
  const burst = async (first, count) => {
    for (let id = first; id < first + count; id++) {
      const place = ring[id % ring.length]
      await place.left
      send(place, id)
    }
  }
  const mark = async open => {
    await Promise.all(ring.map(({ left }) => left))
    const answer = new Promise(resolve => void (answered = resolve))
    send(ring[0], MARK, open ? 1 : 0)
    return answer
  }
  const blocks = oneWay({ burst, mark, size: BLOCKS_A_BURST })
  await measure(async time => ((await blocks(time)) * BLOCK) / 1e9, mark)
  stream.end()
  await once(stream, 'close')
}

await (isFar ? far() : near())
