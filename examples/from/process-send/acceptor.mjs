// acceptor.mjs
import { createServer } from 'node:net'
import { connect, Descriptor } from 'passfd'

const channel = await connect('worker.sock') // ENOENT if the worker does not run
const server = createServer({ pauseOnConnect: true }, socket => {
  channel.send({ name: 'a client', socket: Descriptor.from(socket) })
  socket.destroy()
})
server.listen(3000, '127.0.0.1', () => console.log('the acceptor waits'))
