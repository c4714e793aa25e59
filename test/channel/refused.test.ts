/** Descriptors that the kernel refuses to pass: the message comes back with the system's error, and all others go on. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { sessionOf } from '../../src/channel/channel.ts'
import { type Channel, Connection, Descriptor, type Returned } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { DescriptorStream, PacketSocket } from '../../src/stream/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { startOnPair } from '../helpers/child.ts'
import { systemPython } from '../helpers/programs.ts'
import { Random } from '../helpers/random.ts'
import { frame, rawPair } from '../helpers/raw-peer.ts'
import { test, testInCi, until } from '../helpers/test.ts'

/** Numbers that the kernel is made to refuse: others in this process could get a number that was really closed. */
const poisoned = new Set<number>()

function refuses<Send extends 'send' | 'sendVector'>(name: Send): void {
  const original = native[name] as (...args: any[]) => number
  const at = name === 'send' ? 4 : 3
  native[name] = ((...args: any[]) => {
    const [fds, first, count] = args.slice(at)
    for (let i = first; i < first + count; i++) if (poisoned.has(fds[i])) return -22
    return original(...args)
  }) as never
}
refuses('send')
refuses('sendVector')

/** A Descriptor that the kernel will refuse once `spoil` was called. */
function bad(): { descriptor: Descriptor; spoil(): void } {
  const descriptor = file()
  const fd = descriptor.borrow()
  return { descriptor, spoil: () => void poisoned.add(fd) }
}

function closedBehind(): { descriptor: Descriptor; spoil(): void } {
  const descriptor = file()
  const fd = descriptor.borrow()
  return { descriptor, spoil: () => closeSync(fd) }
}

function collect(channel: Channel<any, any>): Returned<any>[] {
  const returned: Returned<any>[] = []
  channel.on('returned', each => {
    for (const descriptor of each.descriptors) if (!descriptor.closed) poisoned.delete(descriptor.borrow())
    returned.push(each.claim())
  })
  return returned
}

function arrivals(channel: Channel<any, any>): any[] {
  const values: any[] = []
  channel.on('message', ({ value, descriptors }) => {
    values.push(descriptors.length > 0 ? [value.n, ...descriptors.map(({ kind }) => kind)] : value)
  })
  return values
}

function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
}

const EINVAL = { code: 'EINVAL', syscall: 'sendmsg' }
const EBADF = { code: 'EBADF', syscall: 'sendmsg' }

/** Shapes of values: the first of each defines a record. */
const shapes: ((n: number, d: Descriptor) => Record<string, unknown>)[] = [
  (n, d) => ({ n, d }),
  (n, d) => ({ n, list: [{ d, inner: n }], text: 'x'.repeat(n) }),
  (n, d) => ({ n, map: new Map<string, unknown>([['d', d]]) }),
  (n, d) => ({ n, connection: d, [`key${n % 7}`]: { deep: { deeper: n } } }),
  (n, d) => ({ n, large: Buffer.alloc(100_000, n), d, after: { large: n } })
]
const full = process.env.PASSFD_TEST_FULL === '1'

for (const [what, options] of [
  ['records', {}],
  ['no records', { records: false }],
  ['little credit', { window: 2000 }]
] as const)
  test(`random messages, requests and answers, some refused: ${what}`, async t => {
    for (let seed = 1; seed <= (full ? 300 : 15); seed++) {
      const random = new Random(seed)
      const [left, right] = await connected({}, options as never)
      const returned = collect(left)
      const refusedAnswers = collect(right)
      const arrived: number[] = []
      const expected: number[] = []
      const back: number[] = []
      const answersBack: number[] = []
      const onError: number[] = []
      const make = (n: number, isRefused: boolean): Record<string, unknown> => {
        const { descriptor, spoil } = bad()
        if (isRefused) spoil()
        const value = random.draw([...shapes])(n, descriptor)
        return random.chance(0.2) ? { ...value, second: file() } : value
      }
      right.serve(
        ({ value, isRequest }) => {
          arrived.push(value.n)
          if (!isRequest) return
          const isRefused = random.chance(0.3)
          const answer = make(value.n, isRefused)
          if (isRefused) answersBack.push(value.n)
          return answer
        },
        { onError: (error, { value }) => void onError.push(t.like(error, EINVAL) ? (value as any).n : -1) }
      )
      const requests: Promise<void>[] = []
      for (let n = 0; n < 40; n++) {
        const isRefused = random.chance(0.3)
        const value = make(n, isRefused)
        ;(isRefused ? back : expected).push(n)
        if (random.chance(0.5)) left.send(value)
        else {
          const request = left.request<any>(value, { descriptors: 3, timeout: 0 })
          requests.push(
            request.then(
              reply => {
                t.is(reply.n, n)
                t.false(isRefused || answersBack.includes(n))
                const found = [
                  reply.d,
                  reply.second,
                  reply.connection,
                  reply.map?.get?.('d') ?? reply.map?.d,
                  reply.list?.[0].d
                ]
                for (const each of found) each?.close()
              },
              error => {
                if (isRefused) t.like(error, EINVAL)
                else {
                  t.true(answersBack.includes(n))
                  t.is(error.remote.code, 'EINVAL')
                }
              }
            )
          )
        }
        if (random.chance(0.3)) {
          left.send({ n: 1000 + n, plain: { n } })
          expected.push(1000 + n)
        }
        if (random.chance(0.1)) await turn()
      }
      await Promise.all(requests)
      await until(() => arrived.length === expected.length && returned.length === back.length, `all (${seed})`)
      t.deepEqual(arrived, expected, `seed ${seed}`)
      t.deepEqual(
        returned.map(({ value }) => value.n).sort((a, b) => a - b),
        back
      )
      await until(() => onError.length === answersBack.length, 'onError')
      t.deepEqual(refusedAnswers.map(({ value }) => value.n).sort(), [...answersBack].sort())
      for (const { descriptors, error, state } of [...returned, ...refusedAnswers]) {
        t.like(error, EINVAL)
        t.is(state, 'unsent')
        for (const each of descriptors) each[Symbol.dispose]()
      }
      poisoned.clear()
      await closeAll(left, right)
      t.deepEqual([await left.closed, await right.closed], [undefined, undefined])
    }
  })

test('a message whose descriptor was closed behind its back comes back; those of the same write arrive, in order', async t => {
  for (const records of [true, false]) {
    const [left, right] = await connected({ records } as never)
    const returned = collect(left)
    const values = arrivals(right)
    const { descriptor, spoil } = closedBehind()
    const kept = file()
    const value = { n: 2, descriptor, kept, shape: 'new' }
    left.send({ n: 1, file: file() })
    left.send(value)
    left.send('between')
    left.send({ n: 3, file: file() })
    left.send({ n: 4, descriptor: file(), kept: file(), shape: 'known' })
    spoil()
    await until(() => values.length === 4 && returned.length === 1, 'the others')
    t.deepEqual(values, [[1, 'device'], 'between', [3, 'device'], [4, 'device', 'device']])
    const [back] = returned
    t.is(back!.state, 'unsent')
    t.is(back!.value, value)
    t.like(back!.error, EBADF)
    t.true(descriptor.closed)
    t.false(kept.closed)
    kept.close()
    await closeAll(left, right)
    t.is(await left.closed, undefined)
  }
})

test('a Connection, a large body and 253 descriptors: each comes back whole, and its promise rejects', async t => {
  const [left, right] = await connected()
  const returned = collect(left)
  const values = arrivals(right)
  const [end, other] = Descriptor.socketpair()
  const many = Array.from({ length: 253 }, file)
  const large = file()
  for (const each of [end, many.at(-1)!, large]) poisoned.add(each.borrow())
  const connection = new Connection(end)
  left.send({ n: 1, connection })
  const sent = left.send({ n: 2, large, bytes: Buffer.alloc(1 << 20) })
  left.send({ n: 3, many })
  left.send('after')
  t.like(await sent.catch(error => error), EINVAL)
  await until(() => values.length === 1 && returned.length === 3, 'the rest')
  t.deepEqual(values, ['after'])
  t.deepEqual(
    returned.map(({ descriptors }) => descriptors.length),
    [0, 1, 253]
  )
  for (const each of [connection, large, ...many]) t.false(each.closed)
  poisoned.clear()
  for (const each of [connection, large, ...many, other]) each.close()
  await closeAll(left, right)
})

test('bytes that were given by reference may be changed once the message is back, though it defines records', async t => {
  const [left, right] = await connected()
  const returned = collect(left)
  const values = arrivals(right)
  for (let i = 0; i < 4; i++) left.send({ n: 0, filler: Buffer.alloc(2_000_000) }) // the socket is full for a while
  const { descriptor, spoil } = bad()
  const bytes = new Uint8Array(new ArrayBuffer(1 << 20))
  spoil()
  const sent = left.send({ n: 1, fresh: { shape: 1 }, descriptor, bytes })
  left.send({ n: 2, fresh: { shape: 2 } })
  const failed = sent.catch(error => error)
  right.on('message', () => {})
  t.like(await failed, EINVAL)
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
  await until(() => values.length === 5 && returned.length === 1, 'the others')
  descriptor.close()
  t.deepEqual(values[4], { n: 2, fresh: { shape: 2 } })
  await closeAll(left, right)
  t.is(await left.closed, undefined)
})

test('without listeners what is left of a refused message is closed', async t => {
  const [left, right] = await connected()
  const values = arrivals(right)
  const { descriptor, spoil } = bad()
  left.send({ n: 1, descriptor, other: file() })
  left.send('after')
  spoil()
  await until(() => values.length === 1, 'the next')
  poisoned.clear()
  t.deepEqual(values, ['after'])
  await closeAll(left, right)
})

test('the channel ends in the same turn: refused messages come back all the same, with their error', async t => {
  const [left, right] = await connected()
  const returned = collect(left)
  const { descriptor, spoil } = bad()
  const request = left.request({ descriptor })
  spoil()
  sessionOf(left).write()
  left.destroy()
  t.like(await request.catch(error => error), EINVAL)
  t.is(returned.length, 1)
  t.like(returned[0]!.error, EINVAL)
  descriptor.close()
  await Promise.all([left.closed, right.closed])
})

test('a peer that takes records and no frames of definitions: only a message that defines some ends the channel', async t => {
  const { channel, peer } = await rawPair({}, { features: ['records'], window: 1 << 20, maxDescriptors: 10 })
  const returned = collect(channel)
  const send = async (value: (descriptor: Descriptor) => unknown) => {
    const { descriptor, spoil } = bad()
    spoil()
    channel.send(value(descriptor))
    await turn()
  }
  await send(descriptor => [descriptor])
  t.is(returned.length, 1)
  channel.send({ known: 1 })
  await peer.next(1)
  await send(descriptor => ({ known: descriptor }))
  t.is(returned.length, 2)
  await send(descriptor => ({ unknown: descriptor }))
  t.like(await channel.closed, EINVAL)
  t.is(returned.length, 3)
  for (const { descriptors } of returned) descriptors[0]!.close()
  peer.close()
})

test('frames of definitions are checked', async t => {
  const value = Buffer.from('81a16101', 'hex')
  for (const [bytes, code] of [
    [frame(9, value), 'BAD_FRAME'],
    [frame(9, value, { flags: 8, id: 254 }), 'BAD_FRAME'],
    [frame(9, value, { flags: 8, count: 1 }), 'BAD_FRAME'],
    [frame(9, Buffer.from('d44600', 'hex'), { flags: 8, id: 0 }), 'DESCRIPTOR_COUNT'],
    [frame(9, Buffer.from('c1', 'hex'), { flags: 8 }), 'UNDECODABLE']
  ] as const) {
    const { channel, peer } = await rawPair({}, { features: ['records', 'definitions'] })
    peer.send(bytes)
    t.is(((await channel.closed) as any).code, `ERR_PASSFD_${code}`)
    peer.close()
  }
  const { channel, peer } = await rawPair({}, { features: ['records', 'definitions'] })
  const values = arrivals(channel)
  peer.send(frame(9, Buffer.from('92d47240 91a16b d44600 d44601'.replaceAll(' ', ''), 'hex'), { flags: 8, id: 2 }))
  peer.send(frame(1, Buffer.from('4007', 'hex'), { flags: 8 }))
  await until(() => values.length === 1, 'the message')
  t.deepEqual(values, [{ k: 7 }])
  channel.destroy()
  await channel.closed
  peer.close()
})

testInCi(
  'numbers that were really closed: a message, a request, a reply and what a handler returns; the channel goes on',
  async t => {
    for (const options of [{}, { records: false }]) {
      const [channel, { line, exit }] = await startOnPair('closed-behind-on-3', [], options)
      t.teardown(() => channel.destroy())
      const arrived: unknown[] = []
      channel.serve(({ value, descriptors }) => {
        arrived.push([value.n, ...descriptors.map(({ kind }) => kind)])
        return 'served'
      })
      const ask = (how: string, n: number) =>
        channel.request<any>({ how, n, shape: `shape${n % 3}` }, { descriptors: 2 })
      const said = async (count: number) => {
        const lines: unknown[] = []
        while (lines.length < count) lines.push(JSON.parse(await line()))
        return lines
      }
      const back = (n: number) => ['returned', n, 'unsent', 'EBADF', 'closed', 'device']
      for (let n = 1; n <= 8; n++) {
        t.is(await ask('request', n), 'EBADF')
        t.deepEqual(await said(1), [back(n)])
        t.is(await ask('send', n), 'sent')
        t.deepEqual(await said(1), [back(n)])
        for (const how of ['reply', 'return']) {
          const error: any = await t.throwsAsync(ask(how, n), { code: 'ERR_PASSFD_REMOTE' })
          t.is(error.remote.code, 'EBADF')
          const lines = await said(2)
          const own = how === 'reply' ? ['reply', n, 'resolved'] : ['onError', n, 'EBADF']
          t.deepEqual(lines.map(String).sort(), [own, back(n)].map(String).sort())
        }
      }
      await until(() => arrived.length === 8, 'what is whole')
      t.deepEqual(
        arrived,
        Array.from({ length: 8 }, (_, index) => [-index - 1, 'device'])
      )
      await channel.close()
      t.deepEqual(await said(1), [['closed', null]])
      t.like(await exit, { code: 0, stderr: '' })
    }
  }
)

test("streams, packets and datagrams: what the kernel refuses is the sender's again, but not a number that somebody else has closed", async t => {
  const child = spawn(process.execPath, [fixturePath('closed-behind.mjs')], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.deepEqual((await text(child.stdout)).trim().split('\n'), [
    'stream EBADF closed open',
    'y',
    'packet EBADF closed open',
    '4',
    'datagram EBADF closed open',
    '30'
  ])
})

test('a packet that is too large comes back with its descriptors; a stream without a callback ends, and closes them', async t => {
  const [socket, other] = Descriptor.socketpair({ type: 'seqpacket' })
  const packets = PacketSocket.from(socket)
  const descriptor = file()
  const list = [descriptor]
  const sent = packets.send(Buffer.alloc(4 << 20), list)
  list.pop()
  t.like(await sent.catch(error => error), { code: 'EMSGSIZE' })
  t.false(descriptor.closed)
  await packets.send('again', [descriptor])
  t.true(descriptor.closed)
  packets.destroy()
  other.close()

  const [end, peer] = Descriptor.socketpair()
  const stream = DescriptorStream.from(end)
  const { descriptor: refused, spoil } = bad()
  spoil()
  stream.writeWithDescriptors('x', [refused])
  t.is((await once(stream, 'error'))[0].code, 'EINVAL')
  t.true(refused.closed)
  poisoned.clear()
  peer.close()
})

test("a stream that is destroyed after the refusal: the callback tells of the refusal, and the descriptors are the writer's", async t => {
  const [end, peer] = Descriptor.socketpair()
  const stream = DescriptorStream.from(end)
  const { descriptor, spoil } = bad()
  spoil()
  stream.cork()
  stream.write(Buffer.alloc(4 << 20)) // the socket is full
  stream.uncork()
  stream.cork()
  const refused = new Promise<any>(resolve => stream.writeWithDescriptors('x', [descriptor], resolve))
  stream.write(Buffer.alloc(4 << 20))
  stream.uncork()
  DescriptorStream.from(peer).resume()
  await until(() => !descriptor.closed, 'the refusal')
  stream.destroy()
  t.like(await refused, EINVAL)
  poisoned.clear()
  descriptor.close()
})

test('an io_uring, which the kernel passes to nobody', async t => {
  const child = spawn(systemPython, ['-c', RING, process.execPath, fixturePath('ring-on-9.mjs')], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const output = await text(child.stdout)
  t.deepEqual(output.trim().split('\n'), [
    'stream ring EINVAL false false',
    'packet ring EINVAL false',
    'datagram ring EINVAL',
    'returned unsent EINVAL other',
    'request EINVAL',
    'onError EINVAL',
    'fault EINVAL',
    'arrived 1 3 4',
    'closed undefined'
  ])
})

const RING = `
import ctypes, os, sys
ring = ctypes.CDLL(None, use_errno=True).syscall(425, 4, ctypes.create_string_buffer(512))
if ring < 0: sys.exit('no io_uring')
os.dup2(ring, 9)
os.execv(sys.argv[1], sys.argv[1:])
`
