/** Which policy a listener gets that a predecessor had. */
import { AsyncContext } from '../../../src/base/async-context.ts'
import { Descriptor } from '../../../src/index.ts'
import { inheritListener } from '../../../src/prefork/listen/open-listener.ts'
import { PerWorkerListener } from '../../../src/prefork/listen/per-worker-listener.ts'
import { SharedListener } from '../../../src/prefork/listen/shared-listener.ts'
import { test } from '../../helpers/test.ts'

test('a predecessor’s port gets lanes for each worker, unless it was bound by hand: then other programs may hold it', async t => {
  const events = { onRouteFailed: () => {}, onAcceptError: () => {}, context: new AsyncContext('TEST') }
  for (const own of [true, false]) {
    const socket = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
    const lane = { name: 'http', lane: 0, listener: socket, backlog: undefined, own }
    const served = { name: 'http', kind: socket.kind, options: { own }, lanes: [lane] }
    const listener = inheritListener(served, { port: 0, host: '127.0.0.1' }, 'per-worker', events)
    t.true(listener instanceof (own ? PerWorkerListener : SharedListener))
    const grant = listener.grant(1)
    t.is(grant.own, own)
    grant.listener.close()
    listener.release(() => t.fail())
    t.true(socket.closed)
  }
})
