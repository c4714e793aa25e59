// The worker of scenarios/prefork.mjs.
import http from 'node:http'
import { joinSupervisor } from '../../build/dist/prefork/index.js'

const worker = await joinSupervisor()
await worker.listen(
  'web',
  http.createServer((_, response) => response.end('served'))
)
await worker.ready()
