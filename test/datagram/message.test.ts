import { bind, connect } from '../../src/datagram/index.ts'
import { file } from '../helpers/channels.ts'
import { closeSockets, nextDatagram, texts } from '../helpers/datagrams.ts'
import { test } from '../helpers/test.ts'

test('reply goes to where it came from, also through a socket that is connected to it', async t => {
  const server = await bind()
  const client = await connect(server.address!, { from: true })
  await client.send('question')
  await (await nextDatagram(server)).reply('answer', { descriptors: [file()] })
  const answer = await nextDatagram(client)
  t.is(answer.descriptors.length, 1)
  await answer.reply('and back', { descriptors: [...answer.descriptors] })
  t.deepEqual(await texts(server, 1), ['and back'])
  await closeSockets(server, client)
})

test('a datagram that came before the socket was closed can still be looked at, not answered', async t => {
  const server = await bind()
  const client = await connect(server.address!, { from: true })
  await client.send('question', { descriptors: [file()] })
  const message = await nextDatagram(server)
  await closeSockets(server, client)
  t.throws(() => message.reply('answer'), { code: 'ERR_PASSFD_SOCKET_CLOSED' })
  t.is(message.descriptors[0]!.kind, 'device')
  message.descriptors[0]!.close()
  message[Symbol.dispose]()
})
