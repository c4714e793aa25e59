/** `npm run attack -- NAME…`: see README.md here. */
import { parseArgs } from 'node:util'
import { ATTACKS } from './attacks.ts'
import { type Run, record } from './records.ts'

const USAGE =
  'npm run attack -- [--sample] [--seed N] [--count N] [--minutes M] [--only PART]… [--json] [--record] NAME… | --list'

const { values, positionals } = parseArgs({
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
if (values.list) {
  console.log(Object.keys(ATTACKS).join('\n'))
  process.exit()
}
const unknown = positionals.filter(name => !(name in ATTACKS))
if (positionals.length === 0 || unknown.length > 0) {
  if (unknown.length > 0) console.error(`unknown attack: ${unknown.join(', ')}`)
  console.error(`${USAGE}\nAttacks: ${Object.keys(ATTACKS).join(', ')}`)
  process.exit(2)
}

const outcomes: Record<string, Run> = {}
const seed = number('--seed', values.seed)
for (const name of positionals) {
  const attack = ATTACKS[name]!
  console.error(`${name}: ${attack.promise}\n  ${attack.what}`)
  const begun = performance.now()
  const outcome = await attack.run({
    seed,
    count:
      values.count === undefined ? (values.sample ? attack.sample : attack.count) : number('--count', values.count),
    time: values.minutes === undefined ? attack.time : number('--minutes', values.minutes) * 60_000,
    only: values.only,
    log: line => console.error(`  ${line}`)
  })
  const seconds = Math.round((performance.now() - begun) / 1000)
  outcomes[name] = { ...outcome, seconds, seed }
  if (values.record) record(name, values.only, outcomes[name], limitsOf())
  const counts = Object.entries(outcome.counts).map(([what, count]) => `${count.toLocaleString('en')} ${what}`)
  console.error(`${name}: ${counts.join(', ')}; found ${outcome.found.length}; seed ${seed}, ${seconds} s`)
}
if (values.json) console.log(JSON.stringify(outcomes, undefined, 2))
process.exitCode = Object.values(outcomes).some(({ found }) => found.length > 0) ? 1 : 0

/** Options that limit a run, as they repeat it. */
function limitsOf(): string {
  const { sample, count, minutes } = values
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
    process.exit(2)
  }
  return value
}
