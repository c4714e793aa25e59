import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, Descriptor, listen } from '../src/index.ts'
import { socketPath } from './helpers/path.ts'
import { test } from './helpers/test.ts'

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

test('what nobody claims is closed when the scope ends', async t => {
  const server = await listen(socketPath())
  const [channel, [serverSide]] = await Promise.all([connect(server.address), once(server, 'channel')])
  const arrived = once(serverSide, 'message')
  await channel.send({ file: await Descriptor.open('/etc/hostname') })
  const [{ descriptors }] = await arrived
  const error = t.throws(() => descriptors[0].borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_UNCLAIMED' })
  t.regex(
    error!.message,
    new RegExp(`message from pid ${process.pid} and was closed when the 'message' listeners returned`)
  )
  await server.close()
  await channel.closed
})
