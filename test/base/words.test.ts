/** What errors say: each by a real call, read as whoever meets it would. */
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import { type ErrorKey, errorCodes, PassfdError } from '../../src/base/errors.ts'
import { bind, connect as connectDatagrams, unnamed } from '../../src/datagram/index.ts'
import { Connection, connect, Descriptor, listen, pair } from '../../src/index.ts'
import { MemoryPool, PoolReader, SharedMemory } from '../../src/memory/index.ts'
import { joinSupervisor, Supervisor } from '../../src/prefork/index.ts'
import * as stream from '../../src/stream/index.ts'
import { compiled } from '../helpers/compiled.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { test, until } from '../helpers/test.ts'

const keys = errorCodes.map(code => code.slice('ERR_PASSFD_'.length)) as ErrorKey[]

function messageOf(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    return (error as Error).message
  }
  throw new Error('it did not fail')
}

async function rejection(work: () => Promise<unknown>): Promise<NodeJS.ErrnoException> {
  try {
    await work()
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
  throw new Error('it did not fail')
}

test('no sentence of the table is said twice, whatever detail it is given as its own', t => {
  for (const key of keys) {
    const once = new PassfdError(key, new Proxy({}, { get: () => 'X' })).message
    const lead = once.slice(0, once.indexOf('X'))
    const twice = new PassfdError(key, new Proxy({}, { get: () => once })).message
    const thrice = new PassfdError(key, new Proxy({}, { get: () => twice })).message
    if (once.includes('X') && lead.length >= 10) {
      t.is(twice, once, key)
      t.is(thrice, once, key)
    }
    t.notRegex(twice, /[.!?]\.(?!\.)/, `${key}: two full stops`)
  }
})

test('an answer that is passed on through two requests is no answer of an answer', async t => {
  const [far, farEnd] = pair<any, any>()
  const [near, nearEnd] = pair<any, any>()
  const farServer = await connect<any, any>(farEnd)
  const nearServer = await connect<any, any>(nearEnd)
  farServer.serve(() => {
    throw Object.assign(new Error('the disk is full'), { code: 'DISK' })
  })
  nearServer.serve(({ value }) => far.request(value))
  const error = await rejection(() => near.request(1))
  t.is(error.message, 'The peer answered with an error: the disk is full')
  t.is(error.code, 'ERR_PASSFD_REMOTE')
  for (const channel of [near, nearServer, far, farServer]) channel.destroy()
  await Promise.all([near, nearServer, far, farServer].map(channel => channel.closed))
})

test('what a copy of passfd in this process says is not wrapped in its own words', async t => {
  const [left, end] = pair<any, any>()
  const foreign = Object.assign(new Error("The value can't be sent: it holds a function."), {
    code: 'ERR_PASSFD_ENCODE'
  })
  const value = {
    get failing() {
      throw foreign
    }
  }
  const message = messageOf(() => left.send(value))
  t.is(message.match(/can't be sent/g)?.length, 1, message)
  left.destroy()
  end.close()
  await left.closed
})

test('the end of a channel is told in brackets, with one full stop', async t => {
  const [left, end] = pair<any, any>()
  const right = await connect<any, any>(end)
  const waiting = rejection(() => left.request(1))
  right.destroy(new Error('Enough is enough.'))
  const { message } = await waiting
  t.regex(message, /^The channel has ended \(.*Enough is enough\): this was not sent or not answered\.$/)
  await Promise.all([left.closed, right.closed])
})

test('a full queue says which option it is, and what this object can wait for', async t => {
  const [channel, end] = pair<any, any>({ maxQueued: 100, maxUnclaimed: 2, maxInFlight: 1 })
  const said: string[] = []
  channel.send(Buffer.alloc(60))
  said.push(messageOf(() => channel.send(Buffer.alloc(60))))
  said.push(messageOf(() => channel.request(1, { descriptors: 3 })))
  const [packets, packetsEnd] = Descriptor.socketpair({ type: 'seqpacket' })
  const socket = stream.PacketSocket.from(packets, { maxQueued: 1 })
  const queued = Buffer.alloc(60_000)
  for (;;) {
    try {
      void socket.send(queued)
    } catch (error) {
      said.push((error as Error).message)
      break
    }
  }
  const [raw, rawEnd] = Descriptor.socketpair()
  const duplex = stream.DescriptorStream.from(raw, { maxDescriptors: 1 })
  const two = [Descriptor.openSync('/dev/null'), Descriptor.openSync('/dev/null')]
  said.push(messageOf(() => duplex.writeWithDescriptors('x', two)))
  for (const descriptor of two) descriptor.close()
  for (const message of said) {
    t.notRegex(message, /undefined|\{|,\s*max\w+\)/)
    t.regex(message, / \(max\w+\)\. (Await|Wait for) [\w ,()'"]+\.$/, message)
    if (message.includes("'drain'")) t.is(message, said.at(-1)!)
  }
  t.regex(said[1]!, /replies .*: 3 of 2 \(maxUnclaimed\).*request\(\)/)
  channel.destroy()
  socket.destroy()
  duplex.destroy()
  for (const descriptor of [end, packetsEnd, rawEnd]) descriptor.close()
  await Promise.all([channel.closed, socket.closed])
})

test('a limit is called by the option that sets it', async t => {
  const [left, end] = pair<any, any>({ maxQueued: 50 })
  t.regex(
    messageOf(() => left.send('x'.repeat(100))),
    /limit of this side's queue \(maxQueued\) is 50\./
  )
  const right = await connect<any, any>(end, { maxMessage: 10 })
  await until(() => left.peer.agent !== '', 'the hello')
  t.regex(
    messageOf(() => left.send('x'.repeat(20))),
    /limit of the peer \(maxMessage\) is 10\./
  )
  right.serve(() => {
    const files = [Descriptor.openSync('/dev/null'), Descriptor.openSync('/dev/null')]
    return files
  })
  const { message } = await rejection(() => left.request(1))
  t.regex(
    message,
    /The reply carries 2 descriptors; the limit of the request \(its option descriptors\) is 1\. .*request\(value, \{ descriptors: 2 \}\)/
  )
  left.destroy()
  await Promise.all([left.closed, right.closed])
})

const own = { authorize: () => false }
const REFUSED = / authorize\(\) refused\.$/

test('who is refused by an authorize of the program is not told of the default rule', async t => {
  const path = temporaryPath('words')
  const server = await listen(path, own)
  const refused = new Promise<Error>(resolve => server.once('refused', (_, error) => resolve(error)))
  const error = await rejection(() => connect(path))
  t.regex(error.message, REFUSED)
  t.regex((await refused).message, REFUSED)
  await server.close()
  const open = await listen(path)
  t.regex((await rejection(() => connect(path, own))).message, REFUSED)
  for (const [given, said] of [
    [1, 'a value of type number'],
    ['secret', 'a value of type string'],
    [undefined, 'undefined'],
    [{}, 'a value of type object']
  ] as const) {
    const { message } = await rejection(() => connect(path, { authorize: () => given as never }))
    t.true(message.endsWith(`: authorize() gave ${said}, and only true lets a peer in.`), message)
  }
  const late = await rejection(() => connect(path, { authorize: () => new Promise(() => {}), handshakeTimeout: 20 }))
  t.regex(late.message, /^authorize\(\) did not answer within 20 ms \(handshakeTimeout\)\. Raise/)
  await open.close()
})

test('the same of raw streams, packets and datagrams', async t => {
  for (const [open, enter] of [
    [stream.listen, stream.connect],
    [stream.listenPackets, stream.connectPackets]
  ] as const) {
    const path = temporaryPath('words')
    const server = await open(path, own)
    const refused = new Promise<Error>(resolve => server.once('refused', (_: unknown, error: Error) => resolve(error)))
    server.on('connection' as never, (() => t.fail()) as never)
    const client = await enter(path)
    t.regex((await refused).message, REFUSED)
    client.on('error' as never, (() => {}) as never)
    client.destroy()
    await server.close()
    const accepting = await open(path)
    accepting.on('connection' as never, ((connection: any) => connection.destroy()) as never)
    t.regex((await rejection(() => enter(path, own))).message, REFUSED)
    await accepting.close()
  }
  const path = temporaryPath('words')
  const server = await bind(path, { authorize: () => false })
  server.on('message', () => t.fail())
  const dropped = new Promise<Error>(resolve => server.once('dropped', resolve))
  const client = await connectDatagrams(path)
  await client.send('x')
  t.regex((await dropped).message, REFUSED)
  await Promise.all([client.close(), server.close()])
})

test('a moved descriptor names who has it', async t => {
  const moved = async (move: (descriptor: Descriptor) => unknown, descriptor: Descriptor): Promise<string> => {
    await move(descriptor)
    return messageOf(() => descriptor.borrow())
  }
  const [left, right] = Descriptor.socketpair()
  let made: any
  const taken = await moved(one => {
    made = stream.DescriptorStream.from(one)
  }, left)
  t.regex(
    taken,
    /moved away by DescriptorStream\.from\(\): what that call made owns it now\. Pass a dup\(\) to keep one\.$/
  )
  made.destroy()
  right.close()
  const sender = unnamed()
  const receiver = await bind()
  const file = Descriptor.openSync('/dev/null')
  const sent = await moved(one => sender.send('x', { to: receiver.address!, descriptors: [one] }), file)
  t.regex(sent, /by a socket's send\(\): it belongs to the socket, then to the peer\. Send a dup\(\) to keep one\.$/)
  await Promise.all([sender.close(), receiver.close()])
})

const RUN = [...compiled, '--input-type=module', '-e']
const NUL = '/tmp/passfd\0words'
const LONE = '/tmp/passfd\ud800words'

test('a path with a NUL or a lone surrogate is refused by everything that takes a path, and nothing is opened', async t => {
  const entry = '/bin/true'
  const listeners = { web: { port: 0 } }
  const takers: Record<string, (path: string) => unknown> = {
    listen: path => listen(path),
    'listen, object': path => listen({ path }),
    connect: path => connect(path),
    'stream.connect': path => stream.connect(path),
    'stream.connectPackets': path => stream.connectPackets({ path }),
    'stream.listen': path => stream.listen(path),
    'stream.listenPackets': path => stream.listenPackets(path),
    'datagram.bind': path => bind(path),
    'datagram.connect': path => connectDatagrams(path),
    'datagram.connect, from': path => connectDatagrams({ abstract: 'nobody' }, { from: path }),
    'datagram.send, to': path => {
      const socket = unnamed()
      try {
        return socket.send('x', { to: path })
      } finally {
        socket.destroy()
      }
    },
    'Descriptor.open': path => Descriptor.open(path),
    'Descriptor.openSync': path => Descriptor.openSync(path),
    'Descriptor.bind': path => Descriptor.bind({ path }),
    'Supervisor, entry': path => new Supervisor({ entry: path, listeners }),
    'Supervisor, admin': path => new Supervisor({ entry, listeners, admin: path }),
    'Supervisor, cwd': path => new Supervisor({ entry, listeners, spawn: { cwd: path } }),
    'Supervisor, listener': path => new Supervisor({ entry, listeners: { web: { path } } })
  }
  for (const [name, take] of Object.entries(takers))
    for (const [path, what] of [
      [NUL, 'NUL bytes'],
      [LONE, 'lone surrogates']
    ] as const) {
      const error = await rejection(async () => take(path))
      t.is(error.code, 'ERR_PASSFD_INVALID_ARGUMENT', name)
      t.true(
        error.message.includes(`must be a path without ${what}; it is '/tmp/passfd\\u{`),
        `${name}: ${error.message}`
      )
      t.notRegex(error.message, /[\0\ud800]/, name)
    }
  t.false(fs.existsSync('/tmp/passfd'), 'not even the part before the NUL')
  const texts: Record<string, () => unknown> = {
    args: () => new Supervisor({ entry, listeners, spawn: { args: ['a', 'b\0'] } }),
    execArgv: () => new Supervisor({ entry, listeners, spawn: { execArgv: ['\0'] } }),
    command: () => new Supervisor({ command: ['a', 'b\0'], listeners }),
    env: () => new Supervisor({ entry, listeners, spawn: { env: { A: '\0' } } }),
    memfd: () => Descriptor.memfd('a\0'),
    memory: () => SharedMemory.create(1, { name: 'a\0' }),
    pool: () => new MemoryPool({ name: 'a\0' })
  }
  for (const [name, work] of Object.entries(texts))
    t.like(await rejection(async () => work()), { code: 'ERR_PASSFD_INVALID_ARGUMENT' }, name)
})

test('an abstract name may hold NULs; a sentence shows them as escapes', async t => {
  const abstract = `passfd\0${process.pid}\0words`
  t.notRegex((await rejection(() => connect({ abstract }))).message, /\0/)
  const server = await listen({ abstract })
  const channel = await connect({ abstract })
  channel.destroy()
  await server.close()
  t.like(await rejection(() => listen({ abstract: '\ud800' })), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

test('an address says which of its names is empty, or what is to be shorter', async t => {
  const shorter = 'Use a shorter'
  for (const open of [listen, connect] as const)
    for (const [address, says] of [
      [{ path: '' }, "address.path must be a name of one character or more; it is ''."],
      [{ abstract: '' }, "address.abstract must be a name of one character or more; it is ''."],
      [{ abstract: 'n'.repeat(108) }, `(an abstract name has at most 107 bytes). ${shorter} name.`],
      [`/tmp/${'n\n'.repeat(80)}`, `${shorter} last component.`]
    ] as const) {
      const { message } = await rejection(() => open(address as never) as Promise<unknown>)
      t.true(message.endsWith(says), message)
      t.false(message.includes('\n'), message)
    }
})

test('system errors name the call that failed and the argument that was wrong', async t => {
  const number = 999_999
  const closed: [() => unknown, string, string][] = [
    [() => Descriptor.adopt(number), 'fcntl', 'EBADF'],
    [() => Descriptor.from(number), 'dup', 'EBADF'],
    [() => Descriptor.pidfd(0x7fffffff), 'pidfd_open', 'ESRCH']
  ]
  for (const [work, syscall, code] of closed) {
    const error = await rejection(async () => work())
    t.like(error, { code, syscall })
    t.regex(error.message, /'(999999|2147483647)'$/)
  }
  const script = `
    import { Descriptor } from ${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)}
    import { SharedMemory } from ${JSON.stringify(new URL('../../src/memory/index.ts', import.meta.url).href)}
    for (const work of [() => Descriptor.memfd('big', { size: 2 ** 40 }), () => SharedMemory.create(2 ** 31)])
      try { work() } catch (error) { console.log(error.syscall, error.message) }
  `
  const { line, exit } = start('bash', ['-c', 'ulimit -f 100; exec "$@"', 'bash', process.execPath, ...RUN, script])
  t.is(await line(), "ftruncate EFBIG: file too large, ftruncate 'big, 1099511627776 bytes'")
  t.is(await line(), "ftruncate EFBIG: file too large, ftruncate 'passfd, 2147483648 bytes'")
  t.is((await exit).code, 0)
})

/** By code: a call that fails with it, and what its sentence must name besides. What it opens is closed by it or is in `open`. */
const open: { close(): unknown }[] = []
const file = (): Descriptor => {
  const one = Descriptor.openSync('/dev/null')
  open.push(one)
  return one
}
const ends = (): [Descriptor, Descriptor] => {
  const both = Descriptor.socketpair()
  open.push(...both)
  return both
}
const channels = async (options: object = {}): Promise<[any, any]> => {
  const [left, end] = pair<any, any>(options)
  const right = await connect<any, any>(end)
  for (const channel of [left, right])
    open.push({
      close: () => {
        channel.destroy()
        return channel.closed
      }
    })
  return [left, right]
}
const supervisor = (options: object = {}): Supervisor =>
  new Supervisor({ entry: '/bin/true', listeners: { web: { port: 0 } }, ...options })
const slot = async () => {
  const pool = new MemoryPool({ slots: 1, slotSize: 8 })
  open.push(pool)
  const one = await pool.acquire()
  one.release()
  return one
}
const descriptorStream = (): stream.DescriptorStream => {
  const made = stream.DescriptorStream.from(ends()[0])
  open.push({ close: () => void made.destroy() })
  return made
}
const memfd = (size: number, seals: ('shrink' | 'write')[] = []): Descriptor => {
  const one = Descriptor.memfd('words', { size, seals })
  open.push(one)
  return one
}

const REAL: Partial<Record<ErrorKey, [() => unknown, RegExp]>> = {
  DESCRIPTOR_CLOSED: [
    () => {
      const one = file()
      one.close()
      one.borrow()
    },
    /close\(\)/
  ],
  DESCRIPTOR_DETACHED: [
    () => {
      const one = file()
      Descriptor.adopt(one.detach()).close()
      one.borrow()
    },
    /detach\(\)/
  ],
  DESCRIPTOR_CONVERTED: [
    async () => {
      const [one] = ends()
      const socket = one.toSocket()
      const closed = once(socket, 'close')
      socket.destroy()
      await closed
      one.borrow()
    },
    /toSocket\(\)/
  ],
  DESCRIPTOR_OWNED: [() => Descriptor.adopt(file().borrow()), /\d/],
  DESCRIPTOR_KIND: [() => file().toServer(), /toServer\(\) .*listener/],
  DESCRIPTOR_DIRECTION: [
    () => {
      const one = Descriptor.openSync('/dev/null', 'w')
      open.push(one)
      one.toReadable()
    },
    /read/
  ],
  DESCRIPTOR_REPEATED: [
    () => {
      const one = file()
      const [channel, end] = pair<any, any>()
      open.push(end, { close: () => channel.destroy() })
      channel.send([one, one])
    },
    /dup\(\)/
  ],
  DESCRIPTOR_SOURCE: [() => Descriptor.from({} as never), /./],
  CONNECTION_SOURCE: [() => Connection.take(new net.Socket()), /connect/],
  CONNECTION_GONE: [
    () => {
      const connection = new Connection(ends()[0])
      connection.close()
      connection.close()
    },
    /close\(\)/
  ],
  SERVER_CLOSED: [
    async () => {
      const server = net.createServer().listen(0)
      await once(server, 'listening')
      const closed = once(server, 'close')
      server.close()
      await closed
      const connection = new Connection(ends()[0])
      open.push(connection)
      connection.injectInto(server)
    },
    /listen/
  ],
  EMPTY_WRITE: [
    () => {
      const stream2 = descriptorStream()
      stream2.writeWithDescriptors('', [file()])
    },
    /byte/
  ],
  TOO_MANY_RIGHTS: [() => descriptorStream().writeWithDescriptors('x', Array.from({ length: 254 }, file)), /253/],
  STREAM_ENDED: [
    () => {
      const stream2 = descriptorStream()
      stream2.end()
      stream2.writeWithDescriptors('x', [file()])
    },
    /end/
  ],
  SOCKET_CLOSED: [
    async () => {
      const socket = unnamed()
      await socket.close()
      await socket.send('x', { to: '/a' })
    },
    /closed/
  ],
  CONSUMED: [
    async () => {
      const [left] = await channels()
      left.serve(() => {})
      left.serve(() => {})
    },
    /serve\(\)/
  ],
  ANSWERED: [
    async () => {
      const [left, right] = await channels()
      const failure = new Promise((_, reject) =>
        right.serve(
          async (message: any) => {
            await message.reply(1)
            void Promise.resolve(message.reply(2)).catch(reject)
          },
          { onError: reject }
        )
      )
      await left.request(1)
      await failure
    },
    /once/
  ],
  NOT_A_REQUEST: [
    async () => {
      const [left, right] = await channels()
      const failure = new Promise((_, reject) => right.serve((message: any) => message.reply(1), { onError: reject }))
      left.send(1)
      await failure
    },
    /isRequest/
  ],
  TIMEOUT: [
    async () => {
      const [left, right] = await channels()
      right.serve(() => new Promise(resolve => setImmediate(resolve)).then(() => new Promise(() => {})))
      await left.request(1, { timeout: 5 })
    },
    /5 ms/
  ],
  TOO_MANY_REQUESTS: [
    async () => {
      const [left] = await channels({ maxPending: 1 })
      void left.request(1).catch(() => {})
      await left.request(2)
    },
    /1/
  ],
  DISCONNECTED: [
    async () => {
      const [left, end] = pair<any, any>()
      end.close()
      throw await left.closed
    },
    /process/
  ],
  HANDSHAKE_TIMEOUT: [() => connect(ends()[0], { handshakeTimeout: 5 }), /5 ms/],
  BAD_FRAME: [
    () => {
      const [one, other] = ends()
      fs.writeSync(other.borrow(), Buffer.alloc(64, 65))
      return connect(one)
    },
    /kind 65/
  ],
  MEMORY_KIND: [() => SharedMemory.map(file()), /device/],
  MEMORY_SEALS: [() => SharedMemory.map(memfd(8)), /SHRINK/],
  MEMORY_SIZE: [() => SharedMemory.map(memfd(8, ['shrink']), { size: 9 }), /8 bytes.*9/],
  MEMORY_READ_ONLY: [() => SharedMemory.map(memfd(8, ['shrink', 'write']), { writable: true }), /writable: false/],
  MEMORY_CLOSED: [
    () => {
      const memory = SharedMemory.create(1)
      memory.close()
      memory.descriptor()
    },
    /closed/
  ],
  POOL_CLOSED: [
    async () => {
      const pool = new MemoryPool({ slots: 1, slotSize: 8 })
      pool.close()
      await pool.acquire()
    },
    /close\(\)/
  ],
  SLOT_GONE: [async () => (await slot()).bytes, /Acquire/],
  LOAN_INVALID: [() => new PoolReader().open({ pool: 'mine', offset: -1, length: 0 } as never), /its place is/],
  POOL_READER_CLOSED: [
    () => {
      const reader = new PoolReader()
      reader.close()
      reader.open({} as never)
    },
    /close\(\)/
  ],
  NOT_SUPERVISED: [() => joinSupervisor(), /standalone/],
  SUPERVISOR_STATE: [() => supervisor().scale(2), /scale\(\).* new\./],
  SUPERVISOR_STOPPED: [
    async () => {
      const one = supervisor({ command: ['sleep', '1000'], entry: void 0 })
      const starting = one.start()
      void starting.catch(() => {})
      await one.kill()
      await starting
    },
    /stopped/
  ],
  ADDRESS_IN_USE_BY_FILE: [() => listen('/etc/hostname'), /\/etc\/hostname/]
}

for (const [key, [call, names]] of Object.entries(REAL))
  test(`by a real call: ${key}`, async t => {
    const error = await rejection(async () => call())
    for (const one of open.splice(0)) if (!(one instanceof Descriptor && one.closed)) await one.close()
    t.is(error.code, `ERR_PASSFD_${key}`, error.message)
    t.regex(error.message, names)
    t.regex(error.message, /^[\w'/].*[^.][.?]$/)
    t.notRegex(error.message, /undefined|\[object|\{\w*\}|\bnull\b/)
  })
