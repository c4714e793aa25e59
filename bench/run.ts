/**
 * `npm run bench [-- [--json] [ROW…]]`: measures passfd against its peers and against bare system calls. Each row is a file in rows/,
 * each contender a program with a process at each end; it fails if a message is lost or a descriptor is left open. Build first.
 */
import { existsSync, readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { describeMachine } from './machine.ts'
import { measure, type Row, RUNS } from './measure.ts'
import { heading, table } from './report.ts'

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1)) // with what is to be done then
const names = readdirSync(new URL('rows/', import.meta.url)).map(file => file.replace(/\.ts$/, ''))
const { values: options, positionals } = parsed()
const runs = Number(options.runs)
if (!Number.isInteger(runs) || runs < 1) fail(`--runs takes a whole number from 1 on, not ${options.runs}`)
const unknown = positionals.filter(name => !names.includes(name))
if (unknown.length > 0) fail(`unknown row: ${unknown.join(', ')}. Rows: ${names.join(', ')}`)
if (!existsSync(new URL('../dist/index.js', import.meta.url))) fail('dist/ is not built: npm run build')

const chosen = positionals.length > 0 ? positionals : names
const machine = describeMachine()
const results = []
if (!options.json) console.log(`${machine}\nmedians of ${runs} runs\n`)
for (const name of chosen) {
  const { default: row } = (await import(`./rows/${name}.ts`)) as { default: Row }
  if (!options.json) console.log(heading(name, row))
  const result = await measure(name, row, runs).catch(error => fail(`${name}: ${error.message}`))
  if (!options.json) console.log(table(result, row))
  results.push(result)
}
if (options.json) console.log(JSON.stringify({ machine, results }))

function parsed() {
  try {
    return parseArgs({
      options: { json: { type: 'boolean', default: false }, runs: { type: 'string', default: String(RUNS) } },
      allowPositionals: true
    })
  } catch (error) {
    return fail(`${(error as Error).message}\nnpm run bench [-- [--json] [--runs N] [ROW…]]`)
  }
}

function fail(message: string): never {
  console.error(message)
  process.exit(1)
}
