/**
 * The parent accepts by net.Server({ pauseOnConnect }) and passes each connection to the next worker: by a channel of passfd
 * (`passfd:MODE`), as somebody without the supervisor would do it, or by Node's own (`process-send:MODE`).
 */
import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { Connection, connect, Descriptor, pair } from '../../dist/index.js'
import { listenAt, mode, near, newReceiver, newServer, role, untilEnd, variant, WORKERS } from '../prefork.mjs'

const WORKER = [process.argv[1], process.argv[2], 'worker']

const parents = {
  /** Each gives the child, when it is ready, and how to pass a socket to it. */
  passfd() {
    const [channel, end] = pair()
    const child = spawn(process.execPath, WORKER, { stdio: ['ignore', 'inherit', 'inherit', end.borrow()] })
    end.close()
    return {
      child,
      ready: once(channel, 'message'),
      pass(socket) {
        channel.send(Descriptor.from(socket))
        socket.destroy()
      },
      end: () => channel.close()
    }
  },
  'process-send'() {
    const child = fork(WORKER[0], WORKER.slice(1))
    return {
      child,
      ready: once(child, 'message'),
      pass: socket => child.send('connection', socket),
      end: () => child.disconnect()
    }
  }
}

async function parent() {
  const workers = Array.from({ length: WORKERS }, parents[variant])
  await Promise.all(workers.map(({ ready }) => ready))
  let next = 0
  const server = createServer({ pauseOnConnect: true }, socket => workers[next++ % WORKERS].pass(socket))
  server.listen(listenAt)
  await once(server, 'listening')
  await untilEnd(async () => {
    server.close()
    const exits = workers.map(({ child }) => once(child, 'exit'))
    for (const { end } of workers) end()
    await Promise.all(exits)
  })
}

async function worker() {
  const receive = mode === 'bare' && variant === 'passfd' ? newReceiver() : undefined
  const server = receive === undefined ? newServer() : undefined
  if (variant === 'process-send') {
    process.on('message', (_, socket) => socket && server.emit('connection', socket))
    process.once('disconnect', () => process.exit())
    process.send('ready')
    return
  }
  const channel = await connect(Descriptor.adopt(3))
  channel.on('message', ({ value }) =>
    receive === undefined ? new Connection(value).injectInto(server) : receive(value.claim())
  )
  channel.send('ready')
  await channel.closed
  process.exit()
}

await { near: () => near({ dispatches: true }), parent, worker }[role]()
