import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { pairWithin } from '../../src/channel/connect.ts'
import { LoopbackWire } from '../../src/channel/loopback.ts'
import { closeAll } from '../helpers/channels.ts'
import { openDescriptors, test } from '../helpers/test.ts'

const EAGAIN = -11
const EPIPE = -32

test('messages, requests, errors and large bodies in both directions, without a descriptor', async t => {
  const before = openDescriptors()
  const [left, right] = pairWithin<any, any>({})
  t.deepEqual([...openDescriptors()], [...before])
  t.is(left.peer.pid, process.pid)
  right.serve(async ({ value, isRequest }) => {
    if (value === 'throw') throw new RangeError('no')
    return isRequest ? value : undefined
  })
  const large = Buffer.alloc(1_900_000, 'x')
  const values = [1, 'two', { three: [3n, new Date(3)] }, large, Array.from({ length: 20_000 }, (_, n) => `${n}`)]
  for (const value of values) t.deepEqual(await left.request(value), value)
  t.deepEqual(await Promise.all(values.map(value => left.request(value))), values)
  await t.throwsAsync(left.request('throw'), { code: 'ERR_PASSFD_REMOTE' })
  left.on('message', message => void message)
  const heard = once(left, 'message')
  await right.send({ small: true })
  t.deepEqual((await heard)[0].value, { small: true })
  await closeAll(left, right)
})

test('the end of one side is the end of the other one', async t => {
  const [left, right] = pairWithin<any, any>({})
  await left.send('last')
  const closed = left.close()
  const values: unknown[] = []
  for await (const { value } of right) values.push(value)
  await closed
  t.deepEqual(values, ['last'])
})

test('a write takes what there is room for, and the writer hears when there is room again', async t => {
  const [left, right] = LoopbackWire.pair()
  const bytes = Buffer.alloc(700_000)
  for (let at = 0; at < bytes.length; at++) bytes[at] = at % 251
  let writable = 0
  const received: Buffer[] = []
  left.start({ onReadable: () => {}, onWritable: () => void writable++ })
  t.is(left.send(bytes, 0, bytes.length), 700_000)
  t.is(left.sendVector([bytes, bytes], 1), 1024 * 1024 - 700_000)
  t.is(left.send(bytes, 0, 1), EAGAIN)
  left.awaitWritable(true)
  await turn()
  t.is(writable, 0)
  const own = Buffer.alloc(100_000)
  right.target(own, 10, 90_000)
  let ended = false
  right.start({
    onReadable(length) {
      if (length === 0) ended = true
      const direct = received.length === 0 ? Math.min(length, 89_990) : 0
      received.push(
        Buffer.concat([
          own.subarray(10, 10 + direct),
          right.area.subarray(right.headroom, right.headroom + length - direct)
        ])
      )
      right.target(null, 0, 0)
      if (writable > 0) left.awaitWritable(false)
    },
    onWritable: () => {}
  })
  while (Buffer.concat(received).length < 1024 * 1024) await turn()
  t.true(writable > 0)
  t.true(Buffer.concat(received).equals(Buffer.concat([bytes, bytes.subarray(1)]).subarray(0, 1024 * 1024)))
  left.shutdown()
  while (!ended) await turn()
  t.is(left.send(bytes, 0, 1), EPIPE)
  right.end()
  left.end()
})
