/** Bodies alone: encoded one behind the other into a slab, as the transport lays them out, and decoded from there. */
import { Codec } from '../../dist/codec/codec.js'
import { HEADER } from '../../dist/codec/frame.js'
import { Descriptor } from '../../dist/index.js'
import { eachWay, measure, small, withFile, workload } from '../workload.mjs'

const near = new Codec()
const far = new Codec()
near.records = far.records = workload !== 'plain'
const slab = Buffer.allocUnsafeSlow(65536)
// Neither side takes it over: that is the session's
const file = workload === 'descriptor' ? Descriptor.openSync('/dev/null') : undefined
const files = file === undefined ? [] : [file]
const starts = new Int32Array(256)
const ends = new Int32Array(256)

const phase = eachWay({
  burst: (first, size) => {
    let at = 0
    let flags = 0
    for (let i = 0; i < size; i++) {
      const encoded = near.encode(file === undefined ? small(first + i) : withFile(first + i, file), true, slab, at)
      if (encoded.bytes !== slab || encoded.start !== at) throw new Error('it was not encoded in place')
      flags = encoded.flags
      starts[i] = at + HEADER
      ends[i] = encoded.end
      at = encoded.end + (-encoded.end & 7)
    }
    for (let i = 0; i < size; i++) {
      const value = far.decode(slab, starts[i], ends[i], flags !== 0, files, false)
      if (value.id !== first + i) throw new Error(`${value.id} came as number ${first + i}`)
    }
  }
})

await measure(phase, async () => ({ open: 0 }))
file?.close()
