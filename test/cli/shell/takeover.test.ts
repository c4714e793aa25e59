import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { statusText } from '../../../src/cli/shell/takeover.ts'
import { captured } from '../../helpers/cli.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { end, first } from '../../helpers/seats.ts'
import { shell } from '../../helpers/shell.ts'
import { startSeat } from '../../helpers/takeover.ts'
import { test } from '../../helpers/test.ts'

test('who serves, by the path and by the name', async t => {
  const path = temporaryPath('seat')
  const nobody = await shell(['takeover', 'status', path])
  t.deepEqual(nobody, {
    code: 69,
    out: '',
    err: `passfd: Nobody serves at the takeover path ${path}. Start the program.\n`
  })
  const owner = await first(path)
  const { code, out, err } = await shell(['takeover', 'status', path])
  t.deepEqual({ code, err }, { code: 0, err: '' })
  t.regex(
    out,
    new RegExp(
      `^process ${process.pid} serves \\(passfd .*, node v.*\\), as number 1, since \\d{4}-.*Z \\(\\d+ .*\\)\\n$`
    )
  )
  t.like(JSON.parse((await shell(['takeover', 'status', path, '--json'])).out), {
    path,
    generation: 1,
    waiting: [],
    chain: []
  })
  await end(owner.seat)
})

test('a NAME is one of the runtime folder', async t => {
  const folder = temporaryPath('runtime')
  mkdirSync(folder, { mode: 0o700 })
  const before = process.env.PASSFD_RUNTIME_DIR
  process.env.PASSFD_RUNTIME_DIR = folder
  try {
    const owner = startSeat(t, join(folder, 'app.takeover'), { listeners: { http: { port: 0, host: '127.0.0.1' } } })
    await owner.ask('all')
    const { code, out } = await shell(['takeover', 'status', 'app', '--json'], captured())
    t.is(code, 0)
    t.like(JSON.parse(out), { owner: { pid: owner.pid } })
    await owner.end()
    t.is((await shell(['takeover', 'status', 'no/such'])).code, 69)
    t.is((await shell(['takeover', 'status', '-x'])).code, 64)
    t.is((await shell(['takeover', 'status', 'a b'])).code, 64)
  } finally {
    if (before === undefined) delete process.env.PASSFD_RUNTIME_DIR
    else process.env.PASSFD_RUNTIME_DIR = before
  }
})

test('texts', t => {
  const since = Date.UTC(2026, 0, 2, 3, 4, 5, 678)
  const owner = { pid: 7, passfd: '1.2.3', runtime: 'node v20' }
  const status = { owner, generation: 3, since, candidate: 8, waiting: [9], chain: [{ pid: 5, connections: 1 }] }
  t.is(
    statusText(status, since + 3_700_000),
    [
      'process 7 serves (passfd 1.2.3, node v20), as number 3, since 2026-01-02T03:04:05Z (1 h 1 min)',
      'process 8 takes over: it boots, and process 7 serves meanwhile',
      'process 9 waits for its turn to take over',
      'process 5 drains: 1 connection'
    ].join('\n')
  )
})
