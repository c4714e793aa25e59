/** How often each attack has tried, of all recorded runs: what the plot of docs/reliability.md shows. */
import type { Record } from './records.ts'

export interface Tries {
  readonly name: string
  readonly value: number
  readonly label: string
}

/** An attack counts its tries first. These have other counts that say more, or more than one. */
const COUNTED: { readonly [attack: string]: readonly string[] } = {
  chaos: ['faults', 'requests'],
  faults: ['calls that failed', 'combinations'],
  flat: ['messages', 'connections', 'reloads'],
  soak: ['operations', 'requests']
}

/** The largest number first. */
export function triesOf(records: readonly Record[]): Tries[] {
  const attacks = [...new Set(records.map(({ attack }) => attack))]
  return attacks
    .flatMap(attack => {
      const runs = records.filter(record => record.attack === attack)
      const found = runs.reduce((sum, run) => sum + run.found.length, 0)
      return (COUNTED[attack] ?? Object.keys(runs[0]!.counts).slice(0, 1)).map(what => {
        const value = runs.reduce((sum, { counts }) => sum + (counts[what] ?? 0), 0)
        return { name: `${attack}: ${what}`, value, label: `${figure(value)}, found ${found}` }
      })
    })
    .filter(({ value }) => value > 0)
    .sort((one, other) => other.value - one.value)
}

export function figure(value: number): string {
  return value.toLocaleString('en', { maximumFractionDigits: 1 })
}
