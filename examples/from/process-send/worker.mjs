// worker.mjs
import { listen } from 'passfd'

const worker = await listen('worker.sock')
worker.serve(({ value }) => {
  value.socket.toSocket().end(`${value.name} is served by process ${process.pid}\n`)
})
console.log('the worker waits')
