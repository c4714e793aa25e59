import { EXIT } from '../../../src/cli/exit.ts'
import { listen } from '../../../src/index.ts'
import { adminStatus } from '../../helpers/admin-status.ts'
import { captured, runPassfd } from '../../helpers/cli.ts'
import { socketPath } from '../../helpers/path.ts'
import { test } from '../../helpers/test.ts'

test('a reload that a takeover overtakes is to be repeated', async t => {
  const path = socketPath()
  const server = await listen<{ command: string }>(path)
  server.serve(({ value: { command } }) => {
    if (command === 'status') return adminStatus([])
    throw Object.assign(new Error('The Supervisor was stopped meanwhile.'), { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' })
  })
  const { code, out, err } = await runPassfd(['reload', path], captured())
  await server.close()
  t.is(code, EXIT.temporary)
  t.is(out, '')
  t.is(err, `passfd: ${path} was stopped or replaced meanwhile. If another process serves now, repeat the command.\n`)
})
