/** Programs that know nothing of passfd: what they see is what Node shows them without it. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Balance } from '../../../src/prefork/index.ts'
import { isInCi } from '../../helpers/full.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

const listens = fileURLToPath(new URL('../../fixtures/listens.cjs', import.meta.url))

type Results = Record<string, unknown>

function resultsOf(path: string): Results {
  return JSON.parse(readFileSync(path, 'utf8'))
}

/** Under dispatch a server listens on a socket that nobody can reach, so another one can't listen on its handle. */
const NOT_DISPATCHED = ['the handle of another server']

const BALANCES: Balance[] = isInCi ? ['per-worker', 'shared', { dispatch: 'round-robin' }] : ['per-worker']

test('every form of listen() and bind() comes out as without passfd', async t => {
  const folder = (): string => mkdtempSync(join(dirname(temporaryPath('x')), 'l-'))
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const plain = temporaryPath('plain')
  const alone = promisify(execFile)(process.execPath, [listens, plain, folder(), `${port}`])
  await until(() => existsSync(plain), 'the program alone')
  alone.child.kill()
  await alone.catch(() => {})
  const expected = resultsOf(plain)
  t.is(expected.failed, undefined)
  for (const balance of BALANCES) {
    const output = temporaryPath('output')
    const program: [string, ...string[]] = [process.execPath, listens, output, folder(), `${port}`]
    await supervising(t, { program, listeners: {}, balance, killTimeout: 100, stopTimeout: 1000 }, async supervisor => {
      await supervisor.start()
      await until(() => existsSync(output), 'the program', 60)
      const actual = resultsOf(output)
      for (const [name, result] of Object.entries(expected))
        if (typeof balance === 'string' || !NOT_DISPATCHED.includes(name))
          t.deepEqual(actual[name], result, `${name}, ${JSON.stringify(balance)}`)
    })
  }
  taken.close()
})
