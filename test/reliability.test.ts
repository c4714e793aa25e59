/** docs/reliability.md says what docs/reliability.json does. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readRecords } from '../attack/records.ts'
import { temporaryPath } from './helpers/path.ts'
import { test, testInCi } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const docs = join(root, 'docs')

testInCi('the page of reliability shows the recorded runs', t => {
  const folder = temporaryPath('docs')
  mkdirSync(folder)
  for (const file of ['reliability.md', 'reliability.json']) cpSync(join(docs, file), join(folder, file))
  execFileSync(process.execPath, ['--import', 'tsx', 'attack/page.ts', folder], { cwd: root })
  t.is(readFileSync(join(folder, 'reliability.md'), 'utf8'), readFileSync(join(docs, 'reliability.md'), 'utf8'))
})

test('no recorded run has found anything that is not mended', t => {
  for (const { attack, found } of readRecords()) t.deepEqual(found, [], attack)
})
