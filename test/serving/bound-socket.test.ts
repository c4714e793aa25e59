import { existsSync } from 'node:fs'
import { bind, closeBound } from '../../src/serving/bound-socket.ts'
import { patched } from '../helpers/channels.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const EINTR = -4

test('a lock that a signal interrupts is asked for again: the file is bound, and removed', async t => {
  const path = temporaryPath('socket')
  let interruptions = 0
  await patched(
    'lock',
    original =>
      (...args) =>
        interruptions++ % 2 === 0 ? EINTR : original(...args),
    async () => {
      const bound = await bind('web', { path, mode: 0o600 })
      t.true(existsSync(path))
      await closeBound(bound)
    }
  )
  t.false(existsSync(path))
  t.is(interruptions, 4)
})
