/**
 * `npm run bench [-- [--json] [ROW…]]`: measures passfd against its peers and against bare system calls. Each row is a file in rows/,
 * each contender a program with a process at each end; it fails if a message is lost or a descriptor is left open. Build first.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Asked, parseArguments } from './arguments.ts'
import { describeMachine } from './machine.ts'
import { measure, type Row, type SideRow, takesPart } from './measure.ts'
import { heading, table } from './report.ts'

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1)) // with what is to be done then
const names = readdirSync(new URL('rows/', import.meta.url)).map(file => file.replace(/\.ts$/, ''))
const { json, runs, rows } = parsed()
if (!existsSync(new URL('../dist/index.js', import.meta.url))) fail('dist/ is not built: npm run build')
// The rows `layer-…` measure modules that dist/ has only within a wing
const compiling = fileURLToPath(new URL('../scripts/compile-tests.mjs', import.meta.url))
if (spawnSync(process.execPath, [compiling], { stdio: ['ignore', 2, 2] }).status !== 0)
  fail('build/ could not be compiled')

const machine = describeMachine()
const results = []
if (!json) console.log(`${machine}\nmedians of ${runs} runs\n`)
for (const [name, sides] of await grouped(rows.length > 0 ? rows : names)) {
  const row = (await load(name)) as Row
  if (!takesPart(row.ours)) continue
  if (!json) console.log(heading(name, row, row))
  const measured = await measure(name, row, runs, sides).catch(error => fail(`${name}: ${error.message}`))
  for (const result of measured) {
    const side = sides[result.name]
    if (!json) console.log(side === undefined ? table(result) : `${heading(result.name, side, row)}\n${table(result)}`)
    if (rows.length === 0 || rows.includes(result.name)) results.push(result)
  }
}
if (json) console.log(JSON.stringify({ machine, results }))

/** The rows to measure, each with those that its contenders answer besides. */
async function grouped(chosen: readonly string[]): Promise<Map<string, Record<string, SideRow>>> {
  const groups = new Map<string, Record<string, SideRow>>()
  for (const name of chosen) {
    const row = await load(name)
    const main = 'of' in row ? row.of : name
    const sides = groups.get(main) ?? {}
    if ('of' in row) sides[name] = row
    groups.set(main, sides)
  }
  return groups
}

async function load(name: string): Promise<Row | SideRow> {
  return ((await import(`./rows/${name}.ts`)) as { default: Row | SideRow }).default
}

function parsed(): Asked {
  try {
    return parseArguments(process.argv.slice(2), names)
  } catch (error) {
    return fail((error as Error).message)
  }
}

function fail(message: string): never {
  console.error(message)
  process.exit(1)
}
