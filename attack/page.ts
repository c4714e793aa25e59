/**
 * `npm run attack:page [-- FOLDER]`: writes the tables of FOLDER/reliability.md (default docs) and FOLDER/reliability.svg from
 * FOLDER/reliability.json. With `--no-plot` the tables only: what draws is installed when it is first asked for.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { install } from '../bench/packages.ts'
import { table } from '../bench/tables.ts'
import { fillIn } from '../scripts/fill-in.mjs'
import type { Row } from './attack.ts'
import { ATTACKS } from './attacks.ts'
import type { Record } from './records.ts'
import { figure, triesOf } from './tries.ts'

const { values: options, positionals } = parseArgs({
  options: { 'no-plot': { type: 'boolean' } },
  allowPositionals: true
})
const [folder = fileURLToPath(new URL('../docs', import.meta.url))] = positionals
const records = JSON.parse(readFileSync(join(folder, 'reliability.json'), 'utf8')) as Record[]

/** Of attacks whose rows have more columns than a page. */
const COLUMNS: { readonly [attack: string]: readonly string[] } = {
  chaos: [
    'server',
    'fault',
    'times',
    'requests',
    'refused',
    'kills',
    'lost of these',
    'ended with its listener',
    'lost otherwise',
    'verdict'
  ]
}

fillIn(join(folder, 'reliability.md'), {
  attacks: table(['promise', 'attack', 'how often', 'found', 'repeat it with'], records.map(lineOf)),
  runs: [...new Set(records.map(({ date, machine }) => `${date}: ${machine}`))]
    .sort()
    .map(line => `- ${line}`)
    .join('\n'),
  ...Object.fromEntries([...rowsByAttack()].map(([attack, rows]) => [attack, rowsTable(rows, COLUMNS[attack])]))
})

if (!options['no-plot']) {
  const missing = install()
  if (missing !== undefined) throw new Error(`vega: ${missing}`)
  const { counts } = await import('../bench/plots.ts')
  writeFileSync(
    join(folder, 'reliability.svg'),
    await counts('what was tried, and how often (logarithmic)', triesOf(records))
  )
}

function lineOf({ attack, only, counts, found, seed, seconds, limits = '' }: Record): string[] {
  const done = Object.entries(counts).flatMap(([what, count]) => (count === 0 ? [] : [`${figure(count)} ${what}`]))
  const parts = only.map(part => ` --only ${/\s/.test(part) ? `'${part}'` : part}`).join('')
  return [
    ATTACKS[attack]!.promise,
    `${attack}${only.length > 0 ? `: ${only.join(', ')}` : ''}`,
    `${done.join(', ')} in ${duration(seconds)}`,
    found.length === 0 ? 'nothing' : `**${found.length}**: ${found.join('; ')}`,
    `\`npm run attack --${parts}${limits} --seed ${seed} ${attack}\``
  ]
}

/** Several runs of an attack, each with other parts, have one table. */
function rowsByAttack(): Map<string, Row[]> {
  const all = new Map<string, Row[]>()
  for (const { attack, rows = [] } of records)
    if (rows.length > 0) all.set(attack, [...(all.get(attack) ?? []), ...rows])
  return all
}

function rowsTable(rows: readonly Row[], head: readonly string[] = [...new Set(rows.flatMap(Object.keys))]): string {
  return table(
    [...head],
    rows.map(row => head.map(name => cell(row[name])))
  )
}

function cell(value: string | number | undefined): string {
  return typeof value === 'number' ? figure(value) : (value ?? '')
}

function duration(seconds: number): string {
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`
}
