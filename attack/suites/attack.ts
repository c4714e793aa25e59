/** The whole test suite, where it finds more than in an ordinary run: under sanitizers, and on other versions of Node. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { countTap } from '../../scripts/tap-count.mjs'
import { type Attack, chosenOf, type Outcome, type Settings } from '../attack.ts'
import { Unable } from '../needs.ts'
import { USUAL_TMPDIR } from '../scratch.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const AVA = 'node_modules/ava/entrypoints/cli.mjs'
const VERSIONS = ['22', '24', '26']
/** Some files of each kind, for a sample. */
const SAMPLE = ['test/os/native.test.ts', 'test/channel/channel.test.ts']

interface Suite {
  readonly command: readonly string[]
  /** A package of npm that has the Node which runs it. */
  readonly node?: string
}

/**
 * What runs in one process, with its threads. Some that a shell starts crash under the thread sanitizer, before Node's main().
 */
const THREADED = ['connection', 'channel', 'datagram', 'descriptor', 'memory', 'stream']
  .flatMap(wing => readdirSync(join(root, 'test', wing)).map(name => `test/${wing}/${name}`))
  .concat(readdirSync(join(root, 'test/os')).flatMap(name => (/^(native|loop)/.test(name) ? `test/os/${name}` : [])))
  .filter(name => name.endsWith('.test.ts') && !/\b(wing|activated)\.test/.test(name))

const SUITES: Record<string, Suite> = {
  'address and undefined behaviour': { command: ['scripts/sanitize.mjs', '--tap'] },
  threads: { command: ['scripts/sanitize.mjs', '--threads', '--tap', ...THREADED] },
  ...Object.fromEntries(
    VERSIONS.map(version => [
      `node ${version}`,
      { command: [AVA, '--tap'], node: `node-linux-${process.arch}@${version}` }
    ])
  )
}

export const suites: Attack = {
  promise:
    'The same build works on every Node that passfd supports, touches no memory that is not its own, and its threads race for nothing.',
  what: 'Every test, with the native part built with the address and undefined-behaviour sanitizers, and on Node 22, 24 and 26 as it is; the tests of descriptors, channels, datagrams, streams and memory with the thread sanitizer.',
  needs: ['build', 'npm', 'cc'],
  parts: Object.keys(SUITES),
  count: Number.POSITIVE_INFINITY,
  sample: SAMPLE.length,
  time: 7_200_000,
  run
}

/** `count` limits the files of tests, if it is not infinite. */
async function run(settings: Settings): Promise<Outcome> {
  const counts = { tests: 0, skipped: 0, suites: 0 }
  const found: string[] = []
  const untried: string[] = []
  const isOver = (part: string, what: string): void => {
    untried.push(`${part}: ${what}`)
    settings.log(untried.at(-1)!)
  }
  const files = settings.count > SAMPLE.length ? [] : SAMPLE.slice(0, settings.count)
  const end = performance.now() + settings.time
  for (const part of chosenOf(suites.parts, settings)) {
    const left = Math.ceil(end - performance.now())
    if (left <= 0) {
      isOver(part, 'the time is over')
      continue
    }
    const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
    chmodSync(folder, 0o755) // tests start this Node as another user
    try {
      const { command, node } = SUITES[part]!
      // Some tests have sockets whose paths have little room: in no folder of the attack
      const env: NodeJS.ProcessEnv = { ...process.env, CI: 'true', TMPDIR: USUAL_TMPDIR }
      if (node !== undefined) env.PATH = `${await install(node, folder)}${delimiter}${process.env.PATH}`
      const { output, ended } = await outputOf('node', [...command, ...files], env, left)
      if (performance.now() >= end) {
        isOver(part, 'it is cut off, because the time is over')
        continue
      }
      const { passed, skipped, names, fault } = countTap(output)
      settings.log(`${part}: ${passed} passed, ${names.length} failed, ${skipped} skipped`)
      counts.tests += passed + names.length
      counts.skipped += skipped
      counts.suites++
      const problems = [...names, ...(fault === undefined ? [] : [fault])]
      if (ended !== 0 && problems.length === 0) problems.push(`it ends with ${ended}: ${output.slice(-2000)}`)
      for (const problem of problems) {
        found.push(`${part}: ${problem}`)
        settings.log(problem)
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
  return { counts, found, untried }
}

/** Gives the folder of its program. */
async function install(node: string, folder: string): Promise<string> {
  const args = ['install', '--prefix', folder, '--prefer-offline', '--no-audit', '--no-fund', '--no-save', node]
  const { output, ended } = await outputOf('npm', args, process.env, 300_000)
  if (ended !== 0) throw new Unable(`npm can't install ${node}: ${output}`)
  return join(folder, 'node_modules', node.replace(/@.*/, ''), 'bin')
}

async function outputOf(
  command: string,
  parameters: readonly string[],
  env: NodeJS.ProcessEnv,
  timeout: number
): Promise<{ output: string; ended: number | string }> {
  const child = spawn(command, parameters, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'], timeout })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', text => {
      output += text
    })
  const [code, signal] = await once(child, 'close')
  return { output, ended: code ?? signal }
}
