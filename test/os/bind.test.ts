import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import { type BindSpec, Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { addressOf, isCloseOnExec, isNonBlocking } from '../helpers/facts.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const EAGAIN = -11

/** Whether a connection is accepted by whoever listens; the listener needs nobody who accepts. */
async function connects(options: net.NetConnectOpts): Promise<true | string> {
  const socket = net.connect(options)
  try {
    await once(socket, 'connect')
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  } finally {
    socket.destroy()
    if (!socket.closed) await once(socket, 'close')
  }
}

async function closed(server: net.Server): Promise<void> {
  await new Promise(resolve => server.close(resolve))
}

test('TCP: bound and listening on a free port, close-on-exec; nobody accepts yet', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  t.is(listener.kind, 'tcp-listener')
  t.true(isCloseOnExec(listener.borrow()))
  t.true(isNonBlocking(listener.borrow()))
  const { address, port } = await addressOf(listener)
  t.is(address, '127.0.0.1')
  t.true(port > 0)
  t.is(await connects({ port, host: '127.0.0.1' }), true)
  listener.close()
  t.is(await connects({ port, host: '127.0.0.1' }), 'ECONNREFUSED')
})

test('TCP: without a host it is every address of both families', async t => {
  const listener = await Descriptor.bind({ port: 0 })
  const { address, port } = await addressOf(listener)
  t.is(address, '::')
  t.is(await connects({ port, host: '127.0.0.1' }), true)
  t.is(await connects({ port, host: '::1' }), true)
  listener.close()
})

test('TCP: ipv6Only leaves the port to IPv4', async t => {
  for (const host of [undefined, '::']) {
    const listener = await Descriptor.bind({ port: 0, ipv6Only: true, ...(host === undefined ? {} : { host }) })
    const { port } = await addressOf(listener)
    t.is(await connects({ port, host: '::1' }), true)
    t.is(await connects({ port, host: '127.0.0.1' }), 'ECONNREFUSED')
    const other = await Descriptor.bind({ port, host: '127.0.0.1' })
    t.is(await connects({ port, host: '127.0.0.1' }), true)
    other.close()
    listener.close()
  }
})

test('TCP: a host is looked up', async t => {
  const listener = await Descriptor.bind({ port: 0, host: 'localhost' })
  t.true(['127.0.0.1', '::1'].includes((await addressOf(listener)).address))
  listener.close()
  const error = await t.throwsAsync<NodeJS.ErrnoException>(Descriptor.bind({ port: 0, host: 'nothing.invalid' }))
  t.is(error!.syscall, 'getaddrinfo')
})

test('TCP: a port in use, and an address that is not ours, are plain system errors', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = await addressOf(listener)
  const inUse = await t.throwsAsync<NodeJS.ErrnoException & { address?: string }>(
    Descriptor.bind({ port, host: '127.0.0.1' }),
    { code: 'EADDRINUSE' }
  )
  t.is(inUse!.syscall, 'bind')
  t.is(inUse!.errno, -98)
  t.is(inUse!.address, `127.0.0.1:${port}`)
  listener.close()
  await t.throwsAsync(Descriptor.bind({ port: 0, host: '192.0.2.1' }), { code: 'EADDRNOTAVAIL' })
})

test('TCP: a port is free again at once', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = await addressOf(listener)
  const client = net.connect(port, '127.0.0.1')
  const server = await listener.toServer()
  const [socket] = (await once(server, 'connection')) as [net.Socket]
  socket.destroy() // this side's end is what stays in TIME_WAIT
  await once(client.resume(), 'close')
  await closed(server)
  const again = await Descriptor.bind({ port, host: '127.0.0.1' })
  again.close()
  t.pass()
})

test('UDP: bound, of the family that was asked for', async t => {
  for (const [spec, address, family] of [
    [{ type: 'udp4', port: 0 }, '0.0.0.0', 'IPv4'],
    [{ type: 'udp6', port: 0 }, '::', 'IPv6'],
    [{ type: 'udp4', port: 0, address: '127.0.0.1' }, '127.0.0.1', 'IPv4'],
    [{ type: 'udp6', port: 0, address: '::1' }, '::1', 'IPv6'],
    [{ type: 'udp4', port: 0, address: 'localhost' }, '127.0.0.1', 'IPv4']
  ] as const) {
    const descriptor = await Descriptor.bind(spec)
    t.is(descriptor.kind, 'udp')
    t.true(isCloseOnExec(descriptor.borrow()))
    const socket = descriptor.toDatagram()
    const { port, ...rest } = socket.address()
    t.deepEqual(rest, { address, family })
    if (spec.type === 'udp4' && address === '127.0.0.1') {
      const error = await t.throwsAsync<NodeJS.ErrnoException>(Descriptor.bind({ type: 'udp4', port, address }), {
        code: 'EADDRINUSE'
      })
      t.is(error!.syscall, 'bind')
    }
    await new Promise<void>(resolve => socket.close(resolve))
  }
})

test('a path: listening, mode 0600 unless told otherwise, whatever the umask', async t => {
  const umask = process.umask(0o077)
  try {
    for (const [mode, expected] of [
      [undefined, 0o600],
      [0o666, 0o666],
      [0o660, 0o660],
      [0, 0],
      [0o777, 0o777]
    ] as const) {
      for (const mask of [0o077, 0]) {
        process.umask(mask)
        const path = temporaryPath('socket')
        const listener = await Descriptor.bind(mode === undefined ? { path } : { path, mode })
        t.is(listener.kind, 'unix-stream-listener')
        t.true(isCloseOnExec(listener.borrow()))
        t.is(fs.statSync(path).mode & 0o777, expected)
        t.is(await connects({ path }), true)
        listener.close()
        t.true(fs.existsSync(path), 'closing a Descriptor leaves the file: it may be listened on elsewhere')
      }
    }
  } finally {
    process.umask(umask)
  }
})

test('a path that cannot be bound is a system error, and leaves nothing open', async t => {
  const missing = `${temporaryPath('missing')}/socket`
  const error = await t.throwsAsync<NodeJS.ErrnoException>(Descriptor.bind({ path: missing }), { code: 'ENOENT' })
  t.truthy(error!.syscall)
  const path = temporaryPath('socket')
  const listener = await Descriptor.bind({ path })
  await t.throwsAsync(Descriptor.bind({ path }), { code: 'EADDRINUSE' })
  listener.close()
  const again = await Descriptor.bind({ path }) // nobody listens any more
  again.close()
  const regular = temporaryPath()
  fs.writeFileSync(regular, 'precious')
  await t.throwsAsync(Descriptor.bind({ path: regular }), { code: 'ERR_PASSFD_ADDRESS_IN_USE_BY_FILE' })
  t.is(fs.readFileSync(regular, 'utf8'), 'precious')
})

test('backlog is how many connections wait to be accepted', async t => {
  for (const backlog of [0, 1, 5]) {
    const path = temporaryPath('socket')
    const listener = await Descriptor.bind({ path, backlog })
    const clients: number[] = []
    let result = 0
    while (result === 0 && clients.length < 20) {
      const client = native.socket(1)
      clients.push(client)
      result = native.connect(client, Buffer.from(path))
    }
    // The kernel takes one more (unix(7), sk_acceptq_is_full)
    t.is(clients.length, backlog + 2)
    t.is(result, EAGAIN)
    for (const client of clients) native.close(client)
    listener.close()
  }
})

test('a Descriptor is passed through as it is', async t => {
  const descriptor = Descriptor.openSync('/dev/null')
  t.is(await Descriptor.bind(descriptor), descriptor)
  t.false(descriptor.closed)
  descriptor.close()
})

test('a spec that is none is refused before anything is opened', async t => {
  const path = temporaryPath('socket')
  const wrong: [what: string, spec: unknown][] = [
    ['undefined', undefined],
    ['null', null],
    ['a number', 80],
    ['a path alone', path],
    ['nothing', {}],
    ['port -1', { port: -1 }],
    ['port 65536', { port: 65536 }],
    ['a port of text', { port: '80' }],
    ['port 1.5', { port: 1.5 }],
    ['backlog -1', { port: 0, backlog: -1 }],
    ['backlog 2^31', { port: 0, backlog: 2 ** 31 }],
    ['backlog of text', { port: 0, backlog: '5' }],
    ['backlog -1 on a path', { path, backlog: -1 }],
    ['mode -1', { path, mode: -1 }],
    ['mode 01000', { path, mode: 0o1000 }],
    ['mode of text', { path, mode: '600' }],
    ['an empty path', { path: '' }],
    ['a path with a NUL', { path: 'a\0b' }],
    ['a path that is a number', { path: 5 }],
    ['an unknown type', { type: 'tcp4', port: 0 }],
    ['a type without a port', { type: 'udp4' }],
    ['UDP port 65536', { type: 'udp4', port: 65536 }]
  ]
  for (const [what, spec] of wrong)
    await t.throwsAsync(Descriptor.bind(spec as BindSpec), { code: 'ERR_PASSFD_INVALID_ARGUMENT' }, what)
  t.false(fs.existsSync(path))
})

test('the outermost values that are allowed are', async t => {
  for (const backlog of [0, 0x7fffffff]) {
    const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1', backlog })
    t.is(listener.kind, 'tcp-listener')
    listener.close()
  }
  // Port 65535 may be in use: then the system says so, and not the check
  for (const spec of [{ port: 65535 }, { type: 'udp4', port: 65535 }] as const) {
    const error = await Descriptor.bind(spec).then(
      descriptor => void descriptor.close(),
      ({ code }) => code
    )
    t.true(error === undefined || error === 'EADDRINUSE')
  }
})
