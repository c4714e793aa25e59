/** Attacks as `npm run attack` runs them, on a sample. Some files share them, because each takes its time. */
import { fileURLToPath } from 'node:url'
import { ATTACKS } from '../../attack/attacks.ts'
import { missingOf } from '../../attack/needs.ts'
import { isFull } from '../helpers/full.ts'
import { start } from '../helpers/process.ts'
import { testInCi } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** CI has clang in full runs only. */
const isThere = (name: string): boolean => name !== 'waist' || isFull || missingOf(['clang']).length === 0

/** By file. CI runs the suites by itself. */
const FILES: Record<string, readonly string[]> = {
  servers: ['chaos', 'soak'],
  processes: ['faults', 'kills', 'steps', 'threads'],
  others: Object.keys(ATTACKS).filter(
    name => !['chaos', 'soak', 'faults', 'kills', 'steps', 'threads', 'suites'].includes(name)
  )
}

export function testSamples(file: string): void {
  for (const name of FILES[file]!.filter(isThere))
    testInCi(`a sample of the attack ${name} finds nothing`, async t => {
      const args = ['--import', 'tsx', 'attack/run.ts', '--sample', '--json', name]
      const { child, exit } = start(process.execPath, args, { cwd: root })
      let output = ''
      child.stdout!.setEncoding('utf8').on('data', text => {
        output += text
      })
      const { code, stderr } = await exit
      t.not(output, '', stderr)
      const { counts, found } = JSON.parse(output)[name]
      t.deepEqual(found, [])
      t.is(code, 0, stderr)
      // The first is what `--count` limits
      t.true((Object.values(counts)[0] as number) >= ATTACKS[name]!.sample, JSON.stringify(counts))
    })
}
