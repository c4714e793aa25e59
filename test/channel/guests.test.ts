import { once } from 'node:events'
import { connect, type Descriptor, listen } from '../../src/index.ts'
import { closeAll, connectAll, file } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { GOODBYE, HELLO, hello, message, RawPeer } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

test('maxConnections: so many and no more, handshakes included', async t => {
  const server = await listen(socketPath(), { maxConnections: 2 })
  const [first] = await connectAll(server, 1)
  const silent = RawPeer.connect(server.address as string).start()
  await silent.next(HELLO)
  const refused = once(server, 'refused')
  const error: any = await t.throwsAsync(connect(server.address), { code: 'ERR_PASSFD_PEER' })
  t.is(error.remote.code, 'ERR_PASSFD_BUSY')
  t.regex(error.message, /2 channels are open \(maxConnections\)/)
  t.is((await refused)[1].code, 'ERR_PASSFD_BUSY')
  const gone = once(server, 'refused')
  silent.close()
  t.is((await gone)[1].code, 'ERR_PASSFD_DISCONNECTED')
  const [second] = await connectAll(server, 1)
  await first!.close()
  await until(() => server.channels.size === 1, 'the end of the first')
  const [third] = await connectAll(server, 1)
  await closeAll(second!, third!)
  await server.close()
})

test('maxConnectionsPerUser: so many of each user', async t => {
  const path = publicPath()
  const server = await listen(path, { maxConnectionsPerUser: 2, mode: 0o666, authorize: () => true })
  server.serve(() => 'welcome')
  const [first, second] = await connectAll(server, 2)
  const error: any = await t.throwsAsync(connect(path), { code: 'ERR_PASSFD_PEER' })
  t.is(error.remote.code, 'ERR_PASSFD_BUSY')
  t.regex(error.message, /2 channels of user 0 are open \(maxConnectionsPerUser\)/)
  const child = startFixture('who', [`${NOBODY}`, `${NOBODY}`, '', path])
  t.is(JSON.parse(await child.line()).mine, 'welcome')
  t.like(await child.exit, { code: 0, stderr: '' })
  await first!.close()
  await until(() => server.channels.size === 1, 'the end of the first')
  const [third] = await connectAll(server, 1)
  await closeAll(second!, third!)
  await server.close()
})

test('a share of the descriptors for each channel: smaller ones later, then none', async t => {
  const server = await listen(socketPath(), { maxConnections: 4, maxUnclaimedTotal: 16, maxUnclaimed: 8 })
  const peers: RawPeer[] = []
  const shares: number[] = []
  for (;;) {
    const peer = RawPeer.connect(server.address as string).start()
    peers.push(peer)
    const { kind, value } = await peer.next(HELLO, GOODBYE)
    if (kind === GOODBYE) {
      t.is(value.code, 'ERR_PASSFD_BUSY')
      break
    }
    shares.push(Math.round(value.window / value.descriptorCost))
    if (shares.length === 4) break
  }
  t.is(shares.length, 4)
  t.deepEqual(
    shares,
    [...shares].sort((a, b) => b - a)
  )
  t.true(shares[0]! > shares[3]!)
  t.true(shares.reduce((sum, share) => sum + share) <= 16)
  for (const peer of peers) peer.close()
  await server.close()
})

test('when all descriptors are shared out the next is refused, until one has gone', async t => {
  const server = await listen(socketPath(), { maxUnclaimedTotal: 1 })
  const [channel] = await connectAll(server, 1)
  const error: any = await t.throwsAsync(connect(server.address), { code: 'ERR_PASSFD_PEER' })
  t.is(error.remote.code, 'ERR_PASSFD_BUSY')
  t.regex(error.message, /maxUnclaimedTotal/)
  await channel!.close()
  await until(() => server.channels.size === 0, 'the end of the first')
  const [next] = await connectAll(server, 1)
  await next!.close()
  await server.close()
})

test('descriptors that outlive their channel still count, until the handler is done with them', async t => {
  const server = await listen<any>(socketPath(), { maxUnclaimedTotal: 1 })
  const finish: (() => void)[] = []
  const held: Descriptor[] = []
  server.serve(({ value, descriptors }) => {
    held.push(...descriptors)
    if (value.claim) descriptors[0]!.claim()
    return new Promise<void>(resolve => finish.push(resolve))
  })
  for (const claim of [false, true]) {
    const [channel] = await connectAll(server, 1)
    await channel!.send({ claim, file: file() })
    await channel!.close()
    await until(() => server.channels.size === 0, 'the end of the channel')
    t.false(held.at(-1)!.closed)
    if (!claim) {
      const error: any = await t.throwsAsync(connect(server.address), { code: 'ERR_PASSFD_PEER' })
      t.is(error.remote.code, 'ERR_PASSFD_BUSY')
      finish[0]!()
      await until(() => held[0]!.closed, 'the end of the scope')
    }
  }
  const [next] = await connectAll(server, 1)
  held[1]!.close()
  await next!.close()
  await server.close()
})

test('descriptors that nobody can reach any more count no more', async t => {
  const child = startFixture('collected', [socketPath()])
  t.is(await child.line(), 'ERR_PASSFD_BUSY')
  t.is(await child.line(), 'let in')
  t.is((await child.exit).code, 0)
})

test('a peer that opens and breaks its channel in one write takes no place for ever', async t => {
  const server = await listen(socketPath(), { maxConnections: 1 })
  for (let i = 0; i < 3; i++) {
    const told = once(server, 'channel')
    const peer = RawPeer.connect(server.address as string)
    peer.send(Buffer.concat([hello(), message('complete'), Buffer.alloc(12, 0xff)]))
    const [channel] = await told
    const closed = once(channel, 'close')
    const [{ value }] = await once(channel, 'message')
    t.is(value, 'complete')
    t.is((await closed)[0].code, 'ERR_PASSFD_BAD_FRAME')
    peer.close()
    await until(() => server.channels.size === 0, 'the end of the channel')
  }
  const [channel] = await connectAll(server, 1)
  await channel!.close()
  await server.close()
})
