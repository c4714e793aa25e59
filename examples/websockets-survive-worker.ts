// A worker of websockets-survive.ts
import { createServer } from 'node:http'
import { joinSupervisor } from 'passfd/prefork'
import { type GivenWebSocket, LiveWebSockets } from './live-websockets.ts'

const worker = await joinSupervisor()
const server = createServer((_, response) => response.end(`process ${process.pid}\n`))

// The state of each WebSocket: how many messages it has had
const sockets = new LiveWebSockets<number>(server, (socket, before = 0) => {
  let count = before
  socket.on('message', text => socket.send(`${++count} ${process.pid} ${text}`))
  return () => count
})

// To the worker that replaces this one; and from the one that this one replaces
worker.handOver({ freeze: () => sockets.freeze(), thaw: given => sockets.restore(given) })
worker.onInherit<GivenWebSocket<number>[]>(given => sockets.restore(given))
worker.onStop(() => sockets.close(1012, 'the service restarts')) // what is left: all of them if there is no replacement

await worker.listen('http', server)
await worker.ready()
