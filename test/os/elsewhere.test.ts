// In CI only: it starts a process for each system and runtime, some of which wait for calls that must fail.
/**
 * Where the shim can't be, every public function works or says so: on other systems (this Node, which tells another `process.platform`), and in a full run on
 * Bun and Deno, which .ci/run installs and names in PASSFD_TEST_RUNTIMES.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import type { ExecutionContext } from 'ava'
import { isFull } from '../helpers/full.ts'
import { start } from '../helpers/process.ts'
import { test, testIf, testInCi } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const walk = join(root, 'test/fixtures/walk-doors.mjs')
const dist = pathToFileURL(join(root, 'dist/')).href
const command = join(root, 'dist/cli/passfd.mjs')
const run = promisify(execFile)

/** What works, or has another error than the one of the system; all else has that. */
const OTHERWISE: Record<string, string> = {
  'passfd version': 'works',
  'passfd Connection.new': 'ERR_PASSFD_INVALID_ARGUMENT',
  'passfd/datagram attach': 'ERR_PASSFD_INVALID_ARGUMENT',
  'passfd/memory PoolReader.new': 'works',
  'passfd/memory SharedMemory.map': 'ERR_PASSFD_INVALID_ARGUMENT',
  'passfd/prefork METRICS_CONTENT_TYPE': 'works',
  'passfd/prefork Supervisor.new': 'works',
  'passfd/prefork Supervisor#address': 'ERR_PASSFD_LISTENER_UNKNOWN',
  'passfd/prefork Supervisor#kill': 'works',
  'passfd/prefork Supervisor#metrics': 'works',
  'passfd/prefork Supervisor#pauseLines': 'works',
  'passfd/prefork Supervisor#reload': 'ERR_PASSFD_SUPERVISOR_STATE',
  'passfd/prefork Supervisor#resumeLines': 'works',
  'passfd/prefork Supervisor#scale': 'ERR_PASSFD_SUPERVISOR_STATE',
  'passfd/prefork Supervisor#stop': 'works',
  'passfd/prefork restartPolicy': 'works',
  'passfd/store defaultRules': 'works',
  'passfd/stream DescriptorStream.from': 'ERR_PASSFD_INVALID_ARGUMENT',
  'passfd/stream PacketSocket.from': 'ERR_PASSFD_INVALID_ARGUMENT',
  // No service manager has started the process, so there is nothing to do
  'passfd/systemd activatedSockets': 'works',
  'passfd/systemd barrier': 'works',
  'passfd/systemd notify': 'works',
  'passfd/systemd removeStored': 'works',
  'passfd/systemd storeDescriptor': 'ERR_PASSFD_INVALID_ARGUMENT',
  'passfd/systemd watchdog': 'works'
}

interface Walked {
  path: string
  outcome: string
  message?: string
}

async function walked(program: string, ...args: string[]): Promise<Walked[]> {
  const { stdout } = await run(program, [...args], { timeout: 120_000, env: { PATH: process.env.PATH } })
  return stdout
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
}

function check(t: ExecutionContext, lines: Walked[], code: string, names: RegExp, more: typeof OTHERWISE = {}): void {
  t.is(lines.at(-1)!.path, 'end')
  const expected: typeof OTHERWISE = { ...OTHERWISE, ...more }
  let refused = 0
  for (const { path, outcome, message } of lines.slice(0, -1)) {
    t.is(outcome, expected[path] ?? code, `${path}: ${message}`)
    if (outcome !== code) continue
    t.regex(message!, names, path)
    refused++
  }
  t.deepEqual(
    Object.keys(expected).filter(path => !lines.some(line => line.path === path)),
    []
  )
  t.true(refused > 25, `${refused}`)
}

for (const [platform, name] of [
  ['darwin', 'macOS'],
  ['win32', 'Windows'],
  ['freebsd', 'freebsd']
] as const)
  testInCi(`on ${name} every public function works or throws ERR_PASSFD_PLATFORM`, async t => {
    check(
      t,
      await walked(process.execPath, walk, dist, platform),
      'ERR_PASSFD_PLATFORM',
      new RegExp(`this is ${name}`),
      {
        'passfd/prefork joinSupervisor': 'works'
      }
    )
  })

const { PASSFD_TEST_RUNTIMES: runtimes } = process.env
const reason = runtimes === undefined ? 'PASSFD_TEST_RUNTIMES names no folder with bun and deno' : undefined

for (const [program, name, args] of isFull
  ? ([
      ['bun', 'Bun', ['run']],
      ['deno', 'Deno', ['run', '--allow-all']]
    ] as const)
  : []) {
  const path = join(runtimes ?? '', program)
  testIf(reason, `on ${name} every public function works or throws ERR_PASSFD_RUNTIME`, async t => {
    check(
      t,
      await walked(path, ...args, walk, dist),
      'ERR_PASSFD_RUNTIME',
      new RegExp(`^${name} \\(\\d+\\.\\d+\\.\\d+`)
    )
  })

  testIf(reason, `on ${name} each command works or says in one line what is missing`, async t => {
    const passfd = (...line: string[]) =>
      run(path, [...args, command, ...line], { timeout: 60_000 }).then(
        ({ stdout }) => ({ code: 0, stdout, stderr: '' }),
        ({ code, stdout, stderr }) => ({ code, stdout, stderr }) as { code: number; stdout: string; stderr: string }
      )
    // Without sockets, whose other ends only the shim finds
    const held = start('sleep', ['60'], { stdio: 'ignore' })
    for (const line of [['--help'], ['completions', 'bash'], ['inspect', `${held.child.pid}`]]) {
      const { code, stdout } = await passfd(...line)
      t.is(code, 0, line.join(' '))
      t.true(stdout.length > 100, line.join(' '))
    }
    held.child.kill()
    await held.exit
    for (const line of [
      ['serve', join(root, 'build/programs/prefork-http-worker.js')],
      ['status', '/nowhere.sock'],
      ['send', '/nowhere.sock', '--file', 'name=/etc/hostname'],
      ['receive', '/nowhere.sock']
    ]) {
      const { code, stdout, stderr } = await passfd(...line)
      t.is(code, 1, line.join(' '))
      t.is(stdout, '')
      t.regex(
        stderr,
        new RegExp(
          `^passfd: ${name} \\(.*\\) does not run passfd: .* Run this program with Node 20\\.19 or later\\.\\n$`
        )
      )
    }
  })
}

test('docs/platforms.md lists what works', t => {
  const page = readFileSync(join(root, 'docs/platforms.md'), 'utf8')
  const [, table] = page.split('## What works without the binary')
  for (const [path, outcome] of Object.entries(OTHERWISE)) {
    const name = path.split(' ')[1]!.replace(/\..*|#.*/, '')
    if (outcome === 'works') t.regex(table!, new RegExp(`^\\|.*\\b${name}\\b`, 'm'), path)
  }
})
