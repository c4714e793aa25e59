// An http server in several processes on one port. Its workers: prefork-http-worker.ts
//   node --import tsx examples/prefork-http.ts 3000
// Then, in another terminal, with the pid that it prints:
//   kill -HUP pid          new workers, one after the other; no request is lost
//   kill -TTIN pid         one worker more (-TTOU: one less)
//   kill -9 a worker       another one takes its place
//   kill -TERM pid         requests under way are finished, then it ends (-QUIT: at once)
import { Supervisor } from 'passfd/prefork'

const supervisor = new Supervisor({
  entry: new URL('prefork-http-worker.ts', import.meta.url),
  workers: 2,
  listeners: { http: { port: Number(process.argv[2] ?? 3000) } }
})
supervisor.on('worker', ({ slot, pid }) => console.log(`slot ${slot}: process ${pid} serves`))
supervisor.on('exit', ({ slot, pid }, code, signal) =>
  console.log(`slot ${slot}: process ${pid} ended: ${signal ?? code}`)
)
supervisor.on('reloadFailed', error => console.error(error.message))
console.log(`supervisor: process ${process.pid}`)
await supervisor.run()
