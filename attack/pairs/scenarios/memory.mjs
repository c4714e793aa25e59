/** Shared memory and loans of a pool, through a channel. */
import { join } from 'node:path'
import { connect, listen } from '../../../build/dist/index.js'
import { MemoryPool, PoolReader, SharedMemory } from '../../../build/dist/memory/index.js'

const optionsOf = round => ({
  handshakeTimeout: round.limit(1000),
  closeTimeout: round.limit(1000),
  requestTimeout: round.limit(2000)
})
/** More than a process that lacks memory gets. */
const LARGE = 4 << 20

export async function far(folder) {
  const server = await listen(join(folder, 'socket'))
  server.on('acceptError', () => {})
  server.on('channel', channel => {
    const reader = new PoolReader()
    channel.once('close', () => reader.close())
    channel.serve(({ value: { loan, shared } }) => {
      if (shared !== undefined) {
        const memory = SharedMemory.map(shared)
        const first = memory.bytes[0]
        memory.close()
        return { first }
      }
      const lent = reader.open(loan)
      const first = lent.bytes[0]
      lent.release()
      return { first }
    })
  })
  return {}
}

export function near(folder) {
  return {
    async run(round) {
      const channel = await round.settled('connect', connect(join(folder, 'socket'), optionsOf(round)))
      if (channel === undefined) return
      const memory = await round.attempt('create', () => SharedMemory.create(LARGE))
      if (memory !== undefined) {
        memory.bytes[0] = 5
        const reply = await round.attempt('shared', () => channel.request({ shared: memory.descriptor() }))
        if (reply !== undefined && reply.first !== 5) round.problems.push(`shared memory has ${reply.first}`)
        memory.close()
      }
      const pool = await round.attempt('pool', () => new MemoryPool({ slots: 2, slotSize: 4096 }))
      if (pool !== undefined) {
        for (let number = 1; number <= 4; number++) {
          const slot = await round.attempt('acquire', () =>
            pool.acquire({ signal: AbortSignal.timeout(round.limit(3000)) })
          )
          if (slot === undefined) break
          slot.bytes[0] = number
          const reply = await round.attempt('loan', () =>
            channel.request({ loan: slot.lend(channel, 1) }, { descriptors: 0 })
          )
          if (reply !== undefined && reply.first !== number) round.problems.push(`slot ${number} has ${reply.first}`)
        }
        pool.close()
      }
      await round.settled('close', channel.close())
    }
  }
}
