/** Every option object of the package refuses what it does not know: found from the sources, so that a new one is not missed. */

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { runInNewContext } from 'node:vm'
import type { ExecutionContext } from 'ava'
import * as datagram from '../src/datagram/index.ts'
import { Connection, connect, Descriptor, listen, pair } from '../src/index.ts'
import { MemoryPool, PoolReader, SharedMemory } from '../src/memory/index.ts'
import { joinSupervisor, restartPolicy, Supervisor } from '../src/prefork/index.ts'
import { Worker } from '../src/prefork/worker/worker.ts'
import { ServedListeners } from '../src/serving/served-listeners.ts'
import { connectStore, openStore, type StoreClient } from '../src/store/index.ts'
import * as stream from '../src/stream/index.ts'
import * as systemd from '../src/systemd/index.ts'
import { takeOver, takeoverStatus } from '../src/takeover/index.ts'
import { socketPath } from './helpers/path.ts'
import { leaked, openDescriptors, test } from './helpers/test.ts'

const folder = new URL('../src/', import.meta.url)
const sources = new Map(
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => [name, readFileSync(new URL(name, folder), 'utf8')])
)

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })

/** The keys of an interface, as it is written in `file`, and those of what it extends. */
function keysOf(type: string, file: string): string[] {
  const source = sources.get(file)!
  const found = new RegExp(`interface ${type}(?:<.*?>)?(?: extends ([^{]*))? \\{\\n([^]*?)\\n\\}`).exec(source)
  if (found === null) return [] // in another file, which the table names too
  const [, parent, body] = found
  const own = [...body!.matchAll(/^ {2}(?:readonly )?(\w+)\??[:(]/gm)].map(([, name]) => name!)
  const picked = [...(parent ?? '').matchAll(/'(\w+)'/g)].map(([, name]) => name!)
  const base = /^(\w+Options)/.exec(parent ?? '')?.[1]
  return [...(base === undefined ? [] : keysOf(base, file)), ...picked, ...own]
}

interface Taker {
  /** An interface and the file in which it stands, or names. */
  options: [type: string, file: string][] | string[]
  /** Puts an option object where it belongs, and calls. `given`: a fresh Descriptor, if the call takes one. */
  call(options: any, given: Descriptor): unknown
  /** How errors call the object. */
  what?: string
  kind?: 'unix-stream' | 'unix-stream-listener' | 'unix-seqpacket' | 'unix-dgram' | 'memfd'
}

const channel: [string, string][] = [['ChannelOptions', 'channel/options.ts']]
const raw: [string, string] = ['StreamOptions', 'stream/options.ts']
const packets: [string, string] = ['PacketOptions', 'stream/options.ts']
const admission: [string, string] = ['AdmissionOptions', 'stream/options.ts']
const server: [string, string] = ['ServerOptions', 'stream/options.ts']
const path = socketPath()
const seatPath = socketPath()
const entry = '/bin/true'
const listeners = { web: { path } }
const supervise = (options: object) => new Supervisor({ entry, listeners, ...options })

/** By file and name of the function; several for one if it takes several objects. */
const TAKERS: Record<string, Taker | Taker[]> = {
  'channel/connect.ts connect': {
    options: channel,
    kind: 'unix-stream',
    call: (options, given) => connect(given, options)
  },
  'channel/connect.ts pair': { options: channel, call: options => pair(options) },
  'channel/server.ts listen': [
    { options: [['ListenOptions', 'channel/options.ts']], call: options => listen(path, options) },
    {
      options: [['ListenOptions', 'channel/options.ts']],
      kind: 'unix-stream-listener',
      call: (options, given) => listen(given, options)
    }
  ],
  'channel/server.ts serve': {
    options: [['ServeOptions', 'channel/handlers.ts']],
    call: options => withServer(each => each.serve(() => {}, options))
  },
  'channel/server.ts close': { options: ['channels'], call: options => withServer(each => each.close(options)) },
  'channel/channel.ts request': {
    options: [['RequestOptions', 'channel/channel.ts']],
    kind: 'memfd',
    call: (options, given) => withPair(each => each.request(given, options))
  },
  'channel/channel.ts serve': {
    options: [['ServeOptions', 'channel/handlers.ts']],
    call: options => withPair(each => each.serve(() => {}, options))
  },
  'connection/connection.ts take': {
    options: [['TakeOptions', 'connection/connection.ts']],
    call: options => {
      const [one, other] = Descriptor.socketpair()
      const socket = one.toSocket()
      try {
        return Connection.take(socket, options)
      } finally {
        socket.destroy()
        other.close()
      }
    }
  },
  'connection/connection.ts toSocket': connectionTaker(each => each.toSocket),
  'connection/connection.ts toDuplex': connectionTaker(each => each.toDuplex),
  'descriptor/descriptor.ts socketpair': { options: ['type'], call: options => Descriptor.socketpair(options) },
  'descriptor/descriptor.ts memfd': {
    options: [['MemfdOptions', 'os/memfd.ts']],
    call: options => Descriptor.memfd('passfd', options)
  },
  'descriptor/descriptor.ts bind': [
    {
      options: [['PortSpec', 'os/bind-spec.ts']],
      what: 'spec',
      call: options => Descriptor.bind({ port: 0, ...options })
    },
    {
      options: ['path', 'mode', 'owner', 'group', 'backlog'],
      what: 'spec',
      call: options => Descriptor.bind({ path, ...options })
    },
    {
      options: ['type', 'port', 'address'],
      what: 'spec',
      call: options => Descriptor.bind({ type: 'udp4', port: 0, ...options })
    }
  ],
  'stream/open.ts connect': {
    options: [raw, admission],
    kind: 'unix-stream',
    call: (options, given) => stream.connect(given, options)
  },
  'stream/open.ts connectPackets': {
    options: [packets, admission],
    kind: 'unix-seqpacket',
    call: (options, given) => stream.connectPackets(given, options)
  },
  'stream/open.ts listen': [
    { options: [raw, server], call: options => stream.listen(path, options) },
    {
      options: [raw, server],
      kind: 'unix-stream-listener',
      call: (options, given) => stream.listen(given, options)
    }
  ],
  'stream/open.ts listenPackets': { options: [packets, server], call: options => stream.listenPackets(path, options) },
  'stream/descriptor-stream.ts from': {
    options: [raw],
    kind: 'unix-stream',
    call: (options, given) => stream.DescriptorStream.from(given, options)
  },
  'stream/packet-socket.ts from': {
    options: [packets],
    kind: 'unix-seqpacket',
    call: (options, given) => stream.PacketSocket.from(given, options)
  },
  'datagram/open.ts bind': [
    { options: [['BindOptions', 'datagram/options.ts']], call: options => datagram.bind(path, options) },
    {
      options: [['BindOptions', 'datagram/options.ts']],
      kind: 'unix-dgram',
      call: (options, given) => datagram.bind(given, options)
    }
  ],
  'datagram/open.ts connect': {
    options: [
      ['BindOptions', 'datagram/options.ts'],
      ['ConnectOptions', 'datagram/open.ts']
    ],
    kind: 'unix-dgram',
    call: (options, given) => datagram.connect(given, options)
  },
  'datagram/open.ts unnamed': {
    options: [['DatagramOptions', 'datagram/options.ts']],
    call: options => datagram.unnamed(options)
  },
  'datagram/socket.ts send': {
    options: [['SendOptions', 'datagram/send.ts']],
    call: options => withDatagrams(socket => socket.send('x', options))
  },
  'datagram/message.ts reply': {
    options: ['descriptors', 'signal'],
    call: async options => {
      const [server, client] = await Promise.all([datagram.bind(), datagram.bind()])
      const message = new Promise<any>(resolve => server.once('message', resolve))
      await client.send('x', { to: server.address! })
      try {
        return await (await message).reply('y', options)
      } finally {
        await Promise.all([server.close(), client.close()])
      }
    }
  },
  'datagram/attach.ts attach': {
    options: [['QueueOptions', 'datagram/options.ts']],
    call: options => withDrop(socket => datagram.attach(socket, options))
  },
  'datagram/attach.ts send': {
    options: [['SendOptions', 'datagram/send.ts']],
    call: options => withDrop(socket => datagram.attach(socket).send('x', options))
  },
  'descriptor/activated.ts activatedSockets': {
    options: [['ActivationOptions', 'descriptor/activated.ts']],
    call: options => systemd.activatedSockets(options)
  },
  'systemd/notify.ts notify': {
    options: [['Notification', 'systemd/notification.ts']],
    what: 'notification',
    call: options => systemd.notify(options)
  },
  'systemd/notify.ts barrier': {
    options: [['BarrierOptions', 'systemd/notify.ts']],
    call: options => systemd.barrier(options)
  },
  'systemd/notify.ts storeDescriptor': {
    options: [['StoreOptions', 'systemd/notify.ts']],
    kind: 'memfd',
    call: (options, given) => systemd.storeDescriptor('x', given, options)
  },
  'memory/pool.ts constructor': {
    options: [['MemoryPoolOptions', 'memory/pool.ts']],
    call: options => new MemoryPool(options)
  },
  'memory/pool.ts acquire': {
    options: ['signal'],
    call: options => {
      const pool = new MemoryPool({ slots: 1, slotSize: 1 })
      try {
        return pool.acquire(options)
      } finally {
        pool.close()
      }
    }
  },
  'memory/pool-reader.ts constructor': {
    options: [['PoolReaderOptions', 'memory/pool-reader.ts']],
    call: options => new PoolReader(options)
  },
  'descriptor/open-file.ts read': [
    {
      options: ['buffer', 'offset', 'length', 'position'],
      kind: 'memfd',
      call: (options, given) => withFile(given, file => file.read(options))
    },
    {
      options: ['buffer', 'offset', 'length', 'position'],
      kind: 'memfd',
      call: (options, given) => withFile(given, file => file.read(Buffer.alloc(1), options))
    }
  ],
  'descriptor/open-file.ts write': {
    options: [['FileWriteOptions', 'descriptor/open-file.ts']],
    kind: 'memfd',
    call: (options, given) => withFile(given, file => file.write(Buffer.alloc(1), options))
  },
  'descriptor/open-file.ts readFile': {
    options: ['encoding', 'signal'],
    kind: 'memfd',
    call: (options, given) => withFile(given, file => file.readFile(options))
  },
  'descriptor/open-file.ts writeFile': {
    options: ['encoding', 'signal', 'flush'],
    kind: 'memfd',
    call: (options, given) => withFile(given, file => file.writeFile('x', options))
  },
  'descriptor/open-file.ts appendFile': {
    options: ['encoding', 'signal', 'flush'],
    kind: 'memfd',
    call: (options, given) => withFile(given, file => file.appendFile('x', options))
  },
  'descriptor/open-file.ts stat': {
    options: ['bigint'],
    kind: 'memfd',
    call: (options, given) => withFile(given, file => file.stat(options))
  },
  'memory/shared-memory.ts create': {
    options: [['CreateMemoryOptions', 'memory/shared-memory.ts']],
    call: options => SharedMemory.create(1, options)
  },
  'memory/shared-memory.ts map': {
    options: [['MapMemoryOptions', 'memory/shared-memory.ts']],
    kind: 'memfd',
    call: (options, given) => SharedMemory.map(given, options)
  },
  'memory/shared-memory.ts descriptor': {
    options: ['writable'],
    call: options => {
      const memory = SharedMemory.create(1)
      try {
        return memory.descriptor(options)
      } finally {
        memory.close()
      }
    }
  },
  'prefork/launch/restart.ts restartPolicy': {
    options: [['RestartOptions', 'prefork/launch/restart.ts']],
    call: options => restartPolicy(options)
  },
  'prefork/worker/join.ts joinSupervisor': [
    { options: [['JoinOptions', 'prefork/worker/join.ts']], call: options => joinSupervisor(options) },
    { options: channel, what: 'options.channel', call: options => joinSupervisor({ channel: options }) },
    {
      options: ['path', 'mode', 'owner', 'group', 'backlog'],
      what: 'options.standalone.web',
      call: options => joinSupervisor({ standalone: { web: { path, ...options } } })
    }
  ],
  'prefork/worker/worker.ts handOver': {
    options: [['HandOver', 'prefork/worker/worker.ts']],
    what: 'giver',
    call: options => alone().handOver(options)
  },
  'prefork/worker/worker.ts onInherit': {
    options: ['accepts'],
    call: options => alone().onInherit(() => {}, options)
  },
  'takeover/seat.ts takeOver': [
    {
      options: [['TakeOverOptions', 'takeover/options.ts']],
      call: options => takeOver(Object.defineProperties({ path: seatPath }, Object.getOwnPropertyDescriptors(options)))
    },
    {
      options: [['TakeoverPath', 'takeover/options.ts']],
      what: 'options.path',
      call: options => takeOver({ path: options })
    },
    {
      options: ['path', 'mode', 'owner', 'group', 'backlog'],
      what: 'options.listeners.web',
      call: options => takeOver({ path: seatPath, listeners: { web: { path, ...options } } })
    }
  ],
  'takeover/status.ts takeoverStatus': {
    options: [['TakeoverStatusOptions', 'takeover/status.ts']],
    call: options => takeoverStatus(seatPath, options)
  },
  'takeover/seat.ts bind': {
    options: ['path', 'mode', 'owner', 'group', 'backlog'],
    what: 'listeners.web',
    call: options => withSeat(seat => seat.bind('web', { path, ...options }))
  },
  'takeover/seat.ts inherit': { options: ['accepts'], call: options => withSeat(seat => seat.inherit(options)) },
  'takeover/seat.ts ready': {
    options: [['ReadyOptions', 'takeover/seat-state.ts']],
    call: options => withSeat(seat => seat.ready(options))
  },
  'store/store.ts openStore': [
    { options: [['OpenStoreOptions', 'store/options.ts']], call: options => openStore(path, options) },
    {
      options: ['path', 'mode', 'owner', 'group', 'activated'],
      what: 'address',
      call: options => openStore({ path, ...options })
    },
    {
      options: [['StoreRule', 'store/rules.ts']],
      what: 'options.rules[0]',
      call: options => openStore(path, { rules: [{ user: 0, ...options }] })
    },
    ...['total', 'quota', "quotas['0']"].map(
      (what): Taker => ({
        options: [['StoreQuota', 'store/quota.ts']],
        what: `options.${what}`,
        call: options => openStore(path, what.startsWith('quotas') ? { quotas: { 0: options } } : { [what]: options })
      })
    )
  ],
  'store/client.ts connectStore': {
    options: [['StoreClientOptions', 'store/client.ts']],
    call: options => connectStore(path, options)
  },
  'store/client.ts put': {
    options: [['PutOptions', 'store/client.ts']],
    kind: 'memfd',
    call: (options, given) => withStore(store => store.put('x', given, options))
  },
  ...Object.fromEntries(
    (['take', 'copy', 'remove'] as const).map(method => [
      `store/client.ts ${method}`,
      {
        options: [['NamedOptions', 'store/client.ts']],
        call: options => withStore(store => store[method]('x', options))
      } satisfies Taker as Taker
    ])
  ),
  'store/client.ts forget': {
    options: [['NamedOptions', 'store/client.ts']],
    call: options => withStore(async store => store.forget('x', options))
  },
  'store/client.ts obtain': {
    options: ['owner', 'value', 'ttl', 'poll', 'keep'],
    call: options => withStore(store => store.obtain('x', () => Descriptor.memfd(), options))
  },
  'store/client.ts list': {
    options: [['SelectOptions', 'store/client.ts']],
    call: options => withStore(store => store.list(options))
  },
  'store/client.ts watch': {
    options: [['WatchOptions', 'store/client.ts']],
    call: options => withStore(async store => void store.watch(options))
  },
  'prefork/supervisor/supervisor.ts run': { options: ['signals'], call: options => supervise({}).run(options) },
  'prefork/supervisor/supervisor.ts constructor': [
    { options: [['SupervisorOptions', 'prefork/options.ts']], call: supervise },
    {
      options: [['SupervisorTakeover', 'prefork/options.ts']],
      what: 'options.takeover',
      call: options => supervise({ takeover: options })
    },
    {
      options: [['SpawnSettings', 'prefork/options.ts']],
      what: 'options.spawn',
      call: options => supervise({ spawn: options })
    },
    {
      options: [['WorkerLimits', 'prefork/options.ts']],
      what: 'options.limits',
      call: options => supervise({ limits: options })
    },
    {
      options: [['Dispatch', 'prefork/balance.ts']],
      what: 'options.balance',
      call: options => supervise({ balance: { dispatch: 'round-robin', ...options } })
    },
    {
      options: [['AdminSpec', 'prefork/options.ts']],
      what: 'options.admin',
      call: options => supervise({ admin: { path, ...options } })
    },
    { options: channel, what: 'options.channel', call: options => supervise({ channel: options }) },
    {
      options: [['PortSpec', 'os/bind-spec.ts']],
      what: 'options.listeners.web',
      call: options => supervise({ listeners: { web: { port: 0, ...options } } })
    },
    {
      options: ['path', 'mode', 'owner', 'group', 'backlog'],
      what: 'options.listeners.web',
      kind: 'unix-stream-listener',
      call: (options, given) => supervise({ listeners: { given, web: { path, ...options } } })
    }
  ],
  'os/socket-name.ts socketName': [
    { options: ['path', 'abstract'], what: 'address', call: options => connect({ path, ...options }) },
    { options: ['path', 'abstract'], what: 'address', call: options => listen({ path, ...options }) },
    { options: ['path', 'abstract'], what: 'address', call: options => datagram.bind({ path, ...options }) },
    {
      options: ['path', 'abstract'],
      what: 'address',
      call: options => withDatagrams(socket => socket.send('x', { to: { path, ...options } }))
    }
  ]
}
function connectionTaker(method: (connection: Connection) => (options: any) => unknown): Taker {
  return {
    options: [['StreamOptions', 'connection/connection.ts']],
    call: options => {
      const [one, other] = Descriptor.socketpair()
      const connection = new Connection(one)
      try {
        return method(connection).call(connection, options)
      } finally {
        connection.close() // it is still open
        other.close()
      }
    }
  }
}

async function withFile(given: Descriptor, work: (file: any) => Promise<unknown>): Promise<void> {
  const file = given.dup().toFile()
  try {
    await work(file)
  } finally {
    await file.close()
  }
}

async function withServer(work: (server: any) => unknown): Promise<void> {
  const server = await listen({ abstract: `passfd-known-${process.pid}` })
  try {
    await work(server)
  } finally {
    await server.close()
  }
}

/** A worker without a listener. It is no process of its own, and is never stopped. */
function alone(): Worker {
  const origin = { listeners: new Map(), isShared: () => false, handsOver: () => {} }
  return new Worker(origin as unknown as ConstructorParameters<typeof Worker>[0], new ServedListeners(origin))
}

async function withStore(work: (store: StoreClient) => Promise<unknown>): Promise<void> {
  const at = socketPath()
  await using _ = await openStore(at)
  await using client = await connectStore(at)
  await work(client)
}

async function withSeat(work: (seat: any) => unknown): Promise<void> {
  await using seat = await takeOver({ path: seatPath, signals: false, exit: false })
  await work(seat)
}

async function withPair(work: (channel: any) => unknown): Promise<void> {
  const [channel, end] = pair()
  try {
    await work(channel)
  } finally {
    channel.destroy()
    end.close()
    await channel.closed
  }
}

async function withDatagrams(work: (socket: any) => unknown): Promise<void> {
  const socket = datagram.unnamed()
  try {
    await work(socket)
  } finally {
    socket.destroy()
  }
}

async function withDrop(work: (socket: any) => unknown): Promise<void> {
  const socket = datagram.createSocket('unix_dgram')
  try {
    await work(socket)
  } finally {
    socket.close()
  }
}

async function descriptorOf(kind: Taker['kind']): Promise<[Descriptor, ...Descriptor[]]> {
  if (kind === 'unix-stream-listener') {
    const abstract = `passfd-known-${process.pid}`
    const server = await stream.listen({ abstract }) // bound() has no abstract names
    await server.close()
    return [await Descriptor.bind({ path: socketPath() })]
  }
  if (kind === 'unix-stream') return Descriptor.socketpair()
  if (kind === 'unix-seqpacket') return Descriptor.socketpair({ type: 'seqpacket' })
  if (kind === 'unix-dgram') return Descriptor.socketpair({ type: 'dgram' })
  return [Descriptor.memfd('x', { size: 1, seals: ['shrink'] })]
}

const typosOf = (name: string): string[] => [
  `${name.slice(0, Math.ceil(name.length / 2))}x${name.slice(Math.ceil(name.length / 2))}`,
  name.toUpperCase(),
  ...(name.length > 3 ? [name.slice(0, -1), name[1]! + name[0]! + name.slice(2)] : [])
]

const all = Object.entries(TAKERS).flatMap(([name, takers]) => [takers].flat().map(taker => ({ name, ...taker })))

async function errorOf(work: () => unknown): Promise<NodeJS.ErrnoException | undefined> {
  try {
    await work()
    return undefined
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
}

/** What the package publishes, without comments. */
const declared = new Map(
  readdirSync(new URL('../dist/', import.meta.url), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.d.ts'))
    .map(name => {
      const text = readFileSync(new URL(`../dist/${name}`, import.meta.url), 'utf8')
      return [name.replace('.d.ts', '.ts'), text.replace(/\/\*[\s\S]*?\*\//g, '')]
    })
)

/** From an opening bracket to the one that closes it; `=>` closes nothing. */
function bracketed(text: string, from: number): string {
  let depth = 0
  for (let at = from; at < text.length; at++) {
    if ('([{<'.includes(text[at]!)) depth++
    else if (')]}>'.includes(text[at]!) && text[at - 1] !== '=') depth--
    if (depth === 0) return text.slice(from + 1, at)
  }
  throw new Error(`nothing closes ${text.slice(from, from + 40)}`)
}

/** At the commas that stand in no brackets. */
function parametersOf(text: string): string[] {
  const parts = ['']
  for (let at = 0; at < text.length; at++) {
    const opens = '([{<'.includes(text[at]!)
    const part = opens ? text[at] + bracketed(text, at) : text[at]!
    if (part === ',') parts.push('')
    else parts[parts.length - 1] += part
    at += part.length - 1
  }
  return parts
}

/** Interfaces with an option in them, and the types that are made of such. Not what passfd itself makes, or a peer. */
function optionTypes(): Set<string> {
  const types = new Set<string>()
  const all = [...declared.values()].join('\n')
  for (const [, name, body] of all.matchAll(/interface (\w+)(?:<.*?>)?(?: extends [^{]*)? \{\n([\s\S]*?)\n\}/g))
    if (/^ {4}(readonly )?\w+\?[:(]/m.test(body!) && !/Events$/.test(name!)) types.add(name!)
  for (const other of ['Accepted', 'AdminEvent', 'Loan', 'RemoteError', 'Routed', 'UnixSocketError'])
    types.delete(other)
  for (let before = 0; before !== types.size; ) {
    before = types.size
    for (const [, name, body] of all.matchAll(/^(?:export )?(?:declare )?type (\w+)(?:<\w+>)? = ([\s\S]*?);$/gm))
      if (isOptionType(body!, types)) types.add(name!)
  }
  return types
}

function isOptionType(type: string, types: ReadonlySet<string>): boolean {
  if (type.includes('=>')) return false
  return (
    /\{[^}]*\w\?:/.test(type) || (type.match(/\w+/g) ?? []).some(word => types.has(word) || word.endsWith('Options'))
  )
}

/** Every signature with a parameter that is an object of options, by file and name. */
function declaredTakers(): string[] {
  const types = optionTypes()
  const found = new Set<string>()
  for (const [file, text] of declared)
    for (const match of text.matchAll(/^(?:export declare function | {4}(?:static )?)(\w+)(<.*?>)?\(/gm)) {
      const parameters = parametersOf(bracketed(text, match.index + match[0].length - 1))
      if (parameters.some(parameter => isOptionType(parameter.replace(/^\s*\w+\??:/, ''), types)))
        found.add(`${file} ${match[1]}`)
    }
  return [...found].sort()
}

test('every function of the published declarations that takes an object of options is in the table', t => {
  const found = declaredTakers()
  t.true(found.length >= 40, found.join())
  t.deepEqual(
    found.filter(name => TAKERS[name] === undefined),
    []
  )
  const internal = ['os/socket-name.ts socketName'] // the addresses of all that take one
  t.deepEqual(
    Object.keys(TAKERS).filter(name => !found.includes(name) && !internal.includes(name)),
    [],
    'is in the table, and not found'
  )
})

test('every option that is itself an object of options is in the table', t => {
  const types = optionTypes()
  const rows = all.map(({ what = 'options' }) => what)
  let found = 0
  for (const [, name, body] of [...declared.values()]
    .join('\n')
    .matchAll(
      /interface (SupervisorOptions|JoinOptions|\w+Options|Dispatch)(?:<.*?>)?(?: extends [^{]*)? \{\n([\s\S]*?)\n\}/g
    ))
    for (const [, option, type] of body!.matchAll(/^ {4}(?:readonly )?(\w+)\?: ([\s\S]*?);$/gm)) {
      if (!isOptionType(type!, types)) continue
      found++
      const where = new RegExp(`^options\\.${option}(\\.\\w+|\\[.*\\])?$`)
      t.true(rows.some(what => where.test(what)) || option === 'from' || option === 'to', `${name}.${option}`)
    }
  t.true(found >= 7, `${found}`)
})

test('a typo of any option is refused by name, with the nearest one; nothing has happened', async t => {
  let tried = 0
  for (const { name, options, call, what = 'options', kind } of all) {
    const keys = (options as (string | [string, string])[]).flatMap(each =>
      typeof each === 'string' ? [each] : keysOf(...each)
    )
    t.true(keys.length > 0, name)
    const given = await descriptorOf(kind)
    const before = openDescriptors()
    for (const key of new Set(keys))
      for (const typo of typosOf(key)) {
        if (keys.includes(typo)) continue
        const error = await errorOf(() => call({ [typo]: undefined, [`${typo}x`.slice(0, -1)]: 1 }, given[0]))
        t.is(error?.code, 'ERR_PASSFD_INVALID_ARGUMENT', `${name}: ${typo}`)
        t.is(error?.message, `${what} has the unknown option '${typo}': did you mean '${key}'?`, name)
        t.false(given[0].closed, `${name}: ${typo}`)
        t.false(existsSync(path), `${name}: ${typo}`)
        tried++
      }
    t.deepEqual(await leaked(before), [], name)
    const strange = await errorOf(() => call({ somethingElse: 1 }, given[0]))
    t.regex(strange?.message ?? '', new RegExp(`unknown option 'somethingElse'\\. Known are: .*\\b${keys[0]}\\b`), name)
    for (const descriptor of given) descriptor.close()
  }
  t.true(tried > 500, `${tried}`)
})

test('an option whose getter throws: that is what is thrown, and nothing has happened', async t => {
  let tried = 0
  for (const { name, options, call, kind } of all) {
    const keys = (options as (string | [string, string])[]).flatMap(each =>
      typeof each === 'string' ? [each] : keysOf(...each)
    )
    const given = await descriptorOf(kind)
    const before = openDescriptors()
    for (const key of new Set(keys)) {
      const mine = new Error(`the getter of ${key}`)
      const failing = {
        get [key]() {
          throw mine
        }
      }
      t.is(await errorOf(() => call(failing, given[0])), mine, `${name}: ${key}`)
      t.false(given[0].closed, `${name}: ${key}`)
      t.false(existsSync(path), `${name}: ${key}`)
      tried++
    }
    t.deepEqual(await leaked(before), [], name)
    for (const descriptor of given) descriptor.close()
  }
  t.true(tried > 200, `${tried}`)
})

test('what is no object of options is refused', async t => {
  const others = [
    null,
    1,
    'x',
    true,
    [],
    [1],
    Buffer.alloc(1),
    new Map(),
    Promise.resolve({}),
    new Date(),
    /x/,
    () => {},
    new Error('x')
  ]
  const foreign = runInNewContext('[[], new Map(), Promise.resolve({}), new Date(), new Uint8Array(1)]') as unknown[]
  for (const options of [...others, ...foreign])
    for (const call of [
      () => pair(options as never),
      () => connect(path, options as never),
      () => stream.listen(path, options as never),
      () => datagram.bind(path, options as never),
      () => new MemoryPool(options as never),
      () => supervise({ spawn: options ?? 1 }),
      () => restartPolicy(options as never)
    ])
      t.like(await errorOf(call), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  // An object that has other things in it: a signal in the place of { signal }, a URL
  for (const options of [new AbortController().signal, new URL('file:///x')])
    t.like(await errorOf(() => connect(path, options as never)), code('INVALID_ARGUMENT'))
  t.false(existsSync(path))
})

/** Opens a pair with the options, closes it, and gives what they came to. */
async function maxMessageOf(t: ExecutionContext, options: any): Promise<number> {
  const [left, end] = pair<any, any>(options)
  const right = await connect<any, any>(end)
  await t.throwsAsync(async () => right.send(Buffer.alloc(2000)), code('MESSAGE_TOO_LARGE'))
  const size = await errorOf(() => right.send(Buffer.alloc(150)))
  left.destroy()
  await Promise.all([left.closed, right.closed])
  return size === undefined ? 1000 : 100
}

test('options may be inherited, undefined, of a class, of another realm, and without a prototype', async t => {
  class Policy {
    #limit = 100
    get maxMessage() {
      return this.#limit
    }
    helper(): void {}
  }
  class Fields {
    maxMessage = 100
    static other = 1
  }
  const symbol = Symbol('mine')
  const given: [string, any, number][] = [
    ['plain', { maxMessage: 100 }, 100],
    ['undefined', { maxMessage: 100, window: undefined, signal: undefined }, 100],
    ['inherited', Object.create({ maxMessage: 100 }), 100],
    ['inherited twice', Object.create(Object.create({ maxMessage: 100 })), 100],
    ['inherited from a null prototype', Object.create(Object.assign(Object.create(null), { maxMessage: 100 })), 100],
    ['no prototype', Object.assign(Object.create(null), { maxMessage: 100 }), 100],
    ['frozen', Object.freeze({ maxMessage: 100 }), 100],
    ['class with an accessor', new Policy(), 100],
    ['class with a field', new Fields(), 100],
    ['another realm', runInNewContext('({ maxMessage: 100 })'), 100],
    ['symbols', { maxMessage: 100, [symbol]: 1 }, 100],
    ['a proxy', new Proxy({ maxMessage: 100 }, {}), 100],
    ['not enumerable', Object.defineProperty({}, 'maxMessage', { value: 100 }), 100]
  ]
  for (const [name, options, expected] of given) t.is(await maxMessageOf(t, options), expected, name)
  t.throws(() => pair(Object.create({ maxMesage: 1 })), { message: /'maxMesage': did you mean 'maxMessage'/ })
  t.throws(() => pair(runInNewContext('Object.create({ maxMesage: 1 })')), { message: /did you mean 'maxMessage'/ })
  t.throws(() => pair(JSON.parse('{ "__proto__": 1 }')), { message: /unknown option '__proto__'/ })
  for (const name of ['constructor', 'toString', 'hasOwnProperty'])
    t.throws(() => pair({ [name]: 1 } as never), { message: new RegExp(`unknown option '${name}'`) })
})

test('what somebody has put on Object.prototype is nobody’s option', t => {
  Object.defineProperty(Object.prototype, 'polluted', { value: 1, enumerable: true, configurable: true })
  try {
    const [channel, end] = pair({})
    channel.destroy()
    end.close()
  } finally {
    delete (Object.prototype as { polluted?: unknown }).polluted
  }
  t.pass()
})

test('a getter is called once, and a later change of the object changes nothing', async t => {
  const calls: Record<string, number> = {}
  const counted = (values: Record<string, unknown>): any => {
    const object = {}
    for (const [name, value] of Object.entries(values))
      Object.defineProperty(object, name, {
        enumerable: true,
        get: () => {
          calls[name] = (calls[name] ?? 0) + 1
          return value
        }
      })
    return object
  }
  const { signal } = new AbortController()
  const options = counted({ signal, authorize: () => true, maxMessage: 100, handshakeTimeout: 1000 })
  const address = { abstract: `passfd-known-${process.pid}` }
  const server = await listen(address, options)
  t.deepEqual(calls, { signal: 1, authorize: 1, maxMessage: 1, handshakeTimeout: 1 })
  server.serve(() => 1, counted({ concurrency: 2 }))
  const client = await connect<any, any>(address, options)
  t.deepEqual(calls, { signal: 2, authorize: 2, maxMessage: 2, handshakeTimeout: 2, concurrency: 1 })
  await client.request(1, counted({ timeout: 1000, descriptors: 0 }))
  t.like(calls, { timeout: 1, descriptors: 1 })
  client.destroy()
  await server.close()
  const mutable: any = { authorize: () => true }
  const second = await listen(address, mutable)
  mutable.authorize = () => false
  const entered = await connect(address)
  entered.destroy()
  await second.close()
  const spec = counted({ port: 0 })
  new Supervisor({ entry, listeners: { web: spec } })
  t.is(calls.port, 1)
})

test('authorize and onError are called as methods of the object that they were given in', async t => {
  class Policy {
    readonly #users = new Set([process.getuid!()])
    seen = 0
    authorize({ uid }: { uid: number }): boolean {
      this.seen++
      return this.#users.has(uid)
    }
  }
  const address = { abstract: `passfd-known-${process.pid}` }
  const policy = new Policy()
  t.throws(() => pair(policy as never), { message: /unknown option 'seen'/ })
  class Plain extends Policy {
    constructor() {
      super()
      Object.defineProperty(this, 'seen', { enumerable: false })
    }
  }
  const plain = new Plain()
  for (const open of [() => listen(address, plain), () => stream.listen(address, plain)]) {
    const server: any = await open()
    const connected = new Promise(resolve => server.once('connection', resolve))
    const client = server.channels === undefined ? await stream.connect(address) : await connect(address)
    if (server.channels === undefined) ((await connected) as any).destroy()
    client.on('error' as never, (() => {}) as never)
    client.destroy()
    await server.close()
  }
  t.is(plain.seen, 2)
  const handler = {
    errors: [] as Error[],
    onError(error: Error): void {
      this.errors.push(error)
    }
  }
  Object.defineProperty(handler, 'errors', { enumerable: false })
  const [left, end] = pair<any, any>()
  const right = await connect<any, any>(end)
  right.serve(() => {
    throw new Error('mine')
  }, handler)
  left.send(1)
  await left.request(1).catch(() => {})
  t.is(handler.errors[0]?.message, 'mine')
  left.destroy()
  await Promise.all([left.closed, right.closed])
})

test('an admin command has no unknown names', async t => {
  const admin = socketPath()
  const supervisor = new Supervisor({ command: ['sleep', '1000'], listeners: { web: { port: 0 } }, admin, workers: 1 })
  void supervisor.start().catch(() => {})
  let client: any
  while (client === undefined) {
    await turn()
    client = await connect(admin).catch(() => undefined)
  }
  const error = await errorOf(() => client.request({ command: 'scale', worker: 4 }))
  t.regex(error!.message, /The command has the unknown option 'worker': did you mean 'workers'\?/)
  const other = await errorOf(() => client.request({ command: 'reload', workers: 4 }))
  t.regex(other!.message, /The command has the unknown option 'workers'/)
  client.destroy()
  await supervisor.kill()
})
