// server.mjs
import { createServer } from 'node:http'

const server = createServer((request, response) => response.end('hello\n'))
server.keepAliveTimeout = 65_000 // longer than the proxy's
server.listen(3001, '127.0.0.1')
