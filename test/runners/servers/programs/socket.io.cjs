const { createServer } = require('node:http')
const { Server } = require('socket.io')

const server = createServer((request, response) => {
  if (request.url === '/slow') setTimeout(() => response.end('slow'), 700)
  else response.end(`hi ${process.pid}`)
})
const io = new Server(server)
io.on('connection', socket => {
  socket.on('echo', (message, answer) => answer(message))
})
server.listen(process.env.PORT)
