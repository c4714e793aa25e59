/**
 * 64 bytes a datagram, nothing encoded, between two sockets: `passfd` (passfd/datagram), `unix-dgram`, both connected at the near end, and
 * `passfd-by-name`, which names its destination in each send. The first four bytes count, so that the far
 * end sees what is lost or out of order; a datagram that begins with MARK is answered with what has come.
 */
import { once } from 'node:events'
import { address, isFar, measure, oneWay, roundTrips, socketPath, startFar, Tally, workload } from '../workload.mjs'

const [carrier, what] = workload.split(':')
const SIZE = 64
const MARK = 0xffffffff
const PARENT_LOOKED_FOR = 1000 // ms
const nearPath = farPath => `${farPath}-near`

/** Each: `{ send, close }` of a socket that is bound to `from`, sends to `to`, and calls `receive`. `send` resolves when the kernel has the bytes. */
const carriers = {
  async passfd(from, to, receive) {
    if (isFar) return carriers['passfd-by-name'](from, to, receive)
    const { connect } = await import('../../dist/datagram/index.js')
    const socket = await connect(to, { from })
    socket.on('message', ({ data }) => receive(data))
    return { send: bytes => socket.send(bytes), close: () => socket.close() }
  },
  async 'passfd-by-name'(from, to, receive) {
    const { bind } = await import('../../dist/datagram/index.js')
    const socket = await bind(from)
    socket.on('message', ({ data }) => receive(data))
    const options = { to }
    return { send: bytes => socket.send(bytes, options), close: () => socket.close() }
  },
  async 'unix-dgram'(from, to, receive) {
    const { default: unix } = await import('unix-dgram')
    const socket = unix.createSocket('unix_dgram', receive)
    socket.bind(from)
    if (!isFar) socket.connect(to)
    // What doesn't fit is sent again when there is room, as its README asks for
    const send = bytes => {
      let failed
      const told = error => {
        failed = error
      }
      if (isFar) socket.send(bytes, 0, bytes.length, to, told)
      else socket.send(bytes, told)
      if (failed === undefined || failed === null) return undefined
      if (failed.message !== 'congestion') throw failed
      return once(socket, 'writable').then(() => send(bytes))
    }
    return { send, close: () => socket.close() }
  }
}

async function far() {
  const tally = new Tally()
  const answer = value => socket.send(Buffer.from(JSON.stringify(value)))
  const socket = await carriers[carrier](address, nearPath(address), bytes => {
    const id = bytes.readUInt32LE(0)
    if (id === MARK) {
      if (bytes[4] === 2) return end()
      return void answer(tally.take({ mark: bytes[4] === 1 ? 'open' : true }))
    }
    if (bytes.length !== SIZE) throw new Error(`${bytes.length} bytes have come`)
    if (what === 'request') answer({ id })
    tally.take({ id })
  })
  // Nothing is connected, so nothing tells when the other end is gone
  const parent = process.ppid
  const timer = setInterval(() => process.ppid === parent || process.exit(1), PARENT_LOOKED_FOR)
  const end = () => {
    clearInterval(timer)
    socket.close()
  }
  console.log('listening')
}

async function near() {
  const path = socketPath()
  await startFar(path)
  let answered
  const socket = await carriers[carrier](nearPath(path), path, bytes => answered(JSON.parse(bytes)))
  const answer = () => new Promise(resolve => void (answered = resolve))
  const datagram = (id, kind = 0) => {
    const bytes = Buffer.alloc(SIZE, 0x5a)
    bytes.writeUInt32LE(id, 0)
    bytes[4] = kind
    return bytes
  }
  const mark = async open => {
    const done = answer()
    await socket.send(datagram(MARK, open ? 1 : 0))
    return done
  }
  /** passfd sends in order, so the last one says that all have left; unix-dgram is to wait whenever it is congested. */
  const burst = async (first, count) => {
    let last
    for (let id = first; id < first + count; id++) {
      last = socket.send(datagram(id))
      if (carrier === 'unix-dgram' && last !== undefined) await last
    }
    await last
  }
  const request = async id => {
    const done = answer()
    await socket.send(datagram(id))
    return done
  }
  await measure(what === 'request' ? roundTrips({ request, mark }) : oneWay({ burst, mark }), mark)
  await socket.send(datagram(MARK, 2))
  await socket.close()
}

await (isFar ? far() : near())
