import { readFileSync } from 'node:fs'
import { SocketWire } from '../../src/channel/wire.ts'
import { native } from '../../src/os/native.ts'
import { test, until } from '../helpers/test.ts'

const EAGAIN = -11
const NONE = new Int32Array(0)
/** What each channel's socket is given anyhow. */
const SMALL = 212_992

test('what is large gets more room in the socket', async t => {
  const most = Number(readFileSync('/proc/sys/net/core/wmem_max', 'utf8'))
  const slab = Buffer.alloc(65_536)
  const large = Buffer.alloc(65_537)
  const ways = [
    (wire: SocketWire, bytes: Buffer) => wire.send(bytes, 0, bytes.length, NONE, 0),
    (wire: SocketWire, bytes: Buffer) => wire.sendVector([bytes.subarray(0, 1), bytes], 1, NONE, 0)
  ]
  for (const write of ways) {
    const out = new Int32Array(2)
    native.socketpair(1, out)
    const [left, right] = [out[0]!, out[1]!]
    const wire = new SocketWire(left)
    wire.start({ onReadable: () => {}, onWritable: () => {} })
    while (write(wire, slab) > 0);
    t.is(write(wire, slab), EAGAIN)
    const before = native.pending(right)
    while (write(wire, large) > 0);
    if (most > SMALL) t.true(native.pending(right) > before, 'the kernel allows more')
    else t.is(native.pending(right), before)
    wire.end()
    await until(() => native.pendingCloses() === 0, 'the close')
    native.close(right)
  }
})
