/** Odd things that a program does in callbacks, and odd values that it throws, destroys or sends. */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, connect, Descriptor, listen, type PassfdError } from '../../src/index.ts'
import { socketPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

async function withChannels(
  body: (client: Channel<any, any>, server: Channel<any, any>) => Promise<void>,
  options = {}
): Promise<void> {
  const server = await listen(socketPath(), options)
  const [client, [serverSide]] = await Promise.all([connect(server.address), once(server, 'channel')])
  await body(client, serverSide)
  client.destroy()
  await server.close()
  await Promise.all([client.closed, serverSide.closed])
}

for (const [what, error] of [
  ['null', null],
  ['a string', 'text'],
  ['an Error whose message is a number', Object.assign(new Error(), { message: 42 })],
  ['an Error whose name and code are odd', Object.assign(new Error('x'), { name: 7, code: {} })]
] as const)
  test(`destroy(${what}) ends the channel, and the peer hears of it`, async t => {
    await withChannels(async (client, server) => {
      client.destroy(error as never)
      await client.closed
      t.is(((await server.closed) as PassfdError).code, 'ERR_PASSFD_PEER')
    })
  })

for (const [what, thrown] of [
  ['an object without a prototype', Object.create(null)],
  ['an object whose toString throws', { toString: () => { throw new Error('no') } }], // biome-ignore format: one line each
  ['an Error whose message is a number', Object.assign(new Error(), { message: 42 })]
] as const)
  test(`a handler that throws ${what} answers with a fault`, async t => {
    await withChannels(async (client, server) => {
      server.serve(() => {
        throw thrown
      })
      await t.throwsAsync(client.request(1), { code: 'ERR_PASSFD_REMOTE' })
    })
  })

test('a handler that returns an object whose then throws answers with a fault', async t => {
  await withChannels(async (client, server) => {
    server.serve(() => Object.defineProperty({}, 'then', { get: () => { throw new Error('no') } })) // biome-ignore format: one line
    await t.throwsAsync(client.request(1), { code: 'ERR_PASSFD_REMOTE' })
  })
})

test('destroy() in a getter of the value being sent: the descriptors come back, and the peer sees the end', async t => {
  await withChannels(async (client, server) => {
    const file = await Descriptor.open('/dev/null')
    const returned = once(client, 'returned')
    const value = { file, get now() { return client.destroy() } } // biome-ignore format: one line
    await t.throwsAsync(client.send(value), { code: 'ERR_PASSFD_CLOSED' })
    const [{ state }] = await returned
    t.is(state, 'unsent')
    await client.closed
    t.truthy(await server.closed)
  })
})

test('close() in a getter of the value being sent: it is sent, then the channel closes', async t => {
  await withChannels(async (client, server) => {
    const arrived = once(server, 'message')
    let closing: Promise<void> | undefined
    const value = { get now() { closing = client.close(); return 1 } } // biome-ignore format: one line
    void client.send(value)
    const [{ value: got }] = await arrived
    t.deepEqual(got, { now: 1 })
    await closing
    t.is(await client.closed, undefined)
  })
})

test('an abort in a getter of the value being sent leaves the stream whole', async t => {
  await withChannels(async (client, server) => {
    const arrived: unknown[] = []
    server.on('message', ({ value, isRequest }) => void (isRequest || arrived.push(value)))
    const controller = new AbortController()
    const request = client.request('wait', { signal: controller.signal })
    await turn()
    const value = { get now() { controller.abort(); return 1 } } // biome-ignore format: one line
    await client.send(value)
    await client.send('after')
    await t.throwsAsync(request, { name: 'AbortError' })
    while (arrived.length < 2) await turn()
    t.deepEqual(arrived, [{ now: 1 }, 'after'])
  })
})

test('a listener that sends again what comes back does not keep the loop from ending', async t => {
  await withChannels(async (client, server) => {
    let rounds = 0
    client.on('returned', ({ value }) => {
      if (++rounds < 1000) void client.send(value)
    })
    server.destroy()
    await client.closed
    void client.send({ file: await Descriptor.open('/dev/null') })
    await turn()
    await turn()
    await turn()
    t.true(rounds > 0 && rounds < 1000, `${rounds} rounds in three turns`)
    client.removeAllListeners('returned')
    await turn()
    await turn()
  })
})

test('a buffer that is transferred while it waits ends that channel alone', async t => {
  await withChannels(async (client, server) => {
    const buffer = new Uint8Array(new ArrayBuffer(1 << 20))
    const sent = client.send({ buffer })
    structuredClone(buffer.buffer, { transfer: [buffer.buffer] })
    await t.throwsAsync(sent, { code: 'ERR_PASSFD_CLOSED' })
    t.is(((await client.closed) as PassfdError).code, 'ERR_PASSFD_ENCODE')
    t.truthy(await server.closed)
  })
})

test('a schema that answers with a thenable of its own kind is waited for; a malformed answer is a failure', async t => {
  const later = (result: unknown) => {
    const thenable = Object.defineProperty({}, 'then', { value: (done: (given: unknown) => void) => done(result) })
    return { '~standard': { version: 1, vendor: 'test', validate: () => thenable } }
  }
  for (const [result, code] of [
    [{ issues: [{ message: 'no' }] }, 'ERR_PASSFD_SCHEMA'],
    [{ issues: [{ message: 'no', path: null }] }, 'ERR_PASSFD_SCHEMA'],
    [undefined, 'ERR_PASSFD_SCHEMA']
  ] as const)
    await withChannels(
      async (client, server) => {
        server.serve(() => 'reached')
        const error = await t.throwsAsync(client.request(1), { code: 'ERR_PASSFD_REMOTE' })
        t.is((error as PassfdError).remote?.code, code)
      },
      { schema: later(result) }
    )
})

test('authorize has the time of the handshake and no more', async t => {
  const server = await listen(socketPath(), { authorize: () => new Promise<boolean>(() => {}), handshakeTimeout: 50 })
  const error = await t.throwsAsync(connect(server.address), { code: 'ERR_PASSFD_PEER' })
  t.is((error as PassfdError).remote?.code, 'ERR_PASSFD_HANDSHAKE_TIMEOUT')
  await server.close()
})
