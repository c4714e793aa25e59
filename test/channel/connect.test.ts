import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ChannelOptions, connect, Descriptor, listen, type PassfdError, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected, file, nextMessage, patched } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { NOBODY, publicDirectory } from '../helpers/public.ts'
import { GOODBYE, goodbye, HELLO, hello, RawPeer } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const EPERM = -1

/** A listener that accepts, and leaves everything else to the test. */
class RawListener {
  readonly path = socketPath()
  readonly fd = native.socket(1)

  constructor() {
    native.bind(this.fd, Buffer.from(this.path), 0o600)
    native.listen(this.fd, 5)
  }

  async accept(): Promise<RawPeer> {
    let fd = -1
    await until(() => (fd = native.accept(this.fd)) >= 0, 'a connection')
    return new RawPeer(fd)
  }

  close(): void {
    native.close(this.fd)
  }
}

test('pair: one end goes into a child’s stdio', async t => {
  const [channel, end] = pair<any, any>()
  // What is sent before the child has started waits for it
  const sent = channel.request<any>({ file: await Descriptor.open('/etc/hostname') })
  const child = startFixture('answer-on-3', [], { stdio: ['pipe', 'pipe', 'pipe', end.borrow()] })
  end.close()
  const { text, back } = await sent
  t.is(text, readFileSync('/etc/hostname', 'utf8'))
  t.is(back.kind, 'file')
  t.true(readFileSync(back.borrow(), 'utf8').length > 0)
  back.close()
  await channel.close()
  t.is(await channel.closed, undefined)
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('pair: one end goes into a message', async t => {
  const [left, right] = await connected()
  const [mine, end] = pair<any, any>()
  await left.send({ end })
  const { value } = await nextMessage(right)
  const theirs = await connect<any, any>(value.end)
  t.true(value.end.closed)
  theirs.serve(({ value }) => value + 1)
  t.is(await mine.request(1), 2)
  await closeAll(mine, theirs)
  await closeAll(left, right)
})

test('pair: an end that nobody takes up ends the channel when it is closed', async t => {
  const [channel, end] = pair()
  const states: string[] = []
  channel.on('returned', ({ state }) => states.push(state))
  const sending = channel.send(file())
  end.close()
  t.is(((await channel.closed) as PassfdError).code, 'ERR_PASSFD_DISCONNECTED')
  t.deepEqual(states, ['unsent'])
  await sending // it was below the mark
})

const values = {
  list: [1, 'two', null, true],
  map: { nested: { deep: 1.5 } },
  bytes: Buffer.from('bytes'),
  date: new Date(0)
}

for (const records of [true, false]) {
  const what = records ? 'with' : 'without'

  test(`pair: what was sent before the other end exists arrives at a peer ${what} records`, async t => {
    const [left, end] = pair<any, any>()
    const large = Buffer.alloc(100_000, 7)
    const sent = [left.send(values), left.send({ file: file(), values }), left.send({ large, file: file() })]
    const answer = left.request({ files: [file(), file()] })
    const right = await connect<any, any>(end, { records })
    const arrived: any[] = []
    for await (const message of right) {
      arrived.push(message.claim())
      if (message.isRequest) {
        await message.reply('answer')
        break
      }
    }
    await Promise.all(sent)
    t.is(await answer, 'answer')
    t.deepEqual(arrived[0].value, values)
    t.deepEqual(arrived[1].value.values, values)
    t.is(arrived[1].value.file, arrived[1].descriptors[0])
    t.true(large.equals(arrived[2].value.large))
    t.deepEqual(arrived[3].value.files, arrived[3].descriptors)
    for (const { descriptors } of arrived)
      for (const descriptor of descriptors) {
        t.is(descriptor.kind, 'device')
        descriptor.close()
      }
    await closeAll(left, right)
    t.is(await left.closed, undefined)
  })

  test(`pair: what is too much for a peer ${what} records comes back`, async t => {
    const [left, end] = pair<any, any>()
    const returned: any[] = []
    left.on('returned', given => returned.push(given.claim()))
    const tooLarge = left.send({ large: Buffer.alloc(70_000), file: file() })
    const tooMany = left.send([file(), file(), file()])
    const request = left.request(Buffer.alloc(1001))
    await left.send(Buffer.alloc(997))
    const right = await connect<any, any>(end, { records, maxMessage: 1000, maxDescriptors: 2 })
    t.is((await nextMessage(right)).value.length, 997)
    await t.throwsAsync(request, { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' })
    await t.throwsAsync(tooLarge, { code: 'ERR_PASSFD_MESSAGE_TOO_LARGE' })
    await tooMany // it was below the mark: 'returned' tells
    t.deepEqual(
      returned.map(({ state, descriptors }) => [state, descriptors.length]),
      [
        ['unsent', 1],
        ['unsent', 3]
      ]
    )
    for (const { descriptors } of returned) for (const descriptor of descriptors) descriptor.close()
    await closeAll(left, right)
  })
}

test('connect takes a Descriptor of a connected Unix stream socket, and of nothing else', async t => {
  const [one, two] = Descriptor.socketpair()
  const [left, right] = await Promise.all([connect<any, any>(one), connect<any, any>(two)])
  t.true(one.closed)
  t.throws(() => one.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_MOVED' })
  right.serve(({ value }) => value)
  t.is(await left.request('echo'), 'echo')
  await closeAll(left, right)
  for (const wrong of [file(), await Descriptor.bind({ path: socketPath() }), await Descriptor.bind({ port: 0 })]) {
    await t.throwsAsync(connect(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
    t.false(wrong.closed)
    wrong.close()
    await t.throwsAsync(connect(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  }
})

test('the channel’s own socket can’t be sent through it', async t => {
  const [channel, end] = pair<any, any>()
  const copy = end.dup()
  t.throws(() => channel.send(end), { code: 'ERR_PASSFD_OWN_SOCKET' })
  t.throws(() => channel.send({ deep: [copy] }), { code: 'ERR_PASSFD_OWN_SOCKET' })
  t.false(end.closed)
  const other = await connect<any, any>(end)
  t.throws(() => other.send(copy), { code: 'ERR_PASSFD_OWN_SOCKET' })
  copy.close()
  await closeAll(channel, other)
})

const refusals: [string, ChannelOptions['authorize'], string][] = [
  ['refuses', () => false, 'UNAUTHORIZED'],
  ['refuses later', async () => false, 'UNAUTHORIZED'],
  ['answers with something else than true', () => 1 as never, 'UNAUTHORIZED'],
  [
    'throws',
    () => {
      throw new Error('secret')
    },
    'AUTHORIZE_FAILED'
  ],
  ['rejects', () => Promise.reject(new Error('secret')), 'AUTHORIZE_FAILED']
]

for (const [title, authorize, name] of refusals)
  test(`connect: authorize ${title}`, async t => {
    const code = `ERR_PASSFD_${name}`
    const server = await listen(socketPath())
    const refused = once(server, 'refused')
    const error = await t.throwsAsync(connect(server.address, { authorize: authorize! }), { code })
    if (name === 'AUTHORIZE_FAILED') t.is((error.cause as Error).message, 'secret')
    // The listener hears why, but nothing of what authorize threw
    const [peer, told] = await refused
    t.is(peer.pid, process.pid)
    t.is(told.code, 'ERR_PASSFD_PEER')
    t.is(told.remote.code, code)
    t.notRegex(JSON.stringify(told.remote), /secret/)
    await server.close()
  })

test('connect: authorize is asked with the peer, and may take its time', async t => {
  const server = await listen(socketPath())
  const channel = await connect(server.address, {
    async authorize(peer) {
      t.like(peer, { pid: process.pid, uid: process.getuid!(), agent: '' })
      await new Promise(resolve => setImmediate(resolve))
      return true
    }
  })
  t.is(channel.peer.pid, process.pid)
  await channel.close()
  await server.close()
})

test('connect: a listener of another user is refused, unless authorize lets it in', async t => {
  const path = join(publicDirectory(), 'socket')
  const child = startFixture('listen-as', [`${NOBODY}`, path])
  t.is(await child.line(), 'listening')
  const told = { code: 'ERR_PASSFD_PEER', remote: { code: 'ERR_PASSFD_UNAUTHORIZED' } }
  for (const options of [{}, { authorize: () => false }]) {
    const error = await t.throwsAsync(connect(path, options), { code: 'ERR_PASSFD_UNAUTHORIZED' })
    t.regex(error.message, new RegExp(`Process ${child.child.pid} of user ${NOBODY} `))
    t.like(JSON.parse(await child.line()), told)
  }
  const channel = await connect(path, { authorize: ({ uid }) => uid === NOBODY })
  t.is(channel.peer.pid, child.child.pid!)
  await channel.close()
  child.child.stdin!.end()
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('connect: until authorize has answered the kernel takes no descriptor from the listener', async t => {
  const listener = new RawListener()
  let allow!: (answer: boolean) => void
  const connecting = connect<any>(listener.path, { authorize: () => new Promise(resolve => (allow = resolve)) })
  const peer = await listener.accept()
  const descriptor = file()
  const bytes = hello()
  const send = () => native.send(peer.fd, bytes, 0, bytes.length, Int32Array.of(descriptor.borrow()), 0, 1)
  t.is(send(), EPERM)
  allow(true)
  await peer.start().next(HELLO)
  t.is(send(), bytes.length)
  const channel = await connecting
  channel.destroy()
  await channel.closed
  peer.close()
  descriptor.close()
  listener.close()
})

test('connect: a listener that lets in and then says nothing, or goes away, or refuses', async t => {
  const listener = new RawListener()
  const silent = t.throwsAsync(connect(listener.path, { handshakeTimeout: 50 }), {
    code: 'ERR_PASSFD_HANDSHAKE_TIMEOUT',
    message: /50 ms/
  })
  const peer = (await listener.accept()).start()
  await silent
  t.is((await peer.next(GOODBYE)).value.code, 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  peer.close()

  const left = connect(listener.path)
  ;(await listener.accept()).close()
  await t.throwsAsync(left, { code: 'ERR_PASSFD_DISCONNECTED' })

  const refused = connect(listener.path)
  const refusing = await listener.accept()
  refusing.send(goodbye('ERR_SOMETHING', 'not you'))
  const error = await t.throwsAsync(refused, { code: 'ERR_PASSFD_PEER', message: /ERR_SOMETHING: not you/ })
  t.deepEqual((error as PassfdError).remote, { code: 'ERR_SOMETHING', message: 'not you' })
  refusing.close()

  const dismissed = connect(listener.path)
  const dismissing = await listener.accept()
  dismissing.send(goodbye())
  await t.throwsAsync(dismissed, { code: 'ERR_PASSFD_REFUSED' })
  dismissing.close()
  listener.close()
})

test('connect: a signal ends the attempt, at any stage of it, and nothing afterwards', async t => {
  const listener = new RawListener()
  const options = { name: 'AbortError', code: 'ABORT_ERR' }
  await t.throwsAsync(connect(listener.path, { signal: AbortSignal.abort('before') }), options)
  t.is(native.accept(listener.fd), -11)

  const authorizing = new AbortController()
  const first = connect(listener.path, { signal: authorizing.signal, authorize: () => new Promise(() => {}) })
  const unasked = (await listener.accept()).start()
  authorizing.abort('authorizing')
  t.is((await t.throwsAsync(first, options)).cause, 'authorizing')
  await unasked.ended
  t.deepEqual(unasked.rest(), [])

  const greeting = new AbortController()
  const second = connect(listener.path, { signal: greeting.signal })
  const unanswered = (await listener.accept()).start()
  await unanswered.next(HELLO)
  greeting.abort('greeting')
  t.is((await t.throwsAsync(second, options)).cause, 'greeting')
  await unanswered.ended

  const late = new AbortController()
  const third = connect<any, any>(listener.path, { signal: late.signal })
  const answered = (await listener.accept()).start()
  answered.send(hello())
  const channel = await third
  late.abort()
  await channel.send('still there')
  await answered.next(1)
  channel.destroy()
  for (const peer of [unasked, unanswered, answered]) peer.close()
  await channel.closed
  listener.close()
})

test('connect: a signal that lives on keeps nothing of it', async t => {
  const server = await listen(socketPath())
  const { signal } = new AbortController()
  let listening = 0
  const { addEventListener, removeEventListener } = AbortSignal.prototype
  AbortSignal.prototype.addEventListener = function (...args: any) {
    if (this === signal) listening++
    return addEventListener.apply(this, args)
  }
  AbortSignal.prototype.removeEventListener = function (...args: any) {
    if (this === signal) listening--
    return removeEventListener.apply(this, args)
  }
  try {
    const channel = await connect(server.address, { signal, authorize: async () => true })
    t.is(listening, 0)
    await channel.close()
  } finally {
    Object.assign(AbortSignal.prototype, { addEventListener, removeEventListener })
  }
  await server.close()
})

test('connect: a channel that ends with the very read that opened it is told of to whoever awaits it', async t => {
  const listener = new RawListener()
  const connecting = connect<any, any>(listener.path)
  const peer = await listener.accept()
  peer.send(Buffer.concat([hello(), goodbye('ERR_SHORT', 'too short')]))
  const channel = await connecting
  const [error] = await once(channel, 'close')
  t.is(error.remote.code, 'ERR_SHORT')
  t.is(await channel.closed, error)
  peer.close()
  listener.close()
})

test('connect: options are checked before anything happens', async t => {
  const [one, two] = Descriptor.socketpair()
  const wrong: ChannelOptions<any>[] = [
    { maxMessage: 0 },
    { handshakeTimeout: -1 },
    { authorize: true as never },
    { signal: {} as never },
    { schema: {} as never },
    null as never
  ]
  for (const options of wrong) await t.throwsAsync(connect(one, options), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.throws(() => pair({ window: 0 }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  t.false(one.closed)
  one.close()
  two.close()
})

test('unref: servers and channels that are unref’ed keep no process alive', async t => {
  const child = startFixture('unref')
  t.is(await child.line(), 'ABORT_ERR')
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('ref: a server keeps its process alive', async t => {
  const abstract = `passfd-ref-${Math.random()}`
  const child = startFixture('ref', ['server', abstract])
  t.is(await child.line(), 'ref’ed')
  const channel = await connect({ abstract })
  t.is(await channel.request('are you?'), 'still there')
  t.like(await child.exit, { code: 0, stderr: '' })
  await channel.closed
})

test('ref: a channel keeps its process alive', async t => {
  const [channel, end] = pair()
  const child = startFixture('ref', ['channel'], { stdio: ['pipe', 'pipe', 'pipe', end.borrow()] })
  end.close()
  t.is(await child.line(), 'ref’ed')
  t.is(await channel.request('are you?'), 'still there')
  t.like(await child.exit, { code: 0, stderr: '' })
  await channel.closed
})

test('a close that hangs in the kernel doesn’t keep connect from failing', async t => {
  // The wire is given to the helper thread; only that matters here
  const listener = new RawListener()
  const given: number[] = []
  await patched(
    'closeLater',
    closeLater => (fds, start, count, tag) => {
      given.push(...fds.subarray(start, start + count))
      return closeLater(fds, start, count, tag)
    },
    async () => {
      await t.throwsAsync(connect(listener.path, { authorize: () => false }), { code: 'ERR_PASSFD_UNAUTHORIZED' })
    }
  )
  t.is(given.length, 1)
  listener.close()
})
