/** Several Descriptors move, or none: one that shares its number with a duplicate needs a number of its own, which may not be there. */
import { once } from 'node:events'
import { bind, connect } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import type { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { packetPair, streamPair } from '../helpers/streams.ts'
import { test } from '../helpers/test.ts'

const EAGAIN = -11
const EMFILE = -24

/** The second that must be separated can't be. */
const secondFails = (original: typeof native.separate): typeof native.separate => {
  let calls = 0
  return fd => (++calls === 2 ? EMFILE : original(fd))
}

/** Three that share one number, and a fourth owner of it. */
function shared(): [all: Descriptor[], rest: Descriptor] {
  const rest = Descriptor.openSync('/dev/null')
  return [[rest.dup(), rest.dup(), rest.dup()], rest]
}

test('packets: none has moved, and all can be sent afterwards', async t => {
  const [left, right] = packetPair()
  const [all, rest] = shared()
  await patched('separate', secondFails, () => {
    t.throws(() => void left.send('x', all), { code: 'EMFILE' })
  })
  for (const one of all) t.is(one.kind, 'device')
  await left.send('x', all)
  const { value } = await right[Symbol.asyncIterator]().next()
  t.is(value!.descriptors.length, 3)
  for (const one of [...value!.descriptors, rest]) one.close()
  left.destroy()
  right.destroy()
})

test('a stream: none has moved, and all can be sent afterwards', async t => {
  const [left, right] = streamPair()
  const [all, rest] = shared()
  await patched('separate', secondFails, () => {
    t.throws(() => void left.writeWithDescriptors('x', all), { code: 'EMFILE' })
  })
  for (const one of all) t.is(one.kind, 'device')
  left.writeWithDescriptors('x', all)
  const arrived = once(right, 'descriptors')
  right.resume()
  const [descriptors] = (await arrived) as [Descriptor[]]
  for (const one of [...descriptors, rest]) one.close()
  left.destroy()
  right.destroy()
})

test('datagrams: none has moved, whether others wait or not', async t => {
  const receiver = await bind()
  const sender = await connect(receiver.address!)
  const [all, rest] = shared()
  const fails = () =>
    patched('separate', secondFails, async () => {
      await t.throwsAsync(async () => sender.send('late', { descriptors: all }), { code: 'EMFILE' })
    })
  await fails()
  let first: Promise<void> | undefined
  await patched(
    'sendMessage',
    () => () => EAGAIN,
    async () => {
      first = sender.send('first')
      await fails()
    }
  )
  for (const one of all) t.is(one.kind, 'device')
  await first
  await sender.send('late', { descriptors: all })
  const iterator = receiver[Symbol.asyncIterator]()
  t.is(`${(await iterator.next()).value!.data}`, 'first')
  const { value } = await iterator.next()
  for (const one of [...value!.claim().descriptors, rest]) one.close()
  await sender.close()
  await receiver.close()
})
