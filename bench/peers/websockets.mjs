/**
 * Echoes of ws, npm's WebSocket server: `passfd` (its http server in workers of passfd/prefork), `alone` (one plain process). Gives echoes a second, and as
 * `p99` µs, as `memory` bytes that the server's processes have grown by for each connection.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import { WebSocketServer } from 'ws'
import {
  childrenOf,
  closedAgain,
  listenAt,
  MEASURED,
  openDescriptors,
  proportionalSet,
  role,
  startParent,
  untilEnd,
  variant,
  WARM_UP,
  WORKERS
} from '../prefork.mjs'

/** Open, and with a message under way. */
const ALL = Number(process.env.BENCH_SOCKETS ?? 10_000)
const ACTIVE = ALL / 10

function echoing() {
  const server = createServer()
  const sockets = new WebSocketServer({ server, perMessageDeflate: false })
  sockets.on('connection', socket => {
    socket.on('error', () => {}) // the load closes all of them in the end
    socket.on('message', (bytes, isBinary) => socket.send(bytes, { binary: isBinary }))
  })
  return server
}

async function parent() {
  if (variant === 'alone') {
    await once(echoing().listen(listenAt), 'listening')
    return untilEnd(() => process.exit())
  }
  const { Supervisor } = await import('../../dist/prefork/index.js')
  const supervisor = new Supervisor({
    entry: new URL(import.meta.url),
    spawn: { args: [process.argv[2], 'worker'] },
    listeners: { bench: listenAt },
    workers: WORKERS
  })
  await supervisor.start()
  await untilEnd(() => supervisor.stop())
}

async function worker() {
  const { joinSupervisor } = await import('../../dist/prefork/index.js')
  const joined = await joinSupervisor()
  await joined.listen('bench', echoing())
  await joined.ready()
}

async function near() {
  const parent = await startParent()
  const processes = [parent.pid, ...childrenOf(parent.pid)]
  const before = processes.map(openDescriptors)
  const memory = () => processes.reduce((sum, pid) => sum + proportionalSet(pid), 0)
  const without = memory()
  const { host, port } = listenAt
  const load = spawn(process.argv[4], [ALL, ACTIVE, host, port].map(String), { stdio: ['pipe', 'pipe', 'inherit'] })
  process.once('exit', () => load.kill())
  const exited = once(load, 'exit')
  const lines = createInterface({ input: load.stdout })[Symbol.asyncIterator]()
  const line = async () => {
    const { done, value } = await lines.next()
    if (done) throw new Error('the load has ended')
    return value
  }
  const phase = async time => {
    load.stdin.write(`${time}\n`)
    return JSON.parse(await line())
  }
  await line()
  const grown = (memory() - without) / ALL
  await phase(WARM_UP)
  console.log('ready')
  for await (const _ of createInterface({ input: process.stdin })) {
    const { echoes, seconds, p99 } = await phase(MEASURED)
    console.log(`${echoes / seconds} p99=${p99} memory=${grown}`)
  }
  load.stdin.end()
  const [code, signal] = await exited
  if (code !== 0) throw new Error(`the load exited with ${code ?? signal}`)
  await closedAgain(processes, before)
  await parent.end()
}

await { near, parent, worker }[role]()
