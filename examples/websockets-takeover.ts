// An http server that replaces itself, with its live WebSockets: start it, then start it again, in another release. No client is disconnected.
//   node --import tsx examples/websockets-takeover.ts /tmp/ws.takeover 3000
import { createServer } from 'node:http'
import { takeOver } from 'passfd/takeover'
import { type GivenWebSocket, LiveWebSockets } from './live-websockets.ts'

const [path = '/tmp/ws.takeover', port = '3000'] = process.argv.slice(2)

// The process that runs serves on, until ready()
const seat = await takeOver<GivenWebSocket<number>[]>({
  path,
  listeners: { http: { host: '127.0.0.1', port: Number(port) } }
})
const server = createServer((_, response) => response.end(`process ${process.pid}\n`))

// The state of each WebSocket: how many messages it has had
const sockets = new LiveWebSockets<number>(server, (socket, before = 0) => {
  let count = before
  socket.on('message', text => socket.send(`${++count} ${process.pid} ${text}`))
  return () => count
})
await seat.listen('http', server)
seat.onStop(() => sockets.close(1012, 'the service restarts')) // those that are left

// The last thing, because nobody serves meanwhile: the clients' bytes wait in the kernel
const given = await seat.inherit()
await seat.ready({ freeze: () => sockets.freeze(), thaw: mine => sockets.restore(mine) })
sockets.restore(given ?? [])
console.log(
  `process ${process.pid} serves, with ${given?.length ?? 0} WebSockets of process ${seat.predecessor?.pid ?? 'none'}`
)
