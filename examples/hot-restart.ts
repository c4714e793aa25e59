// An http server that its next version replaces: start it, then start it again. No client is refused, and no request is lost.
//   node --import tsx examples/hot-restart.ts /tmp/app.sock 3000
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Channel, connect, Descriptor, listen } from 'passfd'

const [path = 'app.sock', number = '0'] = process.argv.slice(2)

// 1. Get the port: from the version that runs, or from the kernel
const predecessor = await connectToPredecessor()
const port = (await predecessor?.request<Descriptor>('your port')) ?? (await Descriptor.bind({ port: Number(number) }))

// 2. Serve. From here on both versions accept from the same queue
const server = createServer((_, response) => response.end(`process ${process.pid}`))
server.listen(port.dup().toListenHandle()) // a duplicate: port itself is for the next version
await once(server, 'listening')

// 3. Have the predecessor stop. If it dies instead, its end of the channel closes, and the name is free as well
await predecessor?.request('stop accepting').catch(error => console.error(error.message))
await predecessor?.close()

// 4. Wait for the next version
const successors = await listen(path)
successors.serve(async ({ value, channel }) => {
  if (value === 'your port') return port.dup()
  await successors.close({ channels: false }) // frees the name
  channel.once('close', stop)
})
process.once('SIGTERM', async () => {
  await successors.close()
  stop()
})
console.log(`process ${process.pid} serves port ${(server.address() as AddressInfo).port}`)

/** Finishes the requests under way. Then nothing keeps this process running. */
function stop() {
  server.close()
  server.closeIdleConnections()
  port.close() // our copy
}

/** A channel to the version that runs; undefined if no version runs. */
async function connectToPredecessor(): Promise<Channel | undefined> {
  try {
    return await connect(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ECONNREFUSED') return undefined
    throw error
  }
}
