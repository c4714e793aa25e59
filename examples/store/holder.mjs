// A store of descriptors. A second one at the same path takes the place of the first one, with all that it holds
import { openStore } from 'passfd/store'

const [path = 'store.sock'] = process.argv.slice(2)
const store = await openStore(path, { takeover: true })
console.log(`process ${process.pid} is the store at ${path}`)
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => store.close())
await store.ended
console.log(`process ${process.pid} ${store.superseded ? 'was replaced' : 'has closed the store'}`)
