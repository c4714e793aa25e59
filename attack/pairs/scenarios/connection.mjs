/** A live TCP connection: taken in one process, sent, injected into the server of the other one. */
import { once } from 'node:events'
import net from 'node:net'
import { join } from 'node:path'
import { Connection, connect, listen } from '../../../build/dist/index.js'

const optionsOf = round => ({
  handshakeTimeout: round.limit(1000),
  closeTimeout: round.limit(1000),
  requestTimeout: round.limit(2000)
})

export async function far(folder) {
  const target = net.createServer(socket => {
    socket.on('error', () => {}).on('data', data => socket.end(data))
    // A hostile peer may keep the other end for ever
    if (process.env.HOSTILE !== undefined) socket.setTimeout(200, () => socket.destroy())
  })
  const server = await listen(join(folder, 'socket'))
  server.on('acceptError', () => {})
  server.on('channel', channel =>
    channel.serve(({ value: { connection } }) => {
      connection.injectInto(target)
    })
  )
  return {}
}

export async function near(folder) {
  let client
  let accepted
  const server = net.createServer({ pauseOnConnect: true }, socket => accepted(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    async prepare(round) {
      const arrived = new Promise(resolve => {
        accepted = resolve
      })
      client = net.connect(server.address().port, '127.0.0.1')
      const echo = new Promise(resolve => {
        let text = ''
        client.on('data', data => {
          text += data
        })
        client.on('error', () => {})
        client.on('close', () => resolve(text))
      })
      round.socket = (await arrived).on('error', () => {})
      round.later(async () => {
        round.socket.destroy()
        if (!round.isMoved) client.destroy()
        const text = await echo
        if (text !== 'hello' && (text !== '' || (round.isMoved && !round.alone)))
          round.problems.push(`the client was answered ${JSON.stringify(text)}`)
      })
    },
    async run(round) {
      const channel = await round.settled('connect', connect(join(folder, 'socket'), optionsOf(round)))
      if (channel === undefined) return
      client.write('hello')
      const connection = await round.attempt('take', () => Connection.take(round.socket))
      if (connection !== undefined) {
        round.isMoved = await round.attempt('move', () => channel.request({ connection }).then(() => true))
        if (!round.isMoved && !connection.closed) connection.close()
      }
      await round.settled('close', channel.close())
    }
  }
}
