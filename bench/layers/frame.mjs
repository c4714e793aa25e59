/** Frames alone: headers written one behind the other, as the transport does, and the reader that takes them apart. */
import { Codec } from '../../build/src/codec/codec.js'
import { Encoded } from '../../build/src/codec/encoded.js'
import { FrameReader, HEADER, MESSAGE, RECORDS, writeHeader } from '../../build/src/codec/frame.js'
import { Descriptor } from '../../build/src/index.js'
import { eachWay, measure, small, withFile, workload } from '../workload.mjs'

const HEADROOM = 65536
const area = Buffer.alloc(2 * HEADROOM)
const count = workload === 'descriptor' ? 1 : 0
const flags = workload === 'plain' ? 0 : RECORDS
const length = bodyLength()
const skip = -length & 7

/** As the second one of its shape has it: the first defines the record. */
function bodyLength() {
  const codec = new Codec()
  codec.records = workload !== 'plain'
  const file = count > 0 ? Descriptor.openSync('/dev/null') : undefined
  const value = file === undefined ? small(1) : withFile(1, file)
  codec.encode(value, 'next', new Encoded())
  const { length } = codec.encode(value, 'next', new Encoded())
  file?.close()
  return length
}

let found = 0
const sink = {
  onFrame(frame) {
    if (frame.length !== length || frame.count !== count) throw new Error('another frame came')
    found++
    return true
  }
}
const reader = new FrameReader(sink, area, HEADROOM)

const phase = eachWay({
  burst: (first, size) => {
    let at = HEADROOM
    for (let i = 0; i < size; i++) {
      writeHeader(area, at, length, MESSAGE, count, flags | skip, 0)
      at += HEADER + length + skip
    }
    found = 0
    reader.received(at - HEADROOM)
    if (found !== size) throw new Error(`${found} of ${size} frames came, after ${first}`)
  }
})

await measure(phase, async () => ({ open: 0 }))
