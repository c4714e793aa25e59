/**
 * What one channel of a server suffers from another: the 99th percentile of a request's round trip, one at a time, while a third process
 * floods the same server with small messages. `passfd`, `socket` (net.Socket + msgpackr), `passfd-quiet` (no flood). Gives µs.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectSocket, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setImmediate as turn } from 'node:timers/promises'
import { connect, listen } from '../../dist/index.js'
import { LENGTH, packr, unframing } from '../framing.mjs'
import { address, farCommand, measure, role, small, socketPath, startFar, Tally, workload } from '../workload.mjs'

const BATCH = 256
/**
 * The flooder gets the time that both ends of the measured channel leave on two cores, more than half of a core. With their priority it would
 * keep one of them from its core for a time slice of the kernel now and then, about 2 ms, and that would be the 99th percentile.
 */
const YIELDING = ['chrt', '--idle', '0']
const QUIET = workload.endsWith('quiet')

/** Each end: `serve(answer)` for a server, else `{ send, ask, close }`; `send` resolves when there is room. */
const carriers = {
  async passfd() {
    const channel = await connect(address ?? path)
    return {
      send: (first, count) => {
        for (let id = first; id < first + count - 1; id++) channel.send(small(id))
        return channel.send(small(first + count - 1))
      },
      ask: value => channel.request(value),
      close: () => channel.close()
    }
  },
  async socket() {
    const socket = connectSocket(address ?? path)
    await once(socket, 'connect')
    const answers = []
    socket.on(
      'data',
      unframing(answer => answers.shift()(answer))
    )
    const write = values => socket.write(Buffer.concat(values.flatMap(framed)))
    return {
      async send(first, count) {
        if (!write(Array.from({ length: count }, (_, more) => small(first + more)))) await once(socket, 'drain')
      },
      ask: value => {
        write([{ ...value, answer: true }])
        return new Promise(resolve => answers.push(resolve))
      },
      close: () => once(socket.destroy(), 'close')
    }
  }
}

const servers = {
  async passfd(receiver) {
    const server = await listen(address)
    server.on('channel', channel => {
      const receive = receiver()
      channel.serve(({ value }) => receive(value))
      channel.once('close', () => server.channels.size <= 1 && server.close())
    })
  },
  async socket(receiver) {
    let open = 0
    const server = createServer(socket => {
      const receive = receiver()
      open++
      socket.on(
        'data',
        unframing(value => {
          const answer = receive(value)
          if (value.answer) socket.write(Buffer.concat(framed(answer)))
        })
      )
      socket.once('close', () => --open === 0 && server.close())
    })
    server.listen(address)
    await once(server, 'listening')
  }
}

const carrier = workload.split('-')[0]
const path = role === 'near' ? socketPath() : undefined

function framed(value) {
  const body = packr.pack(value)
  const length = Buffer.alloc(LENGTH)
  length.writeUInt32LE(body.length)
  return [length, Buffer.from(body)]
}

async function far() {
  await servers[carrier](() => {
    const tally = new Tally()
    return value => tally.take(value) ?? { id: value.id }
  })
  console.log('listening')
}

/** Floods from one line on stdin to the next, then prints how many it has sent and how many of them the server has seen. */
async function flooder() {
  const { send, ask, close } = await carriers[carrier]()
  let flooding = false
  let flood
  console.log('ready')
  for await (const _ of createInterface({ input: process.stdin })) {
    flooding = !flooding
    if (flooding)
      flood = (async () => {
        let sent = 0
        for (; flooding; sent += BATCH) {
          await send(sent, BATCH)
          await turn()
        }
        const { count } = await ask({ mark: true })
        if (count !== sent) throw new Error(`${count} of ${sent} arrived`)
        return count
      })()
    console.log(flooding ? 'floods' : String(await flood))
  }
  await close()
}

async function startFlooder() {
  const [command, ...args] = [...YIELDING, ...farCommand, process.argv[1], workload, 'flooder', path]
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  await lines.next()
  return {
    async toggle() {
      child.stdin.write('\n')
      const { done, value } = await lines.next()
      if (done) throw new Error('the flooder has ended')
      return value
    },
    async end() {
      child.stdin.end()
      const [code] = await once(child, 'exit')
      if (code !== 0) throw new Error(`the flooder exited with ${code}`)
    }
  }
}

async function near() {
  await startFar(path)
  const flood = QUIET ? undefined : await startFlooder()
  const { ask, close } = await carriers[carrier]()
  const phase = async time => {
    await flood?.toggle()
    const times = []
    const start = performance.now()
    let sent = start
    do {
      await ask(small(times.length))
      const answered = performance.now()
      times.push(answered - sent)
      sent = answered
    } while (sent - start < 2 * time)
    const { count } = await ask({ mark: true })
    if (count !== times.length) throw new Error(`${count} of ${times.length} arrived`)
    if (flood !== undefined && !(Number(await flood.toggle()) > times.length)) throw new Error('it was no flood')
    if (process.env.BENCH_DETAIL) console.error(times.length, 'round trips')
    return times.sort((a, b) => a - b)[Math.floor(times.length * 0.99)] * 1000
  }
  await measure(phase, (mark = true) => ask({ mark }))
  await flood?.end()
  await close()
}

await { far, flooder, near }[role]()
