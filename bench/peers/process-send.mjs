/** Node's own IPC: `fork()`, `process.send`, and its handles. A workload's name may end in -advanced: its serialization. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import {
  answered,
  answerTo,
  bulk,
  farCommand,
  isFar,
  measure,
  mustEndWell,
  oneWay,
  pipelined,
  roundTrips,
  small,
  Tally,
  workload
} from '../workload.mjs'

const ADVANCED = '-advanced'
const serialization = workload.endsWith(ADVANCED) ? 'advanced' : 'json'
const what = workload.replace(ADVANCED, '')

function far() {
  const tally = new Tally()
  process.on('message', (value, handle) => {
    const answer = answerTo(value, tally)
    if (handle !== undefined) handle.destroy()
    else if (what.includes('descriptor') && value.mark === undefined) throw new Error('no handle came')
    if (answer !== undefined) process.send(answer)
  })
  process.send('ready')
}

async function near() {
  const [execPath, ...execArgv] = farCommand
  // execPath may be taskset, which then runs Node
  const child = fork(process.argv[1], [workload, 'far'], { execPath, execArgv, serialization })
  mustEndWell(child)
  await once(child, 'message')
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = connect(server.address().port, '127.0.0.1')
  await once(socket, 'connect')
  const { mark, request, receive } = answered((value, handle) => child.send(value, handle, keepOpen))
  child.on('message', receive)
  await measure(workloads[what](child, mark, request, socket), mark)
  socket.destroy()
  server.close()
  child.disconnect()
}

/** Else Node closes the handle here once it has arrived, and it could be sent only once. */
const keepOpen = { keepOpen: true }

const sent = (child, value, handle) =>
  new Promise((resolve, reject) => child.send(value, handle, keepOpen, error => (error ? reject(error) : resolve())))

/** The last `send` of a burst is awaited, by its callback. */
const bursts = (child, mark) =>
  oneWay({
    mark,
    burst: (first, count) => {
      for (let id = first; id < first + count - 1; id++) child.send(small(id))
      return sent(child, small(first + count - 1))
    }
  })

const workloads = {
  messages: bursts,
  descriptors: (child, mark, _, socket) =>
    oneWay({
      mark,
      size: 16,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++) await sent(child, small(id), socket)
      }
    }),
  request: (_, mark, request) => roundTrips({ mark, request }),
  'request-descriptor': (_, mark, request, socket) => roundTrips({ mark, request: id => request(id, socket) }),
  'requests-pipelined': (_, mark, request) => pipelined({ mark, request, inFlight: 100 }),
  bulk: (child, mark) => bulk({ mark, send: value => sent(child, value) })
}

await (isFar ? far() : near())
