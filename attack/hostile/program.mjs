// The program of scenarios/desk.mjs.
import http from 'node:http'

http.createServer((_, response) => response.end('served')).listen(process.argv[2])
