import { existsSync } from 'node:fs'
import { listen } from '../../../src/index.ts'
import { openStore } from '../../../src/store/index.ts'
import { captured } from '../../helpers/cli.ts'
import { socketPath } from '../../helpers/path.ts'
import { storeCommand, withStore } from '../../helpers/store-cli.ts'
import { test } from '../../helpers/test.ts'

test('--wait waits for a store that comes later, --timeout limits that', async t => {
  const path = socketPath()
  const env = captured({ PASSFD_STORE: path })
  const listing = storeCommand(['list', '--wait', '--names'], env)
  t.false(existsSync(path))
  await using _ = await openStore(path)
  t.like(await listing, { code: 0, err: '' })
  const none = socketPath()
  const ended = await storeCommand(['list', '--socket', none, '--wait', '--timeout', '150ms'])
  t.deepEqual(ended, {
    code: 69,
    out: '',
    err: `passfd: No store answers at ${none}. Start it with "passfd store".\n`
  })
})

test('a process that does not answer, and one that is no store', async t => {
  const path = socketPath()
  await using server = await listen(path)
  server.serve(() => new Promise(() => {}))
  const hangs = await storeCommand(['list', '--socket', path, '--timeout', '100ms'])
  t.is(hangs.code, 69)
  t.regex(hangs.err, /^passfd: The store at .* does not answer for 100 ms\. Its process hangs or is stopped: /)
  const other = socketPath()
  await using another = await listen(other)
  another.serve(() => ({}))
  t.is((await storeCommand(['list', '--socket', other])).code, 65)
})

test('options of the store itself, and --socket, before the command', async t => {
  await withStore(async ({ path }) => {
    t.like(await storeCommand(['--socket', path, 'list', '--names'], captured({})), { code: 0, out: '' })
    for (const [args, option] of [
      [['--takeover', 'list'], '--takeover'],
      [['--max-names', '5', '--socket', path, 'list'], '--max-names'],
      [['--json', 'list'], '--json']
    ] as const) {
      const { code, err } = await storeCommand(args, captured({ PASSFD_STORE: path }))
      t.is(code, 64)
      t.is(err, `passfd: ${option} is an option of the store itself. Write options behind the command.\n`)
    }
  })
  const { code, err } = await storeCommand(['lsit'])
  t.is(code, 64)
  t.regex(
    err,
    /^passfd: "lsit" is not a command of passfd store\. There are: list, put, take, copy, remove, watch\.\n$/
  )
})
