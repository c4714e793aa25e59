/** Whom a program's process asks, and whom it does not believe. */
import { ask } from '../../../src/prefork/worker/ask.ts'
import { listenPackets } from '../../../src/stream/index.ts'
import { test } from '../../helpers/test.ts'

test('it asks nobody of another user, who may have taken the name of a supervisor that has ended', async t => {
  if (process.geteuid!() !== 0) {
    t.pass('only root can become another user')
    return
  }
  const name = `passfd-test-${process.pid}`
  process.seteuid!(65534)
  const server = await listenPackets({ abstract: name }).finally(() => process.seteuid!(0))
  const join = { type: 'join', version: 1, newest: 1 } as never
  const error = t.throws(() => ask(name, { token: 'secret', wanted: { port: 0 }, nth: 1, join }))
  t.is((error as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  await server.close()
})
