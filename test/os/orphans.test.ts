/** A supervisor as PID 1: orphans are collected, and nobody else's children. */
import { mkdtempSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { collectOrphans } from '../../src/os/orphans.ts'
import { times } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { testInCi, testInCiIf } from '../helpers/test.ts'

testInCiIf(
  missing('/usr/bin/unshare', 'util-linux'),
  'as PID 1: no zombie stays, and every exit status arrives',
  async t => {
    const [count, children] = [times(2, 100), times(2, 10)]
    const fixture = fileURLToPath(new URL('../fixtures/prefork-reaps.mjs', import.meta.url))
    const namespace = ['--pid', '--fork', '--mount-proc', '--kill-child']
    const command = [process.execPath, fixture, mkdtempSync(temporaryPath('reaps')), `${count}`, `${children}`]
    const { line, exit } = start('/usr/bin/unshare', [...namespace, ...command])
    const told = JSON.parse(await line())
    t.like(told, { pid: 1, counts: [0, 2], right: true, codes: 4 * children + 2, listens: 0 })
    t.deepEqual(told.exits.toSorted(), ['1 SIGKILL', '2 0'])
    t.like(await exit, { code: 0 })
  }
)

testInCi('elsewhere nobody listens to SIGCHLD', t => {
  const end = collectOrphans()
  t.is(process.listenerCount('SIGCHLD'), 0)
  end()
  end()
})
