/**
 * What an open channel costs: the resident set of a server with CHANNELS of them, each of which has carried messages both ways, over
 * that of the same server before. `passfd`; `socket`: a net.Socket that answers bytes; `socket-packr`: with msgpackr's two streams.
 * Gives bytes a channel. Every measurement is a server process of its own.
 */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { PackrStream, UnpackrStream } from 'msgpackr'
import { connect as connectChannel, listen } from '../../dist/index.js'
import { address, control, isFar, rounds, settle, small, socketPath, startControlled, workload } from '../workload.mjs'

const CHANNELS = Number(process.env.BENCH_CHANNELS ?? 2000)
const EACH = 20
/** On one connection that is closed again: V8's new space and compiled code are there before the first figure. */
const FIRST = 50_000
const IN_FLIGHT = 100
const AT_A_TIME = 20

let count = 0

const servers = {
  async passfd() {
    const server = await listen(address, { maxConnections: 2 * CHANNELS, maxConnectionsPerUser: 2 * CHANNELS })
    server.serve(({ value }) => {
      count++
      return { id: value.id }
    })
  },
  async socket() {
    await listening(socket => {
      socket.on('data', bytes => {
        count += bytes.length / BYTES.length
        socket.write(bytes)
      })
    })
  },
  async 'socket-packr'() {
    await listening(socket => {
      const out = new PackrStream()
      out.pipe(socket)
      socket.pipe(new UnpackrStream()).on('data', value => {
        count++
        out.write({ id: value.id })
      })
    })
  }
}

/** As long as the small message. */
const BYTES = Buffer.alloc(51, 1)

/** `ask(id)` resolves when the answer has come; they come in the order of the asking. */
const clients = {
  async passfd(path) {
    const channel = await connectChannel(path)
    return { ask: id => channel.request(small(id)), close: () => channel.close() }
  },
  async socket(path) {
    const { socket, answers, close } = await connected(path)
    socket.on('data', bytes => {
      for (let at = 0; at < bytes.length; at += BYTES.length) answers.shift()()
    })
    return {
      ask: () => {
        socket.write(BYTES)
        return new Promise(resolve => answers.push(resolve))
      },
      close
    }
  },
  async 'socket-packr'(path) {
    const { socket, answers, close } = await connected(path)
    const out = new PackrStream()
    out.pipe(socket)
    socket.pipe(new UnpackrStream()).on('data', () => answers.shift()())
    return {
      ask: id => {
        out.write(small(id))
        return new Promise(resolve => answers.push(resolve))
      },
      close
    }
  }
}

async function connected(path) {
  const socket = connect(path)
  await once(socket, 'connect')
  return { socket, answers: [], close: () => once(socket.destroy(), 'close') }
}

function listening(serve) {
  const server = createServer(socket => serve(socket.on('error', () => {})))
  server.listen(address)
  return once(server, 'listening')
}

async function far() {
  await servers[workload]()
  await control(async () => {
    await settle()
    return { count, heap: process.memoryUsage() }
  })
}

async function used(path) {
  const channel = await clients[workload](path)
  for (let id = 0; id < EACH; id++) await channel.ask(id)
  return channel
}

async function near() {
  await rounds(async () => {
    const path = socketPath()
    const server = await startControlled(path, ['--expose-gc'])
    const first = await clients[workload](path)
    for (let id = 0; id < FIRST; id += IN_FLIGHT)
      await Promise.all(Array.from({ length: IN_FLIGHT }, (_, more) => first.ask(id + more)))
    await first.close()
    const before = await server.ask()
    const channels = []
    while (channels.length < CHANNELS)
      channels.push(...(await Promise.all(Array.from({ length: AT_A_TIME }, () => used(path)))))
    const after = await server.ask()
    if (after.count !== FIRST + CHANNELS * EACH) throw new Error(`${after.count} messages arrived`)
    if (after.open !== before.open + CHANNELS) throw new Error(`${after.open - before.open} connections are open`)
    await Promise.all(channels.map(channel => channel.close()))
    await server.openAgain(before.open)
    await server.end()
    if (process.env.BENCH_DETAIL) console.error(before, after)
    return (after.rss - before.rss) / CHANNELS
  })
}

await (isFar ? far() : near())
