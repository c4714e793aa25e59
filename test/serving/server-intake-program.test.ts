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

test('a socket whose listeners the program has removed is not counted once it has closed', async t => {
  const sockets: net.Socket[] = []
  const server = http.createServer((request, response) => {
    sockets.push(request.socket)
    response.end()
    request.socket.removeAllListeners('close')
  })
  const served = await serve(server)
  const client = await Client.of(server)
  await client.get().answer()
  t.is(served.connections, 1)
  await client.close()
  await until(() => sockets[0]!.closed, 'its end')
  t.is(served.connections, 0)
  void served.stopAccepting({ last: false })
  await served.drain({ idleGrace: 0 })
})

test('the same during the end', async t => {
  const come: http.ServerResponse[] = []
  const server = http.createServer((_, response) => void come.push(response))
  const served = await serve(server)
  const client = (await Client.of(server)).get()
  await until(() => come.length === 1, 'the request')
  void served.stopAccepting({ last: false })
  const drained = served.drain({ idleGrace: 0 })
  const socket = come[0]!.socket!
  socket.removeAllListeners()
  socket.destroy()
  await drained
  await served.requestsDone
  t.is(served.connections, 0)
  await client.close()
})

test('the same of a net server: before and during the end, and for who waits until none is open', async t => {
  const sockets: net.Socket[] = []
  const server = net.createServer(socket => void sockets.push(socket))
  const served = await serve(server)
  const clients = [await Client.of(server), await Client.of(server)] as const
  await until(() => sockets.length === 2, 'both')
  for (const socket of sockets) {
    socket.removeAllListeners()
    socket.resume().once('end', () => socket.end())
  }
  let idle = false
  served.whenIdle(() => {
    idle = true
  })
  await clients[0].close()
  await until(() => sockets.some(({ closed }) => closed), 'the first')
  t.is(served.connections, 1)
  t.false(idle)
  void served.stopAccepting({ last: false })
  const drained = served.drain({ idleGrace: 0 })
  await clients[1].close()
  await drained
  await until(() => idle, 'none is open')
})

test('the last connections of the queue are served before requestsDone resolves', async t => {
  const order: string[] = []
  const server = http.createServer((request, response) => {
    order.push('request')
    echo(request, response)
  })
  const served = await serve(server)
  const { port } = server.address() as net.AddressInfo
  const client = new Client(net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })).get()
  await new Promise<void>(resolve => process.nextTick(resolve)) // then the kernel has it; nobody accepts before the turn ends
  await served.stopAccepting({ last: true })
  const drained = served.drain({ idleGrace: 20_000 })
  const done = served.requestsDone.then(() => order.push('done'))
  t.is((await client.answer()).body, 'GET /')
  await Promise.all([drained, done])
  t.deepEqual(order, ['request', 'done'])
  await client.close()
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
