// server.mjs
import { createServer } from 'node:http'
import { joinSupervisor } from 'passfd/prefork'

const port = Number(process.argv[2])
const worker = await joinSupervisor({
  standalone: { http: { port, host: '127.0.0.1' } }, // under a Supervisor: its listeners, and its option lameDuck
  lameDuck: 5000 // longer than inter × fall of the balancer, and the time of a check
})
const server = createServer((request, response) => {
  if (request.url === '/ready') response.writeHead(worker.lameDuck.aborted ? 503 : 200).end()
  else response.end(`port ${port}\n`)
})
server.keepAliveTimeout = 65_000 // longer than the balancer's idle timeout
await worker.listen('http', server)
await worker.ready()
console.log(`the host at port ${port} serves`)
worker.onStop(() => console.log(`the host at port ${port} has answered all`))
