/** A candidate whose owners end the channel before they make an offer. */
import { listen } from '../../src/channel/server.ts'
import { temporaryPath } from '../helpers/path.ts'
import { HTTP, seated } from '../helpers/seats.ts'
import { test } from '../helpers/test.ts'

test('it connects again until its time is over, and then the error says so and names the owner', async t => {
  const path = temporaryPath('seat')
  const owner = await listen(path)
  let asked = 0
  owner.serve(({ channel }) => {
    asked++
    channel.destroy()
  })
  const error = (await t.throwsAsync(seated({ path, listeners: HTTP, turnTimeout: 200 })))!
  const { code } = error as NodeJS.ErrnoException
  // Its time may also end while the owner has not yet closed the channel
  if (code === 'ERR_PASSFD_TAKEOVER_TIMEOUT') t.regex(error.message, new RegExp(`[Pp]rocess ${process.pid} `))
  else {
    t.is(code, 'ERR_PASSFD_TAKEOVER_OVER')
    t.regex(error.message, new RegExp(`process ${process.pid} .*turnTimeout`))
    t.truthy(error.cause)
  }
  t.true(asked > 1)
  await owner.close()
})
