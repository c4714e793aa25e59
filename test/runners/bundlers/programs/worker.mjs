import { createServer } from 'node:http'
import { joinSupervisor } from 'passfd/prefork'

async function main() {
  const worker = await joinSupervisor()
  await worker.listen(
    'http',
    createServer((_request, response) => response.setHeader('connection', 'close').end(`worker ${process.pid}`))
  )
  await worker.ready()
}

main()
