/** A store in one process, a client in the other one: put, copy, take, keep, remove, list. */
import { join } from 'node:path'
import { Descriptor } from '../../../build/dist/index.js'
import { connectStore, openStore } from '../../../build/dist/store/index.js'

export async function far(folder) {
  const store = await openStore(join(folder, 'socket'))
  store.on('acceptError', () => {})
  return {
    /** Removes what clients have left that did not come to an end: a store keeps it. Those that a client had taken come back a moment after its end. */
    async tidy() {
      const client = await connectStore(join(folder, 'socket'))
      for (let entries = await client.list(); entries.length > 0; entries = await client.list())
        for (const { name } of entries)
          await client.remove(name).catch(error => {
            if (error.code !== 'ERR_PASSFD_STORE_LEASED') throw error
          })
      await client.close()
    }
  }
}

let names = 0

export function near(folder) {
  return {
    async run(round) {
      const name = `name-${++names}`
      const client = await round.settled(
        'connect',
        connectStore(join(folder, 'socket'), { reconnectTimeout: round.limit(2000) })
      )
      if (client === undefined) return
      const made = await round.attempt('memfd', () => Descriptor.memfd('stored', { size: 10 }))
      if (made !== undefined) {
        await round.attempt('put', () => client.put(name, [made], { value: { name } }))
        if (!made.closed) made.close()
        const copy = await round.attempt('copy', () => client.copy(name))
        for (const each of copy?.descriptors ?? []) each.close()
        if (copy !== undefined && copy.value?.name !== name)
          round.problems.push(`${name} has the value ${JSON.stringify(copy.value)}`)
        const lease = await round.attempt('take', () => client.take(name))
        if (lease !== undefined) {
          for (const each of lease.descriptors) each.close()
          await round.attempt('keep', () => lease.keep())
        }
        await round.attempt('remove', () => client.remove(name))
        await round.attempt('list', () => client.list())
      }
      await round.settled('close', client.close())
    }
  }
}
