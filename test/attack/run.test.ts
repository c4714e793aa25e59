/** `npm run attack`: what it says and leaves when it can't try what it was asked for. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from '../helpers/path.ts'
import { type Running, start } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const STACK = /^\s+at /m

function run(args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
  const compiled = ['--no-warnings', '--import', './scripts/use-compiled.mjs', 'attack/run.ts', ...args]
  return start(process.execPath, compiled, { cwd: root, env: { ...process.env, ...env } })
}

async function ended(running: Running): Promise<{ code: number | null; stdout: string; stderr: string }> {
  let stdout = ''
  running.child.stdout!.setEncoding('utf8').on('data', text => {
    stdout += text
  })
  const { code, stderr } = await running.exit
  return { code, stdout, stderr }
}

/** How many processes have the folder in their environment. */
function usersOf(folder: string): number {
  return readdirSync('/proc').filter(pid => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, 'latin1').includes(folder)
    } catch {
      return false // it has ended
    }
  }).length
}

test('a run that has no time to try anything fails, and says so', async t => {
  for (const name of ['bombs', 'fuzz', 'models']) {
    const { code, stderr } = await ended(run(['--minutes', '0', name]))
    t.is(code, 2, name)
    t.regex(stderr, /nothing was tried|nothing but the corpus was tried|no random schedule was tried/)
    t.notRegex(stderr, STACK)
  }
})

test('an attack that fails loses no result of those before it', async t => {
  const { code, stdout, stderr } = await ended(
    run(['--count', '20', '--only', 'plain', '--json', 'bombs', 'kills', 'bombs'])
  )
  const { bombs, kills } = JSON.parse(stdout)
  t.is(bombs.counts.bodies, 20)
  t.regex(kills.error, /^unknown: plain\. There are channel, /)
  t.is(code, 2)
  t.notRegex(stderr, STACK)
})

test('a program that is missing is named, and how to get it', async t => {
  const { code, stderr } = await ended(run(['waist', 'faults'], { PATH: '/nonexistent' }))
  t.is(code, 2)
  t.regex(stderr, /^waist: it needs clang: apt-get install clang$/m)
  t.regex(stderr, /^faults: it needs a C compiler, cc: apt-get install gcc; objdump: apt-get install binutils$/m)
  t.notRegex(stderr, STACK)
})

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  test(`${signal} ends all processes of a run, and removes its files`, async t => {
    const folder = temporaryPath('folder')
    mkdirSync(folder)
    const running = run(['--json', 'kills'], { TMPDIR: folder })
    await new Promise<void>(resolve => {
      running.child.stderr!.on('data', text => {
        if (/a round takes/.test(`${text}`)) resolve()
      })
    })
    // The run, and one of the two processes at least: the attack may have just killed the other one
    t.true(usersOf(folder) > 1)
    running.child.kill(signal)
    const { code, stdout } = await ended(running)
    t.is(code, signal === 'SIGINT' ? 130 : 143)
    t.deepEqual(JSON.parse(stdout), {})
    t.is(usersOf(folder), 0)
    t.deepEqual(readdirSync(folder), [])
  })
