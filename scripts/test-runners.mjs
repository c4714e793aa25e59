/**
 * Runs passfd, as it is built, under other projects' tools: node scripts/test-runners.mjs [jest] [vitest] [typescript]. Each has a
 * folder in test/runners with a lockfile of its own. The last line is "N passed, N failed".
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { argv, env } from 'node:process'
import { fileURLToPath } from 'node:url'

const full = env.PASSFD_TEST_FULL === '1'
/** Vitest evaluates passfd itself (inline) or has Node do it, in each of its pools. */
const vitest = (pool, inline, isolate = true) => [
  ['node', 'node_modules/vitest/vitest.mjs', 'run', `--pool=${pool}`],
  { INLINE: inline ? 'yes' : 'no', ISOLATE: isolate ? 'yes' : 'no' }
]
const RUNS = {
  jest: [[['npm', 'test', '--silent'], {}]],
  vitest: [
    vitest('forks', true),
    vitest('threads', true),
    vitest('vmThreads', false),
    vitest('vmThreads', true),
    ...(full
      ? [vitest('forks', false), vitest('threads', false), vitest('vmForks', false), vitest('vmForks', true)]
      : []),
    ...(full ? [vitest('threads', true, false)] : [])
  ],
  typescript: [[['npm', 'test', '--silent'], {}]]
}

let passed = 0
let failed = 0

for (const name of argv.length > 2 ? argv.slice(2) : Object.keys(RUNS)) {
  const cwd = fileURLToPath(new URL(`../test/runners/${name}`, import.meta.url))
  count(name, run(cwd, ['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], {}))
  const link = `${cwd}/node_modules/passfd`
  mkdirSync(`${cwd}/node_modules`, { recursive: true })
  rmSync(link, { recursive: true, force: true })
  symlinkSync('../../../..', link)
  for (const [command, environment] of RUNS[name])
    count(`${command.join(' ')} ${JSON.stringify(environment)}`, run(cwd, command, environment))
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

function run(cwd, [command, ...args], environment) {
  const { status } = spawnSync(command, args, {
    cwd,
    env: { ...env, ...environment },
    stdio: 'inherit',
    timeout: 120_000
  })
  return status === 0
}

function count(what, good) {
  if (good) passed++
  else failed++
  console.log(`--- ${what}: ${good ? 'ok' : 'FAILED'}`)
}
