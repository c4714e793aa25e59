/** Asks for / by 8 connections until SIGTERM or SIGINT, then prints who has answered, and how many requests have failed. */
import { Agent, get } from 'node:http'

const agent = new Agent({ keepAlive: true, maxSockets: 8 })
const answers = new Map()
let failed = 0
let isOver = false
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => (isOver = true))

await Promise.all(Array.from({ length: 8 }, askUntilTheEnd))
const figures = [...answers].map(([text, times]) => `${times.toLocaleString('en')} by ${text}`)
console.log(`answered: ${figures.join(', ')}. Failed: ${failed}`)
agent.destroy()

async function askUntilTheEnd() {
  while (!isOver) {
    const text = await ask().catch(() => undefined)
    if (text === undefined) failed++
    else answers.set(text, (answers.get(text) ?? 0) + 1)
    // A person looks at this: so fast that a reload is seen, and no faster
    await new Promise(done => setTimeout(done, 4))
  }
}

function ask() {
  return new Promise((done, fail) => {
    get({ port: process.env.PORT, host: '127.0.0.1', agent }, response => {
      const parts = []
      response.on('data', part => parts.push(part)).on('end', () => done(Buffer.concat(parts).toString()))
      response.on('error', fail)
    }).on('error', fail)
  })
}
