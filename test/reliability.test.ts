/** docs/reliability.md says what docs/reliability.json does. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readRecords } from '../attack/records.ts'
import { triesOf } from '../attack/tries.ts'
import { temporaryPath } from './helpers/path.ts'
import { test, testFull, testInCi } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const docs = join(root, 'docs')

testInCi('the page of reliability shows the recorded runs', t => {
  const folder = written('--no-plot')
  t.is(readFileSync(join(folder, 'reliability.md'), 'utf8'), readFileSync(join(docs, 'reliability.md'), 'utf8'))
})

test('the plot of reliability has a dot for each attack, with its recorded number', t => {
  const drawn = readFileSync(join(docs, 'reliability.svg'), 'utf8')
  const tries = triesOf(readRecords())
  t.true(tries.length > 5)
  const texts = [...drawn.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text!)
  for (const { name, label } of tries) {
    t.true(texts.includes(name), name)
    t.true(texts.includes(label), label)
  }
  t.is(texts.filter(text => / found /.test(text)).length, tries.length)
})

testFull('the plot of reliability is drawn from the recorded runs', t => {
  const folder = written()
  t.is(readFileSync(join(folder, 'reliability.svg'), 'utf8'), readFileSync(join(docs, 'reliability.svg'), 'utf8'))
})

test('no recorded run has found anything that is not mended', t => {
  for (const { attack, found } of readRecords()) t.deepEqual(found, [], attack)
})

/** A folder with the page and the plot, as `npm run attack:page` writes them. */
function written(...options: string[]): string {
  const folder = temporaryPath('docs')
  mkdirSync(folder)
  for (const file of ['reliability.md', 'reliability.json']) cpSync(join(docs, file), join(folder, file))
  execFileSync(process.execPath, ['--import', 'tsx', 'attack/page.ts', ...options, folder], { cwd: root })
  return folder
}
