/**
 * Two transports over a socket pair, with codec and frames, and with what the session on top of them does for a descriptor: it is moved, lent,
 * closed in batches, and confirmed. No hello, no credit, no channel.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { Parcel } from '../../build/src/channel/parcel.js'
import { Transport } from '../../build/src/channel/transport.js'
import { SocketWire } from '../../build/src/channel/wire.js'
import { Codec } from '../../build/src/codec/codec.js'
import { Encoded } from '../../build/src/codec/encoded.js'
import { MESSAGE, TAKEN } from '../../build/src/codec/frame.js'
import { lent, moveOutShared } from '../../build/src/descriptor/descriptor.js'
import { Descriptor } from '../../build/src/index.js'
import { native } from '../../build/src/os/native.js'
import { eachWay, measure, small, withFile, workload } from '../workload.mjs'

/** The owner of a transport; `frame` gets what has come. */
class End {
  codec = new Codec()
  encoded = new Encoded()
  transport
  arrived = 0
  #discarded = []
  #taken = 0
  #lender = { message: 'message', pid: process.pid, ended: '', kept: () => {}, discard: fd => this.#discarded.push(fd) }

  constructor(fd) {
    this.codec.records = workload !== 'plain'
    this.transport = new Transport(new SocketWire(fd), this)
    this.transport.wire.start(this.transport)
    this.transport.reader.maxBody = 65536
  }

  send(value) {
    const { transport, encoded } = this
    this.codec.encode(value, 'next', encoded, transport.outgoing)
    const { descriptors } = encoded
    let parcel
    if (descriptors.length > 0) {
      const fds = descriptors.map(descriptor => moveOutShared(descriptor, 'send()'))
      parcel = new Parcel(fds, descriptors, value, -1)
    }
    transport.append(encoded, MESSAGE, encoded.flags, 0, parcel)
  }

  async until(count) {
    while (this.arrived < count) await turn()
  }

  onFrame(frame) {
    const { kind, id, fds } = frame
    if (kind === TAKEN) {
      this.transport.wire.discard(this.transport.onTaken(id).closing, undefined)
      return true
    }
    const descriptors = fds.map(fd => lent(fd, this.#lender))
    const value = this.codec.decode(frame, descriptors)
    if (value.id !== this.arrived++) throw new Error(`${value.id} came as number ${this.arrived - 1}`)
    for (const descriptor of descriptors) descriptor.close()
    this.#taken += fds.length
    return true
  }

  onReadDone() {
    if (this.#taken === 0) return
    this.transport.appendBare(TAKEN, this.#taken)
    this.#taken = 0
    this.transport.flush()
    this.transport.wire.discard(this.#discarded, undefined)
    this.#discarded = []
  }

  onViolation(error) {
    throw error
  }

  onProgress() {}
  onReadEnd() {}

  onWriteError(errno) {
    throw new Error(`writing failed: ${errno}`)
  }

  onUnwritable(cause) {
    throw cause
  }
}

const numbers = new Int32Array(2)
native.socketpair(1, numbers)
const near = new End(numbers[0])
const far = new End(numbers[1])
const source = Descriptor.openSync('/dev/null')

const phase = eachWay({
  size: workload === 'descriptor' ? 64 : 256,
  burst: async (first, size) => {
    if (first === 0) far.arrived = 0
    for (let id = first; id < first + size; id++)
      near.send(workload === 'descriptor' ? withFile(id, source.dup()) : small(id))
    near.transport.flush()
    await far.until(first + size)
  }
})

await measure(phase, async () => ({ open: 0 }))
source.close()
near.transport.end()
far.transport.end()
