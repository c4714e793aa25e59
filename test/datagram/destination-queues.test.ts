import * as fs from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { bind, connect, type DatagramSocket, unnamed } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { file, patched } from '../helpers/channels.ts'
import { abstractName, boundPair, closeSockets, fill, texts } from '../helpers/datagrams.ts'
import { identity } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const EAGAIN = -11
const EMFILE = -24
const ENOBUFS = -105
const ETOOMANYREFS = -109
const code = (name: string) => ({ code: `ERR_PASSFD_${name}` })
const numbers = (count: number) => Array.from({ length: count }, (_, i) => `${i}`)

/** What `work` makes the socket's process send: the errno of each try. */
async function tries(work: () => Promise<void>): Promise<number[]> {
  const results: number[] = []
  await patched(
    'sendMessage',
    original =>
      (...given) => {
        const result = original(...given)
        results.push(result)
        return result
      },
    work
  )
  return results
}

for (const [what, make] of [
  ['connected', (to: { abstract: string }) => connect(to)],
  ['unconnected', async () => unnamed()]
] as const)
  test(`a receiver that doesn't read, then does: all arrive from a ${what} socket in order, with their files, none is lost`, async t => {
    const name = abstractName()
    const receiver = await bind(name)
    const sender = await make(name)
    const to = what === 'connected' ? {} : { to: name }
    const count = 300
    const sent: string[] = []
    const results = await tries(async () => {
      for (const text of numbers(count))
        void sender.send(text, { ...to, descriptors: [file()] }).then(() => sent.push(text))
      await turn()
      t.true(sent.length > 0 && sent.length < 20, `${sent.length} are in the kernel's queue`)
      t.is(sender.queued, count - sent.length)
      const seen: string[] = []
      for await (const { data, descriptors } of receiver) {
        seen.push(data.toString())
        t.is(descriptors.length, 1)
        if (seen.length === count) break
      }
      t.deepEqual(seen, numbers(count))
    })
    t.deepEqual(sent, numbers(count), 'each promise is resolved, in order')
    t.is(sender.queued, 0)
    const vain = results.filter(result => result < 0).length
    t.true(vain < count * 1.5, `${vain} tries in vain`)
    await closeSockets(receiver, sender)
  })

test('while a receiver does not read nothing is tried again and again', async t => {
  const [receiver, sender] = await boundPair()
  fill(receiver.address as { abstract: string })
  const results = await tries(async () => {
    void sender.send('x', { to: receiver.address! })
    const end = performance.now() + 100
    await until(() => performance.now() > end, 'a tenth of a second')
  })
  t.true(results.length <= 4, `${results.length} tries`)
  sender.destroy()
  await receiver.close()
})

test('two processes: a receiver that begins to read late gets all', async t => {
  const running = startFixture('datagram-late', [socketPath()])
  const path = await running.line()
  const client = await connect(path)
  const sent = numbers(200).map(text => client.send(text))
  await turn()
  t.true(client.queued > 100)
  running.child.stdin!.end()
  t.is(await running.line(), JSON.stringify(numbers(200)))
  await Promise.all(sent)
  t.is((await running.exit).code, 0)
  await client.close()
})

test('one that does not read holds up nobody else, and those that read get their turns', async t => {
  const sender = unnamed()
  const deaf = await bind()
  const others = await Promise.all(numbers(3).map(() => bind()))
  for (const { address } of [deaf, ...others]) fill(address as { abstract: string })
  const order: number[] = []
  for (const text of numbers(30)) {
    void sender.send(text, { to: deaf.address! })
    for (const [index, { address }] of others.entries())
      void sender.send(text, { to: address! }).then(() => order.push(index))
  }
  t.is(sender.queued, 120)
  await Promise.all(
    others.map(async socket => {
      const seen = await texts(socket, 30 + 11)
      t.deepEqual(seen.filter(text => !text.startsWith('filler')).slice(0, 30), numbers(30))
    })
  )
  t.is(order.length, 90)
  t.is(sender.queued, 30, 'those for the deaf one')
  sender.destroy()
  await closeSockets(deaf, ...others)
})

test("the socket's own buffer full: the rest waits until there is room, in turns", async t => {
  const [receivers, sender] = [await Promise.all(numbers(2).map(() => bind())), unnamed()]
  const big = Buffer.alloc(100_000, 'x')
  for (let i = 0; i < 10; i++) for (const { address } of receivers) void sender.send(big, { to: address! })
  const before = sender.queued
  t.true(before > 10, 'more than the queues of the receivers would keep waiting')
  const third = await bind()
  for (let i = 0; i < 10; i++) await turn() // by then it is known what they wait for
  const results = await tries(async () => void sender.send('small', { to: third.address! }))
  t.deepEqual(results, [], 'it takes no room from those that wait for it')
  t.is(sender.queued, before + 1)
  const lengths = await Promise.all(receivers.map(receiver => texts(receiver, 10)))
  for (const each of lengths)
    t.deepEqual(
      each.map(text => text.length),
      Array(10).fill(100_000)
    )
  t.deepEqual(await texts(third, 1), ['small'])
  await closeSockets(sender, third, ...receivers)
})

test('the receiver goes while datagrams wait: each is rejected, and its file is ours again', async t => {
  for (const connected of [true, false]) {
    const receiver = await bind()
    const { address } = receiver
    fill(address as { abstract: string })
    const sender = connected ? await connect(address!) : unnamed()
    const files = [file(), file()]
    const sent = files.map(each => sender.send('x', { ...(connected ? {} : { to: address! }), descriptors: [each] }))
    t.deepEqual(
      files.map(({ closed }) => closed),
      [true, true]
    )
    await receiver.close()
    for (const each of sent) await t.throwsAsync(each, { code: 'ECONNREFUSED' })
    for (const each of files) each.close()
    await sender.close()
  }
})

test('another receiver in the place of the one that was waited for', async t => {
  const path = socketPath()
  const first = await bind(path)
  const sender = unnamed()
  for (const text of numbers(30)) void sender.send(text, { to: path })
  const left = sender.queued
  t.true(left > 0)
  fs.unlinkSync(path)
  const second = await bind(path)
  await first.close()
  const seen = await texts(second, left)
  t.deepEqual(seen, numbers(30).slice(-left))
  await closeSockets(second, sender)
})

test('another receiver in its place that is full, too, is waited for, not asked again and again', async t => {
  const path = socketPath()
  const first = await bind(path)
  const [sender, filler] = [unnamed(), unnamed()]
  for (const text of numbers(30)) void sender.send(text, { to: path })
  fs.unlinkSync(path)
  const second = await bind(path)
  for (const text of numbers(30)) void filler.send(text, { to: path })
  const results = await tries(async () => {
    await first.close()
    const end = performance.now() + 100
    await until(() => performance.now() > end, 'a tenth of a second')
  })
  t.true(results.length < 8, `${results.length} tries`)
  for (const socket of [sender, filler]) socket.destroy()
  await second.close()
})

test('a signal gives up one that has not left', async t => {
  const [receiver, sender] = await boundPair()
  const to = receiver.address!
  const filler = fill(to as { abstract: string })
  const controller = new AbortController()
  const [one, other] = [file(), file()]
  const sent = [
    sender.send('one', { to, descriptors: [one], signal: controller.signal }),
    sender.send('two', { to, descriptors: [other] })
  ]
  controller.abort()
  await t.throwsAsync(sent[0]!, { name: 'AbortError' })
  t.false(one.closed)
  t.is(sender.queued, 1)
  t.is((await texts(receiver, filler + 1)).at(-1), 'two')
  await sent[1]
  await t.throwsAsync(sender.send('three', { to, descriptors: [one], signal: controller.signal }), {
    name: 'AbortError'
  })
  t.false(one.closed)
  one.close()
  t.is(receiver.address, to)
  await closeSockets(receiver, sender)
})

const bounds: [option: string, limit: number, size: number, descriptors: number, fits: number][] = [
  ['maxQueued', 1000, 100, 0, 2],
  ['maxQueuedTotal', 1000, 100, 0, 2],
  ['maxQueuedDescriptors', 5, 0, 2, 2]
]
for (const [option, limit, size, descriptors, fits] of bounds)
  test(`${option}: what does not fit throws, and nothing has moved`, async t => {
    const receiver = await bind()
    const [to, sender] = [receiver.address!, unnamed({ [option]: limit })]
    fill(to as { abstract: string })
    const all: Descriptor[] = []
    const send = () => {
      const given = Array.from({ length: descriptors }, file)
      all.push(...given)
      void sender.send(Buffer.alloc(size), { to, descriptors: given })
    }
    for (let i = 0; i < fits; i++) send()
    const error = t.throws(send, code('QUEUE_FULL'))
    t.true(error.message.includes(option))
    t.is(sender.queued, fits)
    t.deepEqual(
      all.slice(fits * descriptors).filter(({ closed }) => closed),
      [],
      'those of the last one'
    )
    sender.destroy()
    for (const each of all) each.close()
    await receiver.close()
  })

test('what is queued is a copy: the caller may use its buffer again', async t => {
  const [receiver, sender] = await boundPair()
  const filler = fill(receiver.address as { abstract: string })
  const bytes = Buffer.from('before')
  const sent = sender.send(bytes, { to: receiver.address! })
  bytes.fill('x')
  t.is((await texts(receiver, filler + 1)).at(-1), 'before')
  await sent
  await closeSockets(receiver, sender)
})

for (const [name, errno] of [
  ['ENOBUFS', ENOBUFS],
  ['ETOOMANYREFS', ETOOMANYREFS]
] as const)
  test(`${name} is back pressure: it is tried again after a while, and other destinations go on`, async t => {
    const [receiver, sender] = await boundPair()
    const other = await bind()
    let failures = 3
    await patched(
      'sendMessage',
      original =>
        (...given) =>
          given[3] === 5 && failures-- > 0 ? errno : original(...given),
      async () => {
        const sent = sender.send('stuck', { to: receiver.address!, descriptors: [file()] })
        await sender.send('free', { to: other.address! })
        t.is(sender.queued, 1)
        await sent
      }
    )
    t.is(failures, -1)
    t.deepEqual(await texts(receiver, 1), ['stuck'])
    await closeSockets(receiver, sender, other)
  })

test('trap 19: too many references in flight, as an unprivileged user: all arrive', async t => {
  const receiver = await bind(abstractName(), { authorize: () => true })
  const running = startFixture('datagram-in-flight', [(receiver.address as { abstract: string }).abstract, '61920'])
  t.is(await running.line(), `${ETOOMANYREFS}`)
  let seen = 0
  for await (const { descriptors } of receiver) {
    t.is(descriptors.length, 8)
    if (++seen === 20) break
  }
  t.is(await running.line(), 'sent')
  t.is((await running.exit).code, 0)
  await receiver.close()
})

test('without a descriptor for a gauge it is tried again after a while', async t => {
  const [receiver, sender] = await boundPair()
  const filler = fill(receiver.address as { abstract: string })
  await patched(
    'socket',
    () => () => EMFILE,
    async () => {
      const sent = sender.send('x', { to: receiver.address! })
      t.is((await texts(receiver, filler + 1)).at(-1), 'x')
      await sent
    }
  )
  await closeSockets(receiver, sender)
})

test('gauges are few, and gone when nothing waits', async t => {
  const sender = unnamed()
  const receivers: DatagramSocket[] = []
  for (let i = 0; i < 80; i++) receivers.push(await bind())
  for (const { address } of receivers) fill(address as { abstract: string })
  const before = openDescriptors().size
  const sent = receivers.map(({ address }) => sender.send('x', { to: address! }))
  t.true(openDescriptors().size <= before + 64)
  await Promise.all(receivers.map(receiver => texts(receiver, 11)))
  await Promise.all(sent)
  t.is(openDescriptors().size, before)
  await closeSockets(sender, ...receivers)
})

test('EAGAIN that nothing explains does not spin', async t => {
  const [receiver, sender] = await boundPair()
  let count = 0
  await patched(
    'sendMessage',
    () => () => {
      count++
      return EAGAIN
    },
    async () => {
      void sender.send('x', { to: receiver.address! })
      const end = performance.now() + 100
      await until(() => performance.now() > end, 'a tenth of a second')
    }
  )
  t.true(count < 100, `${count} tries`)
  sender.destroy()
  await receiver.close()
})

test("trap 21: the descriptor is the socket's own from the call on, even while it waits", async t => {
  const [receiver, sender] = await boundPair()
  const filler = fill(receiver.address as { abstract: string })
  const given = Descriptor.openSync('/dev/null', 'r+')
  const inode = identity(given.borrow())
  const sent = sender.send('x', { to: receiver.address!, descriptors: [given] })
  t.throws(() => given.close(), code('DESCRIPTOR_MOVED'))
  let seen = 0
  for await (const { descriptors } of receiver)
    if (++seen > filler) {
      t.is(identity(descriptors[0]!.borrow()), inode)
      break
    }
  await sent
  await closeSockets(receiver, sender)
})

for (const [what, make] of [
  ['a gauge', async () => unnamed()],
  ['the socket itself', (to: { abstract: string }) => connect(to)]
] as const)
  test(`a queue that waits for ${what} again has not left the loop meanwhile`, async t => {
    const name = abstractName()
    const receiver = await bind(name)
    const sender = await make(name)
    const to = what === 'a gauge' ? { to: name } : {}
    const count = 100
    const seen: string[] = []
    receiver.on('message', ({ data }) => seen.push(data.toString()))
    let asked = 0
    await patched(
      'interest',
      original => (id, events) => {
        asked++
        return original(id, events)
      },
      async () => {
        for (const text of numbers(count)) void sender.send(text, to)
        await until(() => seen.length === count, 'all of them')
      }
    )
    t.deepEqual(seen, numbers(count))
    t.true(asked < count / 5, `${asked} calls`)
    await closeSockets(receiver, sender)
  })
