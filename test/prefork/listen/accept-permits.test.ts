/** The count of what workers were told to accept. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { Descriptor } from '../../../src/index.ts'
import { AcceptPermits } from '../../../src/prefork/listen/accept-permits.ts'
import type { Recipient } from '../../../src/prefork/listen/recipient.ts'
import { addressOf } from '../../../src/serving/bound-socket.ts'
import { test } from '../../helpers/test.ts'

function recipient(unused: () => number | undefined, wantMessage = (_: string): void => {}): Recipient {
  return { unusedPermits: unused, wantMessage } as Partial<Recipient> as Recipient
}

test('what a worker has not used counts, by its memory or else by its messages; a wrong memory changes nothing', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = addressOf(listener.borrow()) as { port: number }
  const permits = new AcceptPermits('lines', listener.borrow(), () => {})
  const sockets: Socket[] = []
  for (let i = 0; i < 10; i++) sockets.push(connect(port, '127.0.0.1'))
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  t.is(permits.countWaiting(), 10)

  let unused: number | undefined
  const counting = recipient(() => unused)
  const other = recipient(() => undefined)
  permits.add(counting, 6)
  permits.add(other, 3)
  t.is(permits.countWaiting(), 1)
  // It has used 4 of them, and will send a message
  unused = 2
  t.deepEqual([permits.countWaiting(), permits.of(counting), permits.unused(counting)], [5, 6, 2])
  unused = 2 ** 32 - 1
  t.deepEqual([permits.countWaiting(), permits.of(counting), permits.unused(counting)], [1, 6, 6])
  permits.confirm(counting, 6)
  t.deepEqual([permits.countWaiting(), permits.of(counting), permits.unused(counting)], [7, 0, 0])
  permits.forgetAllBut([counting])
  t.deepEqual([permits.countWaiting(), permits.of(other)], [10, 0])
  permits.end()
  for (const socket of sockets) socket.destroy()
  listener.close()
})

test('a worker that has accepted and not counted yet: it is asked for a message, and what it counts meanwhile is noticed', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = addressOf(listener.borrow()) as { port: number }
  const permits = new AcceptPermits('lines', listener.borrow(), () => {})
  const asked: string[] = []
  let unused = 1
  let counts = false
  const worker = recipient(
    () => unused,
    name => {
      asked.push(name)
      if (counts) unused = 0
    }
  )
  const other = recipient(() => 0)
  permits.add(worker, 1)
  permits.add(other, 5)
  t.deepEqual([permits.countWaiting(), permits.areCertain(), asked], [0, true, []], 'nothing is in the queue')
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  t.deepEqual([permits.countWaiting(), permits.areCertain(), asked], [0, true, ['lines']])
  permits.add(worker, 2)
  unused += 2
  t.deepEqual([permits.areCertain(), asked], [true, ['lines', 'lines']], 'it was told to accept more')
  counts = true
  t.deepEqual([permits.countWaiting(), permits.areCertain()], [0, false])
  t.deepEqual([permits.countWaiting(), permits.areCertain()], [1, true])
  permits.end()
  socket.destroy()
  listener.close()
})
