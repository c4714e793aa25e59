/** What `npm run bench` may be asked for. */
import { parseArgs } from 'node:util'
import { type Effort, QUICK, WHOLE } from './measure.ts'

export interface Asked {
  json: boolean
  quick: boolean
  effort: Effort
  /** How many times all rows are measured. */
  repeat: number
  /** None: all of them. */
  rows: string[]
}

/** Throws with what may be said instead. */
export function parseArguments(args: string[], names: readonly string[]): Asked {
  const { values, positionals: rows } = parsed(args)
  const { json, quick } = values
  const effort = quick ? QUICK : WHOLE
  const runs = values.runs === undefined ? effort.runs : count('--runs', values.runs)
  const unknown = rows.filter(name => !names.includes(name))
  if (unknown.length > 0) throw new Error(`unknown row: ${unknown.join(', ')}. Rows: ${names.join(', ')}`)
  return {
    json,
    quick,
    effort: { ...effort, runs, rowsChoose: effort.rowsChoose && values.runs === undefined },
    repeat: count('--repeat', values.repeat),
    rows
  }
}

function count(option: string, text: string): number {
  const number = Number(text)
  if (!Number.isInteger(number) || number < 1) throw new Error(`${option} takes a whole number from 1 on, not ${text}`)
  return number
}

function parsed(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        json: { type: 'boolean', default: false },
        quick: { type: 'boolean', default: false },
        runs: { type: 'string' },
        repeat: { type: 'string', default: '1' }
      },
      allowPositionals: true
    })
  } catch (error) {
    throw new Error(`${(error as Error).message}\nnpm run bench [-- [--json] [--quick] [--runs N] [--repeat N] [ROW…]]`)
  }
}
