/** npm unix-dgram and msgpackr: a datagram a message. What doesn't fit is sent again when there is room, as its README asks for. */
import { once } from 'node:events'
import { Packr } from 'msgpackr'
import unix from 'unix-dgram'
import {
  address,
  answered,
  answerTo,
  isFar,
  measure,
  oneWay,
  roundTrips,
  small,
  socketPath,
  startFar,
  Tally,
  workload
} from '../workload.mjs'

const packr = new Packr({ useRecords: false })
const nearPath = farPath => `${farPath}-near`
const PARENT_LOOKED_FOR = 1000 // ms

function far() {
  const tally = new Tally()
  const socket = unix.createSocket('unix_dgram', bytes => {
    const value = packr.unpack(bytes)
    if (value.end) return end()
    const answer = answerTo(value, tally)
    if (answer === undefined) return
    const packed = packr.pack(answer)
    socket.send(packed, 0, packed.length, nearPath(address), error => {
      if (error) throw error
    })
  })
  // Nothing is connected, so nothing tells when the other end is gone
  const parent = process.ppid
  const timer = setInterval(() => process.ppid === parent || process.exit(1), PARENT_LOOKED_FOR)
  const end = () => {
    clearInterval(timer)
    socket.close()
  }
  socket.bind(address)
  console.log('listening')
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const socket = unix.createSocket('unix_dgram', bytes => receive(packr.unpack(bytes)))
  socket.bind(nearPath(path))
  socket.connect(path)
  const send = value => sent(socket, packr.pack(value))
  const { mark, request, receive } = answered(send)
  await measure(workloads[workload](send, mark, request), mark)
  await send({ end: true })
  socket.close()
}

/** Undefined if it has left, else a promise. */
function sent(socket, bytes) {
  let failed
  socket.send(bytes, error => {
    failed = error
  })
  if (failed === undefined) return undefined
  if (failed.message !== 'congestion') throw failed
  return once(socket, 'writable').then(() => sent(socket, bytes))
}

const workloads = {
  messages: (send, mark) =>
    oneWay({
      mark,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++) {
          const later = send(small(id))
          if (later !== undefined) await later
        }
      }
    }),
  request: (_, mark, request) => roundTrips({ mark, request })
}

await (isFar ? far() : near())
