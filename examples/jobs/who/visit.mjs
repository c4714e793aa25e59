// visit.mjs
import { connect } from 'passfd'

const [word = 'hello', host = process.getuid()] = process.argv.slice(2)
try {
  const channel = await connect('guests.sock', { authorize: peer => peer.uid === Number(host) }) // we check the server, too
  console.log('guest:', await channel.request(word))
  await channel.close()
} catch (error) {
  console.log('guest:', error.code, error.remote?.code ?? '')
}
