// server.mjs
import { createServer } from 'node:http'
import { takeOver } from 'passfd/takeover'

const seat = await takeOver({ path: 'server.takeover', listeners: { http: { port: 3000, host: '127.0.0.1' } } })
await seat.listen(
  'http',
  createServer((request, response) => response.end('hello\n'))
)
await seat.ready()
console.log(seat.predecessor === undefined ? 'serves' : 'serves in place of its predecessor')
