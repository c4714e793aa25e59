/** docs/reliability.json: what whole runs of the attacks have found, as docs/reliability.md shows it. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describeMachine } from '../bench/machine.ts'
import type { Outcome } from './attack.ts'

export const RECORDS = fileURLToPath(new URL('../docs/reliability.json', import.meta.url))

export interface Run extends Outcome {
  readonly seed: number
  readonly seconds: number
}

export interface Record extends Run {
  readonly attack: string
  /** Its parts, if they were not all. */
  readonly only: readonly string[]
  /** YYYY-MM-DD */
  readonly date: string
  readonly machine: string
  /** What limited the run: the options that repeat it. */
  readonly limits?: string
}

export function readRecords(): Record[] {
  return existsSync(RECORDS) ? JSON.parse(readFileSync(RECORDS, 'utf8')) : []
}

/** In place of earlier ones of the same parts. A whole run stands for all parts. */
export function record(attack: string, only: readonly string[], run: Run, limits: string): void {
  const now: Record = {
    attack,
    only: [...only].sort(),
    date: new Date().toISOString().slice(0, 10),
    machine: describeMachine(),
    ...(limits !== '' && { limits }),
    ...run
  }
  const kept = readRecords().filter(
    before => before.attack !== attack || (only.length > 0 && `${before.only}` !== `${now.only}`)
  )
  const all = [...kept, now].sort((one, other) => keyOf(one).localeCompare(keyOf(other)))
  writeFileSync(RECORDS, `${JSON.stringify(all, undefined, 2)}\n`)
}

function keyOf({ attack, only }: Record): string {
  return [attack, ...only].join(' ')
}
