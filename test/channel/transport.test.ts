import { EAGAIN, ETOOMANYREFS } from '../../src/base/errno.ts'
import { TAKEN } from '../../src/codec/frame.ts'
import { test } from '../helpers/test.ts'
import { overSocket } from '../helpers/transports.ts'

test('as long as the socket stays full the loop is not told to stop telling', t => {
  const { transport, asked } = overSocket([EAGAIN, 8, EAGAIN])
  transport.appendBare(TAKEN, 1)
  transport.flush()
  t.deepEqual(asked, [true])
  transport.onWritable()
  t.deepEqual(asked, [true, true])
  transport.onWritable()
  t.deepEqual(asked, [true, true, false])
  t.is(transport.outgoing.waiting, 0)
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
