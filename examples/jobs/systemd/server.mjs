// server.mjs
import { createServer } from 'node:http'
import { Descriptor } from 'passfd'
import { notify, watchdog } from 'passfd/systemd'

// systemd's socket of the name http; started by hand: port 3000
const listener = await Descriptor.bind({ activated: 'http', port: 3000, host: '127.0.0.1' })
const server = createServer((request, response) => response.end(`process ${process.pid}\n`))
server.listen(listener.toListenHandle(), () => {
  console.log('serves')
  notify({ ready: true, status: 'serves' }) // outside of systemd: false, and nothing happens
})
watchdog() // a ping in each half of WatchdogSec=, while the event loop turns

process.once('SIGTERM', () => {
  notify({ stopping: true })
  server.close()
})
