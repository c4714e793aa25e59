/** What a socket does to its event loop and its process: it keeps neither busy, nor running, without need. */
import { setImmediate as turn } from 'node:timers/promises'
import { bind, connect } from '../../src/datagram/index.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { closeSockets, socketpair } from '../helpers/datagrams.ts'
import { startFixture } from '../helpers/process.ts'
import { test, until } from '../helpers/test.ts'

test('a process that consumes stays until it does no more', async t => {
  const running = startFixture('datagram-stays')
  t.is(await running.line(), 'paused')
  t.is(running.child.exitCode, null)
  running.child.stdin!.end()
  t.is(await running.line(), 'resumed')
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
})

test('a peer that sends without end does not keep the event loop', async t => {
  const server = await bind()
  // It sends whenever there is room: while this one reads, that is always
  const name = Buffer.from(`\0${(server.address as { abstract: string }).abstract}`)
  const fd = native.socket(2)
  const refill = (): void => {
    while (native.sendMessage(fd, Buffer.from('x'), 0, 1, new Int32Array(0), 0, 0, name) >= 0);
  }
  let turns = 0
  let read = 0
  const timer = setInterval(() => turns++, 0)
  refill()
  for await (const _ of server) {
    refill()
    if (++read > 10_000 || turns > 1) break
  }
  clearInterval(timer)
  t.true(turns > 1, `${read} were read in ${turns} turns`)
  native.close(fd)
  await server.close()
})

test('a socket that another owner has shut down does not keep the loop busy', async t => {
  const [left, right] = socketpair()
  const copy = left.dup()
  const socket = await connect(left)
  let looks = 0
  await patched(
    'receiveMessage',
    receiveMessage =>
      (...given) => {
        looks++
        return receiveMessage(...given)
      },
    async () => {
      socket.on('message', () => {})
      native.shutdown(copy.borrow(), 0)
      await until(() => looks >= 16, 'it is told, and there is nothing')
      for (let i = 0; i < 200; i++) await turn()
    }
  )
  t.true(looks < 100, `${looks} looks`)
  copy.close()
  right.close()
  await closeSockets(socket)
})

test('a socket that nobody refers to lets the process end', async t => {
  const running = startFixture('datagram-unref')
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
})
