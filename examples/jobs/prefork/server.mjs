// server.mjs
import { Supervisor } from 'passfd/prefork'

const supervisor = new Supervisor({
  entry: new URL('worker.mjs', import.meta.url),
  workers: 2,
  listeners: { http: { port: 3000, host: '127.0.0.1' } },
  stopTimeout: 10_000 // a stopping worker may need so many ms for its requests
})
supervisor.on('worker', ({ slot, pid }) => console.log(`slot ${slot}: process ${pid} is ready`))
supervisor.on('exit', ({ slot, reason, stopped }) => console.log(`slot ${slot}: ${stopped ? 'has stopped' : reason}`))
supervisor.on('reloadFailed', error => console.log(error.message))
await supervisor.run() // TERM stops it, HUP reloads, TTIN and TTOU add and remove a worker
