/** A channel as a whole: round trips, its end, values. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { ENOMEM, EPERM, ETOOMANYREFS } from '../../src/base/errno.ts'
import { type Channel, type ChannelOptions, connect, Descriptor, listen, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, codeError, connected, file, nextMessage, patched } from '../helpers/channels.ts'
import { startOnPair, stop } from '../helpers/child.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { rawPair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

/** The longest time limit, in ms. */
const NEVER = 0x7fffffff

test('a request with a descriptor is answered with one', async t => {
  const server = await listen(socketPath())
  server.serve(({ value }) => {
    const { file } = value as { file: Descriptor }
    return { kind: file.kind, back: file }
  })
  const channel = await connect<unknown, unknown>(server.address)
  const file = await Descriptor.open('/etc/hostname')
  const reply = await channel.request<{ kind: string; back: Descriptor }>({ file })
  t.is(reply.kind, 'file')
  t.is(readFileSync(reply.back.borrow(), 'utf8'), readFileSync('/etc/hostname', 'utf8'))
  t.true(file.closed)
  t.throws(() => file.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_MOVED' })
  reply.back.close()
  await channel.close()
  t.is(await channel.closed, undefined)
  await server.close()
})

// --- the end

test('close waits for answers, for the queue and for descriptors to be taken', async t => {
  const [left, right] = await connected({}, { window: 1 })
  let answer!: (value: string) => void
  right.on('message', message => {
    if (message.isRequest) answer = value => message.reply(value)
    else for (const descriptor of message.claim().descriptors) descriptor.close()
  })
  const request = left.request('question')
  for (let i = 0; i < 5; i++) left.send(file())
  let ended = false
  const closing = left.close().then(() => (ended = true))
  await until(() => answer !== undefined, 'the question')
  await turn()
  t.false(ended)
  answer('answer')
  t.is(await request, 'answer')
  await closing
  t.is(await left.closed, undefined)
  t.is(await right.closed, undefined)
})

test('close gives up after closeTimeout, and what is left comes back', async t => {
  const [channel, child] = await startOnPair('read-on-3', [], { closeTimeout: 50 })
  await stop(child)
  const states: string[] = []
  channel.on('returned', ({ state }) => states.push(state))
  await channel.send(file())
  const request = channel.request('never answered')
  await channel.close()
  const error: any = await channel.closed
  t.is(error.code, 'ERR_PASSFD_CLOSE_TIMEOUT')
  t.regex(error.message, /50 ms/)
  t.deepEqual(states, ['unconfirmed'])
  t.is((await t.throwsAsync(request, codeError('CLOSED'))).cause, error)
  child.child.kill('SIGKILL')
  await child.exit
})

test('where the system refuses shutdown(2), close() waits for no time limit', async t => {
  const [near, far] = await connected({ closeTimeout: NEVER }, { closeTimeout: NEVER })
  await patched(
    'shutdown',
    original => (fd, how) => (how === 1 ? EPERM : original(fd, how)),
    () => closeAll(near, far)
  )
  t.deepEqual([await near.closed, await far.closed], [undefined, undefined])
})

for (const [code, errno] of Object.entries({ ETOOMANYREFS, ENOMEM }))
  test(`${code} that lasts is the cause of the time limits' errors`, async t => {
    const [left, right] = await connected({ closeTimeout: 50 })
    const refusing =
      (original: typeof native.send): typeof native.send =>
      (...args) =>
        args[6] > 0 ? errno : original(...args)
    await patched('send', refusing, async () => {
      const late: any = await t.throwsAsync(left.request({ file: file() }, { timeout: 20 }), codeError('TIMEOUT'))
      t.like(late.cause, { code, errno, syscall: 'sendmsg' })
      t.regex(late.message, new RegExp(`within 20 ms .*${code}`))
      void left.send(file())
      await left.close()
    })
    const error: any = await left.closed
    t.is(error.code, 'ERR_PASSFD_CLOSE_TIMEOUT')
    t.is(error.cause.code, code)
    await right.closed
    // Without it the errors are as they were
    const [near, far] = await connected()
    const silent: any = await t.throwsAsync(near.request('ask', { timeout: 20 }), codeError('TIMEOUT'))
    t.is(silent.cause, undefined)
    t.regex(silent.message, /within 20 ms[.]/)
    near.destroy()
    await far.closed
  })

test("the list of no descriptors is everybody's, and nobody can put anything into it", async t => {
  const [left, right] = await connected()
  void left.send('nothing with it')
  const { descriptors } = await nextMessage(right)
  t.throws(() => (descriptors as unknown[]).push('mine'), { instanceOf: TypeError })
  void left.send('nor with this')
  t.deepEqual((await nextMessage(right)).descriptors, [])
  await closeAll(left, right)
})

test('both ends may close at once, and as often as they like', async t => {
  const [left, right] = await connected()
  const closing = [left.close(), right.close(), left.close(), right[Symbol.asyncDispose]()]
  await Promise.all(closing)
  await left.close()
  t.is(await left.closed, undefined)
  t.is(await right.closed, undefined)
})

test('destroy tells the peer the error’s code; closed and close tell both sides', async t => {
  for (const given of [undefined, Object.assign(new Error('why'), { code: 'ERR_WHY' })]) {
    const [left, right] = await connected()
    const told = [once(left, 'close'), once(right, 'close')]
    const request = right.request('unanswered')
    left.destroy(given)
    left.destroy(new Error('too late'))
    t.is(await left.closed, given)
    const error: any = await right.closed
    t.is(error.code, 'ERR_PASSFD_PEER')
    t.is(error.remote.code, given === undefined ? 'ERR_PASSFD_DESTROYED' : 'ERR_WHY')
    t.is((await t.throwsAsync(request, codeError('CLOSED'))).cause, error)
    t.deepEqual(await Promise.all(told), [given === undefined ? [] : [given], [error]])
    t.is(await left.closed, given) // asked for after the end, too
  }
})

test('a last word that nobody hears keeps no process alive', async t => {
  const { channel, peer } = await rawPair({ closeTimeout: 60_000 })
  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  peer.send(Buffer.alloc(12, 0xff))
  peer.close()
  t.is(((await channel.closed) as any).code, 'ERR_PASSFD_BAD_FRAME')
  t.is(timers(), before)
})

// --- values

const values: Record<string, unknown> = {
  null: null,
  undefined: undefined,
  numbers: [0, -1, 1.5, 2 ** 31, 2 ** 53 - 1, -(2 ** 53) + 1, Number.NaN, Number.POSITIVE_INFINITY],
  strings: ['', 'ascii', 'ünïcödé 🎉', 'x'.repeat(70_000)],
  date: [new Date(0), new Date('2024-02-29T12:34:56.789Z'), new Date(-1)],
  map: new Map<unknown, unknown>([
    ['key', 1],
    [2, new Map([[true, null]])]
  ]),
  set: new Set([1, 'two', new Set([3])]),
  bigint: [0n, -1n, 2n ** 63n - 1n, 2n ** 64n, -(2n ** 200n)],
  buffer: [Buffer.from('buffer'), Buffer.alloc(0), Buffer.alloc(100_000, 1)],
  arrays: [
    new Uint8Array([1, 2]),
    new Uint8ClampedArray([3]),
    new Int8Array([-1]),
    new Int16Array([-2, 2]),
    new Uint16Array([4]),
    new Int32Array([-3]),
    new Uint32Array([5]),
    new Float32Array([1.5]),
    new Float64Array([2.5, -2.5]),
    new BigInt64Array([-6n]),
    new BigUint64Array([7n]),
    new Float64Array(20_000)
  ],
  records: [
    { a: 1, b: { c: [2] } },
    { a: 3, b: { c: [4] } },
    { 'odd key': 1, __proto__x: 2 }
  ]
}

for (const [name, value] of Object.entries(values))
  test(`values between two passfd ends: ${name}`, async t => {
    const [left, right] = await connected()
    right.serve(message => message.value)
    // Ava's own comparison takes a third of a second for what is long
    t.true(isDeepStrictEqual(await left.request(value), value))
    const answer = await left.request({ again: value, file: file() }, { descriptors: 1 }).then(close)
    t.true(isDeepStrictEqual(answer, { again: value, file: true }))
    await closeAll(left, right)
  })

function close(value: any): object {
  value.file.close()
  return { ...value, file: value.file.closed }
}

test('values towards a peer without records: standard msgpack', async t => {
  const options: ChannelOptions[] = [{ records: false }, {}]
  for (const [mine, theirs] of [options, [...options].reverse()]) {
    const [left, right] = await connected(mine, theirs)
    right.serve(({ value }) => value)
    const plain = { list: [1, 'two', null, true, 2.5], bytes: Buffer.from('b'), date: new Date(5), deep: { er: {} } }
    t.deepEqual(await left.request(plain), plain)
    t.deepEqual(await left.request(new Map([['key', 1]])), { key: 1 })
    t.deepEqual(await left.request(new Int16Array([1, 2])), Buffer.from(new Int16Array([1, 2]).buffer))
    await closeAll(left, right)
  }
})

test('two worker threads with channels each', async t => {
  const child = startFixture('workers', [socketPath()])
  t.is(await child.line(), '[5050,4950]')
  t.is(await child.line(), '0', 'sockets or files are left open')
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('many channels that write in one turn do not all wait for its end', async t => {
  const channels: Channel[] = []
  const numbers: Descriptor[] = []
  for (let i = 0; i < 200; i++) {
    const [channel, theirs] = pair()
    numbers.push(theirs.dup())
    channels.push(channel, await connect(theirs))
  }
  const senders = channels.filter((_, index) => index % 2 === 0)
  const receivers = channels.filter((_, index) => index % 2 === 1)
  await until(() => senders.every(({ peer }) => peer.agent !== ''), 'the hellos')
  const got = receivers.map(receiver => nextMessage(receiver))
  for (const [index, sender] of senders.entries()) void sender.send({ index })
  const early = numbers.filter(number => native.pending(number.borrow()) > 0).length
  t.true(early >= 128 && early < 200, `${early} of 200`)
  t.deepEqual(
    (await Promise.all(got)).map(({ value }) => value),
    senders.map((_, index) => ({ index }))
  )
  for (const number of numbers) number.close()
  await closeAll(...channels)
})

test('an array that has more items than the message may have bytes is refused before it is looked at', async t => {
  for (const records of [true, false]) {
    const [left, right] = await connected({ records })
    let reads = 0
    const sparse: number[] = []
    sparse[5e7] = 1
    const long = new Proxy([], {
      get(target, key) {
        if (key === 'length') return 5e7
        if (typeof key === 'string' && /^\d/.test(key)) reads++
        return Reflect.get(target, key)
      }
    })
    const descriptor = file()
    const tooLarge = { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' }
    for (const value of [sparse, { deep: [sparse] }, [long], new Set([long]), { list: long, descriptor }]) {
      t.throws(() => left.send(value), tooLarge)
      t.throws(() => left.request(value), tooLarge)
    }
    right.serve(({ value }) => {
      if (value === 'fail') throw Object.assign(new Error('no'), { data: { long } })
      return value === 'answer' ? { long } : 'fine'
    })
    t.like(((await t.throwsAsync(left.request('answer'))) as any).remote, tooLarge)
    const failed: any = await t.throwsAsync(left.request('fail'))
    t.deepEqual(failed.remote, { code: 'Error', message: 'no' })
    t.is(await left.request(Array.from({ length: 100_000 }, () => 1)), 'fine')
    t.is(reads, 0)
    t.false(descriptor.closed)
    descriptor.close()
    await closeAll(left, right)
  }
  const [early, end] = pair<any, any>({ maxQueued: 1000 })
  t.throws(() => early.send(new Array(1001)), { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE', message: /maxQueued/ })
  early.destroy()
  end.close()
})
