/** A store in one process is replaced by that in the other one, with what a client has put into it. */
import { join } from 'node:path'
import { Descriptor } from '../../../build/dist/index.js'
import { connectStore, openStore } from '../../../build/dist/store/index.js'

const NAME = 'kept'
const VALUE = 7

async function opened(folder, round) {
  const store = await openStore(join(folder, 'store'), { takeover: true })
  store.on('acceptError', () => {})
  round.later(() => store.close())
  return store
}

/** What a new client finds in the store. */
async function found(folder, round) {
  const client = await connectStore(join(folder, 'store'), { reconnectTimeout: round.limit(3000) })
  try {
    const copy = await client.copy(NAME)
    for (const each of copy?.descriptors ?? []) each.close()
    return copy?.value
  } finally {
    await client.close()
  }
}

export function far(folder) {
  return {
    async prepare(round) {
      const store = await opened(folder, round)
      const client = await connectStore(join(folder, 'store'))
      await client.put(NAME, [Descriptor.memfd('stored', { size: 10 })], { value: VALUE })
      await client.close()
      // Runs before the store is closed. Whatever becomes of a successor: as long as this one answers, it has everything
      round.later(async () => {
        if (store.superseded) return
        const value = await round.attempt('the value in the first store', () => found(folder, round))
        if (value !== VALUE && !store.superseded) round.problems.push(`the first store has ${JSON.stringify(value)}`)
      })
    }
  }
}

export function near(folder) {
  let store
  let isLost = false
  process.on('warning', ({ code }) => {
    isLost ||= code === 'PASSFD_TAKEOVER_STATELOST'
  })
  return {
    async run(round) {
      isLost = false
      store = await round.attempt('the second store', () => opened(folder, round))
    },
    async check(round) {
      if (store === undefined) return
      const value = await round.attempt('the value in the second store', () => found(folder, round))
      // The other one was killed before this one asked, or before it gave what it had, which is reported
      const mayLack = round.alone && (isLost || store.predecessor === undefined)
      if (value !== VALUE && !mayLack) round.problems.push(`the second store has ${JSON.stringify(value)}`)
    }
  }
}
