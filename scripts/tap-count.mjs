/**
 * Counts the tests of a TAP file: `node scripts/tap-count.mjs <file>` prints "<passed> <failed> <skipped>".
 * A missing plan, or one that does not agree with the number of tests seen, counts as a failure.
 */
import { readFileSync } from 'node:fs'

let passed = 0
let failed = 0
let skipped = 0
let planned = -1

for (const line of readFileSync(process.argv[2], 'utf8').split('\n')) {
  const result = /^(not )?ok\b(.*)$/.exec(line)
  const plan = /^1\.\.(\d+)/.exec(line)
  if (plan) planned = Number(plan[1])
  if (!result) continue
  if (/(^|[^\\])# *(skip|todo)\b/i.test(result[2])) skipped++
  else if (result[1]) failed++
  else passed++
}

if (planned !== passed + failed + skipped) {
  console.error(
    `tap-count: ${passed + failed + skipped} results, but the plan says ${planned < 0 ? 'nothing' : planned}`
  )
  failed++
}
console.log(`${passed} ${failed} ${skipped}`)
