/** Uses everything public. It is compiled only. */
import * as passfd from 'passfd'
import * as datagram from 'passfd/datagram'
import * as memory from 'passfd/memory'
import * as prefork from 'passfd/prefork'
import * as stream from 'passfd/stream'

interface Job {
  name: string
  file: passfd.Descriptor
}
type Code = string | number | undefined
const codes: Code[] = []

export async function channels(bind: passfd.BindSpec, source: passfd.DescriptorSource): Promise<void> {
  const options: passfd.ListenOptions<Job> = { authorize: (peer: passfd.Peer) => peer.uid === 0 }
  const server: passfd.ChannelServer<Job> = await passfd.listen<Job>('/a/path', options)
  server.on('channel', channel => channel.on('close', error => codes.push(error?.code)))
  server.on('refused', (peer, error) => codes.push(peer.pid, error.code))
  server.on('close', error => codes.push(error?.code))
  const failure: passfd.Failure | undefined = await server.closed
  codes.push(failure?.code)
  const serveOptions: passfd.ServeOptions<Job> = {
    concurrency: 4,
    onError: (error, message) => codes.push(error.code, message.value.name)
  }
  const handler: passfd.Handler<Job> = ({ value }: passfd.Message<Job>) => value.file.kind
  server.serve(handler, serveOptions)
  const address: passfd.Address = { path: '/a/path' }
  const channelOptions: passfd.ChannelOptions<Job> = { requestTimeout: 1000 }
  const channel = await passfd.connect<Job, Job>(address, channelOptions)
  const requestOptions: passfd.RequestOptions = { timeout: 10 }
  codes.push((await channel.closed)?.code)
  channel.on('returned', ({ value, state, descriptors }: passfd.Returned<Job>) => [
    value.name,
    state,
    descriptors.length
  ])
  await channel.request({ name: 'a', file: await passfd.Descriptor.bind(bind) }, requestOptions)
  const [left, end] = passfd.pair<Job>()
  left.destroy(new Error('over'))
  const kind: passfd.Kind = end.kind
  const handle: passfd.ListenHandle = passfd.Descriptor.from(source).toListenHandle()
  const seals: passfd.Seal[] = ['shrink']
  const memfd: passfd.MemfdOptions = { size: 10, seals }
  const file: passfd.OpenFile = passfd.Descriptor.memfd('a', memfd).toFile()
  const take: passfd.TakeOptions = {}
  const half: passfd.StreamOptions = { allowHalfOpen: true }
  const connection = await passfd.Connection.take(end.toSocket(), take)
  connection.toDuplex(half).on('error', error => error.message)
  codes.push(kind, handle.fd, passfd.version)
  await file.write('x')
  try {
    await channel.close()
  } catch (error) {
    if (error instanceof passfd.PassfdError) {
      const code: passfd.ErrorCode = error.code
      const remote: passfd.RemoteError | undefined = error.remote
      codes.push(code, remote?.code)
    }
  }
}

export async function datagrams(): Promise<void> {
  const options: datagram.BindOptions = { maxMessage: 1000 }
  const socket: datagram.DatagramSocket = await datagram.bind('/a/path', options)
  socket.on('dropped', (error, dropped: datagram.Dropped) => codes.push(error.code, dropped.size))
  socket.on('close', error => codes.push(error?.code))
  codes.push((await socket.closed)?.code)
  for await (const message of socket) {
    const each: datagram.DatagramMessage = message
    const sender: datagram.Sender | undefined = each.sender
    codes.push(sender?.pid)
  }
  const send: datagram.SendOptions = { to: '/b' }
  await socket.send('x', send)
  const plain: datagram.UnixSocket = datagram.createSocket('unix_dgram')
  plain.on('error', error => codes.push(error.code, error.errno))
  plain.send(Buffer.from('x'), 0, 1, '/b', error => codes.push(error?.code))
  await datagram.unnamed()
  await datagram.connect('/b')
}

export async function raw(descriptor: passfd.Descriptor): Promise<void> {
  const end: stream.DescriptorStream = await stream.connect('/a')
  end.writeWithDescriptors('x', [descriptor], error => codes.push(error?.code))
  end.on('error', error => codes.push(error.code))
  end.once('error', error => codes.push(error.code))
  end.on('data', chunk => chunk.length)
  for await (const part of end.withDescriptors()) {
    const each: stream.StreamPart = part
    codes.push(each.bytes.length)
  }
  const server = await stream.listen('/a')
  server.on('refused', (peer, error) => codes.push(peer.pid, error.code))
  codes.push((await server.closed)?.code)
  const packets: stream.PacketSocket = await stream.connectPackets('/a')
  packets.on('close', error => codes.push(error?.code))
  codes.push((await packets.closed)?.code)
}

export async function shared(): Promise<void> {
  const pool = new memory.MemoryPool({ slots: 2 })
  const slot: memory.Slot = await pool.acquire()
  const loan: memory.Loan = slot.lend({})
  const lent: memory.LentMemory = new memory.PoolReader().open(loan)
  const mapped: memory.SharedMemory = memory.SharedMemory.create(4096)
  codes.push(lent.bytes.length, mapped.descriptor().kind)
}

export async function servers(): Promise<void> {
  const limits: prefork.WorkerLimits = { rss: 1e9 }
  const options: prefork.SupervisorOptions = {
    entry: './worker.js',
    workers: 2,
    listeners: { web: { port: 0 } },
    limits
  }
  const supervisor = new prefork.Supervisor(options)
  supervisor.on('gaveUp', error => codes.push(error.code))
  supervisor.on('reloadFailed', error => codes.push(error.code))
  supervisor.on('crashLoop', error => codes.push(error.code))
  supervisor.on('exit', ({ slot }, code, signal) => codes.push(slot, code ?? undefined, signal ?? undefined))
  await supervisor.start()
  const worker: prefork.Worker = await prefork.joinSupervisor({ standalone: { web: { port: 0 } } })
  const stop: prefork.StopHandler = ({ signal }: prefork.StopContext) => signal.aborted
  worker.onStop(stop)
  const handler: prefork.ConnectionHandler = connection => connection.kind
  await worker.receive('web', handler)
  codes.push(prefork.METRICS_CONTENT_TYPE)
}
