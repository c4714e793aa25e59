// In CI only: each attack runs as `npm run attack` runs it, on a sample.
import { fileURLToPath } from 'node:url'
import { faults } from '../../attack/faults/attack.ts'
import { flat } from '../../attack/flat/attack.ts'
import { fuzz } from '../../attack/fuzz/attack.ts'
import { kills } from '../../attack/kills/attack.ts'
import { start } from '../helpers/process.ts'
import { testInCi } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** What a sample counts, and how much of it. */
const SAMPLES: Record<string, [what: string, count: number]> = {
  faults: ['combinations', faults.sample],
  flat: ['hundredths', flat.sample],
  fuzz: ['executions', fuzz.sample],
  kills: ['rounds', kills.sample]
}

for (const [name, [what, count]] of Object.entries(SAMPLES))
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
    t.true(counts[what] >= count, JSON.stringify(counts))
  })
