// An http server whose listener outlives it: its port stays open, and its clients wait, while it is killed and started again.
//   node examples/store/holder.mjs /tmp/store.sock &
//   while :; do node examples/store/server.mjs /tmp/store.sock 3000; done
import { createServer } from 'node:http'
import { Descriptor } from 'passfd'
import { connectStore } from 'passfd/store'

const [path = 'store.sock', port = '0'] = process.argv.slice(2)
const store = await connectStore(path)
const listener = await store.obtain('http', () => Descriptor.bind({ port: Number(port), host: '127.0.0.1' }))
const server = createServer((_, response) => response.end(`${process.pid}`))
server.listen(listener.toListenHandle(), () =>
  console.log(`process ${process.pid} serves port ${server.address().port}`)
)
