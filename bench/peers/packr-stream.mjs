/** The streams that msgpackr brings: `PackrStream` into a net.Socket, `UnpackrStream` out of it, as their defaults are (records). */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { PackrStream, UnpackrStream } from 'msgpackr'
import {
  address,
  answered,
  answerTo,
  isFar,
  measure,
  oneWay,
  small,
  socketPath,
  startFar,
  Tally,
  workload
} from '../workload.mjs'

function both(socket, receive) {
  const packed = new PackrStream()
  packed.pipe(socket)
  socket.pipe(new UnpackrStream()).on('data', receive)
  return packed
}

function far() {
  const server = createServer(socket => {
    const tally = new Tally()
    const packed = both(socket, value => {
      const answer = answerTo(value, tally)
      if (answer !== undefined) packed.write(answer)
    })
    socket.once('close', () => server.close())
  })
  server.listen(address, () => console.log('listening'))
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const socket = connect(path)
  await once(socket, 'connect')
  const { mark, receive } = answered(value => packed.write(value))
  const packed = both(socket, receive)
  await measure(workloads[workload](packed, mark), mark)
  packed.end()
}

const workloads = {
  messages: (packed, mark) =>
    oneWay({
      mark,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++) if (!packed.write(small(id))) await once(packed, 'drain')
      }
    })
}

await (isFar ? far() : near())
