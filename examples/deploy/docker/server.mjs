// server.mjs
import { spawn } from 'node:child_process'
import { createServer } from 'node:http'

createServer((request, response) => {
  if (request.url === '/orphan') spawn('sh', ['-c', 'sleep 0.1 &']) // its parent ends first, so PID 1 inherits it
  response.end(`process ${process.pid}, parent ${process.ppid}\n`)
}).listen(3000)
