import { existsSync, rmSync } from 'node:fs'
import { bind, closeBound } from '../../src/serving/bound-socket.ts'
import { patched } from '../helpers/channels.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const ENOMEM = -12

test('a socket is closed also if its file can not be removed; the file stays for the next one', async t => {
  const path = temporaryPath('socket')
  const bound = await bind('web', { path, mode: 0o600 })
  await patched(
    'lock',
    () => () => ENOMEM,
    () => closeBound(bound)
  )
  t.true(bound.descriptor.closed)
  t.true(existsSync(path))
  const next = await bind('web', { path, mode: 0o600 })
  await closeBound(next)
  t.false(existsSync(path))
  rmSync(path, { force: true })
})
