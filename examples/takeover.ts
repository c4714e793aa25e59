// An http server that replaces itself: start it, then start it again. No client is refused, and the counter goes on.
//   node --import tsx examples/takeover.ts /tmp/web.takeover 3000
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { takeOver } from 'passfd/takeover'

const [path = 'web.takeover', number = '0'] = process.argv.slice(2)
let visits = 0

// 1. Get the listeners: from the process that serves, or from the kernel
const http = { port: Number(number), host: '127.0.0.1' }
const seat = await takeOver<{ visits: number }>({ path, listeners: { http } })
seat.on('superseded', ({ pid }) => console.log(`process ${process.pid} ends, because process ${pid} serves`))

// 2. Boot. The predecessor serves as if nothing had happened
const server = createServer((_, response) => response.end(`visit ${++visits}, process ${process.pid}`))
await seat.listen('http', server)

// 3. Get the state. From here on new clients wait in the kernel …
const state = await seat.inherit()
visits = state?.visits ?? 0

// 4. … until here. If anything fails before this line, the predecessor accepts again
await seat.ready({ freeze: () => ({ visits }) })
console.log(`process ${process.pid} serves port ${(server.address() as AddressInfo).port}`)
