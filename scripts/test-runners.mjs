/**
 * Runs passfd, as it is built, under other projects' tools: node scripts/test-runners.mjs [jest] [vitest] …. Each has a
 * folder in test/runners with a lockfile of its own. With --install they are only installed, with --installed only run. The last line
 * is "N passed, N failed": commands, or of a command that ends with such a line what it counts.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { argv, env, exit, kill, stdout } from 'node:process'
import { fileURLToPath } from 'node:url'

const full = env.PASSFD_TEST_FULL === '1'
/** Each command is stopped after this many ms. */
const LIMIT = 300_000

/** Vitest evaluates passfd itself (inline) or has Node do it, in each of its pools. */
const vitest = (pool, inline, { isolate = true, coverage = false } = {}) => [
  ['node', 'node_modules/vitest/vitest.mjs', 'run', `--pool=${pool}`],
  { INLINE: inline ? 'yes' : 'no', ISOLATE: isolate ? 'yes' : 'no', COVERAGE: coverage ? 'yes' : 'no' }
]
const RUNS = {
  jest: [[['npm', 'test', '--silent'], {}]],
  vitest: [
    vitest('vmThreads', true),
    ...(full
      ? [
          vitest('forks', true),
          vitest('threads', true, { coverage: true }),
          vitest('vmThreads', false),
          vitest('forks', false),
          vitest('threads', false),
          vitest('vmForks', false),
          vitest('vmForks', true),
          vitest('threads', true, { isolate: false })
        ]
      : [])
  ],
  installers: [[['npm', 'test', '--silent'], {}]],
  testing: [[['npm', 'test', '--silent'], {}]],
  bundlers: [[['npm', 'test', '--silent'], {}]],
  typescript: [[['npm', 'test', '--silent'], {}]]
}
const CI = ['npm', 'ci', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund']

let passed = 0
let failed = 0
const words = argv.slice(2)
const chosen = words.filter(word => !word.startsWith('--'))
const names = chosen.length > 0 ? chosen : Object.keys(RUNS)
const unknown = words.filter(word => !(word in RUNS) && !['--install', '--installed'].includes(word))
if (unknown.length > 0) {
  console.error(`there is no ${unknown.join(', ')}: ${Object.keys(RUNS).join(', ')}, --install, --installed`)
  exit(2)
}

// The network is what an installation waits for: one after the other would take the sum
const installed = words.includes('--installed') ? undefined : new Map(names.map(name => [name, install(name)]))
for (const name of names) {
  if (installed !== undefined && !count(`${name}: ${CI.join(' ')}`, await installed.get(name))) continue
  if (words.includes('--install')) continue
  for (const [command, environment] of RUNS[name])
    count(`${command.join(' ')} ${JSON.stringify(environment)}`, await run(name, command, environment))
}
console.log(`${passed} passed, ${failed} failed`)
exit(failed === 0 ? 0 : 1)

/** From its lockfile, with passfd as a link to this folder. */
async function install(name) {
  const result = await run(name, CI, {})
  const link = `${folder(name)}/node_modules/passfd`
  mkdirSync(`${folder(name)}/node_modules`, { recursive: true })
  rmSync(link, { recursive: true, force: true })
  symlinkSync('../../../..', link)
  return result
}

/** Resolves to how it ended, with all that it printed. */
function run(name, [command, ...args], environment) {
  return new Promise(resolve => {
    // A process group of its own, so that nothing of it is left when it took too long
    const child = spawn(command, args, {
      cwd: folder(name),
      env: { ...env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', text => {
        output += text
      })
    const timer = setTimeout(() => {
      output += `stopped after ${LIMIT / 1000} s\n`
      kill(-child.pid, 'SIGKILL')
    }, LIMIT)
    child.on('error', error => {
      output += `${error}\n`
    })
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      resolve({ good: status === 0, how: signal ?? status, output })
    })
  })
}

function count(what, { good, how, output }) {
  const [, ownPassed, ownFailed] =
    /^(\d+) passed, (\d+) failed\n$/m.exec(output.slice(output.lastIndexOf('\n', output.length - 2) + 1)) ?? []
  passed += Number(ownPassed ?? (good ? 1 : 0))
  // One that ended badly has failed in something
  failed += Math.max(Number(ownFailed ?? 0), good ? 0 : 1)
  stdout.write(output)
  console.log(`--- ${what}: ${good ? 'ok' : `FAILED (${how})`}`)
  return good
}

function folder(name) {
  return fileURLToPath(new URL(`../test/runners/${name}`, import.meta.url))
}
