/** A seqpacket socket: packets with descriptors, and their echo. */
import { join } from 'node:path'
import { connectPackets, listenPackets } from '../../../build/dist/stream/index.js'
import { writeId } from '../round.mjs'

export async function far(folder) {
  const server = await listenPackets(join(folder, 'socket'))
  server.on('acceptError', () => {})
  server.on('connection', socket => {
    socket.on('message', ({ bytes, descriptors }) => {
      if (descriptors.length > 0) writeId(descriptors[0], Number(bytes))
      for (const each of descriptors) each.close()
      socket.send(bytes).catch(() => {})
    })
    socket.on('end', () => socket.end().catch(() => {}))
  })
  return {}
}

export function near(folder) {
  let pipes
  return {
    prepare(round) {
      pipes = Array.from({ length: 5 }, () => round.pipe())
    },
    async run(round) {
      const socket = await round.settled('connect', connectPackets(join(folder, 'socket')))
      if (socket === undefined) return
      const sent = pipes.map(({ id }) => `${id}`)
      const echoes = []
      const complete = new Promise(resolve => {
        socket.on('message', ({ bytes }) => {
          echoes.push(`${bytes}`)
          if (echoes.length === sent.length) resolve()
        })
      })
      const results = await Promise.all(
        pipes.map(({ id, writable }, at) => round.attempt('send', () => sendWith(socket, `${id}`, writable, at)))
      )
      if (results.every(Boolean))
        await Promise.race([round.settled('echoes or the end', Promise.race([complete, socket.closed]))])
      await round.attempt('end', () => socket.end())
      const closed = round.settled('closed', socket.closed)
      if (results.some(result => result !== true)) socket.destroy()
      await closed
      if (echoes.some((echo, at) => sent.indexOf(echo) < at))
        round.problems.push(`of ${sent} these came back: ${echoes}`)
    }
  }
}

/** With as many copies: some of a packet's descriptors may find no number. */
async function sendWith(socket, bytes, writable, copies) {
  const all = []
  try {
    while (all.length < copies) all.push(writable.dup())
    await socket.send(bytes, [writable, ...all])
    return true
  } finally {
    for (const each of all) if (!each.closed) each.close()
  }
}
