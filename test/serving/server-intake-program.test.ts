/** Programs that handle connections in their own way: the end waits for none that is over, and gives away none that is not the listener's. */
import { once } from 'node:events'
import * as http from 'node:http'
import * as net from 'node:net'
import * as tls from 'node:tls'
import { Descriptor } from '../../src/index.ts'
import { ServerIntake } from '../../src/serving/server-intake.ts'
import { Client } from '../helpers/http-client.ts'
import { test, until } from '../helpers/test.ts'
import { clientKey, serverKey } from '../helpers/tls.ts'

const echo: http.RequestListener = (request, response) => response.end(`${request.method} ${request.url}`)

async function serve(server: net.Server): Promise<ServerIntake> {
  const served = new ServerIntake(server)
  await served.add(await Descriptor.bind({ port: 0, host: '127.0.0.1' }))
  return served
}

for (const secure of [false, true])
  test(`idle connections whose 'connection' the program emits are not passed on${secure ? ', TLS' : ''}`, async t => {
    const server = http.createServer(echo)
    const served = await serve(server)
    const give = (socket: net.Socket): void => void server.emit('connection', socket)
    const outer = secure ? tls.createServer(serverKey, give) : net.createServer(give)
    await once(outer.listen(0, '127.0.0.1'), 'listening')
    const { port } = outer.address() as net.AddressInfo
    const client = await connected(port)
    t.is((await client.get().answer()).body, 'GET /')
    t.is(served.connections, 1)
    let offered = 0
    void served.stopAccepting({ last: false })
    const drained = served.drain({ idleGrace: 20, pass: () => ++offered < 0 })
    t.is(await client.ended, undefined)
    await drained
    t.is(offered, 0)
    await client.close()
    outer.close()

    async function connected(to: number): Promise<Client> {
      if (!secure) return Client.to({ port: to, host: '127.0.0.1' })
      const socket = tls.connect({ ...clientKey, port: to, host: '127.0.0.1' })
      await once(socket, 'secureConnect')
      return new Client(socket)
    }
  })

test('an idle connection from another process is kept beyond keepAliveTimeout for a request of the last moment, as by Node', async t => {
  const server = http.createServer(echo)
  server.keepAliveTimeout = 1
  const served = await serve(server)
  const [here, there] = Descriptor.socketpair()
  served.give(here, undefined, true)
  const client = new Client(there.toSocket())
  const began = performance.now()
  await client.ended
  t.true(performance.now() - began > 900)
  await client.close()
  await served.stopAccepting({ last: false })
  await served.drain({ idleGrace: 0 })
})
