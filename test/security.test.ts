/** SECURITY.md names the test of each claim: it is there. */
import { existsSync, readFileSync } from 'node:fs'
import { test } from './helpers/test.ts'

const here = (name: string): URL => new URL(name, import.meta.url)
const text = readFileSync(here('../SECURITY.md'), 'utf8')
const HEADER = ['who', 'can', 'can’t', 'test']
/** `folder/file`: the title of a test in it, or the beginning of one. */
const REFERENCE = /^`([\w/-]+)`: (\S.*)$/

interface Row {
  readonly heading: string
  readonly cells: readonly string[]
}

/** The rows of all tables whose last column names tests. */
function rows(): Row[] {
  const found: Row[] = []
  let heading = ''
  let isTable = false
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) heading = line.replace(/^#+ /, '')
    if (!line.startsWith('|')) isTable = false
    else {
      const cells = line.split(/(?<!\\)\|/).slice(1, -1)
      const trimmed = cells.map(cell => cell.trim().replaceAll('\\|', '|'))
      if (trimmed.join() === HEADER.join()) isTable = true
      else if (isTable && !/^-+$/.test(trimmed[0]!)) found.push({ heading, cells: trimmed })
    }
  }
  return found
}

/** The titles of a file as its source has them, each behind the quote that begins it. */
function titlesOf(file: string): string {
  const source = readFileSync(here(`${file}.test.ts`), 'utf8')
  return source
    .replace(/\\u2019/g, '’')
    .replace(/\\'/g, "'")
    .replace(/\\`/g, '`')
}

test('each claim has a test, and each test that is named is there', t => {
  const all = rows()
  t.true(all.length >= 40, `${all.length} rows`)
  const wrong: string[] = []
  for (const { heading, cells } of all) {
    const tests = cells[3]?.split(/<br>/).map(one => one.trim()) ?? []
    if (cells.length !== 4 || cells[0] === '' || tests.length === 0) wrong.push(`${heading}: ${cells.join(' | ')}`)
    for (const one of tests) {
      const [, file, title] = REFERENCE.exec(one) ?? []
      if (file === undefined || title === undefined) wrong.push(`${heading}: "${one}" names no test`)
      else if (!existsSync(here(`${file}.test.ts`))) wrong.push(`${heading}: test/${file}.test.ts is not there`)
      else if (!isTitle(titlesOf(file), title)) wrong.push(`${heading}: test/${file}.test.ts has no test "${title}"`)
    }
  }
  t.deepEqual(wrong, [])
})

/** Whether a string of the source begins with the title. */
function isTitle(source: string, title: string): boolean {
  return ["'", '"', '`'].some(quote => source.includes(`${quote}${title}`))
}

test('each component has its table', t => {
  const headings = new Set(rows().map(({ heading }) => heading))
  t.deepEqual(
    [
      'Channels',
      'Admission: other users',
      'Raw streams and packets',
      'Datagrams',
      'Shared memory',
      'Connections: take and inject',
      'Prefork: clients of the served port',
      'Prefork: a compromised worker',
      'Prefork: the admin socket, and workers of other languages',
      'Takeover',
      'systemd',
      'Store',
      'The command',
      'The package'
    ].filter(heading => !headings.has(heading)),
    []
  )
})

test('a title that is not there, and a file that is not there, are noticed', t => {
  t.true(isTitle("test('a title of some length', t => {})", 'a title'))
  t.false(isTitle("test('a title of some length', t => {})", 'title of'))
  t.regex('`channel/server`: x', REFERENCE)
  t.notRegex('channel/server: x', REFERENCE)
})
