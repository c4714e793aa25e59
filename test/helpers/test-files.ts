/** Which files ava runs, and which of them share a process. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import { filesIn } from './files-in.mjs'
import { isInCi } from './full.ts'

const tests = new URL('../', import.meta.url)
/** Loads the other test files of its folder, see wing.ts. */
const WING = 'wing.test.ts'

const files = filesIn(fileURLToPath(tests)).filter(name => name.endsWith('.test.ts'))
const wings = files.filter(name => name.endsWith(`/${WING}`)).map(dirname)

/** The test files that the wing.test.ts of a folder loads, without their ending: those without `// A process of its own: <why>`. */
export function membersOf(wing: string): string[] {
  return files
    .filter(name => wingOf(dirname(name)) === wing && name !== join(wing, WING))
    .filter(name => !/^\/\/ A process of its own: /m.test(readFileSync(new URL(name, tests), 'utf8')))
    .map(name => name.slice(wing.length + 1, -'.test.ts'.length))
    .sort()
}

/** The nearest folder above with a wing.test.ts. */
function wingOf(folder: string): string | undefined {
  if (folder === '.') return undefined
  return wings.includes(folder) ? folder : wingOf(dirname(folder))
}

/** Patterns of what a run of all tests starts: wings, and the files that none of them loads. Files that are named run by themselves anyway. */
export function testFiles(): string[] {
  const members = wings.flatMap(wing => membersOf(wing).map(name => `!test/${wing}/${name}.test.ts`))
  // ava takes a file without a test for a mistake
  const notNow = isInCi
    ? []
    : files.filter(name => /^\/\/ In CI only: /m.test(readFileSync(new URL(name, tests), 'utf8')))
  return ['test/**/*.test.ts', ...members, ...notNow.map(name => `!test/${name}`)]
}

/** What takes longest, so that nothing of it is left alone at the end. */
const LONG = [
  '/attack/',
  '/prefork/',
  '/package.',
  '/descriptor/',
  '/channel/',
  '/system/',
  '/os/',
  '/base/',
  '/cli/',
  '/serving/',
  '/takeover/',
  '/codec/',
  '/docs.'
]

/** Compares paths for the order in which ava starts them. */
export function longestFirst(one: string, other: string): number {
  const place = (path: string): number => [...LONG, ''].findIndex(part => path.includes(part))
  return place(one) - place(other) || one.localeCompare(other)
}
