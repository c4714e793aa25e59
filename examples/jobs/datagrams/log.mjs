// log.mjs
import { bind } from 'passfd/datagram'

const socket = await bind('log.sock') // mode 0600, and only processes of this user and root are heard
socket.on('dropped', error => console.log('log: dropped a datagram:', error.message))
process.once('SIGTERM', () => socket.close())
console.log('log: waits')

for await (const { data, descriptors, sender } of socket) {
  console.log(`log: process ${sender.pid} says "${data}"`)
  for (const descriptor of descriptors) console.log(`log: with a ${descriptor.kind}`) // closed after this turn, unless you claim() it
}
