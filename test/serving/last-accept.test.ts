/** Listeners are ended: whoever was accepted by the kernel is accepted, whoever comes later is refused, and nobody is reset. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as later } from 'node:timers/promises'
import { Descriptor } from '../../src/index.ts'
import { acceptWaiting } from '../../src/os/acceptor.ts'
import { native } from '../../src/os/native.ts'
import { PortGroup } from '../../src/os/port-group.ts'
import { addressOf } from '../../src/serving/bound-socket.ts'
import { endListeners } from '../../src/serving/last-accept.ts'
import { socketPath } from '../helpers/path.ts'
import { missing } from '../helpers/programs.ts'
import { test, testIf, until } from '../helpers/test.ts'

const PYTHON = '/usr/bin/python3'
/** With this the kernel keeps a handshake open until the client has sent something (tcp(7)). */
const DEFERS =
  'import socket; s = socket.socket(fileno=3); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)'

type Where = { port: number; host: string } | { path: string }

function whereOf(listener: Descriptor): Where {
  const address = addressOf(listener.borrow())
  return 'path' in address ? { path: address.path } : { port: address.port, host: '127.0.0.1' }
}

async function clients(count: number, where: Where): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => connect(where))
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  return sockets
}

async function codeOf(where: Where): Promise<string | undefined> {
  const socket = connect(where)
  const code = await once(socket, 'connect').then(
    () => undefined,
    ({ code }: NodeJS.ErrnoException) => code
  )
  socket.destroy()
  return code
}

/** Each accepted connection says hello, and each client must hear it. */
async function served(sockets: readonly Socket[], accepted: readonly number[]): Promise<string[]> {
  for (const fd of accepted) {
    native.send(fd, Buffer.from('hello'), 0, 5, new Int32Array(0), 0, 0)
    native.close(fd)
  }
  return Promise.all(
    sockets.map(async socket => {
      let text = ''
      socket.on('data', part => {
        text += part
      })
      socket.on('error', error => {
        text += (error as NodeJS.ErrnoException).code
      })
      await new Promise(resolve => (socket.closed ? resolve(undefined) : socket.once('close', resolve)))
      return text
    })
  )
}

const specs = {
  TCP: () => ({ port: 0, host: '127.0.0.1' }),
  'TCP over IPv6': () => ({ port: 0 }),
  'a path': () => ({ path: socketPath() })
}
for (const [name, spec] of Object.entries(specs))
  test(`${name}: all who wait are accepted; then it refuses, though others hold a copy`, async t => {
    const listener = await Descriptor.bind(spec())
    using copy = listener.dup()
    const where = whereOf(listener)
    const sockets = await clients(20, where)
    const accepted: number[] = []
    await endListeners([listener.borrow()], fd => acceptWaiting(fd, one => void accepted.push(one)))
    t.is(accepted.length, 20)
    t.is(await codeOf(where), 'ECONNREFUSED')
    listener.close()
    t.deepEqual(await served(sockets, accepted), Array(20).fill('hello'))
    t.is(await codeOf(where), 'ECONNREFUSED')
    t.false(copy.closed)
  })

test('TCP: its port is free at once for another listener, though others hold a copy', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = whereOf(listener) as { port: number }
  await endListeners([listener.borrow()], () => true)
  using next = await Descriptor.bind({ port, host: '127.0.0.1' })
  const sockets = await clients(1, whereOf(next))
  t.is(sockets.length, 1)
  sockets[0]!.destroy()
  listener.close()
})

test('listeners that share a port: nobody is dealt to one of them that has been ended', async t => {
  const group = await PortGroup.open({ port: 0, host: '127.0.0.1' })
  const fds = [group.open(), group.open(), group.open()]
  const where = { port: group.port, host: '127.0.0.1' }
  const sockets = await clients(60, where)
  const accepted: number[] = []
  await endListeners(fds, fd => acceptWaiting(fd, one => void accepted.push(one)))
  t.is(await codeOf(where), 'ECONNREFUSED')
  for (const fd of fds) native.close(fd)
  t.deepEqual(await served(sockets, accepted), Array(60).fill('hello'))
})

testIf(missing(PYTHON, 'python3'), 'a TCP handshake that is under way is waited for', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const where = whereOf(listener)
  t.is(spawnSync(PYTHON, ['-c', DEFERS], { stdio: ['ignore', 'inherit', 'inherit', listener.borrow()] }).status, 0)
  const [client] = (await clients(1, where)) as [Socket]
  await until(() => native.handshakes(listener.borrow()) === 1, 'the handshake')
  const accepted: number[] = []
  // Its half a second does not end
  const { now } = performance
  const then = performance.now()
  performance.now = () => then
  try {
    const ended = endListeners([listener.borrow()], fd => acceptWaiting(fd, one => void accepted.push(one)))
    await later(50)
    t.is(accepted.length, 0)
    client.write('here')
    await ended
  } finally {
    performance.now = now
  }
  t.is(accepted.length, 1)
  t.is(native.handshakes(listener.borrow()), 0)
  listener.close()
  t.is(readSync(accepted[0]!, Buffer.alloc(8)), 4) // unread bytes would make its close a reset
  t.deepEqual(await served([client], accepted), ['hello'])
})

test('while some are left, as there is no descriptor for them, it is not shut down; that takes half a second at most', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const sockets = await clients(3, whereOf(listener))
  const began = performance.now()
  await endListeners([listener.borrow()], () => false)
  t.true(performance.now() - began >= 490)
  const accepted: number[] = []
  t.true(acceptWaiting(listener.borrow(), one => void accepted.push(one)))
  listener.close()
  t.deepEqual(await served(sockets, accepted), Array(3).fill('hello'))
})

test('what is no listener is left alone', async t => {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  t.is(native.closeQueue(ends[0]!), -22)
  await endListeners([ends[0]!], () => t.fail() as never)
  for (const fd of ends) native.close(fd)
  t.is(native.closeQueue(ends[0]!), -9)
})
