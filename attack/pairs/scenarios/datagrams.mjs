/** Datagrams with descriptors to a bound socket, which answers each sender. */
import { join } from 'node:path'
import { bind, connect } from '../../../build/dist/datagram/index.js'
import { writeId } from '../round.mjs'

export async function far(folder) {
  const path = join(folder, 'socket')
  let socket
  const open = async () => {
    socket = await bind({ path })
    socket.on('message', message => {
      for (const each of message.descriptors) writeId(each, Number(message.data ?? message.bytes))
      if (message.from !== undefined) message.reply('received').catch(() => {})
    })
    socket.on('error', () => {})
  }
  await open()
  return {
    // A datagram socket has no connections: if its own socket fails for good, the program opens it again
    prepare(round) {
      round.later(async () => {
        if (await isClosed(socket)) await open()
      })
    }
  }
}

function isClosed(socket) {
  return Promise.race([socket.closed.then(() => true), new Promise(resolve => setImmediate(resolve, false))])
}

export function near(folder) {
  let pipes
  return {
    prepare(round) {
      pipes = Array.from({ length: 5 }, () => round.pipe())
    },
    async run(round) {
      const socket = await round.settled(
        'connect',
        connect({ path: join(folder, 'socket') }, { from: { path: join(folder, 'near') } })
      )
      if (socket === undefined) return
      let answers = 0
      let isComplete
      const complete = new Promise(resolve => {
        isComplete = resolve
      })
      const sent = await Promise.all(
        pipes.map(({ id, writable }) =>
          round.attempt('send', () => socket.send(`${id}`, { descriptors: [writable] }).then(() => true))
        )
      )
      const expected = sent.filter(Boolean).length
      socket.on('message', () => {
        if (++answers === expected) isComplete()
      })
      await Promise.race([complete, socket.closed, new Promise(resolve => setTimeout(resolve, 50))])
      await round.settled('close', socket.close())
      await round.settled('closed', socket.closed)
    }
  }
}
