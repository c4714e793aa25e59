// A supervisor that is a store for its workers, and for others. A second one takes the place of the first one: the port, the workers, and all that the store holds
//   node examples/store/supervisor.mjs /tmp/shop 3000
import { fileURLToPath } from 'node:url'
import { Supervisor } from 'passfd/prefork'
import { connectStore, openStore } from 'passfd/store'

const [path = 'shop', port = '0'] = process.argv.slice(2)
const place = `${path}.store`
const supervisor = new Supervisor({
  entry: fileURLToPath(new URL('worker.mjs', import.meta.url)),
  spawn: { args: [place] },
  listeners: { http: { port: Number(port), host: '127.0.0.1' } },
  takeover: { path: `${path}.takeover` },
  workers: 2
})
let isSuperseded = false
supervisor.once('superseded', () => {
  isSuperseded = true
})

// The workers of the first supervisor need a store when they start. A successor takes it when all its workers are ready: if they do not get ready, the store
// stays where it is
const runs = await connectStore(place).then(
  client => client.close().then(() => true),
  () => false
)
let store = runs ? undefined : await openStore(place, { takeover: true })
await supervisor.start()
store ??= await openStore(place, { takeover: true })
console.log(`process ${process.pid} serves port ${supervisor.address('http').port}, and is the store`)
await supervisor.run()
if (!isSuperseded) await store.close()
await store.ended // superseded: not before the successor has the store
console.log(`process ${process.pid} has ended`)
