// server.mjs
import { listen } from 'passfd'

const guest = Number(process.argv[2]) // the uid that is let in
const server = await listen('guests.sock', {
  mode: 0o666, // the kernel lets every user connect; `authorize` decides
  authorize: ({ uid }) => uid === guest
})
server.on('refused', (peer, error) => console.log(`server: no channel with user ${peer.uid}: ${error.code}`))
server.serve(({ value, channel }) => {
  const { pid, uid } = channel.peer
  if (value !== 'stop') return `welcome, process ${pid} of user ${uid}`
  if (uid !== process.getuid()) throw Object.assign(new Error('only my own user may stop me'), { code: 'E_FORBIDDEN' })
  server.close()
  return 'stopping'
})
console.log(`server: user ${process.getuid()} waits for user ${guest}`)
