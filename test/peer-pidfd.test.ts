import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, listen, pair } from '../src/index.ts'
import * as stream from '../src/stream.ts'
import { socketPath } from './helpers/path.ts'
import { start } from './helpers/process.ts'
import { test } from './helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })
const pidOf = (number: number): number =>
  Number(/^Pid:\t(-?\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${number}`, 'utf8'))![1])

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
  const child = start('python3', [
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
