/** A candidate whose owners end the channel before they make an offer. */
import { listen } from '../../src/channel/server.ts'
import { movableTime } from '../helpers/movable-time.ts'
import { temporaryPath } from '../helpers/path.ts'
import { HTTP, rejects, seated } from '../helpers/seats.ts'
import { test } from '../helpers/test.ts'

test('it connects again until its time is over, and then the error says so and names the owner', async t => {
  const path = temporaryPath('seat')
  const owner = await listen(path)
  const pass = movableTime(t)
  let asked = 0
  owner.serve(({ channel }) => {
    if (++asked === 3) pass(60_000)
    channel.destroy()
  })
  const error = await rejects(t, seated({ path, listeners: HTTP, turnTimeout: 60_000 }), 'ERR_PASSFD_TAKEOVER_OVER')
  t.regex(error.message, new RegExp(`process ${process.pid} .*turnTimeout`))
  t.truthy(error.cause)
  t.is(asked, 3)
  await owner.close()
})
