// worker.mjs
import { listen } from 'passfd'

const worker = await listen('worker.sock')
worker.serve(({ value }) => {
  value.socket.toSocket().end(`${value.name} is served by process ${process.pid}\n`)
})
worker.on('channel', channel => channel.once('close', () => worker.close())) // the acceptor has ended
console.log('the worker waits')
