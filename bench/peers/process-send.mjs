/** Node's own IPC: `fork()`, `process.send`, and its handles. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import {
  bulk,
  checkBlock,
  farCommand,
  isFar,
  measure,
  oneWay,
  pipelined,
  roundTrips,
  small,
  Tally,
  workload
} from '../workload.mjs'

const ADVANCED = ['messages-advanced', 'bulk']

function far() {
  const tally = new Tally()
  process.on('message', (value, handle) => {
    const report = tally.take(value)
    if (value.block !== undefined) checkBlock(value)
    if (workload.includes('descriptor') && report === undefined) handle.destroy()
    if (report !== undefined || value.answer) process.send(report ?? { id: value.id })
  })
  process.send('ready')
}

async function near() {
  const [execPath, ...execArgv] = farCommand
  const serialization = ADVANCED.includes(workload) ? 'advanced' : 'json'
  // execPath may be taskset, which then runs Node
  const child = fork(process.argv[1], [workload, 'far'], { execPath, execArgv, serialization })
  await once(child, 'message')
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = connect(server.address().port, '127.0.0.1')
  await once(socket, 'connect')
  const { mark, request } = answered(child)
  await measure(workloads[workload](child, mark, request, socket), mark)
  socket.destroy()
  server.close()
  child.disconnect()
}

/** Requests by hand: an id each. */
function answered(child) {
  const pending = new Map()
  child.on('message', answer => {
    const resolve = pending.get(answer.id)
    pending.delete(answer.id)
    resolve(answer)
  })
  const ask = (value, handle) =>
    new Promise(resolve => {
      pending.set(value.id, resolve)
      child.send(value, handle, keepOpen)
    })
  return {
    mark: (what = true) => ask({ mark: what }),
    request: (id, handle) => ask({ ...small(id), answer: true }, handle)
  }
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
  'messages-advanced': bursts,
  descriptors: (child, mark, _, socket) =>
    oneWay({
      mark,
      size: 16,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++) await sent(child, { id }, socket)
      }
    }),
  request: (_, mark, request) => roundTrips({ mark, request }),
  'request-descriptor': (_, mark, request, socket) => roundTrips({ mark, request: id => request(id, socket) }),
  'requests-pipelined': (_, mark, request) => pipelined({ mark, request, inFlight: 100 }),
  bulk: (child, mark) => bulk({ mark, send: value => sent(child, value) })
}

await (isFar ? far() : near())
