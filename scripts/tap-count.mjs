/**
 * Counts the tests of a TAP file: `node scripts/tap-count.mjs <file>` prints "<passed> <failed> <skipped>".
 * A missing plan, or one that does not agree with the number of tests seen, counts as a failure.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Also `names` of those that failed, and `fault` of the plan, which counts as one of them. */
export function countTap(text) {
  let passed = 0
  let skipped = 0
  let planned = -1
  const names = []
  for (const line of text.split('\n')) {
    const result = /^(not )?ok\b(.*)$/.exec(line)
    const plan = /^1\.\.(\d+)/.exec(line)
    if (plan) planned = Number(plan[1])
    if (!result) continue
    if (/(^|[^\\])# *(skip|todo)\b/i.test(result[2])) skipped++
    else if (result[1]) names.push(result[2].replace(/^ *\d* *-? */, ''))
    else passed++
  }
  const seen = passed + names.length + skipped
  const fault = planned === seen ? undefined : `${seen} results, but the plan says ${planned < 0 ? 'nothing' : planned}`
  return { passed, failed: names.length + (fault === undefined ? 0 : 1), skipped, names, fault }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { passed, failed, skipped, fault } = countTap(readFileSync(process.argv[2], 'utf8'))
  if (fault !== undefined) console.error(`tap-count: ${fault}`)
  console.log(`${passed} ${failed} ${skipped}`)
}
