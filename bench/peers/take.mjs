/**
 * A live TCP connection moves to the server of another process, one at a time: from the call until that server has emitted `'connection'` and
 * this process has heard of it, median in µs. `passfd`: Connection.take(), channel.request(), injectInto(); besides `take` and `inject`, µs of each
 * alone. `process-send`: a handle of process.send(). After each move the connection must echo a byte.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectSocket, createServer } from 'node:net'
import { Connection, connect, listen } from '../../dist/index.js'
import {
  address,
  farCommand,
  isFar,
  measure,
  mustEndWell,
  socketPath,
  startFar,
  Tally,
  workload
} from '../workload.mjs'

// --- The far end

const echo = createServer(socket => {
  socket.on('error', () => {}).on('data', bytes => socket.write(bytes))
})
/** A server that never listened would begin to, at the first connection that it is given, and have one descriptor more. */
const echoListens = () => once(echo.listen(0, '127.0.0.1'), 'listening')

const far = {
  async passfd() {
    const tally = new Tally()
    await echoListens()
    const server = await listen(address)
    server.on('channel', channel => {
      channel.serve(({ value }) => {
        const report = tally.take(value)
        if (report !== undefined) return report
        const start = performance.now()
        value.connection.claim().injectInto(echo)
        const inject = performance.now() - start
        return new Promise(resolve => echo.once('connection', () => resolve({ id: value.id, inject })))
      })
      channel.once('close', () => {
        server.close()
        echo.close()
      })
    })
    console.log('listening')
  },
  async 'process-send'() {
    const tally = new Tally()
    await echoListens()
    process.once('disconnect', () => echo.close())
    process.on('message', (value, socket) => {
      const report = tally.take(value)
      if (report === undefined) echo.emit('connection', socket)
      process.send(report ?? { id: value.id })
    })
  }
}

// --- The near end: `move` resolves to what else it has measured

const near = {
  async passfd() {
    const path = socketPath()
    await startFar(path)
    const channel = await connect(path)
    return {
      async move(id, socket) {
        const start = performance.now()
        const connection = await Connection.take(socket)
        const take = performance.now() - start
        const { id: moved, inject } = await channel.request({ id, connection })
        if (moved !== id) throw new Error(`${moved} is the answer to ${id}`)
        return { take, inject }
      },
      mark: mark => channel.request({ mark }),
      close: () => channel.close()
    }
  },
  async 'process-send'() {
    const [execPath, ...execArgv] = farCommand
    const child = fork(process.argv[1], [workload, 'far'], { execPath, execArgv })
    mustEndWell(child)
    let answered
    child.on('message', answer => answered(answer))
    const ask = (value, socket) =>
      new Promise(resolve => {
        answered = resolve
        child.send(value, socket)
      })
    return {
      async move(id, socket) {
        const answer = await ask({ id }, socket)
        if (answer.id !== id) throw new Error(`${answer.id} is the answer to ${id}`)
      },
      mark: mark => ask({ mark }),
      close: () => child.disconnect()
    }
  }
}

const median = values => values.sort((a, b) => a - b)[values.length >> 1]

async function drive() {
  const { move, mark, close } = await near[workload]()
  const server = createServer({ noDelay: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  const phase = async time => {
    const times = []
    const besides = []
    const start = performance.now()
    do {
      const client = connectSocket(port, '127.0.0.1')
      const [socket] = await once(server, 'connection')
      const asked = performance.now()
      besides.push(await move(times.length, socket))
      times.push(performance.now() - asked)
      client.write('x')
      const [answer] = await once(client, 'data')
      if (answer.toString() !== 'x') throw new Error('the connection has another one’s bytes')
      client.end()
      await once(client, 'close')
    } while (performance.now() - start < time)
    const { count } = await mark(true)
    if (count !== times.length) throw new Error(`${count} of ${times.length} arrived`)
    const of = name => median(besides.map(one => one[name])) * 1000
    const rest = besides[0] === undefined ? '' : ` take=${of('take')} inject=${of('inject')}`
    return `${median(times) * 1000}${rest}`
  }
  await measure(phase, mark)
  server.close()
  await close()
}

await (isFar ? far[workload]() : drive())
