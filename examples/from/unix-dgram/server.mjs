// server.mjs
import { bind } from 'passfd/datagram'

const server = await bind('ping.sock')
console.log('waits')
for await (const message of server) {
  console.log(`received ${message.data} from process ${message.sender.pid}`)
  await message.reply('pong')
  break
}
await server.close()
