/** passfd itself: `connect` here, `listen` and `serve` there. */
import { connect, Descriptor, listen } from '../../dist/index.js'
import {
  address,
  bulk,
  checkBlock,
  isFar,
  measure,
  oneWay,
  pipelined,
  roundTrips,
  small,
  socketPath,
  startFar,
  Tally,
  withFile,
  workload
} from '../workload.mjs'

const options = {
  records: workload !== 'messages',
  spin: workload === 'request-spin' ? 50 : 0,
  lendBuffers: workload === 'bulk-lent'
}
const descriptorsEach = { descriptors: 1, 'request-descriptor': 1, 'descriptors-many': 64 }[workload] ?? 0

async function far() {
  const server = await listen(address, options)
  const tally = new Tally()
  server.serve(({ value, isRequest, descriptors }) => {
    const report = tally.take(value)
    if (report !== undefined) return report
    if (value.block !== undefined) checkBlock(value)
    if (descriptors.length !== descriptorsEach) throw new Error(`${descriptors.length} descriptors came`)
    for (const descriptor of descriptors) descriptor.close()
    return isRequest ? { id: value.id } : undefined
  })
  server.on('channel', channel => channel.once('close', () => server.close()))
  console.log('listening')
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const channel = await connect(path, options)
  const source = Descriptor.openSync('/dev/null')
  const mark = (what = true) => channel.request({ mark: what })
  await measure(workloads[workload](channel, mark, source), mark)
  source.close()
  await channel.close()
}

/** Only the last `send` of a burst is awaited. */
const bursts = (channel, mark, make, size) =>
  oneWay({
    size,
    mark,
    burst: (first, count) => {
      for (let id = first; id < first + count - 1; id++) channel.send(make(id))
      return channel.send(make(first + count - 1))
    }
  })

const workloads = {
  messages: (channel, mark) => bursts(channel, mark, small),
  'messages-records': (channel, mark) => bursts(channel, mark, small),
  'messages-awaited': (channel, mark) =>
    oneWay({
      mark,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++) await channel.send(small(id))
      }
    }),
  // Descriptors are moved, so each message needs one of its own: making it and closing our copy are part of the work
  descriptors: (channel, mark, source) => bursts(channel, mark, id => withFile(id, source.dup())),
  'descriptors-many': (channel, mark, source) => {
    const phase = bursts(channel, mark, id => ({ id, files: Array.from({ length: 64 }, () => source.dup()) }), 4)
    return async time => 64 * (await phase(time))
  },
  request: (channel, mark) => roundTrips({ mark, request: id => channel.request(small(id)) }),
  'request-spin': (channel, mark) => roundTrips({ mark, request: id => channel.request(small(id)) }),
  'request-descriptor': (channel, mark, source) =>
    roundTrips({ mark, request: id => channel.request(withFile(id, source.dup())) }),
  'requests-pipelined': (channel, mark) =>
    pipelined({ inFlight: 100, mark, request: id => channel.request(small(id)) }),
  'requests-one-at-a-time': (channel, mark) =>
    pipelined({ inFlight: 1, mark, request: id => channel.request(small(id)) }),
  bulk: (channel, mark) => bulk({ mark, send: value => channel.send(value) }),
  'bulk-lent': (channel, mark) => bulk({ mark, send: value => channel.send(value) })
}

await (isFar ? far() : near())
