// Spans of the http requests of several workers, and of what these ask their supervisor. Its workers: opentelemetry-prefork-worker.ts
//   node --import tsx examples/opentelemetry-prefork.ts 3000
import { Supervisor } from 'passfd/prefork'
import { startTracing } from './opentelemetry-lines.ts'

const provider = startTracing('shop', 'supervisor', ({ operation }) => operation)
let orders = 0
const supervisor = new Supervisor({
  entry: new URL('opentelemetry-prefork-worker.ts', import.meta.url),
  workers: 2,
  listeners: { http: { host: '127.0.0.1', port: Number(process.argv[2] ?? 3000) } },
  balance: { dispatch: 'round-robin' }
})
supervisor.on('state', ({ state, channel }) => {
  if (state === 'starting') channel.serve(() => ++orders)
})
supervisor.on('worker', ({ slot, pid }) => console.log(`slot ${slot}: process ${pid} serves`))
await supervisor.run()
await provider.shutdown()
