/** docs/serve.md has the tables of the sources. */
import { readdirSync, readFileSync } from 'node:fs'
import { EXIT } from '../../src/cli/exit.ts'
import { OPTIONS } from '../../src/cli/serve/options.ts'
import { allCommands } from '../helpers/cli.ts'
import { test } from '../helpers/test.ts'

const text = read('docs/serve.md')

function read(document: string): string {
  return readFileSync(new URL(`../../${document}`, import.meta.url), 'utf8')
}

const pages = ['jobs', 'from', 'deploy'].flatMap(folder =>
  readdirSync(new URL(`../../docs/${folder}`, import.meta.url)).map(name => `docs/${folder}/${name}`)
)

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

test('the command lines of the documentation name commands and options that there are', t => {
  const commands = allCommands()
  let count = 0
  for (const document of ['README.md', 'docs/serve.md', 'docs/shell.md', 'docs/store.md', ...pages])
    for (const [, block] of read(document).matchAll(/^```(?:sh|console)\n(.*?)^```$/gms))
      for (const [line, text] of block!.matchAll(
        /^(?:\$ |while true; do )?(?:npx )?passfd (.*?)(?: #.*| &|; done)?$/gm
      )) {
        const [name, ...words] = text!.split(' ')
        const hasCommands = name === 'takeover' || commands.has(`${name} ${words[0]}`)
        const command = commands.get(hasCommands ? `${name} ${words.shift()}` : name!)
        if (command === undefined) t.fail(line)
        // What stands behind these is another program's
        const end = words.findIndex(word => ['--', '--exec', '|', '&'].includes(word) || /\.m?[jt]s$/.test(word))
        for (const word of words.slice(0, end < 0 ? undefined : end)) {
          const option = word.replace(/^\[|[=\]].*$/g, '')
          if (option.startsWith('-'))
            t.true(
              command!.options.some(one => option === one.short || option === one.long),
              `${line}: ${option}`
            )
        }
        count++
      }
  t.true(count > 15)
})

test('docs/serve.md lists all exit codes', t => {
  t.deepEqual(
    tableBehind('Exit codes').map(([code]) => Number(code)),
    Object.values(EXIT)
  )
})
