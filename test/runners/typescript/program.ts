/** Uses everything public. It is compiled only. */
import * as passfd from 'passfd'
import * as datagram from 'passfd/datagram'
import * as memory from 'passfd/memory'
import * as prefork from 'passfd/prefork'
import * as stream from 'passfd/stream'
import * as systemd from 'passfd/systemd'
import * as takeover from 'passfd/takeover'

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

/** Whatever an event gives has the type that it says; `.code` of each failure compiles. */
export function events(
  server: passfd.ChannelServer<Job, Job>,
  channel: passfd.Channel<Job, Job>,
  schema: passfd.Schema<Job>
): void {
  const failed = (error?: passfd.Failure): void => void codes.push(error?.code)
  server.on('channel', failing => failing.on('close', failed))
  server.on('acceptError', failed).on('close', failed)
  server.once('refused', (peer, error) => codes.push(peer.uid, peer.groups.length, error.code, error.message))
  channel.on('message', ({ value, isRequest }) => isRequest && codes.push(value.name))
  channel.on('returned', ({ error, state }) => codes.push(error?.code, state))
  channel.once('close', failed).off('close', failed)
  const ofChannel: keyof passfd.ChannelEvents<Job, Job> = 'message'
  const ofServer: keyof passfd.ServerEvents<Job, Job> = 'acceptError'
  const write: passfd.FileWriteOptions = { position: 1 }
  codes.push(ofChannel, ofServer, write.position ?? undefined)
  void passfd.listen('/a', { schema, signal: AbortSignal.timeout(1) })
}

export async function moreDatagrams(foreign: datagram.UnixDgramSocket, data: datagram.DatagramData): Promise<void> {
  const address: datagram.DatagramAddress = { abstract: 'a' }
  const name: datagram.SocketName = { path: '/a' }
  const queue: datagram.QueueOptions = { maxQueued: 1 }
  const unnamed: datagram.DatagramOptions = { ...queue, pidfd: true }
  const connect: datagram.ConnectOptions = { from: name }
  const attached: datagram.AttachedSocket = datagram.attach(foreign, queue)
  await attached.send(data, { to: address })
  const socket = await datagram.connect(address, connect)
  socket.on('message', async ({ data: bytes, descriptors, sender }) => {
    codes.push(bytes.length, descriptors.length, sender?.uid)
  })
  socket.on('dropped', ({ code }, { sender }) => codes.push(code, sender?.pid))
  const ofSocket: keyof datagram.DatagramEvents = 'dropped'
  const ofPlain: keyof datagram.UnixSocketEvents = 'congestion'
  const plain = datagram.createSocket('unix_dgram', (bytes, from: datagram.ReceivedFrom) =>
    codes.push(bytes.length, from.size, from.pid, from.error?.code)
  )
  const failed = (error?: datagram.UnixSocketError): void => void codes.push(error?.code, error?.syscall)
  plain
    .on('error', failed)
    .on('listening', () => {})
    .on('connect', () => {})
  plain.on('writable', () => {}).on('congestion', rest => codes.push(rest.length))
  plain.on('message', (bytes, { descriptors }) => codes.push(bytes.length, descriptors.length))
  plain.sendto(Buffer.from('x'), 0, 1, '/b', failed)
  datagram.unnamed(unnamed)
  codes.push(ofSocket, ofPlain)
}

export async function moreRaw(): Promise<void> {
  const address: stream.StreamAddress = { abstract: 'a' }
  const admission: stream.AdmissionOptions = { authorize: async ({ pid }) => pid > 1 }
  const serverOptions: stream.ServerOptions = { ...admission, backlog: 5 }
  const packetOptions: stream.PacketOptions = { maxPacket: 10 }
  const server: stream.StreamServer<stream.PacketSocket> = await stream.listenPackets(address, {
    ...packetOptions,
    ...serverOptions
  })
  const ofServer: keyof stream.StreamServerEvents<stream.PacketSocket> = 'connection'
  const ofSocket: keyof stream.PacketSocketEvents = 'message'
  server.on('connection', socket => {
    socket.on('message', ({ bytes, descriptors }: stream.Packet) => codes.push(bytes.length, descriptors[0]?.kind))
    socket.on('end', () => socket.destroy()).on('close', error => codes.push(error?.code))
  })
  server.on('acceptError', error => codes.push(error.code)).on('close', error => codes.push(error?.code))
  server.on('refused', (_, { code }) => codes.push(code))
  const raw = await stream.listen(address, serverOptions)
  for await (const connection of raw) {
    connection.on('descriptors', (descriptors, position) => codes.push(descriptors.length, position))
    connection.on('close', () => codes.push(connection.errored?.message))
  }
  codes.push(ofServer, ofSocket)
}

export function moreMemory(): void {
  const pool: memory.MemoryPoolOptions = { slots: 1 }
  const reader: memory.PoolReaderOptions = { maxPools: 1 }
  const create: memory.CreateMemoryOptions = { peersWrite: false }
  const map: memory.MapMemoryOptions = { writable: false }
  new memory.MemoryPool(pool).close()
  new memory.PoolReader(reader).close()
  memory.SharedMemory.map(memory.SharedMemory.create(1, create).descriptor(), map).close()
}

export async function moreServers(supervisor: prefork.Supervisor): Promise<void> {
  const restarting: prefork.RestartOptions = { initialDelay: 1 }
  const usual: prefork.RestartPolicy = prefork.restartPolicy(restarting)
  const restart: prefork.RestartPolicy = (deaths: readonly prefork.Death[], now): prefork.Decision =>
    deaths.length > 3 ? { restart: false, reason: 'enough' } : usual(deaths, now)
  const route: prefork.Route = ({ head, ended, remoteAddress }: prefork.Routed, workers) =>
    ended ? workers[0]?.slot : head.length > 3 && remoteAddress !== undefined ? 1 : 'more'
  const dispatch: prefork.Dispatch = { dispatch: route }
  const balance: prefork.Balance = dispatch
  const spawn: prefork.SpawnSettings = { cwd: '/', env: { A: 'a' } }
  const admin: prefork.AdminSpec = { path: '/a', mode: 0o600 }
  new prefork.Supervisor({ entry: new URL('file:///a'), listeners: {}, restart, balance, spawn, admin })
  const failed = (error: passfd.Failure): void => void codes.push(error.code)
  const told = ({ slot, state, channel }: prefork.WorkerInfo): void => {
    const now: prefork.WorkerState = state
    codes.push(slot, now)
    channel.on('close', error => codes.push(error?.code))
  }
  supervisor.on('worker', told).on('state', told)
  supervisor.on('beyondLimit', failed).on('routeFailed', thrown => codes.push(String(thrown)))
  supervisor.on('acceptError', (error, listener) => codes.push(error.code, listener))
  supervisor.on('started', () => {}).on('stopped', () => {})
  supervisor.on('lameDuck', milliseconds => codes.push(milliseconds)).on('unserved', name => codes.push(name))
  const ofSupervisor: keyof prefork.SupervisorEvents = 'started'
  const phase: prefork.SupervisorPhase = supervisor.phase
  const address: prefork.ListenAddress = supervisor.address('web')
  codes.push(ofSupervisor, phase, 'path' in address ? address.path : address.port)
  const asked: prefork.AdminCommand = { command: 'scale', workers: 2 }
  const channel = await passfd.connect<prefork.AdminEvent, prefork.AdminCommand>('/a')
  const status = await channel.request<prefork.AdminStatus>(asked)
  const worker: prefork.AdminWorker | undefined = status.workers[0]
  channel.on('message', ({ value }) => codes.push(value.event, value.error?.code, worker?.pid))
  const join: prefork.JoinOptions = { standalone: { web: { path: '/a' } } }
  const joined = await prefork.joinSupervisor(join)
  joined.signal.addEventListener('abort', () => codes.push(joined.lameDuck.aborted ? 'late' : 'early'))
}

export function access(descriptor: passfd.Descriptor): void {
  const access: passfd.Access = descriptor.access
  const flags: passfd.OpenFlags = descriptor.flags
  codes.push(access, Object.keys(flags).length)
}

interface Counted {
  count: number
}

export async function takeovers(place: takeover.TakeoverPath): Promise<void> {
  const options: takeover.TakeOverOptions = { path: place, listeners: { web: { port: 0 } }, exit: false }
  const seat: takeover.Seat<Counted> = await takeover.takeOver<Counted>(options)
  seat.on('report', ({ code, message, pid }: takeover.Report) => codes.push(code, message, pid))
  seat.on('superseded', successor => codes.push(successor.pid))
  seat.on('draining', processes => codes.push(...processes.map(({ connections }: takeover.Draining) => connections)))
  const ofSeat: keyof takeover.SeatEvents = 'report'
  const state = (await seat.inherit()) ?? { count: 0 }
  const ready: takeover.ReadyOptions<Counted> = {
    freeze: ({ successor, accepts, signal }: takeover.FreezeContext) => {
      codes.push(successor.pid, typeof accepts, String(signal.aborted))
      return state
    },
    thaw: ({ count }) => codes.push(count)
  }
  const handler: takeover.StopHandler = ({ signal }: takeover.StopContext) => codes.push(String(signal.aborted))
  seat.onStop(handler)
  const take: takeover.ConnectionHandler = connection => connection.close()
  await seat.receive('web', take)
  await seat.ready(ready)
  const channel = await passfd.connect<unknown, { do: 'status' }>('/a/path')
  const { owner, chain } = await channel.request<takeover.Status>({ do: 'status' })
  const program: takeover.Program = owner
  const step: takeover.TakeoverStep = { step: 'mark', pid: program.pid }
  const steps: (takeover.CandidateStep | takeover.OwnerStep)[] = [step.step, 'letGo']
  codes.push(ofSeat, chain.length, ...steps)
}

export async function handsOver(supervisor: prefork.Supervisor, worker: prefork.Worker): Promise<void> {
  const replaces: prefork.SupervisorTakeover = { path: '/a', supersededStatus: 3 }
  new prefork.Supervisor({ entry: '/a', listeners: {}, takeover: replaces })
  supervisor.on('superseded', successor => codes.push(successor.pid))
  supervisor.on('draining', (processes: readonly prefork.Draining[]) => codes.push(processes.length))
  supervisor.on('takeoverReport', ({ code }: prefork.Report) => codes.push(code))
  const give: prefork.HandOver<Counted> = {
    freeze: ({ signal }: prefork.HandOverContext) => ({ count: signal.aborted ? 0 : 1 }),
    thaw: ({ count }) => codes.push(count)
  }
  const get: prefork.InheritHandler<Counted> = ({ count }, { slot }) => codes.push(count, slot)
  worker.handOver(give)
  worker.onInherit(get)
}

export async function underSystemd(options: systemd.ActivationOptions): Promise<void> {
  const sockets: systemd.ActivatedDescriptor[] = systemd.activatedSockets(options)
  const address: passfd.ActivatedAddress = { activated: 'http' }
  const server = await passfd.listen(address)
  await server.close()
  codes.push(sockets.length)
  const notification: systemd.Notification = { ready: true }
  const barrier: systemd.BarrierOptions = { timeout: 1000 }
  const store: systemd.StoreOptions = { timeout: 1000 }
  const sent = [await systemd.notify(notification), await systemd.barrier(barrier), await systemd.removeStored('log')]
  codes.push(String(sent), String(await systemd.storeDescriptor('log', passfd.Descriptor.openSync('/a'), store)))
  const watchdog: systemd.Watchdog | false = systemd.watchdog()
  codes.push(typeof watchdog)
}

export async function traces(request: passfd.RequestTrace, serve: passfd.ServeTrace): Promise<void> {
  codes.push(String(request.error ?? request.result), String(serve.message.isRequest))
  const options: takeover.TakeoverStatusOptions = { timeout: 1000 }
  codes.push((await takeover.takeoverStatus('/a', options))?.owner.pid)
}

export function lines(supervisor: prefork.Supervisor, empty: prefork.EmptySlot, answer: prefork.SubscribeAnswer): void {
  supervisor.on('line', ({ slot }, from, line) => codes.push(slot, from, line.toString()))
  supervisor.on('listenerClosed', (name, address) => codes.push(name, typeof address, empty.slot, typeof answer))
}
