import { runWith } from '../../../src/cli/shell/run-with.ts'
import { Ui } from '../../../src/cli/ui.ts'
import { allCommands, captured } from '../../helpers/cli.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { test } from '../../helpers/test.ts'

const ui = new Ui(allCommands().get('receive')!)
Object.assign(ui, { streams: captured(process.env) })

test('it reports once whether the command runs', async t => {
  const run = async (...command: string[]): Promise<unknown[]> => {
    const starts: boolean[] = []
    const ending = await runWith(command, null, new Map(), ui, { onStart: async started => void starts.push(started) })
    return [...starts, ending.exitCode, ending.signal]
  }
  t.deepEqual(await run('true'), [true, 0, undefined])
  t.deepEqual(await run('sh', '-c', 'sleep 0.2; exit 126'), [true, 126, undefined])
  t.deepEqual(await run('sh', '-c', 'sleep 0.2; exit 127'), [true, 127, undefined])
  t.deepEqual(await run('sh', '-c', 'kill -KILL $$'), [true, 137, 'SIGKILL'])
  t.deepEqual(await run('/no/such/command'), [false, 127, undefined])
  t.deepEqual(await run('/etc/passwd'), [false, 126, undefined])
})

test('if what follows the start fails, the command gets TERM, and that failure is the result', async t => {
  const error = new Error('no')
  const file = temporaryPath()
  const failing = runWith(
    ['sh', '-c', 'trap "echo >$0; exit" TERM; while :; do sleep 0.1; done', file],
    null,
    new Map(),
    ui,
    {
      onStart: async () => {
        throw error
      }
    }
  )
  t.is(await t.throwsAsync(failing), error)
})
