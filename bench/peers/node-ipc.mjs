/** npm node-ipc, as its defaults are: JSON, a write a message. */
import { once } from 'node:events'
import ipc from 'node-ipc'
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

const FAR = 'far'
ipc.config.silent = true

function far() {
  const tally = new Tally()
  ipc.serve(address, () => console.log('listening'))
  ipc.server.on('value', (value, socket) => {
    const answer = answerTo(value, tally)
    if (answer !== undefined) ipc.server.emit(socket, 'answer', answer)
  })
  ipc.server.on('socket.disconnected', () => ipc.server.stop())
  ipc.server.start()
}

async function near() {
  const path = socketPath()
  await startFar(path)
  ipc.connectTo(FAR, path)
  const server = ipc.of[FAR]
  await new Promise(resolve => server.on('connect', resolve))
  const { mark, request, receive } = answered(value => server.emit('value', value))
  server.on('answer', receive)
  await measure(workloads[workload](server, mark, request), mark)
  ipc.disconnect(FAR)
}

const workloads = {
  messages: (server, mark) =>
    oneWay({
      mark,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++)
          if (!server.emit('value', small(id))) await once(server.socket, 'drain')
      }
    }),
  request: (_, mark, request) => roundTrips({ mark, request }),
  'requests-pipelined': (_, mark, request) => pipelined({ mark, request, inFlight: 100 })
}

await (isFar ? far() : near())
