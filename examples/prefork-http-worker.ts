// A worker of prefork-http.ts. By hand it is a plain server:
//   node --import tsx examples/prefork-http-worker.ts 3000
import { createServer } from 'node:http'
import { joinSupervisor } from 'passfd/prefork'

const server = createServer((_, response) => {
  response.end(`Process ${process.pid} in slot ${worker.slot} greets you.\n`)
})

const worker = await joinSupervisor({ standalone: { http: { port: Number(process.argv[2] ?? 3000) } } })
await worker.listen('http', server)
await worker.ready()
