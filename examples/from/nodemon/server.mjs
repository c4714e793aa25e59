// server.mjs
import { createServer } from 'node:http'

createServer((request, response) => response.end('version 1\n')).listen(3000)
