/** Runs the tests of docs/testing.md, by the runners that it names. Jest and Vitest are those of the folders beside. It ends with "N passed, N failed". */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { execPath, versions } from 'node:process'
import { fileURLToPath } from 'node:url'
import { check, equal, finish, folder, matches, output, start } from '../checks.mjs'

const runners = fileURLToPath(new URL('..', import.meta.url))
const root = join(runners, '../..')
const page = fs.readFileSync(join(root, 'docs/testing.md'), 'utf8')
const cwd = folder('tests')
fs.writeFileSync(join(cwd, 'package.json'), JSON.stringify({ type: 'module', ava: { workerThreads: false } }))
link('passfd', root)
link('ava', join(runners, 'testing/node_modules/ava'))
link('vitest', join(runners, 'vitest/node_modules/vitest'))
link('@jest/globals', join(runners, 'jest/node_modules/@jest/globals'))
for (const [, text, name] of page.matchAll(/```js fragment\n(\/\/ (\S+)\n[\s\S]*?)```/g))
  fs.writeFileSync(join(cwd, name), text)
const node = fs.readFileSync(join(cwd, 'node.test.mjs'), 'utf8')
fs.writeFileSync(
  join(cwd, 'mocha.test.mjs'),
  node.replace("import { test } from 'node:test'\n", '').replace("test('", "it('")
)
fs.writeFileSync(
  join(cwd, 'mocha.test.cjs'),
  `it('is required', () => require('passfd').Descriptor.openSync('/etc/hostname').close())\n`
)
fs.writeFileSync(join(cwd, 'required.test.cjs'), `test('is required', () => require('passfd'))\n`)

const mocha = join(runners, 'testing/node_modules/mocha/bin/mocha.js')
const ava = join(runners, 'testing/node_modules/ava/entrypoints/cli.mjs')
const vitest = join(runners, 'vitest/node_modules/vitest/vitest.mjs')
const jest = ['--experimental-vm-modules', join(runners, 'jest/node_modules/jest/bin/jest.js')]

await check('node:test', () => says(/^# pass 1$/m, '--test', '--test-reporter=tap', 'node.test.mjs'))
await check('mocha', () => says(/2 passing/, mocha, 'mocha.test.mjs', 'mocha.test.cjs'))
await check('ava', () => says(/1 test passed/, ava, 'ava.test.mjs'))
await check('Vitest', () => says(/1 passed/, vitest, 'run', 'vitest.test.mjs'))
await check('Jest', () => says(/Tests: +2 passed, 2 total/, ...jest))
if (Number(versions.node.split('.')[0]) < 24)
  await check('Jest does not require an ES module, and says what to do', async () => {
    const { code, stderr } = await start([execPath, ...jest, '--testMatch=**/required.test.cjs'], { cwd }).ended
    equal(code, 1)
    matches(stderr, /Must use import to load ES Module/)
  })
finish()

async function says(pattern, ...args) {
  const { stdout, stderr } = await output([execPath, ...args], { cwd })
  matches(stdout + stderr, pattern)
}

function link(name, target) {
  const path = join(cwd, 'node_modules', name)
  fs.mkdirSync(join(path, '..'), { recursive: true })
  fs.symlinkSync(target, path)
}
