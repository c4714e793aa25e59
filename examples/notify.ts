// Starts a command as systemd would: hears what it says of itself (sd_notify(3)), and keeps the files that it stores (FDSTORE=1).
//   node --import tsx examples/notify.ts systemd-notify --ready --status='all is well'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { Descriptor } from 'passfd'
import { bind } from 'passfd/datagram'

const abstract = `notify-${process.pid}`
const socket = await bind({ abstract }) // for processes of this user and root
const store: Descriptor[] = []
socket.on('message', ({ data, descriptors, sender }) => {
  const lines = data.toString().split('\n')
  const fields = new Map(lines.map(line => line.split(/=(.*)/s) as [string, string]))
  if (fields.has('READY')) console.log(`notify: process ${sender?.pid} is ready`)
  if (fields.has('STATUS')) console.log(`notify: its status is "${fields.get('STATUS')}"`)
  if (!fields.has('FDSTORE')) return // what nobody claims is closed: BARRIER=1 waits for that
  store.push(...descriptors.map(descriptor => descriptor.claim()))
  console.log(`notify: keeps "${fields.get('FDNAME')}": ${descriptors.map(({ kind }) => kind).join()}`)
})
const [command = 'systemd-notify', ...args] = process.argv.slice(2)
const child = spawn(command, args, { env: { ...process.env, NOTIFY_SOCKET: `@${abstract}` }, stdio: 'inherit' })
const [code] = await once(child, 'exit')
await turn() // its last words may be in the queue
console.log(`notify: ${command} ended with ${code}, ${store.length} files are kept`)
for (const descriptor of store) descriptor.close()
await socket.close()
