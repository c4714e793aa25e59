/**
 * A Seat that is replaced by itself, each time by a process of its own. `state-N`: N live connections go along; gives the ms from inherit() to
 * the commit, and as `queued` the ms from the predecessor's last accept to the successor's first one. `requests`: no state, and HTTP requests
 * all the time; gives their 99th percentile in µs. `requests-boot`: likewise, but each successor gives up before it commits.
 * `requests-quiet`: without any. It fails if a connection or a request is lost.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { address, role, socketPath, workload } from '../workload.mjs'

/** In ms. */
const WARM_UP = Number(process.env.BENCH_WARM_UP ?? 1200)
const MEASURED = Number(process.env.BENCH_MEASURED ?? 300)
/** How much longer than other rows it measures: a new process each time takes most of it. */
const LONGER = 3
/** Between two requests, in ms. */
const PAUSE = Number(process.env.BENCH_PAUSE ?? 2)
const PATIENCE = 5000

const [what, variant] = workload.split('-')
const stateful = what === 'state'
const count = stateful ? Number(variant) : 0

/** Of the clock that all processes of a machine share, in ms. */
const now = () => Number(process.hrtime.bigint()) / 1e6

// --- A process that serves

async function serve() {
  const { Connection } = await import('../../dist/index.js')
  const { takeOver } = await import('../../dist/takeover/index.js')
  const live = new Set()
  const server = stateful
    ? createServer(socket => {
        live.add(socket)
        socket.on('error', () => {}).on('close', () => live.delete(socket))
        socket.on('data', bytes => socket.write(bytes))
      })
    : createHttpServer((_, response) => response.end(`${process.pid}\n`))
  const freeze = async () => {
    const frozen = now()
    return { frozen, live: await Promise.all([...live].map(socket => Connection.take(socket))) }
  }
  const tell = value => process.stdout.write(`${JSON.stringify(value)}\n`)
  const seat = await takeOver({ path: address, listeners: { server: { host: '127.0.0.1', port: 0 } } })
  await seat.listen('server', server)
  const commands = {
    async ready() {
      const start = now()
      const state = stateful ? await seat.inherit() : undefined
      await seat.ready(stateful ? { freeze } : {})
      const end = now()
      for (const connection of state?.live ?? []) connection.injectInto(server)
      return { took: end - start, queued: end - (state?.frozen ?? end), ...server.address() }
    },
    giveUp: () => seat[Symbol.asyncDispose](),
    stop: () => void seat.stop()
  }
  const lines = createInterface({ input: process.stdin })
  tell('listens')
  for await (const line of lines) tell((await commands[line]()) ?? null)
}

// --- The near end

const started = new Set()
process.on('exit', () => {
  for (const child of started) child.kill('SIGKILL')
})

/** Starts one that takes over as soon as it is asked. */
async function startSeat(path) {
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1], workload, 'seat', path], {
    stdio: ['pipe', 'pipe', 'inherit']
  })
  started.add(child)
  const exited = once(child, 'exit')
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const line = async () => {
    const { done, value } = await lines.next()
    if (done) throw new Error('a process that serves has ended')
    return JSON.parse(value)
  }
  await line()
  return {
    pid: child.pid,
    ask(command) {
      child.stdin.write(`${command}\n`)
      return line()
    },
    /** Resolves when it has ended, as it does by itself. */
    async ended() {
      child.stdin.end()
      const [code, signal] = await exited
      started.delete(child)
      if (code !== 0) throw new Error(`a process that serves exited with ${code ?? signal}`)
    }
  }
}

/** The connections that go along. Each byte comes back, whoever serves. */
async function dial(port) {
  const sockets = Array.from({ length: count }, () => connect(port, '127.0.0.1'))
  const answers = sockets.map(socket => {
    const waiting = []
    const fail = () => {
      throw new Error('a connection is lost')
    }
    socket.on('data', bytes => {
      for (const byte of bytes) waiting.shift()(byte)
    })
    socket.on('error', fail).on('end', fail)
    return waiting
  })
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  let round = 0
  return {
    async check() {
      round = (round + 1) & 255
      const bytes = await Promise.all(
        sockets.map((socket, index) => {
          socket.write(Buffer.of(round))
          return new Promise(resolve => answers[index].push(resolve))
        })
      )
      if (bytes.some(byte => byte !== round)) throw new Error('a connection has another one’s bytes')
    },
    close() {
      for (const socket of sockets) socket.removeAllListeners('end').destroy()
    }
  }
}

/** A request with a connection of its own. Resolves to the process that has answered, and to the time in ms. */
function request(port) {
  const start = now()
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect({ port, host: '127.0.0.1' })
    socket.setEncoding('latin1').on('error', reject)
    socket.on('data', part => {
      text += part
    })
    socket.on('end', () => {
      const [, pid] = /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\n(\d+)\n$/.exec(text) ?? []
      if (pid === undefined) reject(new Error(`the answer is ${JSON.stringify(text)}`))
      else resolve({ pid: Number(pid), time: now() - start })
    })
    socket.write('GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n')
  })
}

/** One after the other is sent, whether those before are answered or not, until `done` has come. */
async function requests(port, done) {
  const under = []
  const timer = setInterval(() => {
    const one = request(port)
    one.catch(() => {}) // it is awaited below
    under.push(one)
  }, PAUSE)
  try {
    await done
  } finally {
    clearInterval(timer)
  }
  return Promise.all(under)
}

const quantile = (values, part) => values.sort((a, b) => a - b)[Math.floor(values.length * part)]
const openDescriptors = pid => readdirSync(`/proc/${pid}/fd`).length

async function near() {
  process.once('SIGTERM', () => process.exit(1))
  const path = socketPath()
  let owner = await startSeat(path)
  const { port } = await owner.ask('ready')
  const connections = await dial(port)
  await connections.check()

  const replace = async () => {
    const next = await startSeat(path)
    if (variant === 'boot') {
      await next.ask('giveUp')
      await next.ended()
      return undefined
    }
    const told = await next.ask('ready')
    const before = owner
    owner = next
    await connections.check()
    await before.ended()
    return told
  }
  /** Again and again, for `time` ms. */
  const takeovers = async time => {
    const all = []
    const start = now()
    do {
      if (variant === 'quiet') await sleep(time)
      else all.push(await replace())
    } while (now() - start < time)
    return all
  }
  const phase = async time => {
    if (stateful) {
      const all = await takeovers(time)
      const of = name =>
        quantile(
          all.map(one => one[name]),
          0.5
        )
      return `${of('took')} queued=${of('queued')}`
    }
    const done = takeovers(time)
    done.catch(() => {}) // it is awaited in there
    const answers = await requests(port, done)
    const { pid } = await request(port)
    if (pid !== owner.pid) throw new Error(`${pid} has answered, not ${owner.pid}`)
    if (process.env.BENCH_DETAIL)
      console.error(answers.length, 'requests,', new Set(answers.map(answer => answer.pid)).size, 'processes')
    return String(
      quantile(
        answers.map(({ time }) => time),
        0.99
      ) * 1000
    )
  }
  await phase(WARM_UP)
  const before = openDescriptors(owner.pid)
  console.log('ready')
  for await (const _ of createInterface({ input: process.stdin })) console.log(await phase(LONGER * MEASURED))
  const deadline = now() + PATIENCE
  while (openDescriptors(owner.pid) > before) {
    if (now() > deadline) throw new Error('descriptors are left open')
    await sleep(20)
  }
  connections.close()
  await owner.ask('stop')
  await owner.ended()
}

await { near, seat: serve }[role]()
