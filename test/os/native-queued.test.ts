/** `queued`: how many wait in a listener's queue, whatever its family. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { socketPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { test, testIf } from '../helpers/test.ts'

const MOST = 200

for (const [what, spec] of [
  ['IPv4', () => ({ port: 0, host: '127.0.0.1' })],
  ['IPv6', () => ({ port: 0, host: '::1' })],
  ['a path', () => ({ path: socketPath() })]
] as const)
  test(`it counts those that wait: ${what}`, async t => {
    const own = spec()
    const listener = await Descriptor.bind(own)
    const fd = listener.borrow()
    const { path } = own as { path?: string }
    const facts = new Int32Array(2)
    native.inetName(fd, false, facts, Buffer.alloc(108))
    const target = path === undefined ? { port: facts[1]!, host: (own as { host: string }).host } : { path }
    t.is(native.queued(fd), 0)
    const sockets: Socket[] = []
    const accepted = new Int32Array(MOST)
    for (const count of [1, 2, 40]) {
      for (let i = 0; i < count; i++) sockets.push(connect(target))
      await Promise.all(sockets.slice(-count).map(socket => once(socket, 'connect')))
      t.is(native.queued(fd), count)
      t.is(native.acceptMany(fd, accepted, count - 1 || 1, null), count - 1 || 1)
      t.is(native.queued(fd), count === 1 ? 0 : 1)
      for (let i = 0; i < (count - 1 || 1); i++) native.close(accepted[i]!)
      if (count > 1) {
        t.is(native.acceptMany(fd, accepted, 1, null), 1)
        native.close(accepted[0]!)
      }
      t.is(native.queued(fd), 0)
    }
    for (const socket of sockets) socket.on('error', () => {}).destroy()
    await Promise.all(sockets.map(socket => socket.closed || once(socket, 'close')))
    listener.close()
  })

test('what is no listener has no queue', t => {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  t.is(native.queued(ends[0]!), 0)
  for (const fd of ends) native.close(fd)
  t.is(native.queued(ends[0]!), -9)
  const file = Descriptor.openSync('/dev/null')
  t.is(native.queued(file.borrow()), -88)
  file.close()
})

testIf(
  missing('/usr/bin/unshare', 'util-linux'),
  'a Unix listener of another network namespace: it says that some wait, not how many',
  async t => {
    const path = socketPath()
    const listener = await Descriptor.bind({ path })
    const fd = listener.borrow()
    const command = ['--net', process.execPath, fileURLToPath(new URL('../fixtures/queued.mjs', import.meta.url))]
    const { child, exit, line } = start('/usr/bin/unshare', command, { stdio: ['pipe', 'pipe', 'pipe', fd] })
    const ask = (): Promise<string> => {
      child.stdin!.write('\n')
      return line()
    }
    t.is(await ask(), '0')
    const sockets = [connect(path), connect(path)]
    await Promise.all(sockets.map(socket => once(socket, 'connect')))
    t.is(native.queued(fd), 2)
    t.is(await ask(), '-11')
    child.stdin!.end()
    t.like(await exit, { code: 0, stderr: '' })
    for (const socket of sockets) socket.on('error', () => {}).destroy()
    await Promise.all(sockets.map(socket => socket.closed || once(socket, 'close')))
    listener.close()
  }
)
