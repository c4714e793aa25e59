// One of two processes: node --expose-gc ends.mjs PART near|far PATH [COUNT]. `near` does the part's work and prints a line of JSON at its begin and after each tenth of it.
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createServer, connect as dial } from 'node:net'
import { fileURLToPath } from 'node:url'
import { Connection, connect, Descriptor, listen } from '../../build/dist/index.js'
import { native } from '../../build/dist/os/native.js'
import { joinSupervisor, Supervisor } from '../../build/dist/prefork/index.js'

const [, , part, side, path, count] = process.argv
const TENTHS = 10
/** Of these at once. */
const CONNECTIONS = 16
/** A connection is passed to and fro so often, on average. */
const HOPS = 10

const parts = {
  /** One way, some with a descriptor, every 256th a request. */
  messages: {
    async far() {
      const server = await listen(path)
      let next = 0
      server.serve(message => {
        const { value } = message
        if (value.report) return facts()
        if (value.id !== next++) throw new Error(`${value.id} came as number ${next - 1}`)
        if (value.file !== undefined && next % 2 === 0) value.file.claim().close()
        return message.isRequest ? { id: value.id } : undefined
      })
      endWith(server)
    },
    async near() {
      const channel = await connect(path)
      const file = Descriptor.openSync('/dev/null')
      const block = Buffer.alloc(300, 7)
      let id = 0
      await inTenths(
        async many => {
          for (const end = id + many; id < end; id++) {
            if (id % 256 === 255) await channel.request({ id, block })
            else if (id % 64 === 0) channel.send({ id, file: file.dup() })
            else channel.send({ id, type: 'open', path: '/var/log/app', mode: 420 })
          }
        },
        () => channel.request({ report: true })
      )
      file.close()
      await channel.close()
    }
  },

  /** Each goes to and fro between servers of the two processes, and ends in this one, which says 'bye' to the client. */
  connections: {
    async far() {
      const server = await listen(path)
      server.once('channel', async channel => {
        const echo = await hopping(channel, `${path}-far`, socket => echo.pass(socket))
        channel.serve(({ value }) => {
          if (value.report) return facts()
          echo.take(value.connection.claim())
        })
        channel.closed.then(() => echo.server.close())
      })
      endWith(server)
    },
    async near() {
      const channel = await connect(path)
      let left = 0
      const web = await hopping(channel, `${path}-near`, socket => {
        left--
        if (left <= 0 || left % HOPS === 0) socket.end('bye')
        else web.pass(socket)
      })
      channel.serve(({ value }) => web.take(value.connection.claim()))
      const client = async () => {
        while (left > 0) {
          const socket = dial(`${path}-near`)
          let text = ''
          for await (const bytes of socket) text += bytes
          if (text !== 'bye') throw new Error(`a client was told ${JSON.stringify(text)}`)
        }
      }
      await inTenths(
        async many => {
          left = many
          await Promise.all(Array.from({ length: CONNECTIONS }, client))
        },
        () => channel.request({ report: true })
      )
      web.server.close()
      await channel.close()
    }
  },

  /** `near` is the supervisor, `far` each of its workers. */
  reloads: {
    async far() {
      const worker = await joinSupervisor()
      await worker.listen(
        'web',
        createServer(socket => socket.on('error', () => {}).end(`${process.pid}`))
      )
      await worker.ready()
    },
    async near() {
      const supervisor = new Supervisor({
        entry: fileURLToPath(import.meta.url),
        spawn: { args: [part, 'far', path] },
        listeners: { web: { path } },
        workers: 2
      })
      await supervisor.start()
      let last = ''
      await inTenths(
        async many => {
          for (let turn = 0; turn < many; turn++) {
            await supervisor.reload()
            let text = ''
            for await (const bytes of dial(path)) text += bytes
            if (text === '' || text === last) throw new Error(`after a reload ${text || 'nobody'} answers`)
            last = text
          }
        },
        () => undefined
      )
      await supervisor.stop()
    }
  }
}

/** A server whose connections `onConnection` may pass to the other process, and which takes those that come back. */
async function hopping(channel, address, onConnection) {
  const server = createServer(socket => onConnection(socket.on('error', () => {})))
  await once(server.listen(address), 'listening')
  return {
    server,
    async pass(socket) {
      await channel.send({ connection: await Connection.take(socket) })
    },
    take(connection) {
      connection.injectInto(server)
    }
  }
}

/** `work(many)` does a tenth of what is to be done; `ask` gives the facts of the other process. */
async function inTenths(work, ask) {
  const print = async done => console.log(JSON.stringify({ done, far: await ask(), near: facts() }))
  await work(Math.ceil(count / TENTHS / 10)) // once everything
  for (let tenth = 0; tenth <= TENTHS; tenth++) {
    if (tenth > 0) await work(Math.ceil(count / TENTHS))
    await print(tenth)
  }
}

function endWith(server) {
  server.once('channel', channel => channel.closed.then(() => server.close()))
  console.log('{}')
}

function facts() {
  for (let turn = 0; turn < 2; turn++) globalThis.gc()
  const { rss, heapUsed, external } = process.memoryUsage()
  return { rss, heapUsed, external, open: readdirSync('/proc/self/fd').length, held: native.held() }
}

await parts[part][side]()
