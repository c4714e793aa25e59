// worker.mjs
import { createServer } from 'node:http'
import { joinSupervisor } from 'passfd/prefork'

const server = createServer((request, response) => {
  response.end(`process ${process.pid}\n`, () => {
    if (request.url === '/crash') process.exit(3) // a bug
  })
})
const worker = await joinSupervisor({ standalone: { http: { port: 3000 } } }) // standalone: `node worker.mjs` by hand
await worker.listen('http', server)
await worker.ready()
