/** Two channels in one process: everything, from `send` to the handler. */
import { setImmediate as turn } from 'node:timers/promises'
import { connect, Descriptor, pair } from '../../dist/index.js'
import { eachWay, measure, small, withFile, workload } from '../workload.mjs'

const options = { records: workload !== 'plain' }
const [near, other] = pair(options)
const far = await connect(other, options)
const source = Descriptor.openSync('/dev/null')
let arrived = 0

far.serve(({ value, descriptors }) => {
  if (value.id !== arrived++) throw new Error(`${value.id} came as number ${arrived - 1}`)
  for (const descriptor of descriptors) descriptor.close()
})

const phase = eachWay({
  size: workload === 'descriptor' ? 64 : 256,
  burst: async (first, size) => {
    if (first === 0) arrived = 0
    for (let id = first; id < first + size; id++)
      near.send(workload === 'descriptor' ? withFile(id, source.dup()) : small(id))
    while (arrived < first + size) await turn()
  }
})

await measure(phase, async () => ({ open: 0 }))
source.close()
await near.close()
