// A worker that serves each of its listeners with the server that the listener's name says: see answers.mjs. argv[2], JSON: { busy } ms that its
// loop is blocked when it begins to stop; { lives } ms after which it stops by itself; { exposed } names of listeners that it gives away
import { joinSupervisor } from '../../dist/prefork/index.js'
import { serverOf } from './answers.mjs'

const { names = ['http'], busy = 0, lives, exposed = [], standalone, lameDuck } = JSON.parse(process.argv[2] ?? '{}')
const worker = await joinSupervisor({ standalone, lameDuck })
for (const name of exposed) worker.descriptor(name).close()
for (const name of names) {
  if (!exposed.includes(name) || name === 'http') await worker.listen(name, serverOf(name.split('-')[0], worker.signal))
}
if (busy > 0) worker.signal.addEventListener('abort', () => block(busy))
if (lives !== undefined) setTimeout(() => worker.stop(), lives * (0.5 + Math.random()))
await worker.ready()

function block(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
