// takeover.mjs
import { createServer } from 'node:http'
import { connect } from 'passfd/stream'

for (const descriptor of await getSockets('./admin.sock')) {
  console.log(`HAProxy gave a ${descriptor.kind}`)
  if (descriptor.kind !== 'tcp-listener') {
    descriptor.close() // ours is a copy: HAProxy keeps its own
    continue
  }
  const server = createServer((request, response) => response.writeHead(200, { connection: 'close' }).end('node\n'))
  server.listen(descriptor.toListenHandle())
  process.once('SIGTERM', () => server.close())
}

/**
 * Asks `_getsocks`. HAProxy answers with the number of sockets (32 bits), then with batches: descriptors, each batch with bytes
 * that describe them. It waits for four bytes after each batch.
 */
async function getSockets(path) {
  const stream = await connect(path)
  const found = []
  let head = Buffer.alloc(0)
  stream.write('_getsocks\n')
  for await (const { bytes, descriptors } of stream.withDescriptors()) {
    if (head.length < 4) head = Buffer.concat([head, bytes])
    found.push(...descriptors)
    if (descriptors.length > 0) stream.write(Buffer.alloc(4))
    if (head.length >= 4 && found.length >= head.readInt32LE()) break
  }
  stream.destroy()
  return found
}
