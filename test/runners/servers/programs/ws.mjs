import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

const server = createServer((request, response) => {
  if (request.url === '/slow') setTimeout(() => response.end('slow'), 700)
  else response.end(`hi ${process.pid}`)
})
const sockets = new WebSocketServer({ server })
sockets.on('connection', socket => {
  socket.on('error', console.error)
  socket.on('message', data => socket.send(String(data)))
})
server.listen(process.env.PORT)
