/** PID 1 of a container that is superseded stays, and ends as its successor does. */
import { fileURLToPath } from 'node:url'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { testIf, testInCiIf } from '../helpers/test.ts'

const UNSHARE = '/usr/bin/unshare'
const SIGNALS = ['SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGINT', 'SIGTERM']
const fixture = fileURLToPath(new URL('../fixtures/container-init.mjs', import.meta.url))

const cases = [
  // The second one ends by itself, and the third one becomes a child of PID 1
  {
    title: 'a seat, with a chain of two',
    chain: [{ kind: 'seat' }, { kind: 'seat' }, { kind: 'seat', end: 5 }],
    code: 5
  },
  {
    title: 'a supervisor, with a successor that is killed',
    chain: [{ kind: 'supervisor' }, { kind: 'seat', end: 'KILL' }],
    code: 137
  }
]

for (const { title, chain, code } of cases) {
  const declare = chain[0]!.kind === 'seat' ? testIf : testInCiIf
  declare(
    missing(UNSHARE, 'util-linux'),
    `as PID 1: ${title}: it stays, reaps, sends signals on, and ends as that`,
    async t => {
      const namespace = ['--pid', '--fork', '--mount-proc', '--kill-child']
      const command = [process.execPath, fixture, temporaryPath('seat'), JSON.stringify(chain), '0']
      const { child, line, exit } = start(UNSHARE, [...namespace, ...command])
      t.teardown(() => void child.kill('SIGKILL'))
      t.deepEqual(JSON.parse(await line()), { got: SIGNALS, parent: 1 })
      t.like(await exit, { code, stderr: '' })
    }
  )
}
