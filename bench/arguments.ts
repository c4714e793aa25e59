/** What `npm run bench` may be asked for. */
import { parseArgs } from 'node:util'
import { RUNS } from './measure.ts'

export interface Asked {
  json: boolean
  runs: number
  /** None: all of them. */
  rows: string[]
}

/** Throws with what may be said instead. */
export function parseArguments(args: string[], names: readonly string[]): Asked {
  const { values, positionals: rows } = parsed(args)
  const runs = Number(values.runs)
  if (!Number.isInteger(runs) || runs < 1) throw new Error(`--runs takes a whole number from 1 on, not ${values.runs}`)
  const unknown = rows.filter(name => !names.includes(name))
  if (unknown.length > 0) throw new Error(`unknown row: ${unknown.join(', ')}. Rows: ${names.join(', ')}`)
  return { json: values.json, runs, rows }
}

function parsed(args: string[]) {
  try {
    return parseArgs({
      args,
      options: { json: { type: 'boolean', default: false }, runs: { type: 'string', default: String(RUNS) } },
      allowPositionals: true
    })
  } catch (error) {
    throw new Error(`${(error as Error).message}\nnpm run bench [-- [--json] [--runs N] [ROW…]]`)
  }
}
