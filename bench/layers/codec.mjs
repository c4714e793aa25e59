/** Bodies alone: encoded one behind the other into a slab, as the transport lays them out, and decoded from there. */
import { Codec } from '../../build/src/codec/codec.js'
import { Encoded } from '../../build/src/codec/encoded.js'
import { HEADER } from '../../build/src/codec/frame.js'
import { Descriptor } from '../../build/src/index.js'
import { eachWay, measure, small, withFile, workload } from '../workload.mjs'

const near = new Codec()
const far = new Codec()
near.records = far.records = workload !== 'plain'
const space = { slab: Buffer.allocUnsafeSlow(65536), slabEnd: 0 }
const encoded = new Encoded()
const body = { bytes: space.slab, start: 0, end: 0, flags: 0, owned: false }
// Neither side takes it over: that is the session's
const file = workload === 'descriptor' ? Descriptor.openSync('/dev/null') : undefined
const files = file === undefined ? [] : [file]
const starts = new Int32Array(256)
const ends = new Int32Array(256)

const phase = eachWay({
  burst: (first, size) => {
    space.slabEnd = 0
    for (let i = 0; i < size; i++) {
      near.encode(file === undefined ? small(first + i) : withFile(first + i, file), 'next', encoded, space)
      if (encoded.bytes !== space.slab || encoded.start !== space.slabEnd)
        throw new Error('it was not encoded in place')
      body.flags = encoded.flags
      starts[i] = encoded.start + HEADER
      ends[i] = encoded.end
      space.slabEnd = encoded.end + (-encoded.end & 7)
    }
    for (let i = 0; i < size; i++) {
      body.start = starts[i]
      body.end = ends[i]
      const value = far.decode(body, files)
      if (value.id !== first + i) throw new Error(`${value.id} came as number ${first + i}`)
    }
  }
})

await measure(phase, async () => ({ open: 0 }))
file?.close()
