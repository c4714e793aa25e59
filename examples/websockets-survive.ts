// An http server with WebSockets that stay open when its workers are replaced, and when all of it is replaced. Start it; send it HUP to reload; or
// start it again, in another release:
//   node --import tsx examples/websockets-survive.ts /tmp/ws.takeover 3000 2
import { Supervisor } from 'passfd/prefork'

const [takeover = '/tmp/ws.takeover', port = '3000', workers = '2'] = process.argv.slice(2)

const supervisor = new Supervisor({
  entry: new URL('websockets-survive-worker.ts', import.meta.url),
  listeners: { http: { host: '127.0.0.1', port: Number(port) } },
  workers: Number(workers),
  takeover
})
supervisor.on('worker', ({ slot, pid }) => console.log(`slot ${slot}: process ${pid} serves`))
supervisor.on('superseded', ({ pid }) => console.log(`process ${pid} takes over`))
supervisor.on('started', () => console.log(`process ${process.pid} supervises`))
await supervisor.run()
