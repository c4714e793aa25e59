// In CI only: each attack runs as `npm run attack` runs it, on a sample.
import { fileURLToPath } from 'node:url'
import { start } from '../helpers/process.ts'
import { testInCi } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** How much each tries at least in its time. */
const LEAST: Record<string, [what: string, count: number]> = {
  faults: ['combinations', 150],
  fuzz: ['executions', 20_000],
  kills: ['rounds', 25]
}

for (const [name, [what, least]] of Object.entries(LEAST))
  testInCi(`a sample of the attack ${name} finds nothing`, async t => {
    const args = ['--import', 'tsx', 'attack/run.ts', '--sample', '--minutes', '0.7', '--json', name]
    const { child, exit } = start(process.execPath, args, { cwd: root })
    let output = ''
    child.stdout!.setEncoding('utf8').on('data', text => {
      output += text
    })
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
    const { counts, found } = JSON.parse(output)[name]
    t.deepEqual(found, [])
    t.true(counts[what] >= least, JSON.stringify(counts))
  })
