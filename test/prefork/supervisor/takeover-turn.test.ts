/** A supervisor that waits for its turn to take over. */
import { deferred } from '../../../src/base/deferred.ts'
import { listen } from '../../../src/channel/server.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { rejects } from '../../helpers/seats.ts'
import { side } from '../../helpers/supersession.ts'
import { test } from '../../helpers/test.ts'

test('stop() ends the wait for its turn at once', async t => {
  const path = temporaryPath('supervisor')
  const [owner, asked, over] = [await listen(path), deferred(), deferred()]
  owner.serve(() => {
    asked.resolve()
    return over.promise
  })
  const { supervisor } = side(t, path, 'waits')
  const started = rejects(t, supervisor.start(), 'ERR_PASSFD_SUPERVISOR_STOPPED')
  await asked.promise
  const began = performance.now()
  await supervisor.stop()
  await started
  t.true(performance.now() - began < 9000, 'a candidate connects again after 10 s')
  over.resolve()
  await owner.close()
})
