// Asks a running HAProxy for the sockets it listens on and serves on them beside it: from here on either may accept a connection.
// HAProxy's admin socket needs the words `expose-fd listeners` (its own reload, `haproxy -x`, asks in the same way).
//   node --import tsx examples/haproxy-takeover.ts /run/haproxy/admin.sock
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Descriptor } from 'passfd'
import { connect } from 'passfd/stream'

const listeners = await getSockets(process.argv[2] ?? '/run/haproxy/admin.sock')
console.log(`takeover: HAProxy gave ${listeners.map(({ kind }) => kind).join(', ')}`)

const servers: Server[] = []
for (const listener of listeners) {
  if (listener.kind !== 'tcp-listener') {
    listener.close() // our copy of it
    continue
  }
  const server = createServer((_, response) => response.writeHead(200, { connection: 'close' }).end('node'))
  server.listen(listener.toListenHandle(), () => {
    console.log(`takeover: serving on port ${(server.address() as AddressInfo).port}`)
  })
  servers.push(server)
}

process.once('SIGTERM', () => {
  for (const server of servers) server.close()
})

/**
 * The answer to `_getsocks`: how many there are (a 32-bit number), then batches of descriptors, each with the first of some bytes that describe
 * them (network namespace, interface, options: not needed here). HAProxy waits for four bytes of ours after each batch.
 */
async function getSockets(path: string): Promise<Descriptor[]> {
  const stream = await connect(path)
  const found: Descriptor[] = []
  let head = Buffer.alloc(0)
  stream.write('_getsocks\n')
  for await (const { bytes, descriptors } of stream.withDescriptors()) {
    if (head.length < 4) head = Buffer.concat([head, bytes])
    found.push(...descriptors)
    if (descriptors.length > 0) stream.write(Buffer.from(Int32Array.of(found.length).buffer))
    if (head.length >= 4 && found.length >= head.readInt32LE()) break
  }
  stream.destroy()
  return found
}
