// In CI only: each attack runs as `npm run attack` runs it, on a sample.
import { fileURLToPath } from 'node:url'
import { ATTACKS } from '../../attack/attacks.ts'
import { start } from '../helpers/process.ts'
import { testInCi } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** CI runs the suites by itself. */
const { suites: _, ...sampled } = ATTACKS

for (const [name, { sample }] of Object.entries(sampled))
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
    t.true((Object.values(counts)[0] as number) >= sample, JSON.stringify(counts))
  })
