/** `npm run attack -- NAME…`: see README.md here. */
import { parseArgs } from 'node:util'
import { reasonOf } from './attack.ts'
import { missingOf, Unable } from './needs.ts'
import type { Run } from './records.ts'
import { useScratch } from './scratch.ts'

const USAGE =
  'npm run attack -- [--sample] [--seed N] [--count N] [--minutes M] [--only PART]… [--json] [--record] NAME… | --list'
/** Exit codes. */
const FOUND = 1
const UNTRIED = 2

const { values, positionals } = readArguments()
/** Of an attack that could not run, the reason. */
const outcomes: Record<string, Run | { error: string }> = {}
const scratch = useScratch(print)
// They use temporary files already as they are loaded
const { ATTACKS } = await import('./attacks.ts')
const { record } = await import('./records.ts')

if (values.list) {
  console.log(Object.keys(ATTACKS).join('\n'))
  end(0)
}
const unknown = positionals.filter(name => !(name in ATTACKS))
if (positionals.length === 0 || unknown.length > 0) {
  if (unknown.length > 0) console.error(`unknown attack: ${unknown.join(', ')}`)
  console.error(`${USAGE}\nAttacks: ${Object.keys(ATTACKS).join(', ')}`)
  end(UNTRIED)
}

const seed = number('--seed', values.seed)
const count = values.count === undefined ? undefined : number('--count', values.count)
const minutes = values.minutes === undefined ? undefined : number('--minutes', values.minutes)
let code = 0
for (const name of positionals)
  try {
    const run = await attack(name)
    outcomes[name] = run
    if (run.found.length > 0) code = FOUND
    else if ((run.untried ?? []).length > 0 && code === 0) code = UNTRIED
  } catch (error) {
    outcomes[name] = { error: reasonOf(error) }
    console.error(`${name}: ${reasonOf(error)}`)
    if (code === 0) code = UNTRIED
  }
print()
end(code)

/** @throws Unable: something is missing, or nothing was tried. */
async function attack(name: string): Promise<Run> {
  const { promise, what, needs, run, ...usual } = ATTACKS[name]!
  console.error(`${name}: ${promise}\n  ${what}`)
  const missing = missingOf(needs)
  if (missing.length > 0) throw new Unable(`it needs ${missing.join('; ')}`)
  const begun = performance.now()
  const outcome = await run({
    seed,
    count: count ?? (values.sample ? usual.sample : usual.count),
    time: minutes === undefined ? usual.time : minutes * 60_000,
    only: values.only,
    log: line => console.error(`  ${line}`)
  })
  const seconds = Math.round((performance.now() - begun) / 1000)
  const counts = Object.entries(outcome.counts).map(([each, done]) => `${done.toLocaleString('en')} ${each}`)
  console.error(`${name}: ${counts.join(', ')}; found ${outcome.found.length}; seed ${seed}, ${seconds} s`)
  const result = { ...outcome, seconds, seed }
  const { untried = [], found } = outcome
  if (Object.values(outcome.counts)[0] === 0 && found.length === 0)
    throw new Unable(['nothing was tried', ...untried].join('\n  '))
  if (untried.length > 0) console.error(`${name}: not tried: ${untried.join('; ')}`)
  if (values.record && untried.length > 0) console.error(`${name}: not recorded`)
  else if (values.record) record(name, values.only, result, limitsOf())
  return result
}

function print(): void {
  if (values.json) console.log(JSON.stringify(outcomes, undefined, 2))
}

function end(code: number): never {
  scratch.clear()
  process.exit(code)
}

/** Options that limit a run, as they repeat it. */
function limitsOf(): string {
  const { sample } = values
  return [
    sample && count === undefined ? ' --sample' : '',
    count === undefined ? '' : ` --count ${count}`,
    minutes === undefined ? '' : ` --minutes ${minutes}`
  ].join('')
}

function number(option: string, text: string): number {
  const value = Number(text)
  if (!Number.isFinite(value) || value < 0 || text === '') {
    console.error(`${option} takes a number, not ${text}\n${USAGE}`)
    end(UNTRIED)
  }
  return value
}

function readArguments() {
  try {
    return parseArgs({
      options: {
        sample: { type: 'boolean', default: false },
        seed: { type: 'string', default: '1' },
        count: { type: 'string' },
        minutes: { type: 'string' },
        only: { type: 'string', multiple: true, default: [] },
        json: { type: 'boolean', default: false },
        record: { type: 'boolean', default: false },
        list: { type: 'boolean', default: false }
      },
      allowPositionals: true
    })
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`)
    process.exit(UNTRIED)
  }
}
