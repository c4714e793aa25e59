// server.mjs
import { createServer } from 'node:http'
import { takeOver } from 'passfd/takeover'
import { LiveWebSockets } from './live-websockets.mjs'

const seat = await takeOver({ path: 'server.takeover', listeners: { http: { port: 3000, host: '127.0.0.1' } } })
const server = createServer((request, response) => response.end('connect by a WebSocket\n'))
const sockets = new LiveWebSockets(server, (socket, before = 0) => {
  let count = before // the state of this WebSocket: 0, or what the old process has given
  socket.on('message', text => socket.send(`message ${++count}, process ${process.pid}: ${text}`))
  return () => count // the state, when it moves
})
await seat.listen('http', server)
seat.onStop(() => sockets.close(1012, 'the service restarts')) // those that could not move

const given = await seat.inherit()
await seat.ready({ freeze: () => sockets.freeze(), thaw: mine => sockets.restore(mine) })
sockets.restore(given ?? [])
console.log(`process ${process.pid} serves, and got ${given?.length ?? 0} WebSockets`)
