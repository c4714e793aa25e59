/** A service and a manager that keeps descriptors as systemd does: state, barrier, storing, removal. */
import { join } from 'node:path'
import { bind } from '../../../build/dist/datagram/index.js'
import { Descriptor } from '../../../build/dist/index.js'
import { barrier, notify, removeStored, storeDescriptor } from '../../../build/dist/systemd/index.js'

export async function far(folder) {
  const stored = new Map()
  const path = join(folder, 'notify')
  const remove = name => {
    for (const each of stored.get(name) ?? []) each.close()
    stored.delete(name)
  }
  let socket
  return {
    async prepare(round) {
      socket = await bind({ path })
      socket.on('message', message => {
        const fields = new Map(`${message.data}`.split('\n').map(line => line.split('=')))
        const name = fields.get('FDNAME')
        if (fields.get('FDSTORE') === '1') {
          const { descriptors } = message.claim()
          if (!round.mayFail && process.env.HOSTILE === undefined && descriptors.length !== 1)
            round.problems.push(`${name} is stored with ${descriptors.length} descriptors`)
          stored.set(name, [...(stored.get(name) ?? []), ...descriptors])
        }
        if (fields.get('FDSTOREREMOVE') === '1') remove(name)
      })
      round.later(async () => {
        await socket.close()
        for (const name of stored.keys()) remove(name)
      })
    }
  }
}

export function near(folder) {
  process.env.NOTIFY_SOCKET = join(folder, 'notify')
  return {
    async run(round) {
      await round.settled('ready', notify({ ready: true, status: 'serving' }))
      await round.settled('barrier', barrier({ timeout: round.limit(1000) }))
      const made = await round.attempt('memfd', () => Descriptor.memfd('stored'))
      if (made !== undefined) {
        await round.settled('store', storeDescriptor('kept', made, { timeout: round.limit(1500) }))
        made.close()
      }
      await round.settled('remove', removeStored('kept'))
      await round.settled('stopping', notify({ stopping: true }))
    }
  }
}
