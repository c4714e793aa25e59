/**
 * `npm run bench [-- [--json] [--quick] [--runs N] [--repeat N] [ROW…]]`: measures passfd against its peers and against bare system calls.
 * Each row is a file in rows/, each contender a program with a process at each end; it fails if a message is lost or a descriptor is left
 * open. Build first.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Asked, parseArguments } from './arguments.ts'
import { type Conditions, countStolen, describeConditions, readConditions } from './conditions.ts'
import { describeMachine } from './machine.ts'
import { measure, type Result, type Row, type SideRow, takesPart } from './measure.ts'
import { heading, spreadTable, table } from './report.ts'
import { type Spreads, spreadOf } from './spread.ts'

/** What `--json` prints: one whole run, the last one if there are several. */
export interface Report {
  machine: string
  conditions: Conditions
  /** The share of the cores' time that the hypervisor has given to others, in percent. */
  stolen: number
  /** How long the run has taken, in seconds, and each of its rows. */
  seconds: number
  rowSeconds: Record<string, number>
  /** It had too little time for figures that can be published. */
  quick?: true
  results: Result[]
  /** By how much the runs differ, and how many there were, if there were several. */
  spread?: Spreads
  runs?: number
}

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1)) // with what is to be done then
const names = readdirSync(new URL('rows/', import.meta.url)).map(file => file.replace(/\.ts$/, ''))
const { json, quick, effort, repeat, rows } = parsed()
if (!existsSync(new URL('../dist/index.js', import.meta.url))) fail('dist/ is not built: npm run build')
let conditions = await readConditions()
// The rows `layer-…` measure modules that dist/ has only within a wing
const compiling = fileURLToPath(new URL('../scripts/compile-tests.mjs', import.meta.url))
if (spawnSync(process.execPath, [compiling], { stdio: ['ignore', 2, 2] }).status !== 0)
  fail('build/ could not be compiled')

const reports: Report[] = []
for (let run = 0; run < repeat; run++) {
  if (run > 0) conditions = await readConditions(true)
  reports.push(await wholeRun(run))
}
const last = reports.at(-1)!
const several = repeat > 1 ? { spread: spreadOf(reports.map(({ results }) => results)), runs: repeat } : {}
if (json) console.log(JSON.stringify({ ...last, ...several }))
else if (several.spread !== undefined) console.log(spreadTable(several.spread, repeat))
const failed = reports.flatMap(({ results }) =>
  results.flatMap(({ name, failed }) =>
    Object.entries(failed ?? {}).map(([who, reason]) => `${name}: ${who}: ${reason}`)
  )
)
for (const failure of failed) console.error(`failed: ${failure}`)
if (failed.length > 0) process.exitCode = 1

/** Measures each row once, and prints its tables. */
async function wholeRun(run: number): Promise<Report> {
  const say = (text: string) => json || console.log(text)
  const machine = describeMachine()
  if (conditions.warning !== undefined) console.error(`not quiet: ${conditions.warning}`)
  say(`${repeat > 1 ? `run ${run + 1} of ${repeat}: ` : ''}${machine}\n${describeConditions(conditions)}`)
  const few = quick ? ' (--quick: shorter, with fewer peers; for a first look, not for publishing)' : ''
  say(`medians of ${effort.runs} runs${few}, and (smallest – largest)\n`)
  const stolen = countStolen()
  const began = performance.now()
  const results: Result[] = []
  const rowSeconds: Record<string, number> = {}
  for (const [name, sides] of await grouped(rows.length > 0 ? rows : names)) {
    const row = (await load(name)) as Row
    if (!takesPart(row.ours)) continue
    say(heading(name, row, row))
    const start = performance.now()
    const measured = await measure(name, row, effort, sides)
    rowSeconds[name] = seconds(start)
    for (const result of measured) {
      const side = sides[result.name]
      say(side === undefined ? table(result) : `${heading(result.name, side, row)}\n${table(result)}`)
      // Who has failed stands in the first one
      if (rows.length === 0 || rows.includes(result.name) || result.failed !== undefined) results.push(result)
    }
  }
  const took = seconds(began)
  say(`${took} s; the hypervisor gave ${stolen()} % of the cores' time to others\n`)
  return { machine, conditions, stolen: stolen(), seconds: took, rowSeconds, ...(quick ? { quick } : {}), results }
}

/** Since `start`. */
function seconds(start: number): number {
  return Number(((performance.now() - start) / 1000).toFixed(1))
}

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
