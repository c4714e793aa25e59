// server.mjs
import { createServer } from 'node:http'

createServer((request, response) => response.end('release 1\n')).listen(3000)
