// server.mjs
import { createServer } from 'node:http'
import { takeOver } from 'passfd/takeover'

let visits = 0 // the state: it survives each deploy
const seat = await takeOver({
  path: 'server.takeover', // in production an absolute path, in a folder of this service
  listeners: { http: { port: 3000, host: '127.0.0.1' } }
})
const server = createServer((request, response) => response.end(`visit ${++visits}, process ${process.pid}\n`))
await seat.listen('http', server)

// Load configuration, open the database, fill caches: until here the old process serves
visits = (await seat.inherit()) ?? 0
await seat.ready({
  freeze: () => visits, // a successor asks for the state
  thaw: state => (visits = state) // that successor has failed: this process serves on
})
console.log(`process ${process.pid} serves`)
seat.on('superseded', ({ pid }) => console.log(`process ${pid} serves now`))
seat.onStop(() => console.log('the last request is answered: here the database closes'))
