// parent.mjs
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { Descriptor, pair } from 'passfd'

const [channel, other] = pair()
spawn(process.execPath, ['child.mjs'], { stdio: ['inherit', 'inherit', 'inherit', other.borrow()] })
other.close() // the child has a copy

const server = createServer({ pauseOnConnect: true }, socket => {
  channel.send({ name: 'a client', socket: Descriptor.from(socket) })
  socket.destroy() // the child has its own descriptor of the connection
})
server.listen(3000, '127.0.0.1', () => console.log('waits'))
process.once('SIGTERM', () => {
  server.close()
  channel.close() // the child ends, because its channel has ended
})
