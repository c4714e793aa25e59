/**
 * npm usocket and msgpackr, a write a message. When its socket is full it writes the bytes of a message later and its descriptors never,
 * without an error: so they are counted, and a value of the rows with descriptors is followed by how many were lost.
 */
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { UServer, USocket } from 'usocket'
import { framed, unframing } from '../framing.mjs'
import {
  address,
  answered,
  answerTo,
  isFar,
  measure,
  oneWay,
  pipelined,
  roundTrips,
  small,
  socketPath,
  startFar,
  Tally,
  workload
} from '../workload.mjs'

/** Everything that has come. Asking for bytes and descriptors in one call is its way to hand descriptors over. */
function read(socket, receive, receiveDescriptors) {
  const bytes = unframing(receive)
  socket.on('readable', () => {
    const { data, fds } = socket.read(undefined, null) ?? {}
    if (fds?.length > 0) receiveDescriptors(fds)
    if (data) bytes(data)
  })
}

function far() {
  const server = new UServer()
  server.on('connection', socket => {
    const tally = new Tally()
    let descriptors = 0
    const receive = value => {
      const answer = answerTo(value, tally)
      if (value.mark !== undefined) {
        answer.descriptors = descriptors
        descriptors = 0
      }
      if (answer !== undefined) socket.write(framed(answer))
    }
    read(socket, receive, fds => {
      descriptors += fds.length
      for (const fd of fds) closeSync(fd)
    })
    socket.once('end', () => {
      socket.end()
      server.close()
    })
  })
  server.listen(address, () => console.log('listening'))
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const socket = new USocket(path)
  await once(socket, 'connected')
  const { mark, request, receive } = answered((value, fds) => socket.write({ data: framed(value), fds }))
  read(socket, receive)
  const file = openSync('/dev/null')
  await measure(workloads[workload](socket, mark, request, file), mark)
  closeSync(file)
  socket.end()
}

const bursts = (socket, mark, write, size) =>
  oneWay({
    mark,
    size,
    burst: async (first, count) => {
      for (let id = first; id < first + count; id++) {
        write(id)
        if (socket.writableNeedDrain) await once(socket, 'drain')
      }
    }
  })

/** Runs a phase that sends descriptors through `take` and asks by `counted`, and tells how many of them have not arrived. */
function counting(mark, make) {
  let sent = 0
  let arrived = 0
  const take = fds => {
    sent += fds.length
    return fds
  }
  const counted = async what => {
    const report = await mark(what)
    arrived = report.descriptors
    return report
  }
  const phase = make(take, counted)
  return async time => {
    sent = 0
    return { value: await phase(time), sent, arrived }
  }
}

/** `each` descriptors a message: a second's, of those that arrived. */
function descriptors(socket, mark, file, each, size) {
  const fds = Array(each).fill(file)
  const phase = counting(mark, (take, counted) =>
    bursts(socket, counted, id => socket.write({ data: framed(small(id)), fds: take(fds) }), size)
  )
  return async time => {
    const { value, sent, arrived } = await phase(time)
    return `${(value * each * arrived) / sent} ${sent - arrived}`
  }
}

function requests(mark, request, file) {
  const fds = [file]
  const phase = counting(mark, (take, counted) => roundTrips({ mark: counted, request: id => request(id, take(fds)) }))
  return async time => {
    const { value, sent, arrived } = await phase(time)
    return `${value} ${sent - arrived}`
  }
}

const workloads = {
  messages: (socket, mark) => bursts(socket, mark, id => socket.write(framed(small(id)))),
  descriptors: (socket, mark, _, file) => descriptors(socket, mark, file, 1, 256),
  'descriptors-many': (socket, mark, _, file) => descriptors(socket, mark, file, 64, 4),
  request: (_, mark, request) => roundTrips({ mark, request }),
  'request-descriptor': (_, mark, request, file) => requests(mark, request, file),
  'requests-pipelined': (_, mark, request) => pipelined({ mark, request, inFlight: 100 })
}

await (isFar ? far() : near())
