/** docs/serve.md has the tables of the sources. */
import { readFileSync } from 'node:fs'
import { EXIT } from '../../src/cli/exit.ts'
import { OPTIONS } from '../../src/cli/serve/options.ts'
import { test } from '../helpers/test.ts'

const text = readFileSync(new URL('../../docs/serve.md', import.meta.url), 'utf8')

/** The cells of the rows of the table behind a heading. */
function tableBehind(heading: string): string[][] {
  const section = text.slice(text.indexOf(`\n## ${heading}\n`) + 1).split('\n## ')[0]!
  const rows = section.split('\n').filter(line => line.startsWith('|'))
  return rows.slice(2).map(row =>
    row
      .slice(1, -1)
      .split(/(?<!\\)\|/)
      .map(cell => cell.trim().replaceAll('\\|', '|'))
  )
}

test('docs/serve.md lists all options, as the help does', t => {
  t.deepEqual(
    tableBehind('Options'),
    Object.entries(OPTIONS).map(([name, { flags, help, commandLineOnly }]) => [
      flags === undefined ? '' : `\`${flags}\``,
      commandLineOnly ? '' : `\`${name}\``,
      help
    ])
  )
})

test('docs/serve.md lists all exit codes', t => {
  t.deepEqual(
    tableBehind('Exit codes').map(([code]) => Number(code)),
    Object.values(EXIT)
  )
})
