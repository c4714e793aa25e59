// load.mjs
import { request } from 'node:http'
import { setTimeout } from 'node:timers/promises'

// Sends 1,000 requests in some three seconds, each on a connection of its own, from 10 clients. Counts those without a whole answer
const port = process.argv[2] ?? 3000
const LEFT = { requests: 1000, failed: 0 }

function visit() {
  return new Promise(resolve => {
    const fail = () => resolve(LEFT.failed++)
    request({ port, host: '127.0.0.1', agent: false }, response => {
      response
        .on('error', fail)
        .on('end', () => (response.complete ? resolve() : fail()))
        .resume()
    })
      .on('error', fail)
      .end()
  })
}
async function client() {
  while (LEFT.requests-- > 0) {
    await visit()
    await setTimeout(25)
  }
}
await Promise.all(Array.from({ length: 10 }, client))
console.log(`1000 requests, ${LEFT.failed} failed`)
