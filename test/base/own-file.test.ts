import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { ownFile, packageRoot, preloadPaths } from '../../src/base/own-file.ts'
import { test } from '../helpers/test.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

test('what runs here is what was compiled, in the folder of this package', t => {
  t.is(ownFile, join(root, 'build/src/base/own-file.js'))
  t.is(join(packageRoot!, '/'), root)
  t.true(preloadPaths().some(existsSync))
})

test('it is found whatever a program does to stacks', async t => {
  const url = new URL('../../dist/index.js', import.meta.url)
  const use = `const { prepareStackTrace, stackTraceLimit } = Error
    const { pair } = await import('${url}')
    pair()[0].destroy()
    console.log(prepareStackTrace === Error.prepareStackTrace, stackTraceLimit === Error.stackTraceLimit)`
  const variants: [flags: string[], before: string][] = [
    [['--frozen-intrinsics'], ''],
    [['--stack-trace-limit=0'], ''],
    [['--enable-source-maps'], ''],
    [[], `Error.prepareStackTrace = () => 'nothing';`]
  ]
  for (const [flags, before] of variants) {
    const args = ['--no-warnings', ...flags, '--input-type=module', '-e', `${before}${use}`]
    const { stdout } = await run(process.execPath, args)
    t.is(stdout, 'true true\n', flags.join())
  }
})
