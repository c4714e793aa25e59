import diagnostics from 'node:diagnostics_channel'
import { getEventListeners, once } from 'node:events'
import { closeSync, existsSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  type Channel,
  ChannelServer,
  connect,
  Descriptor,
  type ListenOptions,
  listen,
  type PassfdError
} from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connectAll, file, patched } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { start, startFixture } from '../helpers/process.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { CREDIT, GOODBYE, HELLO, hello, message, places, RawPeer } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const EAGAIN = -11
const EPERM = -1

test('a server tells of its channels, and has them while they are open', async t => {
  const path = socketPath()
  const server = await listen(path)
  t.is(server.address, path)
  t.is(server.channels.size, 0)
  const told: Channel[] = []
  server.on('channel', channel => told.push(channel))
  const [first, second] = await connectAll(server, 2)
  t.deepEqual([...server.channels], told)
  await first!.close()
  await until(() => server.channels.size === 1, 'the end of the first')
  t.is([...server.channels][0], told[1]!)
  await second!.close()
  await server.close()
})

test('channels one by one: those that nobody has seen come first', async t => {
  const server = await listen(socketPath())
  const early = await connectAll(server, 2)
  const seen: Channel<any, any>[] = []
  for await (const channel of server) {
    seen.push(channel)
    if (seen.length === 2) early.push(...(await connectAll(server, 1)))
    if (seen.length === 3) break
  }
  t.deepEqual(seen, [...server.channels])
  // After break they wait for the next loop
  early.push(...(await connectAll(server, 1)))
  const iterator = server[Symbol.asyncIterator]()
  t.is((await iterator.next()).value, [...server.channels][3]!)
  const waiting = iterator.next()
  await server.close()
  t.deepEqual(await waiting, { done: true, value: undefined })
  t.deepEqual(await iterator.next(), { done: true, value: undefined })
  for await (const channel of server) t.fail(`${channel.peer.pid} came after the end`)
  await Promise.all(early.map(({ closed }) => closed))
})

test('leaving the loop lets whoever waits go', async t => {
  const server = await listen(socketPath())
  const iterator = server[Symbol.asyncIterator]()
  t.is(iterator[Symbol.asyncIterator](), iterator)
  const waiting = iterator.next()
  await iterator.return!()
  t.deepEqual(await waiting, { done: true, value: undefined })
  await server.close()
})

test('serve takes every channel, present and to come, and once', async t => {
  const server = await listen<any, any>(socketPath())
  const [present] = await connectAll(server, 1)
  const early = present!.request('early')
  server.serve(({ value, channel }) => [value, server.channels.has(channel)])
  const [later] = await connectAll(server, 1)
  t.deepEqual(await early, ['early', true])
  t.deepEqual(await later!.request('later'), ['later', true])
  t.throws(() => server.serve(() => {}), { code: 'ERR_PASSFD_CONSUMED' })
  const [mine] = [...server.channels]
  t.throws(() => mine!.serve(() => {}), { code: 'ERR_PASSFD_CONSUMED' })
  await server.close()
  await Promise.all([present!.closed, later!.closed])
})

test('serve passes its options on, and checks them at the call', async t => {
  const server = await listen(socketPath())
  const wrong: [unknown, object?][] = [
    [undefined],
    [{}],
    [() => {}, { concurrency: 0 }],
    [() => {}, { concurrency: 1.5 }],
    [() => {}, { onError: 'log' }]
  ]
  for (const [handler, options] of wrong)
    t.throws(() => server.serve(handler as never, options), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  const failed = new Promise<Error>(resolve => {
    server.serve(
      () => {
        throw new Error('no')
      },
      { onError: resolve }
    )
  })
  const [channel] = await connectAll(server, 1)
  await channel!.send('hello')
  t.is((await failed).message, 'no')
  t.is(server.channels.size, 1)
  await server.close()
  await channel!.closed
})

test('close ends the channels with a goodbye, removes the file, and tells', async t => {
  const path = socketPath()
  const server = await listen(path)
  const channels = await connectAll(server, 3)
  let told = 0
  server.on('close', error => {
    t.is(error, undefined)
    told++
  })
  const closing = server.close()
  t.is(server.close(), closing)
  await closing
  t.is(told, 1)
  t.is(await server.closed, undefined)
  t.false(existsSync(path))
  for (const channel of channels) t.is(await channel.closed, undefined)
  t.is(server.channels.size, 0)
  await t.throwsAsync(connect(path), { code: 'ENOENT' })
})

test('close({ channels: false }) only stops accepting', async t => {
  const path = socketPath()
  const server = await listen(path)
  server.serve(({ value }) => value)
  const [channel] = await connectAll(server, 1)
  await server.close({ channels: false })
  t.is(await server.closed, undefined)
  await t.throwsAsync(connect(path), { code: 'ENOENT' })
  t.is(server.channels.size, 1)
  t.is(await channel!.request('still served'), 'still served')
  await channel!.close()
  await until(() => server.channels.size === 0, 'the end of the channel')
})

test('await using closes a server and a channel', async t => {
  const path = socketPath()
  let outside: Channel<any, any>
  {
    await using server = await listen(path)
    await using channel = await connect<any, any>(path)
    outside = channel
    server.serve(({ value }) => value)
    t.is(await channel.request(1), 1)
  }
  t.is(await outside.closed, undefined)
  t.false(existsSync(path))
})

test('a signal closes the server, with Node’s AbortError', async t => {
  const path = socketPath()
  const controller = new AbortController()
  const server = await listen(path, { signal: controller.signal })
  const [channel] = await connectAll(server, 1)
  const told = once(server, 'close')
  controller.abort('enough')
  const [error] = await told
  t.like(error, { name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' })
  t.is(await server.closed, error)
  await server.close()
  t.is(await channel!.closed, undefined)
  t.false(existsSync(path))
})

test('a signal that was aborted before, or is while listen waits, leaves nothing behind', async t => {
  const path = socketPath()
  const options = { name: 'AbortError', code: 'ABORT_ERR' }
  await t.throwsAsync(listen(path, { signal: AbortSignal.abort() }), options)
  t.false(existsSync(path))
  const controller = new AbortController()
  const directory = openSync(dirname(path), 'r')
  native.lock(directory, true)
  const listening = listen(path, { signal: controller.signal })
  controller.abort()
  closeSync(directory)
  await t.throwsAsync(listening, options)
  t.false(existsSync(path))
})

test('a signal that lives on keeps nothing of a closed server', async t => {
  const { signal } = new AbortController()
  const server = await listen(socketPath(), { signal })
  t.is(getEventListeners(signal, 'abort').length, 1)
  await server.close()
  t.is(getEventListeners(signal, 'abort').length, 0)
})

test('listen takes a Descriptor of a Unix listener, and of nothing else', async t => {
  const [one, two] = Descriptor.socketpair()
  for (const wrong of [file(), one, two, await Descriptor.bind({ port: 0 })]) {
    await t.throwsAsync(listen(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
    t.false(wrong.closed)
    wrong.close()
    await t.throwsAsync(listen(wrong), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  }
})

test('trap 24: a server that closes leaves a listener that others hold as it was', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const other = listener.dup()
  const server = await listen(listener)
  t.is(server.address, listener)
  t.true(listener.closed)
  await (await connect(path)).close()
  await server.close()
  t.true(existsSync(path))
  const peer = RawPeer.connect(path)
  let accepted = -1
  await until(() => (accepted = native.accept(other.borrow())) >= 0, 'a connection')
  // Whoever has it now may know nothing of SO_PASSRIGHTS
  const descriptor = file()
  peer.send(hello(), [descriptor.borrow()])
  descriptor.close()
  native.close(accepted)
  peer.close()
  other.close()
})

const refusals: [string, NonNullable<ListenOptions['authorize']>, string][] = [
  ['refuses', () => false, 'UNAUTHORIZED'],
  ['refuses later', async () => false, 'UNAUTHORIZED'],
  ['answers with something else than true', () => 'yes' as never, 'UNAUTHORIZED'],
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
  test(`listen: authorize ${title}`, async t => {
    const code = `ERR_PASSFD_${name}`
    const server = await listen(socketPath(), { authorize })
    server.on('channel', () => t.fail('somebody was let in'))
    const refused = once(server, 'refused')
    const error: any = await t.throwsAsync(connect(server.address), { code: 'ERR_PASSFD_PEER' })
    t.is(error.remote.code, code)
    t.notRegex(JSON.stringify(error.remote), /secret/)
    const [peer, told] = await refused
    t.like(peer, { pid: process.pid, uid: 0 })
    t.is(told.code, code)
    if (name === 'AUTHORIZE_FAILED') t.is(told.cause.message, 'secret')
    await server.close()
  })

test('listen: authorize is asked with the peer, and may take its time', async t => {
  let allow!: (answer: boolean) => void
  const server = await listen(socketPath(), {
    authorize(peer) {
      t.like(peer, { pid: process.pid, uid: 0, agent: '' })
      return new Promise(resolve => (allow = resolve))
    }
  })
  const connecting = connect(server.address)
  await until(() => allow !== undefined, 'the question')
  t.is(server.channels.size, 0)
  allow(true)
  const channel = await connecting
  await channel.close()
  await server.close()
})

test('listen: another user is refused by default, and let in by authorize', async t => {
  const [closed, open] = [publicPath(), publicPath()]
  const servers = [
    await listen(closed, { mode: 0o666 }),
    await listen(open, { mode: 0o666, authorize: () => true })
  ] as const
  const told = Promise.all([once(servers[0], 'refused'), once(servers[1], 'channel')])
  const child = startFixture('connect-as', [`${NOBODY}`, closed, open])
  t.like(JSON.parse(await child.line()), { code: 'ERR_PASSFD_PEER', remote: { code: 'ERR_PASSFD_UNAUTHORIZED' } })
  t.like(JSON.parse(await child.line()), { uid: 0, pid: process.pid })
  const [[refused, error], [channel]] = await told
  t.like(refused, { pid: child.child.pid, uid: NOBODY })
  t.is(error.code, 'ERR_PASSFD_UNAUTHORIZED')
  t.like(channel.peer, { pid: child.child.pid, uid: NOBODY })
  await child.exit
  for (const server of servers) await server.close()
})

test('listen: until a peer is authorized the kernel takes no descriptor from it', async t => {
  const answers: ((answer: boolean) => void)[] = []
  const server = await listen(socketPath(), { authorize: () => new Promise(resolve => answers.push(resolve)) })
  const descriptor = file()
  const numbers = Int32Array.of(descriptor.borrow())
  const bytes = Buffer.concat([hello(), message('nothing')])
  const send = (peer: RawPeer) => native.send(peer.fd, bytes, 0, bytes.length, numbers, 0, 1)

  const refused = RawPeer.connect(server.address as string).start()
  t.is(send(refused), EPERM) // before it was accepted, even
  await until(() => answers.length === 1, 'the question')
  t.is(send(refused), EPERM)
  answers[0]!(false)
  t.is((await refused.next()).value.code, 'ERR_PASSFD_UNAUTHORIZED')
  t.is(await refused.ended, 0)
  t.deepEqual(refused.rest(), [])

  const allowed = RawPeer.connect(server.address as string).start()
  await until(() => answers.length === 2, 'the question')
  t.is(send(allowed), EPERM)
  answers[1]!(true)
  await allowed.next(HELLO)
  t.is(send(allowed), bytes.length)
  descriptor.close()
  for (const peer of [refused, allowed]) peer.close()
  await server.close()
})

test('a peer that is refused is told so although it has spoken already', async t => {
  let refuse!: (answer: boolean) => void
  const server = await listen(socketPath(), { authorize: () => new Promise(resolve => (refuse = resolve)) })
  const peer = RawPeer.connect(server.address as string)
  peer.send(Buffer.concat([hello(), message('impatient')]))
  await until(() => refuse !== undefined, 'the question')
  refuse(false)
  peer.start()
  t.is((await peer.next(GOODBYE)).value.code, 'ERR_PASSFD_UNAUTHORIZED')
  await peer.ended
  peer.close()
  await server.close()
})

test('a channel takes no more descriptors than its share', async t => {
  const server = await listen(socketPath(), { maxUnclaimedTotal: 64, maxConnections: 32, maxUnclaimed: 3 })
  const arrived: Descriptor[] = []
  let release!: () => void
  const released = new Promise<void>(resolve => (release = resolve))
  server.serve(({ descriptors }) => {
    arrived.push(...descriptors)
    return released
  })
  const peer = RawPeer.connect(server.address as string).start()
  peer.send(hello())
  const { window, descriptorCost } = (await peer.next(HELLO)).value
  t.is(Math.round(window / descriptorCost), 3)
  const descriptor = file()
  const bytes = message(places(1), 1)
  let sent = 0
  // A message may start while some credit is left
  for (let credit = window; credit > 0; credit -= bytes.length + descriptorCost) {
    peer.send(bytes, [descriptor.borrow()])
    sent++
  }
  t.is(sent, 3)
  await until(() => arrived.length === sent, 'the messages')
  // The bodies have been given to the handler; the descriptors are still held
  const bodies = sent * bytes.length
  let credit = 0
  while (credit < bodies) credit += (await peer.next(CREDIT)).id
  t.is(credit, bodies)
  release()
  while (credit < bodies + sent * descriptorCost) credit += (await peer.next(CREDIT)).id
  t.true(arrived.every(({ closed }) => closed))
  descriptor.close()
  peer.close()
  await until(() => server.channels.size === 0, 'the end')
  await server.close()
})

test('a peer that never speaks is sent away after handshakeTimeout', async t => {
  const server = await listen(socketPath(), { handshakeTimeout: 50 })
  const refused = once(server, 'refused')
  const peer = RawPeer.connect(server.address as string).start()
  await peer.next(HELLO)
  t.is((await peer.next()).value.code, 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  await peer.ended
  const [who, error] = await refused
  t.is(who.pid, process.pid)
  t.is(error.code, 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  peer.close()
  await server.close()
})

test('close sends those in the handshake away, without a word to anybody', async t => {
  const answers: (() => void)[] = []
  const server = await listen(socketPath(), {
    authorize: () => new Promise(resolve => answers.push(() => resolve(true)))
  })
  server.on('refused', () => t.fail('the server is closing'))
  const asking = RawPeer.connect(server.address as string).start()
  const greeting = RawPeer.connect(server.address as string).start()
  await until(() => answers.length === 2, 'both questions')
  answers[1]!()
  await greeting.next(HELLO)
  await server.close()
  await Promise.all([asking.ended, greeting.ended])
  t.deepEqual(asking.rest(), [])
  for (const peer of [asking, greeting]) peer.close()
})

test('a channel that opens while its server closes is closed with it', async t => {
  const server = await listen({ abstract: `passfd-${Math.random()}` })
  server.on('channel', () => t.fail('the server is closing'))
  let closing: Promise<void> | undefined
  const close = (): void => {
    process.nextTick(() => {
      closing ??= server.close()
    })
  }
  const peer = RawPeer.connect(`\0${(server.address as { abstract: string }).abstract}`).start()
  await peer.next(HELLO)
  diagnostics.subscribe('passfd:channel:open', close)
  peer.send(hello())
  t.deepEqual((await peer.next(GOODBYE)).value, {})
  diagnostics.unsubscribe('passfd:channel:open', close)
  peer.close()
  await closing
  t.is(server.channels.size, 0)
})

test('at the limit of open files accepting rests, and goes on when there is room', async t => {
  const fixture = fileURLToPath(new URL('../fixtures/emfile.mjs', import.meta.url))
  const path = socketPath()
  // Node 26 reads this file aside: its descriptor would be free a moment later
  const child = start(process.execPath, [fixture, path], { env: { ...process.env, NODE_EXTRA_CA_CERTS: undefined } })
  t.is(await child.line(), 'EMFILE')
  const connecting = connect(path)
  const times: number[] = []
  while (times.length < 3) {
    const [, what, time] = (await child.line()).split(' ')
    t.is(what, 'failed')
    times.push(Number(time))
  }
  t.true(times[2]! - times[0]! > 60, `${times}`)
  child.child.stdin!.end()
  const channel = await connecting
  t.is(await channel.request('anybody?'), 'served')
  await channel.close()
  child.child.kill()
  await child.exit
})

test('what a listener of the server throws is the program’s, and disturbs nothing', async t => {
  const child = startFixture('throwing-server-listeners', [socketPath()])
  for (const line of ['uncaught refused', 'ERR_PASSFD_PEER', 'uncaught channel', 'answer', 'uncaught close', 'closed'])
    t.is(await child.line(), line)
  t.like(await child.exit, { code: 0, stderr: '' })
})

test('ECONNABORTED and EINTR are passed over', async t => {
  const server = await listen(socketPath())
  const failures = [-103, -4]
  await patched(
    'accept',
    accept => fd => failures.pop() ?? accept(fd),
    async () => {
      const [channel] = await connectAll(server, 1)
      await channel!.close()
    }
  )
  t.is(failures.length, 0)
  await server.close()
})

test('more connections than one wake-up accepts', async t => {
  const server = await listen(socketPath())
  let answered = 0
  await patched(
    'accept',
    accept => fd => {
      const result = accept(fd)
      if (result === EAGAIN) answered++
      return result
    },
    async () => {
      const channels = await connectAll(server, 150)
      t.is(server.channels.size, 150)
      t.true(answered > 0)
      await closeAll(...channels)
    }
  )
  await server.close()
})

test('options are checked before anything happens', async t => {
  const path = socketPath()
  const wrong: ListenOptions[] = [
    { mode: 0o1000 },
    { mode: -1 },
    { backlog: 0 },
    { maxConnections: 0 },
    { maxConnectionsPerUser: 0 },
    { maxUnclaimedTotal: 0 },
    { window: 0 },
    null as never
  ]
  for (const options of wrong) {
    await t.throwsAsync(listen(path, options), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    t.false(existsSync(path))
  }
  t.throws(() => new (ChannelServer as any)({ options: {}, bounds: {} }))
})

test('channels that end unseen with messages in them count until they are seen, and are emptied at the end', async t => {
  const server = await listen(socketPath(), { maxConnections: 2 })
  for (let i = 0; i < 2; i++) {
    const channel = await connect(server.address)
    await channel.send({ file: await Descriptor.open('/dev/null') })
    await channel.close() // its descriptor has been taken
  }
  const refused = await t.throwsAsync(connect(server.address), { code: 'ERR_PASSFD_PEER' })
  t.is((refused as PassfdError).remote?.code, 'ERR_PASSFD_BUSY')
  for await (const channel of server) {
    for await (const { descriptors } of channel) t.is(descriptors[0]?.kind, 'device')
    break
  }
  const channel = await connect(server.address) // there is room for one again
  await channel.close()
  await server.close()
})
