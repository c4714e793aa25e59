/** A channel: descriptors moved both ways, requests, errors of a handler, a large value, many at once. */
import { join } from 'node:path'
import { connect, Descriptor, listen } from '../../../build/dist/index.js'
import { writeId } from '../round.mjs'

const optionsOf = round => ({
  handshakeTimeout: round.limit(1000),
  closeTimeout: round.limit(1000),
  requestTimeout: round.limit(2000)
})
const LARGE = Buffer.alloc(300_000, 7)

export async function far(folder) {
  const server = await listen(join(folder, 'socket'))
  server.on('acceptError', () => {})
  server.on('channel', channel => {
    channel.serve(async ({ value: { id, pipe, bytes, refuse, lend } }) => {
      if (pipe !== undefined) writeId(pipe, id)
      if (refuse) throw new Error('refused')
      if (lend) {
        const { readable, writable } = Descriptor.pipe()
        writable.close()
        return { id, readable }
      }
      return { id, length: bytes?.length }
    })
  })
  return {}
}

export function near(folder) {
  let pipes
  return {
    prepare(round) {
      pipes = Array.from({ length: 12 }, () => round.pipe())
    },
    async run(round) {
      const channel = await round.settled('connect', connect(join(folder, 'socket'), optionsOf(round)))
      if (channel === undefined) return
      channel.on('returned', ({ value, state }) => {
        if (value.id === undefined || !['unsent', 'unconfirmed', 'refused'].includes(state))
          round.problems.push(`returned: ${JSON.stringify(value)}, ${state}`)
      })
      const [first, second, third, ...others] = pipes
      await round.attempt('send', () => channel.send({ id: first.id, pipe: first.writable }))
      const reply = await round.attempt('request', () =>
        channel.request({ id: second.id, pipe: second.writable, lend: true })
      )
      if (reply !== undefined) {
        if (reply.id !== second.id) round.problems.push(`the reply to ${second.id} is that to ${reply.id}`)
        reply.readable.close()
      }
      const refused = await round.attempt('refused request', async () => {
        try {
          return await channel.request({ id: third.id, pipe: third.writable, refuse: true })
        } catch (error) {
          if (error.code !== 'ERR_PASSFD_REMOTE') throw error
          return error.remote.message
        }
      })
      if (refused !== undefined && refused !== 'refused')
        round.problems.push(`a handler that throws answers ${refused}`)
      const large = await round.attempt('large request', () => channel.request({ id: 0, bytes: LARGE }))
      if (large !== undefined && large.length !== LARGE.length)
        round.problems.push(`${large.length} bytes have arrived`)
      await Promise.all(
        others
          .map(({ id, writable }) => round.attempt('one of many', () => channel.request({ id, pipe: writable })))
          .concat(round.settled('close', channel.close()))
      )
      await round.settled('closed', channel.closed)
    }
  }
}
