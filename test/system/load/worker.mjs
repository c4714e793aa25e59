// A worker that serves each listener with a server of answers.mjs. argv[2], JSON: { servers } which, by the listeners' names; { busy } ms that its loop is blocked
// when it begins to stop; { lives } ms after which it stops by itself
import { joinSupervisor } from '../../../build/dist/prefork/index.js'
import { serverOf } from './answers.mjs'

const { servers, busy = 0, lives } = JSON.parse(process.argv[2])
const worker = await joinSupervisor()
for (const [name, server] of Object.entries(servers)) await worker.listen(name, serverOf(server, worker.signal))
if (busy > 0)
  worker.signal.addEventListener('abort', () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, busy))
await worker.ready()
if (lives !== undefined) setTimeout(() => worker.stop(), lives * (0.5 + Math.random()))
