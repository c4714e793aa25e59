/**
 * A copy of a descriptor from another process, one at a time, median in µs: `copy` (of an entry of passfd/store), `channel` (the reply to a bare request
 * carries one). Each is closed.
 */
import { connect, Descriptor, listen } from '../../dist/index.js'
import { connectStore, openStore } from '../../dist/store/index.js'
import { address, control, isFar, measure, roundTrips, socketPath, startControlled, workload } from '../workload.mjs'

const NAME = 'bench'

async function far() {
  if (workload === 'copy') await openStore(address)
  else {
    const source = Descriptor.openSync('/dev/null')
    const server = await listen(address)
    server.on('channel', channel => channel.serve(({ value: { id } }) => ({ id, file: source.dup() })))
  }
  await control(() => ({}))
}

/** Each: `{ request, close }`; `request` resolves when the descriptor has come, and has been closed. */
const nears = {
  async copy(path) {
    const store = await connectStore(path)
    await store.put(NAME, Descriptor.openSync('/dev/null'))
    return {
      async request(id) {
        const { descriptors } = await store.copy(NAME)
        for (const descriptor of descriptors) descriptor.close()
        return { id }
      },
      close: () => store.close()
    }
  },
  async channel(path) {
    const channel = await connect(path)
    return {
      async request(sent) {
        const { id, file } = await channel.request({ id: sent })
        file.close()
        return { id }
      },
      close: () => channel.close()
    }
  }
}

async function near() {
  const path = socketPath()
  const store = await startControlled(path)
  const { request, close } = await nears[workload](path)
  // Each answer is awaited, so this end alone knows how many there were
  let count = 0
  const counted = async id => {
    const answer = await request(id)
    count++
    return answer
  }
  const mark = async open => {
    const report = open === undefined ? { count } : await store.ask()
    count = 0
    return report
  }
  await measure(roundTrips({ request: counted, mark }), mark)
  await close()
  await store.end()
}

await (isFar ? far() : near())
