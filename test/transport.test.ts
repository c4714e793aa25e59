import { TAKEN } from '../src/frame.ts'
import { Transport, type TransportOwner } from '../src/transport.ts'
import type { Wire } from '../src/wire.ts'
import { test } from './helpers/test.ts'

const EAGAIN = -11
const ETOOMANYREFS = -109

/** A transport over a socket that answers its writes with `results`; `asked` tells what was wanted of the loop. */
function overSocket(results: number[]): { transport: Transport; asked: boolean[] } {
  const asked: boolean[] = []
  const nothing = () => {}
  const wire: Wire = {
    area: Buffer.alloc(16),
    headroom: 0,
    send: (_, start, end) => results.shift() ?? end - start,
    sendVector: () => results.shift() ?? EAGAIN,
    awaitWritable: on => asked.push(on),
    spin: () => {},
    target: nothing,
    shutdown: nothing,
    end: nothing,
    discard: nothing,
    start: nothing,
    ref: nothing,
    closing: 0,
    unref: nothing
  }
  const owner = { onProgress: nothing } as unknown as TransportOwner
  return { transport: new Transport(wire, owner), asked }
}

test('as long as the socket stays full the loop is not told to stop telling', t => {
  const { transport, asked } = overSocket([EAGAIN, 8, EAGAIN])
  transport.appendBare(TAKEN, 1)
  transport.flush()
  t.deepEqual(asked, [true])
  transport.onWritable()
  t.deepEqual(asked, [true, true])
  transport.onWritable()
  t.deepEqual(asked, [true, true, false])
  t.is(transport.waiting, 0)
})

test('a socket with room but too many descriptors in flight is not waited for on the loop', t => {
  const { transport, asked } = overSocket([EAGAIN, ETOOMANYREFS])
  transport.appendBare(TAKEN, 1)
  transport.flush()
  transport.onWritable()
  t.deepEqual(asked, [true, false])
  t.true(transport.blocked)
  transport.end()
})
