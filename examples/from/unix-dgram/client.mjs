// client.mjs
import { connect } from 'passfd/datagram'

const client = await connect('ping.sock', { from: true }) // with a name, to which the server can answer
await client.send('ping')
for await (const { data } of client) {
  console.log(`received ${data}`)
  break
}
await client.close()
