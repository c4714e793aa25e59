// One process that serves port 3000, or the socket that systemd has opened: node server.mjs
import { createServer } from 'node:http'
import { Descriptor } from 'passfd'
import { notify, watchdog } from 'passfd/systemd'

const { PORT = 3000 } = process.env
const listener = await Descriptor.bind({ activated: 'http', port: Number(PORT) })
const server = createServer((_, response) => response.end(`process ${process.pid}\n`))
server.listen(listener.toListenHandle(), async () => {
  await notify({ ready: true, status: `serves at ${server.address().port}` })
  watchdog() // if the unit has WatchdogSec=
})
process.once('SIGTERM', async () => {
  await notify({ stopping: true, status: 'finishes its requests' })
  server.close()
  server.closeIdleConnections()
})
