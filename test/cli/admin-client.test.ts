import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connectAdmin } from '../../src/cli/admin-client.ts'
import { EXIT } from '../../src/cli/exit.ts'
import { socketPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { NOBODY } from '../helpers/public.ts'
import { listens } from '../helpers/shell.ts'
import { test, testInCiIf } from '../helpers/test.ts'

const command = fileURLToPath(new URL('../../dist/cli/passfd.mjs', import.meta.url))
const notRoot = process.getuid!() === 0 ? undefined : 'only root can be another user'

test('a server that hangs is named, with the way to its process', async t => {
  const path = socketPath()
  const silent = createServer(socket => socket.resume().on('error', () => {})).listen(path)
  await once(silent, 'listening')
  const error: any = await t.throwsAsync(connectAdmin(path, undefined, undefined, { handshakeTimeout: 20 }))
  t.is(error.message, `A server at ${path} does not answer`)
  t.regex(error.remedy, /passfd inspect /)
  t.is(error.exitCode, EXIT.unavailable)
  silent.close()
  await once(silent, 'close')
})

testInCiIf(notRoot, 'a server of another user is named as such', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-foreign-'))
  chmodSync(folder, 0o777)
  const path = join(folder, 'socket')
  const other = start(process.execPath, [command, 'receive', path], { uid: NOBODY, gid: NOBODY })
  await listens(other)
  const error: any = await t.throwsAsync(connectAdmin(path))
  t.is(error.message, `The server at ${path} runs as another user (${NOBODY})`)
  t.is(error.exitCode, EXIT.noPermission)
  other.child.kill()
  await other.exit
  rmSync(folder, { recursive: true })
})
