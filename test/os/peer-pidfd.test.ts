import { once } from 'node:events'
import { readFileSync, readlinkSync } from 'node:fs'
import { connect, Descriptor, listen, type Peer, pair } from '../../src/index.ts'
import * as stream from '../../src/stream/index.ts'
import { patched } from '../helpers/channels.ts'
import { pidOf } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { test, testIf } from '../helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })
const notRoot = process.getuid!() === 0 ? undefined : 'needs root'

test('another process: authorize has its pidfd, and so has the stream until it ends', async t => {
  const path = socketPath()
  const seen: number[] = []
  const server = await stream.listen(path, {
    authorize: peer => {
      const pidfd = peer.pidfd()
      t.is(pidfd.kind, 'pidfd')
      seen.push(pidOf(pidfd.borrow()))
      pidfd.close()
      return true
    }
  })
  const connected = once(server as any, 'connection')
  const child = start(systemPython, [
    '-c',
    `import socket,sys; s = socket.socket(socket.AF_UNIX); s.connect(${JSON.stringify(path)}); sys.stdin.readline()`
  ])
  const [connection] = (await connected) as [stream.DescriptorStream]
  t.deepEqual(seen, [child.child.pid!])
  const pidfd = connection.peer.pidfd()
  t.is(pidOf(pidfd.borrow()), child.child.pid!)
  child.child.stdin!.end()
  await child.exit
  t.is(pidOf(pidfd.borrow()), -1, 'it is this process that has ended, whoever gets its pid')
  pidfd.close()
  const { peer } = connection
  connection.destroy()
  t.throws(() => peer.pidfd(), code('PEER_PIDFD'))
  await server.close()
})

test('channels and pairs: it is this process; after the end there is none', async t => {
  const path = socketPath()
  const server = await listen(path, { authorize: peer => pidOf(closeOf(peer)) === process.pid })
  const client = await connect(path, { authorize: async peer => pidOf(closeOf(peer)) === process.pid })
  const [left, end] = pair()
  for (const channel of [client, left, ...server.channels]) {
    const pidfd = channel.peer.pidfd()
    t.is(pidOf(pidfd.borrow()), process.pid)
    pidfd.close()
    t.deepEqual(Object.keys(channel.peer), ['pid', 'uid', 'gid', 'groups', 'agent'])
  }
  end.close()
  const { peer } = client
  for (const channel of [client, left]) channel.destroy()
  t.throws(() => peer.pidfd(), code('PEER_PIDFD'))
  await Promise.all([client.closed, left.closed, server.close()])
})

/** Its number stays readable in /proc until the turn ends only if it is open: so it is looked at before it is closed. */
function closeOf(peer: { pidfd(): { borrow(): number; dup(): { detach(): number }; close(): void } }): number {
  const pidfd = peer.pidfd()
  process.nextTick(() => pidfd.close())
  return pidfd.borrow()
}

test('a zombie is pinned, and its pid is its own until somebody collects it', async t => {
  const path = socketPath()
  let seen: number | undefined
  const server = await stream.listen(path, {
    authorize: async peer => {
      t.is(await parent.line(), String(peer.pid), 'it has ended')
      const pidfd = peer.pidfd()
      seen = pidOf(pidfd.borrow()) - peer.pid
      pidfd.close()
      return true
    }
  })
  const connected = once(server as any, 'connection')
  const parent = start(systemPython, [
    '-c',
    `
import os, socket, sys
child = os.fork()
if child == 0:
    socket.socket(socket.AF_UNIX).connect(${JSON.stringify(path)})
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(child, flush=True)
sys.stdin.readline()
os.waitpid(child, 0)
print('collected', flush=True)
sys.stdin.readline()`
  ])
  const [connection] = (await connected) as [stream.DescriptorStream]
  t.is(seen, 0)
  connection.on('error', () => {})
  const before = connection.peer.pidfd()
  parent.child.stdin!.write('\n')
  t.is(await parent.line(), 'collected')
  t.is(pidOf(before.borrow()), -1)
  before.close()
  // What the kernel gives of one that was collected: a pidfd (Linux 6.16), or a reason
  let after: number | string
  try {
    after = pidOf(closeOf(connection.peer))
  } catch (error) {
    after = (error as { code: string }).code
  }
  t.true(after === -1 || after === 'ERR_PASSFD_PEER_PIDFD', String(after))
  parent.child.stdin!.end()
  await parent.exit
  connection.destroy()
  await server.close()
})

test('a listener that was passed on: clients have the pidfd of its new owner, and it that of the clients', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const child = startFixture('peer-on-3', [], { stdio: ['pipe', 'pipe', 'pipe', listener.borrow()] })
  t.is(await child.line(), 'listening')
  const channel = await connect(path, { authorize: peer => pidOf(closeOf(peer)) === child.child.pid! })
  listener.close()
  t.deepEqual(await channel.request('who?'), [process.pid, 'pidfd', String(process.pid)])
  await channel.close()
  child.child.stdin!.end()
  t.like(await child.exit, { code: 0, stderr: '' })
})

testIf(notRoot, 'a peer outside of our pid namespace has no number here, but a pidfd', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const fixture = new URL('../fixtures/peer-on-3.mjs', import.meta.url).pathname
  const child = start('unshare', ['--pid', '--fork', '--kill-child', '--mount-proc', process.execPath, fixture], {
    stdio: ['pipe', 'pipe', 'pipe', listener.borrow()]
  })
  t.is(await child.line(), 'listening')
  const channel = await connect(path, { authorize: peer => pidOf(closeOf(peer)) === peer.pid })
  listener.close()
  t.true(channel.peer.pid > 0, 'it is inside of ours')
  t.deepEqual(await channel.request('who?'), [0, 'pidfd', '0'])
  await channel.close()
  child.child.stdin!.end()
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('a kernel before Linux 6.5: an error that says so, and authorize that relies on it lets nobody in', async t => {
  const path = socketPath()
  const server = await listen(path, { authorize: peer => peer.pidfd() !== undefined })
  const [left, end] = pair()
  await patched(
    'peerPidfd',
    () => () => -92,
    async () => {
      const error = t.throws(() => left.peer.pidfd(), { ...code('PEER_PIDFD'), message: /it takes Linux 6\.5/ })
      t.like((error as { cause?: unknown }).cause, { code: 'ENOPROTOOPT', syscall: 'getsockopt' })
      const refused = once(server, 'refused') as Promise<[unknown, Error & { cause: Error }]>
      await t.throwsAsync(connect(path))
      const [, why] = await refused
      t.like(why, code('AUTHORIZE_FAILED'))
      t.like(why.cause, code('PEER_PIDFD'))
    }
  )
  end.close()
  left.destroy()
  await Promise.all([left.closed, server.close()])
})

test("the guide's function tells the executable at the other end, and that one has ended", async t => {
  const text = readFileSync(new URL('../../docs/guide/peers.md', import.meta.url), 'utf8')
  const source = /^function programOf[\s\S]*?^}/m.exec(text)![0]
  const programOf = new Function('readFileSync', 'readlinkSync', `${source}\nreturn programOf`)(
    readFileSync,
    readlinkSync
  ) as (peer: Peer) => string | undefined
  const path = socketPath()
  const programs: (string | undefined)[] = []
  const server = await stream.listen(path, { authorize: peer => programs.push(programOf(peer)) > 0 })
  const connected = once(server as any, 'connection')
  const child = start(systemPython, [
    '-c',
    `import socket,sys; s = socket.socket(socket.AF_UNIX); s.connect(${JSON.stringify(path)}); sys.stdin.readline()`
  ])
  const [connection] = (await connected) as [stream.DescriptorStream]
  t.regex(programs[0]!, /python/)
  const pinned = connection.peer.pidfd()
  child.child.stdin!.end()
  await child.exit
  // Somebody else has its pid by now: what /proc says of the pid is not believed
  const reused = { pid: process.pid, pidfd: () => pinned.dup() } as unknown as Peer
  t.is(programOf(reused), undefined)
  pinned.close()
  connection.destroy()
  await server.close()
})
