// A worker of socket.io-sticky.ts
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { joinSupervisor } from 'passfd/prefork'
import { Server } from 'socket.io'

const worker = await joinSupervisor()
const server = createServer()
// A route function sees the first request of a connection only, and a browser uses a kept connection for any session that it has with this
// host. So none is kept: each poll comes on a connection of its own. WebSockets are no requests in this sense, and stay.
server.maxRequestsPerSocket = 1

const io = new Server(server, { allowRequest: (_, answer) => answer(null, !worker.signal.aborted) })
io.engine.generateId = () => `${worker.slot}.${randomBytes(15).toString('base64url')}`
io.on('connection', socket => {
  socket.on('where', answer => answer({ slot: worker.slot, pid: process.pid }))
  socket.on('say', words => worker.channel.send(words)) // all workers hear of it, this one too
})
worker.channel.serve(({ value }) => void io.emit('said', value))
// Polls last half a minute, and WebSockets for ever. Their clients come back at once, and get another worker
worker.signal.addEventListener('abort', () => io.engine.close())

await worker.listen('http', server)
await worker.ready()
