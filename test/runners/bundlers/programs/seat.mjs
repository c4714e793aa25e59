// Started a second time, it replaces the first one.
import { createServer } from 'node:http'
import { takeOver } from 'passfd/takeover'

async function main() {
  const seat = await takeOver({ path: 'seat.sock', listeners: { http: { host: '127.0.0.1', port: 0 } } })
  const server = createServer((_request, response) =>
    response.setHeader('connection', 'close').end(`seat ${process.pid}`)
  )
  await seat.listen('http', server)
  await seat.ready()
  console.log(`serves ${server.address().port} after ${seat.predecessor?.pid}`)
}

main()
