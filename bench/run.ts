/**
 * `npm run bench [-- [--json] [ROW…]]`: measures passfd against its peers and against bare system calls. Each row is a file in rows/,
 * each contender a program with a process at each end; it fails if a message is lost or a descriptor is left open. Build first.
 */
import { existsSync, readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { describeMachine } from './machine.ts'
import { measure, type Row, RUNS } from './measure.ts'
import { heading, table } from './report.ts'

const names = readdirSync(new URL('rows/', import.meta.url)).map(file => file.replace(/\.ts$/, ''))
const { values: options, positionals } = parseArgs({
  options: { json: { type: 'boolean', default: false }, runs: { type: 'string', default: String(RUNS) } },
  allowPositionals: true
})
const unknown = positionals.filter(name => !names.includes(name))
if (unknown.length > 0) fail(`unknown row: ${unknown.join(', ')}. Rows: ${names.join(', ')}`)
if (!existsSync(new URL('../dist/index.js', import.meta.url))) fail('dist/ is not built: npm run build')

const chosen = positionals.length > 0 ? positionals : names
const machine = describeMachine()
const results = []
if (!options.json) console.log(`${machine}\nmedians of ${options.runs} runs\n`)
for (const name of chosen) {
  const { default: row } = (await import(`./rows/${name}.ts`)) as { default: Row }
  if (!options.json) console.log(heading(name, row))
  const result = await measure(name, row, Number(options.runs))
  if (!options.json) console.log(table(result, row))
  results.push(result)
}
if (options.json) console.log(JSON.stringify({ machine, results }))

function fail(message: string): never {
  console.error(message)
  process.exit(1)
}
